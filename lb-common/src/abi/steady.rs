//! Slots once more, in a byte or two each, for as long as nothing changes.
//!
//! A slot's word has eight bytes, and a service many slots: the words of a hundred services don't fit a processor's caches. A
//! packet only needs to know of a slot that it is steady, and whose it is. So it reads the slot's *place* first: 0, and the word
//! tells everything; or the backend's id, less the `base` of the service's [`SteadyLayout`].
//!
//! A place that is not 0 says the same as the word, or what the word said a moment ago: who changes a slot sets the place to 0
//! before the word becomes one that is not steady, and to anything else after the word has become it. So a place that is
//! missing costs time, and nothing more.

use bytemuck::{Pod, Zeroable};

use super::{NO_BACKEND, SlotWord};

/// How the places of a service's slots are to be read.
///
/// They have two bytes for each slot of the range, from twice its first slot on, and use the first half of that where one byte is
/// enough for each. One word, so that it is read and replaced atomically:
///
/// ```text
///  63        48 47          32 31            0
/// +------------+--------------+---------------+
/// |   shift    |     mask     |     base      |
/// +------------+--------------+---------------+
/// ```
///
/// - `base` is added to a place.
/// - `mask` has the bits of a place, 8 or 16; none at all says that no place counts.
/// - `shift` is the bytes of a place as a power of two.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct SteadyLayout(u64);

impl SteadyLayout {
    /// No place counts.
    pub const NONE: Self = Self(0);

    /// One byte for each place: of backend ids from `base` + 1 to `base` + 255.
    #[must_use]
    pub const fn narrow(base: u32) -> Self {
        Self(base as u64 | 0xff << 32)
    }

    /// Two bytes for each place: of backend ids from `base` + 1 to `base` + 65,535.
    #[must_use]
    pub const fn wide(base: u32) -> Self {
        Self(base as u64 | 0xffff << 32 | 1 << 48)
    }

    /// Whether each place has two bytes.
    #[must_use]
    pub const fn is_wide(self) -> bool {
        self.shift() != 0
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "taken apart")]
    const fn base(self) -> u32 {
        self.0 as u32
    }

    #[inline(always)]
    const fn mask(self) -> u64 {
        self.0 >> 32 & 0xffff
    }

    #[inline(always)]
    const fn shift(self) -> u32 {
        (self.0 >> 48 & 1) as u32
    }

    /// Where the place of the slot `offset` slots after `first` is.
    #[must_use]
    #[inline(always)]
    pub const fn place(self, first: u32, offset: u32) -> Place {
        Place { byte: 2 * first as u64 + ((offset as u64) << self.shift()) }
    }

    /// The backend that `place` tells in the array's element `word`; [`NO_BACKEND`] where the slot's word is to be read.
    #[must_use]
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "a place has at most 16 bits")]
    pub const fn backend(self, place: Place, word: u64) -> u32 {
        match (word >> place.bits() & self.mask()) as u32 {
            0 => NO_BACKEND,
            number => self.base().wrapping_add(number),
        }
    }

    /// The number at the place of a slot with this word: 0 if it is not steady, nobody's, or the backend is out of reach.
    #[must_use]
    pub const fn number(self, slot: SlotWord) -> u64 {
        let number = slot.current().wrapping_sub(self.base());
        let is_steady = !slot.tracked() && slot.current() == slot.base() && slot.current() != NO_BACKEND;
        if is_steady && number as u64 <= self.mask() { number as u64 } else { 0 }
    }

    /// `word` with this number at `place`.
    #[must_use]
    pub const fn with(self, place: Place, word: u64, number: u64) -> u64 {
        word & !(self.mask() << place.bits()) | number << place.bits()
    }
}

/// Where a place is in the array of places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Bytes from the array's start.
    byte: u64,
}

impl Place {
    /// The array's element that has it.
    #[must_use]
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "at most 2^32 slots have at most 2^31 elements")]
    pub const fn element(self) -> u32 {
        (self.byte / 8) as u32
    }

    /// How many bits of that element come before it.
    #[inline(always)]
    const fn bits(self) -> u32 {
        (self.byte % 8) as u32 * 8
    }
}

/// Elements of the array of places for `slots` slots.
#[must_use]
pub const fn elements(slots: u32) -> u32 {
    slots.div_ceil(4)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_place_has_a_byte_or_two() {
        let (narrow, wide) = (SteadyLayout::narrow(7), SteadyLayout::wide(7));
        assert_eq!(narrow.place(100, 3).byte, 203);
        assert_eq!(wide.place(100, 3).byte, 206);
        assert_eq!((wide.place(u32::MAX, u32::MAX).byte, elements(17)), (4 * u64::from(u32::MAX), 5));
    }

    #[test]
    fn only_steady_slots_of_backends_in_reach_have_a_number() {
        let number = |slot| SteadyLayout::narrow(7).number(slot);
        assert_eq!([8, 262].map(SlotWord::steady).map(number), [1, 255]);
        assert_eq!([NO_BACKEND, 6, 7, 263].map(SlotWord::steady).map(number), [0; 4]);
        assert_eq!([SlotWord::new(8, 8, true), SlotWord::new(8, 9, false)].map(number), [0; 2]);
        assert_eq!(SteadyLayout::narrow(0).number(SlotWord::steady(NO_BACKEND)), 0);
        assert_eq!(SteadyLayout::wide(7).number(SlotWord::steady(65_542)), 65_535);
        assert_eq!([1, 8].map(SlotWord::steady).map(|slot| SteadyLayout::NONE.number(slot)), [0; 2]);
        assert_eq!(SteadyLayout::NONE.backend(SteadyLayout::NONE.place(0, 1), u64::MAX), NO_BACKEND);
    }

    proptest! {
        #[test]
        fn what_is_put_is_read_and_nothing_else_changes(
            wide: bool, base in 0u32..1 << 20, first in 0u32..100, words: [u64; 3], puts in prop::collection::vec((0u32..8, 1u32..256), 1..20),
        ) {
            let layout = if wide { SteadyLayout::wide(base) } else { SteadyLayout::narrow(base) };
            let mut words = words;
            let element = |place: Place| (place.element() - first / 4) as usize;
            let read = |words: &[u64; 3], offset| {
                let place = layout.place(first, offset);
                layout.backend(place, words[element(place)])
            };
            for (offset, number) in puts {
                let before: [u32; 8] = [0, 1, 2, 3, 4, 5, 6, 7].map(|offset| read(&words, offset));
                let place = layout.place(first, offset);
                let word = &mut words[element(place)];
                *word = layout.with(place, *word, layout.number(SlotWord::steady(base + number)));
                for (other, before) in (0u32..8).zip(before) {
                    prop_assert_eq!(read(&words, other), if other == offset { base + number } else { before });
                }
            }
        }
    }
}
