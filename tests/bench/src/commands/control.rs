//! `cargo xtask bench control`.

use anyhow::Result;
use weir_bench::{
    control::{measure::Bench, report::Report, rows, table},
    machine::Machine,
};

use super::{Common, each, weir};

/// What the controller takes: starts, changes, deaths of backends, memory, sweeps; a real daemon in a lab of its own
///
/// Needs root. Exit code 1 if the tables of any row did not become what they should.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    common: Common,
}

/// Whether every row could be measured.
pub fn run(arguments: Args) -> Result<bool> {
    let common = arguments.common;
    let rows = common.rows(rows::matching)?;
    if rows.is_empty() {
        return Ok(true);
    }
    let (machine, rounds, weir) = (Machine::here(), common.rounds, weir()?);
    let bench = Bench::new(&weir, rounds);
    let rows = each(&rows, |row| bench.row(row));
    let report = Report { machine, rounds, rows };
    common.print(&report, table::render)?;
    Ok(!report.has_failed())
}
