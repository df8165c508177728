//! Slot tables that were filled lately. Services with the same backends, weights and number of slots have the same table but
//! for the ids in it, and a backend that fails does so in all of its services: each table is filled once.

use std::{cell::RefCell, collections::VecDeque, sync::Arc};

use lb_common::fill::{self, FillError, Member, Slot};

/// Slots of all tables that are kept, at most: 16 MiB.
const KEPT: usize = 1 << 22;
/// Tables that are kept, at most: each is compared with what is asked for.
const TABLES: usize = 256;

/// What a table follows from.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Question {
    slots: u32,
    seed: [u64; 2],
    /// Key and weight of each backend, by key.
    members: Vec<(u64, u32)>,
}

/// The tables that are kept, the one that was filled last at the end.
#[derive(Debug, Default)]
pub struct Fills(RefCell<VecDeque<(Question, Arc<[u32]>)>>);

impl Fills {
    /// For each slot the place in `members`, from 0, of the backend that has it.
    ///
    /// # Shapes and units
    /// - `members`: key ([`fill::key_of`]) and weight of each, by key.
    ///
    /// # Errors
    /// See [`fill::fill`].
    pub fn table(&self, slots: u32, members: Vec<(u64, u32)>, seed: [u64; 2]) -> Result<Arc<[u32]>, FillError> {
        let question = Question { slots, seed, members };
        let mut kept = self.0.borrow_mut();
        if let Some((_, table)) = kept.iter().rev().find(|(known, _)| *known == question) {
            return Ok(Arc::clone(table));
        }
        let table: Arc<[u32]> = question.fill()?.into();
        kept.push_back((question, Arc::clone(&table)));
        while kept.len() > TABLES || kept.len() > 1 && kept.iter().map(|(_, table)| table.len()).sum::<usize>() > KEPT {
            kept.pop_front();
        }
        Ok(table)
    }
}

impl Question {
    fn fill(&self) -> Result<Vec<u32>, FillError> {
        let members = (0..).zip(&self.members).map(|(place, (key, weight))| Member::new(place, *key, *weight));
        let mut table = vec![Slot::EMPTY; self.slots as usize];
        fill::fill(&mut table, &mut members.collect::<Vec<_>>(), self.seed)?;
        Ok(table.iter().map(Slot::backend).collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SLOTS: u32 = 509;

    proptest! {
        #[test]
        fn a_table_is_what_a_fill_makes_whatever_is_kept(
            asked in prop::collection::vec((prop::collection::btree_map(0u64..8, 1u32..4, 1..5), 0u64..2), 1..12),
        ) {
            let fills = Fills::default();
            for (members, seed) in asked {
                let members: Vec<_> = members.into_iter().collect();
                let table = fills.table(SLOTS, members.clone(), [seed, 7]).unwrap();
                let mut expected = vec![Slot::EMPTY; SLOTS as usize];
                let mut by_id: Vec<_> =
                    (100..).zip(&members).map(|(id, (key, weight))| Member::new(id, *key, *weight)).collect();
                fill::fill(&mut expected, &mut by_id, [seed, 7]).unwrap();
                let ids = table.iter().map(|place| 100 + place);
                prop_assert!(ids.eq(expected.iter().map(Slot::backend)));
            }
        }
    }

    #[test]
    fn what_is_kept_has_an_end_and_the_newest_stays() {
        let fills = Fills::default();
        let slots = u32::try_from(KEPT / 2).unwrap();
        for weight in 1..=5 {
            fills.table(slots, vec![(1, 5), (2, weight)], [1, 2]).unwrap();
            let kept = fills.0.borrow();
            assert!(kept.iter().map(|(_, table)| table.len()).sum::<usize>() <= KEPT);
            assert_eq!(kept.back().map(|(question, _)| question.members[1]), Some((2, weight)));
        }
        fills.table(slots * 4, vec![(1, 1)], [1, 2]).unwrap();
        assert_eq!(fills.0.borrow().len(), 1, "one that is larger than all room is kept alone");
    }

    #[test]
    fn nobody_to_give_slots_to_is_an_error() {
        assert_eq!(Fills::default().table(7, Vec::new(), [1, 2]), Err(FillError::NoBackend));
    }
}
