//! What the kernel's tables hold, or should hold, and how one becomes the other.
//!
//! [`Tables`] is the whole state of the data plane as plain values; [`diff`] turns two of them into ordered
//! [`Write`]s; a [`Dataplane`] reads and writes the real maps. Nothing here knows about configuration or health.

mod diff;
#[cfg(test)]
pub mod fake;

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use lb_common::abi::{self, HandshakeTimes, NextHop, SlotWord, Traffic};

use crate::{
    flows::FlowTable,
    spec::{TableSizes, XdpMode},
};

pub use diff::{diff, diff_of_part};

/// Everything the kernel's tables hold, or should hold; also used for the part of it that concerns some services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// (VIP, port, protocol) → service, and the VIP markers ([`Endpoint::vip_marker`]).
    pub services: BTreeMap<Endpoint, abi::Service>,
    /// First slot of a service's range → its words; one range for each service, none for VIP markers.
    pub slots: BTreeMap<u32, Vec<SlotWord>>,
    /// Service id → the ids that its scheduler draws from, [`abi::Service::ring_length`] of them; only of services where
    /// that is not 0.
    pub rings: BTreeMap<u32, Vec<u32>>,
    /// Backend id (1 or more) → entry. Empty entries (mode 0) are left out.
    pub backends: BTreeMap<u32, abi::Backend>,
    /// (backend address, backend port, protocol) → how replies are turned back; `nat` services only.
    pub reverse: BTreeMap<Endpoint, abi::Reverse>,
    /// Towards clients of `nat` services. [`NextHop::UNRESOLVED`] covers prefixes that are on-link: their hosts
    /// stand beside it with their own addresses once they are known.
    pub routes: BTreeMap<IpNet, NextHop>,
    /// Egress index (1 or more) → device. Empty entries (interface 0) are left out.
    pub egresses: BTreeMap<u16, abi::Egress>,
}

/// (address, port, protocol): the key of the service and reverse tables, of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// VIP, or backend address in the reverse table.
    pub address: IpAddr,
    /// Port, host order; 0 is every port.
    pub port: u16,
    /// One of [`abi::protocol`], or 0 in a VIP marker.
    pub protocol: u8,
}

/// An [`Endpoint`] as the kernel's maps want it: one map for each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointKey {
    /// Key of the IPv4 maps.
    V4(abi::EndpointV4),
    /// Key of the IPv6 maps.
    V6(abi::EndpointV6),
}

/// One change of the kernel's tables. After any prefix of what [`diff`] returns, the tables are valid: no slot of a
/// service that packets can reach, and no entry of its ring that counts, names a backend without an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Sets a device; the device map's entry goes with it.
    Egress(u16, abi::Egress),
    /// Adds or changes a route towards clients.
    Route(IpNet, NextHop),
    /// Adds or changes the way back from a backend.
    Reverse(Endpoint, abi::Reverse),
    /// Sets a backend's entry.
    Backend(u32, abi::Backend),
    /// Stores words of one service's range. Packets may see the stores in any order.
    Slots {
        /// First slot of the range.
        first: u32,
        /// Offset from `first` and new word, ascending.
        words: Vec<(u32, SlotWord)>,
    },
    /// Stores the first entries of the ring of the service with this id, and leaves what comes after them as it is: while
    /// the service's entry still counts more of them, those are backends as well. Packets may see the stores in any order.
    Ring(u32, Vec<u32>),
    /// Adds or changes a service or VIP marker. Entries of its ring beyond the length that it tells are forgotten.
    Service(Endpoint, abi::Service),
    /// Removes a service or VIP marker; before that, a service's counters and its scheduler's are set to 0, and after it its
    /// ring is.
    RemoveService(Endpoint, abi::Service),
    /// Removes the way back from a backend.
    RemoveReverse(Endpoint),
    /// Removes a route towards clients.
    RemoveRoute(IpNet),
    /// Empties a backend's entry; before that, its counters are set to 0.
    ClearBackend(u32),
    /// Empties a device's entry and the device map's.
    ClearEgress(u16),
}

impl Write {
    /// The first slot of a range and the words that are to be stored there, if it is that.
    #[must_use]
    pub fn words(&self) -> Option<(u32, &[(u32, SlotWord)])> {
        match self {
            Self::Slots { first, words } => Some((*first, words)),
            _ => None,
        }
    }
}

/// For messages: of words and ring entries, which may be millions, only how many there are.
impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slots { first, words } => {
                let from = words.first().map_or(*first, |(offset, _)| first + offset);
                write!(f, "{} slots from {from}", words.len())
            }
            Self::Ring(service, backends) => write!(f, "{} entries of the ring of service {service}", backends.len()),
            other => write!(f, "{other:?}"),
        }
    }
}

