//! Services and ways back by their endpoints, in indices that the program searches itself.

use lb_common::{
    abi::{BackendEntry, Reverse, ServiceEntry, fixed::FixedTable},
    index::{self, Word},
};

use crate::{memory::Table, tables::BACKENDS};

/// The services by id, 0 for none.
static SERVICES: Table<ServiceEntry, { FixedTable::Services as u32 }> = Table::new();
/// Where packets find a service by its endpoint, see [`index`].
static SERVICE_INDEX: Table<Word, { FixedTable::ServiceIndex as u32 }> = Table::new();

/// Where replies find the backend that they come from, by the endpoint that they come from.
static REVERSE_INDEX: Table<Word, { FixedTable::ReverseIndex as u32 }> = Table::new();

/// The entry of the service that the index leads to, if it `is_right`.
#[inline(always)]
pub fn find_service(hash: u64, is_right: impl Fn(&ServiceEntry) -> bool) -> Option<&'static ServiceEntry> {
    let entry = |id| SERVICES.get(id).filter(|entry| is_right(entry));
    index::find(hash, SERVICE_INDEX.len() - 1, |place| SERVICE_INDEX.get(place).copied(), entry)
}

/// The way back of the backend that the index leads to, if `is_right`.
#[inline(always)]
pub fn find_reverse(hash: u64, is_right: impl Fn(&BackendEntry, &ServiceEntry) -> bool) -> Option<Reverse> {
    let entry = |id| {
        let backend = BACKENDS.get(id)?;
        let service = SERVICES.get(backend.service())?;
        is_right(backend, service).then(|| service.reverse(id, backend))
    };
    index::find(hash, REVERSE_INDEX.len() - 1, |place| REVERSE_INDEX.get(place).copied(), entry)
}
