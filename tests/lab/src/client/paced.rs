//! Short connections to the line servers at a rate that does not depend on how fast they are answered.
//!
//! Each connection has a time at which it is due, and its latency begins then, whether or not its client could open it at
//! that time: who is held up holds up nobody's clock. How late clients were is measured, too.

use std::{
    net::SocketAddr,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};
use tokio::{io::unix::AsyncFd, runtime, task::JoinSet};

use super::{
    connection::{self, Failure, Tally},
    from_each,
    wrk::Report,
};
use crate::Lab;

/// Until the first connection is due: by then all clients wait for it.
const HEAD_START: Duration = Duration::from_millis(20);
const NANOSECONDS: u64 = 1_000_000_000;
/// The golden ratio as a fraction of 2^64: no two of its multiples are close to each other for long.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// A run of short connections, evenly over its time, and each a little later than even, the same every time: otherwise a
/// rate could beat in time with the kernel's clock tick, which then would always or never be in the way, and count a CPU as
/// busy or idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paced {
    /// Connections a second of all clients together, 1 or more.
    pub rate: u32,
    /// How long.
    pub time: Duration,
}

impl Paced {
    /// Connects from all of the lab's clients in turn, each to a target by its number, from 0: what they saw together, where
    /// `requests` are connections with an answer, and latencies begin when the connection is due.
    ///
    /// A client whose ports are to last needs the setting `ipv4/tcp_tw_reuse`.
    ///
    /// # Errors
    /// A client can't work at all, or not one connection had an answer. Connections that fail or are late are no error: they
    /// are counted.
    pub fn run_each(self, lab: &Lab, target: impl Fn(usize) -> SocketAddr) -> Result<Report> {
        ensure!(self.rate > 0, "a rate of 0 is none");
        let begin = Instant::now() + HEAD_START;
        let clients = lab.clients().len();
        let tallies = from_each(lab, |number| {
            let target = target(number);
            move || {
                let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(open_each(target, self.due_of(begin, number, clients), begin + self.time))
            }
        })?;
        connection::report(tallies, begin.elapsed())
    }

    /// When the connections of client `number` are due, of so many `clients` that take turns.
    fn due_of(self, begin: Instant, number: usize, clients: usize) -> impl Iterator<Item = Instant> {
        let rate = u64::from(self.rate);
        let due = move |connection: u64| {
            let later = ((connection.wrapping_mul(GOLDEN) >> 32) * (NANOSECONDS / rate)) >> 32;
            Duration::from_nanos(connection * NANOSECONDS / rate + later)
        };
        let all = (0..).map(due).take_while(move |due| *due < self.time);
        all.skip(number).step_by(clients).map(move |due| begin + due)
    }
}

/// Opens a connection whenever one is due, for a run that is over at `end`: what became of all of them.
async fn open_each(target: SocketAddr, due: impl Iterator<Item = Instant>, end: Instant) -> Result<Tally> {
    let timer = Timer::new()?;
    let (mut tally, mut open) = (Tally::default(), JoinSet::new());
    for due in due {
        timer.wait_until(due).await?;
        open.spawn(open_one(target, due));
        while let Some(ended) = open.try_join_next() {
            ended?.count(&mut tally, end);
        }
    }
    while let Some(ended) = open.join_next().await {
        ended?.count(&mut tally, end);
    }
    Ok(tally)
}

/// A connection that has ended.
struct Ended {
    outcome: Result<String, Failure>,
    lateness: Duration,
    latency: Duration,
    at: Instant,
}

async fn open_one(target: SocketAddr, due: Instant) -> Ended {
    let lateness = due.elapsed();
    let outcome = connection::ask(target, due).await;
    let at = Instant::now();
    Ended { outcome, lateness, latency: at - due, at }
}

impl Ended {
    fn count(self, tally: &mut Tally, end: Instant) {
        tally.keep_pace(self.lateness, self.outcome.is_ok() && self.at <= end);
        tally.count(self.outcome, self.latency);
    }
}

