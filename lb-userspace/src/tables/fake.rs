//! A data plane in memory, for tests.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use anyhow::{Result, bail};
use lb_common::abi::{FlowEntry, FlowWord, NO_BACKEND, SlotWord};

use super::{Attachment, Counters, Dataplane, Explained, TableMemory, Tables, Write};
use crate::{
    flows::{FlowKey, FlowTable},
    spec::XdpMode,
};

/// Entries that a sweep of a [`FakeDataplane`] gets at once: few, so that every sweep takes several steps.
const BATCH: usize = 3;

/// Kernel tables in memory. Clones share them, as restarted daemons share the pinned maps.
#[derive(Clone, Default)]
pub struct FakeDataplane(Arc<Mutex<Kernel>>);

/// What a [`FakeDataplane`] holds.
#[derive(Default)]
pub struct Kernel {
    /// All but the slots and the rings, which are in `slots` and `rings` as in the kernel: without ranges and lengths.
    pub tables: Tables,
    /// The slot array; it grows as it is written.
    pub slots: BTreeMap<u32, SlotWord>,
    /// The array of rings; one grows as it is written, and never shrinks.
    pub rings: BTreeMap<u32, Vec<u32>>,
    /// The flow tables.
    pub flows: BTreeMap<FlowKey, FlowEntry>,
    /// Flows that speak when the sweep that has judged them is about to delete them.
    pub speaking: BTreeSet<FlowKey>,
    /// Every write that was done.
    pub log: Vec<Write>,
    /// Writes that still succeed before one fails, once; `None` is all of them.
    pub fail_after: Option<usize>,
    /// Nothing can be read or written any more once one write has failed: whoever writes has died.
    pub dies: bool,
    /// What [`Dataplane::wanted_neighbours`] answers next.
    pub wanted: Vec<IpAddr>,
    /// What [`Dataplane::counters`] answers, filtered by the ids; but live flows are counted in `flows`.
    pub counters: Counters,
    /// Why the interface can't be attached to, if it can't; [`Dataplane::reattach`] finds out.
    pub obstacle: Option<String>,
    /// The obstacle as last found.
    pub found: Option<String>,
    /// What [`Dataplane::explain`] answers next, in turn.
    pub explained: Vec<Explained>,
    /// Whether [`Dataplane::detach`] was called.
    pub detached: bool,
}

impl FakeDataplane {
    /// The tables themselves, to look at or to disturb.
    ///
    /// # Panics
    /// Whoever had them last panicked.
    pub fn kernel(&self) -> MutexGuard<'_, Kernel> {
        self.0.lock().unwrap()
    }

    /// After this many writes more whoever writes dies, and can't read or write any more. `None` brings back life.
    pub fn fail(&self, after: Option<usize>) {
        let mut kernel = self.kernel();
        (kernel.fail_after, kernel.dies) = (after, after.is_some());
    }
}

impl Kernel {
    /// The tables as a controller reads them.
    ///
    /// # Panics
    /// Two services share a range.
    #[must_use]
    pub fn read(&self) -> Tables {
        let mut tables = self.tables.clone();
        for (key, service) in tables.services.iter().filter(|(key, _)| !key.is_vip_marker()) {
            let range = service.first_slot..service.first_slot + service.slot_count;
            let empty = SlotWord::steady(NO_BACKEND);
            let words = range.map(|slot| self.slots.get(&slot).copied().unwrap_or(empty)).collect();
            let twice = tables.slots.insert(service.first_slot, words);
            assert!(twice.is_none(), "{key:?} shares its range");
            if service.ring_length > 0 {
                let ring = self.rings.get(&service.id).into_iter().flatten().copied();
                let ring = ring.chain(std::iter::repeat(NO_BACKEND)).take(service.ring_length as usize);
                tables.rings.insert(service.id, ring.collect());
            }
        }
        tables
    }

    /// Entries of the flow tables that name a backend and that nobody has closed.
    #[must_use]
    pub fn live_flows(&self, backend: u32) -> u64 {
        let words = self.flows.values().map(|entry| entry.word);
        words.filter(|word| word.backend() == backend && !word.is_closed()).count() as u64
    }

    fn check_alive(&self) -> Result<()> {
        if self.dies && self.fail_after == Some(0) {
            bail!("the daemon is dead");
        }
        Ok(())
    }

