//! The flow tables in the kernel: read and swept beside the traffic, and the same as those of the host build.

mod tables;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bytemuck::Zeroable as _;
use fastrand::Rng;
use lb_common::{
    abi::{self, FlowEntry, FlowKeyV4, FlowKeyV6, FlowWord, Settings, SlotWord, choice, flow_flags, service_flags},
    settling::End,
    tracking::FlowEvent,
};
use rustix::time::{ClockId, clock_gettime};
use weir::{
    dataplane::Kernel,
    flows::{Census, FlowKey, FlowTable, Surroundings, sweep},
    object::OBJECT,
    tables::{Dataplane as _, Endpoint},
};
use weir_packets::{
    build::{Packet, TcpFlags, Transport},
    fixtures::world::world,
    host::Host,
    oracle::Action,
    tables::Tables,
    world::{Mode, Protocol, World},
};

use self::tables::{capacity, endpoints, writes};

/// The loopback device: everything comes in and leaves by it, and nothing is ever sent.
const LOOPBACK: u32 = 1;
/// Slots of each of a rig's two services.
const SLOTS: u32 = 31;
/// The backend that takes all new flows; that of slot n, of untracked flows, is 1 + n.
const NEW: u32 = 100;
/// Seconds after which services forget flows, unless a test says otherwise.
const IDLE: u32 = 3600;
/// `XDP_TX`.
const TRANSMIT: u32 = 3;

#[test]
fn what_has_changed_since_it_was_judged_is_not_deleted() -> Result<()> {
    let mut rig = Rig::new(1000)?;
    for client in 0..300 {
        rig.learn(client)?;
    }
    let judged = rig.entries()?;
    assert_eq!(judged.len(), 300);
    for client in (0..300).step_by(3) {
        rig.send(client, TcpFlags { fin: true, ack: true, ..TcpFlags::default() })?;
    }
    // A third of the clients has changed, and a third is not asked for.
    let asked: Vec<_> =
        judged.iter().filter(|(key, _)| client_of(key) % 3 != 2).map(|(key, entry)| (*key, entry.word)).collect();
    let table = &mut *rig.kernel.flow_table()?;
    let of_zero: Vec<_> = asked.iter().map(|(key, _)| (*key, FlowWord(0))).collect();
    assert_eq!(bury(table, &of_zero)?, 0, "a word that no entry has");
    assert_eq!(bury(table, &asked)?, 100);
    assert_eq!(bury(table, &asked)?, 0, "once more");
    let left = rig.entries()?;
    assert_eq!(left.keys().map(client_of).filter(|client| client % 3 == 1).count(), 0);
    assert_eq!(left.len(), 200);
    // What was closed does not live, what was deleted neither.
    assert_eq!(rig.live()?.values().sum::<u64>(), 100);
    assert_eq!(rig.live()?, recount(&left));
    Ok(())
}

#[test]
fn what_an_ended_sweep_has_buried_the_next_one_gives_back() -> Result<()> {
    let mut rig = Rig::new(60)?;
    for client in 0..100 {
        rig.learn(client)?;
    }
    let mut table = rig.kernel.flow_table()?;
    for (key, entry) in rig.entries()?.into_iter().filter(|(key, _)| client_of(key) < 40) {
        assert!(table.bury(&key, entry.word)?);
    }
    drop(table);
    assert_eq!((rig.entries()?.len(), rig.kernel.flows().count()?), (60, [50, 50]));
    assert_eq!(rig.live()?, recount(&rig.entries()?));
    // Whose entry is buried is entered anew beside it, as long as there is room.
    for client in 0..20 {
        rig.learn(client)?;
    }
    assert_eq!((rig.entries()?.len(), rig.kernel.flows().count()?), (80, [60, 60]));
    rig.learn(20)?;
    assert_eq!(rig.entries()?.len(), 80, "there is no room");
    let census = rig.sweep(now())?;
    assert_eq!((census.entries, census.ended), (80, BTreeMap::new()));
    assert_eq!((rig.entries()?.len(), rig.kernel.flows().count()?), (80, [40, 40]));
    rig.learn(20)?;
    assert_eq!(rig.entries()?.len(), 81);
    Ok(())
}

