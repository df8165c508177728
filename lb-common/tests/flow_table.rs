//! The flow table beside a map of the standard library, with hashes that collide, and with threads in place of CPUs.

#![expect(clippy::unwrap_used, reason = "all of this is a test")]
#![expect(clippy::cast_possible_truncation, reason = "the numbers of these tests are small")]

mod support;

use std::{
    collections::HashMap,
    sync::{
        Barrier, RwLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
};

use lb_common::{
    abi::{FlowEntry, FlowKeyV4, FlowKeyV6, FlowWord, flow_flags},
    flow_table::{Buckets, Key, LONGEST_CHAIN, PLACES, Place, buckets, find, free, insert},
    hash,
    tracking::{self, Entry as _},
};
use support::Random;

/// A table in memory of this process.
struct Table {
    cells: Vec<AtomicU64>,
    cells_of_bucket: usize,
    entries: AtomicUsize,
    most: usize,
}

impl Table {
    /// For keys that make buckets of so many cells.
    fn new(most: u32, cells_of_bucket: usize) -> Self {
        let cells = buckets(most) as usize * cells_of_bucket;
        let cells = (0..cells).map(|_| AtomicU64::new(0)).collect();
        Self { cells, cells_of_bucket, entries: AtomicUsize::new(0), most: most as usize }
    }

    fn buckets(&self) -> u32 {
        (self.cells.len() / self.cells_of_bucket) as u32
    }

    /// Buries the entry of a flow. Whether it had one.
    fn bury<K: Key>(&self, key: &K, hash: u32) -> bool {
        find(&self, key, hash).is_some_and(|place| tracking::bury(&place, place.word()))
    }

    /// Gives back the places of all buried entries.
    fn clear<K: Key>(&self, hash: impl Fn(&K) -> u32) {
        for number in 0..self.buckets() {
            let bucket = self.bucket(number).unwrap();
            for place in (0..PLACES).map(|index| Place::new::<K>(bucket, index)) {
                let word = place.word();
                if word.is_buried() && word != FlowWord::CLAIMED {
                    let hash = hash(&place.key());
                    free(&self, place, word, hash, number.wrapping_sub(hash) & (self.buckets() - 1));
                }
            }
        }
    }

    /// Whether nothing is left of what was in it but keys and times.
    fn is_as_new(&self) -> bool {
        let cells = |bucket: &[AtomicU64]| bucket.iter().map(|cell| cell.load(Ordering::SeqCst)).collect::<Vec<_>>();
        let mut all = self.cells.chunks(self.cells_of_bucket).map(cells);
        let is_new = |c: Vec<u64>| c[0] == 0 && c[c.len() / 2] == 0 && c[1] >> 32 == 0;
        self.entries.load(Ordering::SeqCst) == 0 && all.all(is_new)
    }
}

impl<'a> Buckets for &'a Table {
    type Bucket = &'a [AtomicU64];

    fn bucket(&self, number: u32) -> Option<&'a [AtomicU64]> {
        self.cells.chunks(self.cells_of_bucket).nth((number & (Table::buckets(self) - 1)) as usize)
    }

    fn take_room(&self) -> bool {
        let there_is = self.entries.fetch_add(1, Ordering::SeqCst) < self.most;
        if !there_is {
            self.give_room();
        }
        there_is
    }

    fn give_room(&self) {
        self.entries.fetch_sub(1, Ordering::SeqCst);
    }
}

fn key(client: u32) -> FlowKeyV4 {
    let (source_port, destination_port) = ((client as u16).to_be_bytes(), [0, 80]);
    FlowKeyV4 { source: client.to_be_bytes(), destination: [192, 0, 2, 1], source_port, destination_port, protocol: 6 }
}

fn hash_of(key: &FlowKeyV4) -> u32 {
    hash::flow_v4([1, 2], key.source, key.destination, key.source_port, key.destination_port, key.protocol) as u32
}

const fn entry(backend: u32) -> FlowEntry {
    FlowEntry { word: FlowWord::new(backend, flow_flags::ESTABLISHED, 1000), opened: 900 + backend }
}

#[test]
fn a_table_has_room_for_what_is_configured_and_no_more() {
    for most in [1, 2, 3, 5, 64, 1000, 4096] {
        let table = &Table::new(most, 8);
        for client in 0..most {
            assert!(insert(&table, &key(client), hash_of(&key(client)), &entry(1)), "{client} of {most}");
        }
        assert!(!insert(&table, &key(most), hash_of(&key(most)), &entry(1)), "one more than {most}");
        assert!((0..most).all(|client| find(&table, &key(client), hash_of(&key(client))).is_some()));
        for client in 0..most {
            assert!(table.bury(&key(client), hash_of(&key(client))));
        }
        assert!(!insert(&table, &key(most), hash_of(&key(most)), &entry(1)), "places are given back later");
        table.clear(hash_of);
        assert!(table.is_as_new());
        assert!(insert(&table, &key(most), hash_of(&key(most)), &entry(1)));
    }
}

