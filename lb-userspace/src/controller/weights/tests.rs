use proptest::prelude::*;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::*;
use crate::{config, spec::Spec};

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

/// A service, its weights, and a clock.
struct World {
    spec: Spec,
    weights: Weights,
    out: BTreeSet<u8>,
    unknown: BTreeSet<u8>,
    now: Duration,
}

impl World {
    /// Backends with these last octets and weights, all of which come in at the start.
    fn new(scheduler: &str, slow_start: &str, backends: &[(u8, u16)]) -> Self {
        let spec = spec(scheduler, slow_start, backends);
        let (out, unknown) = (BTreeSet::new(), BTreeSet::new());
        let mut world = Self { spec, weights: Weights::default(), out, unknown, now: Duration::ZERO };
        world.follow();
        world.pass(Duration::ZERO);
        // What is told first is of the past.
        for (octet, _) in backends {
            world.answers(*octet, 100 * SECOND, 1_000_000);
        }
        world
    }

    fn follow(&mut self) {
        let presence = |backend: &Backend| match octet(backend) {
            one if self.out.contains(&one) || backend.weight == 0 => Presence::Out,
            one if self.unknown.contains(&one) => Presence::NoNews,
            _ => Presence::In,
        };
        self.weights.follow(&endpoint(), &self.spec.services[0], presence, self.now);
    }

    fn take(&mut self, octet: u8, is_out: bool) {
        if is_out {
            self.out.insert(octet)
        } else {
            self.out.remove(&octet)
        };
        self.follow();
    }

    /// Whether weights are others after so much time.
    fn pass(&mut self, time: Duration) -> bool {
        self.now += time;
        let times_are_wanted = self.weights.wants_times(self.now);
        let services = BTreeMap::from([(endpoint(), &self.spec.services[0])]);
        let changed = !self.weights.tick(&services, self.now).is_empty();
        assert!(!self.weights.wants_times(self.now), "they were looked at");
        let of_times = self.spec.services[0].scheduler == Scheduler::ResponseTime;
        assert!(times_are_wanted || !of_times || !changed, "without times");
        changed
    }

    /// The weights, in the order of the backends.
    fn weights(&self) -> Vec<u32> {
        let service = &self.spec.services[0];
        let of_one = self.weights.of(&endpoint(), service);
        service.backends.iter().map(|backend| of_one.weight(backend)).collect()
    }

    /// So many checks of a backend are answered after so long each.
    fn answers(&mut self, octet: u8, took: Duration, count: u32) {
        self.weights.take_answers(&key(octet), Answers { total: took * count, count });
    }
}

fn spec(scheduler: &str, slow_start: &str, backends: &[(u8, u16)]) -> Spec {
    let backend = |(octet, weight): &(u8, u16)| {
        format!("[[service.backend]]\naddress = \"198.51.100.{octet}\"\nweight = {weight}\n")
    };
    let text = format!(
        "[node]\ninterfaces = [\"eth9\"]\n[[service]]\nname = \"web\"\nvip = \"192.0.2.1\"\nport = 80\nprotocol = \
         \"tcp\"\nmode = \"l2\"\nscheduler = \"{scheduler}\"\nslow_start = \"{slow_start}\"\n{}",
        backends.iter().map(backend).collect::<String>()
    );
    config::parse(&text, "test").unwrap_or_else(|error| panic!("{error}"))
}

fn endpoint() -> Endpoint {
    Endpoint { address: [192, 0, 2, 1].into(), port: 80, protocol: 6 }
}

fn key(octet: u8) -> BackendKey {
    BackendKey { service: endpoint(), address: [198, 51, 100, octet].into(), port: 0 }
}

fn octet(backend: &Backend) -> u8 {
    let IpAddr::V4(address) = backend.address else { panic!("an IPv4 address") };
    address.octets()[3]
}

#[test]
fn whoever_is_there_at_the_start_has_all_of_its_share() {
    let mut world = World::new("maglev", "10s", &[(1, 3), (2, 1)]);
    assert_eq!(world.weights(), [3, 1]);
    assert!(!world.pass(100 * SECOND));

    // Checks answer one after the other, and one fails at first.
    let mut world = World::new("maglev", "10s", &[]);
    world = World { weights: Weights::default(), spec: spec("maglev", "10s", &[(1, 1), (2, 1), (3, 1)]), ..world };
    world.unknown = [1, 2, 3].into();
    for octet in 1..=3 {
        world.unknown.remove(&octet);
        world.take(octet, octet == 3);
        assert_eq!(world.weights(), [1, 1, 1]);
    }
    world.take(3, false);
    assert_eq!(world.weights(), [10, 10, 1]);
}