#[test]
fn flows_are_found_in_the_slots_where_their_packets_were() -> Result<()> {
    let mut rig = Rig::new(2000)?;
    for client in 0..500 {
        rig.learn(client)?;
    }
    // The backend of a learnt flow tells its slot.
    let occupied: BTreeSet<u32> = rig.entries()?.values().map(|entry| entry.word.backend() - 1).collect();
    assert!(occupied.len() > 50, "{occupied:?}");
    let census = rig.sweep(now())?;
    assert_eq!((census.occupied, census.entries, census.ended), (occupied, 500, BTreeMap::new()));
    assert_eq!(census.entries_v6, 250);
    let oldest = census.backends.values().filter_map(|flows| flows.oldest).min();
    assert!(oldest.is_some_and(|oldest| oldest.abs_diff(now()) < 60), "{oldest:?} is not of this clock");

    let census = rig.sweep(now() + IDLE + 10)?;
    assert_eq!((census.entries, census.ended), (0, [(End::Idle, 500)].into()));
    assert_eq!(rig.entries()?, BTreeMap::new());
    assert_eq!(rig.live()?, BTreeMap::new());
    Ok(())
}

#[test]
fn a_million_entries_are_read_and_swept() -> Result<()> {
    const ENTRIES: u32 = 1_000_000;
    let rig = Rig::new(ENTRIES)?;
    // Closed, so that they need no count of live flows.
    let word = FlowWord::new(NEW, flow_flags::ESTABLISHED | flow_flags::FIN, now());
    let entry = FlowEntry { word, opened: 1 };
    let keys = (0..ENTRIES).map(key_v4).map(FlowKey::V4).chain((0..1000).map(key_v6).map(FlowKey::V6));
    for key in keys {
        rig.kernel.flows().set(&key, &entry)?;
    }
    let began = Instant::now();
    let mut seen = vec![0_u8; ENTRIES as usize + 1000];
    let mut table = rig.kernel.flow_table()?;
    loop {
        let entries = table.next()?;
        if entries.is_empty() {
            break;
        }
        for (key, found) in entries {
            assert_eq!(found, entry);
            let offset = if matches!(key, FlowKey::V6(_)) { ENTRIES } else { 0 };
            seen[(offset + client_of(&key)) as usize] += 1;
        }
    }
    assert!(seen.iter().all(|times| *times == 1), "each entry exactly once");
    println!("reading 1,001,000 entries: {:?}", began.elapsed());

    let census = rig.sweep(now())?;
    assert_eq!((census.entries, census.entries_v6, census.ended), (1_001_000, 1000, BTreeMap::new()));
    println!("sweeping 1,001,000 entries, none of which is over: {:?}", census.took);
    let census = rig.sweep(now() + IDLE)?;
    assert_eq!((census.entries, census.ended), (0, [(End::Closed, 1_001_000)].into()));
    println!("sweeping 1,001,000 entries, all of which are over: {:?}", census.took);
    assert_eq!(rig.entries()?, BTreeMap::new());
    Ok(())
}

#[test]
fn flows_that_speak_while_they_are_buried_are_not_lost() -> Result<()> {
    const LIVE: u32 = 100;
    const SILENT: u32 = 1500;
    let mut rig = Rig::new(LIVE + SILENT)?;
    for round in 0..20 {
        let first = round * 10_000;
        let (live, silent) = (first..first + LIVE, first + LIVE..first + LIVE + SILENT);
        for client in live.clone().chain(silent) {
            assert_eq!(rig.send(client, SYN)?, Some(NEW), "round {round}: there is room");
        }
        let judged: Vec<_> = rig.entries()?.iter().map(|(key, entry)| (*key, entry.word)).collect();
        // From here on the words of the live ones are others, and change again whenever a second is over.
        for client in live.clone() {
            assert_eq!(rig.send(client, ACK)?, Some(NEW));
        }
        let mut table = rig.kernel.flow_table()?;
        let start = Barrier::new(2);
        let buried = thread::scope(|scope| {
            let burying = scope.spawn(|| {
                start.wait();
                bury(&mut *table, &judged)
            });
            start.wait();
            let mut rng = Rng::with_seed(round.into());
            while !burying.is_finished() {
                let client = rng.u32(live.clone());
                let to = rig.send(client, if rng.bool() { SYN } else { ACK })?;
                ensure!(to == Some(NEW), "round {round}: a flow went from {NEW} to {to:?}");
            }
            burying.join().expect("the sweep does not panic")
        })?;
        assert_eq!(buried, u64::from(SILENT), "round {round}");
        assert_eq!(rig.entries()?.keys().map(client_of).collect::<BTreeSet<_>>(), live.clone().collect());
        assert_eq!(rig.live()?, [(NEW, u64::from(LIVE))].into(), "round {round}");
        let census = rig.sweep(now() + IDLE + 10)?;
        assert_eq!((census.entries, rig.live()?), (0, BTreeMap::new()), "round {round}");
    }
    Ok(())
}

