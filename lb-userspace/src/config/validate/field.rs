//! The values of single fields, or what is wrong with them.

use std::{
    fmt::Display,
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    ops::RangeInclusive,
    time::Duration,
};

use ipnet::IpNet;

/// A number within `range`.
pub fn number<T>(value: i64, range: RangeInclusive<T>) -> Result<T, String>
where
    T: TryFrom<i64> + PartialOrd + Display,
{
    let number = T::try_from(value).ok().filter(|number| range.contains(number));
    number.ok_or_else(|| format!("expected {} to {}, found {value}", range.start(), range.end()))
}

/// A port.
pub fn port(value: i64) -> Result<NonZeroU16, String> {
    let port = u16::try_from(value).ok().and_then(NonZeroU16::new);
    port.ok_or_else(|| format!("expected 1 to 65535, found {value}"))
}

/// A duration within `range`, which errors describe as `described`.
pub fn duration(text: &str, range: RangeInclusive<Duration>, described: &str) -> Result<Duration, String> {
    let expected = match humantime::parse_duration(text) {
        Ok(duration) if range.contains(&duration) => return Ok(duration),
        Ok(_) => described,
        Err(_) => "a duration such as \"500ms\", \"2s\" or \"1m30s\"",
    };
    Err(format!("expected {expected}, found {text:?}"))
}

/// 1 to `longest` characters that `is_allowed` allows; errors describe them as `described`.
pub fn name(text: &str, longest: usize, described: &str, is_allowed: fn(char) -> bool) -> Result<String, String> {
    if (1..=longest).contains(&text.len()) && text.chars().all(is_allowed) {
        Ok(text.to_owned())
    } else {
        Err(format!("expected 1 to {longest} characters out of {described}, found {text:?}"))
    }
}

/// The address of one host, reachable by routing: of a VIP or of a backend.
pub fn host_address(text: &str) -> Result<IpAddr, String> {
    match text.parse() {
        Ok(address) => match unfit(address) {
            None => Ok(address),
            Some(what) => Err(format!("expected an address that packets can be routed to, found {text:?} ({what})")),
        },
        Err(_) if text.parse::<SocketAddr>().is_ok() => {
            Err(format!("expected an address alone, found {text:?}; the port has a field of its own"))
        }
        Err(_) if text.parse::<IpNet>().is_ok() => {
            Err(format!("expected an address alone, found {text:?}; leave the prefix length out"))
        }
        Err(_) => Err(format!("expected an IPv4 or IPv6 address, found {text:?}")),
    }
}

/// Why `address` can't be that of one host reachable by routing.
pub fn unfit(address: IpAddr) -> Option<String> {
    let what = match address {
        _ if address.is_unspecified() => "the unspecified address",
        _ if address.is_multicast() => "a multicast address",
        _ if address.is_loopback() => "a loopback address",
        IpAddr::V4(v4) if v4.is_broadcast() => "the broadcast address",
        IpAddr::V4(v4) if v4.is_link_local() => "a link-local address",
        IpAddr::V4(v4) if v4.octets()[0] == 0 => "an address of \"this network\"",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => "a link-local address",
        IpAddr::V6(v6) => {
            return v6.to_ipv4_mapped().map(|v4| format!("an IPv4-mapped IPv6 address; write {v4}"));
        }
        IpAddr::V4(_) => return None,
    };
    Some(what.to_owned())
}
