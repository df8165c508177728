//! Services, their slots and the places of these, as packets find them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Range,
};

use anyhow::{Context as _, ensure};
use bytemuck::Zeroable as _;
use lb_common::{
    abi::{Service, ServiceEntry, SlotWord, SteadyLayout, family, steady::Place},
    index::Word,
};

use super::{
    index::Index,
    mapped::Mapped,
    stores::{Arrays, Piece},
};
use crate::tables::Endpoint;

/// Ids that one byte tells apart, and two.
const NARROW: u32 = 255;
const WIDE: u32 = 65_535;

/// Slots that have room for their places in an element.
const SLOTS_OF_ELEMENT: u32 = 4;

/// Slots of which one may be out of reach before a service's places are laid out anew.
const OUT_OF_REACH: u32 = 4;

/// The services of the kernel's tables.
pub(super) struct Services {
    entries: Mapped<ServiceEntry>,
    index: Index,
    slots: Mapped<SlotWord>,
    steady: Mapped<u64>,
    /// The services that packets find, by their first slot.
    ranges: BTreeMap<u32, Slots>,
    /// Ids of services that are gone; packets may be on their way that found them.
    removed: Vec<u32>,
    /// First slots of services whose places may want another layout.
    dubious: BTreeSet<u32>,
    /// Returns when every run of a program that had begun has ended.
    wait: Box<dyn FnMut() + Send>,
}

/// The slots of a service.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slots {
    service: u32,
    first: u32,
    count: u32,
    pub(super) layout: SteadyLayout,
    /// Steady slots of backends that no place can name.
    pub(super) unreached: u32,
}

impl Services {
    /// The services in these arrays, of which none is known yet. `wait` returns when every run of a program that had begun
    /// has ended.
    pub(super) fn new(
        entries: Mapped<ServiceEntry>,
        index: Mapped<Word>,
        slots: Mapped<SlotWord>,
        steady: Mapped<u64>,
        seed: [u64; 2],
        wait: Box<dyn FnMut() + Send>,
    ) -> Self {
        let index = Index::new(index, seed);
        let (ranges, removed, dubious) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
        Self { entries, index, slots, steady, ranges, removed, dubious, wait }
    }

    /// Takes up what an earlier daemon left, wherever it ended: places that don't tell what the slots' words do are mended.
    pub(super) fn adopt(&mut self) -> anyhow::Result<()> {
        self.index.adopt(|id| endpoint(&self.entries.read(id).ok()?))?;
        for (_, service) in self.read()? {
            let mut slots = Slots::of(&service, self.entries.read(service.id)?.steady);
            for slot in slots.range() {
                let word = self.slots.read(slot)?;
                self.put(slots, slot, slots.layout.number(word))?;
                slots.unreached += u32::from(slots.misses(word));
            }
            self.ranges.insert(slots.first, slots);
            self.dubious.insert(slots.first);
        }
        self.finish()
    }

    /// The services that packets find.
    pub(super) fn read(&self) -> anyhow::Result<Vec<(Endpoint, Service)>> {
        let found = self.index.read(|id| endpoint(&self.entries.read(id).ok()?))?;
        found.into_iter().map(|(endpoint, id)| Ok((endpoint, self.entries.read(id)?.service))).collect()
    }

    /// The slots of the array in this range.
    pub(super) fn slots_of(&self, service: &Service) -> anyhow::Result<Vec<SlotWord>> {
        Slots::of(service, SteadyLayout::NONE).range().map(|slot| self.slots.read(slot)).collect()
    }

    /// The slot array, for a sweep.
    pub(super) fn slots(&self) -> &Mapped<SlotWord> {
        &self.slots
    }

    /// The entry of the service with this id; empty if there is none.
    pub(super) fn entry(&self, id: u32) -> anyhow::Result<ServiceEntry> {
        self.entries.read(id)
    }

    /// Adds or changes a service. Its slots are there.
    pub(super) fn insert(&mut self, endpoint: &Endpoint, service: &Service) -> anyhow::Result<()> {
        if let Some(id) = self.index.get(endpoint) {
            let old = self.entries.read(id)?;
            if Slots::of(service, old.steady).is_that_of(&old.service) {
                return self.entries.store(id, &ServiceEntry { service: *service, ..old });
            }
            self.remove(endpoint)?;
        }
        if !self.removed.is_empty() {
            self.finish()?;
        }
        let slots = Slots::of(service, SteadyLayout::NONE);
        let layout = self.layout_for(slots);
        self.fill(slots, layout)?;
        self.entries.store(service.id, &entry(endpoint, *service, layout))?;
        self.index.insert(endpoint, service.id).inspect_err(|_| {
            self.ranges.remove(&slots.first);
        })
    }

    /// Removes a service. Its id and its slots may be another's only once [`finish`](Self::finish) has returned.
    pub(super) fn remove(&mut self, endpoint: &Endpoint) -> anyhow::Result<()> {
        if let Some(id) = self.index.get(endpoint) {
            self.ranges.remove(&self.entries.read(id)?.service.first_slot);
            self.removed.push(id);
        }
        self.index.remove(endpoint)
    }