    /// Does one write.
    pub fn write(&mut self, write: &Write) {
        self.log.push(write.clone());
        match write {
            Write::Slots { first, words } => {
                self.slots.extend(words.iter().map(|(offset, word)| (first + offset, *word)));
            }
            Write::Ring(service, backends) => {
                let ring = self.rings.entry(*service).or_default();
                ring.resize(ring.len().max(backends.len()), NO_BACKEND);
                ring[..backends.len()].copy_from_slice(backends);
            }
            other => self.tables.apply(other),
        }
    }
}

impl Dataplane for FakeDataplane {
    fn read(&self) -> Result<Tables> {
        self.kernel().check_alive()?;
        Ok(self.kernel().read())
    }

    fn write(&mut self, writes: &[Write]) -> Result<()> {
        let mut kernel = self.kernel();
        for write in writes {
            kernel.check_alive()?;
            match &mut kernel.fail_after {
                Some(0) => {
                    kernel.fail_after = None;
                    bail!("the map is out of order");
                }
                Some(left) => *left -= 1,
                None => {}
            }
            kernel.write(write);
        }
        Ok(())
    }

    fn wanted_neighbours(&mut self) -> Result<Vec<IpAddr>> {
        Ok(std::mem::take(&mut self.kernel().wanted))
    }

    fn counters(&self, services: &[u32], backends: &[u32]) -> Result<Counters> {
        let kernel = self.kernel();
        let mut counters = kernel.counters.clone();
        counters.services.retain(|id, _| services.contains(id));
        counters.backends.retain(|id, _| backends.contains(id));
        counters.handshakes.retain(|id, _| backends.contains(id));
        counters.live_flows = backends.iter().map(|id| (*id, kernel.live_flows(*id))).collect();
        Ok(counters)
    }

    fn flow_table(&self) -> Result<Box<dyn FlowTable>> {
        let unseen = self.kernel().flows.keys().copied().collect();
        Ok(Box::new(FakeFlowTable { dataplane: self.clone(), unseen }))
    }

    fn memory(&self) -> Result<Vec<TableMemory>> {
        Ok(vec![TableMemory { name: "flows-v4".into(), bytes: 4096 }])
    }

    fn seed(&self) -> [u64; 2] {
        [1, 2]
    }

    fn explain(&mut self, _: &[u8], _: u32) -> Result<Explained> {
        let explained = &mut self.kernel().explained;
        if explained.is_empty() {
            bail!("nothing is loaded")
        }
        Ok(explained.remove(0))
    }

    fn reattach(&mut self) {
        let mut kernel = self.kernel();
        kernel.found = kernel.obstacle.clone();
    }

    fn attachments(&self) -> Vec<Attachment> {
        let kernel = self.kernel();
        let xdp = (!kernel.detached && kernel.found.is_none()).then_some(XdpMode::Native);
        let why = kernel.found.clone().unwrap_or_else(|| "as configured".into());
        vec![Attachment { interface: "fake0".into(), index: 1, xdp, why }]
    }

    fn detach(&mut self) -> Result<()> {
        self.kernel().detached = true;
        Ok(())
    }
}

/// One sweep of the flow tables of a [`FakeDataplane`].
struct FakeFlowTable {
    dataplane: FakeDataplane,
    /// Keys of the entries that the sweep has not got yet, if they are still there.
    unseen: BTreeSet<FlowKey>,
}

impl FlowTable for FakeFlowTable {
    fn next(&mut self) -> Result<Vec<(FlowKey, FlowEntry)>> {
        let kernel = self.dataplane.kernel();
        let mut entries = Vec::new();
        while entries.len() < BATCH
            && let Some(key) = self.unseen.pop_first()
        {
            entries.extend(kernel.flows.get(&key).map(|entry| (key, *entry)));
        }
        Ok(entries)
    }

    fn slot(&self, index: u32) -> Option<SlotWord> {
        self.dataplane.kernel().slots.get(&index).copied()
    }

    fn bury(&mut self, key: &FlowKey, judged: FlowWord) -> Result<bool> {
        let kernel = &mut *self.dataplane.kernel();
        let Some(entry) = kernel.flows.get_mut(key) else { return Ok(false) };
        if kernel.speaking.contains(key) {
            entry.word = FlowWord::new(judged.backend(), judged.flags(), judged.seen() + 1);
        }
        let unchanged = entry.word == judged;
        if unchanged {
            kernel.flows.remove(key);
        }
        Ok(unchanged)
    }

    fn wait(&self) {}

    fn clear(&mut self) -> Result<bool> {
        Ok(false)
    }
}
