//! Which backend gets which slot.
//!
//! Weighted rendezvous hashing with exact shares, solved as a stable matching:
//!
//! - Every backend has a list of slots, random but fixed by its key. It reaches entry n of its list at a time in
//!   proportion to n / weight.
//! - A slot wants the backend that reaches it first; a backend wants the slots that it reaches first, up to its exact
//!   share of them.
//! - The table is the matching in which no slot and backend prefer each other to what they have. There is exactly one, so
//!   it depends on nothing but the backends, their weights, the seed and the number of slots.
//!
//! A backend that leaves gives its slots to those next in line, and since its neighbours' lists and shares hardly change,
//! hardly any other slot moves. Maglev hashing makes the same tables of exact shares, but there a slot belongs to whoever
//! has his turn first, and one leaving backend shifts everybody's turns: twice as many slots move
//! (`docs/adr/0002-slot-fill.md` has the figures and when each limit holds).
//!
//! Only the controller fills tables; the packet path reads them.
//!
//! # Sources
//! - Thaler, Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", 1998 (rendezvous hashing).
//! - Gale, Shapley, "College Admissions and the Stability of Marriage", 1962: deferred acceptance, and why the order of
//!   proposals does not matter.
//! - Eisenbud et al., "Maglev", NSDI 2016, section 3.4: what this replaces, and the measures it is held to.

use core::{cmp::Ordering, error::Error, fmt, net::IpAddr};

use crate::{abi::NO_BACKEND, hash};

/// Slots from which on a table of equal weights moves little when a backend leaves; see [`fill`].
pub const STEADY_SLOTS: u32 = 16_381;

/// Most slots that a table can have.
pub const MAX_SLOTS: u32 = 1 << 30;

/// A backend in the eyes of [`fill`].
#[derive(Clone, Copy, Debug)]
pub struct Member {
    id: u32,
    key: u64,
    weight: u32,
    progress: Progress,
}

impl Member {
    /// A backend.
    ///
    /// - `id`: what is written into its slots.
    /// - `key`: what it is known by on every node, whatever its id there ([`key_of`]).
    /// - `weight`: its share relative to the others'; 0 takes none.
    #[must_use]
    pub const fn new(id: u32, key: u64, weight: u32) -> Self {
        Self { id, key, weight, progress: Progress::NONE }
    }
}

/// How far a member has come in its list.
#[derive(Clone, Copy, Debug)]
struct Progress {
    /// Where the member's random numbers start.
    stream: u64,
    /// Time between two entries of the list.
    interval: u64,
    /// When the first entry is reached, as a fraction of the interval in units of 2^-32. Rounds the share too.
    phase: u64,
    /// Entries reached.
    entries: u64,
    /// Slots that it should have and does not hold.
    missing: u32,
}

impl Progress {
    const NONE: Self = Self { stream: 0, interval: 0, phase: 0, entries: 0, missing: 0 };
}

/// A slot of a table being filled, and then filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// When the holder reached this slot.
    time: u64,
    /// The holder's index among the members.
    holder: u32,
    backend: u32,
}

impl Slot {
    /// A slot without backend.
    pub const EMPTY: Self = Self { time: u64::MAX, holder: u32::MAX, backend: NO_BACKEND };

    /// Id of the backend that has this slot; [`NO_BACKEND`] before the first fill.
    #[must_use]
    pub const fn backend(&self) -> u32 {
        self.backend
    }

    const fn is_free(&self) -> bool {
        self.holder == u32::MAX
    }
}

/// Why a table can't be filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FillError {
    /// No backend has a weight.
    NoBackend,
    /// Fewer slots than backends.
    TooFewSlots,
    /// More slots than [`MAX_SLOTS`].
    TooManySlots,
    /// Two backends have the same key.
    DuplicateKey,
}

impl fmt::Display for FillError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoBackend => "no backend has a weight",
            Self::TooFewSlots => "fewer slots than backends",
            Self::TooManySlots => "more than 1,073,741,824 slots",
            Self::DuplicateKey => "two backends have the same address and port",
        })
    }
}

impl Error for FillError {}

