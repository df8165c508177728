//! Array maps in shared memory: what is stored here is what the next packet reads.

use std::{
    marker::PhantomData,
    os::fd::{AsFd as _, AsRawFd as _},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context as _, ensure};
use aya::maps::MapData;
use bytemuck::Pod;
use memmap2::{MmapOptions, MmapRaw};

/// An array map, mapped into this process. Elements are read and stored in 64-bit words, each of them atomically: a
/// packet sees the old or the new value of every field that lies within one word.
#[derive(Clone)]
pub(super) struct Mapped<T: Pod> {
    memory: Arc<MmapRaw>,
    elements: u32,
    element: PhantomData<T>,
}

impl<T: Pod> Mapped<T> {
    /// Words of an element.
    const WORDS: usize = {
        assert!(size_of::<T>().is_multiple_of(size_of::<u64>()));
        size_of::<T>() / size_of::<u64>()
    };

    /// Maps `map`, an array with the flag `BPF_F_MMAPABLE`.
    pub(super) fn new(map: &MapData) -> anyhow::Result<Self> {
        // What `map.len()` tells is how many were asked for; a map that was pinned before may have others.
        let info = map.info()?;
        // One value may be a whole table.
        let bytes = u64::from(info.max_entries()) * u64::from(info.value_size());
        let elements = u32::try_from(bytes / size_of::<T>() as u64)?;
        let memory = MmapOptions::new()
            .len(elements as usize * size_of::<T>())
            .map_raw(map.fd().as_fd().as_raw_fd())
            .context("cannot map an array into memory")?;
        Ok(Self { memory: Arc::new(memory), elements, element: PhantomData })
    }

    /// An array of the same kind in memory of this process alone.
    #[cfg(test)]
    pub(super) fn anonymous(elements: u32) -> anyhow::Result<Self> {
        let memory = MmapOptions::new().len(elements as usize * size_of::<T>()).map_anon()?;
        Ok(Self { memory: Arc::new(memory.into()), elements, element: PhantomData })
    }

    /// Number of elements.
    pub(super) fn len(&self) -> u32 {
        self.elements
    }

    /// The element at `index`.
    pub(super) fn read(&self, index: u32) -> anyhow::Result<T> {
        let mut value = T::zeroed();
        let (bytes, _) = bytemuck::bytes_of_mut(&mut value).as_chunks_mut();
        for (word, bytes) in self.words_of(index)?.iter().zip(bytes) {
            *bytes = word.load(Ordering::Relaxed).to_ne_bytes();
        }
        Ok(value)
    }

    /// Stores an element. Other threads may read it meanwhile, and must not store to it.
    pub(super) fn store(&self, index: u32, value: &T) -> anyhow::Result<()> {
        let (values, _) = bytemuck::bytes_of(value).as_chunks();
        for (word, value) in self.words_of(index)?.iter().zip(values) {
            word.store(u64::from_ne_bytes(*value), Ordering::Release);
        }
        Ok(())
    }

    /// The only word of the element at `index`, to be changed beside others.
    pub(super) fn word(&self, index: u32) -> anyhow::Result<&AtomicU64> {
        self.words_of(index)?.first().context("an element without words")
    }

    /// The words of all elements.
    pub(super) fn words(&self) -> &[AtomicU64] {
        #[expect(clippy::cast_ptr_alignment, reason = "a mapping starts on a page")]
        let words = self.memory.as_mut_ptr().cast::<AtomicU64>();
        // SAFETY: the mapping is so many words long, starts on a page, is shared with the kernel and lives as long as
        // `self`; this process accesses it in words alone.
        unsafe { std::slice::from_raw_parts(words, self.elements as usize * Self::WORDS) }
    }

    /// The words of the element at `index`, to be changed beside others.
    pub(super) fn words_of(&self, index: u32) -> anyhow::Result<&[AtomicU64]> {
        ensure!(index < self.elements, "element {index} lies outside an array of {}", self.elements);
        Ok(&self.words()[index as usize * Self::WORDS..][..Self::WORDS])
    }
}
