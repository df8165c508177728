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

/// Backends of one service that are looked at one by one; beyond that it costs less to look at all of it once.
const FEW: usize = 64;

impl Affected {
    /// Backends; of services of which there are many, the whole service.
    #[must_use]
    pub fn backends(backends: BTreeSet<BackendKey>) -> Self {
        let mut affected = Self { services: BTreeSet::new(), backends };
        let many = affected.by_service().filter(|(_, backends)| backends.len() > FEW).map(|(service, _)| service);
        affected.services = many.collect();
        let Self { services, backends } = &mut affected;
        backends.retain(|backend| !services.contains(&backend.service));
        affected
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_with_many_affected_backends_is_looked_at_whole() {
        let service = |port| Endpoint { address: [192, 0, 2, 1].into(), port, protocol: 6 };
        let backend = |service, host: usize| BackendKey {
            service,
            address: [198, 51, 100, u8::try_from(host).unwrap()].into(),
            port: 0,
        };
        let few = (0..FEW).map(|host| backend(service(1), host));
        let many = (0..=FEW).map(|host| backend(service(2), host));
        let affected = Affected::backends(few.clone().chain(many).collect());
        assert_eq!(affected.services, [service(2)].into());
        assert_eq!(affected.backends, few.collect());
    }
}
