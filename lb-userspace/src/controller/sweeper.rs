//! When the flow tables are swept, and what is known from it: which flows there are, which ids are free.
//!
//! A sweep goes on beside everything else, and judges entries by services, backends and the bases of slots as they were
//! when it began. So whatever changes one of these ends it: what it has not deleted by then stays, what it found is not
//! used, and another begins soon. Slots settle and backends leave only between two sweeps.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Result;
use lb_common::{
    abi::{FlowEntry, FlowWord, SlotWord},
    tracking::FlowEvent,
};
use tracing::debug;

use super::{
    clock::Moment,
    deviations::{Deviations, IN_FLIGHT},
    entry,
    mirror::Mirror,
    remains::Remains,
};
use crate::{
    flows::{Census, FlowKey, FlowTable, Surroundings, sweep},
    tables::{Endpoint, Tables, Write},
};

/// Pause between sweeps while there is something to find.
const BUSY: Duration = Duration::from_secs(5);
/// Pause between sweeps while nothing is tracked.
const QUIET: Duration = Duration::from_mins(1);

/// A sweep that is ready to run, on a thread of its own.
pub struct Job {
    table: Stoppable,
    around: Surroundings,
    now: u32,
}

/// What the sweeps say, and what depends on them.
#[derive(Debug)]
pub struct Sweeper {
    /// The slots that are tracked.
    pub deviations: Deviations,
    /// What is left of backends that have left.
    pub remains: Remains,
    /// Leaving backends that no slot names, and since when (monotonic clock).
    unnamed: BTreeMap<u32, Duration>,
    /// The last sweep that was not ended early, and when it began.
    last: (Census, Duration),
    /// When services' tables were written last, by first slot.
    written: BTreeMap<u32, Duration>,
    running: Option<Running>,
    /// Set once no sweep may change the flow table any more: another daemon's may. Held while one gives places back.
    halted: Arc<Mutex<bool>>,
    /// When the last one ended.
    ended: Duration,
    /// The flows that were refused when they were last counted.
    counted: Refused,
}

/// How often flows found no room in the flow table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Old ones that were to be learnt.
    pub old: u64,
    /// New ones.
    pub new: u64,
}

/// The sweep that is under way.
#[derive(Debug)]
struct Running {
    began: Duration,
    stop: Stop,
}

/// Set once a sweep must not take anything out any more. Held while it does.
type Stop = Arc<Mutex<bool>>;

impl Sweeper {
    /// After a first sweep at `now`, which nothing disturbed. `events` are the counts of [`FlowEvent`]s.
    #[must_use]
    pub fn new(mirror: &Mirror, census: Census, events: &[u64], now: Duration) -> Self {
        let unknown = census.backends.keys().filter(|id| !mirror.tables().backends.contains_key(id));
        let resting = unknown.map(|id| (*id, now)).collect();
        let mut sweeper = Self {
            deviations: Deviations::new(mirror, now),
            remains: Remains { resting, ..Remains::default() },
            unnamed: BTreeMap::new(),
            last: (census, now),
            written: BTreeMap::new(),
            running: None,
            halted: Arc::default(),
            ended: now,
            counted: Refused::of(events),
        };
        for (_, service) in mirror.services() {
            sweeper.look_for_unnamed(service.id, mirror, now);
        }
        sweeper
    }

    /// Must be called before `writes` are done to the tables of `mirror`: ends the sweep if it relies on what they change.
    pub fn before(&mut self, writes: &[Write], mirror: &Mirror) {
        if self.running.is_some() && writes.iter().any(|write| disturbs(write, mirror.tables())) {
            self.abandon();
        }
    }

    /// Ends the sweep.
    pub fn abandon(&mut self) {
        if let Some(running) = self.running.take() {
            *running.stop.lock().unwrap_or_else(PoisonError::into_inner) = true;
        }
    }

