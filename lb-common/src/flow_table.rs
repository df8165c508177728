//! The flow table: what packets of all CPUs search and enter flows in, and what the controller takes them out of.
//!
//! A kernel hash map would do the same, but a look-up in one waits for memory twice, for the bucket's head and for the
//! entry, and the controller reaches its entries by system calls alone. Here a flow mostly is within the one line
//! of memory that its hash names, and the controller reads and changes it in place.
//!
//! # Layout
//! Buckets of [`PLACES`] places each, all in one array. An entry is in the bucket that its hash names or, if that
//! was full, in the first one after it that was not. A place is a row of 64-bit [cells](Cells), 4 with an IPv4 key
//! and 8 with an IPv6 key, so that it never lies across two lines of memory:
//!
//! ```text
//!  cell 0     1                                                   2 ...
//! +----------+---------+---------------------+-------------------+---------+
//! | the word | locked  | passed by (31 bits) | opened (32 bits)  | the key |
//! +----------+---------+---------------------+-------------------+---------+
//! ```
//!
//! "Locked" and "passed by" are the bucket's, in its first place. "Passed by" counts the entries that are further on
//! because this bucket was full: where it is 0 a search ends. So nothing has to stay behind where an entry goes, and the
//! table does not wear out. There are at least as many buckets as there may be entries: half of the places are free.
//!
//! # Who changes what
//! - A packet enters a flow ([`insert`]): it claims a place, fills it in, and makes it an entry by storing its word. Two
//!   packets of one flow may do so at the same time on two CPUs: the lock of the bucket that their hash names lets one
//!   after the other look whether the flow is there already. Nobody else waits for a lock, and who does not get it soon
//!   enters nothing.
//! - Packets and the controller change the word of an entry by compare-and-swap, and nothing else of it but when it was
//!   opened.
//! - The controller takes entries out: it buries one by its word, so that packets see it no more, waits until no packet
//!   is on its way that has found it, and gives the place back ([`free`]). So whoever has found an entry has that flow's,
//!   and no other's, for as long as it runs.
//!
//! # Sources
//! Linear probing: Knuth, "The Art of Computer Programming", vol. 3, section 6.4. Counting what passes by in place of
//! marking what was deleted: Bronson and Shi, "Open-sourcing F14", 2019.

#[cfg(target_has_atomic = "64")]
use core::sync::atomic::{AtomicU64, Ordering};

use bytemuck::Pod;

use crate::{
    abi::{FlowEntry, FlowKeyV4, FlowKeyV6, FlowWord},
    tracking::Entry,
};

/// Entries of a bucket.
pub const PLACES: usize = 2;

/// Most buckets that are looked at. With half of the places free, the chance that an entry finds none of them free is
/// less than one in 10^9.
pub const LONGEST_CHAIN: u32 = 64;

/// Attempts to lock a bucket. Who has locked it keeps it for some hundred instructions.
const LOCK_ATTEMPTS: u32 = 128;

/// The cells of a place; the second of a bucket's first place is the bucket's too.
const WORD: usize = 0;
const TAIL: usize = 1;
const KEY: usize = 2;

/// One entry more that is further on.
const ONE_PASSED_BY: u64 = 1 << 32;
/// Set while the bucket is locked.
const LOCKED: u64 = 1 << 63;

/// A flow's key, in cells.
pub trait Key: Pod {
    /// Its cells.
    const CELLS: usize;
    /// Cells of a place.
    const PLACE: usize = (KEY + Self::CELLS).next_power_of_two();

    /// One of its cells.
    fn cell(&self, index: usize) -> u64;

    /// From all of them, as `cell` reads them.
    fn from_cells(cell: impl Fn(usize) -> u64) -> Self;
}

macro_rules! key {
    ($key:ty, $cells:literal) => {
        impl Key for $key {
            const CELLS: usize = $cells;

            #[inline(always)]
            fn cell(&self, index: usize) -> u64 {
                bytemuck::cast_ref::<Self, [u64; $cells]>(self)[index]
            }

            #[inline(always)]
            fn from_cells(cell: impl Fn(usize) -> u64) -> Self {
                bytemuck::cast::<[u64; $cells], Self>(core::array::from_fn(cell))
            }
        }
    };
}

