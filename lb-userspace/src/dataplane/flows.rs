//! The flow tables of the kernel, as a sweep reads and changes them.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use anyhow::Context as _;
use aya::maps::{HashMap, IterableMap as _, MapData};
use bytemuck::{Pod, Zeroable};
use lb_common::abi::{BURIALS, BurialV4, BurialV6, FlowEntry, FlowKeyV4, FlowKeyV6, FlowWord, SlotWord};

use super::{
    bpf::{self, Then},
    mapped::Mapped,
    maps::Wire,
};
use crate::flows::{FlowKey, FlowTable};

/// Entries that are read at once, unless a single bucket has more.
pub(super) const BATCH: usize = 4096;

/// One sweep of the flow tables.
pub(super) struct KernelFlows {
    pub v4: Entries<FlowKeyV4>,
    pub v6: Entries<FlowKeyV6>,
    pub slots: Mapped<SlotWord>,
    pub undertakers: Undertakers,
}

/// The programs that delete entries.
pub(super) struct Undertakers {
    pub v4: OwnedFd,
    pub v6: OwnedFd,
}

impl FlowTable for KernelFlows {
    fn next(&mut self) -> anyhow::Result<Vec<(FlowKey, FlowEntry)>> {
        let v4 = self.v4.next().context("cannot read the IPv4 flow table")?;
        if !v4.is_empty() {
            return Ok(v4.into_iter().map(|(key, entry)| (FlowKey::V4(key), entry)).collect());
        }
        let v6 = self.v6.next().context("cannot read the IPv6 flow table")?;
        Ok(v6.into_iter().map(|(key, entry)| (FlowKey::V6(key), entry)).collect())
    }

    fn slot(&self, index: u32) -> Option<SlotWord> {
        self.slots.read(index).ok()
    }

    fn bury(&mut self, entries: &[(FlowKey, FlowWord)]) -> anyhow::Result<u64> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for &(key, word) in entries {
            let word = word.0.to_ne_bytes();
            match key {
                FlowKey::V4(key) => v4.push(BurialV4 { key: bytemuck::cast(key), word }),
                FlowKey::V6(key) => v6.push(BurialV6 { key: bytemuck::cast(key), word }),
            }
        }
        let buried = bury(&self.undertakers.v4, &v4).and_then(|v4| Ok(v4 + bury(&self.undertakers.v6, &v6)?));
        buried.context("cannot delete from the flow tables")
    }
}

/// Has `undertaker` delete the entries that `burials` name.
fn bury<B: Pod>(undertaker: &OwnedFd, burials: &[B]) -> io::Result<u64> {
    let mut buried = 0;
    for burials in burials.chunks(BURIALS) {
        buried += u64::from(bpf::run(undertaker.as_fd(), bytemuck::cast_slice(burials))?);
    }
    Ok(buried)
}

/// The entries of one flow table that a sweep has not seen yet.
pub(super) struct Entries<K> {
    map: OwnedFd,
    unread: Unread,
    keys: Vec<K>,
    values: Vec<FlowEntry>,
}

/// Where a sweep is.
#[derive(Clone, Copy)]
enum Unread {
    All,
    From(u32),
    Nothing,
}

impl<K: Pod> Entries<K> {
    /// All entries of `map`, by `batch` at once.
    pub(super) fn of(map: &HashMap<MapData, Wire<K>, Wire<FlowEntry>>, batch: usize) -> io::Result<Self> {
        let map = map.map().fd().as_fd().try_clone_to_owned()?;
        Ok(Self { map, unread: Unread::All, keys: vec![K::zeroed(); batch], values: vec![FlowEntry::zeroed(); batch] })
    }

    /// The next of them; none if that was all.
    fn next(&mut self) -> io::Result<Vec<(K, FlowEntry)>> {
        loop {
            let from = match self.unread {
                Unread::All => None,
                Unread::From(place) => Some(place),
                Unread::Nothing => return Ok(Vec::new()),
            };
            // SAFETY: these are the map's key and value: aya has seen to it that their sizes are right.
            let batch = unsafe { bpf::look_up_batch(self.map.as_fd(), from, &mut self.keys, &mut self.values) }?;
            match batch.then {
                Then::More(place) => self.unread = Unread::From(place),
                Then::End => self.unread = Unread::Nothing,
                Then::TooBig => self.grow(),
            }
            if batch.count != 0 {
                let keys = self.keys.iter().copied();
                return Ok(keys.zip(self.values.iter().copied()).take(batch.count).collect());
            }
        }
    }

    /// Makes room for a bucket that is bigger than a batch.
    fn grow(&mut self) {
        let room = self.keys.len().max(1) * 2;
        self.keys.resize(room, K::zeroed());
        self.values.resize(room, FlowEntry::zeroed());
    }
}
