//! One row after the other.

use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    os::fd::{AsFd as _, AsRawFd as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::MapData;
use tempfile::TempDir;
use weir::tables::Tables;

use super::{
    check::check,
    daemon::Daemon,
    floors,
    place::Place,
    report::{FLOOR, Rounds, RowReport},
    rows::Row,
    setting::{Setting, WEIGHT},
    slots::{Seen, Slots},
    sweep,
};

/// Time after which what has not happened will not.
const PATIENCE: Duration = Duration::from_mins(1);
/// Time for which an idle daemon is looked at.
const IDLE: Duration = Duration::from_secs(15);

/// Measures rows.
pub struct Bench {
    weir: PathBuf,
    rounds: u32,
}

impl Bench {
    /// Of the binary `weir`, each figure so many times.
    #[must_use]
    pub fn new(weir: &Path, rounds: u32) -> Self {
        Self { weir: weir.to_owned(), rounds }
    }

    /// Measures a row. Its report has figures or an error.
    #[must_use]
    pub fn row(&self, row: &Row) -> RowReport {
        let name = row.to_string();
        match self.measure(row) {
            Ok(rounds) => RowReport { name, figures: rounds.figures(), error: None },
            Err(error) => RowReport { name, figures: Vec::new(), error: Some(format!("{error:#}")) },
        }
    }

    fn measure(&self, row: &Row) -> Result<Rounds> {
        match row {
            Row::SweepAndKeep(flows) => sweep::keep(*flows, self.rounds),
            Row::SweepAndDelete(flows) => sweep::delete(*flows, self.rounds),
            Row::Cold(setting) => self.cold(setting),
            Row::Restart(setting) => self.restart(setting),
            Row::Weight(setting) => self.change(setting, Change::Weight),
            Row::Drain(setting) => self.change(setting, Change::Drain),
            Row::DeathInOne(setting) => self.death_in_one(setting),
            Row::DeathInAll(setting) => self.death_in_all(setting),
            Row::Memory(setting) => self.memory(setting),
            Row::Idle(setting) => self.idle(setting),
        }
    }

    fn cold(&self, setting: &Setting) -> Result<Rounds> {
        let mut rounds = Rounds::default();
        for _ in 0..self.rounds {
            let stage = Stage::set(&self.weir)?;
            let (daemon, took) = stage.start(&self.weir, setting)?;
            rounds.add("first answer", "ms", ms(took));
            rounds.add("CPU until then", "ms", ms(daemon.usage()?.0));
            if setting.services > 0 {
                check(&daemon.reader()?.tables()?, setting, &BTreeMap::new())?;
                rounds.add(FLOOR, "ms", ms(floors::fill_and_store(setting, setting.services)?));
            }
            daemon.detach()?;
        }
        Ok(rounds)
    }

    fn restart(&self, setting: &Setting) -> Result<Rounds> {
        let mut rounds = Rounds::default();
        let stage = Stage::set(&self.weir)?;
        let (mut daemon, _) = stage.start(&self.weir, setting)?;
        let before = daemon.reader()?.tables()?;
        for _ in 0..self.rounds {
            daemon.stop()?;
            let (next, took) = stage.start(&self.weir, setting)?;
            rounds.add("first answer", "ms", ms(took));
            rounds.add("CPU until then", "ms", ms(next.usage()?.0));
            ensure!(next.reader()?.tables()? == before, "the tables are not those of before");
            daemon = next;
        }
        daemon.detach()?;
        Ok(rounds)
    }

    /// Each round changes one backend by the command line, then back by the API.
    fn change(&self, setting: &Setting, change: Change) -> Result<Rounds> {
        let mut rounds = Rounds::default();
        let stage = Stage::set(&self.weir)?;
        let (daemon, _) = stage.start(&self.weir, setting)?;
        let (reader, slots, memory) = (daemon.reader()?, daemon.slots()?, floors::memory(setting.slots() as usize));
        let service = setting.services / 2;
        let backend = setting.backends / 3;
        let (service_name, backend_name) = (format!("s{service}"), format!("b{backend}"));
        let place = (service, setting.address(service, backend));
        let first = first_slot(&reader.tables()?, setting, service)?;
        let range = first..first + setting.slots();
        for _ in 0..self.rounds {
            let before = slots.current(range.clone());
            let (began, took, last) =
                watched(&slots, range.clone(), || daemon.cli(&change.command(&service_name, &backend_name)))?;
            let (seen, moved) = last.context("no slot has moved")?;
            rounds.add("command", "ms", ms(took));
            rounds.add("command to last slot", "ms", ms(seen.at - began));
            rounds.add("moved", "slots", moved.into());
            check(&reader.tables()?, setting, &[(place, change.weight())].into())?;
            let changed = slots.current(range.clone()).into_iter().zip(0u32..).zip(&before);
            let changed: Vec<u32> =
                changed.filter(|((now, _), before)| now != *before).map(|((_, slot), _)| slot).collect();
            rounds.add(FLOOR, "ms", ms(floors::refill_and_store(setting, changed.into_iter(), &memory)?));

            let (began, took, last) = watched(&slots, range.clone(), || {
                let began = Instant::now();
                match change {
                    Change::Weight => daemon.ask(async |c| c.set_weight(&service_name, &backend_name, WEIGHT).await)?,
                    Change::Drain => daemon.ask(async |c| c.undrain(&service_name, &backend_name).await)?,
                };
                Ok(began.elapsed())
            })?;
            let (seen, _) = last.context("no slot has moved back")?;
            rounds.add("request", "ms", ms(took));
            rounds.add("request to last slot", "ms", ms(seen.at - began));
            check(&reader.tables()?, setting, &BTreeMap::new())?;
            ensure!(slots.current(range.clone()) == before, "the slots are not those of before");
        }
        daemon.detach()?;
        Ok(rounds)
    }

    fn death_in_one(&self, setting: &Setting) -> Result<Rounds> {
        let mut rounds = Rounds::default();
        let mut stage = Stage::set(&self.weir)?;
        stage.place.serve((0..setting.backends).map(|backend| setting.address(0, backend)))?;
        let (daemon, _) = stage.start(&self.weir, setting)?;
        let (reader, slots, memory) = (daemon.reader()?, daemon.slots()?, floors::memory(setting.slots() as usize));
        until(|| Ok(check(&reader.tables()?, setting, &BTreeMap::new()).is_ok()))
            .context("not all backends came up")?;
        let first = first_slot(&reader.tables()?, setting, 0)?;
        let range = first..first + setting.slots();
        // The first in the order of the floor.
        let dead = setting.address(0, 0);
        for _ in 0..self.rounds {
            let before = slots.current(range.clone());
            let gone = [((0, dead), 0)].into();
            let logged = daemon.logged()?;
            let (_, (), last) = watched(&slots, range.clone(), || {
                stage.place.kill(dead);
                until(|| Ok(daemon.said(logged, "backend s0/b0 is down").is_ok()))
            })?;
            let (seen, moved) = last.context("no slot has moved")?;
            check(&reader.tables()?, setting, &gone)?;
            let decided = daemon.said(logged, &format!("{dead}:{} is Down", super::setting::CHECK_PORT))?;
            rounds.add("decision to last slot", "ms", ms(since(decided, seen)?));
            rounds.add("moved", "slots", moved.into());
            let changed = slots.current(range.clone()).into_iter().zip(0u32..).zip(&before);
            let changed: Vec<u32> =
                changed.filter(|((now, _), before)| now != *before).map(|((_, slot), _)| slot).collect();
            rounds.add(FLOOR, "ms", ms(floors::refill_and_store(setting, changed.into_iter(), &memory)?));
            stage.place.serve([dead].into_iter())?;
            until(|| Ok(slots.current(range.clone()) == before)).context("it did not come back")?;
        }
        daemon.detach()?;
        Ok(rounds)
    }

    fn death_in_all(&self, setting: &Setting) -> Result<Rounds> {
        let mut rounds = Rounds::default();
        let stage = Stage::set(&self.weir)?;
        let (daemon, _) = stage.start(&self.weir, setting)?;
        let (reader, slots) = (daemon.reader()?, daemon.slots()?);
        let all = 0..setting.services * setting.slots();
        let memory: Vec<AtomicU64> = floors::memory(slots.len());
        let before = slots.current(all.clone());
        let dead = setting.address(0, 0);
        let named = naming(&reader.tables()?, dead);
        let weights: BTreeMap<_, _> = (0..setting.services).map(|service| ((service, dead), 0)).collect();
        for _ in 0..self.rounds {
            let logged = daemon.logged()?;
            stage.place.cut(dead, true)?;
            let seen = slots.wait_until_all_left(&named, PATIENCE)?;
            let decided = daemon.said(logged, "the network is seen anew")?;
            rounds.add("decision to last slot", "ms", ms(since(decided, seen)?));
            until(|| Ok(check(&reader.tables()?, setting, &weights).is_ok()))
                .context("the tables do not become right")?;
            let now = slots.current(all.clone());
            let changed: Vec<u32> = now
                .iter()
                .zip(&before)
                .zip(0u32..)
                .filter(|((now, before), _)| now != before)
                .map(|(_, slot)| slot)
                .collect();
            rounds.add("moved", "slots", u32::try_from(changed.len())?.into());
            rounds.add(FLOOR, "ms", ms(floors::refill_and_store(setting, changed.into_iter(), &memory)?));
            stage.place.cut(dead, false)?;
            until(|| Ok(slots.current(all.clone()) == before)).context("it did not come back")?;
        }
        daemon.detach()?;
        Ok(rounds)
    }

    fn memory(&self, setting: &Setting) -> Result<Rounds> {
        let mut rounds = Rounds::default();
        let stage = Stage::set(&self.weir)?;
        let (daemon, _) = stage.start(&self.weir, setting)?;
        check(&daemon.reader()?.tables()?, setting, &BTreeMap::new())?;
        let mut names: Vec<_> =
            fs::read_dir(daemon.pins().join("maps"))?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        names.sort();
        for path in names {
            let map = MapData::from_pin(&path)?;
            let facts = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd()))?;
            let bytes = facts.lines().find_map(|line| line.strip_prefix("memlock:")).context("no memlock")?.trim();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            rounds.add(name, "MB", bytes.parse::<f64>()? / 1e6);
        }
        rounds.add("daemon", "MB", f64::from(u32::try_from(daemon.usage()?.1 / 1000)?) / 1e3);
        daemon.detach()?;
        Ok(rounds)
    }

    fn idle(&self, setting: &Setting) -> Result<Rounds> {
        let mut rounds = Rounds::default();
        let stage = Stage::set(&self.weir)?;
        let (daemon, _) = stage.start(&self.weir, setting)?;
        check(&daemon.reader()?.tables()?, setting, &BTreeMap::new())?;
        for _ in 0..self.rounds {
            let ((before, _), began) = (daemon.usage()?, Instant::now());
            thread::sleep(IDLE);
            let used = daemon.usage()?.0.saturating_sub(before);
            rounds.add("CPU", "s/min", used.as_secs_f64() * 60.0 / began.elapsed().as_secs_f64());
        }
        daemon.detach()?;
        Ok(rounds)
    }
}

