//! The tables of a test's world as the kernel takes them.

use std::collections::BTreeMap;

use anyhow::Result;
use ipnet::IpNet;
use weir::tables::{Capacity, Endpoint, Write};
use weir_packets::tables::Tables;

/// Room for `tables`, and for so many flows of each family.
pub fn capacity(tables: &Tables, flows: u32) -> Result<Capacity> {
    let services = u32::try_from(tables.services_v4.len() + tables.services_v6.len())?;
    Ok(Capacity {
        service_ids: services + 1,
        backend_ids: tables.backend_entries(),
        slots: u32::try_from(tables.slots.len())?,
        routes: u32::try_from(tables.routes_v4.len().max(tables.routes_v6.len()))?,
        flows,
        egresses: 16,
    })
}

/// All of `tables`, to be written to empty ones or over others with the same keys.
pub fn writes(tables: &Tables) -> Vec<Write> {
    let mut writes = Vec::new();
    writes.extend(tables.egresses.iter().map(|(index, egress)| Write::Egress(*index, *egress)));
    writes.extend(tables.routes_v4.iter().map(|(net, hop)| Write::Route(IpNet::V4(*net), *hop)));
    writes.extend(tables.routes_v6.iter().map(|(net, hop)| Write::Route(IpNet::V6(*net), *hop)));
    let reverse = endpoints(&tables.reverse_v4, &tables.reverse_v6);
    writes.extend(reverse.map(|(endpoint, reverse)| Write::Reverse(endpoint, reverse)));
    writes.extend(tables.backends.iter().map(|(id, backend)| Write::Backend(*id, *backend)));
    writes.push(Write::Slots { first: 0, words: (0..).zip(tables.slots.iter().copied()).collect() });
    writes.extend(tables.rings.iter().map(|(service, backends)| Write::Ring(*service, backends.clone())));
    let services = endpoints(&tables.services_v4, &tables.services_v6);
    writes.extend(services.map(|(endpoint, service)| Write::Service(endpoint, service)));
    writes
}

/// The entries of a map of each family under their common keys.
pub fn endpoints<A, B, V>(v4: &BTreeMap<A, V>, v6: &BTreeMap<B, V>) -> impl Iterator<Item = (Endpoint, V)>
where
    A: Copy + Into<Endpoint>,
    B: Copy + Into<Endpoint>,
    V: Copy,
{
    let v4 = v4.iter().map(|(key, value)| ((*key).into(), *value));
    v4.chain(v6.iter().map(|(key, value)| ((*key).into(), *value)))
}
