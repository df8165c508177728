//! What the tables are to follow from: configuration, health and network, kept in step with one another.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    time::{Duration, SystemTime},
};

use ipnet::IpNet;
use lb_common::abi::backend_state;
use tracing::error;

use super::{
    affected::Affected,
    desired::{BackendKey, Inputs},
    edit::Edited,
    entry,
    fills::Fills,
    full::Full,
    mirror::Mirror,
    paths::{Paths, Reach},
    remains::Remains,
    weights::{Presence, Weights},
};
use crate::{
    health::{Health, State, Target},
    nexthop::NetworkView,
    spec::{Backend, Mode, Service, ServicePort, Spec},
    tables::{Capacity, Endpoint},
};

/// Configuration, health and network.
#[derive(Clone, Debug)]
pub struct Want {
    /// The configuration.
    pub spec: Spec,
    /// Health of every backend of it, and of no other.
    pub health: BTreeMap<BackendKey, Health>,
    /// Ways to every backend of it, to those that have left it and, with NAT services, to clients.
    pub paths: Paths,
}

/// What undoes a [`Want::put`].
#[derive(Debug)]
pub struct Undo {
    edited: Edited,
    /// Health of the service's backends as it was.
    health: BTreeMap<BackendKey, Health>,
    /// Addresses that no backend had.
    added: Vec<IpAddr>,
    /// All ways as they were, where they were looked up anew.
    paths: Option<Paths>,
}

impl Want {
    /// For a daemon that starts: of backends that have an entry, what that says of their health is believed. One that takes
    /// no new flows but is not gone may have been held, or not checked yet: the first check decides.
    ///
    /// Of more ways to clients than the `capacity` of their table, those that it holds are kept, then the shortest
    /// prefixes: most clients are reached, and backends and health are looked after all the same.
    pub fn new(spec: Spec, mirror: &Mirror, view: &NetworkView, capacity: u32, now: SystemTime) -> Self {
        let health = checked_backends(&spec.services).map(|(key, checked)| {
            let service = mirror.tables().services.get(&key.service);
            let id = service.and_then(|service| mirror.backend_id(service.id, key.address, key.port));
            let health = match id.and_then(|id| mirror.tables().backends.get(&id)) {
                _ if !checked => Health::unchecked(now),
                Some(entry) if entry.state & backend_state::DOWN == 0 => Health::adopted(true, now),
                Some(entry) if entry::is_gone(entry) => Health::adopted(false, now),
                Some(_) | None => Health::unknown(now),
            };
            (key, health)
        });
        let health = health.collect();
        let mut paths = paths(&spec, mirror, view);
        fit_clients(&mut paths, capacity, |net| mirror.tables().routes.contains_key(net));
        Self { spec, health, paths }
    }

    /// Takes in what an edit makes of a service: of its backends, those that stay keep their health. What undoes it, whole.
    ///
    /// It costs what the one service does, unless that goes, or is the first or last that needs the ways to clients: then
    /// all ways are looked up anew.
    pub fn put(&mut self, edited: Edited, mirror: &Mirror, view: &NetworkView, now: SystemTime) -> Undo {
        let needed_clients = needs_clients(&self.spec);
        let goes = matches!(edited, Edited::Remove(_));
        let new = edited.service().cloned();
        let edited = edited.put(&mut self.spec.services);
        let old = edited.service();
        let mut health = BTreeMap::new();
        let mut added = Vec::new();
        if let Some(key) = new.as_ref().or(old).map(entry::service_key) {
            let was_checked: BTreeMap<_, _> = checked_backends(old).collect();
            health = self.take_health(key);
            for (key, checked) in checked_backends(new.as_ref()) {
                let known = health.get(&key).filter(|_| was_checked.get(&key) == Some(&checked));
                let unheard = || if checked { Health::unknown(now) } else { Health::unchecked(now) };
                self.health.insert(key, known.cloned().unwrap_or_else(unheard));
                if self.paths.add(view, key.address) {
                    added.push(key.address);
                }
            }
        }
        let needs_clients = needs_clients(&self.spec);
        let paths = (goes || needs_clients != needed_clients).then(|| {
            let mut paths = paths(&self.spec, mirror, view);
            if needs_clients && needed_clients {
                // These may have stayed behind the view (see `follow`), and no other change is to fail for that.
                paths.clients.clone_from(&self.paths.clients);
            }
            std::mem::replace(&mut self.paths, paths)
        });
        Undo { edited, health, added, paths }
    }

