//! What the kernel's tables should hold: a pure function of configuration, health, network and what they hold now.

mod few;
mod slots;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, SystemTime},
};

use lb_common::abi::{self, NextHop};

use few::Few;
use slots::{Planned, Slots, old_backends, taking};

use super::{
    affected::Affected,
    entry,
    fills::Fills,
    full::Full,
    ids::Ids,
    mirror::Mirror,
    paths::{Egresses, Paths},
    phase,
    remains::Remains,
    ring::{Ring, Taker},
    weights::Weights,
};
use crate::{
    health::Health,
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
    /// These services, and only these backends of others; besides them the same.
    Affected(&'a Affected),
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
    /// What was looked at: it may be more than was asked for, if not everything.
    pub looked_at: Affected,
}

/// Plans the way from the kernel's tables to those that follow from `inputs`.
///
/// Services and backends that are there keep their ids and slots; see [`Ids`] for those that are new.
///
/// # Errors
/// [`Full`] if a table has no room.
pub fn plan(mirror: &Mirror, inputs: &Inputs<'_>, scope: Scope<'_>) -> Result<Plan, Full> {
    let mut desired = Desired::new(mirror, inputs, matches!(scope, Scope::Everything));
    let part = match scope {
        Scope::Everything => {
            inputs.services.iter().try_for_each(|(key, service)| desired.service(key, service))?;
            None
        }
        Scope::Services(keys) => Some(desired.part(Affected::services(keys.clone()))?),
        Scope::Affected(affected) => Some(desired.part(affected.clone())?),
    };
    desired.slots()?;
    desired.clients()?;
    desired.vip_markers();
    let (tables, few, plan) = desired.finish();
    let (writes, looked_at) = match part {
        None => (diff(mirror.tables(), &tables), Affected::services(inputs.services.keys().copied().collect())),
        Some(part) => {
            let mut actual = mirror.part(&part.services);
            few.add_to(&mut actual);
            (diff_of_part(&actual, &mirror.tables().slots, &tables, few.words), part)
        }
    };
    Ok(Plan { writes, looked_at, ..plan })
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
    /// Services that were added to `tables` but for their entries, slots and backends.
    planned: Vec<Planned<'a>>,
    /// Of services of which not everything is in `tables`.
    few: Few,
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
            planned: Vec::new(),
            few: Few::default(),
            moved: BTreeMap::new(),
            due: BTreeMap::new(),
        }
    }

    /// Adds what is `affected`. Says what was looked at: services where a few backends do not tell everything, whole.
    fn part(&mut self, mut affected: Affected) -> Result<Affected, Full> {
        let mut whole = self.few(&affected);
        affected.services.append(&mut whole);
        let services = affected.services.iter().filter_map(|key| self.inputs.services.get_key_value(key));
        services.into_iter().try_for_each(|(key, service)| self.service(key, service))?;
        Ok(affected)
    }

    /// Adds one service: its entry, its backends and their ways back, and later its slots.
    fn service(&mut self, key: &Endpoint, service: &'a spec::Service) -> Result<(), Full> {
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
            let old = self.mirror.tables().backends.get(&id);
            let next_hop = self.next_hop(backend.address, old.map_or(NextHop::UNRESOLVED, |old| old.next_hop));
            let (entry, due) = self.backend(key, service, entry.id, (backend, old), next_hop);
            self.due_at(key, due);
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
        self.planned.push(Planned { key: *key, service, entry, backends });
        Ok(())
    }

    /// Adds the slots of the services that were added, and with them the rest of what was put off until then.
    fn slots(&mut self) -> Result<(), Full> {
        let planned = std::mem::take(&mut self.planned);
        let slots = Slots { mirror: self.mirror, inputs: self.inputs, refill: self.refill };
        for (range, Planned { key, entry, backends, .. }) in slots.of_all(&planned)?.into_iter().zip(planned) {
            if range.moved > 0 {
                self.moved.insert(key, range.moved);
            }
            self.due_at(&key, range.due);
            self.tables.slots.insert(entry.first_slot, range.words);
            self.tables.services.insert(key, entry);
            self.tables.backends.extend(backends);
        }
        Ok(())
    }

    /// The entry of a backend, given the one that it has, but for its weight; and when time alone makes it another.
    fn backend(
        &self,
        key: &Endpoint,
        service: &spec::Service,
        id_of_service: u32,
        (backend, old): (&spec::Backend, Option<&abi::Backend>),
        next_hop: NextHop,
    ) -> (abi::Backend, Option<SystemTime>) {
        let known = BackendKey { service: *key, address: backend.address, port: entry::own_port(backend) };
        let old_state = old.map_or(0, |old| old.state);
        let phase = phase::of(service, backend, self.inputs.health.get(&known), old_state, self.inputs.now);
        (entry::backend(service, id_of_service, backend, phase.state, next_hop), phase.due)
    }

    /// Adds the entries of backends that the service has no longer, and their ways back, which flows may still need.
    fn leaving(&mut self, key: &Endpoint, service: u32, backends: &mut BTreeMap<u32, abi::Backend>) {
        let Inputs { remains, .. } = self.inputs;
        for (id, old) in old_backends(self.mirror, service) {
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

    fn due_at(&mut self, key: &Endpoint, due: Option<SystemTime>) {
        if let Some(due) = due {
            self.due.entry(*key).and_modify(|sooner| *sooner = due.min(*sooner)).or_insert(due);
        }
    }

    fn next_hop(&mut self, address: IpAddr, old: NextHop) -> NextHop {
        match self.inputs.paths.backends.get(&address) {
            Some(reach) => self.egresses.of_backend(reach, old),
            None => NextHop::UNRESOLVED,
        }
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

    /// The tables, what is not in them, and the plan but for its writes.
    fn finish(self) -> (Tables, Few, Plan) {
        let held_back = self.egresses.held_back();
        let tables = Tables { egresses: self.egresses.entries(), ..self.tables };
        (tables, self.few, Plan { moved: self.moved, held_back, due: self.due, ..Plan::default() })
    }
}
