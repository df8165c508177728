//! Connections outlive what is done to the balancer: 500 of them, half of them silent, through 300 random changes of
//! backends, backends that die, and a daemon that is killed and upgraded. Only connections to backends that died may
//! break, and those at once.

use std::{
    env,
    net::{IpAddr, SocketAddr},
    thread::sleep,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, bail, ensure};
use fastrand::Rng;
use weir_lab::{
    Family, Lab, Mode, TCP_LINE_PORTS, WeirDaemon,
    client::long_lived::{Break, Connection, How, Kind, LongLived},
    config::Service,
};
use weir_system::{lab, weir_binary};

const BACKENDS: u8 = 6;
/// Connections of each of the four services.
const CONNECTIONS: usize = 125;
/// How often talkers speak.
const PAUSE: std::ops::RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_millis(500);
/// Backends that each service keeps, ready for new connections.
const READY: usize = 3;
/// Changes of backends, besides those of [`Operation`] that are numbered below.
const CHANGES: usize = 265;
/// Deaths and returns of backends.
const DEATHS: usize = 20;
const CRASHES: usize = 10;
const UPGRADES: usize = 5;
/// A death is known by then, also on a busy machine: checks run every 200 ms, two in a row decide.
const NOTICED: Duration = Duration::from_secs(3);
/// How soon a connection ends that speaks to a backend that is gone.
const ENDS: Duration = Duration::from_secs(1);
/// A backend that comes has been checked, and its address resolved, by then.
const COMES: Duration = Duration::from_secs(5);

#[test]
fn connections_of_live_backends_outlive_everything_in_nat() -> Result<()> {
    outlive(Mode::Nat)
}

#[test]
fn connections_of_live_backends_outlive_everything_in_l2() -> Result<()> {
    outlive(Mode::L2)
}

#[test]
fn connections_of_live_backends_outlive_everything_in_ipip() -> Result<()> {
    outlive(Mode::Ipip)
}

fn outlive(mode: Mode) -> Result<()> {
    let Some(builder) = lab()? else { return Ok(()) };
    let seed = seed()?;
    eprintln!("{mode:?}: WEIR_SEED={seed}");
    let lab = builder.clients(3).backends(BACKENDS).mode(mode).build()?;
    let services = services(&lab);
    let weir = lab.weir(&lab.config(&services.clone().map(|service| service.service)))?;
    let mut trial = Trial::new(lab, weir, services, seed)?;
    let run = trial.run();
    run.with_context(|| format!("{mode:?}, WEIR_SEED={seed}, after:\n{}\n{}", trial.diary.join("\n"), trial.weir.log()))
}

/// What `WEIR_SEED` says, or another one each time.
fn seed() -> Result<u64> {
    match env::var("WEIR_SEED") {
        Ok(seed) => seed.parse().context("WEIR_SEED is no number"),
        Err(_) => Ok(SystemTime::UNIX_EPOCH.elapsed()?.as_secs()),
    }
}

/// A service and whether its clients talk.
#[derive(Clone, Debug)]
struct Watched {
    service: Service,
    target: SocketAddr,
    talks: bool,
}

/// In each family one whose clients talk, and which therefore settles within seconds, and one whose clients are silent.
fn services(lab: &Lab) -> [Watched; 4] {
    let make = |family: Family, talks: bool| {
        let (what, port) = if talks { ("talking", TCP_LINE_PORTS[0]) } else { ("silent", TCP_LINE_PORTS[1]) };
        let settle_after = if talks { "3s" } else { "1h" };
        let more = format!("hold = \"0s\"\non_down = \"reset\"\nsettle_after = \"{settle_after}\"");
        let service =
            Service { port: Some(port), more, ..lab.service(&format!("{what}-{family:?}").to_lowercase(), family) };
        Watched { target: SocketAddr::new(family.vip(1), port), service, talks }
    };
    [(Family::V4, true), (Family::V4, false), (Family::V6, true), (Family::V6, false)].map(|(f, talks)| make(f, talks))
}