    /// Undoes what [`put`](Self::put) did last.
    pub fn undo(&mut self, undo: Undo) {
        let Undo { edited, health, added, paths } = undo;
        let service = edited.service().or_else(|| self.spec.services.get(edited.at()));
        if let Some(key) = service.map(entry::service_key) {
            self.take_health(key);
        }
        self.health.extend(health);
        if let Some(paths) = paths {
            self.paths = paths;
        }
        for address in added {
            self.paths.backends.remove(&address);
        }
        edited.put(&mut self.spec.services);
    }

    /// Takes the health of a service's backends out.
    fn take_health(&mut self, service: Endpoint) -> BTreeMap<BackendKey, Health> {
        let first = BackendKey { service, address: IpAddr::from([0; 4]), port: 0 };
        let own = self.health.range(first..).map(|(key, _)| *key).take_while(|key| key.service == service);
        let own: Vec<_> = own.collect();
        own.into_iter().filter_map(|key| self.health.remove_entry(&key)).collect()
    }

    /// The services by key.
    #[must_use]
    pub fn services(&self) -> BTreeMap<Endpoint, &Service> {
        self.spec.services.iter().map(|service| (entry::service_key(service), service)).collect()
    }

    /// As the plan takes it.
    #[must_use]
    pub fn inputs<'a>(
        &'a self,
        capacity: &'a Capacity,
        seed: [u64; 2],
        weights: &'a Weights,
        remains: &'a Remains,
        fills: &'a Fills,
        now: SystemTime,
    ) -> Inputs<'a> {
        let (health, paths) = (&self.health, &self.paths);
        Inputs { services: self.services(), seed, capacity, health, paths, weights, remains, fills, now }
    }

    /// Has `weights` follow how the backends of `services` stand at `now`, of the monotonic clock.
    pub fn weigh(&self, weights: &mut Weights, services: &BTreeSet<Endpoint>, now: Duration) {
        let all = self.services();
        weights.retain(&all);
        for (key, service) in services.iter().filter_map(|key| all.get_key_value(key)) {
            weights.follow(key, service, |backend| self.presence(*key, backend), now);
        }
    }

    /// The same for what is `affected`. Services in which more than the weights of the affected backends may have become
    /// others are affected whole after that.
    pub fn weigh_affected(&self, weights: &mut Weights, affected: &mut Affected, now: Duration) {
        let all = self.services();
        let mut whole = BTreeSet::new();
        for (key, backends) in affected.by_service() {
            let Some(service) = all.get(&key) else { continue };
            let mut configured = backends.iter().filter_map(|backend| configured(service, backend));
            if !configured.all(|backend| weights.follow_one(&key, service, (backend, self.presence(key, backend)), now))
            {
                whole.insert(key);
            }
        }
        affected.services.append(&mut whole);
        if !affected.services.is_empty() {
            self.weigh(weights, &affected.services, now);
        }
    }

    fn presence(&self, key: Endpoint, backend: &Backend) -> Presence {
        let state = self.health.get(&backend_key(key, backend)).map_or(State::Unknown, |health| health.state);
        match (state, self.paths.backends.get(&backend.address)) {
            _ if backend.draining || backend.weight == 0 => Presence::Out,
            (State::Down, _) | (_, Some(Reach::Lost(_) | Reach::Local | Reach::Unknown { failed: true, .. })) => {
                Presence::Out
            }
            (State::Up, Some(Reach::Known { .. })) => Presence::In,
            (State::Unknown, _) | (_, Some(Reach::Unknown { .. }) | None) => Presence::NoNews,
        }
    }

    /// Takes in a new view of the network. Says which backends are reached otherwise; `None` is that nothing at all is
    /// different.
    ///
    /// Of more ways to clients than the `capacity` of their table, those to the same prefixes as before are kept, then
    /// the shortest.
    pub fn follow(&mut self, mirror: &Mirror, view: &NetworkView, capacity: u32) -> Option<Affected> {
        let new = Paths::new(view, self.paths.backends.keys().copied(), needs_clients(&self.spec));
        self.go_by(new, mirror, capacity)
    }

    /// The same where entries have come or gone otherwise than by [`put`](Self::put): ways to backends that have left are
    /// not looked at any more, and those to others that have an entry are.
    pub fn look_up_all(&mut self, mirror: &Mirror, view: &NetworkView, capacity: u32) -> Option<Affected> {
        self.go_by(paths(&self.spec, mirror, view), mirror, capacity)
    }

    fn go_by(&mut self, mut new: Paths, mirror: &Mirror, capacity: u32) -> Option<Affected> {
        fit_clients(&mut new, capacity, |net| self.paths.clients.contains_key(net));
        if new == self.paths {
            return None;
        }
        let old = std::mem::replace(&mut self.paths, new);
        let addresses = self.paths.backends.keys().chain(old.backends.keys());
        let differ = addresses.filter(|address| self.paths.backends.get(address) != old.backends.get(address));
        let differ: HashSet<IpAddr> = differ.copied().collect();
        let backends: BTreeSet<_> = differ.into_iter().flat_map(|address| mirror.backends_at(address)).collect();
        if self.paths.devices == old.devices {
            return Some(Affected::backends(backends));
        }
        // Next hops name devices, so that others of the services may be reached otherwise.
        Some(Affected::services(backends.into_iter().map(|backend| backend.service).collect()))
    }

    /// What is to be checked.
    #[must_use]
    pub fn targets(&self) -> BTreeMap<BackendKey, Target> {
        let services = self.spec.services.iter();
        let targets = services.flat_map(|service| {
            let key = entry::service_key(service);
            service.backends.iter().filter_map(move |backend| {
                let target = Target { address: check_address(service, backend)?, rules: service.health.clone()? };
                Some((backend_key(key, backend), target))
            })
        });
        targets.collect()
    }
}

