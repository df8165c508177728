//! Many short connections to the line servers: open one, ask a line, read the answer, close it, open the next.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    runtime,
    task::JoinSet,
    time,
};

use super::wrk::Report;
use crate::{Lab, netns::Netns};

/// A connection that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(2);
/// What is asked on each.
const QUESTION: &str = "?\n";

/// A run of short connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Short {
    /// Connections open at a time, for each client.
    pub connections: u32,
    /// How long.
    pub time: Duration,
}

/// What became of the connections of one worker.
#[derive(Debug, Default)]
struct Tally {
    /// Microseconds from opening it to its answer, of each that has one.
    latencies: Vec<u32>,
    by_backend: BTreeMap<String, u64>,
    connect_errors: u64,
    read_errors: u64,
    timeouts: u64,
}

/// Why a connection has no answer.
enum Failure {
    Connect,
    Answer,
    Silence,
}

impl Short {
    /// Connects from all of the lab's clients at the same time, each to a target by its number, from 0: the sum of what
    /// they saw, where `requests` are connections with an answer, and latencies begin with the opening of the connection.
    ///
    /// A client whose ports are to last needs the setting `ipv4/tcp_tw_reuse`.
    ///
    /// # Errors
    /// A client can't work at all, or not one connection had an answer. Connections that fail are no error: they are
    /// counted.
    pub fn run_each(self, lab: &Lab, target: impl Fn(usize) -> SocketAddr) -> Result<Report> {
        let reports = thread::scope(|scope| {
            let start = |(number, client): (usize, &Netns)| {
                let (target, client) = (target(number), client.clone());
                scope.spawn(move || client.enter(|| self.run_one(target))?)
            };
            let runs: Vec<_> = lab.clients().iter().enumerate().map(start).collect();
            runs.into_iter()
                .map(|run| run.join().unwrap_or_else(|_| Err(anyhow!("a client panicked"))))
                .collect::<Result<Vec<_>>>()
        })?;
        Ok(Report::of_all(&reports))
    }

    fn run_one(self, target: SocketAddr) -> Result<Report> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let began = Instant::now();
        let tallies = runtime.block_on(async {
            let mut workers = JoinSet::new();
            for _ in 0..self.connections {
                workers.spawn(work(target, began + self.time));
            }
            workers.join_all().await
        });
        report(tallies, began.elapsed())
    }
}

async fn work(target: SocketAddr, until: Instant) -> Tally {
    let mut tally = Tally::default();
    while Instant::now() < until {
        let began = Instant::now();
        match time::timeout(PATIENCE, ask(target)).await.unwrap_or(Err(Failure::Silence)) {
            Ok(backend) => {
                tally.latencies.push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
                *tally.by_backend.entry(backend).or_default() += 1;
            }
            Err(Failure::Connect) => tally.connect_errors += 1,
            Err(Failure::Answer) => tally.read_errors += 1,
            Err(Failure::Silence) => tally.timeouts += 1,
        }
    }
    tally
}

/// One connection: the backend that answered.
async fn ask(target: SocketAddr) -> Result<String, Failure> {
    let mut stream = TcpStream::connect(target).await.map_err(|_| Failure::Connect)?;
    let answer = answer(&mut stream).await.map_err(|_| Failure::Answer)?;
    let backend = answer.strip_suffix(QUESTION).ok_or(Failure::Answer)?;
    Ok(backend.trim_end().to_owned())
}

async fn answer(stream: &mut TcpStream) -> io::Result<String> {
    stream.write_all(QUESTION.as_bytes()).await?;
    let mut answer = String::new();
    BufReader::with_capacity(64, stream).read_line(&mut answer).await?;
    Ok(answer)
}

fn report(tallies: Vec<Tally>, took: Duration) -> Result<Report> {
    let mut report = Report { duration_us: u64::try_from(took.as_micros())?, ..Report::default() };
    let mut latencies = Vec::new();
    for tally in tallies {
        latencies.extend(tally.latencies);
        report.connect_errors += tally.connect_errors;
        report.read_errors += tally.read_errors;
        report.timeouts += tally.timeouts;
        for (backend, count) in tally.by_backend {
            report.bytes += count * (backend.len() + 1 + QUESTION.len()) as u64;
            *report.by_backend.entry(backend).or_default() += count;
        }
    }
    latencies.sort_unstable();
    let percentile = |per_mille| percentile(&latencies, per_mille).ok_or_else(|| anyhow!("nobody answered"));
    report.requests = latencies.len() as u64;
    (report.p50_us, report.p99_us, report.p999_us) = (percentile(500)?, percentile(990)?, percentile(999)?);
    Ok(report)
}

/// The least of `sorted` that so many of a thousand do not exceed; `None` of nothing.
fn percentile(sorted: &[u32], per_mille: usize) -> Option<u64> {
    let rank = (sorted.len() * per_mille).div_ceil(1000).max(1);
    sorted.get(rank - 1).map(|latency| u64::from(*latency))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_those_that_were_seen() {
        let thousand: Vec<u32> = (1..=1000).collect();
        assert_eq!([500, 990, 999].map(|at| percentile(&thousand, at)), [Some(500), Some(990), Some(999)]);
        assert_eq!([500, 999].map(|at| percentile(&[7, 9], at)), [Some(7), Some(9)]);
        assert_eq!(percentile(&[], 500), None);
    }

    #[test]
    fn workers_are_summed() {
        let tally = |latencies: &[u32], backend: &str| Tally {
            latencies: latencies.to_vec(),
            by_backend: [(backend.to_owned(), latencies.len() as u64)].into(),
            connect_errors: 1,
            read_errors: 2,
            timeouts: 3,
        };
        let report = report(vec![tally(&[30, 10], "b1"), tally(&[20], "b2")], Duration::from_secs(1)).unwrap();
        assert_eq!((report.requests, report.failed(), report.bytes), (3, 12, 15));
        assert_eq!((report.p50_us, report.p999_us, report.duration_us), (20, 30, 1_000_000));
        assert_eq!(report.by_backend, [("b1".to_owned(), 2), ("b2".to_owned(), 1)].into());
    }
}
