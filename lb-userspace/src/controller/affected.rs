//! What an input may have made otherwise.

use std::collections::BTreeSet;

use super::desired::BackendKey;
use crate::tables::Endpoint;

/// Services and backends for which the tables may have to be others. All else in the tables is as it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Affected {
    /// Services that may be new, gone, or others in any way.
    pub services: BTreeSet<Endpoint>,
    /// Backends whose health or ways may be others, and nothing else of which or of whose services is: mostly of other
    /// services than those.
    pub backends: BTreeSet<BackendKey>,
}

impl Affected {
    /// Whole services.
    #[must_use]
    pub const fn services(services: BTreeSet<Endpoint>) -> Self {
        Self { services, backends: BTreeSet::new() }
    }

    /// The backends by service, without those of services that are looked at whole.
    pub fn by_service(&self) -> impl Iterator<Item = (Endpoint, Vec<BackendKey>)> {
        let mut rest = self.backends.iter().copied().peekable();
        let groups = std::iter::from_fn(move || {
            let service = rest.peek()?.service;
            Some((service, std::iter::from_fn(|| rest.next_if(|backend| backend.service == service)).collect()))
        });
        groups.filter(|(service, _)| !self.services.contains(service))
    }
}
