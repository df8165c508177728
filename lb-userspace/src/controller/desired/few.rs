//! Few backends of a service that are otherwise than they were, as when a host fails that many services have.
//!
//! Which slots change then is the same for all services with the same backends: it is found once, and only those slots are
//! read and written. Nothing here does more than save time: what it can't say, or can't be sure of, is left to
//! [`Desired::service`].

use lb_common::{
    abi::{self, NO_BACKEND, SlotWord},
    fill::FillError,
    settling,
};

use super::{BackendKey, Desired, slots::reroutes};
use crate::{
    controller::{entry, want::configured},
    spec,
    tables::{Endpoint, Tables, Write},
};

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

impl Desired<'_> {
    /// Adds these backends of a service that stays as it is otherwise, and the words of its slots that change.
    ///
    /// Says whether it could: if not, nothing was added, and the service has to be looked at whole.
    pub(super) fn few(&mut self, key: &Endpoint, service: &spec::Service, backends: &[BackendKey]) -> bool {
        let Some(known) = self.mirror.tables().services.get(key) else { return false };
        // A service that draws from a ring has another one with other takers.
        let as_known = entry::service(service, known.id, known.first_slot, known.slot_count);
        if entry::hashing_as_before(as_known, known) != *known {
            return false;
        }
        let Some(changed) = self.changed(key, service, known, backends) else { return false };
        let is_gone = |id: u32| self.mirror.tables().backends.get(&id).is_some_and(entry::is_gone);
        let some_gone =
            || changed.iter().any(|(_, _, new)| entry::is_gone(new)) || self.mirror.backends_of(known.id).any(is_gone);
        // Slots that nobody else gets may have to forget who had them.
        if reroutes(known) && some_gone() {
            return false;
        }
        let Ok(Some(words)) = self.moves(known, &changed) else { return false };
        if !words.is_empty() {
            self.moved.insert(*key, u32::try_from(words.len()).unwrap_or(u32::MAX));
            self.few.words.push(Write::Slots { first: known.first_slot, words });
        }
        for (id, old, new) in changed {
            self.few.old.push((id, old));
            self.tables.backends.insert(id, new);
        }
        true
    }

    /// Id, entry and new entry of each of these backends; nothing if one of them is not like any other.
    fn changed(
        &mut self,
        key: &Endpoint,
        service: &spec::Service,
        known: &abi::Service,
        backends: &[BackendKey],
    ) -> Option<Vec<(u32, abi::Backend, abi::Backend)>> {
        let weights = self.inputs.weights.of(key, service);
        let changed = backends.iter().map(|backend| {
            let id = self.mirror.backend_id(known.id, backend.address, backend.port)?;
            let old = *self.mirror.tables().backends.get(&id)?;
            let configured = configured(service, backend)?;
            let new = self.backend(key, service, known.id, configured, id);
            let new = abi::Backend { weight: weights.weight(configured), ..new };
            let has_way_back = || {
                let way_back = self.mirror.tables().reverse.get(&entry::reverse_key(key, &new));
                way_back == Some(&entry::reverse(key, known.id, id))
            };
            // Who was about to leave is a backend like any other again only once its service was looked at whole.
            let plain = !entry::is_leaving(&old) && (service.mode != spec::Mode::Nat || has_way_back());
            plain.then_some((id, old, new))
        });
        changed.collect()
    }

    /// The new words of slots whose new flows others take, by offset; nothing if that can't be told without looking at all
    /// slots.
    fn moves(
        &self,
        known: &abi::Service,
        changed: &[(u32, abi::Backend, abi::Backend)],
    ) -> Result<Option<Vec<(u32, SlotWord)>>, FillError> {
        let (before, old) = (self.mirror.takers(known.id), self.mirror.tables().slots.get(&known.first_slot));
        // A service may still wait for the first word of its backends.
        let filled = |old: &&Vec<SlotWord>| old.first().is_some_and(|word| word.current() != NO_BACKEND);
        let (Some(before), Some(old)) = (before, old.filter(filled)) else { return Ok(None) };
        let mut after = before.clone();
        for (id, old, new) in changed {
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
