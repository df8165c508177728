//! What the program's CPUs have counted, read in memory that it shares; see [`lb_common::abi::counters`].

use std::{
    fs,
    ops::AddAssign,
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context as _, ensure};
use bytemuck::Pod;
use lb_common::{
    abi::{CounterLayout, Forwarded, HandshakeTimes, Replied, Traffic},
    reason::Reason,
    tracking::FlowEvent,
};

use super::{Residence, mapped::Mapped};
use crate::tables::Capacity;

/// Where the counters of these tables are.
pub(super) fn layout(capacity: &Capacity, residence: Residence<'_>) -> CounterLayout {
    CounterLayout {
        services: residence.entries(CounterLayout::NAME, capacity.service_ids),
        backends: residence.entries(CounterLayout::NAME, capacity.backend_ids),
    }
}

/// CPUs that the kernel may ever number: the largest number and one.
pub(super) fn cpus() -> anyhow::Result<u32> {
    const POSSIBLE: &str = "/sys/devices/system/cpu/possible";
    let possible = fs::read_to_string(POSSIBLE).with_context(|| format!("cannot read {POSSIBLE}"))?;
    after_last(&possible).with_context(|| format!("{POSSIBLE} is no list of CPUs: {possible:?}"))
}

/// The number after the last one of a list like `0-3,8`.
fn after_last(list: &str) -> Option<u32> {
    list.trim_end().rsplit([',', '-']).next()?.parse::<u32>().ok()?.checked_add(1)
}

/// The words of one [`CounterLayout::STEP`].
pub(super) type Step = [u64; CounterLayout::STEP / size_of::<u64>()];

/// The counters of all CPUs.
pub(super) struct CpuCounters {
    memory: Mapped<Step>,
    layout: CounterLayout,
}

impl CpuCounters {
    /// Those in `memory`, which have this `layout`.
    pub(super) fn new(memory: Mapped<Step>, layout: CounterLayout) -> Self {
        Self { memory, layout }
    }

    /// What was counted for a service.
    pub(super) fn service(&self, id: u32) -> anyhow::Result<Traffic> {
        ensure!(id < self.layout.services, "service {id} is not counted");
        Ok(self.traffic(self.layout.to_service(id.into()), self.layout.from_service(id.into())))
    }

    /// What was counted for a backend.
    pub(super) fn backend(&self, id: u32) -> anyhow::Result<Traffic> {
        self.ensure_counted(id)?;
        Ok(self.traffic(self.layout.to_backend(id.into()), self.layout.from_backend(id.into())))
    }

    /// How long handshakes with a backend took.
    pub(super) fn handshakes(&self, backend: u32) -> anyhow::Result<HandshakeTimes> {
        self.ensure_counted(backend)?;
        Ok(self.sum(self.layout.handshakes(backend.into())))
    }

    /// Packets by [`Reason`] number.
    pub(super) fn reasons(&self) -> Vec<u64> {
        Reason::ALL.iter().map(|reason| self.sum(CounterLayout::reason(*reason as u32))).collect()
    }

    /// What happened in the flow tables, by [`FlowEvent`] number.
    pub(super) fn events(&self) -> Vec<u64> {
        FlowEvent::ALL.iter().map(|event| self.sum(CounterLayout::event(*event as u32))).collect()
    }

    /// Has a service's counters begin anew.
    pub(super) fn clear_service(&self, id: u32) -> anyhow::Result<()> {
        ensure!(id < self.layout.services, "service {id} is not counted");
        self.clear::<Forwarded>(self.layout.to_service(id.into()));
        self.clear::<Replied>(self.layout.from_service(id.into()));
        Ok(())
    }

    /// Has a backend's counters begin anew.
    pub(super) fn clear_backend(&self, id: u32) -> anyhow::Result<()> {
        self.ensure_counted(id)?;
        self.clear::<Forwarded>(self.layout.to_backend(id.into()));
        self.clear::<Replied>(self.layout.from_backend(id.into()));
        self.clear::<HandshakeTimes>(self.layout.handshakes(id.into()));
        Ok(())
    }

    fn ensure_counted(&self, backend: u32) -> anyhow::Result<()> {
        ensure!(backend < self.layout.backends, "backend {backend} is not counted");
        Ok(())
    }

    fn traffic(&self, forwarded: u64, replied: u64) -> Traffic {
        Traffic::from((self.sum(forwarded), self.sum(replied)))
    }

