//! Maps of the decapsulation program.

use aya_ebpf::{
    macros::map,
    maps::{LpmTrie, PerCpuArray, lpm_trie::Key},
};
use lb_common::{abi::REASON_COUNTERS, decap::AllowedSources, reason::Reason};

#[map]
static DECAP_SOURCES_V4: LpmTrie<[u8; 4], u8> = LpmTrie::with_max_entries(256, 0);
#[map]
static DECAP_SOURCES_V6: LpmTrie<[u8; 16], u8> = LpmTrie::with_max_entries(256, 0);

/// Packets by [`Reason`] number.
#[map]
static REASONS: PerCpuArray<u64> = PerCpuArray::with_max_entries(REASON_COUNTERS, 0);

/// Counts one packet for `reason`.
#[inline(always)]
pub fn count(reason: Reason) {
    if let Some(counter) = REASONS.get_ptr_mut(reason as u32) {
        // SAFETY: the pointer is to this CPU's copy, and programs on one CPU don't interrupt each other.
        unsafe { *counter += 1 }
    }
}

/// The networks that tunnel packets are accepted from.
pub struct KernelSources;

impl AllowedSources for KernelSources {
    #[inline(always)]
    fn allows_v4(&self, address: [u8; 4]) -> bool {
        DECAP_SOURCES_V4.get(Key::new(32, address)).is_some()
    }

    #[inline(always)]
    fn allows_v6(&self, address: [u8; 16]) -> bool {
        DECAP_SOURCES_V6.get(Key::new(128, address)).is_some()
    }
}
