//! A row's configuration, addresses included.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weir_packets::{
    build::{ROUTER_MAC, WEIR_MAC},
    fixtures::Family,
    world::{Backend, Egress, HashInput, Hop, Mode, Route, Service, Via, World, in_turn},
};

use super::rows::Setting;

/// Interface that test runs come in by where nothing else is said: the loopback device of every network namespace.
pub const INGRESS: u32 = 1;

/// Port of every service.
pub const PORT: u16 = 443;

/// Port of `nat` backends.
pub const BACKEND_PORT: u16 = 8443;

/// Network of the clients, of which flows use the last 16 bits (RFC 2544, RFC 5180: reserved for measurements).
#[must_use]
pub const fn clients(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(198, 18, 0, 0)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 2, 0, 1, 0, 0, 0, 0)),
    }
}

/// Network of the VIPs. The first service has the address after it.
#[must_use]
pub const fn vips(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(198, 19, 0, 0)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 2, 0, 2, 0, 0, 0, 0)),
    }
}

/// Network of the backends. Each has its id as the rest of its address.
#[must_use]
pub const fn backends(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(10, 0, 0, 0)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0)),
    }
}

/// The address `number` after `network`.
#[must_use]
pub fn address(network: IpAddr, number: u32) -> IpAddr {
    match network {
        IpAddr::V4(network) => Ipv4Addr::from_bits(network.to_bits() + number).into(),
        IpAddr::V6(network) => Ipv6Addr::from_bits(network.to_bits() + u128::from(number)).into(),
    }
}

/// The configuration of `setting`. Everything leaves by the device that it came in by, so that the verdict is `XDP_TX`.
#[must_use]
pub fn world(setting: &Setting) -> World {
    let backends = u32::from(setting.size.backends);
    let services = 0..u32::from(setting.size.services);
    World {
        seed: [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210],
        outer_v4: Some(ipnet::Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 16)),
        outer_v6: Some(ipnet::Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x64, 0, 0, 0, 0, 0, 0), 64)),
        egresses: vec![Egress { ifindex: INGRESS, mtu: 1500, mac: WEIR_MAC }],
        services: services.map(|index| service(setting, index, 1 + index * backends)).collect(),
        routes: Family::BOTH
            .map(|family| {
                let prefix = if family == Family::V4 { 16 } else { 64 };
                let network = ipnet::IpNet::new_assert(clients(family), prefix);
                Route { network, via: Via::Hop(Hop { mac: ROUTER_MAC, egress: 1 }) }
            })
            .to_vec(),
    }
}

/// The service at `index`, whose backends have ids from `first_id` on. With tracked slots, the first takes no new flows.
fn service(setting: &Setting, index: u32, first_id: u32) -> Service {
    let ids: Vec<u32> = (first_id..).take(setting.size.backends.into()).collect();
    let taking = if setting.tracked == 0 { &ids[..] } else { &ids[1..] };
    let port = if setting.mode == Mode::Nat { BACKEND_PORT } else { 0 };
    let backend = |id: u32| {
        let [_, high, middle, low] = id.to_be_bytes();
        let hop = Hop { mac: [0x02, 0, 1, high, middle, low], egress: 1 };
        Backend { id, address: address(backends(setting.backend_family), id), port, hop: Some(hop) }
    };
    Service {
        vip: address(vips(setting.family), 1 + index),
        port: PORT,
        protocol: setting.protocol,
        mode: setting.mode,
        hash: HashInput::Flow,
        backends: ids.iter().copied().map(backend).collect(),
        slots: in_turn(taking, setting.size.slots as usize),
        gone: None,
    }
}
