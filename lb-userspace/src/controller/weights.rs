//! The weights that backends have at a moment: those of the configuration, less while a backend starts slowly, and less
//! for one that answers slowly.
//!
//! Every change of a weight moves slots, and moved slots are tracked: so weights go in few and large steps, and not to
//! and fro. Time is an argument, as the monotonic clock has it, and nothing here knows of tables.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use lb_common::abi::{HandshakeTimes, MAX_WEIGHT};

use super::{desired::BackendKey, entry};
use crate::{
    health::Answers,
    spec::{Backend, Scheduler, Service},
    tables::Endpoint,
};

/// Steps in which a backend that starts slowly gets its share.
const STEPS: u32 = 10;

/// A backend's pace is a percentage: what it gets of its share.
const FULL_PACE: u32 = 100;
const _: () = assert!(Backend::MOST_WEIGHT as u32 * STEPS * FULL_PACE <= MAX_WEIGHT, "weights fit their entries");
/// From here on it is as good as full, so that times need not be the same to the last.
const AS_GOOD_AS_FULL: u32 = 97;
/// However slow it answers, it gets this much, or nobody would ever know that it has become faster.
const LEAST_PACE: u32 = 25;
/// Paces of a service are adjusted this often, at most.
const ADJUST_EVERY: Duration = Duration::from_secs(10);
/// A pace that is off by no more than its part of so many stays as it is.
const HYSTERESIS: u32 = 10;
/// What remains of the samples of one adjustment in the next: they count for three quarters of a minute or so.
const REMAINS: f64 = 0.75;
/// A backend's times count as much as so many samples of the service's mean do.
const DOUBT: f64 = 4.0;
/// Backends of one site differ by fractions of a millisecond for reasons that have nothing to do with them, seconds: so
/// much is added to what both of two need before they are compared.
const NOISE: f64 = 0.001;

/// How a backend stands at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It can take new flows.
    In,
    /// It takes none: it is down, drained, out of reach, or its weight is 0.
    Out,
    /// Nobody knows yet: it is as it was.
    NoNews,
}

/// What is known of the weights of all services.
#[derive(Clone, Debug, Default)]
pub struct Weights(BTreeMap<Endpoint, OfService>);

#[derive(Clone, Debug)]
struct OfService {
    backends: BTreeMap<(IpAddr, u16), OfBackend>,
    /// Somebody starts slowly: nobody else's share follows from time alone, and there may be very many of them.
    starting: bool,
    /// When paces were last looked at, if they matter.
    adjusted: Option<Duration>,
}

#[derive(Clone, Debug)]
struct OfBackend {
    state: State,
    /// What it gets of its share for how fast it answers, percent.
    pace: u32,
    checks: Samples,
    handshakes: Samples,
    heard: Heard,
}

/// What was counted of a backend before: it may be of last year, so that only what comes after it is a sample.
#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    /// Health checks were told of before.
    checks: bool,
    /// Handshakes that were told of before.
    handshakes: Option<HandshakeTimes>,
}

/// ```text
///                 came in (all of its share)
///   Awaited ─────────────────────────────────▶ In ◀─────────┐
///      │                                       │            │ after `slow_start`
///      │ out                               out │            │
///      └──────────────▶ Out ◀──────────────────┴──────── Starting
///                        │                                  ▲
///                        └──────────────────────────────────┘
///                                    came in
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Of a service that is new itself: there is nobody who has more than a backend that comes in.
    Awaited,
    Out,
    /// It has so many [`STEPS`] of its share.
    Starting {
        since: Duration,
        step: u32,
    },
    In,
}

/// Times of answers, the older the less they count.
#[derive(Clone, Copy, Debug, Default)]
struct Samples {
    seconds: f64,
    count: f64,
}

/// The weights of a service.
#[derive(Clone, Copy, Debug)]
pub struct OfOne<'a> {
    service: &'a Service,
    known: Option<&'a OfService>,
    /// Somebody starts slowly, so that weights have to tell shares of a share.
    starting: bool,
    /// Somebody has less than its share for its pace.
    paced: bool,
}

impl Weights {
    /// A backend of a service that an earlier daemon served, and whether it took flows. For before the service is first
    /// [followed](Self::follow).
    pub fn adopt(&mut self, backend: &BackendKey, took_flows: bool) {
        let state = if took_flows { State::In } else { State::Out };
        let known = self.0.entry(backend.service).or_insert_with(OfService::new);
        known.backends.insert((backend.address, backend.port), OfBackend::new(state));
    }

    /// Takes in how the backends of a service stand. Those that come in, or back in, start slowly, except at the start of
    /// the service itself.
    pub fn follow(
        &mut self,
        key: &Endpoint,
        service: &Service,
        presence: impl Fn(&Backend) -> Presence,
        now: Duration,
    ) {
        let at_its_start = if self.0.contains_key(key) { State::Out } else { State::Awaited };
        let known = self.0.entry(*key).or_insert_with(OfService::new);
        let mut old = std::mem::take(&mut known.backends);
        for backend in &service.backends {
            let at = (backend.address, entry::own_port(backend));
            let mut of_backend = old.remove(&at).unwrap_or_else(|| OfBackend::new(at_its_start));
            of_backend.follow(presence(backend), service, now);
            known.backends.insert(at, of_backend);
        }
        known.look_for_starting();
        if service.scheduler != Scheduler::ResponseTime {
            known.adjusted = None;
        }
    }

