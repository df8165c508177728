//! The indices that packets search for endpoints, as the controller changes them. What packets see of a change, and when, is in
//! [`lb_common::index`].

use std::collections::HashMap;

use anyhow::Context as _;
use lb_common::{
    hash,
    index::{LONGEST_CHAIN, Word, place},
};

use super::mapped::Mapped;
use crate::tables::{Endpoint, EndpointKey};

/// An index of endpoints.
pub(super) struct Index {
    words: Mapped<Word>,
    seed: [u64; 2],
    /// Endpoint → id of the entry that its word leads to.
    known: HashMap<Endpoint, u32>,
}

impl Index {
    /// The index in `words`, with the seed that packets hash endpoints by. Nothing in it is known yet.
    pub(super) fn new(words: Mapped<Word>, seed: [u64; 2]) -> Self {
        Self { words, seed, known: HashMap::new() }
    }

    /// Takes up what an earlier daemon left. Words that lead to no entry of their endpoint go: `endpoint` tells whose the entry
    /// with an id is.
    pub(super) fn adopt(&mut self, endpoint: impl Fn(u32) -> Option<Endpoint>) -> anyhow::Result<()> {
        for at in 0..self.words.len() {
            match self.right(at, &endpoint)? {
                Some((endpoint, id)) => drop(self.known.insert(endpoint, id)),
                None if self.words.read(at)?.id() != 0 => self.vacate(at)?,
                None => {}
            }
        }
        Ok(())
    }

    /// What packets find here.
    pub(super) fn read(&self, endpoint: impl Fn(u32) -> Option<Endpoint>) -> anyhow::Result<Vec<(Endpoint, u32)>> {
        let all = (0..self.words.len()).map(|at| self.right(at, &endpoint));
        all.filter_map(Result::transpose).collect()
    }

    /// The words themselves.
    #[cfg(test)]
    pub(super) fn words(&self) -> &Mapped<Word> {
        &self.words
    }

    /// The endpoint and the id of the entry of the word at this place, if that leads where it should.
    fn right(&self, at: u32, endpoint: impl Fn(u32) -> Option<Endpoint>) -> anyhow::Result<Option<(Endpoint, u32)>> {
        let word = self.words.read(at)?;
        if word.id() == 0 {
            return Ok(None);
        }
        let endpoint = endpoint(word.id()).filter(|endpoint| word.matches(self.hash(endpoint)));
        Ok(endpoint.map(|endpoint| (endpoint, word.id())))
    }

    /// The id of the entry that an endpoint's word leads to.
    pub(super) fn get(&self, endpoint: &Endpoint) -> Option<u32> {
        self.known.get(endpoint).copied()
    }

    /// Has packets to `endpoint` find the entry `id`, which is there.
    ///
    /// # Errors
    /// No place is free where they would look.
    pub(super) fn insert(&mut self, endpoint: &Endpoint, id: u32) -> anyhow::Result<()> {
        let hash = self.hash(endpoint);
        let at = match self.get(endpoint) {
            Some(old) => self.find(hash, |word| word == Word::new(hash, old))?,
            None => self.find(hash, |word| word.id() == 0)?,
        };
        let at = at
            .with_context(|| format!("the index has no room near {}: give it more by node.tables", endpoint.address))?;
        self.words.store(at, &Word::new(hash, id))?;
        self.known.insert(*endpoint, id);
        Ok(())
    }

    /// Has packets to `endpoint` find nothing. Some may be on their way that have found it.
    pub(super) fn remove(&mut self, endpoint: &Endpoint) -> anyhow::Result<()> {
        let Some(id) = self.known.remove(endpoint) else { return Ok(()) };
        let hash = self.hash(endpoint);
        match self.find(hash, |word| word == Word::new(hash, id))? {
            Some(at) => self.vacate(at),
            None => Ok(()),
        }
    }

