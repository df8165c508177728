//! The words of whole ranges, of many services side by side: what a service's slots hold follows from its own entry and
//! backends alone, and to find it is most of the work of a plan.

use std::{collections::BTreeMap, time::SystemTime};

use lb_common::{
    abi::{self, NO_BACKEND, SlotWord, service_flags},
    fill::FillError,
    settling,
};

use super::{BackendKey, FIRST_WORD, Inputs};
use crate::{
    controller::{entry, full::Full, mirror::Mirror, paths::Reach, takers::Takers},
    health::State,
    side_by_side::side_by_side,
    spec,
    tables::Endpoint,
};

/// Services for which a thread of its own is worth while.
const WORTH_A_THREAD: usize = 16;

/// What slots follow from.
#[derive(Clone, Copy)]
pub struct Slots<'a> {
    pub mirror: &'a Mirror,
    pub inputs: &'a Inputs<'a>,
    /// Fill every service's slots anew, even where the backends that take flows are the same.
    pub refill: bool,
}

/// A service that lacks its slots.
pub struct Planned<'a> {
    pub key: Endpoint,
    pub service: &'a spec::Service,
    pub entry: abi::Service,
    /// All its backends, also those that are leaving, by id.
    pub backends: BTreeMap<u32, abi::Backend>,
}

/// The slots of a service.
pub struct Range {
    pub words: Vec<SlotWord>,
    /// How many of them have new flows go to another backend than before.
    pub moved: u32,
    /// When they are to be looked at again.
    pub due: Option<SystemTime>,
}

impl Slots<'_> {
    /// The words of each of these services, in their order.
    pub fn of_all(&self, planned: &[Planned<'_>]) -> Result<Vec<Range>, Full> {
        let all = side_by_side(planned, planned.len() / WORTH_A_THREAD, |one| self.of(one));
        all.into_iter().collect()
    }

    /// The words of a service's range: new flows go where the fill says, old ones stay where they are (see
    /// [`lb_common::settling::retarget`]). They are the old words where the same backends take flows as before and no
    /// other is gone.
    fn of(&self, planned: &Planned<'_>) -> Result<Range, Full> {
        let Planned { key, service, entry, backends } = planned;
        let known = self.mirror.tables().services.get(key);
        let old = known.and_then(|known| self.mirror.tables().slots.get(&known.first_slot)).filter(|_| !self.refill);
        if let Some(until) = self.waits(planned) {
            let words = vec![self.nothing(); entry.slot_count as usize];
            return Ok(Range { words, moved: 0, due: Some(until) });
        }
        let before = old_backends(self.mirror, entry.id);
        let filled = |old: &&Vec<SlotWord>| old.first().is_some_and(|word| word.current() != NO_BACKEND);
        let same_takers = old.filter(filled).filter(|_| taking(backends).eq(taking(&before)));
        if let Some(old) = same_takers.filter(|_| known == Some(entry) && gone(backends).eq(gone(&before))) {
            return Ok(Range { words: old.clone(), moved: 0, due: None });
        }
        let fill = match same_takers {
            Some(old) => old.iter().map(|word| word.current()).collect(),
            None => fill(entry.slot_count, backends, self.inputs).map_err(|error| Full::Fill {
                service: service.name.clone(),
                slots: entry.slot_count,
                error,
            })?,
        };
        let old = known.and_then(|known| self.mirror.tables().slots.get(&known.first_slot));
        let old = old.into_iter().flatten().copied().chain(std::iter::repeat(self.nothing()));
        // Of what was not just read it is known that each base has an entry. With 100,000 backends that leaves most of what
        // there is to do undone.
        let some_leave = self.refill || reroutes(entry) && gone(backends).next().is_some();
        let mut moved = 0;
        let words = fill.into_iter().zip(old).map(|(current, old)| {
            moved += u32::from(current != old.current());
            // Who takes new flows is there and not gone, and a slot without base gets one in any case.
            let may_leave = some_leave && old.base() != current && old.base() != NO_BACKEND;
            let base_leaves = may_leave && base_leaves(entry, backends.get(&old.base()), current);
            settling::retarget(old, current, base_leaves, entry.tracks_every_flow())
        });
        let words = words.collect();
        Ok(Range { words, moved, due: None })
    }

    /// The word of a slot that nobody has had yet. The flow table may hold entries of an earlier service in the place of a
    /// new one: until these are swept out, a new flow has to look for one and remove it.
    fn nothing(&self) -> SlotWord {
        SlotWord::new(NO_BACKEND, NO_BACKEND, !self.inputs.remains.resting.is_empty())
    }

    /// Whether a service whose slots nobody has had yet waits a moment for the first word of all its backends: were they
    /// filled backend by backend, flows of the first would have to be remembered. Until when, if it does.
    fn waits(&self, planned: &Planned<'_>) -> Option<SystemTime> {
        let Planned { key, service, entry, .. } = planned;
        let old =
            self.mirror.tables().services.get(key).and_then(|_| self.mirror.tables().slots.get(&entry.first_slot));
        if old.into_iter().flatten().any(|word| (word.current(), word.base()) != (NO_BACKEND, NO_BACKEND)) {
            return None;
        }
        let (mut unknown, mut first) = (false, None);
        for backend in service.backends.iter().filter(|backend| backend.weight > 0 && !backend.draining) {
            let known = BackendKey { service: *key, address: backend.address, port: entry::own_port(backend) };
            let Some(health) = self.inputs.health.get(&known) else { continue };
            let reach = self.inputs.paths.backends.get(&backend.address);
            let asked = matches!(reach, Some(Reach::Unknown { failed: false, .. }));
            unknown |= health.state == State::Unknown || health.state == State::Up && asked;
            if health.state == State::Up {
                first = first.into_iter().chain([health.since]).min();
            }
        }
        let until = first.filter(|_| unknown).and_then(|first| first.checked_add(FIRST_WORD));
        until.filter(|until| self.inputs.now < *until)
    }
}