#[test]
fn a_backend_that_comes_in_gets_its_share_in_ten_steps() {
    let mut world = World::new("maglev", "9s", &[(1, 2)]);
    world.spec = spec("maglev", "9s", &[(1, 2), (2, 1)]);
    world.follow();
    assert_eq!(world.weights(), [20, 1]);
    for step in 2..10 {
        assert!(!world.pass(Duration::from_millis(999)));
        assert!(world.pass(MILLISECOND));
        assert_eq!(world.weights(), [20, step]);
    }
    assert!(world.pass(SECOND));
    assert_eq!(world.weights(), [2, 1]);
    assert!(!world.pass(SECOND));
}

#[test]
fn a_backend_that_was_out_starts_slowly_again_and_one_of_which_nothing_is_heard_does_not() {
    let mut world = World::new("weighted-round-robin", "10s", &[(1, 1), (2, 1)]);
    world.unknown.insert(2);
    world.follow();
    world.unknown.clear();
    world.follow();
    assert_eq!(world.weights(), [1, 1]);
    world.take(2, true);
    assert_eq!(world.weights(), [1, 1], "who takes none has no part in it");
    world.take(2, false);
    assert_eq!(world.weights(), [10, 1]);
    assert!(world.pass(5 * SECOND));
    assert_eq!(world.weights(), [10, 5]);
    world.take(2, true);
    assert_eq!(world.weights(), [1, 1]);
    world.take(2, false);
    assert_eq!(world.weights(), [10, 1], "from the beginning");
}

#[test]
fn after_a_restart_those_that_took_flows_go_on() {
    let mut world = World::new("maglev", "10s", &[(1, 1), (2, 1), (3, 1)]);
    world.weights = Weights::default();
    world.weights.adopt(&key(1), true);
    world.weights.adopt(&key(2), false);
    world.weights.adopt(&key(9), true);
    world.follow();
    assert_eq!(world.weights(), [10, 1, 1], "2 was out, and 3 is new");
}

#[test]
fn without_slow_start_the_share_is_there_at_once() {
    let mut world = World::new("maglev", "0s", &[(1, 1), (2, 1)]);
    world.take(2, true);
    world.take(2, false);
    assert_eq!(world.weights(), [1, 1]);
    // Taken away while somebody starts, it ends.
    world.spec = spec("maglev", "10s", &[(1, 1), (2, 1)]);
    world.take(2, true);
    world.take(2, false);
    assert_eq!(world.weights(), [10, 1]);
    world.spec = spec("maglev", "0s", &[(1, 1), (2, 1)]);
    assert!(world.pass(MILLISECOND));
    assert_eq!(world.weights(), [1, 1]);
}

#[test]
fn round_robin_knows_no_weights_but_starts_slowly() {
    let mut world = World::new("round-robin", "10s", &[(1, 7), (2, 3), (3, 0)]);
    assert_eq!(world.weights(), [1, 1, 0]);
    world.take(2, true);
    world.take(2, false);
    assert_eq!(world.weights(), [10, 1, 0]);
}

#[test]
fn who_answers_slowly_gets_less_and_gets_it_back() {
    let mut world = World::new("response-time", "0s", &[(1, 10), (2, 10), (3, 20)]);
    let mut shares = Vec::new();
    for round in 0..40 {
        let slow = if round < 20 { 40 } else { 2 };
        for (octet, took) in [(1, 2), (2, slow), (3, 2)] {
            world.answers(octet, took * MILLISECOND, 5);
        }
        world.pass(ADJUST_EVERY);
        let weights = world.weights();
        assert_eq!(weights[2], 2 * weights[0], "1 and 3 answer alike");
        shares.push(weights[1] * 100 / weights[0]);
    }
    assert_eq!(shares[19], LEAST_PACE);
    assert!(shares[..20].is_sorted_by(|a, b| a >= b) && shares[20..].is_sorted(), "{shares:?}");
    assert_eq!((shares[39], world.weights()), (100, vec![10, 10, 20]));
}

#[test]
fn paces_change_every_ten_seconds_at_most() {
    let mut world = World::new("response-time", "0s", &[(1, 1), (2, 1)]);
    let mut changes = Vec::new();
    for second in 0..60 {
        world.answers(1, MILLISECOND, 1);
        world.answers(2, 50 * MILLISECOND, 1);
        if world.pass(SECOND) {
            changes.push(second);
        }
    }
    assert!(changes.len() >= 3 && changes.windows(2).all(|pair| pair[1] - pair[0] >= 10), "{changes:?}");
}

#[test]
fn one_slow_answer_changes_nothing_much() {
    let mut world = World::new("response-time", "0s", &[(1, 1), (2, 1)]);
    for octet in [1, 2] {
        world.answers(octet, 5 * MILLISECOND, 40);
    }
    world.answers(2, 30 * MILLISECOND, 1);
    assert!(!world.pass(ADJUST_EVERY), "{:?}", world.weights());
}

