//! One sweep.

use std::time::Instant;

use lb_common::{
    abi::{FlowEntry, Service, SlotWord, service_flags},
    hash,
    settling::{Keep, end_of},
};

use super::{Census, FlowKey, FlowTable, Surroundings};
use crate::tables::Endpoint;

/// Sweeps `table` at the time `now`, in seconds of the monotonic clock.
///
/// # Errors
/// The table can't be read or changed. What was deleted by then was needed no longer.
pub fn sweep(table: &mut dyn FlowTable, around: &Surroundings, now: u32) -> anyhow::Result<Census> {
    let began = Instant::now();
    let mut census = Census::default();
    loop {
        let entries = table.next()?;
        if entries.is_empty() {
            break;
        }
        for (key, entry) in entries {
            let place = Place::of(&key, around, table);
            let slot = place.map(|place| place.slot);
            match end_of(&entry, &keep(&key, place, entry.word.backend(), around), now) {
                Some(end) if table.bury(&key, entry.word)? => *census.ended.entry(end).or_default() += 1,
                // A flow that spoke in between still names its backend and is in its slot.
                _ => census.count(&key, &entry, slot),
            }
        }
    }
    table.wait();
    while table.clear()? {}
    census.took = began.elapsed();
    Ok(census)
}

/// Where a flow is.
#[derive(Clone, Copy)]
struct Place<'a> {
    /// The service that takes it, and after how many seconds of silence that forgets it.
    service: &'a Service,
    idle: u32,
    /// Its slot: index in the slot array and word.
    slot: u32,
    word: SlotWord,
}

impl<'a> Place<'a> {
    /// Finds it as the packet path does; `None` if no service has the flow's destination.
    fn of(key: &FlowKey, around: &'a Surroundings, table: &dyn FlowTable) -> Option<Self> {
        let endpoint = key.destination();
        let every_port = Endpoint { port: 0, ..endpoint };
        let (service, idle) = around.services.get(&endpoint).or_else(|| around.services.get(&every_port))?;
        let hash = slot_hash(key, service, around.seed);
        let slot = service.first_slot.wrapping_add(hash::slot_of(hash, service.slot_count));
        Some(Self { service, idle: *idle, slot, word: table.slot(slot)? })
    }
}

/// What decides about an entry of the flow `key` at `place` that names `backend`.
fn keep(key: &FlowKey, place: Option<Place<'_>>, backend: u32, around: &Surroundings) -> Keep {
    Keep {
        slot: place.map(|place| place.word),
        backend_exists: around.backends.contains(&backend),
        is_tcp: key.is_tcp(),
        track_every_flow: place.is_some_and(|place| place.service.tracks_every_flow()),
        idle: place.map_or(0, |place| place.idle),
    }
}

/// The hash that chooses the slot of a flow.
fn slot_hash(key: &FlowKey, service: &Service, seed: [u64; 2]) -> u64 {
    match key {
        _ if service.flags & service_flags::HASH_SOURCE == 0 => key.hash(seed),
        FlowKey::V4(key) => hash::source_v4(seed, key.source),
        FlowKey::V6(key) => hash::source_v6(seed, key.source),
    }
}

impl Census {
    /// Counts an entry that is left.
    fn count(&mut self, key: &FlowKey, entry: &FlowEntry, slot: Option<u32>) {
        self.entries += 1;
        self.entries_v6 += u64::from(matches!(key, FlowKey::V6(_)));
        self.occupied.extend(slot);
        let flows = self.backends.entry(entry.word.backend()).or_default();
        flows.entries += 1;
        if !entry.word.is_closed() {
            flows.live += 1;
            flows.oldest = Some(flows.oldest.map_or(entry.opened, |oldest| oldest.min(entry.opened)));
        }
    }
}
