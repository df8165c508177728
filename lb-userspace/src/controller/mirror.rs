//! The kernel's tables as last read and written, with an index of who has which id.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_common::abi;

use super::entry;
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
    service_ids: BTreeSet<u32>,
    /// First slot → number of slots, of every range that a service has.
    ranges: BTreeMap<u32, u32>,
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
            }
            Write::Backend(id, backend) => self.index_backend(*id, backend),
            Write::ClearBackend(id) => {
                if let Some(old) = self.tables.backends.get(id) {
                    self.backend_ids.remove(&entry::identity(old));
                }
            }
            _ => {}
        }
        self.tables.apply(write);
    }

    /// The id of a service's backend, if it has one.
    #[must_use]
    pub fn backend_id(&self, service: u32, address: IpAddr, port: u16) -> Option<u32> {
        self.backend_ids.get(&(service, address, port)).copied()
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
        self.service_ids.contains(&id) || self.backends_of(id).next().is_some()
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
            self.service_ids.insert(service.id);
            self.ranges.insert(service.first_slot, service.slot_count);
        }
    }

    fn index_backend(&mut self, id: u32, backend: &abi::Backend) {
        self.last_backend = if self.tables.backends.contains_key(&id) { self.last_backend } else { id };
        self.named.remove(&id);
        self.backend_ids.insert(entry::identity(backend), id);
    }
}
