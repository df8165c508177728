//! Whether the kernel's tables are what a configuration asks for, by rules that know nothing of how slots are given out.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr},
};

use anyhow::{Context as _, Result, ensure};
use weir::tables::{Endpoint, Tables};

use super::setting::Setting;

/// Checks that each service of `setting` is there; that each of its slots names a backend of its own that takes flows; and
/// that each of those has its share of the slots, within 2 % or a slot.
///
/// `weights`, by service and address, are those that are not the setting's; who has weight 0 may not be named at all.
///
/// # Errors
/// What is otherwise.
pub fn check(tables: &Tables, setting: &Setting, weights: &BTreeMap<(u32, Ipv4Addr), u16>) -> Result<()> {
    let services = tables.services.keys().filter(|key| !key.is_vip_marker()).count();
    ensure!(services == setting.services as usize, "{services} services in place of {}", setting.services);
    for service in 0..setting.services {
        let mut expected = setting.weights(service);
        for (address, weight) in &mut expected {
            *weight = weights.get(&(service, *address)).copied().unwrap_or(*weight);
        }
        check_service(tables, setting, service, &expected).with_context(|| format!("service s{service}"))?;
    }
    Ok(())
}

fn check_service(tables: &Tables, setting: &Setting, service: u32, weights: &BTreeMap<Ipv4Addr, u16>) -> Result<()> {
    let key = Endpoint { address: setting.vip(service).into(), port: 443, protocol: 6 };
    let entry = tables.services.get(&key).context("is not there")?;
    let slots = tables.slots.get(&entry.first_slot).context("has no slots")?;
    ensure!(slots.len() == setting.slots() as usize, "has {} slots", slots.len());
    let mut named: HashMap<u32, u32> = HashMap::new();
    for word in slots {
        *named.entry(word.current()).or_default() += 1;
    }
    let mut counts = BTreeMap::new();
    for (id, count) in named {
        let backend =
            tables.backends.get(&id).with_context(|| format!("{count} slots name backend {id}, which is none"))?;
        ensure!(backend.service == entry.id, "slots name backend {id} of another service");
        let [a, b, c, d, ..] = backend.address;
        counts.insert(Ipv4Addr::new(a, b, c, d), count);
    }
    let sum: u32 = weights.values().copied().map(u32::from).sum();
    for (address, weight) in weights {
        let share = f64::from(setting.slots()) * f64::from(*weight) / f64::from(sum);
        let has = f64::from(counts.remove(address).unwrap_or(0));
        let slack = if *weight == 0 { 0.0 } else { (share * 0.02).max(1.0) };
        ensure!((has - share).abs() <= slack, "{address} has {has} slots in place of {share:.1}");
    }
    let strangers: Vec<IpAddr> = counts.into_keys().map(IpAddr::from).collect();
    ensure!(strangers.is_empty(), "slots name {strangers:?}");
    Ok(())
}
