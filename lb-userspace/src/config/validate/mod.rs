//! From raw values to a [`Spec`]: every rule about values, and about values together.
//!
//! A field that is wrong is noted and reading goes on, so that everything wrong is reported at once. Rules that
//! compare fields pass over those that are already known to be wrong.

mod clash;
mod field;
mod flows;
mod health;
mod node;
mod service;
mod slots;

use super::{
    problem::{Checked, Path, Problem, Problems},
    raw,
};
use crate::spec::{Mode, Node, Service, Spec, TableSizes};
use clash::Clashes;

/// Turns a whole raw configuration into a [`Spec`].
///
/// # Errors
/// Everything that is wrong with it, in no particular order; never empty.
pub fn validate(raw: &raw::Config) -> Result<Spec, Vec<Problem>> {
    let mut problems = Problems::default();
    let root = Path::default();
    let node_path = root.key("node");
    let node = node::validate(&raw.node, &node_path, &mut problems);
    let mut clashes = Clashes::new(raw);
    let mut services = Vec::new();
    for (index, service) in raw.services.iter().enumerate() {
        let path = root.key("service").item(index, Some(&service.name));
        services.push(service::validate(service, &path, &mut clashes, &mut problems));
    }
    if let Ok(node) = &node {
        let right: Vec<_> = services.iter().flatten().collect();
        check_table_sizes(&node.tables, &right, &node_path.key("tables"), &mut problems);
        check_outer_networks(node, &right, &node_path, &mut problems);
    }
    let services: Checked<Vec<_>> = services.into_iter().collect();
    problems.or(node.and_then(|node| Ok(Spec { node, services: services? })))
}

fn check_table_sizes(tables: &TableSizes, services: &[&Service], path: &Path, problems: &mut Problems) {
    let family = |v4: bool| services.iter().filter(|service| service.vip.is_ipv4() == v4).count() as u64;
    let slots = services.iter().map(|service| u64::from(service.slots)).sum();
    let backends = services.iter().map(|service| service.backends.len() as u64).sum();
    for (field, size, needed, what) in [
        ("services", tables.services, family(true), "the number of IPv4 services"),
        ("services", tables.services, family(false), "the number of IPv6 services"),
        ("backends", tables.backends, backends, "the number of backends of all services"),
        ("slots", tables.slots, slots, "the slots of all services together"),
    ] {
        if needed > u64::from(size) {
            problems.add(path.key(field), format!("expected at least {needed}, {what}, found {size}"));
        }
    }
}

fn check_outer_networks(node: &Node, services: &[&Service], path: &Path, problems: &mut Problems) {
    for (field, family, is_missing, v4, example) in [
        ("outer_v4", "IPv4", node.outer_v4.is_none(), true, "10.77.0.0/16"),
        ("outer_v6", "IPv6", node.outer_v6.is_none(), false, "fd77::/64"),
    ] {
        let tunnels = |service: &&&Service| {
            service.mode == Mode::Ipip && service.backends.iter().any(|backend| backend.address.is_ipv4() == v4)
        };
        if let (true, Some(service)) = (is_missing, services.iter().find(tunnels)) {
            let message = format!(
                "missing, but service {:?} tunnels to {family} backends; give the network that outer source addresses \
                 are taken from, such as {field} = {example:?}",
                service.name
            );
            problems.add(path.key(field), message);
        }
    }
}