key!(FlowKeyV4, 2);
key!(FlowKeyV6, 5);

/// A bucket in memory that others read and change at the same time, a cell (or its low half) at once.
pub trait Cells: Copy {
    /// What is in `cell`.
    fn load(self, cell: usize) -> u64;
    /// The same bucket, whose cells are read after `seen` was, also where memory is not ordered by itself.
    #[must_use]
    fn after(self, seen: u64) -> Self;
    /// Puts `value` into `cell`, which is nobody else's.
    fn store(self, cell: usize, value: u64);
    /// Puts `value` into the low half of `cell`; the other half stays.
    fn store_low(self, cell: usize, value: u32);
    /// Adds to `cell`, around its end. What was in it.
    fn add(self, cell: usize, addend: u64) -> u64;
    /// Sets bits of `cell`. What was in it.
    fn set(self, cell: usize, bits: u64) -> u64;
    /// Puts `new` into `cell` if `old` is there. Whether it was. What was stored before is seen by whoever sees this.
    fn replace(self, cell: usize, old: u64, new: u64) -> bool;
}

/// Memory that this process shares with others.
#[cfg(target_has_atomic = "64")]
impl Cells for &[AtomicU64] {
    fn load(self, cell: usize) -> u64 {
        self[cell].load(Ordering::Acquire)
    }

    // What is acquired comes before all that follows.
    fn after(self, _: u64) -> Self {
        self
    }

    fn store(self, cell: usize, value: u64) {
        self[cell].store(value, Ordering::Release);
    }

    fn store_low(self, cell: usize, value: u32) {
        // What is read between the two is of an entry that is about to be another.
        self[cell].fetch_and(u64::MAX << 32, Ordering::SeqCst);
        self[cell].fetch_or(value.into(), Ordering::SeqCst);
    }

    fn add(self, cell: usize, addend: u64) -> u64 {
        self[cell].fetch_add(addend, Ordering::SeqCst)
    }

    fn set(self, cell: usize, bits: u64) -> u64 {
        self[cell].fetch_or(bits, Ordering::SeqCst)
    }

