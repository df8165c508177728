//! `[[service]]` and `[[service.backend]]`.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    time::{Duration, SystemTime},
};

use super::{
    clash::{Clashes, Target},
    field, flows, health, slots,
};
use crate::{
    config::{
        problem::{Checked, Path, Problems},
        raw,
    },
    spec::{Backend, Mode, Service, ServicePort},
};

/// The last moment of the year 9999, as Unix time: later ones have no common notation.
const LAST_SECOND: u64 = 253_402_300_799;

/// What a backend needs to know of its service.
struct Owner<'r> {
    raw: &'r raw::Service,
    vip: Checked<IpAddr>,
    port: Checked<ServicePort>,
}

pub fn validate<'r>(
    raw: &'r raw::Service,
    path: &Path,
    clashes: &mut Clashes<'r>,
    problems: &mut Problems,
) -> Checked<Service> {
    let name =
        field::name(&raw.name, 64, "a-z, A-Z, 0-9 and \"-_.\"", |c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    let name = problems.field(path, "name", name);
    let vip = problems.field(path, "vip", field::host_address(&raw.vip));
    let port = match raw.port {
        raw::Port::Any => Ok(ServicePort::Any),
        raw::Port::Number(port) => problems.field(path, "port", field::port(port).map(ServicePort::One)),
    };
    let scheduler = problems.field(path, "scheduler", flows::scheduler(raw));
    let flows = flows::validate(raw, path, problems);
    let health = health::validate(raw, &path.key("health"), problems);
    clashes.add_service(raw, vip.ok().zip(port.ok()), path, problems);
    let owner = Owner { raw, vip, port };
    let mut backends = Vec::new();
    for (index, backend) in raw.backends.iter().enumerate() {
        let path = path.key("backend").item(index, Some(&backend.label()));
        backends.push(validate_backend(backend, &owner, &path, clashes, problems));
    }
    let backends: Checked<Vec<_>> = backends.into_iter().collect();
    let slots = backends.as_ref().map_err(|noted| *noted).and_then(|backends| {
        let weights: Vec<_> = backends.iter().map(|backend| backend.weight).collect();
        problems.field(path, "slots", slots::validate(raw.slots, &weights))
    });
    let flows = flows?;
    Ok(Service {
        name: name?,
        vip: vip?,
        port: port?,
        protocol: raw.protocol,
        mode: raw.mode,
        scheduler: scheduler?,
        slots: slots?,
        idle: flows.idle,
        settle_after: flows.settle_after,
        hold: flows.hold,
        on_down: flows.on_down,
        slow_start: flows.slow_start,
        health: health?,
        backends: backends?,
    })
}

fn validate_backend<'r>(
    raw: &raw::Backend,
    owner: &Owner<'r>,
    path: &Path,
    clashes: &mut Clashes<'r>,
    problems: &mut Problems,
) -> Checked<Backend> {
    let address = field::host_address(&raw.address).and_then(|address| in_family(address, owner));
    let address = problems.field(path, "address", address);
    let port = problems.field(path, "port", raw.port.map(|port| own_port(port, owner)).transpose());
    let weight = problems.field(path, "weight", field::number(raw.weight, 0..=Backend::MOST_WEIGHT));
    let drain_deadline = problems.field(path, "drain_until", drain_deadline(raw));
    let target = target(address, port, owner);
    let is_taken = target.is_ok_and(|target| clashes.add_target(owner.raw, &raw.label(), target, path, problems));
    let name = match &raw.name {
        Some(name) => problems.field(path, "name", backend_name(name)),
        None => address.and_then(|address| Ok(default_name(address, port?))),
    };
    // Without names, two backends in one place have one name too: one problem is enough.
    let is_named_twice = name.as_ref().is_ok_and(|name| clashes.add_backend_name(name));
    if is_named_twice && (raw.name.is_some() || !is_taken) {
        problems.add(path.key("name"), "another backend of this service has this name");
    }
    Ok(Backend {
        name: name?,
        address: address?,
        port: port?,
        weight: weight?,
        draining: raw.draining,
        drain_deadline: drain_deadline?,
    })
}

/// When what is left of a draining backend counts as gone.
fn drain_deadline(raw: &raw::Backend) -> Result<Option<SystemTime>, String> {
    let Some(until) = raw.drain_until else { return Ok(None) };
    let seconds = field::number(until, 0..=LAST_SECOND)?;
    if raw.draining {
        Ok(Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)))
    } else {
        Err("only a draining backend has one; leave this out or add draining = true".to_owned())
    }
}

/// A name that is given. It may have what default names have, since these are given when a [`Service`] is read again.
fn backend_name(name: &str) -> Result<String, String> {
    field::name(name, 64, "a-z, A-Z, 0-9 and \"-_.:[]\"", |c| c.is_ascii_alphanumeric() || "-_.:[]".contains(c))
}

/// The address, with the port that the backend has of its own.
fn default_name(address: IpAddr, port: Option<NonZeroU16>) -> String {
    port.map_or_else(|| address.to_string(), |port| SocketAddr::new(address, port.get()).to_string())
}

fn target(address: Checked<IpAddr>, port: Checked<Option<NonZeroU16>>, owner: &Owner<'_>) -> Checked<Target> {
    let port = port?.map_or(owner.port, |port| Ok(ServicePort::One(port)))?;
    Ok(Target { address: address?, port })
}

/// `address`, if the service's mode can take packets for its VIP there.
fn in_family(address: IpAddr, owner: &Owner<'_>) -> Result<IpAddr, String> {
    let (mode, hint) = match owner.raw.mode {
        Mode::Ipip => return Ok(address),
        Mode::L2 => ("l2", "; mode \"ipip\" can mix them"),
        Mode::Nat => ("nat", ""),
    };
    match owner.vip {
        Ok(vip) if vip.is_ipv4() != address.is_ipv4() => {
            let family = if vip.is_ipv4() { "IPv4" } else { "IPv6" };
            Err(format!("expected an {family} address like the VIP's for mode {mode:?}, found \"{address}\"{hint}"))
        }
        _ => Ok(address),
    }
}

/// The port of a backend that has one of its own.
fn own_port(port: i64, owner: &Owner<'_>) -> Result<NonZeroU16, String> {
    let mode = match (owner.raw.mode, owner.raw.port) {
        (Mode::Nat, raw::Port::Number(_)) => return field::port(port),
        (Mode::Nat, raw::Port::Any) => {
            return Err("a service on any port keeps the packet's port; leave this out".to_owned());
        }
        (Mode::L2, _) => "l2",
        (Mode::Ipip, _) => "ipip",
    };
    Err(format!("mode {mode:?} delivers to the service's own port; leave this out or use mode \"nat\""))
}
