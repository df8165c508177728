//! What the controller does as time goes by: phases that end, sweeps, and what follows from them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context, Result};
use lb_common::abi::{Service, service_flags};
use tracing::{error, info, warn};

use super::{
    affected::Affected,
    clock::Moment,
    core::Core,
    desired::{BackendKey, Plan},
    deviations::Findings,
    entry,
    mirror::Mirror,
    sweeper::{Job, Sweeper, surroundings},
    want::Want,
};
use crate::{
    flows::{Census, sweep},
    health::Answers,
    tables::{Dataplane, Endpoint, Write},
};

/// Sweeps once, so that from the first moment it is known which ids flows name. The data plane forwards meanwhile.
pub fn first_sweep(dataplane: &dyn Dataplane, mirror: &Mirror, want: &Want, now: Moment) -> Result<Sweeper> {
    let around = surroundings(mirror, &idle(want), dataplane.seed());
    let mut table = dataplane.flow_table().context("can't read the flow tables")?;
    let census = sweep(&mut *table, &around, now.seconds()).context("can't sweep the flow tables")?;
    let events = dataplane.counters(&[], &[]).context("can't read the counters")?.flow_events;
    Ok(Sweeper::new(mirror, census, &events, now.monotonic))
}

/// Seconds of silence after which each service forgets a flow.
fn idle(want: &Want) -> BTreeMap<Endpoint, u32> {
    let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    want.services().into_iter().map(|(key, service)| (key, seconds(service.idle))).collect()
}

impl Core {
    /// Takes in that time has passed: backends that were held, or drained until now, are gone; others get more of their
    /// share, or less.
    pub fn tick(&mut self, now: Moment) {
        let due = self.due.iter().filter(|(_, due)| **due <= now.wall);
        let mut affected: BTreeSet<_> = due.map(|(key, _)| *key).collect();
        affected.append(&mut self.weights.tick(&self.want.services(), now.monotonic));
        if !affected.is_empty() {
            self.keep_right(Affected::services(affected), now);
        }
    }

    /// Whether it wants to be told how long answers to health checks took.
    #[must_use]
    pub fn wants_times(&self, now: Moment) -> bool {
        self.weights.wants_times(now.monotonic)
    }

