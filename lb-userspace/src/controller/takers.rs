//! Who takes the new flows of a service, in the order that its slot table knows them by.

use lb_common::{abi, fill};

use super::entry;

/// The backends of a service that take new flows, by key. Services with the same keys and weights have the same slot table
/// but for the ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Takers {
    /// Key ([`fill::key_of`]) and weight of each.
    members: Vec<(u64, u32)>,
    /// Their ids, in the same places.
    ids: Vec<u32>,
}

impl Takers {
    /// Those of `backends` that take flows.
    pub fn of<'a>(backends: impl IntoIterator<Item = (&'a u32, &'a abi::Backend)>) -> Self {
        let takers = backends.into_iter().filter(|(_, backend)| entry::takes_flows(backend));
        let mut takers: Vec<_> = takers.map(|(id, backend)| (key(backend), backend.weight, *id)).collect();
        takers.sort_unstable();
        let (members, ids) = takers.into_iter().map(|(key, weight, id)| ((key, weight), id)).unzip();
        Self { members, ids }
    }

    /// Key and weight of each, by key.
    #[must_use]
    pub fn members(&self) -> &[(u64, u32)] {
        &self.members
    }

    /// The ids, by key.
    #[must_use]
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The place of the backend with this id.
    #[must_use]
    pub fn place(&self, id: u32) -> Option<u32> {
        self.ids.iter().position(|other| *other == id).and_then(|place| u32::try_from(place).ok())
    }

    /// Whether nobody takes flows.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Adds a backend, which must not be there yet.
    pub fn insert(&mut self, id: u32, backend: &abi::Backend) {
        let member = (key(backend), backend.weight);
        let place = self.members.partition_point(|other| *other < member);
        self.members.insert(place, member);
        self.ids.insert(place, id);
    }

    /// Removes a backend that has, or had, the entry `backend`; nothing if it is not there.
    pub fn remove(&mut self, id: u32, backend: &abi::Backend) {
        let key = key(backend);
        let first = self.members.partition_point(|(other, _)| *other < key);
        let same = self.members[first..].iter().take_while(|(other, _)| *other == key).count();
        // Two may have the same key, though no two addresses are known that do.
        if let Some(place) = (first..first + same).find(|place| self.ids[*place] == id) {
            self.members.remove(place);
            self.ids.remove(place);
        }
    }
}

fn key(backend: &abi::Backend) -> u64 {
    let (_, address, port) = entry::identity(backend);
    fill::key_of(address, port)
}
