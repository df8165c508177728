//! Weir's program, loaded and configured for a row.

use std::collections::BTreeMap;

use anyhow::Context as _;
use aya::programs::ProgramFd;
use ipnet::IpNet;
use lb_common::abi::{SlotWord, Traffic};
use weir::{
    dataplane::Kernel,
    object::OBJECT,
    tables::{Capacity, Counters, Dataplane as _, Endpoint, Tables, diff},
};
use weir_packets::{tables::Tables as Entries, world::World};

use super::{
    rows::{MOST_FLOW_BITS, Setting},
    world::world,
};

/// The program under test with maps of its own, which are gone with it.
pub struct Balancer {
    kernel: Kernel,
    /// What it is configured with.
    pub world: World,
    /// Backends that take no new flows, and still are the `base` of tracked slots. Nothing of a flow that was opened since
    /// may reach them.
    pub retired: Vec<u32>,
    services: Vec<u32>,
    backends: Vec<u32>,
}

impl Balancer {
    /// Loads it and configures it by `setting`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn load(setting: &Setting) -> anyhow::Result<Self> {
        let world = world(setting);
        let mut entries = Entries::from(&world);
        let retired = track(&world, &mut entries, setting.tracked);
        let mut kernel = Kernel::open_unpinned(OBJECT, entries.settings, &capacity(&world, &entries, setting)?)
            .context("cannot load the balancer")?;
        kernel.write(&diff(&Tables::default(), &tables(&entries)))?;
        let services = world.services().map(|(id, _)| id).collect();
        let backends = entries.backends.keys().copied().collect();
        Ok(Self { kernel, world, retired, services, backends })
    }

    /// The program.
    ///
    /// # Errors
    /// It is not there.
    pub fn program(&mut self) -> anyhow::Result<&ProgramFd> {
        self.kernel.program_fd()
    }

    /// What it has counted.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn counters(&self) -> anyhow::Result<Counters> {
        self.kernel.counters(&self.services, &self.backends)
    }

    /// Sums `backends`, counters by backend, by service.
    #[must_use]
    pub fn by_service(&self, backends: &BTreeMap<u32, Traffic>) -> BTreeMap<u32, Traffic> {
        let sum = |service: &weir_packets::world::Service| {
            let counters = service.backends.iter().filter_map(|backend| backends.get(&backend.id));
            counters.fold(Traffic::default(), |mut sum, more| {
                sum += *more;
                sum
            })
        };
        self.world.services().map(|(id, service)| (id, sum(service))).collect()
    }
}

/// Tracks `percent` of every service's slots: their `base` stays the service's first backend, as after it was taken out of
/// service. Returns these backends.
fn track(world: &World, entries: &mut Entries, percent: u8) -> Vec<u32> {
    let mut retired = Vec::new();
    let mut slots = entries.slots.iter_mut();
    for service in &world.services {
        let words = slots.by_ref().take(service.slots.len());
        let Some(first) = service.backends.first().filter(|_| percent > 0) else { continue };
        retired.push(first.id);
        for (_, word) in words.enumerate().filter(|(at, _)| at % 100 < usize::from(percent)) {
            *word = SlotWord::new(word.current(), first.id, true);
        }
    }
    retired
}

fn capacity(world: &World, entries: &Entries, setting: &Setting) -> anyhow::Result<Capacity> {
    let services = u32::try_from(world.services.len())?;
    Ok(Capacity {
        service_ids: services + 1,
        backend_ids: entries.backend_entries(),
        slots: u32::try_from(entries.slots.len())?,
        routes: u32::try_from(world.routes.len())?,
        // For the flows of all rows of a configuration, which have more flows from row to row.
        flows: if setting.tracked == 0 { 1 } else { 2 << MOST_FLOW_BITS },
        egresses: 16,
    })
}

/// The entries as the controller states them.
fn tables(entries: &Entries) -> Tables {
    let services = endpoints(&entries.services_v4, &entries.services_v6);
    let ranges = services.values().filter(|service| service.slot_count > 0).map(|service| {
        let words = entries.slots.iter().skip(service.first_slot as usize).take(service.slot_count as usize);
        (service.first_slot, words.copied().collect())
    });
    let slots = ranges.collect();
    let routes_v4 = entries.routes_v4.iter().map(|(net, hop)| (IpNet::V4(*net), *hop));
    let routes_v6 = entries.routes_v6.iter().map(|(net, hop)| (IpNet::V6(*net), *hop));
    Tables {
        rings: BTreeMap::new(),
        slots,
        backends: entries.backends.clone(),
        reverse: endpoints(&entries.reverse_v4, &entries.reverse_v6),
        routes: routes_v4.chain(routes_v6).collect(),
        egresses: entries.egresses.clone(),
        services,
    }
}

/// The entries of a map of each family under their common keys.
fn endpoints<A, B, V>(v4: &BTreeMap<A, V>, v6: &BTreeMap<B, V>) -> BTreeMap<Endpoint, V>
where
    A: Copy + Into<Endpoint>,
    B: Copy + Into<Endpoint>,
    V: Copy,
{
    let v4 = v4.iter().map(|(key, value)| ((*key).into(), *value));
    v4.chain(v6.iter().map(|(key, value)| ((*key).into(), *value))).collect()
}
