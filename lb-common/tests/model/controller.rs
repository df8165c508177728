//! The controller: which backends there are, and how the slots follow. Written as the rules for it are, not as the daemon.

use lb_common::{
    abi::{NO_BACKEND, SlotWord},
    fill::{Member, Slot, fill},
    settling::{retarget, settled, untracked},
    tracking::FlowEvent,
};

use super::{Broken, IDS, Model, OnDown, SLOTS, sweep::Sweep};

/// A backend.
#[derive(Clone, Copy, Debug)]
pub struct Backend {
    key: u64,
    weight: u32,
    drained: bool,
    /// Fails its health checks since then.
    down: Option<u32>,
    /// Its flows count as gone.
    gone: bool,
    /// No longer configured; stays until nothing names it.
    pub removed: bool,
}

impl Backend {
    fn takes_flows(&self) -> bool {
        !self.drained && self.down.is_none() && !self.gone && !self.removed
    }
}

/// Since when a slot is as it is.
#[derive(Clone, Copy, Debug)]
pub enum Since {
    /// `current` has been `base` since then.
    Level(u32),
    /// `current` has been another since then, when so many flows had not been entered.
    Away(u32, u64),
}

impl Model {
    pub fn is_gone(&self, id: u32) -> bool {
        self.backends[id as usize].get().is_none_or(|backend| backend.gone)
    }

    /// Flows that have no entry and should have. A new one that got no place is its slot's base's, and the packet that would
    /// have learnt it may be on its way just as the slot settles.
    fn failures(&self) -> u64 {
        let count = |event: FlowEvent| self.events[event as usize].get();
        if self.broken == Some(Broken::UnopenedDoNotCount) { count(FlowEvent::NotLearnt) } else { self.not_entered() }
    }

    /// Flows that were not entered because there was no room.
    pub fn not_entered(&self) -> u64 {
        [FlowEvent::NotOpened, FlowEvent::NotLearnt].map(|event| self.events[event as usize].get()).iter().sum()
    }

    fn change(&self, id: usize, change: impl FnOnce(&mut Backend)) {
        if let Some(mut backend) = self.backends[id].get() {
            change(&mut backend);
            self.backends[id].set(Some(backend));
        }
    }

    /// One random change.
    pub fn controller_acts(&self) {
        let existing: Vec<_> = (1..IDS).filter(|&id| self.backends[id].get().is_some_and(|b| !b.removed)).collect();
        if existing.is_empty() {
            return self.add_backend();
        }
        let id = existing[self.below(64) as usize % existing.len()];
        let now = self.now.get();
        let what = self.below(16);
        let weight = 1 + self.below(3);
        self.note(|| format!("change {what} of {id}"));
        match what {
            0..3 if existing.len() < 6 => return self.add_backend(),
            3..5 => self.change(id, |backend| backend.drained = true),
            5..7 => self.change(id, |backend| backend.drained = false),
            7 => self.change(id, |backend| backend.weight = weight),
            8..11 => self.change(id, |backend| backend.down = backend.down.or(Some(now))),
            11..14 => self.come_back(id),
            14 => self.change(id, |backend| backend.removed = true),
            15 if existing.len() > 1 => return self.go(id),
            _ => {}
        }
        self.reconcile();
        self.hold_ends();
    }

    pub fn add_backend(&self) {
        let Some(id) = (1..IDS).find(|&id| self.backends[id].get().is_none()) else { return };
        let key = self.random.borrow_mut().next();
        let backend = Backend { key, weight: 1, drained: false, down: None, gone: false, removed: false };
        self.note(|| format!("{id} is added"));
        self.backends[id].set(Some(backend));
        self.reconcile();
    }

    fn come_back(&self, id: usize) {
        self.forget_lost(id as u32);
        self.change(id, |backend| (backend.down, backend.gone) = (None, false));
    }

    /// Backends that were held long enough go.
    pub fn hold_ends(&self) {
        for id in 1..IDS {
            let down = self.backends[id].get().filter(|backend| !backend.gone).and_then(|backend| backend.down);
            if down.is_some_and(|since| self.now.get() - since >= self.settings.hold) {
                self.go(id);
            }
        }
    }

    /// A backend's flows count as gone from now on. New flows left it before.
    fn go(&self, id: usize) {
        let now = self.now.get();
        self.change(id, |backend| backend.down = backend.down.or(Some(now)));
        self.reconcile();
        self.note(|| format!("{id} is gone"));
        self.change(id, |backend| backend.gone = true);
        self.lose_flows(id as u32);
        self.reconcile();
    }