#[test]
fn keys_of_both_families_are_whole() {
    fn check<K: Key + PartialEq + std::fmt::Debug>(keys: &[K], cells_of_bucket: usize) {
        let table = &Table::new(keys.len() as u32, cells_of_bucket);
        for (backend, key) in (1..).zip(keys) {
            assert!(insert(&table, key, 3, &entry(backend)), "{key:?}");
        }
        for (backend, key) in (1..).zip(keys) {
            let place = find(&table, key, 3).unwrap();
            assert_eq!((place.word(), place.opened(), place.key::<K>()), (entry(backend).word, 900 + backend, *key));
        }
    }
    // Keys that differ in a single bit, wherever that is.
    let flipped = |bytes: &mut [u8], bit: usize| bytes[bit / 8] ^= 1 << (bit % 8);
    let v4 = (0..128).map(|bit| {
        let mut key = key(7);
        flipped(bytemuck::bytes_of_mut(&mut key), bit);
        key
    });
    check(&v4.collect::<Vec<_>>()[..100], 8);
    let v6 = (0..320).map(|bit| {
        let mut key = FlowKeyV6 {
            source: [3; 16],
            destination: [4; 16],
            source_port: [5; 2],
            destination_port: [6; 2],
            protocol: 17,
        };
        flipped(bytemuck::bytes_of_mut(&mut key), bit);
        key
    });
    let v6: Vec<_> = v6.collect();
    for some in v6.chunks(100) {
        check(some, 16);
    }
}

#[test]
fn it_says_what_a_map_says() {
    for (seed, spread) in (0..40).zip([1, 2, 16, 1 << 20].into_iter().cycle()) {
        let mut random = Random(seed);
        // Few hashes: flows that are in each other's way.
        let hash = |key: &FlowKeyV4| hash_of(key) % spread;
        let most = [3, 30, 100][seed as usize % 3];
        let (table, mut map) = (&Table::new(most, 8), HashMap::new());
        // Taken out, and not given back yet.
        let mut buried = 0;
        for step in 0..4000 {
            let key = key(below(&mut random, 200));
            match below(&mut random, 8) {
                0..4 => {
                    let entry = entry(1 + below(&mut random, 1000));
                    let fits = map.len() + buried < most as usize && !map.contains_key(&key);
                    assert_eq!(insert(&table, &key, hash(&key), &entry), fits, "step {step} of {seed}");
                    if fits {
                        map.insert(key, entry);
                    }
                }
                4..7 => {
                    let removed = map.remove(&key).is_some();
                    assert_eq!(table.bury(&key, hash(&key)), removed, "step {step} of {seed}");
                    buried += usize::from(removed);
                }
                _ => {
                    table.clear(hash);
                    buried = 0;
                }
            }
            let found =
                find(&table, &key, hash(&key)).map(|place| FlowEntry { word: place.word(), opened: place.opened() });
            assert_eq!(found, map.get(&key).copied(), "step {step} of {seed}");
        }
        for (key, entry) in &map {
            assert_eq!(find(&table, key, hash(key)).map(|place| place.word()), Some(entry.word));
            table.bury(key, hash(key));
        }
        table.clear(hash);
        assert!(table.is_as_new(), "{seed}");
    }
}

#[test]
fn a_flow_that_finds_no_place_near_by_is_not_entered() {
    let table = &Table::new(1000, 8);
    let near_by = LONGEST_CHAIN * PLACES as u32;
    for client in 0..near_by {
        assert!(insert(&table, &key(client), 1020, &entry(1)), "{client}, around the end");
    }
    assert!(!insert(&table, &key(near_by), 1020, &entry(1)));
    assert_eq!(table.entries.load(Ordering::SeqCst), near_by as usize);
    assert!(insert(&table, &key(near_by), 500, &entry(1)), "elsewhere there is room");
    assert!(table.bury(&key(near_by), 500));
    table.clear(|key: &FlowKeyV4| if u32::from_be_bytes(key.source) == near_by { 500 } else { 1020 });
    assert!((0..near_by).all(|client| table.bury(&key(client), 1020)));
    table.clear(|_: &FlowKeyV4| 1020);
    assert!(table.is_as_new());
}

#[test]
fn a_flow_is_not_entered_while_its_bucket_is_locked() {
    let table = &Table::new(1000, 8);
    let home = (&table).bucket(7).unwrap();
    home[1].fetch_or(1 << 63, Ordering::SeqCst);
    assert!(!insert(&table, &key(1), 7, &entry(1)));
    assert!(insert(&table, &key(1), 8, &entry(1)), "another bucket's flow");
    assert!(find(&table, &key(1), 8).is_some() && find(&table, &key(1), 7).is_none(), "look-ups wait for nobody");
    assert_eq!(home[1].fetch_and(!(1 << 63), Ordering::SeqCst), 1 << 63, "the lock is whose it was");
    assert!(insert(&table, &key(1), 7, &entry(1)));
}

