//! `cargo xtask bench peers`.

use std::{env, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
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

/// The same clients through Weir, through other balancers and through none: what they see, and what it costs
///
/// Needs root. Everything happens in network namespaces. Exit code 1 if any request of any row failed.
#[derive(clap::Args)]
pub struct Args {
    /// Measure only rows whose names contain TEXT; with several, all of them
    #[arg(long, value_name = "TEXT")]
    filter: Vec<String>,

    /// Measurements of each row
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = value_parser!(u32).range(1..=1000))]
    rounds: u32,

    /// Seconds of each measurement
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = value_parser!(u32).range(1..=600))]
    seconds: u32,

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
    let Args { filter, rounds, seconds, against, json, list } = arguments;
    let rows = Row::matching(&filter);
    ensure!(!rows.is_empty(), "no row's name contains all of {filter:?}; --list prints them");
    if list {
        for row in &rows {
            println!("{row}");
        }
        return Ok(true);
    }
    // Before anything is measured: it may not be there.
    let before = against.as_deref().map(Report::read).transpose()?;
    let weir = env::var_os("WEIR_BIN").context("WEIR_BIN names no weir: cargo xtask bench sets it")?;

    weir_lab::remove_on_signals()?;
    let machine = Machine::here();
    let cpus = Cpus::divide()?;
    let options = Options { rounds, seconds, weir: weir.into() };
    let rows = measure::measure(&rows, &cpus, &options, |what| eprintln!("{what}"))?;
    let report = Report { benchmark: report::benchmark(), machine, cpus, rounds, seconds, rows };
    match before {
        Some(before) => print!("{}", table::compare(&before, &report)),
        None if json => println!("{}", serde_json::to_string_pretty(&report)?),
        None => print!("{}", table::render(&report)),
    }
    Ok(!report.has_failed())
}
