//! The packets of the self-test: those of established flows to each service, replies of each `nat` backend, and one that
//! is not Weir's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::bail;
use lb_common::abi::protocol;

use super::Probe;
use crate::{
    frames::{self, Kind},
    tables::{Endpoint, Tables},
};

/// Most services, and most ways back, that are tested; evenly chosen where there are more.
const LIMIT: usize = 256;

/// Flows of each service: some for several of its backends.
const FLOWS: u16 = 8;

/// A port for services of every port, which hardly any other service has.
const SOME_PORT: u16 = 4242;

/// First source port of the clients.
const CLIENT_PORT: u16 = 40_000;

/// A documentation address (RFC 5737, RFC 3849): nobody's, so that no real flow is taken for these.
const CLIENT_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 77));
const CLIENT_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x77));
const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 77));

/// What `tables` are to be tested with; in each round by other clients, whose flows are new to the program.
pub fn probes(tables: &Tables, round: u16) -> anyhow::Result<Vec<Probe>> {
    let mut probes = Vec::new();
    let ports = CLIENT_PORT + round * FLOWS..CLIENT_PORT + (round + 1) * FLOWS;
    let services = tables.services.keys().filter(|key| !key.is_vip_marker()).collect::<Vec<_>>();
    for service in some(&services) {
        for port in ports.clone() {
            probes.push(probe((client(service.address), port), somewhere(service), service.protocol)?);
        }
    }
    for backend in some(&tables.reverse.keys().collect::<Vec<_>>()) {
        probes.push(probe(somewhere(backend), (client(backend.address), CLIENT_PORT), backend.protocol)?);
    }
    probes.push(probe((CLIENT_V4, CLIENT_PORT), (NOBODY, SOME_PORT), protocol::TCP)?);
    Ok(probes)
}

/// [`LIMIT`] of `all` at most.
fn some<'a>(all: &'a [&Endpoint]) -> impl Iterator<Item = &'a Endpoint> {
    all.iter().copied().step_by(all.len().div_ceil(LIMIT).max(1))
}

const fn client(other: IpAddr) -> IpAddr {
    if other.is_ipv4() { CLIENT_V4 } else { CLIENT_V6 }
}

/// Address and port of `endpoint`; of one for every port, some port.
const fn somewhere(endpoint: &Endpoint) -> (IpAddr, u16) {
    (endpoint.address, if endpoint.port == 0 { SOME_PORT } else { endpoint.port })
}

/// A packet in the middle of a flow: what becomes of a new flow may hang on chance and on counters.
fn probe(source: (IpAddr, u16), destination: (IpAddr, u16), protocol: u8) -> anyhow::Result<Probe> {
    let [from, to] = [source, destination].map(|(address, port)| SocketAddr::new(address, port));
    let (name, kind) = match protocol {
        protocol::TCP => ("tcp", Kind::Ack),
        protocol::UDP => ("udp", Kind::Datagram),
        other => bail!("protocol {other} is none of Weir's"),
    };
    let frame = frames::frame(from, to, kind, b"weir self-test")?;
    Ok(Probe { what: format!("a {name} packet from {from} to {to}"), frame })
}
