//! The health of one backend as a pure state machine: check results and the time go in, transitions come out.

use std::time::{Instant, SystemTime};

use rand::Rng;

use super::{Health, State};
use crate::spec;

/// Health of one backend.
///
/// ```text
///                      fall failures in a row
///            success        ┌──────────┐
/// Unknown ─────────────▶ Up │          ▼
///    │                    ▲ └───    Down
///    │                    │          │ ▲
///    │                    └──────────┘ │
///    │            rise successes in a row
///    └─────────────────────────────────┘
///                   failure
/// ```
///
/// The first result of a backend of which nothing is known decides at once: there is no better guess to defend.
#[derive(Clone, Debug)]
pub struct Machine {
    health: Health,
    /// Results in a row that contradict the state.
    against: u32,
}

impl Machine {
    /// A backend of which `health` is known.
    #[must_use]
    pub const fn new(health: Health) -> Self {
        Self { health, against: 0 }
    }

    /// What is known now.
    #[must_use]
    pub const fn health(&self) -> &Health {
        &self.health
    }

    /// Takes in the result of a check that ended at `now`, an error being the reason of the failure. Says whether
    /// [`Machine::health`] is different now: another state, or another reason to be down.
    pub fn observe(&mut self, result: &Result<(), String>, rules: &spec::Health, now: SystemTime) -> bool {
        let (state, reason, needed) = match result {
            Ok(()) => (State::Up, "health check succeeded", rules.rise),
            Err(reason) => (State::Down, reason.as_str(), rules.fall),
        };
        if state == self.health.state {
            self.against = 0;
            let news = state == State::Down && self.health.reason != reason;
            if news {
                reason.clone_into(&mut self.health.reason);
            }
            return news;
        }
        self.against += 1;
        if self.health.state != State::Unknown && self.against < needed {
            return false;
        }
        self.health = Health { state, reason: reason.to_owned(), since: now, results: self.against };
        self.against = 0;
        true
    }
}

/// When the check after one that began at `began` is due: an interval later, made longer or shorter at random by up to
/// [`spec::Health::jitter`] percent so that checks do not fall into step.
pub fn next_check(began: Instant, rules: &spec::Health, rng: &mut impl Rng) -> Instant {
    let jitter = f64::from(rules.jitter) / 100.0;
    began + rules.interval.mul_f64(1.0 + rng.random_range(-jitter..=jitter))
}

impl Health {
    /// Nothing is known.
    #[must_use]
    pub fn unknown(now: SystemTime) -> Self {
        Self { state: State::Unknown, reason: "not checked yet".to_owned(), since: now, results: 0 }
    }

    /// The service has no health checks: always up.
    #[must_use]
    pub fn unchecked(now: SystemTime) -> Self {
        Self { state: State::Up, reason: "health checks are off".to_owned(), since: now, results: 0 }
    }

    /// What an earlier daemon knew.
    #[must_use]
    pub fn adopted(up: bool, now: SystemTime) -> Self {
        let (state, reason) = if up { (State::Up, "up") } else { (State::Down, "down") };
        let reason = format!("{reason} when the daemon started");
        Self { state, reason, since: now, results: 0 }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    fn rules(rise: u32, fall: u32) -> spec::Health {
        let second = Duration::from_secs(1);
        spec::Health { port: None, interval: second, timeout: second, rise, fall, jitter: 20 }
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn refused() -> Result<(), String> {
        Err("connection refused".to_owned())
    }

    #[test]
    fn the_first_result_decides_when_nothing_is_known() {
        for (result, state) in [(Ok(()), State::Up), (refused(), State::Down)] {
            let mut machine = Machine::new(Health::unknown(at(0)));
            assert!(machine.observe(&result, &rules(5, 5), at(1)));
            assert_eq!((machine.health().state, machine.health().since), (state, at(1)));
            assert_eq!(machine.health().results, 1);
        }
    }

    #[test]
    fn it_takes_fall_failures_and_rise_successes_in_a_row() {
        let rules = rules(2, 3);
        let mut machine = Machine::new(Health::adopted(true, at(0)));
        let results =
            [refused(), refused(), Ok(()), refused(), refused(), refused(), Ok(()), refused(), Ok(()), Ok(())];
        let news = results.iter().zip(1..).map(|(result, second)| machine.observe(result, &rules, at(second)));
        let changed: Vec<usize> = news.enumerate().filter_map(|(i, is_news)| is_news.then_some(i)).collect();
        assert_eq!(changed, [5, 9]);
        assert_eq!((machine.health().state, machine.health().since), (State::Up, at(10)));
    }

    #[test]
    fn a_new_reason_to_be_down_is_news_but_no_transition() {
        let mut machine = Machine::new(Health::unknown(at(0)));
        machine.observe(&refused(), &rules(1, 1), at(1));
        assert!(!machine.observe(&refused(), &rules(1, 1), at(2)));
        assert!(machine.observe(&Err("timed out after 1s".to_owned()), &rules(1, 1), at(3)));
        assert_eq!((machine.health().reason.as_str(), machine.health().since), ("timed out after 1s", at(1)));
    }

    #[test]
    fn jitter_spreads_checks_over_the_whole_of_its_range_and_no_further() {
        let (began, mut rng) = (Instant::now(), StdRng::seed_from_u64(1));
        let delays: Vec<Duration> = (0..1000).map(|_| next_check(began, &rules(1, 1), &mut rng) - began).collect();
        let (shortest, longest) = (delays.iter().min().unwrap(), delays.iter().max().unwrap());
        assert!((0.80..0.81).contains(&shortest.as_secs_f64()), "{shortest:?}");
        assert!((1.19..=1.20).contains(&longest.as_secs_f64()), "{longest:?}");
    }

    proptest! {
        /// The oracle looks at the whole history afresh: the state is that of the last run of equal results that was
        /// long enough to count.
        #[test]
        fn the_state_is_that_of_the_last_run_long_enough(
            results in prop::collection::vec(any::<bool>(), 1..60), rise in 1u32..5, fall in 1u32..5,
        ) {
            let mut machine = Machine::new(Health::unknown(at(0)));
            for (i, &ok) in results.iter().enumerate() {
                machine.observe(&if ok { Ok(()) } else { refused() }, &rules(rise, fall), at(0));
                let runs = results[..=i].chunk_by(|a, b| a == b).collect::<Vec<_>>();
                let long_enough = |run: &&&[bool]| run.len() >= if run[0] { rise } else { fall } as usize;
                let expected = runs.iter().rev().find(long_enough).map_or(results[0], |run| run[0]);
                let first_opposite_counts = runs.iter().any(|run| long_enough(&run));
                let expected = if first_opposite_counts { expected } else { results[0] };
                prop_assert_eq!(machine.health().state == State::Up, expected);
            }
        }
    }
}
