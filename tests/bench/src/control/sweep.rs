//! Sweeping a large flow table: the program's own maps and no daemon.

use std::{
    collections::{BTreeMap, HashMap},
    net::Ipv4Addr,
    time::Instant,
};

use anyhow::{Result, ensure};
use bytemuck::Zeroable as _;
use lb_common::{
    abi::{self, FlowEntry, FlowKeyV4, FlowWord, Service, Settings, SlotWord, flow_flags, protocol},
    settling::End,
};
use rustix::time::{ClockId, clock_gettime};
use weir::{
    dataplane::Kernel,
    flows::{FlowKey, FlowTable, Surroundings, sweep},
    object::OBJECT,
    spec::TableSizes,
    tables::{Capacity, Dataplane as _, Endpoint, Write},
};

use super::report::{FLOOR, Rounds};

/// Backends, between which the flows are.
const BACKENDS: u32 = 100;
/// Slots, all of them on the move from the last backend to the next.
const SLOTS: u32 = 1 << 14;
const VIP: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// Seconds after which a flow is forgotten.
const IDLE: u32 = 3600;

/// Sweeps over `flows` that are all needed.
///
/// # Errors
/// The kernel refuses, or one of them was not kept.
pub fn keep(flows: u32, rounds: u32) -> Result<Rounds> {
    let rig = Rig::new(flows)?;
    rig.enter(flows)?;
    let mut measured = Rounds::default();
    for _ in 0..rounds {
        measured.add(FLOOR, "ms", rig.read(flows)?);
        let census = sweep(&mut *rig.kernel.flow_table()?, &rig.around, now())?;
        ensure!(
            census.entries == u64::from(flows) && census.ended.is_empty(),
            "kept {}, {:?}",
            census.entries,
            census.ended
        );
        measured.add("sweep", "ms", census.took.as_secs_f64() * 1e3);
    }
    Ok(measured)
}

/// Sweeps over `flows` that have all been silent for too long.
///
/// # Errors
/// The kernel refuses, or one of them was kept.
pub fn delete(flows: u32, rounds: u32) -> Result<Rounds> {
    let rig = Rig::new(flows)?;
    let mut measured = Rounds::default();
    for _ in 0..rounds {
        rig.enter(flows)?;
        measured.add(FLOOR, "ms", rig.read(flows)?);
        let census = sweep(&mut *rig.kernel.flow_table()?, &rig.around, now() + IDLE + 10)?;
        let all_idle = census.ended == BTreeMap::from([(End::Idle, u64::from(flows))]);
        ensure!(census.entries == 0 && all_idle, "kept {}, {:?}", census.entries, census.ended);
        measured.add("sweep", "ms", census.took.as_secs_f64() * 1e3);
    }
    Ok(measured)
}

/// The balancer, loaded for this alone.
struct Rig {
    kernel: Kernel,
    around: Surroundings,
}

impl Rig {
    fn new(flows: u32) -> Result<Self> {
        let sizes = TableSizes { services: 1, backends: BACKENDS, slots: SLOTS, routes: 1, flows };
        let settings = Settings { abi_version: abi::ABI_VERSION, seed: [1, 2], ..Settings::default() };
        let mut kernel = Kernel::open_unpinned(OBJECT, settings, &Capacity::of(&sizes))?;
        let service = Service { id: 1, slot_count: SLOTS, ..Service::zeroed() };
        let endpoint = Endpoint { address: VIP.into(), port: 443, protocol: protocol::TCP };
        let backend =
            abi::Backend { mode: abi::mode::L2, family: abi::family::V4, service: 1, ..abi::Backend::zeroed() };
        let mut writes: Vec<Write> = (1..=BACKENDS).map(|id| Write::Backend(id, backend)).collect();
        let words = (0..SLOTS).map(|slot| (slot, SlotWord::new(1 + slot % BACKENDS, 1 + (slot + 1) % BACKENDS, true)));
        writes.push(Write::Slots { first: 0, words: words.collect() });
        writes.push(Write::Service(endpoint, service));
        kernel.write(&writes)?;
        let around = Surroundings {
            services: HashMap::from([(endpoint, (service, IDLE))]),
            backends: (1..=BACKENDS).collect(),
            seed: settings.seed,
        };
        Ok(Self { kernel, around })
    }

    /// Enters so many flows, established just now.
    fn enter(&self, flows: u32) -> Result<()> {
        for flow in 0..flows {
            let word = FlowWord::new(1 + flow % BACKENDS, flow_flags::ESTABLISHED, now());
            self.kernel.flows().set(&FlowKey::V4(key(flow)), &FlowEntry { word, opened: 0 })?;
        }
        Ok(())
    }

    /// Reads all of `flows` and does nothing with them: milliseconds.
    fn read(&self, flows: u32) -> Result<f64> {
        let began = Instant::now();
        let mut table: Box<dyn FlowTable> = self.kernel.flow_table()?;
        let mut read = 0;
        loop {
            let entries = table.next()?.len();
            if entries == 0 {
                break;
            }
            read += entries;
        }
        let took = began.elapsed();
        ensure!(read == flows as usize, "{read} flows in place of {flows}");
        Ok(took.as_secs_f64() * 1e3)
    }
}

fn key(flow: u32) -> FlowKeyV4 {
    let source = (u32::from_be_bytes([10, 0, 0, 0]) + flow).to_be_bytes();
    let (source_port, destination_port) = (40_000_u16.to_be_bytes(), 443_u16.to_be_bytes());
    FlowKeyV4 { source, destination: VIP.octets(), source_port, destination_port, protocol: protocol::TCP.into() }
}

/// Seconds of the clock that the packet path has.
fn now() -> u32 {
    u32::try_from(clock_gettime(ClockId::MonotonicCoarse).tv_sec).unwrap_or(u32::MAX)
}
