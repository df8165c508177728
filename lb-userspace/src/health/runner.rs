//! The tasks that check backends: one for each, a check at a time.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use rand::{SeedableRng, rngs::SmallRng};
use tokio::{
    sync::{Semaphore, mpsc},
    task::{AbortHandle, JoinSet},
    time,
};
use tracing::{debug, warn};

use super::{Answers, CheckError, Health, Machine, Probe, next_check};
use crate::spec;

/// Checks that run at the same time, at most: each is an open socket, and the usual limit is 1,024 files.
const IN_FLIGHT: usize = 512;
/// Events that may wait for the controller before checks wait for it.
const EVENTS: usize = 1024;

/// A host that can't check says so this often, at most.
const WARN_EVERY: Duration = Duration::from_mins(1);

/// What is to be checked, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where to connect to.
    pub address: SocketAddr,
    /// How often, and how results count.
    pub rules: spec::Health,
}

/// Another state of a backend, or another reason for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<K> {
    /// Which backend.
    pub backend: K,
    /// What is known now.
    pub health: Health,
    /// Tells the events of a backend from those of one that had its key before.
    generation: u64,
}

/// Checks backends, each known by a key, until it is dropped.
pub struct Runner<K> {
    probe: Arc<dyn Probe>,
    running: BTreeMap<K, Running>,
    tasks: JoinSet<()>,
    permits: Arc<Semaphore>,
    warnings: Arc<Warnings>,
    sender: mpsc::Sender<Event<K>>,
    events: mpsc::Receiver<Event<K>>,
    generation: u64,
}

struct Running {
    target: Target,
    answers: Arc<Mutex<Answers>>,
    generation: u64,
    task: AbortHandle,
}

impl<K: Clone + Ord + Send + 'static> Runner<K> {
    /// A runner that checks nothing yet.
    #[must_use]
    pub fn new(probe: Arc<dyn Probe>) -> Self {
        let (sender, events) = mpsc::channel(EVENTS);
        let permits = Arc::new(Semaphore::new(IN_FLIGHT));
        let warnings = Arc::default();
        Self {
            probe,
            running: BTreeMap::new(),
            tasks: JoinSet::new(),
            permits,
            warnings,
            sender,
            events,
            generation: 0,
        }
    }

    /// Checks exactly `targets` from now on. Checks that go on undisturbed are those whose target is as it was; others
    /// begin at once, from what `known` says of the backend.
    pub fn follow(&mut self, targets: BTreeMap<K, Target>, known: impl Fn(&K) -> Health) {
        self.running.retain(|key, running| {
            let goes_on = targets.get(key) == Some(&running.target);
            if !goes_on {
                running.task.abort();
            }
            goes_on
        });
        for (key, target) in targets {
            if !self.running.contains_key(&key) {
                self.start(key.clone(), target, known(&key));
            }
        }
        while self.tasks.try_join_next().is_some() {}
    }

    /// The next event. Never ends; cancelling it loses nothing.
    pub async fn event(&mut self) -> Event<K> {
        loop {
            // The runner holds a sender itself, so the channel does not close.
            if let Some(event) = self.events.recv().await
                && self.is_current(&event)
            {
                return event;
            }
        }
    }

    /// The next event, if there is one already.
    pub fn event_now(&mut self) -> Option<Event<K>> {
        while let Ok(event) = self.events.try_recv() {
            if self.is_current(&event) {
                return Some(event);
            }
        }
        None
    }

    /// How long answers took since this was last asked, of backends that answered.
    pub fn take_answers(&self) -> impl Iterator<Item = (&K, Answers)> {
        self.running.iter().filter_map(|(key, running)| {
            let answers = std::mem::take(&mut *running.answers.lock().unwrap_or_else(PoisonError::into_inner));
            (answers.count > 0).then_some((key, answers))
        })
    }

    fn is_current(&self, event: &Event<K>) -> bool {
        self.running.get(&event.backend).is_some_and(|running| running.generation == event.generation)
    }

    fn start(&mut self, key: K, target: Target, known: Health) {
        self.generation += 1;
        let answers = Arc::default();
        let checks = Checks {
            key: key.clone(),
            target: target.clone(),
            machine: Machine::new(known),
            answers: Arc::clone(&answers),
            generation: self.generation,
            probe: Arc::clone(&self.probe),
            permits: Arc::clone(&self.permits),
            warnings: Arc::clone(&self.warnings),
            sender: self.sender.clone(),
        };
        let task = self.tasks.spawn(checks.run());
        self.running.insert(key, Running { target, answers, generation: self.generation, task });
    }
}