#[test]
fn counts_stay_right_while_flows_close_and_open_again_and_are_buried() -> Result<()> {
    const CLIENTS: u32 = 64;
    let mut rig = Rig::new(CLIENTS * 2)?;
    let mut tables = (0..200).map(|_| rig.kernel.flow_table()).collect::<Result<Vec<_>>>()?;
    let buried = thread::scope(|scope| {
        let burying = scope.spawn(|| -> Result<u64> {
            let mut buried = 0;
            for table in &mut tables {
                let entries = all(&mut **table)?;
                let entries: Vec<_> = entries.iter().map(|(key, entry)| (*key, entry.word)).collect();
                buried += bury(&mut **table, &entries)?;
                // So that some flows have time to close and open again.
                thread::sleep(Duration::from_millis(1));
            }
            Ok(buried)
        });
        let mut rng = Rng::with_seed(3);
        while !burying.is_finished() {
            let fin = TcpFlags { fin: true, ack: true, ..TcpFlags::default() };
            let flags = *rng.choice(&[SYN, ACK, fin, RST]).context("there are four")?;
            let to = rig.send(rng.u32(..CLIENTS), flags)?;
            ensure!(to.is_some(), "nothing is dropped");
        }
        burying.join().expect("the sweep does not panic")
    })?;
    let left = rig.entries()?;
    let events = rig.kernel.counters(&[], &[])?.flow_events;
    let entered = events[FlowEvent::Opened as usize] + events[FlowEvent::Learnt as usize];
    assert!(buried > 1000 && buried <= entered, "{buried} of {entered} buried");
    assert_eq!(rig.live()?, recount(&left));
    Ok(())
}

#[test]
fn the_kernel_and_the_host_remember_the_same() -> Result<()> {
    const ROUNDS: u64 = 60;
    const PACKETS: usize = 400;
    // Few, so that the tables are full at times.
    const FLOWS: u32 = 16;
    let world = world(LOOPBACK, LOOPBACK);
    let tables = Tables::from(&world);
    let mut kernel = Kernel::open_unpinned(OBJECT, tables.settings, &capacity(&tables, FLOWS)?)?;
    let mut counted = vec![0; FlowEvent::ALL.len()];
    for round in 0..ROUNDS {
        let mut rng = Rng::with_seed(round);
        let tables = unsettled(&tables, &mut rng);
        kernel.write(&writes(&tables))?;
        let ids: Vec<u32> = tables.backends.keys().copied().collect();
        let host = Host::over(tables);
        host.memory().room = FLOWS as usize;
        for _ in 0..PACKETS {
            let frame = packet(&world, &mut rng);
            let (action, after) = kernel.test_run(&frame, LOOPBACK)?;
            let run = host.run(LOOPBACK, &frame).outcome;
            assert_eq!(action, xdp_action(run.action), "round {round}: {frame:02x?}");
            if action == TRANSMIT {
                assert_eq!(after, run.frame, "round {round}: {frame:02x?}");
            }
        }
        let memory = host.memory();
        let v4 = memory.flows_v4.iter().map(|(key, entry)| (FlowKey::V4(*key), *entry.lock().unwrap()));
        let v6 = memory.flows_v6.iter().map(|(key, entry)| (FlowKey::V6(*key), *entry.lock().unwrap()));
        let expected: BTreeMap<_, _> = v4.chain(v6).map(|(key, entry)| (key, timeless(entry))).collect();
        let entries = all(&mut *kernel.flow_table()?)?;
        let found: BTreeMap<_, _> = entries.iter().map(|(key, entry)| (*key, timeless(*entry))).collect();
        assert_eq!(found, expected, "round {round}");
        for event in &memory.events {
            counted[*event as usize] += 1;
        }
        let counters = kernel.counters(&[], &ids)?;
        assert_eq!(counters.flow_events, counted, "round {round}");
        let live = ids.iter().map(|id| (*id, memory.live.get(id).copied().unwrap_or(0))).collect();
        assert_eq!(counters.live_flows, live, "round {round}");
        // No service: nothing is needed any more.
        let census = sweep(&mut *kernel.flow_table()?, &Surroundings::default(), now())?;
        assert_eq!(
            census.ended,
            BTreeMap::from_iter((!found.is_empty()).then_some((End::Orphaned, found.len() as u64)))
        );
    }
    assert!(counted.iter().all(|times| *times > 100), "everything happens: {counted:?}");
    Ok(())
}

