//! Services in memory of this process, read as packets read them.

use std::sync::{Arc, Mutex};

use lb_common::{
    abi::{NO_BACKEND, Service, ServiceEntry, SlotWord, SteadyLayout, steady},
    hash, index,
};
use proptest::prelude::*;

use super::*;
use crate::tables::EndpointKey;

const SEED: [u64; 2] = [3, 4];

/// Slots of each service, and of all.
const SLOTS: u32 = 12;
const ALL_SLOTS: u32 = 4 * SLOTS;

fn services() -> Services {
    // No packet of another thread waits to be let through.
    services_that_wait(Box::new(|| {}))
}

fn services_that_wait(wait: Box<dyn FnMut() + Send>) -> Services {
    Services::new(
        Mapped::anonymous(8).unwrap(),
        Mapped::anonymous(32).unwrap(),
        Mapped::anonymous(ALL_SLOTS).unwrap(),
        Mapped::anonymous(steady::elements(ALL_SLOTS)).unwrap(),
        SEED,
        wait,
    )
}

/// The endpoint of the service with this id, which is at its own part of the slots.
fn endpoint_of(id: u32) -> Endpoint {
    let last = u8::try_from(id).unwrap();
    let address = if id.is_multiple_of(2) { [192, 0, 2, last].into() } else { IpAddr::from([u16::from(last); 8]) };
    Endpoint { address, port: 443, protocol: 6 }
}

fn service(id: u32) -> Service {
    Service { id, first_slot: (id - 1) * SLOTS, slot_count: SLOTS, ..Service::zeroed() }
}

/// What a packet reads.
struct Reader {
    entries: Mapped<ServiceEntry>,
    index: Mapped<Word>,
    slots: Mapped<SlotWord>,
    steady: Mapped<u64>,
}

impl Reader {
    fn of(services: &Services) -> Self {
        Self {
            entries: services.entries.clone(),
            index: services.index.words().clone(),
            slots: services.slots.clone(),
            steady: services.steady.clone(),
        }
    }

    fn service(&self, at: &Endpoint) -> Option<ServiceEntry> {
        let word = |place| self.index.read(place).ok();
        let entry = |id| self.entries.read(id).ok();
        match at.key() {
            EndpointKey::V4(key) => index::find(hash::endpoint_v4(SEED, &key), self.index.len() - 1, word, |id| {
                entry(id).filter(|entry| entry.is_at_v4(&key))
            }),
            EndpointKey::V6(key) => index::find(hash::endpoint_v6(SEED, &key), self.index.len() - 1, word, |id| {
                entry(id).filter(|entry| entry.is_at_v6(&key))
            }),
        }
    }

    /// What the place of a slot tells.
    fn place(&self, entry: &ServiceEntry, offset: u32) -> u32 {
        let place = entry.steady.place(entry.service.first_slot, offset);
        entry.steady.backend(place, self.steady.read(place.element()).unwrap())
    }

