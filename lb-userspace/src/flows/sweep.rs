//! One sweep.

use std::time::Instant;

use lb_common::{
    abi::{FlowEntry, Service, service_flags},
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
            census.took = began.elapsed();
            return Ok(census);
        }
        let mut over = Vec::new();
        for (key, entry) in entries {
            let place = Place::of(&key, around, table);
            let keep = place.keep(&key, &entry, around);
            match end_of(&entry, &keep, now) {
                // One that spoke in between stays, and is counted by the next sweep.
                Some(end) => {
                    over.push((key, entry.word));
                    *census.ended.entry(end).or_default() += 1;
                }
                None => census.count(&entry, place.slot),
            }
        }
        if !over.is_empty() {
            table.bury(&over)?;
        }
    }
}
