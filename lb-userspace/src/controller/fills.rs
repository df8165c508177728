//! Slot tables that were filled lately. Services with the same backends, weights and number of slots have the same table but
//! for the ids in it, and a backend that fails does so in all of its services: each table is filled once, and what differs
//! from the one before is found once.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use lb_common::{
    abi::SlotWord,
    fill::{self, FillError, Member, Slot},
};

use super::takers::Takers;

/// Slots of all tables that are kept, at most: 16 MiB. As many steps between tables are kept, which are far fewer mostly.
const KEPT: usize = 1 << 22;
/// Tables that are kept, at most: each is compared with what is asked for. The same for the steps between them.
const ANSWERS: usize = 256;

/// Slots of the largest table whose memory is kept for the next one: 1 MiB, for each thread.
const SPARE_SLOTS: usize = 1 << 16;

/// What a table follows from.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Question {
    slots: u32,
    seed: [u64; 2],
    /// Key and weight of each backend, by key.
    members: Vec<(u64, u32)>,
}

/// What differs between two tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Offset of the slot.
    pub offset: u32,
    /// Place of the backend that had it, among the members before.
    pub from: u32,
    /// Place of the backend that gets it, among the members after.
    pub to: u32,
}

/// The tables that are kept, and how some of them become others.
#[derive(Debug, Default)]
pub struct Fills {
    tables: Mutex<Kept<Question, u32>>,
    steps: Mutex<Kept<Turn, Step>>,
    /// Memory that tables were filled in: from the system, it comes page by page each time.
    spare: Mutex<Vec<Vec<Slot>>>,
}

/// What the steps from one table to another follow from.
#[derive(Debug)]
struct Turn {
    /// Of the table before.
    members: Vec<(u64, u32)>,
    after: Question,
}

/// The newest answers to some questions, the one that was found last at the end.
#[derive(Debug)]
struct Kept<Q, A>(VecDeque<(Q, Arc<[A]>)>);

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
        if let Some(table) = kept(&self.tables).find(|known| *known == question) {
            return Ok(table);
        }
        let mut room = kept(&self.spare).pop().unwrap_or_default();
        let table = question.fill(&mut room);
        if room.len() <= SPARE_SLOTS {
            kept(&self.spare).push(room);
        }
        let table = table?;
        kept(&self.tables).keep(question, &table);
        Ok(table)
    }

    /// How the table of `before` becomes that of `after`. `words` are the slots of one service whose table is that of
    /// `before`; of others with the same members before and after the answer is the same, and found already.
    ///
    /// # Errors
    /// See [`fill::fill`]; nothing if somebody else than `before` has one of `words` that changes.
    pub fn steps(
        &self,
        words: &[SlotWord],
        (before, after): (&Takers, &Takers),
        seed: [u64; 2],
    ) -> Result<Option<Arc<[Step]>>, FillError> {
        let slots = u32::try_from(words.len()).map_err(|_| FillError::TooManySlots)?;
        let is_it = |turn: &Turn| {
            (turn.after.slots, turn.after.seed) == (slots, seed)
                && turn.after.members == after.members()
                && turn.members == before.members()
        };
        if let Some(steps) = kept(&self.steps).find(is_it) {
            return Ok(Some(steps));
        }
        let table = self.table(slots, after.members().to_vec(), seed)?;
        let changed =
            (0..).zip(words).zip(&*table).filter(|((_, word), to)| word.current() != after.ids()[**to as usize]);
        let steps =
            changed.map(|((offset, word), to)| Some(Step { offset, from: before.place(word.current())?, to: *to }));
        let Some(steps) = steps.collect::<Option<Arc<[Step]>>>() else { return Ok(None) };
        let after = Question { slots, seed, members: after.members().to_vec() };
        kept(&self.steps).keep(Turn { members: before.members().to_vec(), after }, &steps);
        Ok(Some(steps))
    }
}

/// Nobody panics while holding it.
fn kept<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<Q, A> Default for Kept<Q, A> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<Q, A> Kept<Q, A> {
    fn find(&self, is_it: impl Fn(&Q) -> bool) -> Option<Arc<[A]>> {
        self.0.iter().rev().find(|(known, _)| is_it(known)).map(|(_, answer)| Arc::clone(answer))
    }

    fn keep(&mut self, question: Q, answer: &Arc<[A]>) {
        self.0.push_back((question, Arc::clone(answer)));
        let entries = |kept: &VecDeque<(Q, Arc<[A]>)>| kept.iter().map(|(_, answer)| answer.len()).sum::<usize>();
        while self.0.len() > ANSWERS || self.0.len() > 1 && entries(&self.0) > KEPT {
            self.0.pop_front();
        }
    }
}

impl Question {
    /// Fills a table in `table`, whatever is in there.
    fn fill(&self, table: &mut Vec<Slot>) -> Result<Arc<[u32]>, FillError> {
        let members = (0..).zip(&self.members).map(|(place, (key, weight))| Member::new(place, *key, *weight));
        table.resize(self.slots as usize, Slot::EMPTY);
        fill::fill(table, &mut members.collect::<Vec<_>>(), self.seed)?;
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
            let kept = kept(&fills.tables);
            assert!(kept.0.iter().map(|(_, table)| table.len()).sum::<usize>() <= KEPT);
            assert_eq!(kept.0.back().map(|(question, _)| question.members[1]), Some((2, weight)));
        }
        fills.table(slots * 4, vec![(1, 1)], [1, 2]).unwrap();
        assert_eq!(kept(&fills.tables).0.len(), 1, "one that is larger than all room is kept alone");
    }

    #[test]
    fn nobody_to_give_slots_to_is_an_error() {
        assert_eq!(Fills::default().table(7, Vec::new(), [1, 2]), Err(FillError::NoBackend));
    }
}
