//! The kernel's tables as last read and written, with an index of who has which id.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_common::abi;

use super::{desired::BackendKey, entry, takers::Takers};
use crate::{
    spec,
    tables::{Endpoint, Tables, Write},
};

/// What the kernel's tables hold, kept current with every write, so that a change of one service costs that service
/// and not a read of everything.
#[derive(Debug, Default)]
pub struct Mirror {
    tables: Tables,
    /// (service id, address, port) → backend id: a restarted daemon finds its ids again by these.
    backend_ids: BTreeMap<(u32, IpAddr, u16), u32>,
    /// The same the other way about, for an address that becomes another for all of its services at once.
    places: BTreeSet<(IpAddr, u32, u16)>,
    /// Service id → who takes its new flows.
    takers: BTreeMap<u32, Takers>,
    /// (service id, backend id) of backends that are no longer configured.
    leaving: BTreeSet<(u32, u32)>,
    service_ids: BTreeMap<u32, Endpoint>,
    /// First slot → number of slots, of every range that a service has.
    ranges: BTreeMap<u32, u32>,
    /// First slot → id of the service.
    owners: BTreeMap<u32, u32>,
    /// Ids that some slot or ring names though they have no entry. Weir leaves no such slot behind; a stranger might.
    named: BTreeSet<u32>,
    /// The backend id given most recently.
    last_backend: u32,
}

impl Mirror {
    /// Of tables read from the kernel.
    #[must_use]
    pub fn new(tables: Tables) -> Self {
        let mut mirror = Self::default();
        for (key, service) in &tables.services {
            mirror.index_service(key, service);
        }
        for (id, backend) in &tables.backends {
            mirror.index_backend(*id, backend);
        }
        let of_slots = tables.slots.values().flatten().flat_map(|word| [word.current(), word.base()]);
        let ids = of_slots.chain(tables.rings.values().flatten().copied());
        mirror.named.extend(ids.filter(|id| *id != abi::NO_BACKEND && !tables.backends.contains_key(id)));
        mirror.tables = tables;
        mirror
    }

    /// The tables.
    #[must_use]
    pub const fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Takes in a write that the kernel's tables have taken.
    pub fn apply(&mut self, write: &Write) {
        match write {
            Write::Service(key, service) => self.index_service(key, service),
            Write::RemoveService(key, service) if !key.is_vip_marker() => {
                self.service_ids.remove(&service.id);
                self.ranges.remove(&service.first_slot);
                self.owners.remove(&service.first_slot);
            }
            Write::Backend(id, backend) => self.index_backend(*id, backend),
            Write::ClearBackend(id) => self.forget_backend(*id),
            _ => {}
        }
        self.tables.apply(write);
    }

    /// The id of a service's backend, if it has one.
    #[must_use]
    pub fn backend_id(&self, service: u32, address: IpAddr, port: u16) -> Option<u32> {
        self.backend_ids.get(&(service, address, port)).copied()
    }

    /// All entries of backends at an address, whatever their services and ports.
    pub fn backends_at(&self, address: IpAddr) -> impl Iterator<Item = BackendKey> {
        let own = self.places.range((address, 0, 0)..=(address, u32::MAX, u16::MAX));
        own.filter_map(|&(address, id, port)| Some(BackendKey { service: *self.service_ids.get(&id)?, address, port }))
    }

    /// Who takes the new flows of the service with this id; `None` if nobody does.
    #[must_use]
    pub fn takers(&self, service: u32) -> Option<&Takers> {
        self.takers.get(&service)
    }

    /// Whether the service with this id has backends that are no longer configured.
    #[must_use]
    pub fn has_leaving(&self, service: u32) -> bool {
        self.leaving.range((service, 0)..=(service, u32::MAX)).next().is_some()
    }

    /// The id of the service whose range begins at `first`.
    #[must_use]
    pub fn owner(&self, first: u32) -> Option<u32> {
        self.owners.get(&first).copied()
    }

    /// The services, without VIP markers.
    pub fn services(&self) -> impl Iterator<Item = (&Endpoint, &abi::Service)> {
        self.tables.services.iter().filter(|(key, _)| !key.is_vip_marker())
    }

    /// The ids that some slot of a service names, as current or as base.
    #[must_use]
    pub fn named_by(&self, service: u32) -> BTreeSet<u32> {
        let ranges = self.services().filter(|(_, entry)| entry.id == service).map(|(_, entry)| entry.first_slot);
        let words = ranges.filter_map(|first| self.tables.slots.get(&first)).flatten();
        words.flat_map(|word| [word.current(), word.base()]).collect()
    }

