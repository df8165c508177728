//! From actual to desired tables, in an order that is safe to stop anywhere.

use std::collections::BTreeMap;

use lb_common::abi::SlotWord;

use super::{Tables, Write};
use crate::side_by_side::side_by_side;

/// Ranges of slots for which a thread of its own is worth while.
const WORTH_A_THREAD: usize = 16;

/// The writes that turn `actual` into `desired`, none if they are equal.
///
/// First everything that others point to, from the far end of the packet's way (devices, backends, then the ways back that lead
/// to them) to its start (slots and rings, then services); then what is gone, from the start to the far end. So whatever a
/// packet meets is there already or still, wherever the writes stop.
///
/// A service of `actual` must have the same range in `desired`, if it is there, and a new one must not have any part of
/// an old one's: the allocation sees to both.
#[must_use]
pub fn diff(actual: &Tables, desired: &Tables) -> Vec<Write> {
    diff_of_part(actual, &actual.slots, desired, Vec::new())
}

/// The same where `actual` is without its slots, which are among `slots`. Of ranges that `desired` lacks, `words` are the
/// writes that are known already.
#[must_use]
pub fn diff_of_part(
    actual: &Tables,
    slots: &BTreeMap<u32, Vec<SlotWord>>,
    desired: &Tables,
    words: Vec<Write>,
) -> Vec<Write> {
    let mut writes = Vec::new();
    writes.extend(changed(&actual.egresses, &desired.egresses).map(|(index, egress)| Write::Egress(*index, *egress)));
    writes.extend(changed(&actual.routes, &desired.routes).map(|(net, hop)| Write::Route(*net, *hop)));
    writes.extend(changed(&actual.backends, &desired.backends).map(|(id, backend)| Write::Backend(*id, *backend)));
    writes.extend(changed(&actual.reverse, &desired.reverse).map(|(key, reverse)| Write::Reverse(*key, *reverse)));
    writes.extend(words);
    let ranges: Vec<_> = desired.slots.iter().collect();
    let changed_of = side_by_side(&ranges, ranges.len() / WORTH_A_THREAD, |(first, range)| {
        changed_words(slots.get(first).map_or(&[], Vec::as_slice), range)
    });
    let changed_ranges = ranges.into_iter().zip(changed_of).filter(|(_, words)| !words.is_empty());
    writes.extend(changed_ranges.map(|((first, _), words)| Write::Slots { first: *first, words }));
    writes.extend(changed(&actual.rings, &desired.rings).map(|(id, ring)| Write::Ring(*id, ring.clone())));
    writes.extend(changed(&actual.services, &desired.services).map(|(key, service)| Write::Service(*key, *service)));

    writes.extend(gone(&actual.services, &desired.services).map(|(key, old)| Write::RemoveService(*key, *old)));
    writes.extend(gone(&actual.reverse, &desired.reverse).map(|(key, _)| Write::RemoveReverse(*key)));
    writes.extend(gone(&actual.routes, &desired.routes).map(|(net, _)| Write::RemoveRoute(*net)));
    writes.extend(gone(&actual.backends, &desired.backends).map(|(id, _)| Write::ClearBackend(*id)));
    writes.extend(gone(&actual.egresses, &desired.egresses).map(|(index, _)| Write::ClearEgress(*index)));
    writes
}

/// Entries of `desired` that `actual` lacks or has otherwise.
fn changed<'a, K: Ord, V: PartialEq>(
    actual: &'a BTreeMap<K, V>,
    desired: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    desired.iter().filter(|(key, value)| actual.get(key) != Some(value))
}

/// Entries of `actual` that `desired` lacks.
fn gone<'a, K: Ord, V>(
    actual: &'a BTreeMap<K, V>,
    desired: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    actual.iter().filter(|(key, _)| !desired.contains_key(key))
}

