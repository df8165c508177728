//! The flow tables, and entries that several CPUs change at once.

use core::ptr;

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    macros::map,
    maps::{Array, HashMap},
};
use lb_common::{
    abi::{BURIALS, BurialV4, BurialV6, FlowEntry, FlowKeyV4, FlowKeyV6, FlowWord, explained},
    frame::Frame,
    tracking::{self, Entry},
};

use crate::{
    atomic,
    tables::{count_live, explain, explaining},
};

// Never LRU: nothing is ever thrown out to make room. Preallocated: what is configured is there when it is needed.
#[map]
pub static FLOWS_V4: HashMap<FlowKeyV4, FlowEntry> = HashMap::with_max_entries(1, 0);
#[map]
pub static FLOWS_V6: HashMap<FlowKeyV6, FlowEntry> = HashMap::with_max_entries(1, 0);

/// An entry in its map. Only valid for the program run that looked it up.
#[derive(Clone, Copy)]
pub struct KernelEntry(pub *mut FlowEntry);

impl KernelEntry {
    /// An entry that a packet's flow was found to have.
    #[inline(always)]
    pub fn found(pointer: *mut FlowEntry) -> Self {
        let entry = Self(pointer);
        if explaining() {
            // SAFETY: the pointer is to a value of the map; an aligned load of one word.
            let opened = unsafe { ptr::read_volatile(&raw const (*pointer).opened) };
            explain(|explanation| {
                (explanation.entry_word, explanation.opened) = (entry.word().0, opened);
                explanation.seen |= explained::ENTRY;
            });
        }
        entry
    }
}

impl Entry for KernelEntry {
    #[inline(always)]
    fn word(&self) -> FlowWord {
        // SAFETY: the pointer is to a value of the map. The entry may be deleted, or even be another flow's by now, but it
        // stays a value of the map for as long as the program runs.
        FlowWord(unsafe { ptr::read_volatile(&raw const (*self.0).word.0) })
    }

    #[inline(always)]
    fn tag(&self) -> u32 {
        // SAFETY: as above; an aligned load of one word.
        unsafe { ptr::read_volatile(&raw const (*self.0).tag) }
    }

    #[inline(always)]
    fn replace(&self, old: FlowWord, new: FlowWord) -> bool {
        if explaining() {
            return true;
        }
        // SAFETY: as above; values are aligned to 8 bytes.
        unsafe { atomic::compare_and_swap(&raw mut (*self.0).word.0, old.0, new.0) }
    }

    #[inline(always)]
    fn set_opened(&self, opened: u32) {
        if explaining() {
            explain(|explanation| explanation.seen |= explained::REPLACED);
            return;
        }
        // SAFETY: as above; an aligned store of one word.
        unsafe { ptr::write_volatile(&raw mut (*self.0).opened, opened) }
    }
}

/// Enters a flow, if there is room and it has no entry. Whether it did.
#[inline(always)]
pub fn insert<K>(map: &HashMap<K, FlowEntry>, key: &K, entry: &FlowEntry) -> bool {
    if explaining() {
        explain(|explanation| explanation.seen |= explained::ENTERED);
        return true;
    }
    map.insert(key, entry, u64::from(BPF_NOEXIST)).is_ok()
}

/// Deletes the entry of a flow, if it has one.
#[inline(always)]
pub fn remove<K>(map: &HashMap<K, FlowEntry>, key: &K) {
    if explaining() {
        explain(|explanation| explanation.seen |= explained::REPLACED);
        return;
    }
    // An entry that is gone already is what was wanted.
    let _ = map.remove(key);
}

/// Adds to a counter that all CPUs share. What it was before; 0 if there is none at `index`.
#[inline(always)]
pub fn fetch_add(map: &Array<u64>, index: u32, addend: u64) -> u64 {
    let Some(counter) = map.get_ptr_mut(index) else { return 0 };
    // SAFETY: the pointer is to an aligned element.
    unsafe { atomic::fetch_add(counter, addend) }
}

/// Deletes the entries that the frame names, of IPv4 flows or of IPv6 flows, unless they have changed since they were
/// judged. How many it deleted.
#[inline(always)]
pub fn bury<F: Frame>(frame: &F, ipv6: bool) -> u32 {
    let mut buried = 0;
    for index in 0..BURIALS {
        let done = if ipv6 {
            let Some(burial) = frame.at::<BurialV6>(index * size_of::<BurialV6>()) else { break };
            bury_one::<FlowKeyV6>(&FLOWS_V6, bytemuck::cast(burial.key), burial.word)
        } else {
            let Some(burial) = frame.at::<BurialV4>(index * size_of::<BurialV4>()) else { break };
            bury_one::<FlowKeyV4>(&FLOWS_V4, bytemuck::cast(burial.key), burial.word)
        };
        buried += u32::from(done);
    }
    buried
}

#[inline(always)]
fn bury_one<K: Copy>(map: &HashMap<K, FlowEntry>, key: K, judged: [u8; 8]) -> bool {
    let judged = FlowWord(u64::from_ne_bytes(judged));
    let Some(entry) = map.get_ptr_mut(key).map(KernelEntry) else { return false };
    if !tracking::bury(&entry, judged) {
        return false;
    }
    if !judged.is_closed() && !judged.is_buried() {
        count_live(judged.backend(), false);
    }
    map.remove(key).is_ok()
}
