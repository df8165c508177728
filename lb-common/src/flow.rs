//! The flow of a packet, as the tracking rules see it.

use core::borrow::Borrow as _;

use crate::{
    abi::{FlowEntry, Service, SlotWord, backend_state, mode, service_flags},
    ip::Ip,
    schedule,
    tables::{Step, Tables},
    tracking::{Flow, FlowEvent},
};

/// The flow `key` of `service` in `slot`.
pub(crate) struct PacketFlow<'a, I: Ip, T> {
    tables: &'a T,
    key: I::FlowKey,
    /// Its service.
    pub service: &'a Service,
    /// Its slot.
    pub slot: SlotWord,
    hash: u32,
}

impl<'a, I: Ip, T: Tables> PacketFlow<'a, I, T> {
    /// With the hash that chose the slot: its other half is good for the flow table too, unless it is of the source address
    /// alone.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "slots are chosen by the high half")]
    pub fn new(tables: &'a T, key: I::FlowKey, service: &'a Service, slot: SlotWord, hash: u64) -> Self {
        let of_source = service.flags & service_flags::HASH_SOURCE != 0;
        let hash = if of_source { I::flow_hash(tables.seed(), &key) } else { hash } as u32;
        Self { tables, key, service, slot, hash }
    }
}

impl<'a, I: Ip, T: Tables> Flow for PacketFlow<'a, I, T> {
    type Entry = T::Entry<'a>;

    #[inline(always)]
    fn now(&self) -> u32 {
        self.tables.now()
    }

    #[inline(always)]
    fn is_gone(&self, backend: u32) -> bool {
        let Some(entry) = self.tables.backend(backend) else { return true };
        let entry = entry.borrow();
        entry.mode() == mode::NONE || entry.state() & backend_state::GONE != 0
    }

    #[inline(always)]
    fn choose(&self) -> u32 {
        let chosen = schedule::choose(self.tables, self.service, self.slot);
        self.tables.note(Step::Choice(chosen));
        chosen
    }

    #[inline(always)]
    fn find(&self) -> Option<T::Entry<'a>> {
        I::flow(self.tables, &self.key, self.hash)
    }

    #[inline(always)]
    fn insert(&self, entry: &FlowEntry) -> bool {
        I::insert_flow(self.tables, &self.key, self.hash, entry)
    }

    #[inline(always)]
    fn count_live(&self, backend: u32, more: bool) {
        self.tables.count_live(backend, more);
    }

    #[inline(always)]
    fn count_event(&self, event: FlowEvent) {
        self.tables.count_event(event);
    }
}
