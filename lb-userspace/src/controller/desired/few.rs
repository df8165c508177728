//! Few backends of a service that are otherwise than they were, as when a host fails that many services have.
//!
//! Which slots change then is the same for all services with the same backends: it is found once, and only those slots are
//! read and written. Nothing here does more than save time: what it can't say, or can't be sure of, is left to
//! [`Desired::service`].

use std::{collections::BTreeSet, time::SystemTime};

use lb_common::{
    abi::{self, NO_BACKEND, NextHop, SlotWord},
    fill::FillError,
    settling,
};

use super::{BackendKey, Desired, slots::reroutes};
use crate::{
    controller::{affected::Affected, entry, want::configured, weights::OfOne},
    side_by_side::side_by_side,
    spec,
    tables::{Endpoint, Tables, Write},
};

/// Services for which a thread of its own is worth while.
const WORTH_A_THREAD: usize = 64;

/// What becomes of services of which only a few backends are looked at.
#[derive(Debug, Default)]
pub struct Few {
    /// The entries of these backends as they are.
    old: Vec<(u32, abi::Backend)>,
    /// The words that change.
    pub words: Vec<Write>,
}

impl Few {
    /// Adds what the mirror has of them to `part`.
    pub fn add_to(&self, part: &mut Tables) {
        part.backends.extend(self.old.iter().copied());
    }
}

/// A service of which only a few backends are looked at.
struct Sparse {
    key: Endpoint,
    first_slot: u32,
    changed: Vec<Changed>,
    /// The words that change, by offset.
    words: Vec<(u32, SlotWord)>,
}

/// A backend that is otherwise than it was, or looked at whether it is.
struct Changed {
    id: u32,
    old: abi::Backend,
    new: abi::Backend,
    /// When time alone makes it another.
    due: Option<SystemTime>,
}

impl Desired<'_> {
    /// Adds few backends of each of these services, which stay as they are otherwise, and the words of their slots that change.
    /// Which services have to be looked at whole: nothing of them was added.
    pub(super) fn few(&mut self, affected: &Affected) -> BTreeSet<Endpoint> {
        let all: Vec<_> = affected.by_service().collect();
        let found = side_by_side(&all, all.len() / WORTH_A_THREAD, |(key, backends)| self.sparse(key, backends));
        let mut whole = BTreeSet::new();
        for ((key, _), sparse) in all.into_iter().zip(found) {
            match sparse {
                Some(sparse) => self.add(sparse),
                None => _ = whole.insert(key),
            }
        }
        // In the order of the slots, they can be stored side by side.
        self.few.words.sort_unstable_by_key(|write| write.words().map(|(first, _)| first));
        whole
    }

    fn add(&mut self, Sparse { key, first_slot, changed, words }: Sparse) {
        if !words.is_empty() {
            self.moved.insert(key, u32::try_from(words.len()).unwrap_or(u32::MAX));
            self.few.words.push(Write::Slots { first: first_slot, words });
        }
        for Changed { id, old, new, due } in changed {
            self.due_at(&key, due);
            self.few.old.push((id, old));
            self.tables.backends.insert(id, new);
        }
    }

    /// What becomes of a service if only these of its backends are looked at; nothing if that is not enough.
    fn sparse(&self, key: &Endpoint, backends: &[BackendKey]) -> Option<Sparse> {
        let (service, known) = (self.inputs.services.get(key)?, self.mirror.tables().services.get(key)?);
        // A service that draws from a ring has another one with other takers.
        let as_known = entry::service(service, known.id, known.first_slot, known.slot_count);
        if entry::hashing_as_before(as_known, known) != *known {
            return None;
        }
        let weights = self.inputs.weights.of(key, service);
        let changed = backends.iter().map(|backend| self.changed(key, service, known, backend, weights));
        let changed = changed.collect::<Option<Vec<_>>>()?;
        let is_gone = |id: u32| self.mirror.tables().backends.get(&id).is_some_and(entry::is_gone);
        let some_gone =
            || changed.iter().any(|one| entry::is_gone(&one.new)) || self.mirror.backends_of(known.id).any(is_gone);
        // Slots that nobody else gets may have to forget who had them.
        if reroutes(known) && some_gone() {
            return None;
        }
        let words = self.moves(known, &changed).ok()??;
        Some(Sparse { key: *key, first_slot: known.first_slot, changed, words })
    }

    /// What becomes of one of these backends; nothing if it is not like any other.
    fn changed(
        &self,
        key: &Endpoint,
        service: &spec::Service,
        known: &abi::Service,
        backend: &BackendKey,
        weights: OfOne<'_>,
    ) -> Option<Changed> {
        let id = self.mirror.backend_id(known.id, backend.address, backend.port)?;
        let old = self.mirror.tables().backends.get(&id)?;
        let configured = configured(service, backend)?;
        // One behind a device that nobody was behind until now needs more than its entry.
        let next_hop = match self.inputs.paths.backends.get(&backend.address) {
            Some(reach) => self.egresses.known(reach, old.next_hop)?,
            None => NextHop::UNRESOLVED,
        };
        let (new, due) = self.backend(key, service, known.id, (configured, Some(old)), next_hop);
        let new = abi::Backend { weight: weights.weight(configured), ..new };
        let has_way_back = || {
            let way_back = self.mirror.tables().reverse.get(&entry::reverse_key(key, &new));
            way_back == Some(&entry::reverse(key, known.id, id))
        };
        // Who was about to leave is a backend like any other again only once its service was looked at whole.
        let plain = !entry::is_leaving(old) && (service.mode != spec::Mode::Nat || has_way_back());
        plain.then_some(Changed { id, old: *old, new, due })
    }

    /// The new words of slots whose new flows others take, by offset; nothing if that can't be told without looking at all
    /// slots.
    fn moves(&self, known: &abi::Service, changed: &[Changed]) -> Result<Option<Vec<(u32, SlotWord)>>, FillError> {
        let (before, old) = (self.mirror.takers(known.id), self.mirror.tables().slots.get(&known.first_slot));
        // A service may still wait for the first word of its backends.
        let filled = |old: &&Vec<SlotWord>| old.first().is_some_and(|word| word.current() != NO_BACKEND);
        let (Some(before), Some(old)) = (before, old.filter(filled)) else { return Ok(None) };
        let mut after = before.clone();
        for Changed { id, old, new, .. } in changed {
            after.remove(*id, old);
            if entry::takes_flows(new) {
                after.insert(*id, new);
            }
        }
        if after == *before {
            return Ok(Some(Vec::new()));
        }
        if after.is_empty() {
            return Ok(None);
        }
        let Some(steps) = self.inputs.fills.steps(old, (before, &after), self.inputs.seed)? else { return Ok(None) };
        // These lie far apart in memory, and are waited for at the same time if nothing depends on them.
        let olds: Vec<_> = steps.iter().map(|step| old[step.offset as usize]).collect();
        let mut words = Vec::with_capacity(steps.len());
        for (step, old) in steps.iter().zip(olds) {
            if old.current() != before.ids()[step.from as usize] {
                return Ok(None);
            }
            let to = after.ids()[step.to as usize];
            words.push((step.offset, settling::retarget(old, to, false, known.tracks_every_flow())));
        }
        Ok(Some(words))
    }
}
