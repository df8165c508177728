//! What a service does with flows, new and old: its scheduler and its times.

use std::time::Duration;

use lb_common::abi::RING_ENTRIES;

use super::field;
use crate::{
    api::types::word,
    config::{
        problem::{Checked, Path, Problems},
        raw,
    },
    spec::{Hold, OnDown, Protocol, Scheduler},
};

/// Most backends among which the packet path itself chooses: each has an entry of the service's ring.
const MOST_CHOICES: usize = RING_ENTRIES as usize;

const WEEK: Duration = Duration::from_hours(7 * 24);

/// How long flows are remembered and kept.
pub struct Flows {
    pub idle: Duration,
    pub settle_after: Duration,
    pub hold: Hold,
    pub on_down: OnDown,
    pub slow_start: Duration,
}

/// The scheduler, if it suits the protocol and the number of backends.
pub fn scheduler(service: &raw::Service) -> Result<Scheduler, String> {
    let scheduler = service.scheduler;
    let name = word(&scheduler);
    let backends = service.backends.len();
    if scheduler.follows_slots() {
        Ok(scheduler)
    } else if service.protocol == Protocol::Udp {
        Err(format!(
            "expected \"maglev\", \"source\" or \"response-time\", since no UDP packet tells that a flow is new, found \
             {name:?}"
        ))
    } else if backends > MOST_CHOICES {
        Err(format!("{name:?} chooses among at most {MOST_CHOICES} backends, and the service has {backends}"))
    } else {
        Ok(scheduler)
    }
}

pub fn validate(service: &raw::Service, path: &Path, problems: &mut Problems) -> Checked<Flows> {
    let (default_idle, default_on_down) = match service.protocol {
        Protocol::Tcp => (Duration::from_hours(24), OnDown::Reset),
        Protocol::Udp => (Duration::from_mins(1), OnDown::Reroute),
    };
    let idle = service.idle.as_deref().map_or(Ok(default_idle), memory);
    let idle = problems.field(path, "idle", idle);
    let settle_after = match (&service.settle_after, service.protocol) {
        (Some(text), _) => problems.field(path, "settle_after", memory(text)),
        (None, Protocol::Tcp) => Ok(Duration::from_hours(24)),
        (None, Protocol::Udp) => idle,
    };
    let hold = service.hold.as_deref().map_or(Ok(Hold::For(Duration::from_secs(10))), hold);
    let hold = problems.field(path, "hold", hold);
    let on_down = on_down(service.on_down.unwrap_or(default_on_down), service.protocol);
    let on_down = problems.field(path, "on_down", on_down);
    let slow_start = service.slow_start.as_deref().map_or(Ok(Duration::ZERO), slow_start);
    let slow_start = problems.field(path, "slow_start", slow_start);
    Ok(Flows { idle: idle?, settle_after: settle_after?, hold: hold?, on_down: on_down?, slow_start: slow_start? })
}

fn memory(text: &str) -> Result<Duration, String> {
    field::duration(text, Duration::from_secs(1)..=8 * WEEK, "1s to 8weeks")
}

fn hold(text: &str) -> Result<Hold, String> {
    if text == raw::FOREVER {
        return Ok(Hold::Forever);
    }
    let hold = field::duration(text, Duration::ZERO..=WEEK, "0s to 1week");
    hold.map(Hold::For).map_err(|problem| problem + "; \"forever\" is possible too")
}

fn slow_start(text: &str) -> Result<Duration, String> {
    field::duration(text, Duration::ZERO..=Duration::from_hours(1), "0s to 1h")
}

fn on_down(on_down: OnDown, protocol: Protocol) -> Result<OnDown, String> {
    if on_down == OnDown::Reset && protocol == Protocol::Udp {
        Err("expected \"reroute\" or \"drop\", since UDP has no reset, found \"reset\"".to_owned())
    } else {
        Ok(on_down)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_has_room_for_every_backend_that_is_allowed() {
        let text = "name = 'web'\nvip = '192.0.2.1'\nport = 80\nprotocol = 'tcp'\nmode = 'l2'\n[[backend]]\naddress = '10.0.0.1'";
        let mut service: raw::Service = toml::from_str(text).unwrap();
        service.scheduler = Scheduler::Random;
        service.backends = vec![service.backends[0].clone(); RING_ENTRIES as usize];
        assert_eq!(scheduler(&service), Ok(Scheduler::Random));
        service.backends.push(service.backends[0].clone());
        assert!(scheduler(&service).is_err_and(|problem| problem.contains("at most 1024 backends")));
    }
}