#[test]
fn a_cleared_backend_has_no_count_left() -> Result<()> {
    let mut rig = Rig::new(100)?;
    rig.learn(0)?;
    let (backend, live) = rig.live()?.pop_first().context("one flow lives")?;
    assert_eq!(live, 1);
    rig.kernel.write(&[weir::tables::Write::ClearBackend(backend)])?;
    assert_eq!(rig.live()?, BTreeMap::new());
    Ok(())
}

#[test]
fn the_memory_of_each_table_is_told() -> Result<()> {
    let memory = |flows| -> Result<BTreeMap<String, u64>> {
        let tables = Rig::new(flows)?.kernel.memory()?;
        Ok(tables.into_iter().map(|table| (table.name, table.bytes)).collect())
    };
    let (small, large) = (memory(1000)?, memory(101_000)?);
    // A bucket for each, up to the next power of two.
    for (table, entry) in [("flows-v4", 64), ("flows-v6", 128)] {
        let more = large[table] - small[table];
        assert!((100_000 * entry..100_000 * entry * 4).contains(&more), "{table}: {more} bytes for 100,000 entries");
    }
    assert_eq!(small["slots"], large["slots"]);
    Ok(())
}

const SYN: TcpFlags = TcpFlags { syn: true, ack: false, fin: false, rst: false };
const ACK: TcpFlags = TcpFlags { syn: false, ack: true, fin: false, rst: false };
const RST: TcpFlags = TcpFlags { syn: false, ack: false, fin: false, rst: true };

/// The balancer with a service of each family whose slots are all on the move: from a backend each to [`NEW`].
struct Rig {
    kernel: Kernel,
    around: Surroundings,
}

impl Rig {
    /// With room for so many flows of each family.
    fn new(flows: u32) -> Result<Self> {
        let tables = moving();
        let mut kernel = Kernel::open_unpinned(OBJECT, tables.settings, &capacity(&tables, flows)?)?;
        kernel.write(&writes(&tables))?;
        let around = Surroundings {
            services: endpoints(&tables.services_v4, &tables.services_v6)
                .map(|(endpoint, service)| (endpoint, (service, IDLE)))
                .collect::<HashMap<Endpoint, _>>(),
            backends: tables.backends.keys().copied().collect(),
            seed: tables.settings.seed,
        };
        Ok(Self { kernel, around })
    }

    /// Sends a packet of a client to its service. The backend that it goes to.
    fn send(&mut self, client: u32, flags: TcpFlags) -> Result<Option<u32>> {
        let address = client_address(client);
        let vip = if address.is_ipv4() { VIP_V4.into() } else { VIP_V6.into() };
        let transport = Transport::Tcp(flags, Vec::new());
        let packet = Packet::between(SocketAddr::new(address, 4000), SocketAddr::new(vip, 80), transport);
        let (action, after) = self.kernel.test_run(&packet.bytes(), LOOPBACK)?;
        Ok((action == TRANSMIT).then(|| after[5].into()))
    }

    /// Sends a packet of a flow that is older than the change of the slots.
    fn learn(&mut self, client: u32) -> Result<()> {
        let to = self.send(client, ACK)?;
        ensure!(to.is_some_and(|to| to != NEW), "an old flow of client {client} went to {to:?}");
        Ok(())
    }

