//! Ways back that a backend which is leaving still has when a backend of another service comes to need them.

use std::fmt;

use super::{entry, mirror::Mirror, want::Want};
use crate::{
    spec::Backend,
    tables::{Endpoint, Tables, Write},
};

/// A way back that replies of a leaving backend would lose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Name of the service that the backend is leaving.
    pub service: String,
    /// Name of the leaving backend.
    pub backend: String,
}

/// What `writes` would take from backends that are leaving services of `want`, or are about to, and whose flows count.
///
/// Of a packet's two ways back, that of its port and that of every port, replies find the first that there is: either
/// hides or is hidden by the other.
#[must_use]
pub fn taken(mirror: &Mirror, want: &Want, writes: &[Write]) -> Vec<Taken> {
    let new = writes.iter().filter_map(|write| match write {
        Write::Reverse(way_back, reverse) => Some((way_back, reverse)),
        _ => None,
    });
    let new: Vec<_> = new.collect();
    // The usual case, in which nothing needs to be looked through.
    if new.is_empty() {
        return Vec::new();
    }
    let Tables { services, backends, reverse, .. } = mirror.tables();
    let mut taken = Vec::new();
    for (key, service) in want.services() {
        let Some(id) = services.get(&key).map(|entry| entry.id) else { continue };
        for entry in mirror.backends_of(id).filter_map(|id| backends.get(&id)) {
            let (_, address, port) = entry::identity(entry);
            let is_same = |backend: &Backend| (backend.address, entry::own_port(backend)) == (address, port);
            if entry::is_gone(entry) || service.backends.iter().any(is_same) {
                continue;
            }
            let way_back = entry::reverse_key(&key, entry);
            let had = reverse.get(&way_back).is_some_and(|reverse| reverse.service == id);
            if had && new.iter().any(|(new, reverse)| reverse.service != id && overlap(new, &way_back)) {
                taken.push(Taken { service: service.name.clone(), backend: entry::leaving(entry).name });
            }
        }
    }
    taken
}

/// Whether some packet has both ways back.
fn overlap(a: &Endpoint, b: &Endpoint) -> bool {
    (a.address, a.protocol) == (b.address, b.protocol) && (a.port == b.port || a.port == 0 || b.port == 0)
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, backend } = self;
        write!(
            f,
            "backend {backend:?}, which is leaving service {service:?}, needs its address and port for the replies of its \
             old connections; `weir backend remove --now {service} {backend}` ends them"
        )
    }
}