/// A place, and a directory on a disk for the daemon's state.
struct Stage {
    place: Place,
    state: TempDir,
}

impl Stage {
    fn set(weir: &Path) -> Result<Self> {
        Ok(Self { place: Place::build(weir)?, state: TempDir::with_prefix("weir-bench-")? })
    }

    fn start(&self, weir: &Path, setting: &Setting) -> Result<(Daemon, Duration)> {
        Daemon::start(&self.place, weir, setting, self.state.path())
    }
}

/// A change of one backend.
#[derive(Clone, Copy)]
enum Change {
    Weight,
    Drain,
}

impl Change {
    fn command<'a>(self, service: &'a str, backend: &'a str) -> Vec<&'a str> {
        match self {
            Self::Weight => vec!["backend", "weight", service, backend, "20"],
            Self::Drain => vec!["backend", "drain", service, backend],
        }
    }

    /// What the backend weighs then.
    const fn weight(self) -> u16 {
        match self {
            Self::Weight => 2 * WEIGHT,
            Self::Drain => 0,
        }
    }
}

/// When a job began, what it answered, and what was seen of the last slot that moved and of how many did.
type Watched<T> = (Instant, T, Option<(Seen, u32)>);

/// Does `job` while `range` is watched.
fn watched<T>(slots: &Slots, range: std::ops::Range<u32>, job: impl FnOnce() -> Result<T>) -> Result<Watched<T>> {
    let stop = AtomicBool::new(false);
    let before = slots.current(range.clone());
    thread::scope(|scope| {
        let watcher = scope.spawn(|| slots.watch(range, before, &stop));
        let began = Instant::now();
        let answer = job();
        stop.store(true, Ordering::Release);
        let last = watcher.join().map_err(|_| anyhow::anyhow!("the watcher panicked"))?;
        Ok((began, answer?, last))
    })
}

/// Waits until `done` says so.
fn until(mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let began = Instant::now();
    while !done()? {
        ensure!(began.elapsed() < PATIENCE, "it has not happened within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Where a service's slots begin.
fn first_slot(tables: &Tables, setting: &Setting, service: u32) -> Result<u32> {
    let vip = setting.vip(service);
    let found = tables.services.iter().find(|(key, _)| !key.is_vip_marker() && key.address == vip);
    found.map(|(_, service)| service.first_slot).context("there is no such service")
}

/// The slots whose new flows go to `address`, and the id that it has there.
fn naming(tables: &Tables, address: Ipv4Addr) -> Vec<(u32, u32)> {
    let is_it = |id: &u32| tables.backends.get(id).is_some_and(|backend| backend.address[..4] == address.octets());
    let all = tables.slots.iter().flat_map(|(first, words)| (*first..).zip(words.iter().map(|word| word.current())));
    all.filter(|(_, id)| is_it(id)).collect()
}

fn since(decided: SystemTime, seen: Seen) -> Result<Duration> {
    seen.wall.duration_since(decided).context("the slots were rewritten before the daemon decided")
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
