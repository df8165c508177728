//! How each backend stands, and the log lines when that changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::SystemTime,
};

use humantime::format_duration;
use tracing::{info, warn};

use super::{
    entry,
    mirror::Mirror,
    paths::{NO_EGRESS, Reach},
    want::{Want, backend_key},
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

    /// Looks at `services` again, after a write that moved the slots of `moved`, and logs what is different.
    pub fn update(
        &mut self,
        services: &BTreeSet<Endpoint>,
        want: &Want,
        mirror: &Mirror,
        moved: &BTreeMap<Endpoint, u32>,
    ) {
        let wanted = want.services();
        for key in services {
            let old = self.0.remove(key).unwrap_or_default();
            if let Some(service) = wanted.get(key) {
                let leaving: Vec<_> = mirror.leaving(key).map(|(_, backend)| backend).collect();
                let mut changed = Vec::new();
                let mut new = OfService::new();
                for backend in service.backends.iter().chain(&leaving) {
                    let at = (backend.address, entry::own_port(backend));
                    let standing = Standing::of(key, backend, want, mirror, old.get(&at));
                    if old.get(&at).map(|old| (old.state, old.gone)) != Some((standing.state, standing.gone)) {
                        changed.push((backend, standing.clone()));
                    }
                    new.insert(at, standing);
                }
                log(service, &changed, moved.get(key).copied().unwrap_or(0));
                tell_if_nobody_is_left(service, &old, &new);
                self.0.insert(*key, new);
            }
        }
    }
}

impl Standing {
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
fn tell_if_nobody_is_left(service: &Service, old: &OfService, new: &OfService) {
    let takers = |of: &OfService| of.values().filter(|standing| standing.state == BackendState::Up).count();
    if takers(new) == 0 && (takers(old) > 0 || old.is_empty()) && !new.is_empty() {
        warn!("service {} has no backend left that takes new flows", service.name);
    }
}