    /// The ids of all entries that belong to a service.
    pub fn backends_of(&self, service: u32) -> impl Iterator<Item = u32> {
        let lowest = IpAddr::from([0; 4]);
        let own = self.backend_ids.range((service, lowest, 0)..);
        own.take_while(move |((of, ..), _)| *of == service).map(|(_, id)| *id)
    }

    /// The backends of a service that are no longer configured, by id, as if they were.
    pub fn leaving(&self, service: &Endpoint) -> impl Iterator<Item = (u32, spec::Backend)> {
        let ids = self.tables.services.get(service).into_iter().flat_map(|service| self.backends_of(service.id));
        let entries = ids.filter_map(|id| Some((id, self.tables.backends.get(&id)?)));
        entries.filter(|(_, entry)| entry::is_leaving(entry)).map(|(id, entry)| (id, entry::leaving(entry)))
    }

    /// Whether a service, or an entry left of one that is gone, has this id.
    #[must_use]
    pub fn uses_service_id(&self, id: u32) -> bool {
        self.service_ids.contains_key(&id) || self.backends_of(id).next().is_some()
    }

    /// Whether an entry or a slot has this id.
    #[must_use]
    pub fn uses_backend_id(&self, id: u32) -> bool {
        self.tables.backends.contains_key(&id) || self.named.contains(&id)
    }

    /// The backend id given most recently, 0 if none was.
    #[must_use]
    pub const fn last_backend(&self) -> u32 {
        self.last_backend
    }

    /// First slot → number of slots, of every range that a service has.
    #[must_use]
    pub const fn ranges(&self) -> &BTreeMap<u32, u32> {
        &self.ranges
    }

    /// The part of the tables that is about these services: they, their rings, backends and ways back; and what all
    /// services share: VIP markers, devices and ways to clients. Slots, of which there may be very many, are left where they
    /// are.
    #[must_use]
    pub fn part(&self, services: &BTreeSet<Endpoint>) -> Tables {
        let mut part = Tables {
            egresses: self.tables.egresses.clone(),
            routes: self.tables.routes.clone(),
            services: self
                .tables
                .services
                .iter()
                .filter(|(key, _)| key.is_vip_marker())
                .map(|(k, v)| (*k, *v))
                .collect(),
            ..Tables::default()
        };
        for key in services {
            let Some(service) = self.tables.services.get(key) else { continue };
            part.services.insert(*key, *service);
            if let Some(ring) = self.tables.rings.get(&service.id) {
                part.rings.insert(service.id, ring.clone());
            }
            for id in self.backends_of(service.id) {
                let Some(backend) = self.tables.backends.get(&id) else { continue };
                part.backends.insert(id, *backend);
                let key = entry::reverse_key(key, backend);
                let way_back = self.tables.reverse.get(&key).filter(|reverse| reverse.service == service.id);
                part.reverse.extend(way_back.map(|reverse| (key, *reverse)));
            }
        }
        part
    }

    fn index_service(&mut self, key: &Endpoint, service: &abi::Service) {
        if !key.is_vip_marker() {
            self.service_ids.insert(service.id, *key);
            self.ranges.insert(service.first_slot, service.slot_count);
            self.owners.insert(service.first_slot, service.id);
        }
    }

    fn index_backend(&mut self, id: u32, backend: &abi::Backend) {
        let (service, address, port) = entry::identity(backend);
        if self.backend_ids.insert((service, address, port), id).is_none() {
            self.places.insert((address, service, port));
        }
        // Of tables that were just read, none is known yet.
        if let Some(known) = self.tables.backends.get(&id) {
            leave(&mut self.takers, id, known);
        } else {
            self.last_backend = id;
        }
        if entry::takes_flows(backend) {
            self.takers.entry(service).or_default().insert(id, backend);
        }
        if entry::is_leaving(backend) {
            self.leaving.insert((service, id));
        } else {
            self.leaving.remove(&(service, id));
        }
        self.named.remove(&id);
    }

    fn forget_backend(&mut self, id: u32) {
        let Some(known) = self.tables.backends.get(&id) else { return };
        let (service, address, port) = entry::identity(known);
        // A stranger may have left two entries of one backend.
        if self.backend_id(service, address, port) == Some(id) {
            self.backend_ids.remove(&(service, address, port));
            self.places.remove(&(address, service, port));
        }
        self.leaving.remove(&(service, id));
        leave(&mut self.takers, id, known);
    }
}

/// Takes a backend with the entry `known` out of those that take flows, if it is there.
fn leave(takers: &mut BTreeMap<u32, Takers>, id: u32, known: &abi::Backend) {
    if let Some(of_service) = takers.get_mut(&known.service) {
        of_service.remove(id, known);
        if of_service.is_empty() {
            takers.remove(&known.service);
        }
    }
}
