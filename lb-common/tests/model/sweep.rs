//! Sweeps of the flow table, in as many parts as chance wants, so that anything may happen between reading, judging and
//! burying.

use lb_common::{
    abi::FlowWord,
    settling::{Keep, end_of},
    tracking::{Flow as _, bury},
};

use super::{Broken, IDS, Model, SLOTS, table::PacketFlow};

/// A sweep under way.
#[derive(Debug)]
pub struct Sweep {
    pub began: u32,
    /// Clients whose entries are still to be read.
    unread: Vec<usize>,
    /// Entries that are needed no longer.
    over: Vec<(usize, FlowWord)>,
    /// Slots that have entries.
    pub occupied: [bool; SLOTS],
    /// Backends that entries name.
    pub named: [bool; IDS],
}

impl Model {
    /// Begins a sweep, or goes on with it, or ends it.
    pub fn sweep_goes_on(&self) {
        let outer = self.controlling.replace(true);
        self.sweep_part();
        self.controlling.set(outer);
    }

    fn sweep_part(&self) {
        let Some(mut sweep) = self.sweep.take() else {
            self.note(|| "a sweep begins".to_owned());
            let unread = self.table.words().map(|(client, _)| client).collect();
            let (began, occupied, named) = (self.now.get(), [false; SLOTS], [false; IDS]);
            self.sweep.replace(Some(Sweep { began, unread, over: Vec::new(), occupied, named }));
            return;
        };
        if !sweep.unread.is_empty() {
            for client in sweep.unread.split_off(sweep.unread.len().saturating_sub(8)) {
                self.judge(client, &mut sweep);
            }
        } else if !sweep.over.is_empty() {
            for (client, word) in std::mem::take(&mut sweep.over) {
                self.bury(client, word);
            }
        } else {
            // While a packet is on its way this would wait: here the next sweep does it.
            if self.packets.get() == 0 {
                self.table.clear();
            }
            self.note(|| "the sweep ends".to_owned());
            return self.settle(&sweep);
        }
        self.sweep.replace(Some(sweep));
    }

    /// All that is left of the sweep under way, and a whole one.
    pub fn sweep_whole(&self) {
        while self.sweep.borrow().is_some() {
            self.sweep_goes_on();
        }
        self.sweep_goes_on();
        while self.sweep.borrow().is_some() {
            self.sweep_goes_on();
        }
    }

    fn judge(&self, client: usize, sweep: &mut Sweep) {
        let Some(mut entry) = self.table.entry_of(client) else { return };
        let word = entry.word;
        let keep = Keep {
            slot: Some(self.slots[Self::slot_of(client)].get()),
            backend_exists: self.backends[word.backend() as usize].get().is_some(),
            is_tcp: self.settings.tcp,
            track_every_flow: self.settings.track_every_flow(),
            idle: self.settings.idle,
        };
        if word.is_closed() && self.broken == Some(Broken::ClosedWithoutQuiet) {
            entry.word = FlowWord::new(word.backend(), word.flags(), 0);
        }
        let end = end_of(&entry, &keep, self.now.get());
        if let Some(end) = end {
            self.note(|| format!("client {client}'s entry is over: {end:?}"));
            sweep.over.push((client, word));
        }
        // One that is over counts too: if its flow speaks before it is buried it stays.
        if end.is_none() || self.broken != Some(Broken::JudgedCountsAsGone) {
            sweep.occupied[Self::slot_of(client)] = true;
            sweep.named[word.backend() as usize] = true;
        }
    }

    /// Takes out an entry that was judged to be over.
    fn bury(&self, client: usize, judged: FlowWord) {
        let flow = PacketFlow { model: self, client, slot: self.slots[Self::slot_of(client)].get(), opens: false };
        let Some(entry) = flow.element() else { return };
        let judged = match self.table.word_of(client) {
            Some(word) if self.broken == Some(Broken::BuryWithoutComparing) => word,
            _ => judged,
        };
        if bury(&entry, judged) {
            if !judged.is_closed() {
                flow.count_live(judged.backend(), false);
            }
            self.table.take_out(client);
            if self.broken == Some(Broken::ClearedTooEarly) {
                self.table.clear();
            }
        }
    }
}
