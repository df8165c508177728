//! The flow tables, and entries that several CPUs change at once.

use core::ptr;

use aya_ebpf::{bindings::BPF_F_MMAPABLE, macros::map, maps::Array};
use lb_common::{
    abi::{ENTRIES_V4, ENTRIES_V6, FlowBucketV4, FlowBucketV6, FlowEntry, FlowKeyV4, FlowKeyV6, FlowWord, explained},
    flow_table::{self, Buckets, Cells, Place},
    tracking::Entry,
};

use crate::{
    atomic,
    tables::{explain, explaining},
};

// Nothing is ever thrown out to make room: what is configured is there when it is needed.
#[map]
static FLOWS_V4: Array<FlowBucketV4> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static FLOWS_V6: Array<FlowBucketV6> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Entries of the IPv4 and of the IPv6 table, a line apart.
#[map]
static FLOW_ENTRIES: Array<u64> = Array::with_max_entries(2 * ENTRIES_V6, BPF_F_MMAPABLE);

/// Buckets of each flow table less 1, and entries that there may be at most; replaced before loading, constant to the verifier.
#[unsafe(no_mangle)]
static FLOW_BUCKETS_MASK: u32 = 0;
#[unsafe(no_mangle)]
static MOST_FLOWS: u32 = 0;

/// A flow table: the map of its buckets, and which of [`FLOW_ENTRIES`] is its own.
struct Table<B: 'static>(&'static Array<B>, u32);

const TABLE_V4: Table<FlowBucketV4> = Table(&FLOWS_V4, ENTRIES_V4);
const TABLE_V6: Table<FlowBucketV6> = Table(&FLOWS_V6, ENTRIES_V6);

impl<B> Buckets for Table<B> {
    type Bucket = Bucket;

    #[inline(always)]
    fn bucket(&self, number: u32) -> Option<Bucket> {
        // SAFETY: reads a static of the program; volatile, since the loader replaces the value that the compiler sees.
        let mask = unsafe { ptr::read_volatile(&raw const FLOW_BUCKETS_MASK) };
        self.0.get_ptr_mut(number & mask).map(|bucket| Bucket(bucket.cast()))
    }

    #[inline(always)]
    fn take_room(&self) -> bool {
        // SAFETY: as above.
        let most = unsafe { ptr::read_volatile(&raw const MOST_FLOWS) };
        // A flood meets a full table: what all CPUs share is read then, and not written.
        if FLOW_ENTRIES.get(self.1).is_none_or(|entries| *entries >= most.into()) {
            return false;
        }
        let there_is = fetch_add(&FLOW_ENTRIES, self.1, 1) < u64::from(most);
        if !there_is {
            self.give_room();
        }
        there_is
    }

    #[inline(always)]
    fn give_room(&self) {
        fetch_add(&FLOW_ENTRIES, self.1, u64::MAX);
    }
}

/// The first cell of a bucket in its map.
#[derive(Clone, Copy)]
pub struct Bucket(*mut u64);

impl Bucket {
    #[inline(always)]
    fn cell(self, cell: usize) -> *mut u64 {
        // SAFETY: the verifier sees to it that the cell is within the bucket.
        unsafe { self.0.add(cell) }
    }
}

impl Cells for Bucket {
    #[inline(always)]
    fn load(self, cell: usize) -> u64 {
        // SAFETY: an aligned load of a cell of the map.
        unsafe { ptr::read_volatile(self.cell(cell)) }
    }

    #[inline(always)]
    fn after(self, seen: u64) -> Self {
        Self(atomic::after(self.0, seen))
    }

    #[inline(always)]
    fn store(self, cell: usize, value: u64) {
        // SAFETY: an aligned store to a cell of the map.
        unsafe { ptr::write_volatile(self.cell(cell), value) }
    }

    #[inline(always)]
    fn store_low(self, cell: usize, value: u32) {
        const { assert!(cfg!(target_endian = "little"), "the other half is the low one") };
        // SAFETY: an aligned store to half a cell of the map.
        unsafe { ptr::write_volatile(self.cell(cell).cast::<u32>(), value) }
    }

    #[inline(always)]
    fn add(self, cell: usize, addend: u64) -> u64 {
        // SAFETY: a cell of the map.
        unsafe { atomic::fetch_add(self.cell(cell), addend) }
    }

