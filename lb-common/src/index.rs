//! Tables that packets search for endpoints, in arrays of words that the controller changes in place.
//!
//! A kernel hash map would do the same, but a look-up in one is a call with three more inside, which cost as much as all else
//! that parsing a packet takes. Here a look-up is one load where there is nothing, and mostly one load where there is
//! something.
//!
//! # Layout
//! Open addressing with linear probing: an endpoint's word is at its hash's [`place`], or at the first one after it that was free.
//! A [`Word`] holds 40 bits of the hash and the id of an entry of another array; that entry tells whether it is the one that is
//! looked for. At most one place in four is taken, so that chains are short.
//!
//! # Changes
//! A word comes and goes in one aligned store, and never moves: a packet that is looking for another one passes by either way.
//! Where one goes, [`Word::FORMER`] keeps the chain together, and becomes [`Word::FREE`] again when no chain goes on
//! after it. An entry must be there before its word, and may mean something else only when no packet that found the word is on
//! its way any more.
//!
//! # Source
//! Knuth, "The Art of Computer Programming", vol. 3, section 6.4, algorithm L, with its remarks on deletion.

use bytemuck::{Pod, Zeroable};

/// Most places that are looked at. With one place in four taken the chance that an endpoint finds none of them free is less than
/// one in 10^9.
pub const LONGEST_CHAIN: u32 = 32;

/// Bits of a word that are the entry's id.
const ID_MASK: u64 = (1 << 24) - 1;

/// One place of an index.
///
/// ```text
///  63                          24 23             0
/// +------------------------------+----------------+
/// |      high bits of the hash   |  id, never 0   |
/// +------------------------------+----------------+
/// ```
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Word(pub u64);

impl Word {
    /// Nothing is here, and no chain goes on.
    pub const FREE: Self = Self(0);

    /// Nothing is here any more; chains go on.
    pub const FORMER: Self = Self(ID_MASK + 1);

    /// Of the entry `id`, which is 1 or more and fits 24 bits, under an endpoint with this hash.
    #[must_use]
    #[inline(always)]
    pub const fn new(hash: u64, id: u32) -> Self {
        Self(hash & !ID_MASK | id as u64 & ID_MASK)
    }

    /// The entry's id; 0 where there is none.
    #[must_use]
    #[inline(always)]
    pub const fn id(self) -> u32 {
        (self.0 & ID_MASK) as u32
    }

    /// Whether this may be the word of an endpoint with this hash.
    #[must_use]
    #[inline(always)]
    pub const fn matches(self, hash: u64) -> bool {
        (self.0 ^ hash) & !ID_MASK == 0
    }
}

/// Places that an index for `entries` entries needs: a power of two.
#[must_use]
pub const fn places(entries: u32) -> u32 {
    match entries.checked_next_power_of_two() {
        Some(places) => places.saturating_mul(4),
        None => u32::MAX / 2 + 1,
    }
}

/// The place, of those that `mask` leaves, where the search for an endpoint with this hash begins.
#[must_use]
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "an index has at most 2^31 places")]
pub const fn place(hash: u64, mask: u32) -> u32 {
    hash as u32 & mask
}

/// Searches for the endpoint with this hash: `word` reads a place, `entry` answers for the entry with an id if it is the one
/// that is looked for.
#[inline(always)]
pub fn find<T>(
    hash: u64,
    mask: u32,
    word: impl Fn(u32) -> Option<Word>,
    entry: impl Fn(u32) -> Option<T>,
) -> Option<T> {
    let first = place(hash, mask);
    for step in 0..LONGEST_CHAIN {
        let word = word(first.wrapping_add(step) & mask)?;
        if word == Word::FREE {
            return None;
        }
        if word.matches(hash)
            && let Some(found) = entry(word.id())
        {
            return Some(found);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_holds_its_hash_and_its_id() {
        let word = Word::new(0x0123_4567_89ab_cdef, 0x00fe_dcba);
        assert_eq!(word.id(), 0x00fe_dcba);
        assert!(word.matches(0x0123_4567_89ab_cdef) && word.matches(0x0123_4567_8900_0000));
        assert!(!word.matches(0x0123_4567_88ab_cdef) && !word.matches(0x8123_4567_89ab_cdef));
        assert_eq!([Word::FREE.id(), Word::FORMER.id()], [0, 0]);
        assert_ne!(Word::FREE, Word::FORMER);
    }

    #[test]
    fn an_index_has_four_places_for_an_entry() {
        assert_eq!([1, 2, 3, 8193].map(places), [4, 8, 16, 65_536]);
        assert_eq!(places(u32::MAX), 1 << 31);
    }

    #[test]
    fn a_search_goes_on_until_a_place_is_free() {
        let hash = 0xabcd_ef01_2345_6702;
        let words = [Word::new(hash, 5), Word::FREE, Word::FORMER, Word::new(!hash, 3)];
        let look =
            |entry: u32| find(hash, 3, |place| words.get(place as usize).copied(), |id| (id == entry).then_some(id));
        assert_eq!(look(5), Some(5), "around the end of the array");
        assert_eq!(look(3), None, "of another hash");
        let full = find(hash, 3, |_| Some(Word::FORMER), |_| None::<()>);
        assert_eq!(full, None, "after so many places it ends");
    }
}
