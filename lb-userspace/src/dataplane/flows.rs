//! The flow tables, as a sweep reads and changes them beside the packets.

use std::{
    array,
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context as _, ensure};
use aya::maps::MapData;
use bytemuck::Pod;
use lb_common::{
    abi::{ENTRIES_V4, ENTRIES_V6, FlowBucketV4, FlowBucketV6, FlowEntry, FlowWord, SlotWord},
    flow_table::{self, Buckets, Key, PLACES, Place},
    tracking::{self, Entry as _},
};

use super::{bpf::wait_for_programs, mapped::Mapped, pins::Pins};
use crate::flows::{FlowKey, FlowTable};

/// Entries that are read at once, or one more; buckets that are cleared at once.
const BATCH: u32 = 4096;

/// The flow tables.
#[derive(Clone)]
pub struct Flows {
    pub(super) v4: Mapped<FlowBucketV4>,
    pub(super) v6: Mapped<FlowBucketV6>,
    /// Entries of the IPv4 and of the IPv6 table.
    pub(super) entries: Mapped<u64>,
    /// Live entries by backend id.
    pub(super) counts: Mapped<u64>,
    /// Entries that each table has room for.
    pub(super) most: u32,
    /// Seed of the flow hash.
    pub(super) seed: [u64; 2],
}

/// One of the tables.
struct Table<'a, B: Pod> {
    buckets: &'a Mapped<B>,
    entries: &'a AtomicU64,
    most: u32,
}

impl<'a, B: Pod> Table<'a, B> {
    /// The places of the bucket `number`.
    fn places<K: Key>(&self, number: u32) -> anyhow::Result<[Place<&'a [AtomicU64]>; PLACES]> {
        let bucket = self.buckets.words_of(number)?;
        Ok(array::from_fn(|index| Place::new::<K>(bucket, index)))
    }
}

impl<'a, B: Pod> Buckets for Table<'a, B> {
    type Bucket = &'a [AtomicU64];

    fn bucket(&self, number: u32) -> Option<&'a [AtomicU64]> {
        self.buckets.words_of(number & (self.buckets.len() - 1)).ok()
    }

    fn take_room(&self) -> bool {
        let there_is = self.entries.fetch_add(1, Ordering::SeqCst) < self.most.into();
        if !there_is {
            self.give_room();
        }
        there_is
    }

    fn give_room(&self) {
        self.entries.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Flows {
    fn table_v4(&self) -> anyhow::Result<Table<'_, FlowBucketV4>> {
        Ok(Table { buckets: &self.v4, entries: self.entries.word(ENTRIES_V4)?, most: self.most })
    }

    fn table_v6(&self) -> anyhow::Result<Table<'_, FlowBucketV6>> {
        Ok(Table { buckets: &self.v6, entries: self.entries.word(ENTRIES_V6)?, most: self.most })
    }

    /// Those that are pinned under `pins`, beside whoever works with them: for tests.
    ///
    /// # Errors
    /// There are none.
    pub fn pinned(pins: &Pins) -> anyhow::Result<Self> {
        let settings = pins.settings()?.context("no tables are pinned there")?;
        let v4: Mapped<FlowBucketV4> = mapped(pins, "FLOWS_V4")?;
        Ok(Self {
            most: v4.len(),
            v4,
            v6: mapped(pins, "FLOWS_V6")?,
            entries: mapped(pins, "FLOW_ENTRIES")?,
            counts: mapped(pins, "FLOW_COUNTS")?,
            seed: settings.seed,
        })
    }

    /// Entries of the IPv4 and of the IPv6 table, those included that are about to go.
    ///
    /// # Errors
    /// The map has no such elements.
    pub fn count(&self) -> anyhow::Result<[u64; 2]> {
        Ok([self.entries.read(ENTRIES_V4)?, self.entries.read(ENTRIES_V6)?])
    }

    /// The entry of a flow.
    ///
    /// # Errors
    /// The maps lack elements that they should have.
    pub fn get(&self, key: &FlowKey) -> anyhow::Result<Option<FlowEntry>> {
        Ok(self.find(key)?.map(|place| FlowEntry { word: place.word(), opened: place.opened() }))
    }

    /// Gives a flow an entry as a packet would, or the one that it has another word, but counts nothing: for tests and
    /// measurements.
    ///
    /// # Errors
    /// The flow table is full, or the entry changed meanwhile.
    pub fn set(&self, key: &FlowKey, entry: &FlowEntry) -> anyhow::Result<()> {
        let hash = table_hash(key, self.seed);
        let set = match self.find(key)? {
            Some(place) => place.replace(place.word(), entry.word),
            None => match key {
                FlowKey::V4(key) => flow_table::insert(&self.table_v4()?, key, hash, entry),
                FlowKey::V6(key) => flow_table::insert(&self.table_v6()?, key, hash, entry),
            },
        };
        ensure!(set, "the flow table is full, or the entry of {key:?} changed meanwhile");
        Ok(())
    }

    fn find(&self, key: &FlowKey) -> anyhow::Result<Option<Place<&[AtomicU64]>>> {
        let hash = table_hash(key, self.seed);
        Ok(match key {
            FlowKey::V4(key) => flow_table::find(&self.table_v4()?, key, hash),
            FlowKey::V6(key) => flow_table::find(&self.table_v6()?, key, hash),
        })
    }

    /// Buries the entry of a flow if it still is as it was judged. Whether it was.
    fn bury(&self, key: &FlowKey, judged: FlowWord) -> anyhow::Result<bool> {
        let place = self.find(key)?;
        let buried = place.is_some_and(|place| tracking::bury(&place, judged));
        if buried && !judged.is_closed() {
            self.counts.word(judged.backend())?.fetch_sub(1, Ordering::SeqCst);
        }
        Ok(buried)
    }
}