    /// The sum over all CPUs of what is so many bytes from the start of each.
    fn sum<T: Pod + Default + AddAssign>(&self, offset: u64) -> T {
        let mut sum = T::default();
        for words in self.of_each_cpu::<T>(offset) {
            let mut value = T::zeroed();
            let (bytes, _) = bytemuck::bytes_of_mut(&mut value).as_chunks_mut();
            for (word, bytes) in words.iter().zip(bytes) {
                *bytes = word.load(Ordering::Relaxed).to_ne_bytes();
            }
            sum += value;
        }
        sum
    }

    fn clear<T: Pod>(&self, offset: u64) {
        self.of_each_cpu::<T>(offset).flatten().for_each(|word| word.store(0, Ordering::Relaxed));
    }

    /// The words of what is so many bytes from the start of each CPU's counters.
    #[expect(clippy::cast_possible_truncation, reason = "within memory of this process")]
    fn of_each_cpu<T: Pod>(&self, offset: u64) -> impl Iterator<Item = &[AtomicU64]> {
        let word = size_of::<u64>();
        let of_cpus = self.memory.words().chunks_exact(self.layout.bytes() as usize / word);
        of_cpus.filter_map(move |words| words.get(offset as usize / word..)?.get(..size_of::<T>() / word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(cpus: u32) -> anyhow::Result<CpuCounters> {
        let layout = CounterLayout { services: 100, backends: 1_000 };
        let steps = u32::try_from(layout.bytes() / CounterLayout::STEP as u64)?;
        Ok(CpuCounters::new(Mapped::anonymous(cpus * steps)?, layout))
    }

    /// Each word has its own number, by CPU and place.
    fn fill(counters: &CpuCounters) {
        for (word, number) in counters.memory.words().iter().zip(1..) {
            word.store(number, Ordering::Relaxed);
        }
    }

    #[test]
    fn no_counter_is_anothers() -> anyhow::Result<()> {
        let counters = counters(1)?;
        fill(&counters);
        let mut seen: Vec<u64> = [counters.reasons(), counters.events()].concat();
        let all = |traffic: Traffic| {
            let Traffic { packets, bytes, connections, reply_packets, reply_bytes } = traffic;
            [packets, bytes, connections, reply_packets, reply_bytes]
        };
        for id in 0..100 {
            seen.extend(all(counters.service(id)?));
        }
        for id in 0..1_000 {
            seen.extend(all(counters.backend(id)?));
            let HandshakeTimes { nanoseconds, count } = counters.handshakes(id)?;
            seen.extend([nanoseconds, count]);
        }
        let distinct: std::collections::BTreeSet<_> = seen.iter().collect();
        assert_eq!(distinct.len(), seen.len());
        assert!(!distinct.contains(&0), "within the memory");
        Ok(())
    }

    #[test]
    fn what_all_cpus_counted_is_added_up_and_begins_anew_alone() -> anyhow::Result<()> {
        let counters = counters(3)?;
        counters.memory.words().iter().for_each(|word| word.store(1, Ordering::Relaxed));
        let three = Traffic { packets: 3, bytes: 3, connections: 3, reply_packets: 3, reply_bytes: 3 };
        let times = HandshakeTimes { nanoseconds: 3, count: 3 };
        counters.clear_service(50)?;
        counters.clear_backend(999)?;
        assert_eq!([49, 50, 51].map(|id| counters.service(id).unwrap()), [three, Traffic::default(), three]);
        assert_eq!([998, 999].map(|id| counters.backend(id).unwrap()), [three, Traffic::default()]);
        assert_eq!([998, 999].map(|id| counters.handshakes(id).unwrap()), [times, HandshakeTimes::default()]);
        assert!(counters.reasons().into_iter().chain(counters.events()).all(|count| count == 3));
        Ok(())
    }

    #[test]
    fn what_is_not_counted_is_refused() -> anyhow::Result<()> {
        let counters = counters(1)?;
        assert_eq!(counters.service(100).unwrap_err().to_string(), "service 100 is not counted");
        assert_eq!(counters.clear_service(100).unwrap_err().to_string(), "service 100 is not counted");
        assert_eq!(counters.backend(1_000).unwrap_err().to_string(), "backend 1000 is not counted");
        assert_eq!(counters.handshakes(1_000).unwrap_err().to_string(), "backend 1000 is not counted");
        assert_eq!(counters.clear_backend(1_000).unwrap_err().to_string(), "backend 1000 is not counted");
        Ok(())
    }

    #[test]
    fn cpus_are_counted_up_to_the_last() {
        assert_eq!(["0\n", "0-1\n", "0-3,8\n", "0,2-5"].map(after_last), [Some(1), Some(2), Some(9), Some(6)]);
        assert_eq!(["", "\n", "0-", "all\n", "4294967295"].map(after_last), [None; 5]);
    }
}
