//! The packet path in this process: frames in memory, tables in collections.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytemuck::{Pod, Zeroable};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use lb_common::{
    abi::{
        BackendEntry, Egress, EndpointV4, EndpointV6, FlowEntry, FlowKeyV4, FlowKeyV6, FlowWord, HANDSHAKES, Handshake,
        NO_BACKEND, NextHop, OuterV4, OuterV6, Reverse, Ring, ServiceEntry, SlotWord, Traffic, WantedNeighbour,
    },
    decap::{self, AllowedSources},
    frame::{Frame, NoRoom},
    pipeline::{self, Verdict},
    reason::Reason,
    tables::Step,
    tracking::{Entry, FlowEvent},
    wire::ETHERNET_LEN,
};

use crate::{
    oracle::{Action, Count, Outcome},
    tables::Tables,
    world::World,
};

/// Room that XDP leaves in front of a packet, bytes.
pub const HEADROOM: usize = 256;

/// What undefined bytes are on the host: not 0, so that nobody relies on them.
const UNDEFINED: u8 = 0xdb;

/// A frame in memory, with room in front.
#[derive(Clone, Debug)]
pub struct HostFrame {
    buffer: Vec<u8>,
    start: usize,
}

impl HostFrame {
    /// `bytes` behind `headroom` bytes of room.
    #[must_use]
    pub fn new(bytes: &[u8], headroom: usize) -> Self {
        Self { buffer: [vec![UNDEFINED; headroom].as_slice(), bytes].concat(), start: headroom }
    }

    /// The frame.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..]
    }
}

impl Frame for HostFrame {
    fn at<T: Pod>(&self, offset: usize) -> Option<&T> {
        self.bytes().get(offset..)?.get(..size_of::<T>()).map(bytemuck::from_bytes)
    }

    fn at_mut<T: Pod>(&mut self, offset: usize) -> Option<&mut T> {
        self.buffer[self.start..].get_mut(offset..)?.get_mut(..size_of::<T>()).map(bytemuck::from_bytes_mut)
    }

    fn holds(&self, bytes: usize) -> bool {
        bytes <= self.bytes().len()
    }

    fn grow(&mut self, bytes: u8) -> Result<(), NoRoom> {
        let start = self.start.checked_sub(bytes.into()).ok_or(NoRoom)?;
        self.buffer[start..self.start].fill(UNDEFINED);
        self.start = start;
        Ok(())
    }

    fn shrink(&mut self, bytes: u8) -> Result<(), NoRoom> {
        if !self.holds(ETHERNET_LEN + usize::from(bytes)) {
            return Err(NoRoom);
        }
        self.start += usize::from(bytes);
        Ok(())
    }

    fn truncate(&mut self, bytes: u8) -> Result<(), NoRoom> {
        if !self.holds(bytes.into()) {
            return Err(NoRoom);
        }
        self.buffer.truncate(self.start + usize::from(bytes));
        Ok(())
    }
}

/// What the packet path remembers of flows, and the clock that it does so by.
#[derive(Debug, Default)]
pub struct Memory {
    /// Entries of the IPv4 flow table.
    pub flows_v4: BTreeMap<FlowKeyV4, Arc<Mutex<FlowEntry>>>,
    /// Entries of the IPv6 flow table.
    pub flows_v6: BTreeMap<FlowKeyV6, Arc<Mutex<FlowEntry>>>,
    /// Entries that there is room for in each of them.
    pub room: usize,
    /// Live entries by backend.
    pub live: BTreeMap<u32, u64>,
    /// What happened, in order.
    pub events: Vec<FlowEvent>,
    /// Rings by service id.
    pub rings: BTreeMap<u32, Ring>,
    /// How often each service was drawn from in turn.
    pub turns: BTreeMap<u32, u32>,
    /// What the next random numbers are made of.
    pub randomness: u64,
    /// The monotonic clock, nanoseconds.
    pub now: u64,
    /// Handshakes under way, by place.
    pub handshakes: BTreeMap<u32, Handshake>,
    /// Backends, and what handshakes with them took, nanoseconds; in order.
    pub handshake_times: Vec<(u32, u64)>,
}