/// Gives every slot of `table` to a backend.
///
/// The result depends on the members' keys and weights, on `seed` and on the number of slots, and on nothing else: not on
/// the members' order or ids, nor on a common factor of the weights, nor on what `table` held.
///
/// # Shapes and units
/// - `table`: M slots, at least as many as members.
/// - `members`: in any order; they come back sorted by key.
/// - `seed`: the same on every node of a cluster.
///
/// # Promises
/// - Shares are exact: within 2 % of M x weight / sum of weights, or within one slot, if M is 100 or more for each unit
///   of weight (of the weights divided by their common factor). Mostly they are within one slot.
/// - A backend that leaves, comes or changes its weight moves the slots that it must, and at most 1 % of M more, if M is
///   also [`STEADY_SLOTS`] x heaviest weight / mean weight or more. In a smaller table the excess grows as 1 / sqrt(M).
///
/// # Errors
/// See [`FillError`]; `table` is left as it was.
///
/// Never panics, never allocates. O(M log M) expected.
pub fn fill(table: &mut [Slot], members: &mut [Member], seed: [u64; 2]) -> Result<(), FillError> {
    let slots = check(table, members)?;
    start(members, seed);
    set_shares(members, slots);
    table.fill(Slot::EMPTY);
    for index in 0..members.len() {
        while members[index].progress.missing > 0 {
            claim_one(table, members, index, slots);
        }
    }
    for slot in table {
        slot.backend = members[slot.holder as usize].id;
    }
    Ok(())
}

/// The key of the backend at `address` and `port` (host order; 0 where packets keep theirs).
#[must_use]
pub fn key_of(address: IpAddr, port: u16) -> u64 {
    let address = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    let [high, low]: [[u8; 8]; 2] = bytemuck::cast(address.octets());
    let address = hash::mix(u64::from_be_bytes(high)) ^ u64::from_be_bytes(low);
    hash::mix(hash::mix(address) ^ u64::from(port))
}

/// Sorts the members, so that what follows does not depend on their order. Returns the number of slots.
fn check(table: &[Slot], members: &mut [Member]) -> Result<u32, FillError> {
    let slots = u32::try_from(table.len()).ok().filter(|&slots| slots <= MAX_SLOTS).ok_or(FillError::TooManySlots)?;
    members.sort_unstable_by_key(|member| member.key);
    if members.windows(2).any(|pair| pair[0].key == pair[1].key) {
        return Err(FillError::DuplicateKey);
    }
    if members.iter().all(|member| member.weight == 0) {
        return Err(FillError::NoBackend);
    }
    if members.len() > table.len() {
        return Err(FillError::TooFewSlots);
    }
    Ok(slots)
}

/// Puts every member at the start of its list.
fn start(members: &mut [Member], seed: [u64; 2]) {
    let seed = hash::mix(hash::mix(seed[0]) ^ seed[1]);
    let divisor = members.iter().fold(0, |divisor, member| greatest_common_divisor(divisor, member.weight));
    for member in members {
        let stream = hash::mix(member.key ^ seed);
        member.progress = Progress {
            stream,
            // Weights with a common factor give the very same times as without.
            interval: (u64::from(divisor) << 32).checked_div(u64::from(member.weight)).unwrap_or(0),
            phase: hash::mix(!stream) >> 32,
            entries: 0,
            missing: 0,
        };
    }
}

const fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    let (mut a, mut b) = (a, b);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Sets how many slots each member is to have: `level` x weight, rounded down from its own random fraction on, with the
/// level at which the shares add up to all slots.
///
/// When a member leaves, the level rises and nobody's share falls, which rounding each share for itself would not give.
fn set_shares(members: &mut [Member], slots: u32) {
    let total: u64 = members.iter().map(|member| u64::from(member.weight)).sum();
    // In 2^-32 slots for each unit of weight. Twice the mean is enough: no member loses a whole slot by rounding, and there
    // are no more members than slots.
    let (mut below, mut level) = (0, ((u64::from(slots) << 33) / total) + 1);
    while level - below > 1 {
        let middle = below.midpoint(level);
        if members.iter().map(|member| share(member, middle)).sum::<u64>() < u64::from(slots) {
            below = middle;
        } else {
            level = middle;
        }
    }
    // Several may gain a slot on the last step; the first by key get what is left.
    let mut left = u64::from(slots) - members.iter().map(|member| share(member, below)).sum::<u64>();
    for member in members {
        let gain = left.min(share(member, level) - share(member, below));
        left -= gain;
        member.progress.missing = u32::try_from(share(member, below) + gain).unwrap_or(slots);
    }
}

fn share(member: &Member, level: u64) -> u64 {
    (level * u64::from(member.weight) + member.progress.phase) >> 32
}

