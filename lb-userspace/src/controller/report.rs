//! What the controller tells about itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::SystemTime,
};

use lb_common::{
    abi::{ABI_VERSION, NO_BACKEND},
    reason::Reason,
    tracking::FlowEvent,
};

use super::{
    clock::Moment,
    core::Core,
    entry,
    paths::{NO_EGRESS, Reach},
    want::backend_key,
};
use crate::{
    api::{
        control::ControlError,
        types::{
            Backend, BackendCounts, BackendFlows, BackendState, BackendStats, FlowEventCount, Interface, NextHop,
            ReasonCount, Service, ServiceStats, Stats, Status, TableMemory, TableUse, Traffic, millis, unix_ms,
        },
    },
    spec::{self, Hold},
    tables::{Counters, Endpoint},
};

impl Core {
    /// What the daemon is doing.
    pub fn status(&self) -> Status {
        let interfaces = self.dataplane.attachments().into_iter().map(|attachment| Interface {
            name: attachment.interface,
            index: attachment.index,
            xdp: attachment.xdp,
            why: attachment.why,
        });
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            instance: self.want.spec.node.instance.clone(),
            config: self.config.clone(),
            abi_version: ABI_VERSION,
            interfaces: interfaces.collect(),
            services: count(self.want.spec.services.len()),
            backends: BackendCounts::of(self.all_backends().map(|(key, backend)| self.state(&key, &backend))),
            tables: self.table_use(),
            memory: self.table_memory(),
            last_change: self.last_change.clone(),
            last_upgrade: self.last_upgrade.clone(),
        }
    }

    /// Every service, in the order of the configuration.
    pub fn services(&self, now: Moment) -> Result<Vec<Service>, ControlError> {
        let counters = self.counters(self.want.spec.services.iter())?;
        Ok(self.want.spec.services.iter().map(|service| self.describe(service, &counters, now)).collect())
    }

    /// The service called `name`.
    pub fn service(&self, name: &str, now: Moment) -> Result<Service, ControlError> {
        let service = self.want.spec.services.iter().find(|service| service.name == name);
        let service = service.ok_or_else(|| ControlError::no_service(name))?;
        Ok(self.describe(service, &self.counters([service])?, now))
    }

    /// Every counter.
    pub fn stats(&self) -> Result<Stats, ControlError> {
        let counters = self.counters(self.want.spec.services.iter())?;
        let at_unix_ms = unix_ms(SystemTime::now());
        let services = self.want.spec.services.iter().map(|service| {
            let key = entry::service_key(service);
            let backends = self.listed(service).into_iter().map(|backend| BackendStats {
                name: backend.name.clone(),
                state: self.state(&key, &backend),
                traffic: self.backend_traffic(&key, &backend, &counters),
            });
            ServiceStats {
                name: service.name.clone(),
                traffic: self.service_traffic(&key, &counters),
                backends: backends.collect(),
            }
        });
        let reasons = Reason::ALL.iter().map(|reason| ReasonCount {
            name: reason.name().to_owned(),
            meaning: reason.meaning().to_owned(),
            packets: counters.reasons.get(*reason as usize).copied().unwrap_or(0),
        });
        let flow_events = FlowEvent::ALL.iter().map(|event| FlowEventCount {
            name: event.name().to_owned(),
            meaning: event.meaning().to_owned(),
            count: counters.flow_events.get(*event as usize).copied().unwrap_or(0),
        });
        let (services, reasons) = (services.collect(), reasons.collect());
        Ok(Stats { at_unix_ms, services, reasons, flow_events: flow_events.collect() })
    }

    fn describe(&self, service: &spec::Service, counters: &Counters, now: Moment) -> Service {
        let key = entry::service_key(service);
        let entry = self.mirror.tables().services.get(&key);
        let (mut slots_of, mut bases) = (BTreeMap::<u32, u32>::new(), BTreeSet::new());
        for word in entry.and_then(|entry| self.mirror.tables().slots.get(&entry.first_slot)).into_iter().flatten() {
            *slots_of.entry(word.current()).or_default() += 1;
            bases.insert(word.base());
        }
        let slots = entry.map_or(service.slots, |entry| entry.slot_count);
        let all_seen = entry.is_some_and(|entry| self.sweeper.has_seen(entry.first_slot));
        let backends = self.listed(service).into_iter().map(|backend| {
            let id = self.id(&key, &backend).unwrap_or(NO_BACKEND);
            let own = slots_of.get(&id).copied().unwrap_or(0);
            let all_known = all_seen && !bases.contains(&id);
            let flows = BackendFlows { settled: all_known || self.are_gone(id), ..self.flows(id, now) };
            Backend { flows, ..self.describe_backend(&key, &backend, id, (own, slots), counters) }
        });
        Service {
            name: service.name.clone(),
            vip: service.vip,
            port: entry::service_port(service),
            protocol: service.protocol,
            mode: service.mode,
            scheduler: service.scheduler,
            slots,
            idle_ms: millis(service.idle),
            settle_after_ms: millis(service.settle_after),
            hold_ms: match service.hold {
                Hold::For(time) => Some(millis(time)),
                Hold::Forever => None,
            },
            on_down: service.on_down,
            slow_start_ms: millis(service.slow_start),
            checked: service.health.is_some(),
            traffic: self.service_traffic(&key, counters),
            backends: backends.collect(),
        }
    }

    fn describe_backend(
        &self,
        key: &Endpoint,
        backend: &spec::Backend,
        id: u32,
        (own, all): (u32, u32),
        counters: &Counters,
    ) -> Backend {
        let standing = self.standings.get(key, backend);
        let health = self.want.health.get(&backend_key(*key, backend));
        let since = standing.map(|standing| standing.since).or(health.map(|health| health.since));
        Backend {
            name: backend.name.clone(),
            id,
            address: backend.address,
            port: backend.port.map(Into::into),
            weight: backend.weight,
            state: self.state(key, backend),
            reason: standing.map(|standing| standing.reason.clone()).unwrap_or_default(),
            since_unix_ms: unix_ms(since.unwrap_or(SystemTime::UNIX_EPOCH)),
            next_hop: self.next_hop(id, backend.address),
            slots: own,
            share_percent: f64::from(own) * 100.0 / f64::from(all.max(1)),
            flows: BackendFlows::default(),
            traffic: self.backend_traffic(key, backend, counters),
        }
    }

    /// Whether the flows of a backend count as gone.
    fn are_gone(&self, id: u32) -> bool {
        self.mirror.tables().backends.get(&id).is_some_and(entry::is_gone)
    }

    /// The flows of a backend that the last sweep found, unless they count as gone.
    fn flows(&self, id: u32, now: Moment) -> BackendFlows {
        if self.are_gone(id) {
            return BackendFlows::default();
        }
        let found = self.sweeper.last().0.backends.get(&id).copied().unwrap_or_default();
        let age = |opened: u32| u64::from(now.seconds().saturating_sub(opened)) * 1000;
        BackendFlows { tracked: found.live, oldest_ms: found.oldest.map(age), settled: false }
    }

    /// The backends of a service: those that are configured, then those that are leaving.
    fn listed(&self, service: &spec::Service) -> Vec<spec::Backend> {
        let key = entry::service_key(service);
        let leaving = self.mirror.leaving(&key).map(|(_, backend)| backend);
        service.backends.iter().cloned().chain(leaving).collect()
    }

    pub(super) fn next_hop(&self, id: u32, address: IpAddr) -> NextHop {
        let reach = self.want.paths.backends.get(&address);
        let entry = self.mirror.tables().backends.get(&id).filter(|entry| entry.next_hop.is_resolved());
        let Some(entry) = entry else {
            let why = reach.and_then(Reach::obstacle).unwrap_or(NO_EGRESS);
            return NextHop::Unresolved { why: why.to_owned() };
        };
        let mac = entry.next_hop.mac().map(|byte| format!("{byte:02x}")).join(":");
        let egress = self.mirror.tables().egresses.get(&entry.next_hop.egress());
        let link = egress.and_then(|egress| self.view.link(egress.ifindex));
        let gateway = reach.and_then(|reach| reach.neighbour(address)).map(|(_, neighbour)| neighbour);
        NextHop::Resolved {
            mac,
            interface: link.map_or_else(|| "?".to_owned(), |link| link.name.clone()),
            gateway: gateway.filter(|gateway| *gateway != address),
        }
    }

    /// Counters of `services` and their backends.
    fn counters<'a>(&self, services: impl IntoIterator<Item = &'a spec::Service>) -> Result<Counters, ControlError> {
        let (mut service_ids, mut backend_ids) = (Vec::new(), Vec::new());
        for service in services {
            let key = entry::service_key(service);
            service_ids.extend(self.mirror.tables().services.get(&key).map(|entry| entry.id));
            backend_ids.extend(self.listed(service).iter().filter_map(|backend| self.id(&key, backend)));
        }
        let counters = self.dataplane.counters(&service_ids, &backend_ids);
        counters.map_err(|error| ControlError::Dataplane(format!("can't read the counters: {error:#}")))
    }

    fn service_traffic(&self, key: &Endpoint, counters: &Counters) -> Traffic {
        let id = self.mirror.tables().services.get(key).map(|entry| entry.id);
        id.and_then(|id| counters.services.get(&id)).copied().unwrap_or_default().into()
    }

    fn backend_traffic(&self, key: &Endpoint, backend: &spec::Backend, counters: &Counters) -> Traffic {
        let id = self.id(key, backend);
        id.and_then(|id| counters.backends.get(&id)).copied().unwrap_or_default().into()
    }

    fn id(&self, key: &Endpoint, backend: &spec::Backend) -> Option<u32> {
        let service = self.mirror.tables().services.get(key)?;
        self.mirror.backend_id(service.id, backend.address, entry::own_port(backend))
    }

    fn state(&self, key: &Endpoint, backend: &spec::Backend) -> BackendState {
        self.standings.get(key, backend).map_or(BackendState::Unknown, |standing| standing.state)
    }

    fn all_backends(&self) -> impl Iterator<Item = (Endpoint, spec::Backend)> {
        let services = self.want.spec.services.iter();
        services.flat_map(|service| {
            let key = entry::service_key(service);
            self.listed(service).into_iter().map(move |backend| (key, backend))
        })
    }

    /// What is not known is left out: why, the log has said when the daemon started.
    fn table_memory(&self) -> Vec<TableMemory> {
        let memory = self.dataplane.memory().unwrap_or_default();
        memory.into_iter().map(|table| TableMemory { name: table.name, bytes: table.bytes }).collect()
    }

    fn table_use(&self) -> Vec<TableUse> {
        let (tables, capacity) = (self.mirror.tables(), &self.capacity);
        let (census, _) = self.sweeper.last();
        let (flows_v4, flows_v6) = (census.entries - census.entries_v6, census.entries_v6);
        let vips = |v4: bool| {
            let markers = tables.services.keys().filter(|key| key.is_vip_marker());
            markers.filter(|key| key.address.is_ipv4() == v4).count() as u64
        };
        let service_ids = capacity.service_ids.saturating_sub(1);
        let backend_ids = capacity.backend_ids.saturating_sub(1);
        let routes = |v4: bool| tables.routes.keys().filter(move |net| net.addr().is_ipv4() == v4).count();
        let slots: u64 = self.mirror.ranges().values().map(|count| u64::from(*count)).sum();
        let uses = [
            ("services", self.mirror.services().count() as u64, service_ids),
            ("vips-v4", vips(true), service_ids),
            ("vips-v6", vips(false), service_ids),
            ("slots", slots, capacity.slots),
            ("flows-v4", flows_v4, capacity.flows),
            ("flows-v6", flows_v6, capacity.flows),
            ("backends", tables.backends.len() as u64, backend_ids),
            ("reverse", tables.reverse.len() as u64, backend_ids),
            ("routes-v4", routes(true) as u64, capacity.routes),
            ("routes-v6", routes(false) as u64, capacity.routes),
            ("egresses", tables.egresses.len() as u64, u32::from(capacity.egresses.saturating_sub(1))),
        ];
        uses.map(|(name, used, capacity)| TableUse { name: name.to_owned(), used, capacity: capacity.into() }).into()
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
