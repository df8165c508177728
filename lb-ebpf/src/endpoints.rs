//! Services and ways back by their endpoints, in indices that the program searches itself.

use aya_ebpf::{bindings::BPF_F_MMAPABLE, macros::map, maps::Array};
use lb_common::{
    abi::{Backend, Reverse, ServiceEntry},
    index::{self, Word},
};

use crate::tables::BACKENDS;

/// The services by id, 0 for none.
#[map]
static SERVICES: Array<ServiceEntry> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Where packets find a service by its endpoint, see [`index`].
#[map]
static SERVICE_INDEX: Array<Word> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Where replies find the backend that they come from, by the endpoint that they come from.
#[map]
static REVERSE_INDEX: Array<Word> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Places of the indices less 1; replaced before loading, constant to the verifier.
#[unsafe(no_mangle)]
static SERVICE_INDEX_MASK: u32 = 0;
#[unsafe(no_mangle)]
static REVERSE_INDEX_MASK: u32 = 0;

/// The service that the index leads to, if `is_right`.
#[inline(always)]
pub fn find_service(hash: u64, is_right: impl Fn(&ServiceEntry) -> bool) -> Option<ServiceEntry> {
    // SAFETY: reads a static of the program; volatile, since the loader replaces the value that the compiler sees.
    let mask = unsafe { core::ptr::read_volatile(&raw const SERVICE_INDEX_MASK) };
    let entry = |id| SERVICES.get(id).filter(|entry| is_right(entry)).copied();
    index::find(hash, mask, |place| SERVICE_INDEX.get(place).copied(), entry)
}

/// The way back of the backend that the index leads to, if `is_right`.
#[inline(always)]
pub fn find_reverse(hash: u64, is_right: impl Fn(&Backend, &ServiceEntry) -> bool) -> Option<Reverse> {
    // SAFETY: reads a static of the program; volatile, since the loader replaces the value that the compiler sees.
    let mask = unsafe { core::ptr::read_volatile(&raw const REVERSE_INDEX_MASK) };
    let entry = |id| {
        let backend = BACKENDS.get(id)?;
        let service = SERVICES.get(backend.service)?;
        is_right(backend, service).then(|| service.reverse(id, backend))
    };
    index::find(hash, mask, |place| REVERSE_INDEX.get(place).copied(), entry)
}
