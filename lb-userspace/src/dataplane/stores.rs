//! Words of slots and their places, stored in the order that packets rely on.

use std::sync::atomic::{AtomicU64, Ordering};

use lb_common::abi::{NO_BACKEND, SlotWord};

use super::services::Slots;
use crate::side_by_side::side_by_side;

/// Words for which a thread of its own is worth while.
const WORTH_A_THREAD: usize = 1 << 15;

/// The arrays of words and of places.
#[derive(Clone, Copy)]
pub(super) struct Arrays<'a> {
    pub(super) words: &'a [AtomicU64],
    pub(super) places: &'a [AtomicU64],
}

/// Words to be stored, all within the array.
pub(super) struct Piece<'a> {
    /// The service whose slots they are; none that packets find, and their places come with the service.
    pub(super) of: Option<Slots>,
    pub(super) first: u32,
    /// Each with its offset from `first`.
    pub(super) words: &'a [(u32, SlotWord)],
}

impl Arrays<'_> {
    /// Stores all of `pieces`, no two of which are of the same service. The services, with what their places do not reach by then.
    pub(super) fn store(self, pieces: &[Piece<'_>]) -> Vec<Slots> {
        let words: usize = pieces.iter().map(|piece| piece.words.len()).sum();
        // Places are stored together with others of the same element.
        let alone = pieces.iter().any(|piece| piece.of.is_some_and(|slots| slots.shares_elements()));
        let threads = if alone { 1 } else { words / WORTH_A_THREAD };
        side_by_side(pieces, threads, |piece| self.store_piece(piece)).into_iter().flatten().collect()
    }

    fn store_piece(self, piece: &Piece<'_>) -> Option<Slots> {
        let words = piece.words.iter().map(|(offset, word)| (piece.first + offset, *word));
        let Some(mut slots) = piece.of else {
            words.for_each(|(slot, word)| self.words[slot as usize].store(word.0, Ordering::Release));
            return None;
        };
        // All before anything is stored: these lie far apart in memory, and are waited for at the same time if nothing comes
        // in between.
        let fewer: u32 = words.clone().map(|(slot, _)| u32::from(self.is_missed(&slots, slot))).sum();
        let more: u32 = words.clone().map(|(_, word)| u32::from(slots.misses(word))).sum();
        words.for_each(|(slot, word)| self.store_one(&slots, slot, word));
        slots.unreached = (slots.unreached + more).saturating_sub(fewer);
        Some(slots)
    }

    /// Stores one word and its place: each place says what the word says or said. The old word is not asked, for which it would
    /// have to be waited.
    fn store_one(self, slots: &Slots, slot: u32, word: SlotWord) {
        let place = slots.place(slot);
        let element = &self.places[place.element() as usize];
        let old = element.load(Ordering::Relaxed);
        let [none, new] = [0, slots.layout.number(word)].map(|number| slots.layout.with(place, old, number));
        if old != new && old != none {
            element.store(none, Ordering::Release);
        }
        self.words[slot as usize].store(word.0, Ordering::Release);
        if old != new && new != none {
            element.store(new, Ordering::Release);
        }
    }

    /// Whether a slot is steady and its service's places can't tell it.
    fn is_missed(self, slots: &Slots, slot: u32) -> bool {
        let place = slots.place(slot);
        let element = self.places[place.element() as usize].load(Ordering::Relaxed);
        let word = || SlotWord(self.words[slot as usize].load(Ordering::Relaxed));
        slots.layout.backend(place, element) == NO_BACKEND && slots.misses(word())
    }
}
