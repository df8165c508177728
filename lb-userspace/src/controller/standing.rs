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

    /// Whether operators are told the same of both.
    fn is_told_like(&self, other: &Self) -> bool {
        let told = |standing: &Self| (standing.state, standing.results, standing.gone);
        told(self) == told(other) && self.reason == other.reason
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
    for (is_grave, line) in lines(service, changed, moved) {
        if is_grave {
            warn!("{line}");
        } else {
            info!("{line}");
        }
    }
    if moved > 0 && changed.len() > 1 {
        info!("service {}: {moved} slots moved", service.name);
    }
}

/// What is to be said of the backends that `changed`, and whether it is grave: one line if the same became of all that the
/// service has, as when the daemon starts.
fn lines(service: &Service, changed: &[(&Backend, Standing)], moved: u32) -> Vec<(bool, String)> {
    let all = changed.len() > 1 && changed.len() == service.backends.len();
    match changed {
        [(_, first), others @ ..] if all && others.iter().all(|(_, other)| first.is_told_like(other)) => {
            let name = format!("the {} backends of {}", changed.len(), service.name);
            vec![line(service, &Subject { name, are: "are", take: "take", whose: "their" }, first, "")]
        }
        _ => {
            let slots = if moved > 0 && changed.len() == 1 { format!("; {moved} slots moved") } else { String::new() };
            let lines = changed.iter().map(|(backend, standing)| {
                let name = format!("backend {}/{}", service.name, backend.name);
                line(service, &Subject { name, are: "is", take: "takes", whose: "its" }, standing, &slots)
            });
            lines.collect()
        }
    }
}

/// Of whom something is said, and the words for one or for several.
struct Subject {
    name: String,
    are: &'static str,
    take: &'static str,
    whose: &'static str,
}

/// What is to be said of one backend, or of several alike, and whether it is grave; `slots` is what became of slots by that.
fn line(
    service: &Service,
    Subject { name, are, take, whose }: &Subject,
    standing: &Standing,
    slots: &str,
) -> (bool, String) {
    let (why, state) = (standing.explanation(), standing.state.name());
    let slots = match (standing.state, service.hold) {
        _ if standing.gone => format!("; {whose} flows count as gone{slots}"),
        (BackendState::Held, Hold::For(time)) => format!("; {whose} flows stay for {}{slots}", format_duration(time)),
        (BackendState::Held | BackendState::Draining | BackendState::Leaving, _) => {
            format!("; {whose} flows stay{slots}")
        }
        _ => slots.to_owned(),
    };
    match standing.state {
        BackendState::Down | BackendState::Held => (true, format!("{name} {are} {state}: {why}{slots}")),
        BackendState::Unknown => (false, format!("{name} {take} no flows yet: {why}{slots}")),
        BackendState::Up | BackendState::Draining | BackendState::Leaving => {
            (false, format!("{name} {are} {state}: {why}{slots}"))
        }
    }
}

/// Logs it where the last backend of a service goes that takes new flows.
fn tell_if_nobody_is_left(service: &Service, had_takers: bool, new: &OfService) {
    if had_takers && !new.is_empty() && !new.values().any(Standing::takes) {
        warn!("service {} has no backend left that takes new flows", service.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::tests::{checked, spec};

    fn standing(state: BackendState, reason: &str) -> Standing {
        Standing { state, reason: reason.into(), since: SystemTime::UNIX_EPOCH, results: 2, gone: false }
    }

    #[test]
    fn what_became_of_all_backends_alike_is_one_line() {
        let spec = spec(&checked("web", 80, &[1, 2, 3]));
        let service = &spec.services[0];
        let [first, second, ..] = &service.backends[..] else { panic!("a service of several backends") };
        let up = || standing(BackendState::Up, "connected");
        let all: Vec<_> = service.backends.iter().map(|backend| (backend, up())).collect();
        let said = format!("the {} backends of {} are up: connected (2 successes)", all.len(), service.name);
        assert_eq!(lines(service, &all, 5), [(false, said)]);

        let mut but_one = all.clone();
        but_one[1].1 = standing(BackendState::Down, "refused");
        let lines_of_each = lines(service, &but_one, 5);
        assert_eq!(lines_of_each.len(), service.backends.len());
        let name = |backend: &Backend| format!("backend {}/{}", service.name, backend.name);
        assert_eq!(lines_of_each[0], (false, format!("{} is up: connected (2 successes)", name(first))));
        assert_eq!(lines_of_each[1], (true, format!("{} is down: refused (2 failures)", name(second))));

        let one = lines(service, &all[..1], 5);
        assert_eq!(one, [(false, format!("{} is up: connected (2 successes); 5 slots moved", name(first)))]);
    }
}