/// The checks of one backend.
struct Checks<K> {
    key: K,
    target: Target,
    machine: Machine,
    answers: Arc<Mutex<Answers>>,
    generation: u64,
    probe: Arc<dyn Probe>,
    permits: Arc<Semaphore>,
    warnings: Arc<Warnings>,
    sender: mpsc::Sender<Event<K>>,
}

impl<K: Clone> Checks<K> {
    /// Checks for ever, the first time at once.
    async fn run(mut self) {
        let mut rng = SmallRng::from_os_rng();
        let rules = self.target.rules;
        // Only a closed semaphore refuses, and nobody closes it.
        while let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await {
            let began = time::Instant::now();
            let result = self.probe.check(self.target.address, rules.timeout).await;
            drop(permit);
            let result = match result {
                Ok(()) => {
                    note_answer(&self.answers, began.elapsed());
                    Some(Ok(()))
                }
                Err(CheckError::Failed(reason)) => Some(Err(reason)),
                Err(CheckError::Local(error)) => {
                    self.warnings.cannot_check(self.target.address, &error);
                    None
                }
            };
            if result.is_some_and(|result| self.machine.observe(&result, &rules, SystemTime::now())) {
                let (backend, health) = (self.key.clone(), self.machine.health().clone());
                debug!("{} is {:?}", self.target.address, health.state);
                if self.sender.send(Event { backend, health, generation: self.generation }).await.is_err() {
                    return;
                }
            }
            time::sleep_until(next_check(began.into_std(), &rules, &mut rng).into()).await;
        }
    }
}

fn note_answer(answers: &Mutex<Answers>, took: Duration) {
    let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
    answers.total = answers.total.saturating_add(took);
    answers.count = answers.count.saturating_add(1);
}

/// When the log last said that this host can't check.
#[derive(Default)]
struct Warnings(Mutex<Option<time::Instant>>);

impl Warnings {
    fn cannot_check(&self, address: SocketAddr, error: &io::Error) {
        if self.is_due(time::Instant::now()) {
            warn!("can't check {address} and maybe others, whose health stays as it was: {error}");
        }
    }

