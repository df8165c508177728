//! From actual to desired tables, in an order that is safe to stop anywhere.

use std::collections::BTreeMap;

use lb_common::abi::SlotWord;

use super::{Tables, Write};

/// The writes that turn `actual` into `desired`, none if they are equal.
///
/// First everything that others point to, from the far end of the packet's way (devices, the way back, backends) to its
/// start (slots, then services); then what is gone, from the start to the far end. So whatever a packet meets is there
/// already or still, wherever the writes stop.
///
/// A service of `actual` must have the same range in `desired`, if it is there, and a new one must not have any part of
/// an old one's: the allocation sees to both.
#[must_use]
pub fn diff(actual: &Tables, desired: &Tables) -> Vec<Write> {
    let mut writes = Vec::new();
    writes.extend(changed(&actual.egresses, &desired.egresses).map(|(index, egress)| Write::Egress(*index, *egress)));
    writes.extend(changed(&actual.routes, &desired.routes).map(|(net, hop)| Write::Route(*net, *hop)));
    writes.extend(changed(&actual.reverse, &desired.reverse).map(|(key, reverse)| Write::Reverse(*key, *reverse)));
    writes.extend(changed(&actual.backends, &desired.backends).map(|(id, backend)| Write::Backend(*id, *backend)));
    writes.extend(desired.slots.iter().filter_map(|(first, range)| {
        let words = changed_words(actual.slots.get(first).map_or(&[], Vec::as_slice), range);
        (!words.is_empty()).then_some(Write::Slots { first: *first, words })
    }));
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
    (0u32..)
        .zip(desired)
        .filter(|&(offset, word)| actual.get(offset as usize) != Some(word))
        .map(|(offset, word)| (offset, *word))
        .collect()
}
