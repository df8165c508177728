//! What commands do to a configuration.

use std::time::SystemTime;

use crate::{
    api::control::ControlError,
    config::{self, raw},
    spec::Spec,
};

/// A change of the configuration that somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

    /// `spec` with this change, all rules checked.
    ///
    /// # Errors
    /// What it is about is not there, or is there already, or the result breaks rules.
    pub fn apply(&self, spec: &Spec) -> Result<Spec, ControlError> {
        let mut config = raw::Config::from(spec);
        match self {
            Self::AddService(service) => {
                if config.services.iter().any(|other| other.name == service.name) {
                    return Err(ControlError::Conflict(format!("service {:?} exists already", service.name)));
                }
                if let Some(other) = config.services.iter().find(|other| same_endpoint(other, service)) {
                    let message = format!("service {:?} has this VIP, port and protocol already", other.name);
                    return Err(ControlError::Conflict(message));
                }
                config.services.push(service.clone());
            }
            Self::RemoveService(name) => {
                let index = service_index(&config, name)?;
                config.services.remove(index);
            }
            Self::AddBackend(name, backend) => {
                let index = service_index(&config, name)?;
                let backends = &mut config.services[index].backends;
                if backends.iter().any(|other| other.label() == backend.label()) {
                    let message = format!("backend {:?} of service {name:?} exists already", backend.label());
                    return Err(ControlError::Conflict(message));
                }
                backends.push(backend.clone());
            }
            Self::Backend { service, backend, how } => {
                let index = service_index(&config, service)?;
                let backends = &mut config.services[index].backends;
                let at = backends.iter().position(|other| other.label() == *backend);
                let at = at.ok_or_else(|| ControlError::no_backend(service, backend))?;
                match how {
                    BackendEdit::Remove { .. } => drop(backends.remove(at)),
                    BackendEdit::Weight(weight) => backends[at].weight = i64::from(*weight),
                    BackendEdit::Drain(deadline) => {
                        backends[at].draining = true;
                        backends[at].drain_until = deadline.map(unix_seconds);
                    }
                    BackendEdit::Undrain => {
                        backends[at].draining = false;
                        backends[at].drain_until = None;
                    }
                }
            }
        }
        config::validate(&config)
            .map_err(|problems| ControlError::Invalid(problems.iter().map(ToString::to_string).collect()))
    }
}

fn service_index(config: &raw::Config, name: &str) -> Result<usize, ControlError> {
    config.services.iter().position(|service| service.name == name).ok_or_else(|| ControlError::no_service(name))
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