    /// Whether to warn at `now`, which counts as done then.
    fn is_due(&self, now: time::Instant) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|last| now.duration_since(last) >= WARN_EVERY);
        if due {
            *last = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use async_trait::async_trait;

    use super::{super::State, *};

    /// Takes a second for each answer; refuses on odd ports.
    #[derive(Default)]
    struct Slow {
        now: AtomicUsize,
        most: AtomicUsize,
        all: AtomicUsize,
    }

    #[async_trait]
    impl Probe for Slow {
        async fn check(&self, address: SocketAddr, _: Duration) -> Result<(), CheckError> {
            self.all.fetch_add(1, SeqCst);
            self.most.fetch_max(self.now.fetch_add(1, SeqCst) + 1, SeqCst);
            time::sleep(Duration::from_secs(1)).await;
            self.now.fetch_sub(1, SeqCst);
            if address.port().is_multiple_of(2) { Ok(()) } else { Err(CheckError::Failed("refused".to_owned())) }
        }
    }

    fn target(port: u16) -> Target {
        let rules = spec::Health {
            port: None,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(10),
            rise: 1,
            fall: 1,
            jitter: 10,
        };
        Target { address: ([192, 0, 2, 1], port).into(), rules }
    }

    fn targets(ports: std::ops::Range<u16>) -> BTreeMap<u16, Target> {
        ports.map(|port| (port, target(port))).collect()
    }

    /// The targets of these ports, of whose health nothing is known.
    fn follow(runner: &mut Runner<u16>, ports: std::ops::Range<u16>) {
        runner.follow(targets(ports), |_| Health::unknown(SystemTime::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_checks_go_out_at_once_and_side_by_side() {
        let probe = Arc::new(Slow::default());
        let mut runner = Runner::new(Arc::<Slow>::clone(&probe));
        let began = time::Instant::now();
        follow(&mut runner, 0..300);
        for _ in 0..300 {
            let event = runner.event().await;
            let state = if event.backend % 2 == 0 { State::Up } else { State::Down };
            assert_eq!(event.health.state, state);
        }
        assert_eq!((began.elapsed().as_secs(), probe.most.load(SeqCst)), (1, 300));
    }

    /// Lacks descriptors but for each third check, which fails.
    #[derive(Default)]
    struct Starved(AtomicUsize);

    #[async_trait]
    impl Probe for Starved {
        async fn check(&self, _: SocketAddr, _: Duration) -> Result<(), CheckError> {
            if (self.0.fetch_add(1, SeqCst) + 1).is_multiple_of(3) {
                return Err(CheckError::Failed("refused".to_owned()));
            }
            Err(CheckError::Local(io::Error::from_raw_os_error(24)))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_cannot_check_learns_nothing_and_goes_on_checking() {
        let probe = Arc::new(Starved::default());
        let mut runner = Runner::new(Arc::<Starved>::clone(&probe));
        runner.follow(targets(0..1), |_| Health::adopted(true, SystemTime::now()));
        let event = runner.event().await;
        assert_eq!((event.health.state, event.health.results), (State::Down, 1));
        assert_eq!(probe.0.load(SeqCst), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn the_warning_comes_once_a_minute() {
        let (warnings, began) = (Warnings::default(), time::Instant::now());
        let due: Vec<u64> = (0..180).filter(|&s| warnings.is_due(began + Duration::from_secs(s))).collect();
        assert_eq!(due, [0, 60, 120]);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_the_limit_run_at_a_time() {
        let probe = Arc::new(Slow::default());
        let mut runner = Runner::new(Arc::<Slow>::clone(&probe));
        follow(&mut runner, 0..1200);
        for _ in 0..1200 {
            runner.event().await;
        }
        assert_eq!(probe.most.load(SeqCst), IN_FLIGHT);
    }

    #[tokio::test(start_paused = true)]
    async fn targets_that_stay_are_checked_on_and_those_that_go_are_not() {
        let probe = Arc::new(Slow::default());
        let mut runner = Runner::new(Arc::<Slow>::clone(&probe));
        follow(&mut runner, 0..2);
        time::sleep(Duration::from_millis(95_500)).await;
        let ten_rounds = probe.all.load(SeqCst);
        assert!((18..=22).contains(&ten_rounds), "{ten_rounds}");
        follow(&mut runner, 1..2);
        assert_eq!(probe.all.load(SeqCst), ten_rounds, "following the same target again checks nothing anew");
        time::sleep(Duration::from_secs(100)).await;
        let twenty_rounds = probe.all.load(SeqCst) - ten_rounds;
        assert!((9..=12).contains(&twenty_rounds), "{twenty_rounds}");
    }

    #[tokio::test(start_paused = true)]
    async fn how_long_answers_took_is_told_once_and_only_of_those_that_came() {
        let mut runner = Runner::new(Arc::new(Slow::default()));
        follow(&mut runner, 0..2);
        time::sleep(Duration::from_millis(95_500)).await;
        let answers: Vec<_> = runner.take_answers().map(|(backend, answers)| (*backend, answers)).collect();
        let [(0, Answers { total, count })] = answers[..] else { panic!("{answers:?}") };
        assert!((9..=11).contains(&count) && total == Duration::from_secs(count.into()), "{answers:?}");
        assert_eq!(runner.take_answers().count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_found_of_a_backend_that_is_gone_is_not_told() {
        let mut runner = Runner::new(Arc::new(Slow::default()));
        follow(&mut runner, 0..2);
        time::sleep(Duration::from_secs(2)).await;
        follow(&mut runner, 1..2);
        assert_eq!(runner.event_now().map(|event| event.backend), Some(1));
        assert_eq!(runner.event_now(), None);
    }
}
