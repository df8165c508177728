//! The CPU that a measurement is on.

use std::time::Duration;

use anyhow::Context as _;
use rustix::{
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
    time::{ClockId, clock_gettime},
};

/// Ties this thread to the last CPU that it may run on, as the first ones have most of a system's interrupts. Returns its
/// number.
///
/// # Errors
/// The kernel refuses.
pub fn stay_on_one() -> anyhow::Result<usize> {
    let allowed = sched_getaffinity(None).context("cannot tell which CPUs may be used")?;
    let last = (0..CpuSet::MAX_CPU).rev().find(|cpu| allowed.is_set(*cpu)).context("no CPU may be used")?;
    let mut one = CpuSet::new();
    one.set(last);
    sched_setaffinity(None, &one).context("cannot stay on one CPU")?;
    Ok(last)
}

/// What `clock` shows, one that starts at 0.
#[must_use]
pub fn time(clock: ClockId) -> Duration {
    let now = clock_gettime(clock);
    // It has less than a second of nanoseconds.
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}