    /// Ends the sweep at once, and all to come: another daemon may sweep when this returns.
    pub fn halt(&mut self) {
        self.abandon();
        *self.halted.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// Takes in writes that `mirror` has taken.
    pub fn after(&mut self, writes: &[Write], mirror: &Mirror, now: Duration) {
        self.deviations.observe(writes, mirror, now);
        let mut services = Vec::new();
        for write in writes {
            match write {
                Write::ClearBackend(id) => {
                    self.remains.resting.insert(*id, now);
                    self.unnamed.remove(id);
                }
                Write::Backend(_, backend) => services.push(backend.service),
                Write::Slots { first, .. } => {
                    self.written.insert(*first, now);
                    services.extend(mirror.owner(*first));
                }
                Write::RemoveService(_, service) => {
                    self.written.remove(&service.first_slot);
                }
                _ => {}
            }
        }
        services.sort_unstable();
        services.dedup();
        for service in services {
            self.look_for_unnamed(service, mirror, now);
        }
    }

    /// Takes in that the tables were read again: `new` instead of what `old` said.
    pub fn read_again(&mut self, old: &Mirror, new: &Mirror, now: Duration) {
        self.abandon();
        self.deviations = Deviations::new(new, now);
        let cleared = old.tables().backends.keys().filter(|id| !new.tables().backends.contains_key(id));
        self.remains.resting.extend(cleared.map(|id| (*id, now)));
        self.unnamed.clear();
        for (_, service) in new.services() {
            self.look_for_unnamed(service.id, new, now);
        }
    }

    /// Whether a sweep is to begin.
    #[must_use]
    pub fn is_due(&self, now: Duration) -> bool {
        let busy = self.last.0.entries > 0
            || !self.deviations.is_empty()
            || !self.remains.resting.is_empty()
            || !self.unnamed.is_empty();
        self.running.is_none() && self.ended + if busy { BUSY } else { QUIET } <= now
    }

    /// Begins a sweep of `table`. It is under way until [`end`](Self::end).
    pub fn begin(&mut self, table: Box<dyn FlowTable>, around: Surroundings, now: Moment) -> Job {
        self.abandon();
        let stop = Stop::default();
        self.running = Some(Running { began: now.monotonic, stop: Arc::clone(&stop) });
        let halted = Arc::clone(&self.halted);
        Job { table: Stoppable { table, stop, halted }, around, now: now.seconds() }
    }

    /// Takes in how the sweep ended. Says when it began if nothing disturbed it; then slots may settle by what it found.
    pub fn end(&mut self, result: Result<Census>, now: Duration) -> Result<Option<Duration>> {
        self.ended = now;
        let running = self.running.take();
        let census = result?;
        let Some(Running { began, .. }) = running else { return Ok(None) };
        debug!("{} flows are tracked; the sweep took {:?}, deleted {:?}", census.entries, census.took, census.ended);
        let named = &census.backends;
        self.remains.resting.retain(|id, since| named.contains_key(id) || *since + IN_FLIGHT > began);
        let unnamed = self.unnamed.iter();
        let released = unnamed.filter(|(id, since)| **since + IN_FLIGHT <= began && !named.contains_key(id));
        self.remains.released = released.map(|(id, _)| *id).collect();
        self.last = (census, began);
        Ok(Some(began))
    }

    /// What the last sweep found, and when it began.
    #[must_use]
    pub const fn last(&self) -> (&Census, Duration) {
        (&self.last.0, self.last.1)
    }

    /// Whether the last sweep has seen all flows that the service with this range had entered before its tables were last
    /// written.
    #[must_use]
    pub fn has_seen(&self, first_slot: u32) -> bool {
        self.written.get(&first_slot).is_none_or(|written| *written + IN_FLIGHT <= self.last.1)
    }

    /// The flows that were refused since this was last asked, by the counts of [`FlowEvent`]s. They are their slots' bases'
    /// without an entry, though they have just spoken: slots need more time to settle.
    pub fn refused(&mut self, events: &[u64], now: Duration) -> Refused {
        let counted = Refused::of(events);
        let before = std::mem::replace(&mut self.counted, counted);
        let refused =
            Refused { old: counted.old.saturating_sub(before.old), new: counted.new.saturating_sub(before.new) };
        if refused.old > 0 || refused.new > 0 {
            self.deviations.begin_anew(now);
        }
        refused
    }

    /// Finds out which leaving backends of a service no slot names.
    fn look_for_unnamed(&mut self, service: u32, mirror: &Mirror, now: Duration) {
        if !mirror.has_leaving(service) && self.unnamed.is_empty() {
            return;
        }
        let tables = mirror.tables();
        let leaving = |id: &u32| tables.backends.get(id).is_some_and(entry::is_leaving);
        let own: Vec<u32> = mirror.backends_of(service).collect();
        if own.iter().any(|id| leaving(id) || self.unnamed.contains_key(id)) {
            let named = mirror.named_by(service);
            for id in own {
                if leaving(&id) && !named.contains(&id) {
                    self.unnamed.entry(id).or_insert(now);
                } else {
                    self.unnamed.remove(&id);
                }
            }
        }
    }
}

impl Drop for Sweeper {
    /// However the controller ends.
    fn drop(&mut self) {
        self.halt();
    }
}

impl Refused {
    fn of(events: &[u64]) -> Self {
        let count = |event: FlowEvent| events.get(event as usize).copied().unwrap_or(0);
        Self { old: count(FlowEvent::NotLearnt), new: count(FlowEvent::NotOpened) }
    }
}

/// Whether a sweep that began with `tables` as they are must not go on after this write.
fn disturbs(write: &Write, tables: &Tables) -> bool {
    match write {
        Write::Service(key, service) => !key.is_vip_marker() && tables.services.get(key) != Some(service),
        Write::RemoveService(key, _) => !key.is_vip_marker(),
        Write::Backend(id, _) => !tables.backends.contains_key(id),
        Write::ClearBackend(_) => true,
        Write::Slots { first, words } => tables.slots.get(first).is_none_or(|old| {
            words.iter().any(|(offset, new)| old.get(*offset as usize).is_none_or(|old| old.base() != new.base()))
        }),
        _ => false,
    }
}

/// What a sweep of the tables of `mirror` has to know. Where it is not told in `idle` after how many seconds a service
/// forgets a silent flow, it forgets none.
#[must_use]
pub fn surroundings(mirror: &Mirror, idle: &BTreeMap<Endpoint, u32>, seed: [u64; 2]) -> Surroundings {
    let services: HashMap<_, _> = mirror
        .services()
        .map(|(key, service)| (*key, (*service, idle.get(key).copied().unwrap_or(u32::MAX))))
        .collect();
    Surroundings { services, backends: mirror.tables().backends.keys().copied().collect(), seed }
}

impl Job {
    /// Sweeps.
    ///
    /// # Errors
    /// The table can't be read or changed.
    pub fn run(mut self) -> Result<Census> {
        sweep(&mut self.table, &self.around, self.now)
    }
}

/// A flow table that ends the sweep when it is told to. What the sweep has buried by then it still gives back, unless
/// it has to halt: the controller begins no other before.
struct Stoppable {
    table: Box<dyn FlowTable>,
    stop: Stop,
    halted: Arc<Mutex<bool>>,
}

impl FlowTable for Stoppable {
    fn next(&mut self) -> Result<Vec<(FlowKey, FlowEntry)>> {
        let stopped = *self.stop.lock().unwrap_or_else(PoisonError::into_inner);
        if stopped { Ok(Vec::new()) } else { self.table.next() }
    }

    fn slot(&self, index: u32) -> Option<SlotWord> {
        self.table.slot(index)
    }

    fn bury(&mut self, key: &FlowKey, judged: FlowWord) -> Result<bool> {
        let stopped = self.stop.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(!*stopped && self.table.bury(key, judged)?)
    }

    fn wait(&self) {
        self.table.wait();
    }

    fn clear(&mut self) -> Result<bool> {
        let halted = self.halted.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(!*halted && self.table.clear()?)
    }
}
