//! Services, their slots and the places of these, as packets find them.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Range,
};

use anyhow::{Context as _, ensure};
use bytemuck::Zeroable as _;
use lb_common::{
    abi::{Service, ServiceEntry, SlotWord, SteadyLayout, family},
    index::Word,
};

use super::{bpf::wait_for_programs, index::Index, mapped::Mapped};
use crate::tables::Endpoint;

/// Ids that one byte tells apart.
const NARROW: u32 = 255;

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
    /// A service is gone, and packets may be on their way that found it.
    removed: bool,
}

/// The slots of a service.
#[derive(Clone, Copy, Debug)]
struct Slots {
    service: u32,
    first: u32,
    count: u32,
    layout: SteadyLayout,
    /// Steady slots of backends that no place can name.
    unreached: u32,
}

impl Services {
    /// The services in these arrays, of which none is known yet.
    pub(super) fn new(
        entries: Mapped<ServiceEntry>,
        index: Mapped<Word>,
        slots: Mapped<SlotWord>,
        steady: Mapped<u64>,
        seed: [u64; 2],
    ) -> Self {
        Self { entries, index: Index::new(index, seed), slots, steady, ranges: BTreeMap::new(), removed: false }
    }

    /// Takes up what an earlier daemon left, and lays out places anew where that pays.
    pub(super) fn adopt(&mut self) -> anyhow::Result<()> {
        self.index.adopt(|id| endpoint(&self.entries.read(id).ok()?))?;
        for (_, service) in self.read()? {
            let slots = Slots::of(&service, self.entries.read(service.id)?.steady);
            let unreached = self.words(slots.range()).filter(|word| slots.misses(*word)).count();
            self.ranges.insert(slots.first, Slots { unreached: u32::try_from(unreached)?, ..slots });
            self.lay_out_anew(slots.first)?;
        }
        Ok(())
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

    /// The endpoint of the service with this id.
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
            self.let_packets_through();
        }
        let slots = Slots::of(service, SteadyLayout::NONE);
        self.fill(slots, self.layout_for(slots))?;
        let layout = self.ranges.get(&slots.first).map_or(SteadyLayout::NONE, |slots| slots.layout);
        self.entries.store(service.id, &entry(endpoint, *service, layout))?;
        self.index.insert(endpoint, service.id)
    }

    /// Removes a service. Its id and its slots may be another's only once [`let_packets_through`](Self::let_packets_through)
    /// has returned.
    pub(super) fn remove(&mut self, endpoint: &Endpoint) -> anyhow::Result<()> {
        if let Some(id) = self.index.get(endpoint) {
            self.ranges.remove(&self.entries.read(id)?.service.first_slot);
            self.removed = true;
        }
        self.index.remove(endpoint)
    }

    /// Returns when no packet is on its way any more that found a service which was removed.
    pub(super) fn let_packets_through(&mut self) {
        if std::mem::take(&mut self.removed) {
            wait_for_programs();
        }
    }

    /// Stores words, each with its offset from `first`, ascending.
    pub(super) fn store(&mut self, first: u32, words: &[(u32, SlotWord)]) -> anyhow::Result<()> {
        let mut rest = words;
        while let Some((offset, _)) = rest.first() {
            let slot = first.checked_add(*offset).context("a slot beyond all slots")?;
            let around = self.slots_around(slot);
            let end = match around {
                Some(slots) => slots.range().end,
                None => self.ranges.range(slot..).next().map_or(u32::MAX, |(first, _)| *first),
            };
            let (own, others) = rest.split_at(rest.partition_point(|(offset, _)| first.saturating_add(*offset) < end));
            ensure!(!own.is_empty(), "slot {slot} lies beyond all slots");
            match around {
                Some(slots) => self.store_of(slots, first, own)?,
                // Of no service that packets find: their places come with the service.
                None => own.iter().try_for_each(|(offset, word)| self.slots.store(first + offset, word))?,
            }
            rest = others;
        }
        Ok(())
    }

    /// Stores words of a service, and their places.
    fn store_of(&mut self, slots: Slots, first: u32, words: &[(u32, SlotWord)]) -> anyhow::Result<()> {
        let mut unreached = slots.unreached;
        for (offset, word) in words {
            let missed = self.store_one(slots, first + offset, *word)?;
            unreached = unreached + u32::from(slots.misses(*word)) - u32::from(missed);
        }
        if unreached != slots.unreached {
            self.ranges.insert(slots.first, Slots { unreached, ..slots });
        }
        self.lay_out_anew(slots.first)
    }

    /// Looks whether the places of a service can be smaller, now that one of its backends is gone.
    pub(super) fn backend_left(&mut self, service: u32) -> anyhow::Result<()> {
        let wide = self.ranges.values().find(|slots| slots.service == service && slots.layout.is_wide()).copied();
        match wide.map(|slots| (slots, self.layout_for(slots))) {
            Some((slots, layout)) if !layout.is_wide() => self.change_layout(slots, layout),
            _ => Ok(()),
        }
    }

    /// Stores one word and its place, in the order in which each place says what the word says or said. Whether no place told
    /// the old word.
    fn store_one(&self, slots: Slots, slot: u32, word: SlotWord) -> anyhow::Result<bool> {
        let missed = slots.misses(self.slots.read(slot)?);
        let number = slots.layout.number(word);
        if number == 0 {
            self.put(slots, slot, 0)?;
        }
        self.slots.store(slot, &word)?;
        if number != 0 {
            self.put(slots, slot, number)?;
        }
        Ok(missed)
    }

    fn put(&self, slots: Slots, slot: u32, number: u64) -> anyhow::Result<()> {
        let place = slots.layout.place(slots.first, slot - slots.first);
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

    /// Another layout for the places of a service, where many slots have none and there is one that is better.
    fn lay_out_anew(&mut self, first: u32) -> anyhow::Result<()> {
        let Some(slots) = self.ranges.get(&first).copied() else { return Ok(()) };
        if slots.unreached <= slots.count / OUT_OF_REACH && slots.layout != SteadyLayout::NONE {
            return Ok(());
        }
        let layout = self.layout_for(slots);
        if layout == slots.layout { Ok(()) } else { self.change_layout(slots, layout) }
    }

    /// Lays out the places of a service anew while packets read them.
    fn change_layout(&mut self, slots: Slots, layout: SteadyLayout) -> anyhow::Result<()> {
        self.clear(slots)?;
        self.entries.store(slots.service, &ServiceEntry { steady: layout, ..self.entries.read(slots.service)? })?;
        // Until no packet reads them by the old layout.
        wait_for_programs();
        self.fill(slots, layout)
    }

    /// The layout that suits the steady slots of a service.
    fn layout_for(&self, slots: Slots) -> SteadyLayout {
        let steady = || self.words(slots.range()).filter(|word| is_steady(*word)).map(SlotWord::current);
        let (lowest, highest) = steady().fold((u32::MAX, 0), |(low, high), id| (low.min(id), high.max(id)));
        if highest == 0 {
            SteadyLayout::NONE
        } else if highest - lowest < NARROW {
            SteadyLayout::narrow(lowest - 1)
        } else {
            let mut counts: HashMap<u32, u32> = HashMap::new();
            steady().for_each(|id| *counts.entry(id).or_default() += 1);
            best_window(counts).map_or(SteadyLayout::wide(lowest - 1), SteadyLayout::narrow)
        }
    }

    /// Sets all places of a service, none of which any packet reads but as 0, and takes the service in.
    fn fill(&mut self, slots: Slots, layout: SteadyLayout) -> anyhow::Result<()> {
        self.clear(slots)?;
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

    /// Whether a slot with this word is steady and no place tells it.
    fn misses(&self, word: SlotWord) -> bool {
        is_steady(word) && self.layout.number(word) == 0
    }
}

fn is_steady(word: SlotWord) -> bool {
    SteadyLayout::wide(word.current().wrapping_sub(1)).number(word) != 0
}

/// The base of the window of [`NARROW`] ids that has the most slots, of so many by id, if it has nearly all.
fn best_window(counts: HashMap<u32, u32>) -> Option<u32> {
    let all: u32 = counts.values().sum();
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_unstable();
    let (mut within, mut end, mut best) = (0, 0, (0, 0));
    for (at, (id, count)) in counts.iter().enumerate() {
        while let Some((_, more)) = counts.get(end).filter(|(last, _)| last - id < NARROW) {
            within += more;
            end += 1;
        }
        best = best.max((within, id - 1));
        debug_assert!(at < end);
        within -= count;
    }
    (best.0 >= all - all / (2 * OUT_OF_REACH)).then_some(best.1)
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
