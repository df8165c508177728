//! `[node]`.

use std::{net::SocketAddr, ops::RangeInclusive, path::PathBuf, str::FromStr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{field, slots};
use crate::{
    config::{
        problem::{Checked, Path, Problems},
        raw,
    },
    spec::{Node, TableSizes},
};

/// What the kernel takes for the name of an interface, without its terminating zero (`IFNAMSIZ`).
const LONGEST_INTERFACE: usize = 15;

/// What the kernel takes for the path of a Unix socket, without its terminating zero (`unix(7)`).
const LONGEST_SOCKET: usize = 107;

/// The kernel's own limit of a path (`PATH_MAX`).
const LONGEST_PATH: usize = 4095;

pub fn validate(raw: &raw::Node, path: &Path, problems: &mut Problems) -> Checked<Node> {
    let name = &raw.instance;
    let instance = problems.field(path, "instance", instance(name));
    let interfaces = interfaces(&raw.interfaces, &path.key("interfaces"), problems);
    let socket = raw.socket.clone().unwrap_or_else(|| format!("/run/weir/{name}.sock"));
    let socket = problems.field(path, "socket", absolute(&socket, LONGEST_SOCKET));
    let state_dir = raw.state_dir.clone().unwrap_or_else(|| format!("/var/lib/weir/{name}"));
    let state_dir = problems.field(path, "state_dir", absolute(&state_dir, LONGEST_PATH));
    let metrics = problems.field(path, "metrics", raw.metrics.as_deref().map(metrics).transpose());
    let seed = problems.field(path, "seed", raw.seed.as_deref().map(seed).transpose());
    let outer_v4 = raw.outer_v4.as_deref().map(|text| network(text, 8..=32)).transpose();
    let outer_v4 = problems.field(path, "outer_v4", outer_v4);
    let outer_v6 = raw.outer_v6.as_deref().map(|text| network(text, 64..=128)).transpose();
    let outer_v6 = problems.field(path, "outer_v6", outer_v6);
    let tables = tables(&raw.tables, &path.key("tables"), problems);
    Ok(Node {
        instance: instance?,
        interfaces: interfaces?,
        xdp: raw.xdp,
        on_exit: raw.on_exit,
        socket: socket?,
        state_dir: state_dir?,
        metrics: metrics?,
        seed: seed?,
        outer_v4: outer_v4?,
        outer_v6: outer_v6?,
        tables: tables?,
    })
}

fn instance(text: &str) -> Result<String, String> {
    field::name(text, 32, "a-z, 0-9 and \"-\"", |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

fn interfaces(names: &[String], path: &Path, problems: &mut Problems) -> Checked<Vec<String>> {
    if names.is_empty() {
        return Err(problems.add(path.clone(), "expected at least one interface to attach to, such as [\"eth0\"]"));
    }
    let mut interfaces = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let is_repeated = names.iter().take(index).any(|other| other == name);
        let name = if is_repeated { Err(format!("{name:?} is listed twice")) } else { interface(name) };
        interfaces.push(name.map_err(|message| problems.add(path.item(index, None), message)));
    }
    interfaces.into_iter().collect()
}

/// The name of an interface, by the rules of the kernel's `dev_valid_name`.
fn interface(name: &str) -> Result<String, String> {
    let is_strange = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if name.is_empty() || name == "." || name == ".." || name.contains(is_strange) {
        Err(format!("expected the name of an interface, found {name:?}"))
    } else if name.len() > LONGEST_INTERFACE {
        Err(format!("expected an interface name of at most {LONGEST_INTERFACE} bytes, found {name:?}"))
    } else {
        Ok(name.to_owned())
    }
}

fn absolute(text: &str, longest: usize) -> Result<PathBuf, String> {
    if !text.starts_with('/') || text.contains('\0') {
        Err(format!("expected an absolute path, found {text:?}"))
    } else if text.len() > longest {
        Err(format!("expected a path of at most {longest} bytes, found one of {}", text.len()))
    } else {
        Ok(text.into())
    }
}

fn metrics(text: &str) -> Result<SocketAddr, String> {
    let address = text.parse().ok().filter(|address: &SocketAddr| address.port() != 0);
    address.ok_or_else(|| format!("expected ADDRESS:PORT such as \"127.0.0.1:9644\" or \"[::1]:9644\", found {text:?}"))
}

fn seed(text: &str) -> Result<[u64; 2], String> {
    let digits = text.strip_prefix("0x").filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    let halves = digits.filter(|digits| digits.len() == 32).map(|digits| digits.split_at(16));
    let seed =
        halves.and_then(|(high, low)| Some([u64::from_str_radix(high, 16).ok()?, u64::from_str_radix(low, 16).ok()?]));
    seed.ok_or_else(|| {
        format!("expected \"0x\" and 32 hexadecimal digits (`openssl rand -hex 16` makes them), found {text:?}")
    })
}

/// What IPv4 and IPv6 networks have in common.
trait Network: FromStr + Into<IpNet> + Copy {
    /// What is expected of a string.
    const EXPECTED: &str;
}

impl Network for Ipv4Net {
    const EXPECTED: &str = "an IPv4 network such as \"10.77.0.0/16\"";
}

impl Network for Ipv6Net {
    const EXPECTED: &str = "an IPv6 network such as \"fd77::/64\"";
}

/// A network to take source addresses from, with a prefix of this many `bits`.
fn network<N: Network>(text: &str, bits: RangeInclusive<u8>) -> Result<N, String> {
    let network: N = text.parse().map_err(|_| format!("expected {}, found {text:?}", N::EXPECTED))?;
    let net: IpNet = network.into();
    if !bits.contains(&net.prefix_len()) {
        Err(format!("expected a prefix length of {} to {}, found {text:?}", bits.start(), bits.end()))
    } else if net.addr() != net.network() {
        Err(format!("expected no bits set after the prefix, found {text:?}; the network is {}", net.trunc()))
    } else if let Some(what) = field::unfit(net.network()).or_else(|| field::unfit(net.broadcast())) {
        Err(format!("expected a network of host addresses, found {text:?}, which has {what}"))
    } else {
        Ok(network)
    }
}

fn tables(raw: &raw::Tables, path: &Path, problems: &mut Problems) -> Checked<TableSizes> {
    let mut size = |key, value, largest| problems.field(path, key, field::number(value, 1..=largest));
    let services = size("services", raw.services, 65_536);
    let backends = size("backends", raw.backends, TableSizes::MOST_BACKENDS);
    let slots = size("slots", raw.slots, slots::MOST);
    let routes = size("routes", raw.routes, 1 << 20);
    let flows = size("flows", raw.flows, 1 << 26);
    Ok(TableSizes { services: services?, backends: backends?, slots: slots?, routes: routes?, flows: flows? })
}