    fn word(&self, entry: &ServiceEntry, offset: u32) -> SlotWord {
        self.slots.read(entry.service.first_slot + offset).unwrap()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Store(u32, Vec<(u32, SlotWord)>),
    Insert(u32),
    Remove(u32),
    Left(u32),
    Finish,
    Adopt,
}

/// Backend ids: some that one byte tells apart, some that it does not, some that not even two do.
fn backend() -> impl Strategy<Value = u32> {
    prop_oneof![6 => 1u32..6, 3 => 300u32..304, 2 => 1_000_000u32..1_000_003, 1 => Just(NO_BACKEND)]
}

fn word() -> impl Strategy<Value = SlotWord> {
    prop_oneof![
        5 => backend().prop_map(SlotWord::steady),
        1 => (backend(), backend()).prop_map(|(current, base)| SlotWord::new(current, base, true)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let words = prop::collection::btree_map(0..SLOTS, word(), 1..SLOTS as usize);
    prop_oneof![
        6 => (1u32..5, words).prop_map(|(id, words)| Step::Store(id, words.into_iter().collect())),
        3 => (1u32..5).prop_map(Step::Insert),
        1 => (1u32..5).prop_map(Step::Remove),
        1 => (1u32..5).prop_map(Step::Left),
        2 => Just(Step::Finish),
        1 => Just(Step::Adopt),
    ]
}

fn store(services: &mut Services, first: u32, words: &[(u32, SlotWord)]) {
    services.store([(first, words)]).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

#[test]
    fn a_place_says_what_the_word_says_or_nothing(steps in prop::collection::vec(step(), 1..40)) {
        let mut services = services();
        let mut model: BTreeMap<u32, Vec<SlotWord>> = (1..5).map(|id| (id, vec![SlotWord(0); SLOTS as usize])).collect();
        let mut there = BTreeMap::new();
        for step in steps {
            match step {
                Step::Store(id, words) => {
                    store(&mut services, service(id).first_slot, &words);
                    for (offset, word) in words {
                        model.get_mut(&id).unwrap()[offset as usize] = word;
                    }
                }
                Step::Insert(id) => {
                    let changed = Service { flags: u32::try_from(there.len()).unwrap(), ..service(id) };
                    services.insert(&endpoint_of(id), &changed).unwrap();
                    there.insert(endpoint_of(id), changed);
                }
                Step::Remove(id) => {
                    services.remove(&endpoint_of(id)).unwrap();
                    there.remove(&endpoint_of(id));
                }
                Step::Left(id) => services.backend_left(id).unwrap(),
                Step::Finish => services.finish().unwrap(),
                Step::Adopt => {
                    let Services { entries, slots, steady, .. } = &services;
                    let (entries, slots, steady) = (entries.clone(), slots.clone(), steady.clone());
                    services = Services::new(entries, services.index.words().clone(), slots, steady, SEED, Box::new(|| {}));
                    services.adopt().unwrap();
                }
            }
            let read: BTreeMap<_, _> = services.read().unwrap().into_iter().collect();
            prop_assert_eq!(&read, &there);
            let reader = Reader::of(&services);
            for id in 1..5 {
                let entry = reader.service(&endpoint_of(id));
                prop_assert_eq!(entry.map(|entry| entry.service), there.get(&endpoint_of(id)).copied());
                let Some(entry) = entry else { continue };
                let mut missing = 0;
                for (offset, word) in (0..).zip(&model[&id]) {
                    prop_assert_eq!(reader.word(&entry, offset), *word);
                    let told = reader.place(&entry, offset);
                    let right = if word.tracked() || word.current() != word.base() { NO_BACKEND } else { word.current() };
                    prop_assert!(told == NO_BACKEND || told == right, "{} for {:?}", told, word);
                    missing += u32::from(told != right);
                }
                prop_assert_eq!(missing, services.ranges[&entry.service.first_slot].unreached);
            }
        }
    }
}

fn all(id: impl Fn(u32) -> u32) -> Vec<(u32, SlotWord)> {
    (0..SLOTS).map(|offset| (offset, SlotWord::steady(id(offset)))).collect()
}

/// What the places of the service 1 tell, after `words` were stored and it was added.
fn told(words: &[(u32, SlotWord)]) -> (Vec<u32>, Services) {
    let mut services = services();
    store(&mut services, 0, words);
    services.insert(&endpoint_of(1), &service(1)).unwrap();
    (places(&services), services)
}

fn places(services: &Services) -> Vec<u32> {
    let reader = Reader::of(services);
    let entry = reader.service(&endpoint_of(1)).unwrap();
    (0..SLOTS).map(|offset| reader.place(&entry, offset)).collect()
}

fn layout(services: &Services) -> SteadyLayout {
    services.entry(1).unwrap().steady
}

#[test]
fn ids_that_lie_close_have_one_byte_and_others_two() {
    let (close, services) = told(&all(|offset| 70_000 + offset * 23));
    assert_eq!(close, (0..SLOTS).map(|offset| 70_000 + offset * 23).collect::<Vec<_>>());
    assert_eq!(layout(&services), SteadyLayout::narrow(69_999));
    let (wide, services) = told(&all(|offset| 70_000 + offset * 300));
    assert_eq!(wide, (0..SLOTS).map(|offset| 70_000 + offset * 300).collect::<Vec<_>>());
    assert!(layout(&services).is_wide());
}

#[test]
fn one_that_lies_far_off_does_not_cost_the_others_their_byte() {
    let (told, services) = told(&all(|offset| if offset == 7 { 9_000_000 } else { 5 + offset }));
    assert!(!layout(&services).is_wide());
    assert_eq!((told[6], told[7], told[8]), (11, NO_BACKEND, 13));
}

#[test]
fn a_service_whose_backends_are_replaced_one_by_one_keeps_its_places() {
    let (_, mut services) = told(&all(|_| 5));
    for offset in 0..SLOTS {
        store(&mut services, 0, &[(offset, SlotWord::steady(400))]);
        services.finish().unwrap();
        let missing = places(&services).iter().filter(|told| **told == NO_BACKEND).count();
        assert!(missing <= SLOTS as usize / 4, "{missing} after {offset}");
    }
    assert!(layout(&services).is_wide(), "both were told for some time");
    services.backend_left(1).unwrap();
    services.finish().unwrap();
    assert_eq!(layout(&services), SteadyLayout::narrow(399), "and the old one is forgotten");
    assert_eq!(places(&services), [400; SLOTS as usize]);
}

#[test]
fn words_of_several_services_are_stored_at_once() {
    let mut services = services();
    (1..=4).for_each(|id| services.insert(&endpoint_of(id), &service(id)).unwrap());
    let words: Vec<_> = (0..ALL_SLOTS).map(|slot| (slot, SlotWord::steady(1 + slot / SLOTS))).collect();
    store(&mut services, 0, &words);
    services.finish().unwrap();
    let reader = Reader::of(&services);
    for id in 1..=4 {
        let entry = reader.service(&endpoint_of(id)).unwrap();
        assert!((0..SLOTS).all(|offset| reader.place(&entry, offset) == id), "service {id}");
    }
}

#[test]
fn a_service_that_moves_to_another_id_and_range_is_found_there() {
    let (_, mut services) = told(&all(|_| 5));
    store(&mut services, SLOTS, &all(|_| 6));
    let moved = Service { id: 2, ..service(2) };
    services.insert(&endpoint_of(1), &moved).unwrap();
    assert_eq!(services.read().unwrap(), [(endpoint_of(1), moved)]);
    assert_eq!(places(&services), [6; SLOTS as usize]);
}

#[test]
fn a_packet_reads_what_a_slot_is_or_was_while_it_changes() {
    // Two bytes, so that all ids are in reach.
    let (_, mut services) = told(&all(|offset| if offset < SLOTS / 2 { 1 } else { 60_000 }));
    let reader = Reader::of(&services);
    let entry = reader.service(&endpoint_of(1)).unwrap();
    std::thread::scope(|scope| {
        let changes = scope.spawn(|| {
            for id in 1..50_000 {
                store(&mut services, 0, &[(0, SlotWord::new(id + 1, id, true))]);
                assert_eq!(reader.place(&entry, 0), NO_BACKEND, "a tracked slot has no place");
                store(&mut services, 0, &[(0, SlotWord::steady(id + 1))]);
                assert_eq!(reader.place(&entry, 0), id + 1);
            }
        });
        while !changes.is_finished() {
            let before = reader.word(&entry, 0);
            let told = reader.place(&entry, 0);
            let after = reader.word(&entry, 0);
            assert!(
                told == NO_BACKEND || (before.base()..=after.base()).contains(&told),
                "{told}: {before:?}, {after:?}"
            );
        }
    });
}

#[test]
fn packets_are_waited_for_once_whatever_changed_and_find_no_place_then() {
    let (waits, mut services) = told_when_waiting();
    // All of three services move out of reach, and one goes.
    for id in 1..=3 {
        store(&mut services, service(id).first_slot, &all(|_| 1000 * id));
    }
    services.remove(&endpoint_of(4)).unwrap();
    assert_eq!(*waits.lock().unwrap(), 0, "not before the end");
    services.finish().unwrap();
    assert_eq!(*waits.lock().unwrap(), 1);
    assert_eq!(services.entry(4).unwrap(), ServiceEntry::zeroed(), "nothing leads to it any more");
    let reader = Reader::of(&services);
    for id in 1..=3 {
        let entry = reader.service(&endpoint_of(id)).unwrap();
        assert!((0..SLOTS).all(|offset| reader.place(&entry, offset) == 1000 * id));
    }
    services.finish().unwrap();
    store(&mut services, 0, &all(|_| 1001));
    services.finish().unwrap();
    assert_eq!(*waits.lock().unwrap(), 1, "nothing had to be laid out anew");
}

/// Four services, all slots the backend 7's. Counts how often they wait, and sees that nothing can be misread then: no place
/// of the first three services tells anything.
fn told_when_waiting() -> (Arc<Mutex<u32>>, Services) {
    let waits = Arc::new(Mutex::new(0));
    let reader: Arc<Mutex<Option<Reader>>> = Arc::default();
    let (counted, seen) = (Arc::clone(&waits), Arc::clone(&reader));
    let mut services = services_that_wait(Box::new(move || {
        *counted.lock().unwrap() += 1;
        let Some(reader) = &*seen.lock().unwrap() else { return };
        for entry in (1..=3).map(|id| reader.service(&endpoint_of(id)).unwrap()) {
            assert!((0..SLOTS).all(|offset| reader.place(&entry, offset) == NO_BACKEND), "{entry:?}");
        }
    }));
    for id in 1..=4 {
        store(&mut services, service(id).first_slot, &all(|_| 7));
        services.insert(&endpoint_of(id), &service(id)).unwrap();
    }
    *reader.lock().unwrap() = Some(Reader::of(&services));
    (waits, services)
}

#[test]
fn whoever_takes_over_mends_places_wherever_the_last_one_died() {
    let (_, services) = told(&all(|_| 7));
    let entry = services.entry(1).unwrap();
    // Died after places were cleared; after a word was stored, and before its place was; in between two places.
    for damage in [0, 0x0303_0303_0303_0303, 0x0800_0000_0000_0008] {
        for element in 0..SLOTS / 8 {
            services.steady.store(element, &damage).unwrap();
        }
        let Services { entries, slots, steady, .. } = &services;
        let (entries, slots, steady) = (entries.clone(), slots.clone(), steady.clone());
        let index = services.index.words().clone();
        Services::new(entries, index, slots, steady, SEED, Box::new(|| {})).adopt().unwrap();
        assert_eq!(places(&services), [7; SLOTS as usize]);
        assert_eq!(services.entry(1).unwrap(), entry);
    }
}

#[test]
fn words_of_many_services_are_stored_side_by_side() {
    // Enough for several threads; and the same where services share an element of the array of places.
    for count in [1 << 16, (1 << 16) + 1] {
        let all = Mapped::anonymous(4 * count).unwrap();
        let places = Mapped::anonymous(steady::elements(4 * count)).unwrap();
        let (entries, index) = (Mapped::anonymous(8).unwrap(), Mapped::anonymous(32).unwrap());
        let mut services = Services::new(entries, index, all, places, SEED, Box::new(|| {}));
        let first = |id| (id - 1) * count;
        let words = |of: fn(u32) -> u32| (0..count).map(move |slot| (slot, SlotWord::steady(of(slot)))).collect();
        let before: Vec<_> = words(|slot| 1 + slot % 5);
        let after: Vec<_> = words(|slot| 2 + slot % 7 * 100);
        services.store((1..=4).map(|id| (first(id), before.as_slice()))).unwrap();
        for id in 1..=4 {
            let service = Service { id, first_slot: first(id), slot_count: count, ..Service::zeroed() };
            services.insert(&endpoint_of(id), &service).unwrap();
        }
        services.store((1..=4).map(|id| (first(id), after.as_slice()))).unwrap();
        let reader = Reader::of(&services);
        for id in 1..=4 {
            let entry = reader.service(&endpoint_of(id)).unwrap();
            let mut unreached = 0;
            for (slot, word) in &after {
                assert_eq!(reader.word(&entry, *slot), *word);
                let told = reader.place(&entry, *slot);
                unreached += u32::from(told == NO_BACKEND);
                assert!(told == NO_BACKEND || told == word.current(), "service {id}, slot {slot}: {told}");
            }
            assert_eq!(services.ranges[&first(id)].unreached, unreached);
            assert!(unreached > 0 && services.dubious.contains(&first(id)));
        }
    }
}

#[test]
fn what_comes_before_a_slot_beyond_all_slots_is_stored() {
    let mut services = services();
    let words = [(0, SlotWord::steady(5)), (ALL_SLOTS, SlotWord::steady(6))];
    services.store([(0, words.as_slice())]).unwrap_err();
    assert_eq!(services.slots.read(0).unwrap(), SlotWord::steady(5));
}

#[test]
fn ids_that_no_layout_reaches_are_left_to_the_words() {
    // A third in each of three windows of two bytes.
    let (told, mut services) = told(&all(|offset| 1 + offset % 3 * 100_000));
    let kept = layout(&services);
    assert!(kept.is_wide());
    assert_eq!(told.iter().filter(|id| **id != NO_BACKEND).count(), SLOTS as usize / 3);
    store(&mut services, 0, &[(1, SlotWord::steady(100_002))]);
    services.finish().unwrap();
    assert_eq!(layout(&services), kept, "another would reach no more");
}

#[test]
fn a_byte_tells_255_backends() {
    for (last, is_wide) in [(254, false), (255, true)] {
        let (told, services) = told(&all(|offset| if offset % 2 == 0 { 1000 } else { 1000 + last }));
        assert_eq!(layout(&services).is_wide(), is_wide);
        assert!((0..).zip(told).all(|(offset, id)| id == if offset % 2 == 0 { 1000 } else { 1000 + last }));
    }
}

#[test]
fn before_places_get_another_layout_a_packet_finds_none_of_them() {
    let mut services = services();
    for id in 1..=3 {
        store(&mut services, service(id).first_slot, &all(|offset| 7 + offset * 300));
        services.insert(&endpoint_of(id), &service(id)).unwrap();
    }
    let slots = services.ranges[&service(2).first_slot];
    services.clear(slots).unwrap();
    let reader = Reader::of(&services);
    for id in 1..=3 {
        let entry = reader.service(&endpoint_of(id)).unwrap();
        let told: Vec<_> = (0..SLOTS).map(|offset| reader.place(&entry, offset)).collect();
        let expected = |offset| if id == 2 { NO_BACKEND } else { 7 + offset * 300 };
        assert_eq!(told, (0..SLOTS).map(expected).collect::<Vec<_>>(), "service {id}");
    }
}
