//! The balancer's maps, typed, and their contents as [`Tables`].

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context as _, bail};
use aya::{
    Ebpf,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, lpm_trie::Key, xdp::DevMap},
};
use bytemuck::{Pod, Zeroable as _};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use lb_common::{
    abi::{
        self, Backend, BackendEntry, CounterLayout, Egress, NextHop, Reverse, Ring, Service, Settings, WantedNeighbour,
        fixed::FixedTable, kinds,
    },
    flow_table,
};

use super::{
    Constants,
    bpf::wait_for_programs,
    counters::CpuCounters,
    fixed::Fixed,
    flows::{Flows, KernelFlows},
    index::Index,
    mapped::Mapped,
    services::{self, Services},
};
use crate::tables::{Capacity, Counters, Endpoint, Tables, Write};

/// The maps that packets only read, but for what schedulers draw from: what a program on trial shares with the one that
/// forwards.
pub(super) const TABLES: [&str; 13] = [
    "KINDS",
    "SERVICES",
    "SERVICE_INDEX",
    "VIPS_V4",
    "VIPS_V6",
    "SLOTS",
    "STEADY",
    "BACKENDS",
    "REVERSE_INDEX",
    "ROUTES_V4",
    "ROUTES_V6",
    "EGRESSES",
    "DEVICES",
];

/// The other maps.
const OTHERS: [&str; 10] = [
    "SETTINGS",
    "FLOWS_V4",
    "FLOWS_V6",
    "FLOW_ENTRIES",
    "FLOW_COUNTS",
    "RINGS",
    "TURNS",
    "HANDSHAKES_OPEN",
    "WANTED_NEIGHBOURS",
    CounterLayout::NAME,
];

/// Every map of the balancer: all of them are pinned.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    TABLES.into_iter().chain(OTHERS)
}

