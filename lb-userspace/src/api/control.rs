//! What the API asks of the controller.

use std::{fmt, path::Path, time::Duration};

use async_trait::async_trait;
use thiserror::Error;

use super::{
    explain::{Explanation, Flow},
    types::{Change, Detached, Service, Stats, Status, Upgrading},
};
use crate::config::raw;

/// The controller as the API sees it.
///
/// Every change has reached the kernel when its future is ready; one that fails has changed nothing.
#[async_trait]
pub trait Control: Send + Sync + 'static {
    /// What the daemon is doing.
    async fn status(&self) -> Result<Status, ControlError>;

    /// Every service, in the order of the configuration.
    async fn services(&self) -> Result<Vec<Service>, ControlError>;

    /// The service called `name`.
    ///
    /// # Errors
    /// [`ControlError::NotFound`] if there is none.
    async fn service(&self, name: &str) -> Result<Service, ControlError>;

    /// Adds a service with its backends.
    ///
    /// # Errors
    /// [`ControlError::Invalid`], or [`ControlError::Conflict`] if its name or its (VIP, port, protocol) is taken.
    async fn add_service(&self, service: raw::Service) -> Result<Change, ControlError>;

    /// Removes a service with its backends: its packets are not Weir's any more.
    async fn remove_service(&self, name: &str) -> Result<Change, ControlError>;

    /// Adds a backend to a service.
    ///
    /// # Errors
    /// [`ControlError::Invalid`], or [`ControlError::Conflict`] if its name is taken.
    async fn add_backend(&self, service: &str, backend: raw::Backend) -> Result<Change, ControlError>;

    /// Removes a backend. It takes no new flows and leaves when its last old one has ended; with `now` these count as
    /// gone at once.
    async fn remove_backend(&self, service: &str, backend: &str, now: bool) -> Result<Change, ControlError>;

    /// Sets a backend's weight, 0 to 1000.
    ///
    /// # Errors
    /// [`ControlError::Invalid`] if it is larger.
    async fn set_weight(&self, service: &str, backend: &str, weight: u16) -> Result<Change, ControlError>;

    /// Lets a backend take no new flows. What is left of its flows after `deadline` counts as gone then; without one they
    /// end by themselves. Draining what drains already is a success that moves no slot and sets the deadline anew.
    async fn drain(&self, service: &str, backend: &str, deadline: Option<Duration>) -> Result<Change, ControlError>;

    /// Lets a draining backend take new flows again.
    async fn undrain(&self, service: &str, backend: &str) -> Result<Change, ControlError>;

    /// Every counter.
    async fn stats(&self) -> Result<Stats, ControlError>;

    /// What the loaded program does with the packets of a flow. Changes no counter and no flow that real traffic sees.
    ///
    /// # Errors
    /// [`ControlError::Invalid`] if its addresses are of different families, [`ControlError::Conflict`] if the program is
    /// not attached.
    async fn explain(&self, flow: Flow) -> Result<Explanation, ControlError>;

    /// Detaches the program from every interface and removes the pins, after which the daemon stops.
    async fn detach(&self) -> Result<Detached, ControlError>;
}

/// What becomes of the daemon itself, as the API sees it.
#[async_trait]
pub trait Upgrader: Send + Sync + 'static {
    /// Has the daemon become `binary`, if that passes its preflight.
    ///
    /// # Errors
    /// [`ControlError::Invalid`] if that is no binary that the daemon may execute, [`ControlError::Conflict`] if it does
    /// not pass or another upgrade is under way. The daemon goes on as it was.
    async fn upgrade(&self, binary: &Path) -> Result<Upgrading, ControlError>;
}

/// Why the controller did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ControlError {
    /// There is no such thing.
    #[error("there is no {0}")]
    NotFound(What),
    /// What was sent breaks rules: each problem in one line that names its field.
    #[error("{}", summary(.0))]
    Invalid(Vec<String>),
    /// It contradicts what is there: `service "web" exists already`.
    #[error("{0}")]
    Conflict(String),
    /// The kernel or the host refused, with the whole chain of causes.
    #[error("{0}")]
    Dataplane(String),
}

/// What was not found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The service of this name.
    Service(String),
    /// A backend of a service that is there.
    Backend {
        /// The service's name.
        service: String,
        /// The backend's name.
        backend: String,
    },
}

impl ControlError {
    /// The service `name` is not there.
    #[must_use]
    pub fn no_service(name: &str) -> Self {
        Self::NotFound(What::Service(name.to_owned()))
    }

    /// The backend `backend` of `service` is not there.
    #[must_use]
    pub fn no_backend(service: &str, backend: &str) -> Self {
        Self::NotFound(What::Backend { service: service.to_owned(), backend: backend.to_owned() })
    }

    /// Each thing that is wrong with what was sent; empty for other errors.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        match self {
            Self::Invalid(problems) => problems,
            Self::NotFound(_) | Self::Conflict(_) | Self::Dataplane(_) => &[],
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(name) => write!(f, "service {name:?}"),
            Self::Backend { service, backend } => write!(f, "backend {backend:?} in service {service:?}"),
        }
    }
}

/// One problem stands for itself; several are counted.
fn summary(problems: &[String]) -> String {
    match problems {
        [] => "the request is not valid".to_owned(),
        [one] => one.clone(),
        many => format!("{} problems", many.len()),
    }
}
