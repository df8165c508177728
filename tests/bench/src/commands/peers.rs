//! `cargo xtask bench peers`.

use anyhow::Result;
use clap::value_parser;
use weir_bench::{
    machine::Machine,
    peers::{
        cpu::Cpus,
        measure::{self, Options},
        report::{self, Report, Row},
        table,
    },
};

use super::{Common, Earlier, weir};

/// The same clients through Weir, through other balancers and through none: what they see, and what it costs
///
/// Needs root. Everything happens in network namespaces. Exit code 1 if any request of any row failed.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    common: Common,

    #[command(flatten)]
    earlier: Earlier,

    /// Seconds of each measurement
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = value_parser!(u32).range(1..=600))]
    seconds: u32,

    /// Connections a second of the load paced, of all clients together
    ///
    /// For its latencies to say anything about the balancer, the slowest has to be far from its end.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = value_parser!(u32).range(10..=100_000))]
    rate: u32,
}

/// Whether every row could be measured.
pub fn run(arguments: Args) -> Result<bool> {
    let Args { common, earlier, seconds, rate } = arguments;
    let rows = common.rows(Row::matching)?;
    if rows.is_empty() {
        return Ok(true);
    }
    // Before anything is measured: it may not be there.
    let before = earlier.against.as_deref().map(Report::read).transpose()?;

    let (machine, rounds, weir) = (Machine::here(), common.rounds, weir()?);
    let cpus = Cpus::divide()?;
    let rows = measure::measure(&rows, &cpus, &Options { rounds, seconds, rate, weir }, |what| eprintln!("{what}"))?;
    let report = Report { benchmark: report::benchmark(), machine, cpus, rounds, seconds, rate: Some(rate), rows };
    common.print(&report, |report| {
        before.map_or_else(|| table::render(report), |before| table::compare(&before, report))
    })?;
    Ok(!report.has_failed())
}
