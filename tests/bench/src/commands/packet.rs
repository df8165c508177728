//! `cargo xtask bench packet`.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::value_parser;
use weir_bench::{
    machine::Machine,
    packet::{
        measure::{Bench, Options},
        report::{self, Report},
        rows, table,
    },
};

/// What a packet costs in the kernel, without a network: Weir's program beside floors that no balancer gets under
///
/// Needs root. Exit code 1 if the packets of any row did not do what they should.
#[derive(clap::Args)]
pub struct Args {
    /// Measure only rows whose names contain TEXT; with several, all of them
    #[arg(long, value_name = "TEXT")]
    filter: Vec<String>,

    /// Measurements of each program in each row
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = value_parser!(u32).range(1..=1000))]
    rounds: u32,

    /// Packets of each measurement
    #[arg(long, value_name = "N", default_value_t = 1 << 20, value_parser = value_parser!(u32).range(1..=1 << 28))]
    packets: u32,

    /// Measure the XDP program that is pinned here, maps filled, in the same rounds
    #[arg(long, value_name = "PIN")]
    external: Vec<PathBuf>,

    /// Compare with what an earlier run printed with --json
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    against: Option<PathBuf>,

    /// Print JSON in place of the table
    #[arg(long)]
    json: bool,

    /// Only print the rows' names
    #[arg(long)]
    list: bool,
}

/// Whether every row could be measured.
pub fn run(arguments: Args) -> Result<bool> {
    let Args { filter, rounds, packets, external, against, json, list } = arguments;
    let rows = rows::matching(&filter);
    ensure!(!rows.is_empty(), "no row's name contains all of {filter:?}; --list prints them");
    if list {
        for row in &rows {
            println!("{row}");
        }
        return Ok(true);
    }
    // Before anything is measured: it may not be there.
    let before = against.as_deref().map(Report::read).transpose()?;

    let machine = Machine::here();
    let mut bench = Bench::new(Options { rounds, packets, external })?;
    let mut measured = Vec::new();
    for (number, row) in (1..).zip(&rows) {
        eprintln!("[{number}/{}] {row}", rows.len());
        measured.push(bench.row(row));
    }
    let report = Report { benchmark: report::benchmark(), machine, packets, rounds, rows: measured };
    match before {
        Some(before) => print!("{}", table::compare(&before, &report)),
        None if json => println!("{}", serde_json::to_string_pretty(&report)?),
        None => print!("{}", table::render(&report)),
    }
    Ok(!report.has_failed())
}
