//! What was measured: the shape of `--json`.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{machine::Machine, spread::Spread};

/// What [`Report::benchmark`] says.
pub const BENCHMARK: &str = "packet";

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
    /// Packets of each measurement.
    pub packets: u32,
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
    /// What each program took, floors first; empty if the row failed.
    pub programs: Vec<Figures>,
    /// Why there are no figures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What a program took for a packet of a row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Name of the program.
    pub program: String,
    /// Nanoseconds with everything around it: the generator, the tail call, the kernel's loop.
    pub gross: Spread,
    /// Nanoseconds beyond those of the floor `XDP_TX` in the same round.
    pub net: Spread,
    /// `net` as a multiple of the median that the floor "parse + fixed IPIP" has in this row; nothing if that was not above
    /// `XDP_TX`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio: Option<Spread>,
}

impl Report {
    /// Reads what `--json` has printed.
    ///
    /// # Errors
    /// The file can't be read, or is something else.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
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

impl RowReport {
    /// The figures of this program.
    #[must_use]
    pub fn program(&self, name: &str) -> Option<&Figures> {
        self.programs.iter().find(|figures| figures.program == name)
    }
}
