//! `cargo xtask bench packet`.

use std::path::PathBuf;

use anyhow::Result;
use clap::value_parser;
use weir_bench::{
    machine::Machine,
    packet::{
        measure::{Bench, Options},
        report::{self, Report},
        rows, table,
    },
};

use super::{Common, Earlier, each};

/// What a packet costs in the kernel, without a network: Weir's program beside floors that no balancer gets under
///
/// Needs root. Exit code 1 if the packets of any row did not do what they should.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    common: Common,

    #[command(flatten)]
    earlier: Earlier,

    /// Packets of each measurement
    #[arg(long, value_name = "N", default_value_t = 1 << 20, value_parser = value_parser!(u32).range(1..=1 << 28))]
    packets: u32,

    /// Measure the XDP program that is pinned here, maps filled, in the same rounds
    #[arg(long, value_name = "PIN")]
    external: Vec<PathBuf>,
}

/// Whether every row could be measured.
pub fn run(arguments: Args) -> Result<bool> {
    let Args { common, earlier, packets, external } = arguments;
    let rows = common.rows(rows::matching)?;
    if rows.is_empty() {
        return Ok(true);
    }
    // Before anything is measured: it may not be there.
    let before = earlier.against.as_deref().map(Report::read).transpose()?;

    let (machine, rounds) = (Machine::here(), common.rounds);
    let mut bench = Bench::new(Options { rounds, packets, external })?;
    let rows = each(&rows, |row| bench.row(row));
    let report = Report { benchmark: report::benchmark(), machine, packets, rounds, rows };
    common.print(&report, |report| {
        before.map_or_else(|| table::render(report), |before| table::compare(&before, report))
    })?;
    Ok(!report.has_failed())
}
