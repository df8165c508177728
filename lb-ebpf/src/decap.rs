//! Maps of the decapsulation program.

use aya_ebpf::{
    macros::map,
    maps::{LpmTrie, lpm_trie::Key},
};
use lb_common::decap::AllowedSources;

#[map]
static DECAP_SOURCES_V4: LpmTrie<[u8; 4], u8> = LpmTrie::with_max_entries(256, 0);
#[map]
static DECAP_SOURCES_V6: LpmTrie<[u8; 16], u8> = LpmTrie::with_max_entries(256, 0);

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
