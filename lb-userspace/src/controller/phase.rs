//! In which phase of its life a backend is: whether it may take new flows, keeps those that it has, or is gone.
//!
//! ```text
//!            fails its checks            for `hold`
//!   taking ───────────────────▶ held ────────────────▶ gone
//!     ▲ ◀── succeeds ────────────┘                      │
//!     └───────────────────── succeeds ──────────────────┘
//!
//!            drained                  deadline passed
//!   taking ───────────▶ draining ──────────────────────▶ gone
//!
//!            removed                  no slot and no flow names it
//!   any ────────────────▶ leaving ─────────────────────────────────▶ no entry
//!                            │        removed at once
//!                            └─────────────────────────▶ gone, leaving
//! ```
//!
//! A phase follows from configuration, health, time and the backend's entry alone, so that a restarted daemon finds every
//! backend where its predecessor left it. Only the time that a backend has been held begins anew.

use std::time::SystemTime;

use lb_common::abi::backend_state::{DOWN, DRAINING, GONE, REMOVED};

use crate::{
    health::{Health, State},
    spec::{Backend, Hold, Service},
};

/// The phase of a backend of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phase {
    /// Bits of [`lb_common::abi::backend_state`].
    pub state: u8,
    /// When it is another by time alone, if ever.
    pub due: Option<SystemTime>,
}

/// The phase of `backend`, whose entry has the state `old`.
#[must_use]
pub fn of(service: &Service, backend: &Backend, health: Option<&Health>, old: u8, now: SystemTime) -> Phase {
    let mut phase = Phase { state: 0, due: None };
    let health_state = health.map_or(State::Unknown, |health| health.state);
    if health_state != State::Up {
        phase.state |= DOWN;
    }
    if let Some(health) = health.filter(|health| health.state == State::Down) {
        // What a deadline ended may have been held still: its flows are its own again once it drains no longer.
        let undrained = old & DRAINING != 0 && !backend.draining;
        if old & (GONE | REMOVED) == GONE && !undrained {
            phase.state |= GONE;
        } else if let Hold::For(hold) = service.hold {
            // Of a clock that was set back, the time that has passed is not known: it counts as none.
            let held = now.duration_since(health.since).unwrap_or_default();
            phase.end_at(hold <= held, health.since.checked_add(hold));
        }
    }
    if backend.draining {
        phase.state |= DRAINING;
        if let Some(deadline) = backend.drain_deadline {
            phase.end_at(deadline <= now, Some(deadline));
        }
    }
    phase
}

/// The state of a backend that is no longer in the configuration and whose entry has the state `old`; `ended` is that its
/// flows are not to be waited for.
#[must_use]
pub const fn of_leaving(old: u8, ended: bool) -> u8 {
    old & (DOWN | GONE) | DRAINING | REMOVED | if ended { GONE } else { 0 }
}

