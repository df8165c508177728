//! No live flow of a backend that is not gone ever moves: random sequences of everything that can happen, run through the
//! code that runs in the kernel. And the same with one rule broken at a time, which has to be noticed.
//!
//! `MODEL_SEED=7 cargo test -p lb-common --test tracking one_sequence -- --nocapture` tells what happens in sequence 7.

#![expect(clippy::cast_possible_truncation, reason = "numbers of clients, slots and backends are small")]

mod model;
mod support;

use model::{Broken, run};

const SEQUENCES: u64 = 10_000;

#[test]
fn no_live_flow_moves() {
    for seed in 0..SEQUENCES {
        if let Err(violation) = run(seed, None, false) {
            panic!("{violation}");
        }
    }
}

#[test]
fn one_sequence() {
    let seed = std::env::var("MODEL_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0);
    if let Err(violation) = run(seed, None, true) {
        panic!("{violation}");
    }
}

/// Asserts that the breakage is seen within so many sequences.
fn assert_noticed(broken: Broken, within: u64) {
    let noticed = (0..within).find_map(|seed| run(seed, Some(broken), false).err());
    println!("{broken:?}: {noticed:?}");
    assert!(noticed.is_some(), "{broken:?} goes unnoticed");
}

macro_rules! noticed {
    ($($test:ident: $broken:ident within $within:expr;)*) => {
        $(#[test]
        fn $test() {
            assert_noticed(Broken::$broken, $within);
        })*
    };
}

noticed! {
    a_full_table_that_claims_insertion_is_noticed: FullTableClaimsInsertion within 200;
    replacing_without_comparing_is_noticed: ReplaceWithoutComparing within 2000;
    a_syn_that_is_always_new_is_noticed: SynIsAlwaysNew within 200;
    a_base_that_follows_at_once_is_noticed: BaseFollowsAtOnce within 200;
    untracking_an_occupied_slot_is_noticed: UntrackedWhileOccupied within 200;
    untracking_by_an_old_sweep_is_noticed: UntrackedByOldSweep within 2000;
    counting_the_judged_as_gone_is_noticed: JudgedCountsAsGone within 10_000;
    burying_without_comparing_is_noticed: BuryWithoutComparing within 2000;
    giving_places_back_too_early_is_noticed: ClearedTooEarly within 10_000;
    settling_despite_failures_is_noticed: SettledDespiteFailures within 2000;
    not_counting_unopened_flows_is_noticed: UnopenedDoNotCount within 10_000;
    settling_at_once_is_noticed: SettledAtOnce within 200;
    deleting_closed_flows_at_once_is_noticed: ClosedWithoutQuiet within 500;
    using_an_id_again_at_once_is_noticed: IdReusedAtOnce within 500;
}