    /// Ends a series of changes: lays out places anew where that pays, and returns when no packet is on its way any more that
    /// found a service which was removed. It waits for packets once, whatever there was, and not at all if there was nothing.
    pub(super) fn finish(&mut self) -> anyhow::Result<()> {
        let dubious = std::mem::take(&mut self.dubious);
        let mut anew = Vec::new();
        for slots in dubious.iter().filter_map(|first| self.ranges.get(first)) {
            anew.extend(self.better_layout(*slots).map(|layout| (*slots, layout)));
        }
        for (slots, layout) in &anew {
            self.clear(*slots)?;
            let entry = self.entries.read(slots.service)?;
            self.entries.store(slots.service, &ServiceEntry { steady: *layout, ..entry })?;
        }
        if anew.is_empty() && self.removed.is_empty() {
            return Ok(());
        }
        // Until no packet reads places by the old layouts.
        (self.wait)();
        for (slots, layout) in anew {
            self.fill(slots, layout)?;
        }
        // Ways back of backends that get one of these ids for a service must not lead to the old endpoint.
        let removed = std::mem::take(&mut self.removed);
        removed.into_iter().try_for_each(|id| self.entries.store(id, &ServiceEntry::zeroed()))
    }

    /// Stores series of words, each with the slot that the offsets in it count from; a series is ascending, and no two are of the
    /// same service. What comes before a word that lies beyond all slots is stored.
    pub(super) fn store<'a>(
        &mut self,
        series: impl IntoIterator<Item = (u32, &'a [(u32, SlotWord)])>,
    ) -> anyhow::Result<()> {
        let mut pieces = Vec::new();
        let all = series.into_iter().try_for_each(|(first, words)| self.split(first, words, &mut pieces));
        for slots in (Arrays { words: self.slots.words(), places: self.steady.words() }).store(&pieces) {
            if slots.unreached > slots.count / OUT_OF_REACH {
                self.dubious.insert(slots.first);
            }
            self.ranges.insert(slots.first, slots);
        }
        all
    }

    /// Adds words to `pieces`, by service.
    fn split<'a>(&self, first: u32, words: &'a [(u32, SlotWord)], pieces: &mut Vec<Piece<'a>>) -> anyhow::Result<()> {
        let mut rest = words;
        while let Some((offset, _)) = rest.first() {
            let slot = first.checked_add(*offset).context("a slot beyond all slots")?;
            let of = self.slots_around(slot);
            let end = match of {
                Some(slots) => slots.range().end,
                None => self.ranges.range(slot..).next().map_or(u32::MAX, |(first, _)| *first),
            };
            let end = end.min(self.slots.len());
            let (own, others) = rest.split_at(rest.partition_point(|(offset, _)| first.saturating_add(*offset) < end));
            ensure!(!own.is_empty(), "slot {slot} lies beyond all slots");
            pieces.push(Piece { of, first, words: own });
            rest = others;
        }
        Ok(())
    }

    /// Looks whether the places of a service can be smaller, now that one of its backends is gone.
    pub(super) fn backend_left(&mut self, service: u32) -> anyhow::Result<()> {
        let first = self.entries.read(service)?.service.first_slot;
        let wide = self.ranges.get(&first).filter(|slots| slots.service == service && slots.layout.is_wide());
        self.dubious.extend(wide.map(|_| first));
        Ok(())
    }

    fn put(&self, slots: Slots, slot: u32, number: u64) -> anyhow::Result<()> {
        let place = slots.place(slot);
        let old = self.steady.read(place.element())?;
        let new = slots.layout.with(place, old, number);
        if new == old { Ok(()) } else { self.steady.store(place.element(), &new) }
    }

    fn slots_around(&self, slot: u32) -> Option<Slots> {
        let (_, slots) = self.ranges.range(..=slot).next_back()?;
        slots.range().contains(&slot).then_some(*slots)
    }

    fn words(&self, range: Range<u32>) -> impl Iterator<Item = SlotWord> {
        range.filter_map(|slot| self.slots.read(slot).ok())
    }

    /// Another layout for the places of a service, if it reaches far more slots, or all but a few with half of the memory.
    fn better_layout(&self, slots: Slots) -> Option<SteadyLayout> {
        let layout = self.layout_for(slots);
        let new = Slots { layout, ..slots };
        let unreached = self.words(slots.range()).filter(|word| new.misses(*word)).count();
        let smaller = slots.layout.is_wide() && !layout.is_wide();
        let reaches = slots.unreached > slots.count / OUT_OF_REACH && 2 * unreached <= slots.unreached as usize;
        (layout != slots.layout && (smaller || reaches)).then_some(layout)
    }

    /// The layout that suits the steady slots of a service.
    fn layout_for(&self, slots: Slots) -> SteadyLayout {
        let steady = || self.words(slots.range()).filter(|word| is_steady(*word)).map(SlotWord::current);
        let (lowest, highest) = steady().fold((u32::MAX, 0), |(low, high), id| (low.min(id), high.max(id)));
        if highest == 0 {
            return SteadyLayout::NONE;
        }
        if highest - lowest < NARROW {
            return SteadyLayout::narrow(lowest - 1);
        }
        let mut counts: HashMap<u32, u32> = HashMap::new();
        steady().for_each(|id| *counts.entry(id).or_default() += 1);
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_unstable();
        let (most, base) = best_window(&counts, NARROW);
        let all: u32 = counts.iter().map(|(_, count)| count).sum();
        if most >= all - all / (2 * OUT_OF_REACH) {
            return SteadyLayout::narrow(base);
        }
        SteadyLayout::wide(best_window(&counts, WIDE).1)
    }

    /// Sets all places that `layout` has for a service's slots, none of which any packet reads but as 0, and takes the service
    /// in. What other layouts would read there stays: before a service gets one of them, all is cleared.
    fn fill(&mut self, slots: Slots, layout: SteadyLayout) -> anyhow::Result<()> {
        let mut slots = Slots { layout, unreached: 0, ..slots };
        let mut pending: Option<(u32, u64)> = None;
        for (offset, word) in (0..).zip(self.words(slots.range())) {
            slots.unreached += u32::from(slots.misses(word));
            let place = layout.place(slots.first, offset);
            let element = match pending {
                Some((at, element)) if at == place.element() => element,
                Some((at, element)) => {
                    self.steady.store(at, &element)?;
                    self.steady.read(place.element())?
                }
                None => self.steady.read(place.element())?,
            };
            pending = Some((place.element(), layout.with(place, element, layout.number(word))));
        }
        if let Some((at, element)) = pending {
            self.steady.store(at, &element)?;
        }
        self.ranges.insert(slots.first, slots);
        Ok(())
    }

    /// Sets all places that a service's slots can have to 0.
    fn clear(&self, slots: Slots) -> anyhow::Result<()> {
        let every = SteadyLayout::wide(0);
        (0..slots.count).try_for_each(|offset| {
            let place = every.place(slots.first, offset);
            let old = self.steady.read(place.element())?;
            let new = every.with(place, old, 0);
            if new == old { Ok(()) } else { self.steady.store(place.element(), &new) }
        })
    }
}

