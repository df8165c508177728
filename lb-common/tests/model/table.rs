//! The flow table: elements that are used again at once when they are given back, so that a reference into it may come to be
//! one to another flow's entry where that is too early.

use std::cell::{Cell, RefCell};

use lb_common::{
    abi::{FlowEntry, FlowWord, NO_BACKEND, SlotWord},
    tracking::{Entry, Flow, FlowEvent},
};

use super::{Broken, Model, Scheduler};

/// A table of a fixed number of elements, keyed by client.
pub struct Table {
    words: Vec<Cell<FlowWord>>,
    opened: Vec<Cell<u32>>,
    places: Vec<Cell<Option<usize>>>,
    free: RefCell<Vec<usize>>,
    /// Places of entries that were taken out.
    buried: RefCell<Vec<usize>>,
}

impl Table {
    pub fn new(capacity: usize, clients: usize) -> Self {
        Self {
            words: vec![Cell::new(FlowWord(0)); capacity],
            opened: vec![Cell::new(0); capacity],
            places: vec![Cell::new(None); clients],
            free: RefCell::new((0..capacity).collect()),
            buried: RefCell::default(),
        }
    }

    /// Clients that have entries, and their words.
    pub fn words(&self) -> impl Iterator<Item = (usize, FlowWord)> {
        self.places.iter().enumerate().filter_map(|(client, place)| Some((client, self.words[place.get()?].get())))
    }

    pub fn word_of(&self, client: usize) -> Option<FlowWord> {
        Some(self.words[self.places[client].get()?].get())
    }

    pub fn entry_of(&self, client: usize) -> Option<FlowEntry> {
        let place = self.places[client].get()?;
        Some(FlowEntry { word: self.words[place].get(), opened: self.opened[place].get() })
    }

    /// Nobody finds the client's entry any more.
    pub fn take_out(&self, client: usize) {
        self.buried.borrow_mut().extend(self.places[client].take());
    }

    /// Gives back the places of all entries that were taken out.
    pub fn clear(&self) {
        self.free.borrow_mut().append(&mut self.buried.borrow_mut());
    }

    fn insert(&self, client: usize, entry: &FlowEntry) -> bool {
        if self.places[client].get().is_some() {
            return false;
        }
        let Some(place) = self.free.borrow_mut().pop() else { return false };
        self.words[place].set(entry.word);
        self.opened[place].set(entry.opened);
        self.places[client].set(Some(place));
        true
    }

    fn is_full(&self) -> bool {
        self.free.borrow().is_empty()
    }
}

/// The flow of a client's packet that has read `slot`.
pub struct PacketFlow<'a> {
    pub model: &'a Model,
    pub client: usize,
    pub slot: SlotWord,
    pub opens: bool,
}

/// A reference to an element of the table.
pub struct Element<'a> {
    model: &'a Model,
    place: usize,
}

impl<'a> PacketFlow<'a> {
    /// The flow's element, with nobody interfering.
    pub fn element(&self) -> Option<Element<'a>> {
        let place = self.model.table.places[self.client].get()?;
        Some(Element { model: self.model, place })
    }
}

impl<'a> Flow for PacketFlow<'a> {
    type Entry = Element<'a>;

    fn now(&self) -> u32 {
        self.model.now.get()
    }

    fn is_gone(&self, backend: u32) -> bool {
        self.model.is_gone(backend)
    }

    fn choose(&self) -> u32 {
        self.model.interrupt();
        let ring = self.model.ring.borrow();
        if ring.is_empty() {
            return NO_BACKEND;
        }
        match self.model.settings.scheduler {
            Scheduler::Hash => self.slot.current(),
            Scheduler::RoundRobin => {
                self.model.turn.set(self.model.turn.get() + 1);
                ring[self.model.turn.get() % ring.len()]
            }
            Scheduler::Random => ring[self.model.below(64) as usize % ring.len()],
        }
    }

    fn find(&self) -> Option<Element<'a>> {
        self.model.interrupt();
        let hidden = self.opens && self.model.broken == Some(Broken::SynIsAlwaysNew);
        self.element().filter(|_| !hidden)
    }

    fn insert(&self, entry: &FlowEntry) -> bool {
        self.model.interrupt();
        let claims = self.model.broken == Some(Broken::FullTableClaimsInsertion) && self.model.table.is_full();
        self.model.table.insert(self.client, entry) || claims
    }

    fn count_live(&self, backend: u32, more: bool) {
        let count = &self.model.live[backend as usize];
        count.set(count.get() + if more { 1 } else { -1 });
    }

    fn count_event(&self, event: FlowEvent) {
        self.model.interrupt();
        let count = &self.model.events[event as usize];
        count.set(count.get() + 1);
    }
}

impl Entry for Element<'_> {
    fn word(&self) -> FlowWord {
        self.model.interrupt();
        self.model.table.words[self.place].get()
    }

    fn replace(&self, old: FlowWord, new: FlowWord) -> bool {
        self.model.interrupt();
        let word = &self.model.table.words[self.place];
        let replaces = word.get() == old || self.model.broken == Some(Broken::ReplaceWithoutComparing);
        if replaces {
            word.set(new);
        }
        replaces
    }

    fn set_opened(&self, opened: u32) {
        self.model.table.opened[self.place].set(opened);
    }
}
