//! Whether the connections spread over the backends as the weights say.

use std::collections::BTreeMap;

use anyhow::Result;

use super::{
    CLIENTS, CONNECTIONS, WEIGHTS,
    screen::{self, Screen, grouped, milliseconds, row},
    short_connections,
};
use crate::{
    Lab, WeirDaemon,
    addresses::{Family, in_url},
    client::wrk::Report,
};

/// Fewest requests that say something about the spread.
const ENOUGH: u64 = 2000;
/// How far the slots of a backend may be from its weight, as a share of it.
const SLOT_ERROR: f64 = 0.02;
/// How many standard deviations chance may add: exceeded once in 16,000 times.
const SIGMAS: f64 = 4.0;

/// Loads the IPv4 service and shows who answered, beside the weights and beside Weir's own counters.
pub(super) fn show(lab: &Lab, daemon: &WeirDaemon, screen: &mut Screen) -> Result<()> {
    screen.section("Spread by weight", "wrk from three clients, a new connection for each request, 4 s");
    let before = daemon.connections("web")?;
    let report = measure(lab, Family::V4, 4)?;
    let after = daemon.connections("web")?;
    let counted: Vec<u64> = after.iter().zip(&before).map(|((_, after), (_, before))| after - before).collect();

    let mut rows = vec![row(["backend", "weight", "should get", "answered", "of all", "Weir counted", ""])];
    for (share, counted) in shares(&report.by_backend).iter().zip(&counted) {
        rows.push(vec![
            share.name.clone(),
            share.weight.to_string(),
            percent(share.wanted),
            grouped(share.answers),
            percent(share.seen),
            grouped(*counted),
            bar(share.seen),
        ]);
    }
    screen::table(&rows);
    check(&report, screen);
    // Each wrk begins with one that it closes unused, and leaves the others open.
    let unused = u64::from(CLIENTS) * u64::from(1 + CONNECTIONS);
    let total: u64 = counted.iter().sum();
    screen.check(
        (report.requests..=report.requests + unused).contains(&total),
        &format!(
            "Weir counted {}: the {} that were answered, and up to {unused} that wrk opened and did not use",
            grouped(total),
            grouped(report.requests)
        ),
    );
    Ok(())
}

/// Loads the service of `family` for `seconds`.
pub(super) fn measure(lab: &Lab, family: Family, seconds: u32) -> Result<Report> {
    short_connections(seconds).run(lab, &format!("http://{}/", in_url(family.vip(1))))
}

/// Prints what came out for `report`: no failure, and shares as the weights say.
pub(super) fn check(report: &Report, screen: &mut Screen) {
    screen.check(
        report.failed() == 0,
        &format!(
            "{} of {} requests failed (half were answered within {}, 99 % within {})",
            grouped(report.failed()),
            grouped(report.requests + report.failed()),
            milliseconds(report.p50_us),
            milliseconds(report.p99_us)
        ),
    );
    screen.check(
        is_fair(&report.by_backend),
        "every share is what the weight says, within 2 % of it and four standard deviations of chance",
    );
}

/// Whether every backend answered as often as its weight says; too few answers are not.
pub(super) fn is_fair(by_backend: &BTreeMap<String, u64>) -> bool {
    let total: u64 = by_backend.values().sum();
    let known = shares(by_backend);
    total >= ENOUGH
        && known.iter().map(|share| share.answers).sum::<u64>() == total
        && known.iter().all(|share| (share.seen - share.wanted).abs() <= tolerance(share.wanted, total))
}

/// The largest difference between the share that a backend had and the one that it should have.
pub(super) fn worst(by_backend: &BTreeMap<String, u64>) -> f64 {
    shares(by_backend).iter().map(|share| (share.seen - share.wanted).abs()).fold(0.0, f64::max)
}

/// `0.123` as `12.3 %`.
pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

struct Share {
    name: String,
    weight: u16,
    wanted: f64,
    answers: u64,
    seen: f64,
}

#[expect(clippy::cast_precision_loss, reason = "counts of seconds of traffic are far below 2^52")]
fn shares(by_backend: &BTreeMap<String, u64>) -> Vec<Share> {
    let total = by_backend.values().sum::<u64>().max(1) as f64;
    let weights = f64::from(WEIGHTS.iter().sum::<u16>());
    let share = |(index, weight): (usize, &u16)| {
        let name = format!("b{}", index + 1);
        let answers = by_backend.get(&name).copied().unwrap_or_default();
        Share { name, weight: *weight, wanted: f64::from(*weight) / weights, answers, seen: answers as f64 / total }
    };
    WEIGHTS.iter().enumerate().map(share).collect()
}

/// How far the share of `total` connections may be from `wanted`.
#[expect(clippy::cast_precision_loss, reason = "counts of seconds of traffic are far below 2^52")]
fn tolerance(wanted: f64, total: u64) -> f64 {
    SLOT_ERROR * wanted + SIGMAS * (wanted * (1.0 - wanted) / total as f64).sqrt()
}

/// A bar of up to 40 cells for the whole.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 40")]
fn bar(share: f64) -> String {
    format!("{:<20}", "█".repeat((share * 40.0).round() as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(counts: [u64; 4]) -> BTreeMap<String, u64> {
        (1..).zip(counts).map(|(n, count)| (format!("b{n}"), count)).collect()
    }

    #[test]
    fn fairness_is_judged_by_the_weights() {
        assert!(is_fair(&answers([4000, 3000, 2000, 1000])));
        assert!(is_fair(&answers([4050, 2950, 2030, 970])));
        assert!(!is_fair(&answers([2500, 2500, 2500, 2500])), "weights ignored");
        assert!(!is_fair(&answers([4600, 2800, 1800, 800])), "b1 has 15 % too many");
        assert!(!is_fair(&answers([4, 3, 2, 1])), "too few to tell");
        let mut strange = answers([4000, 3000, 2000, 1000]);
        strange.insert("?".to_owned(), 1);
        assert!(!is_fair(&strange), "an answer from nowhere");
    }

    #[test]
    fn the_worst_share_is_found() {
        assert!((worst(&answers([4000, 3000, 1900, 1100])) - 0.01).abs() < 1e-9);
    }
}