#[test]
fn handshakes_count_from_the_first_look_and_past_a_reset_of_the_counters() {
    let mut world = World::new("response-time", "0s", &[(1, 1), (2, 1)]);
    world.pass(SECOND);
    let total = |milliseconds: u64, count| HandshakeTimes { nanoseconds: milliseconds * 1_000_000, count };
    // Long ago 2 was slow.
    world.weights.take_handshakes(&key(1), total(1_000, 1_000));
    world.weights.take_handshakes(&key(2), total(900_000, 1_000));
    assert!(!world.pass(ADJUST_EVERY));
    // Since then both have been alike, and the counters of 1 began anew.
    world.weights.take_handshakes(&key(1), total(400, 100));
    world.weights.take_handshakes(&key(2), total(900_400, 1_100));
    assert!(!world.pass(ADJUST_EVERY));
    // Now 1 is slow.
    world.weights.take_handshakes(&key(1), total(10_400, 200));
    world.weights.take_handshakes(&key(2), total(900_800, 1_200));
    assert!(world.pass(ADJUST_EVERY));
    let weights = world.weights();
    assert!(weights[0] < weights[1], "{weights:?}");
}

#[test]
fn what_was_measured_before_a_backend_went_out_is_forgotten() {
    let mut world = World::new("response-time", "0s", &[(1, 1), (2, 1)]);
    for _ in 0..10 {
        world.answers(1, MILLISECOND, 5);
        world.answers(2, 50 * MILLISECOND, 5);
        world.pass(ADJUST_EVERY);
    }
    assert_eq!(world.weights(), [FULL_PACE, LEAST_PACE]);
    world.take(2, true);
    world.take(2, false);
    assert_eq!(world.weights(), [1, 1]);
}

#[test]
fn other_schedulers_do_not_look_at_times() {
    let mut world = World::new("maglev", "0s", &[(1, 1), (2, 1)]);
    for _ in 0..10 {
        world.answers(1, MILLISECOND, 5);
        world.answers(2, 50 * MILLISECOND, 5);
        assert!(!world.pass(ADJUST_EVERY));
    }
    assert_eq!(world.weights(), [1, 1]);
}

/// Backends that get slower the more of the flows they have: paces have to come to rest.
#[test]
fn a_loop_through_the_backends_load_settles() {
    let mut world = World::new("response-time", "0s", &[(1, 1), (2, 1), (3, 1)]);
    let mut last_change = 0;
    for round in 0..200u32 {
        let weights = world.weights();
        let sum: u32 = weights.iter().sum();
        for (octet, capacity) in [(1, 1.0), (2, 1.0), (3, 0.5)] {
            let load = f64::from(weights[usize::from(octet) - 1]) / f64::from(sum) / capacity;
            world.answers(octet, Duration::from_secs_f64(0.002 + 0.02 * load * load), 5);
        }
        if world.pass(ADJUST_EVERY) {
            last_change = round;
        }
    }
    assert!(last_change < 40, "weights still move after {last_change} rounds");
    let weights = world.weights();
    assert!(weights[2] < weights[0] && weights[2] * 4 >= weights[0], "{weights:?}");
}

proptest! {
    /// Answers that differ by chance alone move hardly any slots: chance can do anything, but seldom does.
    #[test]
    fn noise_does_not_flap(seed: u64, milliseconds in 1u32..100) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut world = World::new("response-time", "0s", &[(1, 1), (2, 1), (3, 1), (4, 1)]);
        let mut changes = 0;
        for _ in 0..100 {
            for octet in 1..=4 {
                for _ in 0..5 {
                    let took = milliseconds * MILLISECOND;
                    world.answers(octet, took.mul_f64(rng.random_range(0.85..1.15)), 1);
                }
            }
            changes += u32::from(world.pass(ADJUST_EVERY));
        }
        prop_assert!(changes <= 8, "{changes} changes in 100 rounds");
    }
}

#[test]
fn a_service_that_begins_to_look_at_times_begins_with_none() {
    let mut world = World::new("maglev", "0s", &[(1, 1), (2, 1)]);
    for _ in 0..10 {
        world.answers(1, MILLISECOND, 5);
        world.answers(2, 50 * MILLISECOND, 5);
        world.pass(ADJUST_EVERY);
    }
    world.spec = spec("response-time", "0s", &[(1, 1), (2, 1)]);
    world.follow();
    world.pass(ADJUST_EVERY);
    world.answers(1, MILLISECOND, 500);
    world.answers(2, 50 * MILLISECOND, 500);
    for _ in 0..3 {
        assert!(!world.pass(ADJUST_EVERY), "of the past");
    }
    // Nor does anything of it stay once it looks at them no longer.
    world.answers(1, MILLISECOND, 5);
    world.answers(2, 50 * MILLISECOND, 5);
    assert!(world.pass(ADJUST_EVERY));
    world.spec = spec("maglev", "0s", &[(1, 1), (2, 1)]);
    world.follow();
    assert_eq!(world.weights(), [1, 1]);
}