/// A timer of the kernel's: those of the runtime go by milliseconds, which is longer than most connections take.
struct Timer(AsyncFd<OwnedFd>);

impl Timer {
    #[expect(
        deprecated,
        reason = "unsound for types that name another descriptor each time, and its successor is unsafe"
    )]
    fn new() -> Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        Ok(Self(AsyncFd::new(timer).context("wait for a timer")?))
    }

    /// Waits for `due`, not at all if that has passed.
    async fn wait_until(&self, due: Instant) -> Result<()> {
        let left = due.saturating_duration_since(Instant::now());
        // Zero would switch it off.
        if left.is_zero() {
            return Ok(());
        }
        let once = Itimerspec { it_interval: Duration::ZERO.try_into()?, it_value: left.try_into()? };
        timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        // Setting it again takes back what could be read now.
        self.0.readable().await?.clear_ready();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_take_turns_at_an_even_rate() {
        let begin = Instant::now();
        let due = |paced: Paced, number, clients| {
            paced.due_of(begin, number, clients).map(|due| (due - begin).as_micros()).collect::<Vec<_>>()
        };
        let paced = Paced { rate: 1000, time: Duration::from_millis(5) };
        assert_eq!(due(paced, 0, 1), [0, 1618, 2236, 3854, 4472]);
        assert_eq!(due(paced, 0, 3), [0, 3854]);
        assert_eq!(due(paced, 1, 3), [1618, 4472]);
        assert_eq!(due(paced, 2, 3), [2236]);
        // Each is in the part of the time that is its own, and what a nanosecond does not divide adds up to nothing.
        let thirds = Paced { rate: 3, time: Duration::from_secs(1000) };
        let all = due(thirds, 0, 1);
        assert!(all.len() == 3000 && (0..).zip(&all).all(|(number, due)| due * 3 / 1_000_000 == number), "{all:?}");
        // Wherever the tick of 4 ms is, some are near it.
        let mut phases: Vec<_> = due(Paced { rate: 1000, ..thirds }, 0, 1).iter().map(|due| due % 4000).collect();
        phases.sort_unstable();
        assert!(phases.windows(2).all(|pair| pair[1] - pair[0] < 10));
    }

    fn block_on<T>(job: impl Future<Output = Result<T>>) -> T {
        runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(job).unwrap()
    }

    #[test]
    fn the_timer_waits_again_and_again_and_never_for_what_has_passed() {
        block_on(async {
            let timer = Timer::new()?;
            let began = Instant::now();
            for step in 1..=20 {
                let due = began + step * Duration::from_micros(300);
                timer.wait_until(due).await?;
                assert!(Instant::now() >= due);
            }
            timer.wait_until(began).await
        });
    }

    /// The first connection would take for ever; those after it are opened in time, and its own latency is all of the wait.
    #[test]
    fn connections_wait_for_nobody_and_latencies_begin_when_they_are_due() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let target = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            use std::io::Write as _;
            let (first, second) = (listener.accept().unwrap().0, listener.accept().unwrap().0);
            for mut stream in [second, first] {
                stream.write_all(b"b1 ?\n").unwrap();
            }
        });
        let late = Duration::from_millis(50);
        let due = Instant::now().checked_sub(late).unwrap();
        let tally = block_on(open_each(target, [due, due + 2 * late].into_iter(), due + late));
        server.join().unwrap();
        let report = connection::report(vec![tally], late).unwrap();
        assert_eq!((report.requests, report.failed()), (2, 0));
        let pace = report.pace.unwrap();
        assert!(report.p99_us >= 100_000 && pace.late_p99_us >= 50_000 && pace.in_time == 0, "{report:?}");
    }

    #[test]
    fn who_is_hopelessly_late_has_failed() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let due = Instant::now().checked_sub(Duration::from_secs(3)).unwrap();
        let tally = block_on(open_each(listener.local_addr().unwrap(), [due].into_iter(), due));
        assert_eq!(connection::report(vec![tally], Duration::ZERO).unwrap_err().to_string(), "nobody answered");
    }
}