    /// The first place on the way of this hash with such a word.
    fn find(&self, hash: u64, is_it: impl Fn(Word) -> bool) -> anyhow::Result<Option<u32>> {
        for step in 0..LONGEST_CHAIN {
            let at = self.neighbour(place(hash, self.mask()), step);
            if is_it(self.words.read(at)?) {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    /// Takes a word away, and what was kept there for chains that don't go on any more.
    fn vacate(&self, at: u32) -> anyhow::Result<()> {
        if self.words.read(self.neighbour(at, 1))? != Word::FREE {
            return self.words.store(at, &Word::FORMER);
        }
        let mut at = at;
        loop {
            self.words.store(at, &Word::FREE)?;
            at = self.neighbour(at, u32::MAX);
            if self.words.read(at)? != Word::FORMER {
                return Ok(());
            }
        }
    }

    fn neighbour(&self, at: u32, steps: u32) -> u32 {
        at.wrapping_add(steps) & self.mask()
    }

    fn mask(&self) -> u32 {
        self.words.len().saturating_sub(1)
    }

    fn hash(&self, endpoint: &Endpoint) -> u64 {
        match endpoint.key() {
            EndpointKey::V4(key) => hash::endpoint_v4(self.seed, &key),
            EndpointKey::V6(key) => hash::endpoint_v6(self.seed, &key),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, net::IpAddr, thread};

    use lb_common::index;
    use proptest::prelude::*;

    use super::*;

    /// Few places, so that chains are long and go around the end.
    const PLACES: u32 = 32;

    fn endpoint(number: u8) -> Endpoint {
        let address = if number.is_multiple_of(2) {
            IpAddr::from([192, 0, 2, number])
        } else {
            IpAddr::from([u16::from(number); 8])
        };
        Endpoint { address, port: 443, protocol: 6 }
    }

    /// Of the entry `id`: one of two for each endpoint.
    fn endpoint_of(id: u32) -> Option<Endpoint> {
        u8::try_from(id % 100).ok().filter(|_| id != 0).map(endpoint)
    }

    fn empty() -> Index {
        Index::new(Mapped::anonymous(PLACES).unwrap(), [3, 4])
    }

    /// What a packet to `endpoint` finds.
    fn found(index: &Index, endpoint: &Endpoint) -> Option<u32> {
        let entry = |id| (endpoint_of(id) == Some(*endpoint)).then_some(id);
        index::find(index.hash(endpoint), index.mask(), |at| index.words.read(at).ok(), entry)
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u8, bool),
        Remove(u8),
        Adopt,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (1u8..25, any::<bool>()).prop_map(|(number, other)| Step::Insert(number, other)),
            3 => (1u8..25).prop_map(Step::Remove),
            1 => Just(Step::Adopt),
        ]
    }

    proptest! {
        #[test]
        fn packets_find_what_is_there_and_nothing_else(steps in prop::collection::vec(step(), 1..200)) {
            let mut index = empty();
            let mut model = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Insert(number, other) => {
                        let id = u32::from(number) + if other { 100 } else { 0 };
                        index.insert(&endpoint(number), id).unwrap();
                        model.insert(endpoint(number), id);
                    }
                    Step::Remove(number) => {
                        index.remove(&endpoint(number)).unwrap();
                        model.remove(&endpoint(number));
                    }
                    Step::Adopt => {
                        index = Index::new(index.words, index.seed);
                        index.adopt(endpoint_of).unwrap();
                    }
                }
                for number in 1..25 {
                    prop_assert_eq!(found(&index, &endpoint(number)), model.get(&endpoint(number)).copied());
                }
                let read: BTreeMap<_, _> = index.read(endpoint_of).unwrap().into_iter().collect();
                prop_assert_eq!(&read, &model);
            }
            for number in 1..25 {
                index.remove(&endpoint(number)).unwrap();
            }
            let free = (0..PLACES).filter(|at| index.words.read(*at).unwrap() == Word::FREE).count();
            prop_assert!(free > 0, "chains have an end again");
        }
    }

    #[test]
    fn chains_end_again_where_nothing_comes_after_them() {
        let mut index = empty();
        (1..25).for_each(|number| index.insert(&endpoint(number), number.into()).unwrap());
        (1..25).for_each(|number| index.remove(&endpoint(number)).unwrap());
        assert!((0..PLACES).all(|at| index.words.read(at).unwrap() == Word::FREE));
    }

    #[test]
    fn words_that_lead_nowhere_go_when_they_are_adopted() {
        let mut index = empty();
        index.insert(&endpoint(1), 1).unwrap();
        index.insert(&endpoint(2), 3).unwrap();
        let mut index = Index::new(index.words, index.seed);
        index.adopt(endpoint_of).unwrap();
        assert_eq!((index.get(&endpoint(1)), index.get(&endpoint(2))), (Some(1), None));
        assert_eq!((0..PLACES).filter(|at| index.words.read(*at).unwrap().id() != 0).count(), 1);
    }

    #[test]
    fn a_full_index_says_so_and_keeps_what_it_has() {
        let mut index = empty();
        (1..=32).for_each(|number| index.insert(&endpoint(number), number.into()).unwrap());
        let refused = index.insert(&endpoint(33), 33).unwrap_err().to_string();
        assert!(refused.contains("node.tables"), "{refused}");
        assert!((1..=32).all(|number| found(&index, &endpoint(number)) == Some(number.into())));
        index.insert(&endpoint(7), 107).unwrap();
        assert_eq!(found(&index, &endpoint(7)), Some(107), "what is there can change");
    }

    #[test]
    fn a_packet_finds_its_endpoint_while_others_come_and_go() {
        let mut index = empty();
        (1..25).for_each(|number| index.insert(&endpoint(number), number.into()).unwrap());
        let reader = Index::new(index.words.clone(), index.seed);
        thread::scope(|scope| {
            let changes = scope.spawn(|| {
                for round in 0..20_000_u32 {
                    let number = u8::try_from(1 + round * 7 % 23).unwrap();
                    index.remove(&endpoint(number)).unwrap();
                    index.insert(&endpoint(number), u32::from(number) + 100 * (round % 2)).unwrap();
                }
            });
            while !changes.is_finished() {
                assert_eq!(found(&reader, &endpoint(24)), Some(24));
            }
        });
    }
}