/// An entry of a flow table.
#[derive(Debug)]
pub struct HostEntry(Arc<Mutex<FlowEntry>>);

impl Entry for HostEntry {
    fn word(&self) -> FlowWord {
        lock(&self.0).word
    }

    fn replace(&self, old: FlowWord, new: FlowWord) -> bool {
        let mut entry = lock(&self.0);
        let is_old = entry.word == old;
        if is_old {
            entry.word = new;
        }
        is_old
    }

    fn set_opened(&self, opened: u32) {
        lock(&self.0).opened = opened;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn insert<K: Ord + Copy>(
    table: &mut BTreeMap<K, Arc<Mutex<FlowEntry>>>,
    room: usize,
    key: &K,
    entry: &FlowEntry,
) -> bool {
    let fits = table.len() < room && !table.contains_key(key);
    if fits {
        table.insert(*key, Arc::new(Mutex::new(*entry)));
    }
    fits
}

/// Weir's packet path over the tables of a world.
#[derive(Debug)]
pub struct Host {
    headroom: usize,
    tables: Tables,
    /// As the kernel's array: the index is the id, and unused entries are zeros.
    backends: Vec<BackendEntry>,
    memory: Mutex<Memory>,
}

impl Host {
    /// The packet path, configured with `world`.
    #[must_use]
    pub fn new(world: &World) -> Self {
        Self::over(Tables::from(world))
    }

    /// The packet path over these tables.
    #[must_use]
    pub fn over(tables: Tables) -> Self {
        let backends = (0..tables.backend_entries())
            .map(|id| tables.backends.get(&id).map_or_else(BackendEntry::zeroed, |backend| (*backend).into()))
            .collect();
        let rings = tables.rings.iter().map(|(service, backends)| (*service, ring(backends))).collect();
        let memory = Mutex::new(Memory { room: usize::MAX, rings, ..Memory::default() });
        Self { headroom: HEADROOM, tables, backends, memory }
    }

    /// The same with other room in front of packets, bytes.
    #[must_use]
    pub fn with_headroom(self, headroom: usize) -> Self {
        Self { headroom, ..self }
    }

    /// What is kept from one run to the next.
    pub fn memory(&self) -> MutexGuard<'_, Memory> {
        lock(&self.memory)
    }

    /// Runs the packet path on a `frame` that comes in by the device `ingress` (a kernel interface index).
    #[must_use]
    pub fn run(&self, ingress: u32, frame: &[u8]) -> Run {
        let seen = HostTables {
            host: self,
            ingress,
            reasons: RefCell::default(),
            counts: RefCell::default(),
            wanted: RefCell::default(),
        };
        let mut frame = HostFrame::new(frame, self.headroom);
        let verdict = pipeline::process(&mut frame, &seen);
        assert_eq!(*seen.reasons.borrow(), [verdict.reason], "every packet is counted once");
        Run { outcome: outcome(verdict, &frame), counts: seen.counts.into_inner(), wanted: seen.wanted.into_inner() }
    }
}

fn ring(backends: &[u32]) -> Ring {
    let mut ring = Ring::zeroed();
    ring.backends[..backends.len()].copy_from_slice(backends);
    ring
}

/// What one run of the packet path did.
#[derive(Clone, Debug)]
pub struct Run {
    /// What happened to the packet.
    pub outcome: Outcome,
    /// What was counted by service and backend.
    pub counts: Vec<Count>,
    /// Which neighbours the controller was asked for.
    pub wanted: Vec<WantedNeighbour>,
}

struct HostTables<'a> {
    host: &'a Host,
    ingress: u32,
    reasons: RefCell<Vec<Reason>>,
    counts: RefCell<Vec<Count>>,
    wanted: RefCell<Vec<WantedNeighbour>>,
}

