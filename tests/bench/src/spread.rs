//! Figures of several rounds.

use serde::{Deserialize, Serialize};

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