/// Words of `desired` that `actual` lacks or has otherwise, with their offsets.
fn changed_words(actual: &[SlotWord], desired: &[SlotWord]) -> Vec<(u32, SlotWord)> {
    let changed = || (0u32..).zip(desired).filter(|&(offset, word)| actual.get(offset as usize) != Some(word));
    // Mostly none or all: room for exactly so many costs less than to make room again and again.
    let mut words = Vec::with_capacity(changed().count());
    words.extend(changed().map(|(offset, word)| (offset, *word)));
    words
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable;
    use lb_common::abi::{self, NO_BACKEND, NextHop};
    use proptest::{collection::btree_map, prelude::*};

    use super::*;
    use crate::tables::{Endpoint, fake::Kernel};

    /// Slots between the ranges of two services: the ranges are as long, so they touch.
    const RANGE: u32 = 7;

    fn endpoint(n: u8) -> Endpoint {
        Endpoint { address: [192, 0, 2, n / 3].into(), port: 80 + u16::from(n), protocol: abi::protocol::TCP }
    }

    fn backend(weight: u32, egress: u16) -> abi::Backend {
        abi::Backend { weight, next_hop: NextHop::new([2, 0, 0, 0, 0, 1], egress), ..abi::Backend::zeroed() }
    }

    /// Valid tables of up to six services, whose ranges depend on the service alone.
    fn tables() -> impl Strategy<Value = Tables> {
        let backends = btree_map(1u32..20, (0u32..3, 1u16..4), 0..12);
        let picks = |count| prop::collection::vec(any::<prop::sample::Index>(), count);
        let services = btree_map(0u8..6, (0u32..2, picks(7..8), picks(0..5)), 0..6);
        (backends, services, btree_map(0u8..8, 0u32..2, 0..5)).prop_map(|(backends, services, extra)| {
            let mut tables = Tables::default();
            for (&id, &(weight, egress)) in &backends {
                tables.backends.insert(id, backend(weight, egress));
                tables
                    .egresses
                    .insert(egress, abi::Egress { ifindex: egress.into(), mtu: weight, ..Zeroable::zeroed() });
            }
            let ids: Vec<u32> = backends.keys().copied().chain([NO_BACKEND]).collect();
            for (&n, (flags, choices, drawn)) in &services {
                let first_slot = u32::from(n) * RANGE;
                let (id, flags) = (n.into(), *flags);
                let backends: Vec<u32> = backends.keys().copied().collect();
                let ring: Vec<u32> = drawn.iter().filter(|_| !backends.is_empty()).map(|i| *i.get(&backends)).collect();
                let ring_length = u32::try_from(ring.len()).unwrap();
                let service =
                    abi::Service { id, first_slot, slot_count: RANGE, flags, ring_length, ..Zeroable::zeroed() };
                tables.services.insert(endpoint(n), service);
                let words = choices.iter().enumerate().map(|(offset, choice)| {
                    let (current, base) = (*choice.get(&ids), ids[(choice.index(ids.len()) + offset) % ids.len()]);
                    SlotWord::new(current, base, current != base)
                });
                tables.slots.insert(first_slot, words.collect());
                if !ring.is_empty() {
                    tables.rings.insert(id, ring);
                }
            }
            for (&n, &value) in &extra {
                let hop = NextHop(value.into());
                tables.routes.insert(ipnet::Ipv4Net::new_assert([10, n, 0, 0].into(), 16).into(), hop);
                tables.reverse.insert(endpoint(n), abi::Reverse { service: value, ..Zeroable::zeroed() });
                let marker = abi::Service { flags: abi::service_flags::VIP_MARKER, ..Zeroable::zeroed() };
                tables.services.insert(Endpoint::vip_marker([192, 0, 2, n].into()), marker);
            }
            tables
        })
    }

    /// A packet that meets a service finds, wherever its slot sends it, a backend and the device it is behind.
    fn assert_valid(tables: &Tables) {
        for service in tables.services.iter().filter(|(key, _)| !key.is_vip_marker()).map(|(_, service)| service) {
            let words = &tables.slots[&service.first_slot];
            assert_eq!(words.len(), service.slot_count as usize);
            assert!(words.iter().all(|word| word.tracked() || word.current() == word.base()));
            let ring = tables.rings.get(&service.id).cloned().unwrap_or_default();
            assert_eq!(ring.len(), service.ring_length as usize);
            assert!(!ring.contains(&NO_BACKEND), "a place of the ring is nobody's");
            let named = words.iter().flat_map(|word| [word.current(), word.base()]).filter(|id| *id != NO_BACKEND);
            for id in named.chain(ring) {
                let backend = tables.backends.get(&id).unwrap_or_else(|| panic!("backend {id} has no entry"));
                assert!(tables.egresses.contains_key(&backend.next_hop.egress()), "backend {id} has no device");
            }
        }
    }

    /// A kernel that holds `tables`, and slots of services that are long gone where there are none.
    fn kernel(tables: &Tables) -> Kernel {
        let mut kernel = Kernel { tables: tables.clone(), ..Kernel::default() };
        kernel.tables.slots.clear();
        kernel.tables.rings.clear();
        kernel.slots.extend((0..6 * RANGE).map(|slot| (slot, SlotWord::steady(99))));
        kernel.rings.extend((0..6).map(|id| (id, vec![99; 3])));
        kernel.rings.extend(tables.rings.clone());
        for (first, words) in &tables.slots {
            kernel.slots.extend((*first..).zip(words.iter().copied()));
        }
        kernel
    }

    /// `write` with every other of its words only, if it has several: they may be seen in any order.
    fn half(kernel: &Kernel, write: &Write) -> Write {
        match write {
            Write::Ring(service, backends) => {
                let old = kernel.rings.get(service).cloned().unwrap_or_default();
                let mixed = |(place, new)| if place % 2 == 0 { new } else { *old.get(place).unwrap_or(&NO_BACKEND) };
                Write::Ring(*service, backends.iter().copied().enumerate().map(mixed).collect())
            }
            Write::Slots { first, words } => {
                Write::Slots { first: *first, words: words.iter().copied().step_by(2).collect() }
            }
            other => other.clone(),
        }
    }

    proptest! {
        #[test]
        fn all_writes_lead_to_what_is_desired_and_any_of_the_first_to_something_valid(
            actual in tables(), desired in tables(),
        ) {
            let mut kernel = kernel(&actual);
            let mut mirror = actual.clone();
            for write in diff(&actual, &desired) {
                kernel.write(&half(&kernel, &write));
                assert_valid(&kernel.read());
                kernel.write(&write);
                assert_valid(&kernel.read());
                mirror.apply(&write);
            }
            prop_assert_eq!(&kernel.read(), &desired);
            prop_assert_eq!(&mirror, &desired);
        }

        #[test]
        fn nothing_is_written_where_nothing_differs(tables in tables()) {
            prop_assert_eq!(diff(&tables, &tables), []);
        }
    }

    #[test]
    fn only_slots_that_differ_are_written() {
        let range =
            |ids: [u32; 3]| Tables { slots: [(5, ids.map(SlotWord::steady).to_vec())].into(), ..Tables::default() };
        let writes = diff(&range([1, 2, 1]), &range([1, 3, 1]));
        assert_eq!(writes, [Write::Slots { first: 5, words: vec![(1, SlotWord::steady(3))] }]);
    }
}
