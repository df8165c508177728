//! Which ids and slots new services and backends get.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{full::Full, mirror::Mirror};
use crate::tables::Capacity;

/// Hands out ids and slot ranges that nothing in the kernel's tables has. Giving up on it gives them back.
#[derive(Debug)]
pub struct Ids<'a> {
    mirror: &'a Mirror,
    capacity: &'a Capacity,
    resting: &'a BTreeMap<u32, Duration>,
    services: BTreeSet<u32>,
    backends: BTreeSet<u32>,
    /// First slot → number of slots: old ranges and new ones.
    ranges: BTreeMap<u32, u32>,
    last_backend: u32,
}

impl<'a> Ids<'a> {
    /// With everything that `mirror` has taken away, and the backend ids that are `resting`.
    #[must_use]
    pub fn new(mirror: &'a Mirror, capacity: &'a Capacity, resting: &'a BTreeMap<u32, Duration>) -> Self {
        Self {
            mirror,
            capacity,
            resting,
            services: BTreeSet::new(),
            backends: BTreeSet::new(),
            ranges: mirror.ranges().clone(),
            last_backend: mirror.last_backend(),
        }
    }

    /// A service id: the lowest that is free.
    pub fn service(&mut self) -> Result<u32, Full> {
        let free = |id: &u32| !self.mirror.uses_service_id(*id) && !self.services.contains(id);
        let capacity = self.capacity.service_ids;
        let id = (1..capacity).find(free).ok_or(Full::Services { capacity: capacity.saturating_sub(1) })?;
        self.services.insert(id);
        Ok(id)
    }

    /// A backend id: the next that is free after the one given last, so that an id rests for as long as can be before
    /// it means another backend; one that is resting may not mean another yet.
    pub fn backend(&mut self) -> Result<u32, Full> {
        let capacity = self.capacity.backend_ids;
        let first = self.last_backend.saturating_add(1);
        let free = |id: &u32| {
            !self.mirror.uses_backend_id(*id) && !self.backends.contains(id) && !self.resting.contains_key(id)
        };
        let id = (first..capacity).chain(1..first.min(capacity)).find(free);
        let id = id.ok_or(Full::Backends { capacity: capacity.saturating_sub(1) })?;
        self.backends.insert(id);
        self.last_backend = id;
        Ok(id)
    }

    /// The first slot of a range for `service`: in the first gap that has `needed` slots.
    pub fn range(&mut self, service: &str, needed: u32) -> Result<u32, Full> {
        let capacity = self.capacity.slots;
        let (mut end, mut largest) = (0, 0);
        for (first, count) in self.ranges.iter().map(|(first, count)| (*first, *count)).chain([(capacity, 0)]) {
            let gap = first.saturating_sub(end);
            if gap >= needed {
                self.ranges.insert(end, needed);
                return Ok(end);
            }
            largest = largest.max(gap);
            end = end.max(first.saturating_add(count));
        }
        Err(Full::Slots { service: service.to_owned(), needed, largest, capacity })
    }
}

#[cfg(test)]
mod tests {
    use lb_common::abi::{self, SlotWord};

    use super::*;
    use crate::{spec::TableSizes, tables::Endpoint, tables::Tables};

    static NONE: BTreeMap<u32, Duration> = BTreeMap::new();

    fn capacity(slots: u32, backends: u32) -> Capacity {
        Capacity::of(&TableSizes { services: 4, backends, slots, routes: 1, flows: 1 })
    }

    /// A service at each of `ranges`, with an id after the other from 1.
    fn services(ranges: &[(u32, u32)]) -> Tables {
        let mut tables = Tables::default();
        for (id, &(first_slot, slot_count)) in (1u32..).zip(ranges) {
            let key = Endpoint { address: [192, 0, 2, 1].into(), port: 80 + u16::try_from(id).unwrap(), protocol: 6 };
            tables.services.insert(key, abi::Service { id, first_slot, slot_count, ..bytemuck::Zeroable::zeroed() });
        }
        tables
    }

    fn backend(service: u32, host: u8) -> abi::Backend {
        let mut backend: abi::Backend = bytemuck::Zeroable::zeroed();
        (backend.service, backend.family, backend.mode) = (service, abi::family::V4, abi::mode::L2);
        backend.address[..4].copy_from_slice(&[198, 51, 100, host]);
        backend
    }

    #[test]
    fn ranges_go_into_the_first_gap_that_fits() {
        let mirror = Mirror::new(services(&[(0, 10), (15, 5), (31, 10)]));
        let capacity = capacity(50, 1);
        let mut ids = Ids::new(&mirror, &capacity, &NONE);
        assert_eq!(ids.range("a", 7), Ok(20));
        assert_eq!(ids.range("b", 5), Ok(10));
        assert_eq!(ids.range("c", 4), Ok(27));
        assert_eq!(ids.range("d", 9), Ok(41));
        let full = Full::Slots { service: "e".into(), needed: 1, largest: 0, capacity: 50 };
        assert_eq!(ids.range("e", 1), Err(full));
    }

    #[test]
    fn the_largest_gap_is_told_when_none_fits() {
        let mirror = Mirror::new(services(&[(0, 10), (15, 5)]));
        let capacity = capacity(28, 1);
        let error = Ids::new(&mirror, &capacity, &NONE).range("a", 9).unwrap_err();
        assert_eq!(error, Full::Slots { service: "a".into(), needed: 9, largest: 8, capacity: 28 });
    }

    #[test]
    fn service_ids_avoid_those_that_left_over_backends_name() {
        let mut tables = services(&[(0, 10), (10, 10)]);
        tables.backends.insert(9, backend(3, 1));
        let (mirror, capacity) = (Mirror::new(tables), capacity(50, 10));
        let mut ids = Ids::new(&mirror, &capacity, &NONE);
        let given: Vec<_> = (0..6).map(|_| ids.service()).collect();
        assert_eq!(given, [Ok(4), Ok(5), Ok(6), Ok(7), Ok(8), Err(Full::Services { capacity: 8 })]);
    }

    #[test]
    fn backend_ids_go_round_before_one_is_given_again() {
        let mut tables = services(&[(0, 2)]);
        tables.backends.extend([(2, backend(1, 2)), (4, backend(1, 4))]);
        tables.slots.insert(0, vec![SlotWord::steady(4), SlotWord::new(2, 6, true)]);
        let (mirror, capacity) = (Mirror::new(tables), capacity(50, 7));
        let mut ids = Ids::new(&mirror, &capacity, &NONE);
        let given: Vec<_> = (0..5).map(|_| ids.backend()).collect();
        assert_eq!(given, [Ok(5), Ok(7), Ok(1), Ok(3), Err(Full::Backends { capacity: 7 })]);
    }

    #[test]
    fn ids_that_rest_are_not_given() {
        let mirror = Mirror::new(Tables { backends: [(2, backend(1, 2))].into(), ..Tables::default() });
        let (capacity, resting) = (capacity(50, 4), [(1, Duration::ZERO), (3, Duration::ZERO)].into());
        let mut ids = Ids::new(&mirror, &capacity, &resting);
        assert_eq!([ids.backend(), ids.backend()], [Ok(4), Err(Full::Backends { capacity: 4 })]);
    }
}