#[test]
fn a_flow_is_entered_once_whoever_tries_at_the_same_time() {
    const THREADS: usize = 4;
    const CLIENTS: u32 = 64;
    for round in 0..1000 {
        // Most of them at the same few buckets.
        let hash = |client: u32| if round % 2 == 0 { client % 3 } else { hash_of(&key(client)) };
        let (table, start) = (&Table::new(CLIENTS, 8), &Barrier::new(THREADS));
        let entered = &(0..CLIENTS).map(|_| AtomicUsize::new(0)).collect::<Vec<_>>();
        thread::scope(|scope| {
            for thread in 1..=THREADS {
                scope.spawn(move || {
                    start.wait();
                    // Side by side in half of the rounds, each at another bucket in the others.
                    let first = if round % 4 < 2 { 0 } else { thread as u32 };
                    for client in (first..first + CLIENTS).map(|client| client % CLIENTS) {
                        let own = entry(thread as u32);
                        // Whoever does not get the lock may try again.
                        let mut attempts = 0..1_000_000;
                        while find(&table, &key(client), hash(client)).is_none() {
                            assert!(attempts.next().is_some(), "client {client} is never entered");
                            if insert(&table, &key(client), hash(client), &own) {
                                entered[client as usize].fetch_add(thread, Ordering::SeqCst);
                            }
                        }
                    }
                });
            }
        });
        for client in 0..CLIENTS {
            let backend = find(&table, &key(client), hash(client)).unwrap().word().backend();
            assert_eq!(entered[client as usize].load(Ordering::SeqCst), backend as usize, "round {round}");
            assert!(table.bury(&key(client), hash(client)));
            assert!(find(&table, &key(client), hash(client)).is_none(), "client {client} was there twice");
        }
        table.clear(|key: &FlowKeyV4| hash(u32::from_be_bytes(key.source)));
        assert!(table.is_as_new(), "round {round}");
    }
}

#[test]
fn no_flow_is_lost_or_mistaken_while_others_come_and_go() {
    const THREADS: u32 = 3;
    const CLIENTS: u32 = 40;
    const ROUNDS: u32 = 3000;
    // All threads' flows in a few buckets that run over.
    let hash = |key: &FlowKeyV4| hash_of(key) % 5;
    let table = &Table::new(THREADS * CLIENTS, 8);
    // Held by packets on their way; the one that waits for them takes it for a moment.
    let packets = &RwLock::new(());
    let running = &AtomicUsize::new(THREADS as usize);
    thread::scope(|scope| {
        for thread in 1..=THREADS {
            scope.spawn(move || {
                let _running = Running(running);
                let mut random = Random(thread.into());
                let mut own = HashMap::new();
                for _ in 0..ROUNDS {
                    let _packet = packets.read().unwrap();
                    let other = key((1 + below(&mut random, THREADS)) * 1000 + below(&mut random, CLIENTS));
                    if let Some(place) = find(&table, &other, hash(&other)) {
                        // Whatever becomes of the entry, it is this flow's for as long as the packet is on its way.
                        thread::yield_now();
                        assert_eq!(place.key::<FlowKeyV4>(), other);
                        assert_eq!(place.word().backend(), u32::from_be_bytes(other.source));
                    }
                    let client = thread * 1000 + below(&mut random, CLIENTS);
                    let key = key(client);
                    match own.get(&client) {
                        None => {
                            let entry = entry(client);
                            if insert(&table, &key, hash(&key), &entry) {
                                own.insert(client, entry);
                            }
                        }
                        Some(entry) => {
                            let place = find(&table, &key, hash(&key)).expect("a flow that was entered is there");
                            assert_eq!((place.word(), place.opened()), (entry.word, entry.opened));
                            if below(&mut random, 4) == 0 {
                                assert!(table.bury(&key, hash(&key)));
                                own.remove(&client);
                            }
                        }
                    }
                }
                let _packet = packets.read().unwrap();
                for client in own.keys() {
                    assert!(table.bury(&key(*client), hash(&key(*client))), "client {client}'s flow was lost");
                }
            });
        }
        while running.load(Ordering::SeqCst) > 0 {
            // Entries are buried all the time: those that are cleared were when all packets had passed.
            let buried = buried(table);
            drop(packets.write().unwrap());
            for (number, index, word) in buried {
                let place = Place::new::<FlowKeyV4>(table.bucket(number).unwrap(), index);
                let hash = hash(&place.key());
                free(&table, place, word, hash, number.wrapping_sub(hash) & (table.buckets() - 1));
            }
        }
    });
    table.clear(hash);
    assert!(table.is_as_new());
}

/// A thread that counts as running until it ends, however it does.
struct Running<'a>(&'a AtomicUsize);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Where entries are buried, and as what.
fn buried(table: &Table) -> Vec<(u32, usize, FlowWord)> {
    let places = (0..table.buckets()).flat_map(|number| (0..PLACES).map(move |index| (number, index)));
    let words = places.map(|(number, index)| {
        let place = Place::new::<FlowKeyV4>((&table).bucket(number).unwrap(), index);
        (number, index, place.word())
    });
    words.filter(|(.., word)| word.is_buried() && *word != FlowWord::CLAIMED).collect()
}

fn below(random: &mut Random, limit: u32) -> u32 {
    (random.next() % u64::from(limit)) as u32
}
