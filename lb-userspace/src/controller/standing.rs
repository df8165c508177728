//! How each backend stands, and the log lines when that changes.

use std::{collections::BTreeMap, net::IpAddr, time::SystemTime};

use humantime::format_duration;
use tracing::{info, warn};

use super::{
    affected::Affected,
    entry,
    mirror::Mirror,
    paths::{NO_EGRESS, Reach},
    want::{Want, backend_key, configured},
};
use crate::{
    api::types::BackendState,
    health::State,
    spec::{Backend, Hold, Service},
    tables::Endpoint,
};

/// Whether a backend takes new flows, why, and since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// What operators see.
    pub state: BackendState,
    /// Why it is in this state.
    pub reason: String,
    /// Since when it is.
    pub since: SystemTime,
    /// Health checks in a row that led to the state; 0 where they did not.
    results: u32,
    /// Whether its flows count as gone.
    gone: bool,
}

/// How all backends stand: by service, then by address and own port.
#[derive(Debug, Default)]
pub struct Standings(BTreeMap<Endpoint, BTreeMap<(IpAddr, u16), Standing>>);

impl Standings {
    /// How a backend stands.
    #[must_use]
    pub fn get(&self, service: &Endpoint, backend: &Backend) -> Option<&Standing> {
        self.0.get(service)?.get(&(backend.address, entry::own_port(backend)))
    }

    /// Looks again at what was looked at for a write that moved the slots of `moved`, and logs what is different.
    pub fn update(&mut self, looked_at: &Affected, want: &Want, mirror: &Mirror, moved: &BTreeMap<Endpoint, u32>) {
        let wanted = want.services();
        let moved = |key: &Endpoint| moved.get(key).copied().unwrap_or(0);
        for key in &looked_at.services {
            let old = self.0.remove(key).unwrap_or_default();
            if let Some(service) = wanted.get(key) {
                let leaving: Vec<_> = mirror.leaving(key).map(|(_, backend)| backend).collect();
                let (mut changed, mut new) = (Vec::new(), OfService::new());
                for backend in service.backends.iter().chain(&leaving) {
                    let at = (backend.address, entry::own_port(backend));
                    let standing = Standing::of(key, backend, want, mirror, old.get(&at));
                    if standing.differs(old.get(&at)) {
                        changed.push((backend, standing.clone()));
                    }
                    new.insert(at, standing);
                }
                log(service, &changed, moved(key));
                let had_takers = old.values().any(Standing::takes) || old.is_empty();
                tell_if_nobody_is_left(service, had_takers, &new);
                self.0.insert(*key, new);
            }
        }
        for (key, backends) in looked_at.by_service() {
            let Some(service) = wanted.get(&key) else { continue };
            let known = self.0.entry(key).or_default();
            let (mut changed, mut had_takers) = (Vec::new(), false);
            for backend in backends.iter().filter_map(|backend| configured(service, backend)) {
                let at = (backend.address, entry::own_port(backend));
                let standing = Standing::of(&key, backend, want, mirror, known.get(&at));
                let old = known.insert(at, standing.clone());
                had_takers |= old.as_ref().is_some_and(Standing::takes);
                if standing.differs(old.as_ref()) {
                    changed.push((backend, standing));
                }
            }
            log(service, &changed, moved(&key));
            tell_if_nobody_is_left(service, had_takers, known);
        }
    }
}

impl Standing {
    /// Whether it takes new flows.
    fn takes(&self) -> bool {
        self.state == BackendState::Up
    }

    /// Whether operators are to be told, of a backend that stood like `old`.
    fn differs(&self, old: Option<&Self>) -> bool {
        old.is_none_or(|old| (old.state, old.gone) != (self.state, self.gone))
    }

    /// Whether it takes no flows though the operator would have it take some.
    #[must_use]
    pub const fn is_unready(&self) -> bool {
        matches!(self.state, BackendState::Down | BackendState::Held | BackendState::Unknown)
    }