/// The array that is pinned as `name`.
fn mapped<T: Pod>(pins: &Pins, name: &str) -> anyhow::Result<Mapped<T>> {
    let path = pins.map(name);
    let map = MapData::from_pin(&path).with_context(|| path.display().to_string())?;
    Mapped::new(&map)
}

/// The half of a flow's hash that the flow table goes by.
#[expect(clippy::cast_possible_truncation, reason = "slots are chosen by the high half")]
fn table_hash(key: &FlowKey, seed: [u64; 2]) -> u32 {
    key.hash(seed) as u32
}

/// One sweep of the flow tables.
pub(super) struct KernelFlows {
    flows: Flows,
    slots: Mapped<SlotWord>,
    /// Buckets that were read, of the two tables.
    read: [u32; 2],
    /// Buckets that were looked at for buried entries, of the two tables.
    cleared: [u32; 2],
    /// Whether there are any in the two tables: of this sweep, or of one that was ended early.
    has_buried: [bool; 2],
}

impl KernelFlows {
    pub(super) fn new(flows: Flows, slots: Mapped<SlotWord>) -> Self {
        Self { flows, slots, read: [0; 2], cleared: [0; 2], has_buried: [false; 2] }
    }
}

impl FlowTable for KernelFlows {
    fn next(&mut self) -> anyhow::Result<Vec<(FlowKey, FlowEntry)>> {
        let mut entries = Vec::new();
        let ([v4, v6], [in_v4, in_v6]) = (&mut self.read, &mut self.has_buried);
        *in_v4 |= read(&self.flows.table_v4()?, v4, FlowKey::V4, &mut entries)?;
        *in_v6 |= read(&self.flows.table_v6()?, v6, FlowKey::V6, &mut entries)?;
        Ok(entries)
    }

    fn slot(&self, index: u32) -> Option<SlotWord> {
        self.slots.read(index).ok()
    }

    fn bury(&mut self, key: &FlowKey, judged: FlowWord) -> anyhow::Result<bool> {
        let buried = self.flows.bury(key, judged)?;
        self.has_buried[usize::from(matches!(key, FlowKey::V6(_)))] |= buried;
        Ok(buried)
    }

    fn wait(&self) {
        if self.has_buried != [false; 2] {
            wait_for_programs();
        }
    }

    fn clear(&mut self) -> anyhow::Result<bool> {
        let (flows, [v4, v6], [in_v4, in_v6]) = (&self.flows, &mut self.cleared, &mut self.has_buried);
        if *in_v4 {
            clear(&flows.table_v4()?, v4, |key| table_hash(&FlowKey::V4(key), flows.seed))?;
            *in_v4 = *v4 < flows.v4.len();
        } else if *in_v6 {
            clear(&flows.table_v6()?, v6, |key| table_hash(&FlowKey::V6(key), flows.seed))?;
            *in_v6 = *v6 < flows.v6.len();
        }
        Ok(*in_v4 || *in_v6)
    }
}

/// Reads entries from the bucket `next` on until there are [`BATCH`]. Whether there were some that are buried.
fn read<K: Key, B: Pod>(
    table: &Table<'_, B>,
    next: &mut u32,
    of: impl Fn(K) -> FlowKey,
    entries: &mut Vec<(FlowKey, FlowEntry)>,
) -> anyhow::Result<bool> {
    let mut has_buried = false;
    if table.entries.load(Ordering::SeqCst) == 0 {
        *next = table.buckets.len();
    }
    while *next < table.buckets.len() && entries.len() < BATCH as usize {
        for place in table.places::<K>(*next)? {
            let word = place.word();
            if word.is_entry() {
                entries.push((of(place.key()), FlowEntry { word, opened: place.opened() }));
            }
            has_buried |= is_buried(word);
        }
        *next += 1;
    }
    Ok(has_buried)
}

/// Gives back the places of buried entries in some buckets from `next` on.
fn clear<K: Key, B: Pod>(table: &Table<'_, B>, next: &mut u32, hash: impl Fn(K) -> u32) -> anyhow::Result<()> {
    let end = next.saturating_add(BATCH).min(table.buckets.len());
    for number in *next..end {
        for place in table.places::<K>(number)? {
            let word = place.word();
            if is_buried(word) {
                let hash = hash(place.key());
                let distance = number.wrapping_sub(hash) & (table.buckets.len() - 1);
                flow_table::free(table, place, word, hash, distance);
            }
        }
    }
    *next = end;
    Ok(())
}

/// Whether this is the word of an entry that was taken out.
const fn is_buried(word: FlowWord) -> bool {
    word.is_buried() && word.0 != FlowWord::CLAIMED.0
}