/// The entries that the mirror has of a service's backends.
pub fn old_backends(mirror: &Mirror, service: u32) -> BTreeMap<u32, abi::Backend> {
    let entries = &mirror.tables().backends;
    mirror.backends_of(service).filter_map(|id| Some((id, *entries.get(&id)?))).collect()
}

/// Who takes new flows, and how many.
pub fn taking(backends: &BTreeMap<u32, abi::Backend>) -> impl Iterator<Item = (u32, u32)> {
    backends.iter().filter(|(_, backend)| entry::takes_flows(backend)).map(|(id, backend)| (*id, backend.weight))
}

/// Whose flows count as gone.
fn gone(backends: &BTreeMap<u32, abi::Backend>) -> impl Iterator<Item = u32> {
    backends.iter().filter(|(_, backend)| entry::is_gone(backend)).map(|(id, _)| *id)
}

/// Which backend has which of `slots` slots, by id; [`NO_BACKEND`] everywhere if none takes flows.
fn fill(slots: u32, backends: &BTreeMap<u32, abi::Backend>, inputs: &Inputs<'_>) -> Result<Vec<u32>, FillError> {
    let takers = Takers::of(backends);
    match inputs.fills.table(slots, takers.members().to_vec(), inputs.seed) {
        Ok(table) => Ok(table.iter().map(|place| takers.ids()[*place as usize]).collect()),
        Err(FillError::NoBackend) => Ok(vec![NO_BACKEND; slots as usize]),
        Err(error) => Err(error),
    }
}

/// Whether `current` gets the old flows of a slot too, whose base has the entry `base`: if there is no such backend; if it
/// is gone, its packets are to reach another, and there is one.
fn base_leaves(service: &abi::Service, base: Option<&abi::Backend>, current: u32) -> bool {
    base.is_none_or(|base| reroutes(service) && current != NO_BACKEND && entry::is_gone(base))
}

/// Whether packets of flows whose backend is gone are to reach another.
pub const fn reroutes(service: &abi::Service) -> bool {
    service.flags & service_flags::REROUTE != 0
}
