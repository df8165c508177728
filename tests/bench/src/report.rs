//! What was measured: the shape of `--json`.

use std::{fs, path::Path, time::SystemTime};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

/// A run of the whole benchmark.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Where and when.
    pub machine: Machine,
    /// Packets of each measurement.
    pub packets: u32,
    /// Measurements of each program in each row.
    pub rounds: u32,
    /// What was measured, in order.
    pub rows: Vec<RowReport>,
}

/// Where and when something was measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// When the run began, RFC 3339, UTC.
    pub date: String,
    /// Release of the kernel.
    pub kernel: String,
    /// Model of the CPU.
    pub cpu: String,
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

/// How figures of several rounds spread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The least.
    pub min: f64,
    /// The one in the middle; of an even number the mean of both.
    pub median: f64,
    /// The greatest.
    pub max: f64,
}

impl Report {
    /// Reads what `--json` has printed.
    ///
    /// # Errors
    /// The file can't be read, or is something else.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is no report of this benchmark", path.display()))
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

impl Machine {
    /// This one, now.
    #[must_use]
    pub fn here() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            cpu: model.map_or("unknown", |(_, name)| name).to_owned(),
        }
    }
}

impl Spread {
    /// Of `figures`; `None` if there are none.
    #[must_use]
    pub fn of(figures: &[f64]) -> Option<Self> {
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        } else {
            sorted[middle]
        };
        Some(Self { min, median, max })
    }

    /// Every figure divided by `divisor`.
    #[must_use]
    pub fn divided_by(&self, divisor: f64) -> Self {
        Self { min: self.min / divisor, median: self.median / divisor, max: self.max / divisor }
    }

    /// Whether both could be of the same thing: there is a figure that lies within both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.min <= other.max && other.min <= self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_are_least_middle_and_greatest() {
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[3.0]), Some(Spread { min: 3.0, median: 3.0, max: 3.0 }));
        assert_eq!(Spread::of(&[9.0, -1.0, 2.0]), Some(Spread { min: -1.0, median: 2.0, max: 9.0 }));
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 9.0]), Some(Spread { min: 1.0, median: 3.0, max: 9.0 }));
    }

    #[test]
    fn spreads_overlap_where_they_share_a_figure() {
        let spread = |min, max| Spread { min, median: min, max };
        assert!(spread(1.0, 3.0).overlaps(&spread(3.0, 4.0)));
        assert!(spread(1.0, 9.0).overlaps(&spread(3.0, 4.0)));
        assert!(!spread(1.0, 2.0).overlaps(&spread(3.0, 4.0)));
        assert!(!spread(3.0, 4.0).overlaps(&spread(1.0, 2.0)));
    }
}
