//! What was measured: the shape of `--json`.

use std::{fmt, path::Path, time::Duration};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{balancers::Peer, cpu::Cpus, loads::Load};
use crate::{machine::Machine, spread::Spread};

/// One row: a load through one of those who take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// What clients do.
    pub load: Load,
    /// What they do it through.
    pub peer: Peer,
}

impl Row {
    /// All rows, or those whose names contain every one of `parts`.
    #[must_use]
    pub fn matching(parts: &[String]) -> Vec<Self> {
        let all = Load::ALL.into_iter().flat_map(|load| Peer::ALL.map(|peer| Self { load, peer }));
        crate::select::matching(all, parts)
    }
}

/// `LOAD/PEER`: `close/weir-nat`.
impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.load, self.peer)
    }
}

/// What [`Report::benchmark`] says.
pub const BENCHMARK: &str = "peers";

/// The same, for reports that were made before they said it.
#[must_use]
pub fn benchmark() -> String {
    BENCHMARK.to_owned()
}

/// A run of the whole benchmark.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Which benchmark this is of: [`BENCHMARK`].
    #[serde(default = "benchmark")]
    pub benchmark: String,
    /// Where and when.
    pub machine: Machine,
    /// Which CPUs were whose.
    pub cpus: Cpus,
    /// Measurements of each row.
    pub rounds: u32,
    /// Seconds of each.
    pub seconds: u32,
    /// Connections a second of [`Load::Paced`]; reports that were made before there was one do not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    /// What was measured, in order.
    pub rows: Vec<RowReport>,
}

/// One row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RowReport {
    /// Name of the row.
    pub name: String,
    /// What clients did.
    pub load: Load,
    /// What they did it through.
    pub peer: Peer,
    /// What was measured; nothing if a round failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub figures: Option<Figures>,
    /// Why there are no figures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The figures of a row, over its rounds. Where a load opens a connection for each request, a request is a connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Requests answered in a second.
    pub rate: Spread,
    /// Bytes of answers in a second.
    pub bytes: Spread,
    /// Median latency, microseconds; of several clients the worst, as for the next two. With [`Load::Paced`], whose
    /// latencies begin when a connection is due, of all of them together.
    pub p50_us: Spread,
    /// 99th percentile of the latency, microseconds.
    pub p99_us: Spread,
    /// 99.9th percentile of the latency, microseconds.
    pub p999_us: Spread,
    /// How late clients opened connections that were due, microseconds: the 99th percentile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late_us: Option<Spread>,
    /// CPU seconds of the whole machine for a million requests.
    pub machine_cpu: Spread,
    /// CPU seconds of the balancer for a million requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balancer_cpu: Option<Spread>,
    /// Requests for a CPU second of the balancer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_cpu: Option<Spread>,
    /// These figures beside those of others under the same load in the same rounds.
    pub ratios: Vec<Ratio>,
}

/// Figures as multiples of those that another has in the same round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// Whose.
    pub to: Peer,
    /// Of requests answered in a second.
    pub rate: Spread,
    /// Of the median latency; the report may be older than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50: Option<Spread>,
    /// Of the 99th percentile of the latency.
    pub p99: Spread,
    /// Of the 99.9th.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p999: Option<Spread>,
    /// Of requests for a CPU second of the balancer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_cpu: Option<Spread>,
}

/// One measurement of a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Requests that were answered.
    pub requests: u64,
    /// How long the load lasted.
    pub took: Duration,
    /// Bytes of all answers.
    pub bytes: u64,
    /// Percentiles of latency: 50, 99, 99.9.
    pub latency_us: [u64; 3],
    /// How late connections were opened, if they had a time: the 99th percentile.
    pub late_us: Option<u64>,
    /// CPU time of the machine.
    pub machine: Duration,
    /// CPU time of the balancer, if there is one.
    pub balancer: Option<Duration>,
}

/// Those beside whom everybody is shown.
const OTHERS: [Peer; 3] = [Peer::Direct, Peer::Haproxy, Peer::Nftables];