#[derive(Clone, Copy, Debug)]
enum Operation {
    /// A backend is added, removed, drained, taken back or given another weight; or connections are opened anew.
    Change,
    /// A backend dies, or the one that is dead comes back.
    Death,
    /// The daemon gets SIGKILL and is started again.
    Crash,
    /// The daemon is replaced by its own binary.
    Upgrade,
}

/// How a backend dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    /// Its servers are killed; its kernel closes their connections.
    Killed,
    /// Its cable is pulled, so that nothing more comes from it.
    CutOff,
}

/// A backend of a service, as it ought to be.
#[derive(Clone, Debug)]
struct Member {
    present: bool,
    draining: bool,
    weight: u16,
    /// When it takes new connections, with certainty.
    ready: Instant,
}

struct Trial {
    // Dropped in this order.
    links: LongLived,
    weir: WeirDaemon,
    lab: Lab,
    services: [Watched; 4],
    /// By service and backend.
    members: Vec<Vec<Member>>,
    dead: Option<(usize, Death)>,
    /// Breaks that had to be.
    forgiven: usize,
    random: Rng,
    diary: Vec<String>,
}

impl Trial {
    fn new(lab: Lab, weir: WeirDaemon, services: [Watched; 4], seed: u64) -> Result<Self> {
        let kind = |watched: &Watched| Kind {
            target: watched.target,
            count: CONNECTIONS,
            pause: watched.talks.then_some(PAUSE),
        };
        let links = LongLived::open(&lab, &services.each_ref().map(kind))?;
        let member = Member { present: true, draining: false, weight: 1, ready: Instant::now() };
        let members = vec![vec![member; lab.backends().len()]; services.len()];
        let random = Rng::with_seed(seed);
        Ok(Self { links, weir, lab, services, members, dead: None, forgiven: 0, random, diary: Vec::new() })
    }

    fn run(&mut self) -> Result<()> {
        let counts = [
            (Operation::Change, CHANGES),
            (Operation::Death, DEATHS),
            (Operation::Crash, CRASHES),
            (Operation::Upgrade, UPGRADES),
        ];
        let mut operations: Vec<_> =
            counts.iter().flat_map(|(operation, count)| std::iter::repeat_n(*operation, *count)).collect();
        self.random.shuffle(&mut operations);
        for operation in operations {
            self.operate(operation)?;
            self.nothing_else_breaks()?;
        }
        self.links.speak(&self.links.numbers(|_| true))?;
        self.nothing_else_breaks()?;
        let open = self.links.numbers(|connection| connection.backend.is_some()).len();
        ensure!(open == CONNECTIONS * self.services.len(), "only {open} connections are open");
        eprintln!("{} connections of backends that died have ended", self.forgiven);
        ensure!(self.forgiven >= DEATHS, "hardly anybody died");
        Ok(())
    }

    fn operate(&mut self, operation: Operation) -> Result<()> {
        match operation {
            Operation::Change => self.change(),
            Operation::Death => match self.dead.take() {
                Some((backend, death)) => self.comes_back(backend, death),
                None => self.dies(),
            },
            Operation::Crash => {
                self.note("the daemon is killed".to_owned());
                self.weir.kill9()?;
                let pause = self.random.u64(0..300);
                sleep(Duration::from_millis(pause));
                self.weir.restart()
            }
            Operation::Upgrade => {
                self.note("the daemon is upgraded".to_owned());
                self.weir.upgrade(&weir_binary()?)
            }
        }
    }

