//! A [`World`] as map contents: what the host's collections and the kernel's maps are filled with.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use lb_common::abi::{
    self, EndpointV4, EndpointV6, NextHop, OuterV4, OuterV6, Reverse, Settings, SlotWord, service_flags,
};

use crate::world::{Backend, HashInput, Hop, Mode, Service, Via, World};

/// The entries of every map.
#[derive(Clone, Debug)]
pub struct Tables {
    /// What the program is loaded with.
    pub settings: Settings,
    /// Services and VIP markers of IPv4.
    pub services_v4: BTreeMap<EndpointV4, abi::Service>,
    /// Services and VIP markers of IPv6.
    pub services_v6: BTreeMap<EndpointV6, abi::Service>,
    /// Slots of all services, from index 0 on.
    pub slots: Vec<SlotWord>,
    /// What schedulers draw from, by service id.
    pub rings: BTreeMap<u32, Vec<u32>>,
    /// Backends by id.
    pub backends: BTreeMap<u32, abi::Backend>,
    /// How replies are turned back, IPv4.
    pub reverse_v4: BTreeMap<EndpointV4, Reverse>,
    /// How replies are turned back, IPv6.
    pub reverse_v6: BTreeMap<EndpointV6, Reverse>,
    /// Devices by egress index.
    pub egresses: BTreeMap<u16, abi::Egress>,
    /// Routes to IPv4 clients.
    pub routes_v4: BTreeMap<Ipv4Net, NextHop>,
    /// Routes to IPv6 clients.
    pub routes_v6: BTreeMap<Ipv6Net, NextHop>,
}

impl From<&World> for Tables {
    fn from(world: &World) -> Self {
        let mut tables = Self {
            settings: settings(world),
            services_v4: BTreeMap::new(),
            services_v6: BTreeMap::new(),
            slots: Vec::new(),
            rings: BTreeMap::new(),
            backends: BTreeMap::new(),
            reverse_v4: BTreeMap::new(),
            reverse_v6: BTreeMap::new(),
            egresses: (1..).zip(world.egresses.iter().map(egress)).collect(),
            routes_v4: BTreeMap::new(),
            routes_v6: BTreeMap::new(),
        };
        for route in &world.routes {
            let hop = match route.via {
                Via::Hop(hop) => next_hop(Some(hop)),
                Via::Unresolved => next_hop(None),
                Via::Local => NextHop::LOCAL,
            };
            match route.network {
                IpNet::V4(network) => drop(tables.routes_v4.insert(network, hop)),
                IpNet::V6(network) => drop(tables.routes_v6.insert(network, hop)),
            }
        }
        tables.mark_vips(world);
        for (id, service) in world.services() {
            tables.add_service(id, service);
        }
        tables
    }
}

impl Tables {
    /// Entries that the backend array needs: every id that a slot names has one, if only an empty one.
    #[must_use]
    pub fn backend_entries(&self) -> u32 {
        let named = self.slots.iter().map(|slot| slot.current());
        named.chain(self.backends.keys().copied()).max().unwrap_or(0) + 1
    }

    fn mark_vips(&mut self, world: &World) {
        let marker = abi::Service { flags: service_flags::VIP_MARKER, ..bytemuck::Zeroable::zeroed() };
        for vip in world.services.iter().map(|service| service.vip).collect::<BTreeSet<_>>() {
            self.insert_service(vip, 0, 0, marker);
        }
    }

    fn add_service(&mut self, id: u32, service: &Service) {
        let flags = match service.hash {
            HashInput::Flow => 0,
            HashInput::Source => service_flags::HASH_SOURCE,
        };
        let drops = service.gone.is_some_and(|gone| !gone.reset);
        let flags = if drops { flags | service_flags::DROP } else { flags };
        let (first_slot, slot_count) = (count(&self.slots), count(&service.slots));
        let value = abi::Service { id, first_slot, slot_count, flags, ..bytemuck::Zeroable::zeroed() };
        self.slots.extend(service.slots.iter().map(|backend| match service.gone {
            Some(gone) => SlotWord::new(*backend, gone.backend, true),
            None => SlotWord::steady(*backend),
        }));
        self.insert_service(service.vip, service.port, service.protocol.number(), value);
        for backend in &service.backends {
            let is_gone = service.gone.is_some_and(|gone| gone.backend == backend.id);
            self.backends.insert(backend.id, abi_backend(id, service.mode, backend, is_gone));
            if service.mode == Mode::Nat {
                self.add_reverse(id, service, backend);
            }
        }
    }