    fn entries(&self) -> Result<BTreeMap<FlowKey, FlowEntry>> {
        all(&mut *self.kernel.flow_table()?)
    }

    fn sweep(&self, now: u32) -> Result<Census> {
        sweep(&mut *self.kernel.flow_table()?, &self.around, now)
    }

    /// Live flows by backend as the kernel counts them, without zeros.
    fn live(&self) -> Result<BTreeMap<u32, u64>> {
        let mut live = self.kernel.counters(&[], &self.around.backends.iter().copied().collect::<Vec<_>>())?.live_flows;
        live.retain(|_, flows| *flows != 0);
        Ok(live)
    }
}

const VIP_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const VIP_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// The tables of a [`Rig`].
fn moving() -> Tables {
    let hop = |id: u32| {
        let [.., high, low] = id.to_be_bytes();
        abi::NextHop::new([2, 0, 0, 0, high, low], 1)
    };
    let backend =
        |id| abi::Backend { next_hop: hop(id), mode: abi::mode::L2, family: abi::family::V4, ..abi::Backend::zeroed() };
    let service = |id, first_slot| abi::Service { id, first_slot, slot_count: SLOTS, ..abi::Service::zeroed() };
    let (port, protocol, pad) = (80_u16.to_be_bytes(), abi::protocol::TCP, 0);
    let mac = [2, 0, 0, 0, 1, 0];
    Tables {
        rings: BTreeMap::new(),
        settings: Settings { abi_version: abi::ABI_VERSION, seed: [3, 4], ..Settings::default() },
        services_v4: [(abi::EndpointV4 { address: VIP_V4.octets(), port, protocol, pad }, service(1, 0))].into(),
        services_v6: [(abi::EndpointV6 { address: VIP_V6.octets(), port, protocol, pad }, service(2, SLOTS))].into(),
        slots: (0..2 * SLOTS).map(|slot| SlotWord::new(NEW, 1 + slot, true)).collect(),
        backends: (1..=NEW).map(|id| (id, backend(id))).collect(),
        reverse_v4: BTreeMap::new(),
        reverse_v6: BTreeMap::new(),
        egresses: [(1, abi::Egress { ifindex: LOOPBACK, mtu: 1500, mac, pad: [0; 2] })].into(),
        routes_v4: [(ipnet::Ipv4Net::default(), hop(1))].into(),
        routes_v6: BTreeMap::new(),
    }
}

/// Every second client has an IPv6 address.
fn client_address(client: u32) -> IpAddr {
    if client.is_multiple_of(2) {
        Ipv4Addr::from(0x0a00_0000 + client).into()
    } else {
        Ipv6Addr::from((0xfd00_u128 << 112) + u128::from(client)).into()
    }
}

fn client_of(key: &FlowKey) -> u32 {
    match key {
        FlowKey::V4(key) => u32::from_be_bytes(key.source) - 0x0a00_0000,
        FlowKey::V6(key) => u32::from_be_bytes([key.source[12], key.source[13], key.source[14], key.source[15]]),
    }
}

fn key_v4(client: u32) -> FlowKeyV4 {
    let (source, destination) = ((0x0a00_0000 + client).to_be_bytes(), VIP_V4.octets());
    let (source_port, destination_port) = (4000_u16.to_be_bytes(), 80_u16.to_be_bytes());
    FlowKeyV4 { source, destination, source_port, destination_port, protocol: abi::protocol::TCP.into() }
}

fn key_v6(client: u32) -> FlowKeyV6 {
    let (source, destination) = (u128::from(client).to_be_bytes(), VIP_V6.octets());
    let (source_port, destination_port) = (4000_u16.to_be_bytes(), 80_u16.to_be_bytes());
    FlowKeyV6 { source, destination, source_port, destination_port, protocol: abi::protocol::TCP.into() }
}

/// Buries those of these entries whose words are still the same, and gives their places back. How many it buried.
fn bury(table: &mut dyn FlowTable, entries: &[(FlowKey, FlowWord)]) -> Result<u64> {
    let mut buried = 0;
    for (key, judged) in entries {
        buried += u64::from(table.bury(key, *judged)?);
    }
    table.wait();
    while table.clear()? {}
    Ok(buried)
}