impl lb_common::tables::Tables for HostTables<'_> {
    type Entry<'a>
        = HostEntry
    where
        Self: 'a;
    type Service = ServiceEntry;
    type Backend = BackendEntry;

    fn seed(&self) -> [u64; 2] {
        self.host.tables.settings.seed
    }

    fn outer_v4(&self) -> OuterV4 {
        self.host.tables.settings.outer_v4
    }

    fn outer_v6(&self) -> OuterV6 {
        self.host.tables.settings.outer_v6
    }

    fn ingress_ifindex(&self) -> u32 {
        self.ingress
    }

    // Everything is looked for, so that the kernel's short cuts are compared with the long way.
    fn kinds(&self) -> u64 {
        u64::MAX
    }

    fn service_v4(&self, key: &EndpointV4) -> Option<Self::Service> {
        self.host.tables.services_v4.get(key).copied().map(Into::into)
    }

    fn service_v6(&self, key: &EndpointV6) -> Option<Self::Service> {
        self.host.tables.services_v6.get(key).copied().map(Into::into)
    }

    fn is_vip_v4(&self, address: [u8; 4]) -> bool {
        self.host.tables.services_v4.contains_key(&EndpointV4 { address, port: [0; 2], protocol: 0, pad: 0 })
    }

    fn is_vip_v6(&self, address: [u8; 16]) -> bool {
        self.host.tables.services_v6.contains_key(&EndpointV6 { address, port: [0; 2], protocol: 0, pad: 0 })
    }

    fn slot(&self, index: u32) -> Option<SlotWord> {
        self.host.tables.slots.get(usize::try_from(index).ok()?).copied()
    }

    fn backend(&self, id: u32) -> Option<BackendEntry> {
        self.host.backends.get(usize::try_from(id).ok()?).copied()
    }

    fn flow_v4(&self, key: &FlowKeyV4, _: u32) -> Option<HostEntry> {
        self.host.memory().flows_v4.get(key).cloned().map(HostEntry)
    }

    fn flow_v6(&self, key: &FlowKeyV6, _: u32) -> Option<HostEntry> {
        self.host.memory().flows_v6.get(key).cloned().map(HostEntry)
    }

    fn insert_flow_v4(&self, key: &FlowKeyV4, _: u32, entry: &FlowEntry) -> bool {
        let memory = &mut *self.host.memory();
        insert(&mut memory.flows_v4, memory.room, key, entry)
    }

    fn insert_flow_v6(&self, key: &FlowKeyV6, _: u32, entry: &FlowEntry) -> bool {
        let memory = &mut *self.host.memory();
        insert(&mut memory.flows_v6, memory.room, key, entry)
    }

    fn live_flows(&self, backend: u32) -> u64 {
        self.host.memory().live.get(&backend).copied().unwrap_or(0)
    }

    fn count_live(&self, backend: u32, more: bool) {
        let mut memory = self.host.memory();
        let live = memory.live.entry(backend).or_default();
        *live = if more { *live + 1 } else { *live - 1 };
    }

    fn count_event(&self, event: FlowEvent) {
        self.host.memory().events.push(event);
    }

    fn ring(&self, service: u32, place: u32) -> u32 {
        let memory = self.host.memory();
        let ring = memory.rings.get(&service);
        ring.and_then(|ring| ring.backends.get(usize::try_from(place).ok()?)).copied().unwrap_or(NO_BACKEND)
    }

    fn turn(&self, service: u32) -> u32 {
        let mut memory = self.host.memory();
        let turn = memory.turns.entry(service).or_default();
        *turn = turn.wrapping_add(1);
        turn.wrapping_sub(1)
    }

    fn random(&self) -> u32 {
        // SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
        let mut memory = self.host.memory();
        memory.randomness = memory.randomness.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (memory.randomness ^ memory.randomness >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        u32::try_from((z ^ z >> 31) >> 32).unwrap_or_default()
    }

    fn now(&self) -> u32 {
        u32::try_from(self.now_nanoseconds() / 1_000_000_000).unwrap_or(u32::MAX)
    }

    fn now_nanoseconds(&self) -> u64 {
        self.host.memory().now
    }

    fn handshake(&self, place: u32) -> Option<Handshake> {
        let nothing = Handshake { flow: 0, opened: 0 };
        (place < HANDSHAKES).then(|| self.host.memory().handshakes.get(&place).copied().unwrap_or(nothing))
    }

    fn set_handshake(&self, place: u32, handshake: Handshake) {
        self.host.memory().handshakes.insert(place, handshake);
    }

    fn count_handshake(&self, backend: u32, nanoseconds: u64) {
        self.host.memory().handshake_times.push((backend, nanoseconds));
    }

    fn reverse_v4(&self, key: &EndpointV4) -> Option<Reverse> {
        self.host.tables.reverse_v4.get(key).copied()
    }

    fn reverse_v6(&self, key: &EndpointV6) -> Option<Reverse> {
        self.host.tables.reverse_v6.get(key).copied()
    }

    fn route_v4(&self, address: [u8; 4]) -> Option<NextHop> {
        let routes = self.host.tables.routes_v4.iter().filter(|(net, _)| net.contains(&Ipv4Addr::from(address)));
        routes.max_by_key(|(net, _)| Ipv4Net::prefix_len(net)).map(|(_, hop)| *hop)
    }

    fn route_v6(&self, address: [u8; 16]) -> Option<NextHop> {
        let routes = self.host.tables.routes_v6.iter().filter(|(net, _)| net.contains(&Ipv6Addr::from(address)));
        routes.max_by_key(|(net, _)| Ipv6Net::prefix_len(net)).map(|(_, hop)| *hop)
    }

    fn egress(&self, index: u16) -> Option<Egress> {
        self.host.tables.egresses.get(&index).copied()
    }

    fn want_neighbour(&self, address: [u8; 16], family: u8) {
        self.wanted.borrow_mut().push(WantedNeighbour { address, family });
    }

    fn count_reason(&self, reason: Reason) {
        self.reasons.borrow_mut().push(reason);
    }

    fn count_forwarded(&self, reason: Reason, service: u32, backend: u32, bytes: u32, opens: bool) {
        self.count_reason(reason);
        let traffic = Traffic { packets: 1, bytes: bytes.into(), connections: opens.into(), ..Traffic::default() };
        self.counts.borrow_mut().push(Count { service, backend, traffic });
    }

    fn count_replied(&self, reason: Reason, service: u32, backend: u32, bytes: u32) {
        self.count_reason(reason);
        let traffic = Traffic { reply_packets: 1, reply_bytes: bytes.into(), ..Traffic::default() };
        self.counts.borrow_mut().push(Count { service, backend, traffic });
    }

    fn note(&self, _step: Step) {}
}

/// Runs the far end of the tunnels on `frame`; tunnel packets are accepted from `allowed`.
#[must_use]
pub fn decapsulate(frame: &[u8], allowed: &[IpNet]) -> Outcome {
    let mut frame = HostFrame::new(frame, HEADROOM);
    let verdict = decap::process(&mut frame, &Allowed(allowed));
    outcome(verdict, &frame)
}

struct Allowed<'a>(&'a [IpNet]);

impl Allowed<'_> {
    fn contain(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }
}

impl AllowedSources for Allowed<'_> {
    fn allows_v4(&self, address: [u8; 4]) -> bool {
        self.contain(address.into())
    }

    fn allows_v6(&self, address: [u8; 16]) -> bool {
        self.contain(address.into())
    }
}

fn outcome(verdict: Verdict, frame: &HostFrame) -> Outcome {
    let (action, egress) = match verdict.action {
        pipeline::Action::Pass => (Action::Pass, None),
        pipeline::Action::Drop => (Action::Drop, None),
        pipeline::Action::Transmit => (Action::Transmit, None),
        pipeline::Action::Redirect(egress) => (Action::Redirect, Some(egress)),
    };
    Outcome { action, egress, reason: Some(verdict.reason), frame: frame.bytes().to_vec() }
}
