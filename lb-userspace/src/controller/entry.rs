//! Entries of the kernel's tables, made from the configuration and understood again.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU16,
};

use lb_common::abi::{self, NextHop, backend_state, choice, family, mode, protocol, service_flags};

use crate::{
    spec::{self, Mode, OnDown, Protocol, Scheduler, ServicePort},
    tables::Endpoint,
};

/// The key of a service.
#[must_use]
pub fn service_key(service: &spec::Service) -> Endpoint {
    let protocol = match service.protocol {
        Protocol::Tcp => protocol::TCP,
        Protocol::Udp => protocol::UDP,
    };
    Endpoint { address: service.vip, port: service_port(service), protocol }
}

/// The entry of a service, as one that follows its slots: see [`Ring::entry`](super::ring::Ring::entry).
#[must_use]
pub const fn service(service: &spec::Service, id: u32, first_slot: u32, slot_count: u32) -> abi::Service {
    let source = match service.scheduler {
        Scheduler::Source => service_flags::HASH_SOURCE,
        Scheduler::ResponseTime => service_flags::TIME_HANDSHAKES,
        Scheduler::Maglev
        | Scheduler::RoundRobin
        | Scheduler::WeightedRoundRobin
        | Scheduler::LeastConnections
        | Scheduler::Random => 0,
    };
    let on_down = match service.on_down {
        OnDown::Reset => 0,
        OnDown::Reroute => service_flags::REROUTE,
        OnDown::Drop => service_flags::DROP,
    };
    abi::Service { id, first_slot, slot_count, flags: source | on_down, choice: choice::SLOT, ring_length: 0 }
}

/// The entry of a backend in the phase `state`, bits of [`backend_state`].
#[must_use]
pub fn backend(
    service: &spec::Service,
    id_of_service: u32,
    backend: &spec::Backend,
    state: u8,
    next_hop: NextHop,
) -> abi::Backend {
    let (family, address) = match backend.address {
        IpAddr::V4(address) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&address.octets());
            (family::V4, bytes)
        }
        IpAddr::V6(address) => (family::V6, address.octets()),
    };
    let mode = match service.mode {
        Mode::L2 => mode::L2,
        Mode::Ipip => mode::IPIP,
        Mode::Nat => mode::NAT,
    };
    abi::Backend {
        address,
        next_hop,
        service: id_of_service,
        weight: backend.weight.into(),
        port: own_port(backend).to_be_bytes(),
        mode,
        family,
        state,
    }
}

/// Whether a backend with this entry takes new flows.
#[must_use]
pub const fn takes_flows(backend: &abi::Backend) -> bool {
    backend.weight > 0 && backend.state == 0 && backend.next_hop.is_resolved()
}

/// Whether the flows of a backend with this entry count as gone.
#[must_use]
pub const fn is_gone(backend: &abi::Backend) -> bool {
    backend.state & backend_state::GONE != 0
}

/// Whether a backend with this entry is no longer configured.
#[must_use]
pub const fn is_leaving(backend: &abi::Backend) -> bool {
    backend.state & backend_state::REMOVED != 0
}

/// What makes a backend the same one: service id, address and the port it has of its own, 0 for none.
#[must_use]
pub fn identity(backend: &abi::Backend) -> (u32, IpAddr, u16) {
    (backend.service, address(backend), u16::from_be_bytes(backend.port))
}

/// A backend that is leaving, as if it were configured. It has its address and port for a name.
#[must_use]
pub fn leaving(entry: &abi::Backend) -> spec::Backend {
    let (_, address, port) = identity(entry);
    let (name, port) = (place(entry), NonZeroU16::new(port));
    spec::Backend { name, address, port, weight: 0, draining: true, drain_deadline: None }
}

/// Where a backend is: its address, with the port that it has of its own.
#[must_use]
pub fn place(entry: &abi::Backend) -> String {
    let (_, address, port) = identity(entry);
    if port == 0 { address.to_string() } else { SocketAddr::new(address, port).to_string() }
}

/// The address of a backend.
#[must_use]
pub fn address(backend: &abi::Backend) -> IpAddr {
    let [a, b, c, d, ..] = backend.address;
    if backend.family == family::V4 { Ipv4Addr::new(a, b, c, d).into() } else { Ipv6Addr::from(backend.address).into() }
}

/// A configured service's entry `new`, where the service has the entry `old`: it goes on to hash by what it hashed by,
/// because its flows would all be looked for in other slots.
#[must_use]
pub const fn hashing_as_before(new: abi::Service, old: &abi::Service) -> abi::Service {
    let flags = new.flags & !service_flags::HASH_SOURCE | old.flags & service_flags::HASH_SOURCE;
    abi::Service { flags, ..new }
}

/// The key of the way back from a backend of the service `service`.
#[must_use]
pub fn reverse_key(service: &Endpoint, backend: &abi::Backend) -> Endpoint {
    let port = match u16::from_be_bytes(backend.port) {
        0 => service.port,
        own => own,
    };
    Endpoint { address: address(backend), port, protocol: service.protocol }
}

/// The way back from a backend: where a client believes its replies come from.
#[must_use]
pub fn reverse(service: &Endpoint, id_of_service: u32, id: u32) -> abi::Reverse {
    let mut address = [0; 16];
    match service.address {
        IpAddr::V4(v4) => address[..4].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => address = v6.octets(),
    }
    let port = service.port.to_be_bytes();
    abi::Reverse { address, service: id_of_service, backend: id, port, pad: [0; 2] }
}

/// The port that a backend has of its own, 0 for none.
#[must_use]
pub fn own_port(backend: &spec::Backend) -> u16 {
    backend.port.map_or(0, NonZeroU16::get)
}

/// The port of a service, 0 for every port.
#[must_use]
pub const fn service_port(service: &spec::Service) -> u16 {
    match service.port {
        ServicePort::Any => 0,
        ServicePort::One(port) => port.get(),
    }
}
