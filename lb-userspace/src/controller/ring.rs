//! How the packet path picks backends for the new flows of a service: the choice, and the ring that it draws from.

use lb_common::abi::{self, COMPARED_BACKENDS, RING_ENTRIES, choice};

use crate::spec::Scheduler;

/// A backend that takes new flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taker {
    /// Its id.
    pub id: u32,
    /// Its share relative to the others', 1 or more.
    pub weight: u32,
}

/// A scheduler as the packet path knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    /// One of [`choice`].
    choice: u32,
    /// What it draws from, at most [`RING_ENTRIES`] ids; nothing where it follows the slots.
    backends: Vec<u32>,
}

impl Ring {
    /// For a service with this scheduler whose new flows `takers` take: at most [`RING_ENTRIES`], in an order that stays.
    ///
    /// Schedulers that go by weights draw from a ring that has each backend as often as its weight says, so that taking
    /// entries in turn or at random does what the weights want at the cost of one look-up.
    #[must_use]
    pub fn new(scheduler: Scheduler, takers: &[Taker]) -> Self {
        let (choice, backends) = match scheduler {
            Scheduler::Maglev | Scheduler::Source | Scheduler::ResponseTime => (choice::SLOT, Vec::new()),
            Scheduler::RoundRobin | Scheduler::WeightedRoundRobin => (choice::TURN, interleaved(takers)),
            Scheduler::Random => (choice::RANDOM, interleaved(takers)),
            Scheduler::LeastConnections if takers.len() <= COMPARED_BACKENDS as usize => {
                (choice::LEAST, takers.iter().map(|taker| taker.id).collect())
            }
            Scheduler::LeastConnections => (choice::LEAST_OF_TWO, interleaved(takers)),
        };
        Self { choice, backends }
    }

    /// The entry of its service.
    #[must_use]
    pub fn entry(&self, service: abi::Service) -> abi::Service {
        let ring_length = u32::try_from(self.backends.len()).unwrap_or(RING_ENTRIES);
        abi::Service { choice: self.choice, ring_length, ..service }
    }

    /// What it draws from.
    #[must_use]
    pub fn into_backends(self) -> Vec<u32> {
        self.backends
    }
}

/// Every taker as often as its [turns] say, spread as evenly as can be: after any number k of entries each has had its
/// exact share of k, rounded down or up.
///
/// The n-th turn of a taker has to come within the n-th of as many equal parts of the ring as it has turns. Of those whose
/// part has begun, the one whose part ends first goes first.
///
/// # Sources
/// - Baruah, Cohen, Plaxton, Varvel, "Proportionate Progress: A Notion of Fairness in Resource Allocation",
///   Algorithmica 15, 1996: what the bound means; Liu, Layland, JACM 20, 1973: earliest deadline first keeps it on one
///   processor. The smooth weighted round robin of nginx (2012) looks alike and does not keep it
///   (`docs/adr/0004-schedulers.md`).
fn interleaved(takers: &[Taker]) -> Vec<u32> {
    let turns = turns(takers);
    let length = turns.iter().sum::<u64>();
    let mut had = vec![0; takers.len()];
    let mut ring = Vec::new();
    for passed in 0..length {
        let has_begun = |place: &usize| had[*place] * length < (passed + 1) * turns[*place];
        // (had + 1) / turns, without a division.
        let ends_first = |a: &usize, b: &usize| ((had[*a] + 1) * turns[*b]).cmp(&((had[*b] + 1) * turns[*a]));
        // Somebody's part has always begun: who had all of theirs so far had no more than were passed.
        let Some(next) = (0..takers.len()).filter(has_begun).min_by(ends_first) else { break };
        had[next] += 1;
        ring.push(takers[next].id);
    }
    ring
}

/// Turns of each taker in a ring: its weight divided by the common factor of all weights if that fits; otherwise its share
/// of [`RING_ENTRIES`], rounded so that the largest remainders are rounded up, and one at least.
fn turns(takers: &[Taker]) -> Vec<u64> {
    let weights: Vec<u64> = takers.iter().map(|taker| taker.weight.into()).collect();
    let common = weights.iter().copied().fold(0, gcd).max(1);
    if weights.iter().sum::<u64>() / common <= RING_ENTRIES.into() {
        return weights.iter().map(|weight| weight / common).collect();
    }
    let (mut seats, mut shared) = (u64::from(RING_ENTRIES), weights.iter().sum::<u64>());
    let mut turns = vec![0; weights.len()];
    // Who is due less than one gets one, and leaves less to the others, of whom the next may be due less than one then.
    let mut by_weight: Vec<usize> = (0..weights.len()).collect();
    by_weight.sort_by_key(|place| weights[*place]);
    let mut rest = by_weight.as_slice();
    while let [lightest, heavier @ ..] = rest
        && weights[*lightest] * seats < shared
    {
        turns[*lightest] = 1;
        seats -= 1;
        shared -= weights[*lightest];
        rest = heavier;
    }
    for place in rest {
        turns[*place] = weights[*place] * seats / shared;
    }
    let missing = u64::from(RING_ENTRIES) - turns.iter().sum::<u64>();
    let mut by_remainder = rest.to_vec();
    by_remainder.sort_by_key(|place| (std::cmp::Reverse(weights[*place] * seats % shared), *place));
    by_remainder.iter().zip(0..missing).for_each(|(place, _)| turns[*place] += 1);
    turns
}

const fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Ids from 1 on.
    fn takers(weights: &[u32]) -> Vec<Taker> {
        (1..).zip(weights).map(|(id, weight)| Taker { id, weight: *weight }).collect()
    }

    fn ring(scheduler: Scheduler, weights: &[u32]) -> Vec<u32> {
        Ring::new(scheduler, &takers(weights)).into_backends()
    }

    fn counts(ring: &[u32]) -> BTreeMap<u32, u64> {
        ring.iter().fold(BTreeMap::new(), |mut counts, id| {
            *counts.entry(*id).or_default() += 1;
            counts
        })
    }

    #[test]
    fn each_scheduler_has_its_choice_and_draws_from_its_takers() {
        let entry = |scheduler, weights: &[u32]| {
            let service = abi::Service { id: 7, first_slot: 3, slot_count: 5, flags: 1, choice: 9, ring_length: 99 };
            let entry = Ring::new(scheduler, &takers(weights)).entry(service);
            assert_eq!((entry.id, entry.first_slot, entry.slot_count, entry.flags), (7, 3, 5, 1));
            (entry.choice, entry.ring_length)
        };
        for scheduler in [Scheduler::Maglev, Scheduler::Source, Scheduler::ResponseTime] {
            assert_eq!(entry(scheduler, &[1, 2]), (choice::SLOT, 0));
        }
        assert_eq!(entry(Scheduler::RoundRobin, &[1, 1, 1]), (choice::TURN, 3));
        assert_eq!(entry(Scheduler::WeightedRoundRobin, &[2, 4, 6]), (choice::TURN, 6));
        assert_eq!(entry(Scheduler::Random, &[2, 4, 6]), (choice::RANDOM, 6));
        assert_eq!(entry(Scheduler::LeastConnections, &[2; 64]), (choice::LEAST, 64));
        assert_eq!(entry(Scheduler::LeastConnections, &[2; 65]), (choice::LEAST_OF_TWO, 65));
        assert_eq!(entry(Scheduler::WeightedRoundRobin, &[]), (choice::TURN, 0));
        assert_eq!(ring(Scheduler::LeastConnections, &[5, 1]), [1, 2]);
    }

    #[test]
    fn turns_are_spread() {
        assert_eq!(ring(Scheduler::RoundRobin, &[1, 1, 1]), [1, 2, 3]);
        assert_eq!(ring(Scheduler::WeightedRoundRobin, &[30, 10]), [1, 1, 1, 2]);
        assert_eq!(ring(Scheduler::WeightedRoundRobin, &[3, 2, 1]), [1, 2, 1, 2, 1, 3]);
    }

    #[test]
    fn weights_that_fit_no_ring_become_the_nearest_that_do() {
        assert_eq!(counts(&ring(Scheduler::Random, &[1000, 999])), [(1, 512), (2, 512)].into());
        assert_eq!(counts(&ring(Scheduler::Random, &[1000, 600, 401])), [(1, 512), (2, 307), (3, 205)].into());
        // 1,000 of weight 1 have one entry each, and the heavy one what is left.
        let mut weights = vec![1; 1000];
        weights.push(1000);
        let counts = counts(&ring(Scheduler::Random, &weights));
        assert_eq!((counts.len(), counts[&1001]), (1001, 24));
        assert_eq!(ring(Scheduler::Random, &[7; 1024]).len(), 1024);
    }

    proptest! {
        #[test]
        fn after_any_number_of_turns_each_had_its_share_rounded(weights in prop::collection::vec(1u32..=40, 1..25)) {
            let ring = ring(Scheduler::WeightedRoundRobin, &weights);
            let sum: u32 = weights.iter().sum();
            for (id, weight) in (1..).zip(&weights) {
                let mut had = 0;
                for (turn, drawn) in (1u32..).zip(&ring) {
                    had += u32::from(*drawn == id);
                    // The ring is the shares' period, or a whole part of it.
                    let (least, most) = (turn * weight / sum, (turn * weight).div_ceil(sum));
                    prop_assert!((least..=most).contains(&had), "{had} of {turn}, not {least} to {most}");
                }
            }
        }

        #[test]
        fn shares_are_as_exact_as_a_ring_can_have_them(weights in prop::collection::vec(1u32..=1_000_000, 1..200)) {
            let ring = ring(Scheduler::WeightedRoundRobin, &weights);
            prop_assert!(ring.len() <= RING_ENTRIES as usize);
            let (counts, sum) = (counts(&ring), weights.iter().map(|weight| u64::from(*weight)).sum::<u64>());
            let length = ring.len() as u64;
            // What the lightest have too much is missing elsewhere.
            let surplus = weights.iter().filter(|weight| u64::from(**weight) * length < sum).count() as u64;
            for (id, weight) in (1..).zip(&weights) {
                let (has, due) = (counts[&id], u64::from(*weight) * length);
                let enough = (has + 1 + surplus) * sum > due;
                let too_many = has > 1 && (has - 1) * sum >= due;
                prop_assert!(enough && !too_many, "{has} entries for weight {weight} of {sum}");
            }
        }
    }
}