/// How many entries the kernel's maps must have for the configured sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Services and their counters, and the VIP markers of each family; ids, which those of both families share, start at 1.
    pub service_ids: u32,
    /// Backends, their counters and their ways back; ids start at 1.
    pub backend_ids: u32,
    /// Slots array, in slots.
    pub slots: u32,
    /// Routes of each family.
    pub routes: u32,
    /// Flow table of each family.
    pub flows: u32,
    /// Egress array and device map; indices start at 1.
    pub egresses: u16,
}

/// Counters since the ids they belong to were first used, summed over CPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// By service id.
    pub services: BTreeMap<u32, Traffic>,
    /// By backend id.
    pub backends: BTreeMap<u32, Traffic>,
    /// Packets by reason number.
    pub reasons: Vec<u64>,
    /// What happened in the flow tables, by [`FlowEvent`](lb_common::tracking::FlowEvent) number.
    pub flow_events: Vec<u64>,
    /// Entries of the flow tables whose flows nobody has closed, by backend id: not since, but now.
    pub live_flows: BTreeMap<u32, u64>,
    /// What handshakes took where they are timed, by backend id.
    pub handshakes: BTreeMap<u32, HandshakeTimes>,
}

/// Kernel memory that a table takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableMemory {
    /// Name of the table, such as `flows-v4`.
    pub name: String,
    /// Bytes: of all its entries where they are allocated beforehand, otherwise of those that it has.
    pub bytes: u64,
}

/// What the program does with a packet, and the steps that led there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// The XDP action (`enum xdp_action` in linux/bpf.h).
    pub action: u32,
    /// What it saw on the way.
    pub steps: abi::Explanation,
}

/// An interface that Weir is to be attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Its name.
    pub interface: String,
    /// Kernel interface index.
    pub index: u32,
    /// How the program is attached to it; `None` while it is not.
    pub xdp: Option<XdpMode>,
    /// Why in this way, or why not: `as configured`, or the kernel's error.
    pub why: String,
}

/// The kernel's tables and programs, or a stand-in for them.
pub trait Dataplane: Send {
    /// Reads everything back.
    fn read(&self) -> anyhow::Result<Tables>;

    /// Does `writes` in their order and stops at the first that fails: those before it are done then.
    fn write(&mut self, writes: &[Write]) -> anyhow::Result<()>;

    /// On-link clients that replies could not be sent to for want of a neighbour, since the last call.
    fn wanted_neighbours(&mut self) -> anyhow::Result<Vec<IpAddr>>;

    /// The flow tables, for one sweep. It goes on beside everything else that is done here, in a thread of its own.
    fn flow_table(&self) -> anyhow::Result<Box<dyn FlowTable>>;

    /// What every table takes of the kernel's memory.
    fn memory(&self) -> anyhow::Result<Vec<TableMemory>>;

    /// Reads the counters of these services and backends (by id), and those of all reasons and flow-table events.
    fn counters(&self, services: &[u32], backends: &[u32]) -> anyhow::Result<Counters>;

    /// The seed that its tables were made with: of the flow hash, and of the order in which slots are given out. It stays
    /// the same for as long as the tables do.
    fn seed(&self) -> [u64; 2];

    /// What the program does with `frame` if it comes in by the device `ingress` (a kernel interface index). Changes no
    /// counter and no flow.
    fn explain(&mut self, frame: &[u8], ingress: u32) -> anyhow::Result<Explained>;

    /// Looks at the interfaces again and attaches the program where it is not, as to one that was deleted and made
    /// anew. [`attachments`](Self::attachments) tells what became of it.
    fn reattach(&mut self);

    /// The interfaces, in the order of the configuration.
    fn attachments(&self) -> Vec<Attachment>;

    /// Detaches the programs and removes the pins: traffic is no longer balanced. Doing it twice is no error.
    fn detach(&mut self) -> anyhow::Result<()>;
}

