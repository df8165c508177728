//! Frames that nobody would send on purpose.

use std::collections::BTreeMap;

use lb_common::reason::Reason;
use weir_packets::{
    fixtures::{self, world::world},
    host::Host,
    oracle::{self, Action},
    random,
};

const INGRESS: u32 = 10;
const OTHER: u32 = 11;
const FRAMES: usize = 50_000;

#[test]
fn garbage_gets_a_verdict_and_leaves_as_the_oracle_says() {
    let world = world(INGRESS, OTHER);
    let host = Host::new(&world);
    let valid = fixtures::all().into_iter().map(|fixture| fixture.frame).collect();
    let mut seen: BTreeMap<Reason, usize> = BTreeMap::new();
    for frame in random::frames(20_250_607, valid).take(FRAMES) {
        let run = host.run(INGRESS, &frame);
        if run.outcome.action == Action::Pass {
            assert_eq!(run.outcome.frame, frame, "a passed frame was changed");
        }
        let fate =
            oracle::judge(&world, INGRESS, &frame, &run.outcome).unwrap_or_else(|difference| panic!("{difference}"));
        assert_eq!(run.counts, Vec::from_iter(fate.count));
        *seen.entry(fate.reason).or_default() += 1;
    }
    // Garbage that never gets past the first check would prove little.
    for reason in [Reason::Malformed, Reason::NoService, Reason::OtherProtocol, Reason::Fragment, Reason::ForwardedNat]
    {
        let times = seen.get(&reason).copied().unwrap_or_default();
        assert!(times >= 100, "only {times} frames were {}", reason.name());
    }
}
