//! The time, as the controller's rules need it.

use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

/// A moment, by both clocks that matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// By the clock that operators read: deadlines and health are told by it.
    pub wall: SystemTime,
    /// By the monotonic clock, since it began. The packet path's seconds are of the same clock.
    pub monotonic: Duration,
}

impl Moment {
    /// This one.
    #[must_use]
    pub fn now() -> Self {
        let time = clock_gettime(ClockId::Monotonic);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or(0);
        Self { wall: SystemTime::now(), monotonic: Duration::new(seconds, nanoseconds) }
    }

    /// As entries of the flow table have it: whole seconds of the monotonic clock.
    #[must_use]
    pub fn seconds(&self) -> u32 {
        u32::try_from(self.monotonic.as_secs()).unwrap_or(u32::MAX)
    }
}
