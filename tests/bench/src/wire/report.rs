//! What was measured: the shape of `--json`.

use std::path::Path;

use anyhow::ensure;
use serde::{Deserialize, Serialize};

use crate::{machine::Machine, spread::Spread};

/// What [`Report::benchmark`] says.
pub const BENCHMARK: &str = "wire";

/// A run of the whole benchmark.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Which benchmark this is of: [`BENCHMARK`].
    pub benchmark: String,
    /// Where and when.
    pub machine: Machine,
    /// Seconds of each measurement.
    pub seconds: f64,
    /// Measurements of each program in each row.
    pub rounds: u32,
    /// What was measured, in order.
    pub rows: Vec<RowReport>,
}

/// One row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RowReport {
    /// Name of the row.
    pub name: String,
    /// What came through each program, floors first; empty if the row failed.
    pub programs: Vec<Figures>,
    /// Why there are no figures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What came through a program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Name of the program.
    pub program: String,
    /// Frames sent each second.
    pub sent: Spread,
    /// Frames each second that came through to the sink; those that it took, of a program that drops.
    pub arrived: Spread,
    /// CPUs that were at work.
    pub cpus: Spread,
    /// Frames that came through for each second of CPU time: generator, both devices, the program and the sink.
    pub arrived_per_cpu: Spread,
    /// `arrived_per_cpu` as a multiple of that of the program that swaps MAC addresses, in the same round.
    pub ratio: Spread,
    /// Frames lost on their way to the program, in all rounds.
    pub lost_before: u64,
    /// Frames lost on their way from it to the sink, in all rounds.
    pub lost_behind: u64,
    /// Nanoseconds of a run of the program, by the kernel's own clock, which is in it. From a round of its own.
    pub run_time: f64,
}

impl Report {
    /// Reads what `--json` has printed.
    ///
    /// # Errors
    /// The file can't be read, or is something else.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let report: Self = crate::report::read(path)?;
        ensure!(report.benchmark == BENCHMARK, "{} is no report of this benchmark", path.display());
        Ok(report)
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

impl RowReport {
    /// The figures of this program.
    #[must_use]
    pub fn program(&self, name: &str) -> Option<&Figures> {
        self.programs.iter().find(|figures| figures.program == name)
    }
}