/// Reports of `rows` from their samples, round by round. A row with a failure has no figures.
#[must_use]
pub fn rows(rows: &[Row], outcomes: Vec<Vec<Result<Sample>>>) -> Vec<RowReport> {
    let samples: Vec<Result<Vec<Sample>>> = outcomes.into_iter().map(|rounds| rounds.into_iter().collect()).collect();
    let samples_of = |row: Row| {
        let at = rows.iter().position(|other| *other == row)?;
        samples[at].as_deref().ok()
    };
    let report = |(row, samples): (&Row, &Result<Vec<Sample>>)| {
        let (figures, error) = match samples {
            Ok(samples) => {
                let ratio = |to| Ratio::of(to, samples, samples_of(Row { peer: to, ..*row })?);
                let others = OTHERS.into_iter().filter(|other| *other != row.peer);
                (Figures::of(samples, others.filter_map(ratio).collect()), None)
            }
            Err(error) => (None, Some(format!("{error:#}"))),
        };
        RowReport { name: row.to_string(), load: row.load, peer: row.peer, figures, error }
    };
    rows.iter().zip(&samples).map(report).collect()
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
impl Sample {
    fn rate(&self) -> f64 {
        self.requests as f64 / self.took.as_secs_f64()
    }

    fn bytes(&self) -> f64 {
        self.bytes as f64 / self.took.as_secs_f64()
    }

    fn latency(&self, at: usize) -> f64 {
        self.latency_us[at] as f64
    }

    fn late(&self) -> Option<f64> {
        self.late_us.map(|late| late as f64)
    }

    /// Seconds of `time` for a million requests.
    fn per_million(&self, time: Duration) -> f64 {
        time.as_secs_f64() * 1e6 / self.requests as f64
    }

    fn per_cpu(&self) -> Option<f64> {
        Some(self.requests as f64 / self.balancer?.as_secs_f64())
    }
}

impl Figures {
    /// `None` without samples.
    fn of(samples: &[Sample], ratios: Vec<Ratio>) -> Option<Self> {
        let spread = |figure: &dyn Fn(&Sample) -> f64| Spread::of(&samples.iter().map(figure).collect::<Vec<_>>());
        Some(Self {
            rate: spread(&Sample::rate)?,
            bytes: spread(&Sample::bytes)?,
            p50_us: spread(&|sample| sample.latency(0))?,
            p99_us: spread(&|sample| sample.latency(1))?,
            p999_us: spread(&|sample| sample.latency(2))?,
            late_us: some(samples.iter().map(Sample::late)),
            machine_cpu: spread(&|sample| sample.per_million(sample.machine))?,
            balancer_cpu: some(samples.iter().map(|sample| Some(sample.per_million(sample.balancer?)))),
            per_cpu: some(samples.iter().map(Sample::per_cpu)),
            ratios,
        })
    }

    /// These figures beside those of `to`, if that was measured too.
    #[must_use]
    pub fn ratio(&self, to: Peer) -> Option<&Ratio> {
        self.ratios.iter().find(|ratio| ratio.to == to)
    }
}

impl Ratio {
    fn of(to: Peer, samples: &[Sample], others: &[Sample]) -> Option<Self> {
        let rounds = || samples.iter().zip(others);
        let latency =
            |at| Spread::of(&rounds().map(|(it, other)| it.latency(at) / other.latency(at)).collect::<Vec<_>>());
        Some(Self {
            to,
            rate: Spread::of(&rounds().map(|(it, other)| it.rate() / other.rate()).collect::<Vec<_>>())?,
            p50: latency(0),
            p99: latency(1)?,
            p999: latency(2),
            per_cpu: some(rounds().map(|(it, other)| Some(it.per_cpu()? / other.per_cpu()?))),
        })
    }
}

/// Of figures that all are there.
fn some(figures: impl Iterator<Item = Option<f64>>) -> Option<Spread> {
    Spread::of(&figures.collect::<Option<Vec<_>>>()?)
}

impl Report {
    /// Reads what `--json` has printed.
    ///
    /// # Errors
    /// The file can't be read, or is something else.
    pub fn read(path: &Path) -> Result<Self> {
        crate::report::read(path)
    }

    /// The row of this name.
    #[must_use]
    pub fn row(&self, name: &str) -> Option<&RowReport> {
        self.rows.iter().find(|row| row.name == name)
    }

    /// Whether any row failed.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.rows.iter().any(|row| row.error.is_some())
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    fn sample(requests: u64, p99: u64, balancer_ms: Option<u64>) -> Sample {
        Sample {
            requests,
            took: Duration::from_secs(2),
            bytes: requests * 10,
            latency_us: [p99 / 2, p99, p99 * 2],
            late_us: Some(p99 / 4),
            machine: Duration::from_secs(3),
            balancer: balancer_ms.map(Duration::from_millis),
        }
    }

    fn close(spread: Spread, [min, median, max]: [f64; 3]) -> bool {
        [(spread.min, min), (spread.median, median), (spread.max, max)].iter().all(|(a, b)| (a - b).abs() < 1e-9)
    }

    #[test]
    fn figures_are_by_second_and_by_cpu_second_and_ratios_by_round() {
        let row = |peer| Row { load: Load::Close, peer };
        let peers = [Peer::Direct, Peer::WeirNat, Peer::Haproxy];
        let outcomes = vec![
            vec![Ok(sample(4000, 100, None)), Ok(sample(2000, 100, None))],
            vec![Ok(sample(2000, 100, Some(100))), Ok(sample(1000, 400, Some(100)))],
            vec![Ok(sample(1000, 200, Some(200))), Ok(sample(1000, 200, Some(200)))],
        ];
        let reports = rows(&peers.map(row), outcomes);
        assert_eq!(reports[1].name, "close/weir-nat");
        let weir = reports[1].figures.as_ref().unwrap();
        assert!(close(weir.rate, [500.0, 750.0, 1000.0]));
        assert!(close(weir.bytes, [5000.0, 7500.0, 10_000.0]));
        assert!(close(weir.p999_us, [200.0, 500.0, 800.0]));
        assert!(close(weir.late_us.unwrap(), [25.0, 62.5, 100.0]));
        assert!(close(weir.machine_cpu, [1500.0, 2250.0, 3000.0]));
        assert!(close(weir.balancer_cpu.unwrap(), [50.0, 75.0, 100.0]));
        assert!(close(weir.per_cpu.unwrap(), [10_000.0, 15_000.0, 20_000.0]));
        let haproxy = weir.ratio(Peer::Haproxy).unwrap();
        assert!(close(haproxy.per_cpu.unwrap(), [2.0, 3.0, 4.0]));
        assert!(close(haproxy.p99, [0.5, 1.25, 2.0]));
        assert!(close(haproxy.p50.unwrap(), [0.5, 1.25, 2.0]));
        assert!(close(haproxy.p999.unwrap(), [0.5, 1.25, 2.0]));
        let direct = weir.ratio(Peer::Direct).unwrap();
        assert!(close(direct.rate, [0.5, 0.5, 0.5]));
        assert_eq!(direct.per_cpu, None);
        assert_eq!(weir.ratio(Peer::Nftables), None);
        assert_eq!(reports[0].figures.as_ref().unwrap().per_cpu, None);
    }

    #[test]
    fn one_failed_round_is_an_error_of_its_row() {
        let row = |peer| Row { load: Load::Short, peer };
        let outcomes = vec![
            vec![Ok(sample(1000, 100, Some(100))), Ok(sample(1000, 100, Some(100)))],
            vec![Ok(sample(1000, 100, Some(100))), Err(anyhow!("7 requests failed"))],
        ];
        let reports = rows(&[row(Peer::Nginx), row(Peer::Haproxy)], outcomes);
        assert_eq!(reports[1].error.as_deref(), Some("7 requests failed"));
        assert_eq!(reports[1].figures, None);
        assert_eq!(reports[0].figures.as_ref().unwrap().ratios, []);
    }

    #[test]
    fn all_parts_of_a_filter_have_to_match() {
        let names = |parts: &[&str]| {
            let parts: Vec<_> = parts.iter().map(|part| (*part).to_owned()).collect();
            Row::matching(&parts).iter().map(Row::to_string).collect::<Vec<_>>()
        };
        assert_eq!(names(&[]).len(), Load::ALL.len() * Peer::ALL.len());
        assert_eq!(names(&["weir", "close"]), ["close/weir-nat", "close/weir-l2"]);
        assert_eq!(names(&["no such row"]), [""; 0]);
    }
}
