//! The kernel's slot table, as packets see it: mapped into this process, and watched.

use std::{
    ops::Range,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::MapData;
use lb_common::abi::SlotWord;
use memmap2::{MmapOptions, MmapRaw};
use std::os::fd::{AsFd as _, AsRawFd as _};

/// Pause between two looks at many slots: who only looks is not to take a CPU, and the words that come next, from those who store.
const LOOK: Duration = Duration::from_micros(50);

/// A moment by both clocks: the daemon's log has the wall clock's.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Monotonic.
    pub at: Instant,
    /// Wall clock.
    pub wall: SystemTime,
}

impl Seen {
    /// This moment.
    #[must_use]
    pub fn now() -> Self {
        Self { at: Instant::now(), wall: SystemTime::now() }
    }
}

/// The slot table of a daemon.
pub struct Slots {
    memory: MmapRaw,
    length: usize,
}

impl Slots {
    /// Maps the table that is pinned below `pins`.
    ///
    /// # Errors
    /// There is none.
    pub fn open(pins: &Path) -> Result<Self> {
        let map = MapData::from_pin(pins.join("maps/SLOTS")).context("the slot table is not pinned")?;
        let length = map.info()?.max_entries() as usize;
        let file = map.fd().as_fd().as_raw_fd();
        let memory = MmapOptions::new().len(length * size_of::<SlotWord>()).map_raw_read_only(file)?;
        Ok(Self { memory, length })
    }

    /// Which backends have the new flows of the slots in `range`, now.
    pub fn current(&self, range: Range<u32>) -> Vec<u32> {
        let words = &self.words()[range.start as usize..range.end as usize];
        words.iter().map(|word| SlotWord(word.load(Ordering::Relaxed)).current()).collect()
    }

    /// Watches `range`, which was `before`, until `stop` and one look more: when the last slot that got another backend was
    /// seen to have it, and how many have. The look at 16,384 slots takes microseconds.
    pub fn watch(&self, range: Range<u32>, mut before: Vec<u32>, stop: &AtomicBool) -> Option<(Seen, u32)> {
        let words = &self.words()[range.start as usize..range.end as usize];
        let (mut last, mut moved) = (None, 0);
        loop {
            let is_last = stop.load(Ordering::Acquire);
            let mut changed = 0;
            for (word, before) in words.iter().zip(&mut before) {
                let current = SlotWord(word.load(Ordering::Relaxed)).current();
                if current != *before {
                    *before = current;
                    changed += 1;
                }
            }
            if changed > 0 {
                last = Some(Seen::now());
                moved += changed;
            }
            if is_last {
                return last.map(|seen| (seen, moved));
            }
            thread::yield_now();
        }
    }

    /// Waits until none of `slots`, each given with the backend that it had, has that any more: when that was seen. Each is
    /// looked at until it has another, in their order.
    ///
    /// # Errors
    /// It has not come to that after `patience`.
    pub fn wait_until_all_left(&self, slots: &[(u32, u32)], patience: Duration) -> Result<Seen> {
        let (words, began) = (self.words(), Instant::now());
        for (index, (slot, had)) in slots.iter().enumerate() {
            while SlotWord(words[*slot as usize].load(Ordering::Relaxed)).current() == *had {
                ensure!(began.elapsed() < patience, "{} of {} slots still name it", slots.len() - index, slots.len());
                thread::sleep(LOOK);
            }
        }
        Ok(Seen::now())
    }

    /// Number of slots.
    pub fn len(&self) -> usize {
        self.length
    }

    fn words(&self) -> &[AtomicU64] {
        #[expect(clippy::cast_ptr_alignment, reason = "a mapping starts on a page")]
        let words = self.memory.as_ptr().cast::<AtomicU64>();
        // SAFETY: the mapping has so many words, starts on a page and lives as long as `self`. It is only read here, and
        // others store to it in whole words.
        unsafe { std::slice::from_raw_parts(words, self.length) }
    }
}