    /// A possible change, drawn.
    fn change(&mut self) -> Result<()> {
        loop {
            let (service, backend) = (self.random.usize(0..self.services.len()), self.random.usize(0..BACKENDS.into()));
            let member = self.members[service][backend].clone();
            let spared = self.has_others(service, backend);
            match self.random.u8(0..5) {
                0 if !member.present => return self.add(service, backend),
                0 if spared && self.removed() < 2 => return self.remove(service, backend),
                1 if member.present && !member.draining && spared => return self.drain(service, backend, true),
                1 | 2 if member.present && member.draining => return self.drain(service, backend, false),
                3 if member.present => {
                    let weight = self.random.u16(u16::from(!spared)..4);
                    return self.weigh(service, backend, weight);
                }
                4 => return self.reopen_some(service),
                _ => {}
            }
        }
    }

    /// Whether the service has backends enough without this one.
    fn has_others(&self, service: usize, without: usize) -> bool {
        let dead = self.dead.map(|(backend, _)| backend);
        let takes =
            |member: &Member| member.present && !member.draining && member.weight > 0 && member.ready <= Instant::now();
        let others = self.members[service]
            .iter()
            .enumerate()
            .filter(|(backend, member)| takes(member) && *backend != without && Some(*backend) != dead);
        others.count() >= READY
    }

    /// Backends that are missing in some service.
    fn removed(&self) -> usize {
        self.members.iter().flatten().filter(|member| !member.present).count()
    }

    fn add(&mut self, service: usize, backend: usize) -> Result<()> {
        let address = self.address(service, backend).to_string();
        let weight = self.random.u16(1..4);
        let (name, number) = (self.name(backend), weight.to_string());
        self.backend(service, &["add"], &[&address, "--name", &name, "--weight", &number])?;
        let ready = Instant::now() + COMES;
        self.members[service][backend] = Member { present: true, draining: false, weight, ready };
        Ok(())
    }

    fn remove(&mut self, service: usize, backend: usize) -> Result<()> {
        self.backend(service, &["remove"], &[&self.name(backend)])?;
        self.members[service][backend].present = false;
        Ok(())
    }

    fn drain(&mut self, service: usize, backend: usize, draining: bool) -> Result<()> {
        self.backend(service, &[if draining { "drain" } else { "undrain" }], &[&self.name(backend)])?;
        self.members[service][backend].draining = draining;
        Ok(())
    }

    fn weigh(&mut self, service: usize, backend: usize, weight: u16) -> Result<()> {
        self.backend(service, &["weight"], &[&self.name(backend), &weight.to_string()])?;
        self.members[service][backend].weight = weight;
        Ok(())
    }

    /// Runs `weir backend COMMAND SERVICE ARGUMENTS`.
    fn backend(&mut self, service: usize, command: &[&str], arguments: &[&str]) -> Result<()> {
        let name = self.services[service].service.name.clone();
        let words = [&["backend"], command, &[&name], arguments].concat();
        self.note(words.join(" "));
        self.weir.cli(&words)?;
        Ok(())
    }

    /// A few connections are opened anew, wherever the service sends them now.
    fn reopen_some(&mut self, service: usize) -> Result<()> {
        self.note(format!("connections to {} are opened anew", self.services[service].service.name));
        let target = self.services[service].target;
        let numbers = self.links.numbers(|connection| connection.target == target);
        let some = self.random.choose_multiple(numbers, 10);
        self.links.reopen(&some)
    }