    /// The same for one backend and how it stands. Whether that can have changed no other's weight; if not, the service is
    /// to be followed whole.
    pub fn follow_one(
        &mut self,
        key: &Endpoint,
        service: &Service,
        (backend, presence): (&Backend, Presence),
        now: Duration,
    ) -> bool {
        let Some(known) = self.0.get_mut(key) else { return false };
        let Some(of_backend) = known.backends.get_mut(&(backend.address, entry::own_port(backend))) else {
            return false;
        };
        of_backend.follow(presence, service, now);
        let starts = matches!(of_backend.state, State::Starting { .. });
        !starts && !known.starting && service.scheduler != Scheduler::ResponseTime
    }

    /// Forgets all services but these.
    pub fn retain(&mut self, services: &BTreeMap<Endpoint, &Service>) {
        self.0.retain(|key, _| services.contains_key(key));
    }

    /// What is known of these services, to [restore](Self::restore) it.
    #[must_use]
    pub fn part(&self, services: &BTreeSet<Endpoint>) -> Self {
        Self(services.iter().filter_map(|key| Some((*key, self.0.get(key)?.clone()))).collect())
    }

    /// Puts back what was known of these services: `part`, and nothing else.
    pub fn restore(&mut self, services: &BTreeSet<Endpoint>, part: Self) {
        self.0.retain(|key, _| !services.contains(key));
        self.0.extend(part.0);
    }

    /// Whether it is time for the times that backends have needed, before the next [tick](Self::tick).
    #[must_use]
    pub fn wants_times(&self, now: Duration) -> bool {
        self.0.values().any(|known| known.is_due(now))
    }

    /// Takes in how long answers to a backend's health checks took since this was last told.
    pub fn take_answers(&mut self, backend: &BackendKey, answers: Answers) {
        if let Some(known) = self.timed(backend)
            && std::mem::replace(&mut known.heard.checks, true)
        {
            known.checks.add(answers.total, answers.count.into());
        }
    }

    /// Takes in how long handshakes of clients with a backend took, since its counters began.
    pub fn take_handshakes(&mut self, backend: &BackendKey, total: HandshakeTimes) {
        let Some(known) = self.timed(backend) else { return };
        let Some(counted) = known.heard.handshakes.replace(total) else { return };
        // Counters that have gone back began anew.
        let counted = if counted.count <= total.count { counted } else { HandshakeTimes::default() };
        let nanoseconds = total.nanoseconds.saturating_sub(counted.nanoseconds);
        known.handshakes.add(Duration::from_nanos(nanoseconds), total.count - counted.count);
    }

    /// Takes in that it is `now`. Says of which services the weights have become others.
    pub fn tick(&mut self, services: &BTreeMap<Endpoint, &Service>, now: Duration) -> BTreeSet<Endpoint> {
        let changed = self.0.iter_mut().filter_map(|(key, known)| {
            let service = services.get(key)?;
            let mut changed = false;
            if known.starting {
                for backend in known.backends.values_mut() {
                    changed |= backend.go_on(service.slow_start, now);
                }
                known.look_for_starting();
            }
            if service.scheduler == Scheduler::ResponseTime {
                changed |= known.adjust(now);
            }
            changed.then_some(*key)
        });
        changed.collect()
    }

    /// The weights of a service.
    #[must_use]
    pub fn of<'a>(&'a self, key: &Endpoint, service: &'a Service) -> OfOne<'a> {
        let known = self.0.get(key);
        OfOne {
            service,
            known,
            starting: known.is_some_and(|known| known.starting),
            paced: known.is_some_and(OfService::is_paced),
        }
    }

    /// A backend whose times matter.
    fn timed(&mut self, key: &BackendKey) -> Option<&mut OfBackend> {
        let known = self.0.get_mut(&key.service).filter(|known| known.adjusted.is_some())?;
        known.backends.get_mut(&(key.address, key.port))
    }
}

impl OfOne<'_> {
    /// The weight of a backend, relative to the service's others; 0 if and only if the configuration says so.
    #[must_use]
    pub fn weight(&self, backend: &Backend) -> u32 {
        let configured = match self.service.scheduler {
            Scheduler::RoundRobin => backend.weight.min(1),
            _ => backend.weight,
        };
        let known = self.known.and_then(|known| known.backends.get(&(backend.address, entry::own_port(backend))));
        let steps = match known.map(|known| known.state) {
            Some(State::Starting { step, .. }) => step,
            _ => STEPS,
        };
        let pace = known.map_or(FULL_PACE, |known| known.pace);
        u32::from(configured) * if self.starting { steps } else { 1 } * if self.paced { pace } else { 1 }
    }
}

impl OfService {
    const fn new() -> Self {
        Self { backends: BTreeMap::new(), starting: false, adjusted: None }
    }

    fn look_for_starting(&mut self) {
        self.starting = self.backends.values().any(|backend| matches!(backend.state, State::Starting { .. }));
    }