/// Lets the member at `index` go on through its list until it has one slot more.
///
/// If that was another member's, who reached it later, that one must go on in turn, until somebody takes a free slot.
#[expect(clippy::cast_possible_truncation, reason = "there are at most as many members as slots, a u32")]
fn claim_one(table: &mut [Slot], members: &mut [Member], index: usize, slots: u32) {
    let mut index = index;
    loop {
        let member = &mut members[index];
        let (slot, time) = loop {
            let (slot, time) = next_entry(&mut member.progress, slots);
            let slot = &mut table[slot];
            if (time, index).cmp(&(slot.time, slot.holder as usize)) == Ordering::Less {
                break (slot, time);
            }
        };
        member.progress.missing -= 1;
        let loser = *slot;
        (slot.time, slot.holder) = (time, index as u32);
        if loser.is_free() {
            return;
        }
        index = loser.holder as usize;
        members[index].progress.missing += 1;
    }
}

/// Entries of a list that are drawn at random, for each slot of the table. Members hardly ever come so far; from there on
/// they go through all slots in order, so that a fill ends whatever the random numbers are.
const RANDOM_ENTRIES: u64 = 64;

/// The next slot of a member's list, and the time it is reached.
#[expect(clippy::cast_possible_truncation, reason = "a remainder of a u32")]
fn next_entry(progress: &mut Progress, slots: u32) -> (usize, u64) {
    let Progress { stream, interval, phase, entries, .. } = *progress;
    progress.entries = entries + 1;
    let slot = if entries < RANDOM_ENTRIES * u64::from(slots) {
        // SplitMix64: a counter with a large odd step, mixed.
        hash::slot_of(hash::mix(stream.wrapping_add(entries.wrapping_mul(0x9e37_79b9_7f4a_7c15))), slots)
    } else {
        (entries % u64::from(slots)) as u32
    };
    let time = entries.saturating_mul(interval).saturating_add((phase * interval) >> 32);
    (slot as usize, time)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::{vec, vec::Vec};

    use super::*;

    const SLOTS: u32 = 211;

    fn members() -> Vec<Member> {
        (1..=9).map(|id| Member::new(id, hash::mix(u64::from(id)), [1, 2, 7][id as usize % 3])).collect()
    }

    /// When each slot is first reached by this member.
    fn times(member: &Member) -> Vec<u64> {
        let mut times = vec![u64::MAX; SLOTS as usize];
        let mut progress = Progress { entries: 0, ..member.progress };
        while times.contains(&u64::MAX) {
            let (slot, time) = next_entry(&mut progress, SLOTS);
            times[slot] = times[slot].min(time);
        }
        times
    }

    #[test]
    fn no_slot_and_backend_prefer_each_other() {
        let mut members = members();
        let mut table = vec![Slot::EMPTY; SLOTS as usize];
        fill(&mut table, &mut members, [1, 2]).unwrap();
        let times: Vec<_> = members.iter().map(times).collect();
        for (index, times) in times.iter().enumerate() {
            let held = table.iter().filter(|slot| slot.holder as usize == index);
            let latest = held.map(|slot| slot.time).max().unwrap();
            for (slot, &time) in table.iter().zip(times) {
                let slot_prefers = time < slot.time;
                assert!(!(slot_prefers && time < latest), "member {index} and {slot:?} prefer each other");
            }
        }
        for (slot, number) in table.iter().zip(0..) {
            assert_eq!(slot.time, times[slot.holder as usize][number], "not the first time that its holder came by");
        }
    }

    #[test]
    fn shares_grow_when_others_leave() {
        let shares = |members: &mut [Member]| {
            start(members, [1, 2]);
            set_shares(members, SLOTS);
            members.iter().map(|member| member.progress.missing).collect::<Vec<_>>()
        };
        let all = shares(&mut members());
        for left in 0..all.len() {
            let (mut members, mut before) = (members(), all.clone());
            members.remove(left);
            before.remove(left);
            let after = shares(&mut members);
            assert_eq!(after.iter().sum::<u32>(), SLOTS);
            assert!(before.iter().zip(&after).all(|(before, after)| before <= after), "{before:?} {after:?}");
        }
    }

    #[test]
    fn a_list_ends_with_every_slot_in_order() {
        let entries = RANDOM_ENTRIES * u64::from(SLOTS);
        let mut progress = Progress { stream: 1, interval: 1 << 32, phase: 0, entries, missing: 1 };
        let last: Vec<_> = (0..SLOTS).map(|_| next_entry(&mut progress, SLOTS)).collect();
        assert!(last.iter().map(|&(slot, _)| slot).eq(0..SLOTS as usize));
        assert!(last.is_sorted_by(|a, b| a.1 < b.1));
    }
}
