//! `health` of a service.

use std::time::Duration;

use super::field;
use crate::{
    config::{
        problem::{Checked, Path, Problems},
        raw,
    },
    spec::{Health, Protocol},
};

/// How long a check may take where the file doesn't say.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);

/// The checks of `service`, if it is checked at all.
pub fn validate(service: &raw::Service, path: &Path, problems: &mut Problems) -> Checked<Option<Health>> {
    match (&service.health, service.protocol) {
        (Some(raw::Health::Off), _) | (None, Protocol::Udp) => Ok(None),
        (Some(raw::Health::Checks(checks)), _) => validate_checks(checks, service, path, problems).map(Some),
        (None, Protocol::Tcp) => validate_checks(&raw::Checks::default(), service, path, problems).map(Some),
    }
}

fn validate_checks(raw: &raw::Checks, service: &raw::Service, path: &Path, problems: &mut Problems) -> Checked<Health> {
    let port = match raw.port {
        Some(port) => problems.field(path, "port", field::port(port).map(Some)),
        None => check_port_is_known(service).map_err(|message| problems.add(path.clone(), message)).map(|()| None),
    };
    let interval = problems.field(path, "interval", duration(&raw.interval));
    let timeout = match &raw.timeout {
        Some(text) => {
            let timeout = duration(text).and_then(|timeout| match interval {
                Ok(interval) if timeout > interval => {
                    Err(format!("expected at most the interval, {:?}, found {text:?}", raw.interval))
                }
                _ => Ok(timeout),
            });
            problems.field(path, "timeout", timeout)
        }
        None => interval.map(|interval| interval.min(DEFAULT_TIMEOUT)),
    };
    let rise = problems.field(path, "rise", field::number(raw.rise, 1..=100));
    let fall = problems.field(path, "fall", field::number(raw.fall, 1..=100));
    let jitter = problems.field(path, "jitter", field::number(raw.jitter, 0..=50));
    Ok(Health { port: port?, interval: interval?, timeout: timeout?, rise: rise?, fall: fall?, jitter: jitter? })
}

fn duration(text: &str) -> Result<Duration, String> {
    field::duration(text, Duration::from_millis(10)..=Duration::from_hours(1), "10ms to 1h")
}

/// Whether where the packets of `service` go tells where a TCP check has to go.
fn check_port_is_known(service: &raw::Service) -> Result<(), String> {
    let what = match (service.protocol, service.port) {
        (Protocol::Tcp, raw::Port::Number(_)) => return Ok(()),
        (Protocol::Tcp, raw::Port::Any) => "a service on any port",
        (Protocol::Udp, _) => "a UDP service",
    };
    Err(format!(
        "{what} has no TCP port of its own to check; give one, health = {{ port = 8080 }}, or use health = \"none\""
    ))
}
