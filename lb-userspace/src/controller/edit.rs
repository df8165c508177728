//! What commands do to a configuration.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::{
    api::control::ControlError,
    config::{self, Problem, raw},
    spec::{Service, Spec},
};

/// A change of the configuration that somebody asks for. The journal keeps it as it is here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Edit {
    /// Adds a service.
    AddService(raw::Service),
    /// Removes the service of this name.
    RemoveService(String),
    /// Adds a backend to the service of this name.
    AddBackend(String, raw::Backend),
    /// Changes a backend of a service.
    Backend {
        /// The service's name.
        service: String,
        /// The backend's name.
        backend: String,
        /// How.
        how: BackendEdit,
    },
}

/// A change of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackendEdit {
    /// It takes no new flows, and goes when its old ones have ended.
    Remove {
        /// Its old flows are not waited for: they count as gone.
        now: bool,
    },
    /// It gets another weight.
    Weight(u16),
    /// It drains. What is left of its flows at this time, in whole seconds, counts as gone.
    Drain(Option<SystemTime>),
    /// It drains no longer.
    Undrain,
}

/// What an edit makes of the one service that it is about, by its place in the configuration. No service ever gets another
/// address, port or protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edited {
    /// It comes.
    Insert(usize, Service),
    /// It is another.
    Replace(usize, Service),
    /// It goes.
    Remove(usize),
}

impl Edited {
    /// Does it to `services`; what undoes it.
    pub fn put(self, services: &mut Vec<Service>) -> Self {
        match self {
            Self::Insert(at, service) => {
                services.insert(at, service);
                Self::Remove(at)
            }
            Self::Replace(at, service) => Self::Replace(at, std::mem::replace(&mut services[at], service)),
            Self::Remove(at) => Self::Insert(at, services.remove(at)),
        }
    }

    /// The service as it is to be in place of what `services` have, if it is to be.
    #[must_use]
    pub const fn service(&self) -> Option<&Service> {
        match self {
            Self::Insert(_, service) | Self::Replace(_, service) => Some(service),
            Self::Remove(_) => None,
        }
    }

    /// Where it is, or is to be.
    #[must_use]
    pub const fn at(&self) -> usize {
        match self {
            Self::Insert(at, _) | Self::Replace(at, _) | Self::Remove(at) => *at,
        }
    }
}

impl Edit {
    /// The name of the service that it is about.
    #[must_use]
    pub fn service(&self) -> &str {
        match self {
            Self::AddService(raw::Service { name, .. }) | Self::RemoveService(name) | Self::AddBackend(name, _) => name,
            Self::Backend { service, .. } => service,
        }
    }

    /// What was done, in one line.
    #[must_use]
    pub fn summary(&self) -> String {
        match self {
            Self::AddService(service) => format!("service {:?} added", service.name),
            Self::RemoveService(name) => format!("service {name:?} removed"),
            Self::AddBackend(service, backend) => format!("backend {:?} of service {service:?} added", backend.label()),
            Self::Backend { service, backend, how } => {
                let done = match how {
                    BackendEdit::Remove { now: false } => "removed".to_owned(),
                    BackendEdit::Remove { now: true } => "removed, its flows with it".to_owned(),
                    BackendEdit::Weight(weight) => format!("has weight {weight}"),
                    BackendEdit::Drain(_) => "drained".to_owned(),
                    BackendEdit::Undrain => "undrained".to_owned(),
                };
                format!("backend {backend:?} of service {service:?} {done}")
            }
        }
    }