/// What an earlier daemon left of the weights: who took flows goes on with all of its share.
#[must_use]
pub fn adopted_weights(mirror: &Mirror) -> Weights {
    let mut weights = Weights::default();
    for (key, service) in mirror.services() {
        for entry in mirror.backends_of(service.id).filter_map(|id| mirror.tables().backends.get(&id)) {
            let (_, address, port) = entry::identity(entry);
            weights.adopt(&BackendKey { service: *key, address, port }, entry::takes_flows(entry));
        }
    }
    weights
}

/// The key of a backend.
#[must_use]
pub fn backend_key(service: Endpoint, backend: &Backend) -> BackendKey {
    BackendKey { service, address: backend.address, port: entry::own_port(backend) }
}

/// The backend of `service` that has this key.
#[must_use]
pub fn configured<'a>(service: &'a Service, key: &BackendKey) -> Option<&'a Backend> {
    service.backends.iter().find(|backend| (backend.address, entry::own_port(backend)) == (key.address, key.port))
}

/// Every backend, and whether it has health checks.
fn checked_backends<'a>(services: impl IntoIterator<Item = &'a Service>) -> impl Iterator<Item = (BackendKey, bool)> {
    services.into_iter().flat_map(|service| {
        let key = entry::service_key(service);
        let checked = move |backend| service.health.is_some() && check_address(service, backend).is_some();
        service.backends.iter().map(move |backend| (backend_key(key, backend), checked(backend)))
    })
}

/// Where a backend is checked: at the port of the checks, else its own, else the service's. A service of every port
/// without any of these has nothing to check.
fn check_address(service: &Service, backend: &Backend) -> Option<SocketAddr> {
    let of_checks = service.health.as_ref().and_then(|health| health.port);
    let of_service = match service.port {
        ServicePort::Any => None,
        ServicePort::One(port) => Some(port),
    };
    let port = of_checks.or(backend.port).or(of_service).map(NonZeroU16::get)?;
    Some(SocketAddr::new(backend.address, port))
}

/// Those of all backends that are configured or have an entry: those that leave need theirs until they have left.
fn paths(spec: &Spec, mirror: &Mirror, view: &NetworkView) -> Paths {
    let configured = spec.services.iter().flat_map(|service| &service.backends).map(|backend| backend.address);
    let entered = mirror.tables().backends.values().map(entry::address);
    Paths::new(view, configured.chain(entered), needs_clients(spec))
}

/// Leaves ways to clients out, those that are `kept` and the shortest last, until they fit `capacity`.
fn fit_clients(paths: &mut Paths, capacity: u32, kept: impl Fn(&IpNet) -> bool) {
    let needed = paths.client_count();
    if needed > capacity as usize {
        error!("some routes towards clients are left out: {}", Full::Routes { needed, capacity });
        paths.limit_clients(capacity as usize, kept);
    }
}

/// Whether replies to clients go through Weir.
fn needs_clients(spec: &Spec) -> bool {
    spec.services.iter().any(|service| service.mode == Mode::Nat)
}
