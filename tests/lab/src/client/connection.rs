//! A connection to a line server: open it, ask a line, read the answer, close it. And what became of many.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    time,
};

use super::wrk::{Pace, Report};

/// A connection that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(2);
/// What is asked on each.
const QUESTION: &str = "?\n";

/// Why a connection has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    Connect,
    Answer,
    Silence,
}

/// What became of connections.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Microseconds to its answer, of each that has one.
    latencies: Vec<u32>,
    /// Microseconds from when it should have been opened until it was, of each that had a time.
    lateness: Vec<u32>,
    /// Answers before the time was over, to those.
    in_time: u64,
    by_backend: BTreeMap<String, u64>,
    connect_errors: u64,
    read_errors: u64,
    timeouts: u64,
}

/// One connection, for which nobody waits longer than is usual since `began`: the backend that answered.
pub(super) async fn ask(target: SocketAddr, began: Instant) -> Result<String, Failure> {
    let answer = time::timeout_at((began + PATIENCE).into(), exchange(target)).await;
    answer.unwrap_or(Err(Failure::Silence))
}

async fn exchange(target: SocketAddr) -> Result<String, Failure> {
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

impl Tally {
    /// Counts a connection that took `latency`.
    pub(super) fn count(&mut self, outcome: Result<String, Failure>, latency: Duration) {
        match outcome {
            Ok(backend) => {
                self.latencies.push(microseconds(latency));
                *self.by_backend.entry(backend).or_default() += 1;
            }
            Err(Failure::Connect) => self.connect_errors += 1,
            Err(Failure::Answer) => self.read_errors += 1,
            Err(Failure::Silence) => self.timeouts += 1,
        }
    }

    /// Notes how late a connection was opened that had a time, and whether its answer came before all time was over.
    pub(super) fn keep_pace(&mut self, lateness: Duration, in_time: bool) {
        self.lateness.push(microseconds(lateness));
        self.in_time += u64::from(in_time);
    }
}

fn microseconds(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

/// All of `tallies` in one, of a run that `took` so long.
///
/// # Errors
/// Nobody answered.
pub(super) fn report(tallies: Vec<Tally>, took: Duration) -> Result<Report> {
    let mut report = Report { duration_us: u64::try_from(took.as_micros())?, ..Report::default() };
    let (mut latencies, mut lateness, mut in_time) = (Vec::new(), Vec::new(), 0);
    for tally in tallies {
        latencies.extend(tally.latencies);
        lateness.extend(tally.lateness);
        in_time += tally.in_time;
        report.connect_errors += tally.connect_errors;
        report.read_errors += tally.read_errors;
        report.timeouts += tally.timeouts;
        for (backend, count) in tally.by_backend {
            report.bytes += count * (backend.len() + 1 + QUESTION.len()) as u64;
            *report.by_backend.entry(backend).or_default() += count;
        }
    }
    latencies.sort_unstable();
    lateness.sort_unstable();
    let latency = |per_mille| percentile(&latencies, per_mille).ok_or_else(|| anyhow!("nobody answered"));
    report.requests = latencies.len() as u64;
    (report.p50_us, report.p99_us, report.p999_us) = (latency(500)?, latency(990)?, latency(999)?);
    report.pace = percentile(&lateness, 990).map(|late_p99_us| Pace { late_p99_us, in_time });
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

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn percentiles_are_of_those_that_were_seen() {
        let thousand: Vec<u32> = (1..=1000).collect();
        assert_eq!([500, 990, 999].map(|at| percentile(&thousand, at)), [Some(500), Some(990), Some(999)]);
        assert_eq!([500, 999].map(|at| percentile(&[7, 9], at)), [Some(7), Some(9)]);
        assert_eq!(percentile(&[], 500), None);
    }

    #[test]
    fn tallies_are_summed() {
        let tally = |latencies: &[u32], backend: &str| {
            let mut tally = Tally::default();
            for latency in latencies {
                tally.count(Ok(backend.to_owned()), *latency * MS);
            }
            for failure in [Failure::Connect, Failure::Answer, Failure::Answer, Failure::Silence] {
                tally.count(Err(failure), MS);
            }
            tally
        };
        let report = report(vec![tally(&[30, 10], "b1"), tally(&[20], "b2")], Duration::from_secs(1)).unwrap();
        assert_eq!((report.requests, report.bytes), (3, 15));
        assert_eq!((report.connect_errors, report.read_errors, report.timeouts), (2, 4, 2));
        assert_eq!((report.p50_us, report.p999_us, report.duration_us), (20_000, 30_000, 1_000_000));
        assert_eq!(report.by_backend, [("b1".to_owned(), 2), ("b2".to_owned(), 1)].into());
        assert_eq!(report.pace, None);
    }

    #[test]
    fn lateness_is_of_all_connections_that_failed_or_not() {
        let mut tally = Tally::default();
        for late in 0..100 {
            tally.keep_pace(late * MS, late % 2 == 0);
        }
        tally.count(Err(Failure::Silence), 9 * MS);
        tally.count(Ok("b1".to_owned()), 5 * MS);
        let report = report(vec![tally], Duration::from_secs(1)).unwrap();
        assert_eq!(report.pace, Some(Pace { late_p99_us: 98_000, in_time: 50 }));
        assert_eq!((report.p99_us, report.requests), (5000, 1));
    }
}
