//! What the kernel's tables should hold: a pure function of configuration, health, network and what they hold now.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, SystemTime},
};

use lb_common::{
    abi::{self, NO_BACKEND, NextHop, SlotWord, service_flags},
    fill::{self, FillError},
    settling,
};

use super::{
    entry,
    fills::Fills,
    full::Full,
    ids::Ids,
    mirror::Mirror,
    paths::{Egresses, Paths, Reach},
    phase,
    remains::Remains,
    ring::{Ring, Taker},
    weights::Weights,
};
use crate::{
    health::{Health, State},
    spec,
    tables::{Capacity, Endpoint, Tables, Write, diff, diff_of_part},
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
    /// Ways of every backend, also of those that leave, and of clients.
    pub paths: &'a Paths,
    /// What share of new flows backends have at this moment.
    pub weights: &'a Weights,
    /// What is left of backends that are no longer configured.
    pub remains: &'a Remains,
    /// Slot tables that need not be filled again.
    pub fills: &'a Fills,
    /// Which holds and deadlines are over.
    pub now: SystemTime,
}

/// How long a new service waits for the first word of its other backends once one is up.
const FIRST_WORD: Duration = Duration::from_secs(1);

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
    /// When the services that were looked at are to be looked at again, for time alone will have changed something.
    pub due: BTreeMap<Endpoint, SystemTime>,
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
    let (tables, plan) = desired.finish();
    let writes = match scope {
        Scope::Everything => diff(mirror.tables(), &tables),
        Scope::Services(keys) => diff_of_part(&mirror.part(keys), &mirror.tables().slots, &tables),
    };
    Ok(Plan { writes, ..plan })
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
    due: BTreeMap<Endpoint, SystemTime>,
}

impl<'a> Desired<'a> {
    fn new(mirror: &'a Mirror, inputs: &'a Inputs<'a>, refill: bool) -> Self {
        let egresses = &mirror.tables().egresses;
        Self {
            mirror,
            inputs,
            refill,
            ids: Ids::new(mirror, inputs.capacity, &inputs.remains.resting),
            egresses: Egresses::new(egresses, &inputs.paths.devices, inputs.capacity.egresses),
            tables: Tables::default(),
            moved: BTreeMap::new(),
            due: BTreeMap::new(),
        }
    }

    /// Adds one service: its entry, its slots, its backends and their ways back.
    fn service(&mut self, key: &Endpoint, service: &spec::Service) -> Result<(), Full> {
        let entry = if let Some(old) = self.mirror.tables().services.get(key) {
            entry::hashing_as_before(entry::service(service, old.id, old.first_slot, old.slot_count), old)
        } else {
            let first_slot = self.ids.range(&service.name, service.slots)?;
            entry::service(service, self.ids.service()?, first_slot, service.slots)
        };
        let weights = self.inputs.weights.of(key, service);
        let mut backends = BTreeMap::new();
        for backend in &service.backends {
            let id = match self.mirror.backend_id(entry.id, backend.address, entry::own_port(backend)) {
                Some(id) => id,
                None => self.ids.backend()?,
            };
            let entry = self.backend(key, service, entry.id, backend, id);
            backends.insert(id, abi::Backend { weight: weights.weight(backend), ..entry });
        }
        if service.mode == spec::Mode::Nat {
            let ways_back = backends
                .iter()
                .map(|(id, backend)| (entry::reverse_key(key, backend), entry::reverse(key, entry.id, *id)));
            self.tables.reverse.extend(ways_back);
        }
        self.leaving(key, entry.id, &mut backends);
        let takers: Vec<_> = taking(&backends).map(|(id, weight)| Taker { id, weight }).collect();
        let ring = Ring::new(service.scheduler, &takers);
        let entry = ring.entry(entry);
        if entry.ring_length > 0 {
            self.tables.rings.insert(entry.id, ring.into_backends());
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
        let old = self.mirror.tables().backends.get(&id);
        let (old_state, old_hop) = old.map_or((0, NextHop::UNRESOLVED), |old| (old.state, old.next_hop));
        let phase = phase::of(service, backend, self.inputs.health.get(&known), old_state, self.inputs.now);
        if let Some(due) = phase.due {
            self.due_at(key, due);
        }
        let next_hop = self.next_hop(backend.address, old_hop);
        entry::backend(service, id_of_service, backend, phase.state, next_hop)
    }

    /// Adds the entries of backends that the service has no longer, and their ways back, which flows may still need.
    fn leaving(&mut self, key: &Endpoint, service: u32, backends: &mut BTreeMap<u32, abi::Backend>) {
        let Inputs { remains, .. } = self.inputs;
        for (id, old) in self.old_backends(service) {
            if backends.contains_key(&id) || remains.released.contains(&id) {
                continue;
            }
            let (_, address, port) = entry::identity(&old);
            let ended = remains.ended.contains(&BackendKey { service: *key, address, port });
            let next_hop = self.next_hop(address, old.next_hop);
            let entry = abi::Backend { weight: 0, state: phase::of_leaving(old.state, ended), next_hop, ..old };
            let way_back = entry::reverse_key(key, &entry);
            // Another backend may have come to need the way back.
            if let Some(reverse) = self.mirror.tables().reverse.get(&way_back).filter(|reverse| reverse.backend == id) {
                self.tables.reverse.entry(way_back).or_insert(*reverse);
            }
            backends.insert(id, entry);
        }
    }

    fn due_at(&mut self, key: &Endpoint, due: SystemTime) {
        self.due.entry(*key).and_modify(|sooner| *sooner = due.min(*sooner)).or_insert(due);
    }

    fn next_hop(&mut self, address: IpAddr, old: NextHop) -> NextHop {
        match self.inputs.paths.backends.get(&address) {
            Some(reach) => self.egresses.of_backend(reach, old),
            None => NextHop::UNRESOLVED,
        }
    }

    /// The words of a service's range: new flows go where the fill says, old ones stay where they are (see
    /// [`lb_common::settling::retarget`]). They are the old words where the same backends take flows as before and no
    /// other is gone.
    fn slots(
        &mut self,
        key: &Endpoint,
        service: &spec::Service,
        entry: &abi::Service,
        backends: &BTreeMap<u32, abi::Backend>,
    ) -> Result<Vec<SlotWord>, Full> {
        let known = self.mirror.tables().services.get(key);
        let old = known.and_then(|known| self.mirror.tables().slots.get(&known.first_slot)).filter(|_| !self.refill);
        if self.waits(key, service, entry) {
            return Ok(vec![self.nothing(); entry.slot_count as usize]);
        }
        let before = self.old_backends(entry.id);
        let filled = |old: &&Vec<SlotWord>| old.first().is_some_and(|word| word.current() != NO_BACKEND);
        let same_takers = old.filter(filled).filter(|_| taking(backends).eq(taking(&before)));
        if let Some(old) = same_takers.filter(|_| known == Some(entry) && gone(backends).eq(gone(&before))) {
            return Ok(old.clone());
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
            let base_leaves = some_leave && base_leaves(entry, backends.get(&old.base()), current);
            settling::retarget(old, current, base_leaves, entry.tracks_every_flow())
        });
        let words = words.collect();
        if moved > 0 {
            self.moved.insert(*key, moved);
        }
        Ok(words)
    }

