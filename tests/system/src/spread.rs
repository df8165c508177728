//! Whether connections spread as the weights say.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

/// How far the slots of a backend may be from its weight, as a share of it.
const SLOT_ERROR: f64 = 0.02;
/// How many standard deviations chance may add: exceeded once in 1.7 million times.
const SIGMAS: f64 = 5.0;

/// Checks that of the connections in `by_backend` each of `b1`, `b2` and so on has as many as its weight says, within
/// 2 % of that and five standard deviations of the binomial distribution, and nobody else has any.
///
/// # Errors
/// It is not so.
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
pub fn check_spread(by_backend: &BTreeMap<String, u64>, weights: &[u16]) -> Result<()> {
    let total = by_backend.values().sum::<u64>() as f64;
    let all_weights = f64::from(weights.iter().sum::<u16>());
    let mut known = 0.0;
    for (n, weight) in (1..).zip(weights) {
        let seen = by_backend.get(&format!("b{n}")).copied().unwrap_or_default() as f64;
        let share = f64::from(*weight) / all_weights;
        let tolerance = SLOT_ERROR * share * total + SIGMAS * (total * share * (1.0 - share)).sqrt();
        let wanted = share * total;
        ensure!(
            (seen - wanted).abs() <= tolerance && (seen > 0.0 || *weight == 0),
            "b{n} has {seen} of {total} connections, not {wanted:.0} +- {tolerance:.0}: {by_backend:?}"
        );
        known += seen;
    }
    #[expect(clippy::float_cmp, reason = "both are whole numbers")]
    let all_are_known = known == total;
    ensure!(all_are_known, "somebody else has some: {by_backend:?}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(counts: [u64; 4]) -> bool {
        let counts = (1..).zip(counts).map(|(n, count)| (format!("b{n}"), count)).collect();
        check_spread(&counts, &[4, 3, 2, 1]).is_ok()
    }

    #[test]
    fn spread_is_judged_by_the_weights() {
        assert!(fits([800, 600, 400, 200]));
        assert!(fits([850, 560, 420, 170]));
        assert!(!fits([500, 500, 500, 500]), "weights ignored");
        assert!(!fits([200, 400, 600, 800]), "weights reversed");
        assert!(!fits([940, 540, 360, 160]), "b1 has 17 % too many");
        assert!(!fits([4, 4, 2, 0]), "b4 never answered");
        let stranger = [("b1", 800), ("b2", 600), ("b3", 400), ("b4", 200), ("b5", 1)];
        let stranger = stranger.map(|(name, count)| (name.to_owned(), count)).into();
        assert!(check_spread(&stranger, &[4, 3, 2, 1]).is_err(), "an answer from nowhere");
    }
}
