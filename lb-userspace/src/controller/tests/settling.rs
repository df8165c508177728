//! When slots settle, and when they are tracked no longer.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use lb_common::abi::SlotWord;

use super::{
    world::{World, endpoint},
    *,
};
use crate::{
    controller::{
        desired::Scope,
        deviations::{Deviations, Findings},
    },
    flows::Census,
    tables::Write,
};

fn at(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A world in which some slots went from backend 3 to others at 10 s, and `offset` is the first of them.
struct Moved {
    world: World,
    deviations: Deviations,
    offset: u32,
}

impl Moved {
    fn new() -> Self {
        let mut world = World::new(&service("web", 80, "l2", &[1, 2, 3]));
        let mut deviations = Deviations::new(&world.mirror, at(0));
        assert!(deviations.is_empty());
        let text = service("web", 80, "l2", &[1, 2, 3]) + "draining = true\n";
        world.put(spec(&text), &network(0..=100), SystemTime::now());
        let plan = world.reconcile(Scope::Services(&[endpoint(80)].into()));
        deviations.observe(&plan.writes, &world.mirror, at(10_000));
        let words = &world.tables().slots[&0];
        let offset = words.iter().position(|word| word.tracked()).unwrap();
        Self { world, deviations, offset: u32::try_from(offset).unwrap() }
    }

    /// Settles as after a sweep from `began` to `now` milliseconds, after 60 s. Says what became of the slot.
    fn settle(&mut self, census: &Census, (began, now): (u64, u64), full: bool, gone: &BTreeSet<u32>) -> SlotWord {
        let findings = Findings {
            census,
            began: at(began),
            now: at(now),
            full,
            settle_after: &BTreeMap::from([(0, Duration::from_mins(1))]),
            gone,
        };
        let writes = self.deviations.settle(&self.world.mirror, &findings);
        for write in &writes {
            self.world.mirror.apply(write);
            self.world.kernel.write(write);
        }
        self.deviations.observe(&writes, &self.world.mirror, at(now));
        self.word()
    }

    fn quietly(&mut self, began: u64, now: u64) -> SlotWord {
        self.settle(&Census::default(), (began, now), false, &BTreeSet::new())
    }

    fn word(&self) -> SlotWord {
        self.world.tables().slots[&0][self.offset as usize]
    }
}

#[test]
fn old_flows_stay_with_the_base_until_the_slot_settles() {
    let mut moved = Moved::new();
    let word = moved.word();
    assert_eq!((word.base(), word.tracked()), (3, true));
    assert_ne!(word.current(), 3);
    assert_eq!(moved.quietly(69_000, 69_999), word);
    let settled = SlotWord::new(word.current(), word.current(), true);
    assert_eq!(moved.quietly(69_000, 70_000), settled);
    assert_eq!(moved.quietly(70_500, 71_000), settled, "that sweep began too soon");
    let occupied = Census { occupied: [moved.offset].into(), ..Census::default() };
    assert_eq!(moved.settle(&occupied, (71_000, 72_000), false, &BTreeSet::new()), settled);
    assert_eq!(moved.quietly(71_000, 72_000), SlotWord::steady(word.current()));
    assert!(moved.deviations.is_empty());
}

#[test]
fn an_old_flow_that_could_not_be_learnt_gets_more_time() {
    let mut moved = Moved::new();
    let word = moved.word();
    moved.deviations.begin_anew(at(50_000));
    assert_eq!(moved.quietly(109_000, 109_999), word);
    assert_ne!(moved.quietly(109_000, 110_000), word);
}

#[test]
fn with_a_full_table_slots_whose_base_is_gone_settle_at_once() {
    let mut moved = Moved::new();
    let word = moved.word();
    let nothing = Census::default();
    assert_eq!(moved.settle(&nothing, (11_000, 12_000), true, &BTreeSet::new()), word);
    assert_eq!(moved.settle(&nothing, (11_000, 12_000), false, &[3].into()), word);
    assert_eq!(moved.settle(&nothing, (11_000, 12_000), true, &[3].into()).base(), word.current());
}

#[test]
fn a_slot_that_goes_back_and_away_again_begins_anew() {
    let mut moved = Moved::new();
    let word = moved.word();
    let mut set = |new: SlotWord, now: u64| {
        let write = Write::Slots { first: 0, words: vec![(moved.offset, new)] };
        moved.world.mirror.apply(&write);
        moved.world.kernel.write(&write);
        moved.deviations.observe(&[write], &moved.world.mirror, at(now));
    };
    set(SlotWord::new(if word.current() == 1 { 2 } else { 1 }, 3, true), 30_000);
    set(SlotWord::new(3, 3, true), 40_000);
    set(word, 45_000);
    assert_eq!(moved.quietly(104_000, 104_999), word);
    assert_ne!(moved.quietly(104_000, 105_000), word);

    let mut other = Moved::new();
    let (word, third) = (other.word(), if other.word().current() == 1 { 2 } else { 1 });
    let elsewhere = SlotWord::new(third, 3, true);
    let write = Write::Slots { first: 0, words: vec![(other.offset, elsewhere)] };
    other.world.mirror.apply(&write);
    other.world.kernel.write(&write);
    other.deviations.observe(&[write], &other.world.mirror, at(30_000));
    assert_ne!(word, elsewhere);
    assert_eq!(other.quietly(69_000, 70_000).base(), third, "old flows were learnt all the time");
}
