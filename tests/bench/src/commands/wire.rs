//! `cargo xtask bench wire`.

use std::time::Duration;

use anyhow::Result;
use weir_bench::{
    machine::Machine,
    wire::{
        measure::{Bench, Options},
        report::{BENCHMARK, Report},
        rows, table,
    },
};

use super::{Common, Earlier, each, weir};

/// What a machine forwards: live frames through veth pairs, by way of Weir and of programs that do less
///
/// Needs root; works in network namespaces of its own. Exit code 1 if frames of any row went where they should not.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    common: Common,

    #[command(flatten)]
    earlier: Earlier,

    /// Seconds of each measurement
    #[arg(long, value_name = "N", default_value_t = 1.0, value_parser = seconds)]
    seconds: f64,
}

/// Whether every row could be measured.
pub fn run(arguments: Args) -> Result<bool> {
    let Args { common, earlier, seconds } = arguments;
    let rows = common.rows(rows::matching)?;
    if rows.is_empty() {
        return Ok(true);
    }
    // Before anything is measured: it may not be there.
    let before = earlier.against.as_deref().map(Report::read).transpose()?;

    let (machine, rounds) = (Machine::here(), common.rounds);
    let mut bench = Bench::new(Options { rounds, time: Duration::from_secs_f64(seconds), weir: weir()? })?;
    let rows = each(&rows, |row| bench.row(row));
    drop(bench);
    let report = Report { benchmark: BENCHMARK.to_owned(), machine, seconds, rounds, rows };
    common.print(&report, |report| {
        before.map_or_else(|| table::render(report), |before| table::compare(&before, report))
    })?;
    Ok(!report.has_failed())
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.01..=600.0).contains(&seconds) { Ok(seconds) } else { Err("not between 0.01 and 600".to_owned()) }
}