    fn insert_service(&mut self, vip: IpAddr, port: u16, protocol: u8, value: abi::Service) {
        match vip {
            IpAddr::V4(vip) => drop(self.services_v4.insert(endpoint_v4(vip.octets(), port, protocol), value)),
            IpAddr::V6(vip) => drop(self.services_v6.insert(endpoint_v6(vip.octets(), port, protocol), value)),
        }
    }

    fn add_reverse(&mut self, id: u32, service: &Service, backend: &Backend) {
        let (port, protocol) = (service.port_of(backend), service.protocol.number());
        let value = Reverse {
            address: padded(service.vip),
            service: id,
            backend: backend.id,
            port: service.port.to_be_bytes(),
            pad: [0; 2],
        };
        match backend.address {
            IpAddr::V4(address) => drop(self.reverse_v4.insert(endpoint_v4(address.octets(), port, protocol), value)),
            IpAddr::V6(address) => drop(self.reverse_v6.insert(endpoint_v6(address.octets(), port, protocol), value)),
        }
    }
}

fn settings(world: &World) -> Settings {
    Settings {
        abi_version: abi::ABI_VERSION,
        pad: 0,
        seed: world.seed,
        outer_v4: world.outer_v4.map_or(OuterV4::default(), |net| OuterV4 {
            network: net.network().to_bits(),
            host_mask: net.hostmask().to_bits(),
        }),
        outer_v6: world.outer_v6.map_or(OuterV6::default(), |net| OuterV6 {
            network_high: high(net.network()),
            network_low: low(net.network()),
            host_mask: low(net.hostmask()),
        }),
    }
}

fn high(address: Ipv6Addr) -> u64 {
    u64::try_from(address.to_bits() >> 64).expect("64 bits")
}

fn low(address: Ipv6Addr) -> u64 {
    u64::try_from(address.to_bits() & u128::from(u64::MAX)).expect("64 bits")
}

fn egress(egress: &crate::world::Egress) -> abi::Egress {
    abi::Egress { ifindex: egress.ifindex, mtu: egress.mtu, mac: egress.mac, pad: [0; 2] }
}

fn abi_backend(service: u32, mode: Mode, backend: &Backend, is_gone: bool) -> abi::Backend {
    abi::Backend {
        address: padded(backend.address),
        next_hop: next_hop(backend.hop),
        service,
        weight: 1,
        port: backend.port.to_be_bytes(),
        mode: match mode {
            Mode::L2 => abi::mode::L2,
            Mode::Ipip => abi::mode::IPIP,
            Mode::Nat => abi::mode::NAT,
        },
        family: if backend.address.is_ipv4() { abi::family::V4 } else { abi::family::V6 },
        state: if is_gone { abi::backend_state::GONE } else { 0 },
    }
}

fn next_hop(hop: Option<Hop>) -> NextHop {
    hop.map_or(NextHop::UNRESOLVED, |hop| NextHop::new(hop.mac, hop.egress))
}

fn endpoint_v4(address: [u8; 4], port: u16, protocol: u8) -> EndpointV4 {
    EndpointV4 { address, port: port.to_be_bytes(), protocol, pad: 0 }
}

fn endpoint_v6(address: [u8; 16], port: u16, protocol: u8) -> EndpointV6 {
    EndpointV6 { address, port: port.to_be_bytes(), protocol, pad: 0 }
}

/// An address as map values hold it: IPv4 in the first four bytes.
fn padded(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&address.octets());
            bytes
        }
        IpAddr::V6(address) => address.octets(),
    }
}

fn count<T>(items: &[T]) -> u32 {
    u32::try_from(items.len()).expect("tests have few slots")
}