/// All entries that a sweep sees, none of them twice.
fn all(table: &mut dyn FlowTable) -> Result<BTreeMap<FlowKey, FlowEntry>> {
    let mut all = BTreeMap::new();
    loop {
        let entries = table.next()?;
        if entries.is_empty() {
            return Ok(all);
        }
        for (key, entry) in entries {
            ensure!(all.insert(key, entry).is_none(), "{key:?} comes twice");
        }
    }
}

/// Live flows by backend, counted one by one.
fn recount(entries: &BTreeMap<FlowKey, FlowEntry>) -> BTreeMap<u32, u64> {
    let mut live = BTreeMap::new();
    for entry in entries.values().filter(|entry| !entry.word.is_closed()) {
        *live.entry(entry.word.backend()).or_default() += 1;
    }
    live
}

/// What an entry says, whenever it was.
fn timeless(entry: FlowEntry) -> (u32, u8) {
    (entry.word.backend(), entry.word.flags())
}

/// Seconds of the clock that the packet path has.
fn now() -> u32 {
    u32::try_from(clock_gettime(ClockId::MonotonicCoarse).tv_sec).unwrap_or(u32::MAX)
}

/// The tables with slots that are about to change, in all the ways there are, and with some backends gone.
fn unsettled(tables: &Tables, rng: &mut Rng) -> Tables {
    let mut tables = tables.clone();
    for backend in tables.backends.values_mut() {
        backend.state = if rng.u8(..6) == 0 { abi::backend_state::GONE } else { 0 };
    }
    let services = tables.services_v4.values_mut().chain(tables.services_v6.values_mut());
    for service in services.filter(|service| service.flags & service_flags::VIP_MARKER == 0) {
        let own = tables.backends.iter().filter(|(_, backend)| backend.service == service.id);
        let ids: Vec<u32> = own.map(|(id, _)| *id).collect();
        let policies = [0, 0, service_flags::DROP, service_flags::REROUTE];
        let policy = rng.choice(policies).unwrap_or_default();
        service.flags = service.flags & service_flags::HASH_SOURCE | policy;
        service.choice = choice::SLOT;
        for slot in &mut tables.slots[service.first_slot as usize..][..service.slot_count as usize] {
            let mut id = || if rng.u8(..10) == 0 { None } else { rng.choice(&ids).copied() }.unwrap_or(abi::NO_BACKEND);
            let (current, base) = (id(), id());
            *slot = SlotWord::new(current, base, current != base || rng.bool());
        }
    }
    tables
}

const fn xdp_action(action: Action) -> u32 {
    match action {
        Action::Drop => 1,
        Action::Pass => 2,
        Action::Transmit => TRANSMIT,
        Action::Redirect => 4,
    }
}

/// A packet of one of few flows of the world's services: mostly of a client, or a reply of a `nat` backend.
fn packet(world: &World, rng: &mut Rng) -> Vec<u8> {
    let service = &world.services[rng.usize(..world.services.len())];
    let client = client_of_world(service.vip.is_ipv4(), rng);
    let port = if service.port == 0 { 7 } else { service.port };
    let flags = [SYN, SYN, ACK, ACK, ACK, TcpFlags { fin: true, ..ACK }, RST][rng.usize(..7)];
    let transport = match service.protocol {
        Protocol::Tcp => Transport::Tcp(flags, Vec::new()),
        Protocol::Udp => Transport::Udp,
    };
    let vip = SocketAddr::new(service.vip, port);
    let replier = rng.choice(&service.backends).filter(|_| service.mode == Mode::Nat && rng.u8(..3) == 0);
    match replier {
        Some(backend) => {
            let port = if backend.port == 0 { port } else { backend.port };
            Packet::between(SocketAddr::new(backend.address, port), client, transport).bytes()
        }
        None => Packet::between(client, vip, transport).bytes(),
    }
}

fn client_of_world(v4: bool, rng: &mut Rng) -> SocketAddr {
    let number = rng.u8(1..4);
    let address = if v4 {
        Ipv4Addr::new(198, 51, 100, number).into()
    } else {
        Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0x64, 0, 0, 0, number.into()).into()
    };
    SocketAddr::new(address, 40_000 + rng.u16(..2))
}