    /// Brings the slots and the ring in line with the backends.
    fn reconcile(&self) {
        let outer = self.controlling.replace(true);
        let (now, fresh) = (self.now.get(), self.fill());
        let mut ring = fresh.to_vec();
        ring.sort_unstable();
        ring.dedup();
        ring.retain(|&id| id != NO_BACKEND);
        for id in self.ring.replace(ring) {
            self.named[id as usize].set(now);
        }
        for (index, current) in fresh.into_iter().enumerate() {
            self.interrupt();
            let old = self.slots[index].get();
            let leaves = self.settings.on_down == OnDown::Reroute && self.is_gone(old.base());
            let leaves = leaves || self.broken == Some(Broken::BaseFollowsAtOnce);
            self.write(index, retarget(old, current, leaves, self.settings.track_every_flow()));
        }
        self.controlling.set(outer);
    }

    fn fill(&self) -> [u32; SLOTS] {
        let taking = (1..).zip(&self.backends[1..]).filter_map(|(id, backend)| Some((id, backend.get()?)));
        let mut members: Vec<_> = taking
            .filter(|(_, backend)| backend.takes_flows())
            .map(|(id, backend)| Member::new(id, backend.key, backend.weight))
            .collect();
        let mut table = [Slot::EMPTY; SLOTS];
        // Nobody takes flows: the table stays empty.
        let _ = fill(&mut table, &mut members, [1, 2]);
        table.map(|slot| slot.backend())
    }

    fn write(&self, index: usize, new: SlotWord) {
        let (old, now) = (self.slots[index].get(), self.now.get());
        if old == new {
            return;
        }
        self.note(|| format!("slot {index}: {} -> {}", show(old), show(new)));
        for id in [old.current(), old.base()] {
            self.named[id as usize].set(now);
        }
        let since = match self.since[index].get() {
            since @ Since::Away(..) if new.current() != new.base() => since,
            since @ Since::Level(_) if new.current() == new.base() && new.base() == old.base() => since,
            _ if new.current() == new.base() => Since::Level(now),
            Since::Away(..) | Since::Level(_) => Since::Away(now, self.failures()),
        };
        self.since[index].set(since);
        self.slots[index].set(new);
    }

    /// What follows from a sweep that has ended.
    pub fn settle(&self, sweep: &Sweep) {
        self.controlling.set(true);
        for index in 0..SLOTS {
            self.settle_slot(index, sweep);
        }
        for id in 1..IDS {
            self.let_go(id, sweep);
        }
        self.controlling.set(false);
    }

    fn settle_slot(&self, index: usize, sweep: &Sweep) {
        let (slot, now) = (self.slots[index].get(), self.now.get());
        match self.since[index].get() {
            Since::Away(since, failures) => {
                let wait = if self.broken == Some(Broken::SettledAtOnce) { 0 } else { self.settings.settle_after };
                if now - since < wait {
                    return;
                }
                if self.failures() != failures && self.broken != Some(Broken::SettledDespiteFailures) {
                    self.since[index].set(Since::Away(now, self.failures()));
                    return;
                }
                self.interrupt();
                self.write(index, settled(slot));
            }
            Since::Level(since) => {
                let fresh = sweep.began > since || self.broken == Some(Broken::UntrackedByOldSweep);
                let empty = !sweep.occupied[index] || self.broken == Some(Broken::UntrackedWhileOccupied);
                if fresh && empty && !self.settings.track_every_flow() {
                    self.interrupt();
                    self.write(index, untracked(slot));
                }
            }
        }
    }

    /// A removed backend that nothing names is no more, and its id free.
    fn let_go(&self, id: usize, sweep: &Sweep) {
        if !self.backends[id].get().is_some_and(|backend| backend.removed) {
            return;
        }
        let slots = || self.slots.iter().any(|slot| [slot.get().current(), slot.get().base()].contains(&(id as u32)));
        let named = sweep.named[id] || self.named[id].get() >= sweep.began || slots();
        if !named || self.broken == Some(Broken::IdReusedAtOnce) {
            self.note(|| format!("{id} is no more"));
            self.backends[id].set(None);
        }
    }
}

fn show(slot: SlotWord) -> String {
    format!("{{{}, {}{}}}", slot.current(), slot.base(), if slot.tracked() { ", tracked" } else { "" })
}