impl Phase {
    /// The backend is gone if this is `over`, otherwise when it is `due`.
    fn end_at(&mut self, over: bool, due: Option<SystemTime>) {
        if over {
            self.state |= GONE;
        } else {
            self.due = self.due.into_iter().chain(due).min();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::controller::tests::{checked, spec};

    const START: SystemTime = SystemTime::UNIX_EPOCH;

    fn at(seconds: u64) -> SystemTime {
        START + Duration::from_secs(seconds)
    }

    fn service(hold: Hold) -> Service {
        let mut service = spec(&checked("web", 80, &[1])).services.remove(0);
        service.hold = hold;
        service
    }

    fn down_since(seconds: u64) -> Health {
        Health { state: State::Down, ..Health::unknown(at(seconds)) }
    }

    /// State and due second of `backend` at second `now`.
    fn phase(service: &Service, health: &Health, old: u8, now: u64) -> (u8, Option<u64>) {
        let phase = of(service, &service.backends[0], Some(health), old, at(now));
        (phase.state, phase.due.map(|due| due.duration_since(START).unwrap().as_secs()))
    }

    #[test]
    fn a_backend_that_fails_is_held_and_then_gone() {
        let ten = service(Hold::For(Duration::from_secs(10)));
        assert_eq!(phase(&ten, &down_since(5), 0, 5), (DOWN, Some(15)));
        assert_eq!(phase(&ten, &down_since(5), DOWN, 14), (DOWN, Some(15)));
        assert_eq!(phase(&ten, &down_since(5), DOWN, 15), (DOWN | GONE, None));
        assert_eq!(phase(&service(Hold::For(Duration::ZERO)), &down_since(5), 0, 5), (DOWN | GONE, None));
        assert_eq!(phase(&service(Hold::Forever), &down_since(5), DOWN, 1_000_000), (DOWN, None));
        assert_eq!(phase(&ten, &down_since(500), DOWN, 20), (DOWN, Some(510)), "a clock that was set back");
    }

    #[test]
    fn one_that_is_gone_stays_so_until_it_is_up() {
        let ten = service(Hold::For(Duration::from_secs(10)));
        assert_eq!(phase(&ten, &down_since(5), DOWN | GONE, 6), (DOWN | GONE, None));
        assert_eq!(phase(&ten, &Health::adopted(true, at(5)), DOWN | GONE, 6), (0, None));
        assert_eq!(phase(&ten, &down_since(5), GONE | REMOVED | DRAINING, 6), (DOWN, Some(15)), "it was added again");
    }

    #[test]
    fn what_is_not_known_is_neither_up_nor_gone() {
        let at_once = service(Hold::For(Duration::ZERO));
        assert_eq!(phase(&at_once, &Health::unknown(at(5)), 0, 50), (DOWN, None));
        assert_eq!(of(&at_once, &at_once.backends[0], None, 0, at(50)), Phase { state: DOWN, due: None });
    }

    #[test]
    fn a_draining_backend_is_gone_at_its_deadline() {
        let mut ten = service(Hold::For(Duration::from_secs(10)));
        let up = Health::adopted(true, at(0));
        ten.backends[0].draining = true;
        assert_eq!(phase(&ten, &up, 0, 5), (DRAINING, None));
        ten.backends[0].drain_deadline = Some(at(30));
        assert_eq!(phase(&ten, &up, 0, 29), (DRAINING, Some(30)));
        assert_eq!(phase(&ten, &up, DRAINING, 30), (DRAINING | GONE, None));
        assert_eq!(phase(&ten, &down_since(25), 0, 28), (DOWN | DRAINING, Some(30)), "the sooner of two");
    }

    #[test]
    fn one_that_drains_no_longer_is_held_as_any_other() {
        let mut ten = service(Hold::For(Duration::from_secs(10)));
        ten.backends[0].draining = true;
        ten.backends[0].drain_deadline = Some(at(6));
        assert_eq!(phase(&ten, &down_since(5), DOWN | DRAINING, 6).0, DOWN | DRAINING | GONE);
        ten.backends[0].drain_deadline = None;
        assert_eq!(phase(&ten, &down_since(7), DOWN | DRAINING | GONE, 7).0, DOWN | DRAINING | GONE, "after a restart");
        ten.backends[0].draining = false;
        assert_eq!(phase(&ten, &down_since(5), DOWN | DRAINING | GONE, 7), (DOWN, Some(15)));
        assert_eq!(phase(&ten, &down_since(5), DOWN | DRAINING | GONE, 15), (DOWN | GONE, None));
    }

    #[test]
    fn one_that_leaves_keeps_what_it_was() {
        assert_eq!(of_leaving(0, false), DRAINING | REMOVED);
        assert_eq!(of_leaving(DOWN | GONE, false), DOWN | GONE | DRAINING | REMOVED);
        assert_eq!(of_leaving(DRAINING | REMOVED, true), GONE | DRAINING | REMOVED);
    }
}