    /// The word of a slot that nobody has had yet. The flow table may hold entries of an earlier service in the place of a
    /// new one: until these are swept out, a new flow has to look for one and remove it.
    fn nothing(&self) -> SlotWord {
        SlotWord::new(NO_BACKEND, NO_BACKEND, !self.inputs.remains.resting.is_empty())
    }

    /// Whether a service whose slots nobody has had yet waits a moment for the first word of all its backends: were they
    /// filled backend by backend, flows of the first would have to be remembered.
    fn waits(&mut self, key: &Endpoint, service: &spec::Service, entry: &abi::Service) -> bool {
        let old =
            self.mirror.tables().services.get(key).and_then(|_| self.mirror.tables().slots.get(&entry.first_slot));
        if old.into_iter().flatten().any(|word| (word.current(), word.base()) != (NO_BACKEND, NO_BACKEND)) {
            return false;
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
        let Some(until) = until.filter(|until| self.inputs.now < *until) else { return false };
        self.due_at(key, until);
        true
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
        self.tables.services.extend(vips.map(|key| (key, abi::Service::VIP_MARKER)));
    }

    /// The tables, and the plan but for its writes.
    fn finish(self) -> (Tables, Plan) {
        let held_back = self.egresses.held_back();
        let tables = Tables { egresses: self.egresses.entries(), ..self.tables };
        (tables, Plan { writes: Vec::new(), moved: self.moved, held_back, due: self.due })
    }
}

/// Who takes new flows, and how many.
fn taking(backends: &BTreeMap<u32, abi::Backend>) -> impl Iterator<Item = (u32, u32)> {
    backends.iter().filter(|(_, backend)| entry::takes_flows(backend)).map(|(id, backend)| (*id, backend.weight))
}

/// Whose flows count as gone.
fn gone(backends: &BTreeMap<u32, abi::Backend>) -> impl Iterator<Item = u32> {
    backends.iter().filter(|(_, backend)| entry::is_gone(backend)).map(|(id, _)| *id)
}

/// Which backend has which of `slots` slots, by id; [`NO_BACKEND`] everywhere if none takes flows.
fn fill(slots: u32, backends: &BTreeMap<u32, abi::Backend>, inputs: &Inputs<'_>) -> Result<Vec<u32>, FillError> {
    let takers = backends.iter().filter(|(_, backend)| entry::takes_flows(backend)).map(|(id, backend)| {
        let (_, address, port) = entry::identity(backend);
        (fill::key_of(address, port), backend.weight, *id)
    });
    let mut takers: Vec<_> = takers.collect();
    takers.sort_unstable();
    let members = takers.iter().map(|(key, weight, _)| (*key, *weight)).collect();
    match inputs.fills.table(slots, members, inputs.seed) {
        Ok(table) => Ok(table.iter().map(|place| takers[*place as usize].2).collect()),
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
const fn reroutes(service: &abi::Service) -> bool {
    service.flags & service_flags::REROUTE != 0
}
