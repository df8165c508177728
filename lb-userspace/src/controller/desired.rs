//! What the kernel's tables should hold: a pure function of configuration, health, network and what they hold now.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_common::{
    abi::{self, NO_BACKEND, NextHop, SlotWord},
    fill::{self, FillError, Member, Slot},
};

use super::{
    entry,
    full::Full,
    ids::Ids,
    mirror::Mirror,
    paths::{Egresses, Paths},
};
use crate::{
    health::{Health, State},
    spec,
    tables::{Capacity, Endpoint, Tables, Write, diff},
};

/// What makes a backend the same one over changes of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendKey {
    /// Its service.
    pub service: Endpoint,
    /// Its address.
    pub address: IpAddr,
    /// The port it has of its own, 0 for none.
    pub port: u16,
}

/// What the tables are to follow from.
#[derive(Clone, Debug)]
pub struct Inputs<'a> {
    /// The services.
    pub services: BTreeMap<Endpoint, &'a spec::Service>,
    /// What slots are given out by: nodes with the same give them out alike, and another moves most flows.
    pub seed: [u64; 2],
    /// Room in the tables.
    pub capacity: &'a Capacity,
    /// Health of every backend.
    pub health: &'a BTreeMap<BackendKey, Health>,
    /// Ways of every backend, and of clients.
    pub paths: &'a Paths,
}

/// How much is looked at.
#[derive(Clone, Copy, Debug)]
pub enum Scope<'a> {
    /// All of it, and nothing in the tables is taken for right: after they were read.
    Everything,
    /// These services (which may be new or gone), VIP markers, devices and ways to clients; the rest is as it should be.
    Services(&'a BTreeSet<Endpoint>),
}

/// What is to be written, and what that will have done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In their order; empty if nothing is to change.
    pub writes: Vec<Write>,
    /// Slots whose new flows go to another backend than before, of the services where there are any.
    pub moved: BTreeMap<Endpoint, u32>,
    /// Routes towards clients that stay unresolved because their devices find no room.
    pub held_back: usize,
}

/// Plans the way from the kernel's tables to those that follow from `inputs`.
///
/// Services and backends that are there keep their ids and slots; see [`Ids`] for those that are new.
///
/// # Errors
/// [`Full`] if a table has no room.
pub fn plan(mirror: &Mirror, inputs: &Inputs<'_>, scope: Scope<'_>) -> Result<Plan, Full> {
    let mut desired = Desired::new(mirror, inputs, matches!(scope, Scope::Everything));
    match scope {
        Scope::Everything => inputs.services.iter().try_for_each(|(key, service)| desired.service(key, service))?,
        Scope::Services(keys) => {
            let services = keys.iter().filter_map(|key| inputs.services.get_key_value(key));
            services.into_iter().try_for_each(|(key, service)| desired.service(key, service))?;
        }
    }
    desired.clients()?;
    desired.vip_markers();
    let held_back = desired.egresses.held_back();
    let (desired, moved) = desired.finish();
    let writes = match scope {
        Scope::Everything => diff(mirror.tables(), &desired),
        Scope::Services(keys) => diff(&mirror.part(keys), &desired),
    };
    Ok(Plan { writes, moved, held_back })
}

/// Desired tables in the making.
struct Desired<'a> {
    mirror: &'a Mirror,
    inputs: &'a Inputs<'a>,
    /// Fill every service's slots anew, even where the backends that take flows are the same.
    refill: bool,
    ids: Ids<'a>,
    egresses: Egresses<'a>,
    tables: Tables,
    moved: BTreeMap<Endpoint, u32>,
}

impl<'a> Desired<'a> {
    fn new(mirror: &'a Mirror, inputs: &'a Inputs<'a>, refill: bool) -> Self {
        let egresses = &mirror.tables().egresses;
        Self {
            mirror,
            inputs,
            refill,
            ids: Ids::new(mirror, inputs.capacity),
            egresses: Egresses::new(egresses, &inputs.paths.devices, inputs.capacity.egresses),
            tables: Tables::default(),
            moved: BTreeMap::new(),
        }
    }

    /// Adds one service: its entry, its slots, its backends and their ways back.
    fn service(&mut self, key: &Endpoint, service: &spec::Service) -> Result<(), Full> {
        let entry = if let Some(old) = self.mirror.tables().services.get(key) {
            entry::service(service, old.id, old.first_slot, old.slot_count)
        } else {
            let first_slot = self.ids.range(&service.name, service.slots)?;
            entry::service(service, self.ids.service()?, first_slot, service.slots)
        };
        let mut backends = BTreeMap::new();
        for backend in &service.backends {
            let id = match self.mirror.backend_id(entry.id, backend.address, entry::own_port(backend)) {
                Some(id) => id,
                None => self.ids.backend()?,
            };
            backends.insert(id, self.backend(key, service, entry.id, backend, id));
        }
        if service.mode == spec::Mode::Nat {
            let ways_back = backends
                .iter()
                .map(|(id, backend)| (entry::reverse_key(key, backend), entry::reverse(key, entry.id, *id)));
            self.tables.reverse.extend(ways_back);
        }
        let slots = self.slots(key, service, &entry, &backends)?;
        self.tables.slots.insert(entry.first_slot, slots);
        self.tables.services.insert(*key, entry);
        self.tables.backends.extend(backends);
        Ok(())
    }