    /// What this change makes of its service in `spec`, all rules checked.
    ///
    /// # Errors
    /// What it is about is not there, or is there already, or the result breaks rules.
    pub fn apply(&self, spec: &Spec) -> Result<Edited, ControlError> {
        match self {
            Self::AddService(service) => {
                if spec.services.iter().any(|other| other.name == service.name) {
                    return Err(ControlError::Conflict(format!("service {:?} exists already", service.name)));
                }
                let mut config = raw::Config::from(spec);
                if let Some(other) = config.services.iter().find(|other| same_endpoint(other, service)) {
                    let message = format!("service {:?} has this VIP, port and protocol already", other.name);
                    return Err(ControlError::Conflict(message));
                }
                config.services.push(service.clone());
                Ok(Edited::Insert(spec.services.len(), among_all(&config, spec.services.len())?))
            }
            Self::RemoveService(name) => Ok(Edited::Remove(service_index(spec, name)?)),
            Self::AddBackend(name, backend) => {
                let at = service_index(spec, name)?;
                let mut config = raw::Config::from(spec);
                let backends = &mut config.services[at].backends;
                if backends.iter().any(|other| other.label() == backend.label()) {
                    let message = format!("backend {:?} of service {name:?} exists already", backend.label());
                    return Err(ControlError::Conflict(message));
                }
                backends.push(backend.clone());
                Ok(Edited::Replace(at, among_all(&config, at)?))
            }
            Self::Backend { service, backend, how } => {
                let at = service_index(spec, service)?;
                let mut service: raw::Service = (&spec.services[at]).into();
                how.apply(&mut service, backend)?;
                Ok(Edited::Replace(at, alone(spec, service)?))
            }
        }
    }
}

impl Edit {
    /// The same for a change that was made before, with the rules about one service alone: all services are checked together
    /// when the last change has been made again.
    ///
    /// # Errors
    /// As [`Edit::apply`].
    pub fn again(&self, spec: &Spec) -> Result<Edited, ControlError> {
        match self {
            Self::AddService(service) => Ok(Edited::Insert(spec.services.len(), alone(spec, service.clone())?)),
            Self::AddBackend(name, backend) => {
                let at = service_index(spec, name)?;
                let mut service: raw::Service = (&spec.services[at]).into();
                service.backends.push(backend.clone());
                Ok(Edited::Replace(at, alone(spec, service)?))
            }
            Self::RemoveService(_) | Self::Backend { .. } => self.apply(spec),
        }
    }
}

impl BackendEdit {
    fn apply(self, service: &mut raw::Service, backend: &str) -> Result<(), ControlError> {
        let at = service.backends.iter().position(|other| other.label() == *backend);
        let at = at.ok_or_else(|| ControlError::no_backend(&service.name, backend))?;
        let backend = &mut service.backends[at];
        match self {
            Self::Remove { .. } => drop(service.backends.remove(at)),
            Self::Weight(weight) => backend.weight = i64::from(weight),
            Self::Drain(deadline) => {
                backend.draining = true;
                backend.drain_until = deadline.map(unix_seconds);
            }
            Self::Undrain => {
                backend.draining = false;
                backend.drain_until = None;
            }
        }
        Ok(())
    }
}

/// The service at `at`, checked by all rules.
fn among_all(config: &raw::Config, at: usize) -> Result<Service, ControlError> {
    Ok(config::validate(config).map_err(|problems| invalid(&problems))?.services.swap_remove(at))
}

/// `service`, checked by the rules about one service. For changes that bring no name, no address and no port, so that they
/// can't get in the way of other services: with 100,000 backends, to check all anew takes longer than everything else.
fn alone(spec: &Spec, service: raw::Service) -> Result<Service, ControlError> {
    among_all(&raw::Config { node: (&spec.node).into(), services: vec![service] }, 0)
}

fn invalid(problems: &[Problem]) -> ControlError {
    ControlError::Invalid(problems.iter().map(ToString::to_string).collect())
}

fn service_index(spec: &Spec, name: &str) -> Result<usize, ControlError> {
    spec.services.iter().position(|service| service.name == name).ok_or_else(|| ControlError::no_service(name))
}

/// Whether both have the same VIP, port and protocol. An address that is none is left to validation.
fn same_endpoint(a: &raw::Service, b: &raw::Service) -> bool {
    let address = |service: &raw::Service| service.vip.parse::<std::net::IpAddr>().ok();
    a.port == b.port && a.protocol == b.protocol && address(a).is_some() && address(a) == address(b)
}

/// Whole seconds since 1970: the next one where it is between two.
fn unix_seconds(time: SystemTime) -> i64 {
    let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seconds = since_epoch.as_secs() + u64::from(since_epoch.subsec_nanos() > 0);
    i64::try_from(seconds).unwrap_or(i64::MAX)
}