/// Entries of the object's maps whose sizes are configured.
pub(super) fn sizes(capacity: &Capacity) -> [(&'static str, u32); 11] {
    let (egresses, routes) = (u32::from(capacity.egresses), route_entries(capacity));
    [
        ("VIPS_V4", capacity.service_ids),
        ("VIPS_V6", capacity.service_ids),
        ("SLOTS", capacity.slots),
        ("FLOWS_V4", flow_table::buckets(capacity.flows)),
        ("FLOWS_V6", flow_table::buckets(capacity.flows)),
        ("FLOW_COUNTS", capacity.backend_ids),
        ("RINGS", capacity.service_ids),
        ("TURNS", capacity.service_ids),
        ("ROUTES_V4", routes),
        ("ROUTES_V6", routes),
        ("DEVICES", egresses),
    ]
}

/// Entries of a routes map: new routes come before old ones go, and all of them may be others. A trie takes memory only
/// for what is in it.
const fn route_entries(capacity: &Capacity) -> u32 {
    capacity.routes.saturating_mul(2)
}

/// A map key or value of lb-common, which knows nothing of aya.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wire<T>(pub T);

// SAFETY: bytemuck's `Pod` promises what aya's asks for: any bytes are a valid value, and there is no padding.
unsafe impl<T: Pod> aya::Pod for Wire<T> {}

/// The addresses that are marked as VIPs.
struct Vips {
    v4: HashMap<MapData, [u8; 4], u8>,
    v6: HashMap<MapData, [u8; 16], u8>,
}

/// The maps.
pub(super) struct Maps {
    settings: Array<MapData, Wire<Settings>>,
    kinds: Mapped<u64>,
    services: Services,
    vips: Vips,
    backends: Mapped<BackendEntry>,
    rings: Mapped<Ring>,
    flows: Flows,
    turns: Array<MapData, u64>,
    reverse: Index,
    routes_v4: LpmTrie<MapData, [u8; 4], Wire<NextHop>>,
    routes_v6: LpmTrie<MapData, [u8; 16], Wire<NextHop>>,
    egresses: Mapped<Egress>,
    devices: DevMap<MapData>,
    wanted: HashMap<MapData, Wire<WantedNeighbour>, u8>,
    counters: CpuCounters,
}

impl Maps {
    /// Takes the maps out of the object that was loaded with these constants, and the tables of `fixed`.
    pub(super) fn take(ebpf: &mut Ebpf, fixed: &Fixed, constants: &Constants) -> anyhow::Result<Self> {
        let seed = constants.settings.0.seed;
        let services = Services::new(
            Mapped::new(fixed.map(FixedTable::Services))?,
            Mapped::new(fixed.map(FixedTable::ServiceIndex))?,
            take_mapped(ebpf, "SLOTS")?,
            Mapped::new(fixed.map(FixedTable::Steady))?,
            seed,
            Box::new(wait_for_programs),
        );
        let flows = Flows {
            v4: take_mapped(ebpf, "FLOWS_V4")?,
            v6: take_mapped(ebpf, "FLOWS_V6")?,
            entries: take_mapped(ebpf, "FLOW_ENTRIES")?,
            counts: take_mapped(ebpf, "FLOW_COUNTS")?,
            most: constants.most_flows,
            seed,
        };
        Ok(Self {
            services,
            settings: take(ebpf, "SETTINGS")?,
            kinds: Mapped::new(fixed.map(FixedTable::Kinds))?,
            vips: Vips { v4: take(ebpf, "VIPS_V4")?, v6: take(ebpf, "VIPS_V6")? },
            backends: Mapped::new(fixed.map(FixedTable::Backends))?,
            rings: take_mapped(ebpf, "RINGS")?,
            flows,
            turns: take(ebpf, "TURNS")?,
            reverse: Index::new(Mapped::new(fixed.map(FixedTable::ReverseIndex))?, seed),
            routes_v4: take(ebpf, "ROUTES_V4")?,
            routes_v6: take(ebpf, "ROUTES_V6")?,
            egresses: Mapped::new(fixed.map(FixedTable::Egresses))?,
            devices: take(ebpf, "DEVICES")?,
            wanted: take(ebpf, "WANTED_NEIGHBOURS")?,
            counters: CpuCounters::new(Mapped::new(fixed.counters())?, constants.counted.0),
        })
    }

    pub(super) fn set_settings(&mut self, settings: Settings) -> anyhow::Result<()> {
        self.settings.set(0, Wire(settings), 0).context("cannot write SETTINGS")
    }

    /// Takes up what an earlier daemon left, before anything is read or written.
    pub(super) fn adopt(&mut self) -> anyhow::Result<()> {
        self.services.adopt()?;
        self.reverse.adopt(|id| Some(way_back(&self.services, &self.backends, id)?.0))
    }

    /// Ends a series of writes, see [`Services::finish`].
    pub(super) fn finish(&mut self) -> anyhow::Result<()> {
        self.services.finish()
    }

    pub(super) fn read(&self) -> anyhow::Result<Tables> {
        let mut services: BTreeMap<_, _> = self.services.read()?.into_iter().collect();
        let (mut slots, mut rings) = (BTreeMap::new(), BTreeMap::new());
        for service in services.values() {
            slots.insert(service.first_slot, self.services.slots_of(service)?);
            if service.ring_length > 0 {
                let ring = self.rings.read(service.id)?.backends;
                rings.insert(service.id, ring.into_iter().take(service.ring_length as usize).collect());
            }
        }
        services.extend(self.vips.read()?.into_iter().map(|vip| (Endpoint::vip_marker(vip), Service::VIP_MARKER)));
        let way_back = |id| way_back(&self.services, &self.backends, id);
        let reverse = self.reverse.read(|id| Some(way_back(id)?.0))?;
        let mut routes = BTreeMap::new();
        for entry in &self.routes_v4 {
            let (key, hop) = entry?;
            let net = Ipv4Net::new(Ipv4Addr::from(key.data()), prefix(key.prefix_len())?)?;
            routes.insert(IpNet::V4(net), hop.0);
        }
        for entry in &self.routes_v6 {
            let (key, hop) = entry?;
            let net = Ipv6Net::new(Ipv6Addr::from(key.data()), prefix(key.prefix_len())?)?;
            routes.insert(IpNet::V6(net), hop.0);
        }
        Ok(Tables {
            slots,
            rings,
            backends: (1..self.backends.len())
                .filter_map(|id| Some((id, Backend::from(self.backends.read(id).ok()?))))
                .filter(|(_, backend)| backend.mode != abi::mode::NONE)
                .collect(),
            reverse: reverse.into_iter().filter_map(|(_, id)| way_back(id)).collect(),
            routes,
            egresses: (1..self.egresses.len())
                .filter_map(|index| Some((u16::try_from(index).ok()?, self.egresses.read(index).ok()?)))
                .filter(|(index, egress)| egress.ifindex != 0 && self.has_device(*index, egress.ifindex))
                .collect(),
            services,
        })
    }

    /// Does `writes` in their order.
    pub(super) fn write(&mut self, writes: &[Write]) -> anyhow::Result<()> {
        // Words of several services are stored at once.
        let are_of_two = |one: &Write, next: &Write| match (one, next) {
            (Write::Slots { first, .. }, Write::Slots { first: next, .. }) => first < next,
            _ => false,
        };
        for alike in writes.chunk_by(are_of_two) {
            let written = match alike {
                [write] => self.write_one(write),
                slots => self.services.store(slots.iter().filter_map(Write::words)),
            };
            let which = || alike.first().map(ToString::to_string).unwrap_or_default();
            written.with_context(|| format!("cannot write to the kernel's tables: {}", which()))?;
        }
        Ok(())
    }

    fn write_one(&mut self, write: &Write) -> anyhow::Result<()> {
        match write {
            Write::Egress(index, egress) => self.set_egress(*index, egress),
            // The device map's entry may stay: without an egress entry no packet is sent there.
            Write::ClearEgress(index) => self.egresses.store(u32::from(*index), &Egress::zeroed()),
            Write::Route(net, hop) => match net {
                IpNet::V4(net) => Ok(self.routes_v4.insert(&route_key_v4(*net), Wire(*hop), 0)?),
                IpNet::V6(net) => Ok(self.routes_v6.insert(&route_key_v6(*net), Wire(*hop), 0)?),
            },
            Write::RemoveRoute(net) => present(match net {
                IpNet::V4(net) => self.routes_v4.remove(&route_key_v4(*net)),
                IpNet::V6(net) => self.routes_v6.remove(&route_key_v6(*net)),
            }),
            Write::Reverse(endpoint, reverse) => {
                self.announce(if endpoint.port == 0 { kinds::ANY_PORT_REVERSE } else { kinds::REVERSE })?;
                self.reverse.insert(endpoint, reverse.backend)
            }
            Write::RemoveReverse(endpoint) => self.reverse.remove(endpoint),
            Write::Backend(id, backend) => {
                if self.backends.read(*id)?.mode() == abi::mode::NONE {
                    // Entries that its predecessor left behind were counted off when they were deleted, after it was.
                    self.flows.counts.store(*id, &0)?;
                }
                self.backends.store(*id, &BackendEntry::from(*backend))
            }
            Write::ClearBackend(id) => {
                self.counters.clear_backend(*id)?;
                self.flows.counts.store(*id, &0)?;
                let service = self.backends.read(*id)?.service();
                self.backends.store(*id, &BackendEntry::zeroed())?;
                self.services.backend_left(service)
            }
            Write::Slots { .. } => self.services.store(write.words()),
            Write::Ring(service, backends) => self.set_ring(*service, backends),
            Write::Service(endpoint, _) if endpoint.is_vip_marker() => self.vips.insert(endpoint.address),
            Write::Service(endpoint, service) => {
                if endpoint.port == 0 {
                    self.announce(kinds::ANY_PORT_SERVICES)?;
                }
                self.services.insert(endpoint, service)
            }
            Write::RemoveService(endpoint, _) if endpoint.is_vip_marker() => self.vips.remove(endpoint.address),
            Write::RemoveService(endpoint, service) => {
                self.counters.clear_service(service.id)?;
                self.turns.set(service.id, 0, 0)?;
                self.services.remove(endpoint)?;
                self.rings.store(service.id, &Ring::zeroed())
            }
        }
    }

    /// Has packets look for entries of this kind, which they did not as long as there were none.
    fn announce(&mut self, kind: u64) -> anyhow::Result<()> {
        let known = self.kinds.read(0)?;
        if known & kind == 0 {
            self.kinds.store(0, &(known | kind))?;
        }
        Ok(())
    }

    /// Entries beyond those of `backends` stay: packets may still count on them.
    fn set_ring(&mut self, service: u32, backends: &[u32]) -> anyhow::Result<()> {
        let mut ring = self.rings.read(service)?;
        let first = ring.backends.get_mut(..backends.len());
        first.with_context(|| format!("a ring has no room for {} backends", backends.len()))?.copy_from_slice(backends);
        self.rings.store(service, &ring)
    }

    /// The device goes into the device map before packets can be told to use it.
    fn set_egress(&mut self, index: u16, egress: &Egress) -> anyhow::Result<()> {
        self.devices.set(u32::from(index), egress.ifindex, None, 0)?;
        self.egresses.store(u32::from(index), egress)
    }

    /// Whether the device map has `ifindex` at `index`. The kernel empties its entries when a device is unregistered, and
    /// the egress entry that stays describes whatever has that interface index next.
    fn has_device(&self, index: u16, ifindex: u32) -> bool {
        self.devices.get(u32::from(index), 0).is_ok_and(|device| device.if_index == ifindex)
    }

    pub(super) fn take_wanted_neighbours(&mut self) -> anyhow::Result<Vec<IpAddr>> {
        let keys = self.wanted.keys().collect::<Result<Vec<_>, _>>()?;
        let mut addresses = Vec::with_capacity(keys.len());
        for key in keys {
            self.wanted.remove(&key)?;
            addresses.push(if key.0.family == abi::family::V4 {
                let [a, b, c, d, ..] = key.0.address;
                IpAddr::from([a, b, c, d])
            } else {
                IpAddr::from(key.0.address)
            });
        }
        Ok(addresses)
    }

    pub(super) fn counters(&self, services: &[u32], backends: &[u32]) -> anyhow::Result<Counters> {
        let (reasons, flow_events) = (self.counters.reasons(), self.counters.events());
        let mut counters = Counters { reasons, flow_events, ..Counters::default() };
        for &id in services {
            counters.services.insert(id, self.counters.service(id)?);
        }
        for &id in backends {
            counters.backends.insert(id, self.counters.backend(id)?);
            counters.handshakes.insert(id, self.counters.handshakes(id)?);
            counters.live_flows.insert(id, self.flows.counts.read(id)?);
        }
        Ok(counters)
    }

    /// The flow tables.
    pub(super) fn flows(&self) -> &Flows {
        &self.flows
    }

    /// The flow tables, for one sweep.
    pub(super) fn flow_table(&self) -> KernelFlows {
        KernelFlows::new(self.flows.clone(), self.services.slots().clone())
    }
}

/// Takes the array `name` out of the loaded object, to be mapped.
fn take_mapped<T: Pod>(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<Mapped<T>> {
    match ebpf.take_map(name) {
        Some(Map::Array(data)) => Mapped::new(&data),
        _ => bail!("the object lacks the array {name}"),
    }
}

/// Takes the map `name` out of the loaded object.
pub(crate) fn take<T: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<T> {
    let map = ebpf.take_map(name).with_context(|| format!("the object lacks the map {name}"))?;
    T::try_from(map).with_context(|| format!("the map {name} has another shape than expected"))
}

impl Vips {
    fn read(&self) -> anyhow::Result<Vec<IpAddr>> {
        let v4 = self.v4.keys().map(|key| Ok(IpAddr::from(key?)));
        v4.chain(self.v6.keys().map(|key| Ok(IpAddr::from(key?)))).collect()
    }

    fn insert(&mut self, address: IpAddr) -> anyhow::Result<()> {
        Ok(match address {
            IpAddr::V4(address) => self.v4.insert(address.octets(), 0, 0),
            IpAddr::V6(address) => self.v6.insert(address.octets(), 0, 0),
        }?)
    }

    fn remove(&mut self, address: IpAddr) -> anyhow::Result<()> {
        present(match address {
            IpAddr::V4(address) => self.v4.remove(&address.octets()),
            IpAddr::V6(address) => self.v6.remove(&address.octets()),
        })
    }
}

/// The way back of the backend with this id, if it has an entry and its service is there.
fn way_back(services: &Services, backends: &Mapped<BackendEntry>, id: u32) -> Option<(Endpoint, Reverse)> {
    let backend = backends.read(id).ok().filter(|backend| backend.mode() != abi::mode::NONE)?;
    let service = services.entry(backend.service()).ok()?;
    let port = u16::from_be_bytes(service.port_of(&backend));
    let endpoint = Endpoint {
        address: services::address(backend.family(), backend.address)?,
        port,
        ..services::endpoint(&service)?
    };
    Some((endpoint, service.reverse(id, &backend)))
}

/// Removing what is not there is no error: a write that is repeated after a fault finds it done.
fn present(result: Result<(), MapError>) -> anyhow::Result<()> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => Ok(result?),
    }
}

fn prefix(length: u32) -> anyhow::Result<u8> {
    u8::try_from(length).context("a route's prefix is longer than its address")
}

fn route_key_v4(net: Ipv4Net) -> Key<[u8; 4]> {
    Key::new(u32::from(net.prefix_len()), net.network().octets())
}

fn route_key_v6(net: Ipv6Net) -> Key<[u8; 16]> {
    Key::new(u32::from(net.prefix_len()), net.network().octets())
}