impl Slots {
    fn of(service: &Service, layout: SteadyLayout) -> Self {
        let Service { id: service, first_slot: first, slot_count: count, .. } = *service;
        Self { service, first, count, layout, unreached: 0 }
    }

    fn range(&self) -> Range<u32> {
        self.first..self.first.saturating_add(self.count)
    }

    fn is_that_of(&self, service: &Service) -> bool {
        (self.service, self.first, self.count) == (service.id, service.first_slot, service.slot_count)
    }

    /// Where the place of a slot of the service is.
    pub(super) fn place(&self, slot: u32) -> Place {
        self.layout.place(self.first, slot - self.first)
    }

    /// Whether an element of the array of places may have another service's places too.
    pub(super) const fn shares_elements(&self) -> bool {
        !self.first.is_multiple_of(SLOTS_OF_ELEMENT) || !self.count.is_multiple_of(SLOTS_OF_ELEMENT)
    }

    /// Whether a slot with this word is steady and no place tells it.
    pub(super) fn misses(&self, word: SlotWord) -> bool {
        is_steady(word) && self.layout.number(word) == 0
    }
}

fn is_steady(word: SlotWord) -> bool {
    SteadyLayout::wide(word.current().wrapping_sub(1)).number(word) != 0
}

/// Of all windows of so many ids, the one that has the most slots: how many, and the id before the window. `counts` is the
/// slots by id, in their order.
fn best_window(counts: &[(u32, u32)], ids: u32) -> (u32, u32) {
    let (mut within, mut end, mut best) = (0, 0, (0, 0));
    for (id, count) in counts {
        while let Some((_, more)) = counts.get(end).filter(|(last, _)| last - id < ids) {
            within += more;
            end += 1;
        }
        best = best.max((within, id - 1));
        within -= count;
    }
    best
}

fn entry(endpoint: &Endpoint, service: Service, steady: SteadyLayout) -> ServiceEntry {
    let (family, mut address) = (if endpoint.address.is_ipv4() { family::V4 } else { family::V6 }, [0; 16]);
    match endpoint.address {
        IpAddr::V4(v4) => address[..4].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => address = v6.octets(),
    }
    let (port, protocol) = (endpoint.port.to_be_bytes(), endpoint.protocol);
    ServiceEntry { address, port, protocol, family, service, steady, ..ServiceEntry::zeroed() }
}

/// The endpoint of an entry; none if it is empty.
pub(super) fn endpoint(entry: &ServiceEntry) -> Option<Endpoint> {
    let address = address(entry.family, entry.address)?;
    Some(Endpoint { address, port: u16::from_be_bytes(entry.port), protocol: entry.protocol })
}

/// The address in an entry; none if the entry is empty.
pub(super) fn address(of_family: u8, bytes: [u8; 16]) -> Option<IpAddr> {
    let [a, b, c, d, ..] = bytes;
    match of_family {
        family::V4 => Some(Ipv4Addr::new(a, b, c, d).into()),
        family::V6 => Some(Ipv6Addr::from(bytes).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