    fn replace(self, cell: usize, old: u64, new: u64) -> bool {
        self[cell].compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

/// The memory of a table.
pub trait Buckets {
    /// A bucket of it.
    type Bucket: Cells;

    /// The bucket that `number` names: around the end of the array.
    fn bucket(&self, number: u32) -> Option<Self::Bucket>;
    /// Takes room for one entry more. Whether there was some.
    fn take_room(&self) -> bool;
    /// Gives it back.
    fn give_room(&self);
}

/// Buckets of a table for so many entries: a power of two, and no fewer than a search may look at.
#[must_use]
pub const fn buckets(entries: u32) -> u32 {
    match entries.checked_next_power_of_two() {
        Some(buckets) if buckets > LONGEST_CHAIN => buckets,
        Some(_) => LONGEST_CHAIN,
        None => 1 << 31,
    }
}

/// A place of a bucket.
#[derive(Clone, Copy, Debug)]
pub struct Place<B> {
    /// The bucket.
    pub bucket: B,
    /// The first of its cells that is this place's.
    pub cell: usize,
}

impl<B: Cells> Place<B> {
    /// The place of `bucket` with this index, below [`PLACES`].
    #[must_use]
    #[inline(always)]
    pub const fn new<K: Key>(bucket: B, index: usize) -> Self {
        Self { bucket, cell: index * K::PLACE }
    }

    /// The key that is here.
    #[inline(always)]
    pub fn key<K: Key>(self) -> K {
        K::from_cells(|cell| self.bucket.load(self.cell + KEY + cell))
    }

    /// When the flow that is here was opened.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "it is the low half")]
    pub fn opened(self) -> u32 {
        self.bucket.load(self.cell + TAIL) as u32
    }

    /// Whether here is the entry of the flow `key`.
    #[inline(always)]
    fn is_of<K: Key>(self, key: &K) -> bool {
        let word = self.word();
        if !word.is_entry() {
            return false;
        }
        let bucket = self.bucket.after(word.0);
        let mut difference = 0;
        for cell in 0..K::CELLS {
            difference |= bucket.load(self.cell + KEY + cell) ^ key.cell(cell);
        }
        difference == 0
    }
}

impl<B: Cells> Entry for Place<B> {
    #[inline(always)]
    fn word(&self) -> FlowWord {
        FlowWord(self.bucket.load(self.cell + WORD))
    }

    #[inline(always)]
    fn replace(&self, old: FlowWord, new: FlowWord) -> bool {
        self.bucket.replace(self.cell + WORD, old.0, new.0)
    }

    #[inline(always)]
    fn set_opened(&self, opened: u32) {
        self.bucket.store_low(self.cell + TAIL, opened);
    }
}

/// The entry of the flow `key`, whose hash is `hash`.
#[inline(always)]
pub fn find<K: Key, T: Buckets>(table: &T, key: &K, hash: u32) -> Option<Place<T::Bucket>> {
    let (number, index) = locate(table, key, hash)?;
    Some(Place::new::<K>(table.bucket(number)?, index))
}

/// Where it is: the bucket's number and which of its places.
#[inline(always)]
pub fn locate<K: Key, T: Buckets>(table: &T, key: &K, hash: u32) -> Option<(u32, usize)> {
    for distance in 0..LONGEST_CHAIN {
        let number = hash.wrapping_add(distance);
        let bucket = table.bucket(number)?;
        for index in 0..PLACES {
            if Place::new::<K>(bucket, index).is_of(key) {
                return Some((number, index));
            }
        }
        if bucket.load(TAIL) & !LOCKED < ONE_PASSED_BY {
            return None;
        }
    }
    None
}

/// Enters the flow `key`, whose hash is `hash`, if there is room and it has no entry. Whether it did.
#[inline(always)]
pub fn insert<K: Key, T: Buckets>(table: &T, key: &K, hash: u32, entry: &FlowEntry) -> bool {
    let Some(home) = table.bucket(hash) else { return false };
    if !lock(home) {
        return false;
    }
    let entered = locate(table, key, hash).is_none() && enter(table, key, hash, entry);
    // Around the end: the bit was set, and is not any more.
    home.add(TAIL, LOCKED);
    entered
}

#[inline(always)]
fn lock<B: Cells>(home: B) -> bool {
    for _ in 0..LOCK_ATTEMPTS {
        if home.set(TAIL, LOCKED) & LOCKED == 0 {
            return true;
        }
    }
    false
}

/// Enters a flow that has no entry.
#[inline(always)]
fn enter<K: Key, T: Buckets>(table: &T, key: &K, hash: u32, entry: &FlowEntry) -> bool {
    if !table.take_room() {
        return false;
    }
    for distance in 0..LONGEST_CHAIN {
        let Some(bucket) = table.bucket(hash.wrapping_add(distance)) else { break };
        for index in 0..PLACES {
            let place = Place::new::<K>(bucket, index);
            if place.word() == FlowWord::FREE && place.replace(FlowWord::FREE, FlowWord::CLAIMED) {
                for cell in 0..K::CELLS {
                    bucket.store(place.cell + KEY + cell, key.cell(cell));
                }
                place.set_opened(entry.opened);
                // What was claimed is nobody else's: this makes it an entry.
                return place.replace(FlowWord::CLAIMED, entry.word);
            }
        }
        bucket.add(TAIL, ONE_PASSED_BY);
    }
    pass_back(table, hash, LONGEST_CHAIN);
    table.give_room();
    false
}

/// Takes back that an entry passed by so many buckets.
#[inline(always)]
fn pass_back<T: Buckets>(table: &T, hash: u32, distance: u32) {
    for step in 0..distance {
        if let Some(bucket) = table.bucket(hash.wrapping_add(step)) {
            bucket.add(TAIL, ONE_PASSED_BY.wrapping_neg());
        }
    }
}

/// Gives back the place of an entry that was buried as `buried`: `distance` buckets after the one that its hash `hash`
/// names.
///
/// No packet may be on its way any more that has found the entry before it was buried.
pub fn free<T: Buckets>(table: &T, place: Place<T::Bucket>, buried: FlowWord, hash: u32, distance: u32) {
    // First the place: packets that pass by meanwhile go on for nothing.
    if place.replace(buried, FlowWord::FREE) {
        pass_back(table, hash, distance);
        table.give_room();
    }
}
