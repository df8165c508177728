//! Sweeping the flow tables: what is in them, and what of it is needed no longer.
//!
//! A sweep reads every entry once, beside the traffic, judges it ([`lb_common::settling::end_of`]) and has those deleted
//! that nobody needs. What it leaves behind it counts: the [`Census`] that the controller settles slots by.

mod sweep;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    time::Duration,
};

use lb_common::{
    abi::{FlowEntry, FlowKeyV4, FlowKeyV6, FlowWord, Service, SlotWord, protocol},
    hash,
    settling::End,
};

use crate::tables::Endpoint;

pub use sweep::sweep;

/// A flow: a key of either flow table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FlowKey {
    /// Of IPv4.
    V4(FlowKeyV4),
    /// Of IPv6.
    V6(FlowKeyV6),
}

/// The flow tables while they are swept, or a stand-in for them. Sweeps have a thread of their own.
pub trait FlowTable: Send {
    /// Entries that have not been seen in this sweep, some thousands at a time; none when all have been.
    fn next(&mut self) -> anyhow::Result<Vec<(FlowKey, FlowEntry)>>;

    /// What a slot holds at this moment.
    fn slot(&self, index: u32) -> Option<SlotWord>;

    /// Takes out the entry of `key` if its word still is `judged`: packets find it no more. Whether it did.
    fn bury(&mut self, key: &FlowKey, judged: FlowWord) -> anyhow::Result<bool>;

    /// Returns when no packet is on its way any more that has found an entry before it was buried.
    fn wait(&self);

    /// Gives back the places of some of the entries that are buried, after [`wait`](Self::wait). Whether there may be
    /// more.
    fn clear(&mut self) -> anyhow::Result<bool>;
}

/// What a sweep has to know besides the flow tables. Nothing of it may change while the sweep goes on, and no slot's
/// `base` may; everything else about slots may.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Services, and after how many seconds of silence they forget a flow.
    pub services: HashMap<Endpoint, (Service, u32)>,
    /// Ids of backends that have an entry.
    pub backends: HashSet<u32>,
    /// Seed of the flow hash.
    pub seed: [u64; 2],
}

/// What a sweep has found, deletions done. An entry may be counted as left that is not, never the other way round: see
/// [`sweep`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Entries that are left.
    pub entries: u64,
    /// Those of them that are in the IPv6 table.
    pub entries_v6: u64,
    /// Entries that were deleted, by reason.
    pub ended: BTreeMap<End, u64>,
    /// Backends that entries name, whether they exist or not, and their flows.
    pub backends: BTreeMap<u32, Flows>,
    /// Slots (indices into the slot array) that have entries left.
    pub occupied: BTreeSet<u32>,
    /// How long it took.
    pub took: Duration,
}

/// The tracked flows of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flows {
    /// Entries that name it.
    pub entries: u64,
    /// Those of them that nobody has closed.
    pub live: u64,
    /// When the oldest of these was opened or learnt, seconds of the monotonic clock.
    pub oldest: Option<u32>,
}

impl FlowKey {
    /// What the client connected to: the address, port and protocol of its packets.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "protocol numbers have eight bits")]
    pub fn destination(&self) -> Endpoint {
        let (address, port, protocol) = match self {
            Self::V4(key) => (IpAddr::from(key.destination), key.destination_port, key.protocol),
            Self::V6(key) => (IpAddr::from(key.destination), key.destination_port, key.protocol),
        };
        Endpoint { address, port: u16::from_be_bytes(port), protocol: protocol as u8 }
    }

    /// The flow hash.
    #[must_use]
    pub fn hash(&self, seed: [u64; 2]) -> u64 {
        match self {
            Self::V4(k) => hash::flow_v4(seed, k.source, k.destination, k.source_port, k.destination_port, k.protocol),
            Self::V6(k) => hash::flow_v6(seed, k.source, k.destination, k.source_port, k.destination_port, k.protocol),
        }
    }

    /// Whether it is a TCP connection.
    #[must_use]
    pub const fn is_tcp(&self) -> bool {
        let protocol = match self {
            Self::V4(key) => key.protocol,
            Self::V6(key) => key.protocol,
        };
        protocol == protocol::TCP as u32
    }
}
