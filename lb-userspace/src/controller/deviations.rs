//! Which slots are tracked, since when, and how they become steady again.
//!
//! Times are kept here and not in the kernel's tables: after a restart every period begins anew, which is late for some
//! slots and too soon for none.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use lb_common::{
    abi::{Service, SlotWord},
    settling,
};

use super::mirror::Mirror;
use crate::{flows::Census, tables::Write};

/// Time after a change of a slot in which packets that have read the old word may still enter flows by it. They are
/// through in microseconds.
pub const IN_FLIGHT: Duration = Duration::from_secs(1);

/// The tracked slots of every service, by the first slot of its range.
#[derive(Debug, Default)]
pub struct Deviations(BTreeMap<u32, Range>);

/// The tracked slots of a service.
#[derive(Debug)]
struct Range {
    /// Its every flow is entered, so that its slots stay tracked for good: only those count that are away from their base.
    every_flow: bool,
    /// Offset → since when it is as it is.
    slots: BTreeMap<u32, Stay>,
}

/// How a slot has been for some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stay {
    base: u32,
    /// New flows are its base's.
    level: bool,
    /// Monotonic clock.
    since: Duration,
}

/// What is known when slots are to settle.
#[derive(Debug)]
pub struct Findings<'a> {
    /// What a sweep has found.
    pub census: &'a Census,
    /// When that sweep began, monotonic clock.
    pub began: Duration,
    /// Now, monotonic clock.
    pub now: Duration,
    /// Flows could not be entered for want of room, since the sweep before.
    pub full: bool,
    /// Time after which a slot of the range that begins here follows its current.
    pub settle_after: &'a BTreeMap<u32, Duration>,
    /// Ids of backends that are gone.
    pub gone: &'a BTreeSet<u32>,
}

impl Deviations {
    /// Those of `mirror`, all since `now`.
    #[must_use]
    pub fn new(mirror: &Mirror, now: Duration) -> Self {
        let mut deviations = Self::default();
        for (_, service) in mirror.services() {
            deviations.begin(service, mirror, now);
        }
        deviations
    }

    /// Takes in writes that `mirror` has taken.
    pub fn observe(&mut self, writes: &[Write], mirror: &Mirror, now: Duration) {
        let mut begun = BTreeSet::new();
        for write in writes {
            match write {
                Write::RemoveService(key, service) if !key.is_vip_marker() => {
                    self.0.remove(&service.first_slot);
                }
                Write::Service(key, service) if !key.is_vip_marker() => {
                    let known = self.0.get(&service.first_slot).map(|range| range.every_flow);
                    if known != Some(service.tracks_every_flow()) {
                        self.begin(service, mirror, now);
                        begun.insert(service.first_slot);
                    }
                }
                _ => {}
            }
        }
        for write in writes {
            if let Write::Slots { first, words } = write
                // What begins now begins with all that was written.
                && !begun.contains(first)
                && let Some(range) = self.0.get_mut(first)
            {
                for (offset, word) in words {
                    range.note(*offset, *word, now);
                }
            }
        }
    }

    /// Every period of slots that are away from their base begins anew: a flow spoke and could not be entered.
    pub fn begin_anew(&mut self, now: Duration) {
        let slots = self.0.values_mut().flat_map(|range| range.slots.values_mut());
        slots.filter(|stay| !stay.level).for_each(|stay| stay.since = now);
    }

    /// Whether there are any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.values().all(|range| range.slots.is_empty())
    }

    /// The writes by which slots settle, or are tracked no longer. No sweep may be under way.
    #[must_use]
    pub fn settle(&self, mirror: &Mirror, findings: &Findings<'_>) -> Vec<Write> {
        let writes = self.0.iter().filter_map(|(first, range)| {
            let old = mirror.tables().slots.get(first)?;
            let words = range.slots.iter().filter_map(|(offset, stay)| {
                let word = *old.get(*offset as usize)?;
                let new = stay.next(word, range, (*first, first.checked_add(*offset)?), findings);
                (new != word).then_some((*offset, new))
            });
            let words: Vec<_> = words.collect();
            (!words.is_empty()).then_some(Write::Slots { first: *first, words })
        });
        writes.collect()
    }

    fn begin(&mut self, service: &Service, mirror: &Mirror, now: Duration) {
        let mut range = Range { every_flow: service.tracks_every_flow(), slots: BTreeMap::new() };
        let words = mirror.tables().slots.get(&service.first_slot).into_iter().flatten();
        (0u32..).zip(words).for_each(|(offset, word)| range.note(offset, *word, now));
        self.0.insert(service.first_slot, range);
    }
}

impl Range {
    fn note(&mut self, offset: u32, word: SlotWord, now: Duration) {
        let (base, level) = (word.base(), word.current() == word.base());
        if !word.tracked() || level && self.every_flow {
            if !self.slots.is_empty() {
                self.slots.remove(&offset);
            }
            return;
        }
        let as_before = self.slots.get(&offset).is_some_and(|stay| (stay.base, stay.level) == (base, level));
        if !as_before {
            self.slots.insert(offset, Stay { base, level, since: now });
        }
    }
}

impl Stay {
    /// What becomes of a slot in `range`, which is at `first`.
    fn next(&self, word: SlotWord, range: &Range, (first, slot): (u32, u32), findings: &Findings<'_>) -> SlotWord {
        let Findings { census, began, now, full, settle_after, gone } = findings;
        if self.level {
            let seen_empty = self.since + IN_FLIGHT <= *began && !census.occupied.contains(&slot);
            return if seen_empty && !range.every_flow { settling::untracked(word) } else { word };
        }
        let over = settle_after.get(&first).is_some_and(|time| self.since.saturating_add(*time) <= *now);
        // New flows can't be entered and the one who would have them instead is gone: only settling lets them in.
        if over || *full && gone.contains(&self.base) { settling::settled(word) } else { word }
    }
}