    fn of(key: &Endpoint, backend: &Backend, want: &Want, mirror: &Mirror, old: Option<&Self>) -> Self {
        let key = backend_key(*key, backend);
        let id = mirror
            .tables()
            .services
            .get(&key.service)
            .and_then(|service| mirror.backend_id(service.id, key.address, key.port));
        let entry = id.and_then(|id| mirror.tables().backends.get(&id));
        let gone = entry.is_some_and(entry::is_gone);
        let health = want.health.get(&key).filter(|_| !entry.is_some_and(entry::is_leaving));
        let (state, reason, results) = match (entry, health) {
            (Some(entry), _) if entry::is_leaving(entry) => (BackendState::Leaving, "removed", 0),
            _ if backend.draining => (BackendState::Draining, "drained by the operator", 0),
            (_, Some(health)) if health.state == State::Down => {
                (if gone { BackendState::Down } else { BackendState::Held }, &*health.reason, health.results)
            }
            (Some(entry), health) if entry.next_hop.is_resolved() => match health {
                Some(health) if health.state == State::Up && backend.weight == 0 => {
                    (BackendState::Up, "its weight is 0: it takes no new flows", 0)
                }
                Some(health) if health.state == State::Up => (BackendState::Up, &*health.reason, health.results),
                _ => (BackendState::Unknown, "not checked yet", 0),
            },
            _ => {
                let reach = want.paths.backends.get(&key.address);
                // Nobody has looked for a neighbour of which nothing was ever known.
                let new = old.is_none_or(|old| old.state == BackendState::Unknown);
                let waits = new && matches!(reach, Some(Reach::Unknown { failed: false, .. }));
                let state = if waits { BackendState::Unknown } else { BackendState::Down };
                (state, reach.and_then(Reach::obstacle).unwrap_or(NO_EGRESS), 0)
            }
        };
        let since = match (old, health) {
            (Some(old), _) if old.state == state => old.since,
            (_, Some(health)) if results > 0 => health.since,
            _ => SystemTime::now(),
        };
        Self { state, reason: reason.to_owned(), since, results, gone }
    }

    /// Why it is in its state, for the log: `connection refused (3 failures)`.
    fn explanation(&self) -> String {
        let (reason, results) = (&self.reason, self.results);
        let (one, several) = match self.state {
            BackendState::Down | BackendState::Held => ("failure", "failures"),
            BackendState::Up | BackendState::Unknown | BackendState::Draining | BackendState::Leaving => {
                ("success", "successes")
            }
        };
        match results {
            0 => reason.clone(),
            1 => format!("{reason} (1 {one})"),
            _ => format!("{reason} ({results} {several})"),
        }
    }
}

type OfService = BTreeMap<(IpAddr, u16), Standing>;

/// Logs what became of a service's backends.
fn log(service: &Service, changed: &[(&Backend, Standing)], moved: u32) {
    let slots = if moved > 0 && changed.len() == 1 { format!("; {moved} slots moved") } else { String::new() };
    for (backend, standing) in changed {
        let (name, why) = (format!("{}/{}", service.name, backend.name), standing.explanation());
        let slots = match (standing.state, service.hold) {
            _ if standing.gone => format!("; its flows count as gone{slots}"),
            (BackendState::Held, Hold::For(time)) => format!("; its flows stay for {}{slots}", format_duration(time)),
            (BackendState::Held | BackendState::Draining | BackendState::Leaving, _) => {
                format!("; its flows stay{slots}")
            }
            _ => slots.clone(),
        };
        match standing.state {
            BackendState::Down | BackendState::Held => {
                warn!("backend {name} is {}: {why}{slots}", standing.state.name());
            }
            BackendState::Unknown => info!("backend {name} takes no flows yet: {why}{slots}"),
            BackendState::Up | BackendState::Draining | BackendState::Leaving => {
                info!("backend {name} is {}: {why}{slots}", standing.state.name());
            }
        }
    }
    if moved > 0 && changed.len() > 1 {
        info!("service {}: {moved} slots moved", service.name);
    }
}

/// Logs it where the last backend of a service goes that takes new flows.
fn tell_if_nobody_is_left(service: &Service, had_takers: bool, new: &OfService) {
    if had_takers && !new.is_empty() && !new.values().any(Standing::takes) {
        warn!("service {} has no backend left that takes new flows", service.name);
    }
}