    /// Takes in how long backends take: to answer health checks since this was last told, and handshakes of clients.
    pub fn take_times<'a>(&mut self, answers: impl Iterator<Item = (&'a BackendKey, Answers)>) {
        answers.for_each(|(backend, answers)| self.weights.take_answers(backend, answers));
        let services = self.mirror.services().filter(|(_, entry)| entry.flags & service_flags::TIME_HANDSHAKES != 0);
        let keys: BTreeMap<u32, BackendKey> = services
            .flat_map(|(key, entry)| self.mirror.backends_of(entry.id).map(move |id| (*key, id)))
            .filter_map(|(service, id)| {
                let (_, address, port) = entry::identity(self.mirror.tables().backends.get(&id)?);
                Some((id, BackendKey { service, address, port }))
            })
            .collect();
        match self.dataplane.counters(&[], &keys.keys().copied().collect::<Vec<_>>()) {
            Ok(counters) => {
                let known = counters.handshakes.iter().filter_map(|(id, times)| Some((keys.get(id)?, *times)));
                known.for_each(|(backend, times)| self.weights.take_handshakes(backend, times));
            }
            Err(error) => warn!("can't read how long handshakes took: {error:#}"),
        }
    }

    /// A sweep of the flow tables, if one is due.
    pub fn begin_sweep(&mut self, now: Moment) -> Option<Job> {
        if self.suspect || !self.sweeper.is_due(now.monotonic) {
            return None;
        }
        let around = surroundings(&self.mirror, &idle(&self.want), self.dataplane.seed());
        match self.dataplane.flow_table() {
            Ok(table) => Some(self.sweeper.begin(table, around, now)),
            Err(error) => {
                self.end_sweep(Err(error), now);
                None
            }
        }
    }

    /// Takes in what a sweep has found: slots settle, and backends that have no flow left leave.
    pub fn end_sweep(&mut self, result: Result<Census>, now: Moment) {
        match self.sweeper.end(result, now.monotonic) {
            Ok(None) => {}
            // What is known of the tables may be wrong: that has to be put right first.
            Ok(Some(_)) if self.suspect => {}
            Ok(Some(began)) => {
                if let Err(failure) = self.settle(began, now).and_then(|()| self.release(now)) {
                    error!("slots could not be settled, trying again: {failure:#}");
                }
            }
            Err(failure) => error!("the flow tables could not be swept, trying again: {failure:#}"),
        }
        self.sweeper.remains.released.clear();
    }

    fn settle(&mut self, began: Duration, now: Moment) -> Result<()> {
        let events = self.dataplane.counters(&[], &[]).context("can't read the counters")?.flow_events;
        let refused = self.sweeper.refused(&events, now.monotonic);
        if refused.old > 0 || refused.new > 0 {
            warn!(
                "the flow table is full: {} new flows and {} packets of old ones found no room, so that slots take longer to \
                 settle; start anew after `weir detach` with a larger node.tables.flows",
                refused.new, refused.old
            );
        }
        let services = self.want.services();
        let settle_after = self.mirror.services().filter_map(|(key, entry)| {
            let service = services.get(key)?;
            Some((entry.first_slot, service.settle_after))
        });
        let entries = self.mirror.tables().backends.iter();
        let writes = self.sweeper.deviations.settle(
            &self.mirror,
            &Findings {
                census: self.sweeper.last().0,
                began,
                now: now.monotonic,
                full: refused.new > 0,
                settle_after: &settle_after.collect(),
                gone: &entries.filter(|(_, entry)| entry::is_gone(entry)).map(|(id, _)| *id).collect(),
            },
        );
        self.log_settled(&writes);
        self.write(&writes, now)
    }

    /// Clears the entries of backends that nothing names any more.
    fn release(&mut self, now: Moment) -> Result<()> {
        let released = self.sweeper.remains.released.clone();
        let tables = self.mirror.tables();
        let service_of = |id: &u32| {
            let entry = tables.backends.get(id)?;
            self.mirror.services().find(|(_, service)| service.id == entry.service).map(|(key, _)| *key)
        };
        let affected: BTreeSet<_> = released.iter().filter_map(service_of).collect();
        if affected.is_empty() {
            return Ok(());
        }
        let left: Vec<_> = affected
            .iter()
            .flat_map(|key| self.mirror.leaving(key).map(|(id, backend)| (*key, id, backend)))
            .filter(|(_, id, _)| released.contains(id))
            .collect();
        self.reconcile(Affected::services(affected), now)?;
        for (key, _, backend) in left {
            info!("backend {}/{} has left: no flow of it is left", self.name(&key), backend.name);
        }
        // Their neighbours need not be kept fresh any more.
        if let Some(affected) = self.want.look_up_all(&self.mirror, &self.view, self.capacity.routes) {
            self.keep_right(affected, now);
        }
        self.reconfigured = true;
        Ok(())
    }

    /// When services that were planned are due again. Those of which only a few backends were looked at stay due for the
    /// others.
    pub(super) fn follow_due(&mut self, plan: &Plan) {
        self.due.retain(|key, _| !plan.looked_at.services.contains(key));
        for (key, due) in &plan.due {
            self.due.entry(*key).and_modify(|sooner| *sooner = (*sooner).min(*due)).or_insert(*due);
        }
    }

    fn log_settled(&self, writes: &[Write]) {
        for write in writes {
            let Write::Slots { first, words } = write else { continue };
            let Some(old) = self.mirror.tables().slots.get(first) else { continue };
            let base = |offset: u32| old.get(offset as usize).map(|word| word.base());
            let settled = words.iter().filter(|(offset, new)| base(*offset) != Some(new.base())).count();
            let of_range = |(key, service): (&Endpoint, &Service)| (service.first_slot == *first).then_some(*key);
            if settled > 0
                && let Some(key) = self.mirror.services().find_map(of_range)
            {
                info!("service {}: {settled} slots settled: their old flows are known one by one", self.name(&key));
            }
        }
    }

    fn name(&self, key: &Endpoint) -> String {
        self.want.services().get(key).map(|service| service.name.clone()).unwrap_or_default()
    }
}