    /// Whether somebody has less than its share for its pace. There may be very many to ask where paces do not matter.
    fn is_paced(&self) -> bool {
        self.adjusted.is_some() && self.backends.values().any(|backend| backend.pace != FULL_PACE)
    }

    fn is_due(&self, now: Duration) -> bool {
        self.adjusted.is_some_and(|adjusted| now.saturating_sub(adjusted) >= ADJUST_EVERY)
    }

    /// Gives who answers slowly a lower pace, and who no longer does a higher one. Whether any pace has changed.
    ///
    /// Damped in three ways: samples count for many adjustments, a pace goes half of its way at a time, and stays where it
    /// is as long as that is about right.
    fn adjust(&mut self, now: Duration) -> bool {
        self.adjusted.get_or_insert(now);
        if !self.is_due(now) {
            return false;
        }
        self.adjusted = Some(now);
        let is_in = |backend: &&OfBackend| matches!(backend.state, State::In | State::Starting { .. });
        let present = || self.backends.values().filter(is_in);
        let checks = Samples::sum(present().map(|backend| backend.checks));
        let handshakes = Samples::sum(present().map(|backend| backend.handshakes));
        let time = |backend: &OfBackend| backend.checks.mean(checks) + backend.handshakes.mean(handshakes) + NOISE;
        let fastest = present().map(time).fold(f64::INFINITY, f64::min);
        let mut changed = false;
        for backend in self.backends.values_mut() {
            if is_in(&&*backend) {
                changed |= backend.approach(fastest / time(backend));
            }
            backend.checks.fade();
            backend.handshakes.fade();
        }
        changed
    }
}

impl OfBackend {
    fn new(state: State) -> Self {
        let nothing = Samples::default();
        Self { state, pace: FULL_PACE, checks: nothing, handshakes: nothing, heard: Heard::default() }
    }

    fn follow(&mut self, presence: Presence, service: &Service, now: Duration) {
        match (presence, self.state) {
            // What was measured of it tells nothing of what it will be when it comes back.
            (Presence::Out, _) => *self = Self { heard: self.heard, ..Self::new(State::Out) },
            (Presence::In, State::Awaited) => self.state = State::In,
            (Presence::In, State::Out) => self.state = State::starting(service.slow_start, now),
            (Presence::In, State::Starting { .. } | State::In) | (Presence::NoNews, _) => {}
        }
        if service.scheduler != Scheduler::ResponseTime {
            *self = Self::new(self.state);
        }
    }

    /// Takes in that it is `now`. Whether its share is another.
    fn go_on(&mut self, slow_start: Duration, now: Duration) -> bool {
        let State::Starting { since, .. } = self.state else { return false };
        let old = std::mem::replace(&mut self.state, State::after(slow_start, since, now));
        old != self.state
    }

    /// Brings the pace nearer to `target`, a part of the full one. Whether it has changed.
    fn approach(&mut self, target: f64) -> bool {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a percentage from 0 to 100")]
        let target = ((target * f64::from(FULL_PACE)).round() as u32).clamp(LEAST_PACE, FULL_PACE);
        // Who is as fast as any other again gets all of its share back, and not nearly all.
        let target = if target < AS_GOOD_AS_FULL { target } else { FULL_PACE };
        if self.pace == target || is_near(self.pace, target) && target != FULL_PACE {
            return false;
        }
        let half_way = u32::midpoint(self.pace, target);
        self.pace = if is_near(half_way, target) { target } else { half_way };
        true
    }
}

/// Whether a pace need not change.
const fn is_near(pace: u32, target: u32) -> bool {
    pace.abs_diff(target) * HYSTERESIS <= pace
}

impl State {
    const fn starting(slow_start: Duration, now: Duration) -> Self {
        if slow_start.is_zero() { Self::In } else { Self::Starting { since: now, step: 1 } }
    }

    /// Of a backend that came in at `since`: one step at once, and all when `slow_start` is over.
    fn after(slow_start: Duration, since: Duration, now: Duration) -> Self {
        let passed = now.saturating_sub(since);
        match (1..STEPS).find(|step| passed * (STEPS - 1) < slow_start * *step) {
            Some(step) => Self::Starting { since, step },
            None => Self::In,
        }
    }
}

impl Samples {
    fn add(&mut self, total: Duration, count: u64) {
        self.seconds += total.as_secs_f64();
        self.count += f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    }

    fn sum(all: impl Iterator<Item = Self>) -> Self {
        all.fold(Self::default(), |sum, one| Self { seconds: sum.seconds + one.seconds, count: sum.count + one.count })
    }

    /// Seconds that an answer takes: what was measured, and the less was the more of what `all` have in common. 0 if
    /// nothing at all was measured.
    fn mean(&self, all: Self) -> f64 {
        if all.count == 0.0 {
            return 0.0;
        }
        (self.seconds + DOUBT * all.seconds / all.count) / (self.count + DOUBT)
    }

    fn fade(&mut self) {
        self.seconds *= REMAINS;
        self.count *= REMAINS;
    }
}

#[cfg(test)]
mod tests;