    fn backend(
        &mut self,
        key: &Endpoint,
        service: &spec::Service,
        id_of_service: u32,
        backend: &spec::Backend,
        id: u32,
    ) -> abi::Backend {
        let known = BackendKey { service: *key, address: backend.address, port: entry::own_port(backend) };
        let up = self.inputs.health.get(&known).is_some_and(|health| health.state == State::Up);
        let old = self.mirror.tables().backends.get(&id).map_or(NextHop::UNRESOLVED, |entry| entry.next_hop);
        let next_hop = match self.inputs.paths.backends.get(&backend.address) {
            Some(reach) => self.egresses.of_backend(reach, old),
            None => NextHop::UNRESOLVED,
        };
        entry::backend(service, id_of_service, backend, up, next_hop)
    }

    /// The words of a service's range. They are the old ones where the same backends take flows as before.
    fn slots(
        &mut self,
        key: &Endpoint,
        service: &spec::Service,
        entry: &abi::Service,
        backends: &BTreeMap<u32, abi::Backend>,
    ) -> Result<Vec<SlotWord>, Full> {
        let old = self.mirror.tables().slots.get(&entry.first_slot);
        if !self.refill
            && let Some(old) = old.filter(|_| self.mirror.tables().services.contains_key(key))
            && taking(backends).eq(taking(&self.old_backends(entry.id)))
        {
            return Ok(old.clone());
        }
        let ids = fill(entry.slot_count, backends, self.inputs.seed).map_err(|error| Full::Fill {
            service: service.name.clone(),
            slots: entry.slot_count,
            error,
        })?;
        let words: Vec<SlotWord> = ids.into_iter().map(slot_word).collect();
        let nothing = SlotWord::steady(NO_BACKEND);
        let before = old.into_iter().flatten().chain(std::iter::repeat(&nothing));
        let moved = words.iter().zip(before).filter(|(new, old)| new.current() != old.current()).count();
        if moved > 0 {
            self.moved.insert(*key, u32::try_from(moved).unwrap_or(u32::MAX));
        }
        Ok(words)
    }

    fn old_backends(&self, service: u32) -> BTreeMap<u32, abi::Backend> {
        let entries = &self.mirror.tables().backends;
        self.mirror.backends_of(service).filter_map(|id| Some((id, *entries.get(&id)?))).collect()
    }

    /// Adds the ways to clients: after all backends, whose devices come first.
    fn clients(&mut self) -> Result<(), Full> {
        let (needed, capacity) = (self.inputs.paths.client_count(), self.inputs.capacity.routes);
        if needed > capacity as usize {
            return Err(Full::Routes { needed, capacity });
        }
        for (net, reach) in &self.inputs.paths.clients {
            let old = self.mirror.tables().routes.get(net).copied().unwrap_or(NextHop::UNRESOLVED);
            let next_hop = self.egresses.of_clients(reach, old);
            self.tables.routes.insert(*net, next_hop);
        }
        Ok(())
    }

    /// Adds a marker for every VIP.
    fn vip_markers(&mut self) {
        let vips = self.inputs.services.keys().map(|key| Endpoint::vip_marker(key.address));
        self.tables.services.extend(vips.map(|key| (key, entry::VIP_MARKER)));
    }

    fn finish(mut self) -> (Tables, BTreeMap<Endpoint, u32>) {
        self.tables.egresses = self.egresses.entries();
        (self.tables, self.moved)
    }
}

/// Who takes new flows, and how many.
fn taking(backends: &BTreeMap<u32, abi::Backend>) -> impl Iterator<Item = (u32, u32)> {
    backends.iter().filter(|(_, backend)| entry::takes_flows(backend)).map(|(id, backend)| (*id, backend.weight))
}

/// Which backend has which of `slots` slots, by id; [`NO_BACKEND`] everywhere if none takes flows.
fn fill(slots: u32, backends: &BTreeMap<u32, abi::Backend>, seed: [u64; 2]) -> Result<Vec<u32>, FillError> {
    let members = backends.iter().filter(|(_, backend)| entry::takes_flows(backend)).map(|(id, backend)| {
        let (_, address, port) = entry::identity(backend);
        Member::new(*id, fill::key_of(address, port), backend.weight)
    });
    let mut table = vec![Slot::EMPTY; slots as usize];
    match fill::fill(&mut table, &mut members.collect::<Vec<_>>(), seed) {
        Ok(()) | Err(FillError::NoBackend) => Ok(table.iter().map(Slot::backend).collect()),
        Err(error) => Err(error),
    }
}

/// The word of a slot whose new flows `backend` takes. Its untracked flows go with them.
const fn slot_word(backend: u32) -> SlotWord {
    SlotWord::steady(backend)
}