    /// A backend that every service has dies: its connections end as soon as they speak, and are opened anew.
    fn dies(&mut self) -> Result<()> {
        let mut candidates = self.dispensable();
        if candidates.is_empty() {
            self.restore()?;
            candidates = self.dispensable();
        }
        let backend = self.random.choice(candidates).context("no backend may die")?;
        let death = if self.random.bool() { Death::Killed } else { Death::CutOff };
        let name = self.name(backend);
        self.note(format!("{name} dies: {death:?}"));
        let before = Instant::now();
        match death {
            Death::Killed => self.lab.stop_server(backend),
            Death::CutOff => self.lab.plug(backend, false)?,
        }
        self.dead = Some((backend, death));
        for watched in &self.services {
            self.weir.wait_for(&watched.service.name, &name, "down", NOTICED)?;
        }
        let gone = Instant::now();
        // Those that have broken already are known by their breaks.
        self.links.speak(&self.links.numbers(|connection| connection.backend.as_deref() == Some(&name)))?;
        let breaks: Vec<_> = self.links.breaks().split_off(self.forgiven);
        for broken in &breaks {
            has_to_be(broken, &name, before, gone, death)?;
        }
        let left = self.links.numbers(|connection| connection.backend.as_deref() == Some(&name));
        ensure!(left.is_empty(), "{} connections to {name} live on", left.len());
        self.forgiven += breaks.len();
        let numbers: Vec<_> = breaks.iter().map(|broken| broken.connection.number).collect();
        self.diary.push(format!("  {} connections have ended", numbers.len()));
        self.links.reopen(&numbers)
    }

    /// Backends that are up in every service, each of which has others enough.
    fn dispensable(&self) -> Vec<usize> {
        let possible = |backend: &usize| {
            (0..self.services.len()).all(|service| {
                let member = &self.members[service][*backend];
                let is_up = member.present && !member.draining && member.ready <= Instant::now();
                is_up && self.has_others(service, *backend)
            })
        };
        (0..BACKENDS.into()).filter(possible).collect()
    }

    /// Takes every backend back into every service, and waits until they take new connections.
    fn restore(&mut self) -> Result<()> {
        for service in 0..self.services.len() {
            for backend in 0..BACKENDS.into() {
                let member = self.members[service][backend].clone();
                if !member.present {
                    self.add(service, backend)?;
                } else if member.draining {
                    self.drain(service, backend, false)?;
                }
                if member.present && member.weight == 0 {
                    self.weigh(service, backend, 1)?;
                }
            }
        }
        let ready = self.members.iter().flatten().map(|member| member.ready).max();
        sleep(ready.map_or(Duration::ZERO, |ready| ready.saturating_duration_since(Instant::now())));
        self.nothing_else_breaks()
    }

    fn comes_back(&mut self, backend: usize, death: Death) -> Result<()> {
        self.note(format!("{} comes back", self.name(backend)));
        match death {
            Death::Killed => self.lab.start_server(backend)?,
            Death::CutOff => self.lab.plug(backend, true)?,
        }
        for service in 0..self.services.len() {
            self.members[service][backend].ready = Instant::now() + COMES;
        }
        Ok(())
    }

    fn nothing_else_breaks(&self) -> Result<()> {
        let breaks = self.links.breaks().split_off(self.forgiven);
        let Some(first) = breaks.first() else { return Ok(()) };
        bail!("{} connections to live backends broke, first this: {first}", breaks.len());
    }

    fn address(&self, service: usize, backend: usize) -> IpAddr {
        self.services[service].service.members[backend].address
    }

    fn name(&self, backend: usize) -> String {
        self.lab.backends()[backend].name().to_owned()
    }

    fn note(&mut self, what: String) {
        self.diary.push(what);
    }
}

/// Whether it had to break that way when `name` died between `before` and `gone`.
fn has_to_be(broken: &Break, name: &str, before: Instant, gone: Instant, death: Death) -> Result<()> {
    let Connection { backend, .. } = &broken.connection;
    ensure!(backend.as_deref() == Some(name) && broken.at >= before, "another breaks: {broken}");
    let how = match death {
        Death::Killed => broken.how == How::Reset || broken.how == How::Closed,
        Death::CutOff => broken.how == How::Reset,
    };
    ensure!(how, "it does not end as it ought to: {broken}");
    // What was said before is sent again at growing intervals.
    let said = broken.waited.and_then(|waited| broken.at.checked_sub(waited));
    if let Some(said) = said.filter(|said| *said >= gone) {
        ensure!(broken.at - said <= ENDS, "it ends late: {broken}");
    }
    Ok(())
}