    #[inline(always)]
    fn set(self, cell: usize, bits: u64) -> u64 {
        // SAFETY: a cell of the map.
        unsafe { atomic::fetch_or(self.cell(cell), bits) }
    }

    #[inline(always)]
    fn replace(self, cell: usize, old: u64, new: u64) -> bool {
        // SAFETY: a cell of the map.
        unsafe { atomic::compare_and_swap(self.cell(cell), old, new) }
    }
}

/// An entry in its map. Only valid for the program run that looked it up: until that ends it is that flow's.
#[derive(Clone, Copy)]
pub struct KernelEntry(Place<Bucket>);

impl KernelEntry {
    /// An entry that a packet's flow was found to have.
    #[inline(always)]
    fn found(place: Place<Bucket>) -> Self {
        if explaining() {
            explain(|explanation| {
                (explanation.entry_word, explanation.opened) = (place.word().0, place.opened());
                explanation.seen |= explained::ENTRY;
            });
        }
        Self(place)
    }
}

impl Entry for KernelEntry {
    #[inline(always)]
    fn word(&self) -> FlowWord {
        self.0.word()
    }

    #[inline(always)]
    fn replace(&self, old: FlowWord, new: FlowWord) -> bool {
        explaining() || self.0.replace(old, new)
    }

    #[inline(always)]
    fn set_opened(&self, opened: u32) {
        if explaining() {
            explain(|explanation| explanation.seen |= explained::REPLACED);
            return;
        }
        self.0.set_opened(opened);
    }
}

/// What a search answers with where there is no entry.
const NOWHERE: u64 = u64::MAX;

macro_rules! functions {
    ($table:ident, $key:ty, $find:ident, $locate:ident, $insert:ident, $enter:ident) => {
        /// The entry of a flow.
        #[inline(always)]
        #[expect(clippy::cast_possible_truncation, reason = "a bucket's number has 32 bits")]
        pub fn $find(key: &$key, hash: u32) -> Option<KernelEntry> {
            let place = $locate(key, hash);
            if place == NOWHERE {
                return None;
            }
            let bucket = $table.bucket((place >> 1) as u32)?;
            Some(KernelEntry::found(Place::new::<$key>(bucket, (place & 1) as usize)))
        }

        // A global function to the verifier, as the next: it looks through their loops once, and not for every way that leads
        // there. So it can answer with a number only.
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $locate(key: *const $key, hash: u32) -> u64 {
            // SAFETY: the verifier sees to it that a whole key is there, or nothing.
            let place = unsafe { key.as_ref() }.and_then(|key| flow_table::locate(&$table, key, hash));
            place.map_or(NOWHERE, |(number, index)| u64::from(number) << 1 | index as u64)
        }

        /// Enters a flow, if there is room and it has no entry. Whether it did.
        #[inline(always)]
        pub fn $insert(key: &$key, hash: u32, entry: &FlowEntry) -> bool {
            if explaining() {
                explain(|explanation| explanation.seen |= explained::ENTERED);
                return true;
            }
            $enter(key, hash, entry.word.0, entry.opened) != 0
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $enter(key: *const $key, hash: u32, word: u64, opened: u32) -> u32 {
            // SAFETY: the verifier sees to it that a whole key is there, or nothing.
            let Some(key) = (unsafe { key.as_ref() }) else { return 0 };
            flow_table::insert(&$table, key, hash, &FlowEntry { word: FlowWord(word), opened }).into()
        }
    };
}

functions!(TABLE_V4, FlowKeyV4, find_v4, weir_locate_v4, insert_v4, weir_enter_v4);
functions!(TABLE_V6, FlowKeyV6, find_v6, weir_locate_v6, insert_v6, weir_enter_v6);

/// Adds to a counter that all CPUs share. What it was before; 0 if there is none at `index`.
#[inline(always)]
pub fn fetch_add(map: &Array<u64>, index: u32, addend: u64) -> u64 {
    let Some(counter) = map.get_ptr_mut(index) else { return 0 };
    // SAFETY: the pointer is to an aligned element.
    unsafe { atomic::fetch_add(counter, addend) }
}
