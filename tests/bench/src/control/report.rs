//! What was measured: the shape of `--json`.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{machine::Machine, spread::Spread};

/// A run of the whole benchmark.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Where and when.
    pub machine: Machine,
    /// Measurements of each figure.
    pub rounds: u32,
    /// What was measured, in order.
    pub rows: Vec<RowReport>,
}

/// One row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RowReport {
    /// Name of the row.
    pub name: String,
    /// What was measured; empty if the row failed.
    pub figures: Vec<Figure>,
    /// Why there are no figures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One figure of a row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What it is of.
    pub what: String,
    /// Its unit, such as `ms`.
    pub unit: String,
    /// Over the rounds.
    pub spread: Spread,
    /// The same as a multiple of the median of the row's floor, where it has one and this is compared with it.
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

    /// Whether any row failed.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.rows.iter().any(|row| row.error.is_some())
    }
}

/// Figures in the making: what each round found, by name, in the order in which names first came.
#[derive(Debug, Default)]
pub struct Rounds(Vec<(String, &'static str, Vec<f64>)>);

/// Name of the figure that others are compared with.
pub const FLOOR: &str = "floor";

impl Rounds {
    /// Adds what a round found.
    pub fn add(&mut self, what: impl Into<String>, unit: &'static str, figure: f64) {
        let what = what.into();
        match self.0.iter_mut().find(|(known, ..)| *known == what) {
            Some((.., figures)) => figures.push(figure),
            None => self.0.push((what, unit, vec![figure])),
        }
    }

    /// The figures; those of the floor's unit are compared with the floor.
    #[must_use]
    pub fn figures(&self) -> Vec<Figure> {
        let floor = self.0.iter().find(|(what, ..)| what == FLOOR);
        let floor = floor.and_then(|(_, unit, figures)| Some((*unit, Spread::of(figures)?.median)));
        let figures = self.0.iter().filter_map(|(what, unit, figures)| {
            let spread = Spread::of(figures)?;
            let divisor = floor.filter(|(of, median)| of == unit && what != FLOOR && *median > 0.0);
            let ratio = divisor.map(|(_, median)| spread.divided_by(median));
            Some(Figure { what: what.clone(), unit: (*unit).to_owned(), spread, ratio })
        });
        figures.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_compared_with_the_floor_of_their_row() {
        let mut rounds = Rounds::default();
        for (request, floor) in [(6.0, 2.0), (8.0, 4.0), (7.0, 3.0)] {
            rounds.add("request", "ms", request);
            rounds.add(FLOOR, "ms", floor);
            rounds.add("slots", "slots", 5.0);
        }
        let [request, floor, slots] = &rounds.figures()[..] else { panic!("three figures") };
        assert_eq!((request.spread.median, request.ratio.unwrap().median), (7.0, 7.0 / 3.0));
        assert_eq!((floor.spread.max, floor.ratio), (4.0, None));
        assert_eq!((slots.what.as_str(), slots.ratio), ("slots", None));
    }
}
