//! What the maps take of the kernel's memory.

use std::{
    fs,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
};

use anyhow::{Context as _, bail};
use aya::{Ebpf, maps::Map};

use super::{fixed::Fixed, maps::names};
use crate::tables::TableMemory;

/// Handles of all maps, to ask the kernel how big they are.
pub(super) struct Memory(Vec<(&'static str, OwnedFd)>);

impl Memory {
    /// Takes a handle of each table, and of each map that is still in `ebpf`: before they are taken out.
    pub(super) fn of(ebpf: &Ebpf, fixed: &Fixed) -> anyhow::Result<Self> {
        let handle = |name: &'static str| {
            if let Some(map) = fixed.named(name) {
                return Ok((name, map.fd().as_fd().try_clone_to_owned()?));
            }
            let map = ebpf.map(name).with_context(|| format!("the object lacks the map {name}"))?;
            let (Map::Array(data) | Map::HashMap(data) | Map::LpmTrie(data) | Map::DevMap(data)) = map else {
                bail!("the map {name} has another shape than expected")
            };
            Ok((name, data.fd().as_fd().try_clone_to_owned()?))
        };
        Ok(Self(names().map(handle).collect::<anyhow::Result<_>>()?))
    }

    /// What each of them takes now.
    pub(super) fn read(&self) -> anyhow::Result<Vec<TableMemory>> {
        let tables = self.0.iter().map(|(name, map)| {
            let path = format!("/proc/self/fdinfo/{}", map.as_raw_fd());
            let facts = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
            let bytes = memlock(&facts).with_context(|| format!("{path} does not tell the memory of {name}"))?;
            Ok(TableMemory { name: name.to_lowercase().replace('_', "-"), bytes })
        });
        tables.collect()
    }
}

/// The bytes that a map's fdinfo tells.
fn memlock(facts: &str) -> Option<u64> {
    facts.lines().find_map(|line| line.strip_prefix("memlock:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::memlock;

    #[test]
    fn the_kernel_tells_how_big_a_map_is() {
        let facts = "pos:\t0\nmap_type:\t1\nmax_entries:\t4\nmemlock:\t1081344\nmap_id:\t7\n";
        assert_eq!(memlock(facts), Some(1_081_344));
        assert_eq!(memlock("pos:\t0\nmemlock:\tmuch\n"), None);
        assert_eq!(memlock(""), None);
    }
}
