//! What no controller gets under: the same tables filled by the library, and the same words stored, with nothing around.

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::Result;
use lb_common::{
    abi::SlotWord,
    fill::{Member, Slot, fill, key_of},
};

use super::setting::{Setting, WEIGHT};

/// Memory as large as a slot table, in which nothing is mapped late.
pub fn memory(slots: usize) -> Vec<AtomicU64> {
    (0..slots as u64).map(AtomicU64::new).collect()
}

/// Fills the tables of `services` services one after the other and stores all their words.
pub fn fill_and_store(setting: &Setting, services: u32) -> Result<Duration> {
    let slots = setting.slots() as usize;
    let memory = memory(slots * services as usize);
    let began = Instant::now();
    let mut table = vec![Slot::EMPTY; slots];
    for service in 0..services {
        let addresses = (0..setting.backends).map(|backend| setting.address(service, backend));
        fill_one(&mut table, addresses)?;
        let range = &memory[slots * service as usize..];
        for (word, slot) in range.iter().zip(&table) {
            word.store(SlotWord::steady(slot.backend()).0, Ordering::Release);
        }
    }
    Ok(began.elapsed())
}

/// Fills one table of the first service without one backend, and stores one word in each of `slots`.
pub fn refill_and_store(setting: &Setting, slots: impl Iterator<Item = u32>, memory: &[AtomicU64]) -> Result<Duration> {
    let began = Instant::now();
    let mut table = vec![Slot::EMPTY; setting.slots() as usize];
    fill_one(&mut table, (1..setting.backends).map(|backend| setting.address(0, backend)))?;
    for slot in slots {
        memory[slot as usize].store(table[slot as usize % table.len()].backend().into(), Ordering::Release);
    }
    Ok(began.elapsed())
}

fn fill_one(table: &mut [Slot], addresses: impl Iterator<Item = Ipv4Addr>) -> Result<()> {
    let members = (1..).zip(addresses).map(|(id, address)| Member::new(id, key_of(address.into(), 0), WEIGHT.into()));
    Ok(fill(table, &mut members.collect::<Vec<_>>(), [1, 2])?)
}