impl Tables {
    /// Does one write on these values: what a [`Dataplane`] does to the kernel's.
    pub fn apply(&mut self, write: &Write) {
        match write {
            Write::Egress(index, egress) => {
                self.egresses.insert(*index, *egress);
            }
            Write::Route(net, hop) => {
                self.routes.insert(*net, *hop);
            }
            Write::Reverse(endpoint, reverse) => {
                self.reverse.insert(*endpoint, *reverse);
            }
            Write::Backend(id, backend) => {
                self.backends.insert(*id, *backend);
            }
            Write::Slots { first, words } => self.store(*first, words),
            Write::Ring(service, backends) => {
                self.rings.insert(*service, backends.clone());
            }
            Write::Service(endpoint, service) => {
                self.services.insert(*endpoint, *service);
                if !endpoint.is_vip_marker() && service.ring_length == 0 {
                    self.rings.remove(&service.id);
                }
            }
            Write::RemoveService(endpoint, service) => {
                self.services.remove(endpoint);
                if !endpoint.is_vip_marker() {
                    self.slots.remove(&service.first_slot);
                    self.rings.remove(&service.id);
                }
            }
            Write::RemoveReverse(endpoint) => {
                self.reverse.remove(endpoint);
            }
            Write::RemoveRoute(net) => {
                self.routes.remove(net);
            }
            Write::ClearBackend(id) => {
                self.backends.remove(id);
            }
            Write::ClearEgress(index) => {
                self.egresses.remove(index);
            }
        }
    }

    fn store(&mut self, first: u32, words: &[(u32, SlotWord)]) {
        let range = self.slots.entry(first).or_default();
        for &(offset, word) in words {
            let offset = offset as usize;
            if range.len() <= offset {
                range.resize(offset + 1, SlotWord::steady(abi::NO_BACKEND));
            }
            range[offset] = word;
        }
    }
}

impl Endpoint {
    /// The service key that marks `address` as a VIP, see [`abi::service_flags::VIP_MARKER`].
    #[must_use]
    pub const fn vip_marker(address: IpAddr) -> Self {
        Self { address, port: 0, protocol: 0 }
    }

    /// Whether this is the key of a VIP marker.
    #[must_use]
    pub const fn is_vip_marker(&self) -> bool {
        self.port == 0 && self.protocol == 0
    }

    /// As the kernel's maps want it.
    #[must_use]
    pub fn key(&self) -> EndpointKey {
        let (port, protocol, pad) = (self.port.to_be_bytes(), self.protocol, 0);
        match self.address {
            IpAddr::V4(address) => EndpointKey::V4(abi::EndpointV4 { address: address.octets(), port, protocol, pad }),
            IpAddr::V6(address) => EndpointKey::V6(abi::EndpointV6 { address: address.octets(), port, protocol, pad }),
        }
    }
}

impl From<abi::EndpointV4> for Endpoint {
    fn from(key: abi::EndpointV4) -> Self {
        let address = Ipv4Addr::from(key.address).into();
        Self { address, port: u16::from_be_bytes(key.port), protocol: key.protocol }
    }
}

impl From<abi::EndpointV6> for Endpoint {
    fn from(key: abi::EndpointV6) -> Self {
        let address = Ipv6Addr::from(key.address).into();
        Self { address, port: u16::from_be_bytes(key.port), protocol: key.protocol }
    }
}

impl Capacity {
    /// Devices that frames can leave through; far more than a balancer has, and cheap.
    const EGRESSES: u16 = 64;

    /// What the maps need for `sizes`.
    #[must_use]
    pub const fn of(sizes: &TableSizes) -> Self {
        Self {
            service_ids: sizes.services.saturating_mul(2).saturating_add(1),
            backend_ids: sizes.backends.saturating_add(1),
            slots: sizes.slots,
            routes: sizes.routes,
            flows: sizes.flows,
            egresses: Self::EGRESSES,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_writes_are_told_in_few_words() {
        let words = (500..100_000).map(|offset| (offset, SlotWord::steady(7))).collect();
        assert_eq!(Write::Slots { first: 1000, words }.to_string(), "99500 slots from 1500");
        assert_eq!(Write::Ring(3, vec![7; 1024]).to_string(), "1024 entries of the ring of service 3");
        assert_eq!(Write::ClearBackend(9).to_string(), "ClearBackend(9)");
    }

    #[test]
    fn endpoint_keys_are_in_network_order_and_come_back() {
        let v4 = Endpoint { address: [192, 0, 2, 1].into(), port: 0x1234, protocol: abi::protocol::TCP };
        let EndpointKey::V4(key) = v4.key() else { panic!("an IPv4 key") };
        assert_eq!(bytemuck::bytes_of(&key), [192, 0, 2, 1, 0x12, 0x34, 6, 0]);
        assert_eq!(Endpoint::from(key), v4);

        let v6 = Endpoint { address: Ipv6Addr::LOCALHOST.into(), port: 53, protocol: abi::protocol::UDP };
        let EndpointKey::V6(key) = v6.key() else { panic!("an IPv6 key") };
        assert_eq!(bytemuck::bytes_of(&key)[15..], [1, 0, 53, 17, 0]);
        assert_eq!(Endpoint::from(key), v6);
    }
}
