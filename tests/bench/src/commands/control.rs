//! `cargo xtask bench control`.

use std::{env, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::value_parser;
use weir_bench::{
    control::{measure::Bench, report::Report, rows, table},
    machine::Machine,
};

/// What the controller takes: starts, changes, deaths of backends, memory, sweeps; a real daemon in a lab of its own
///
/// Needs root. Exit code 1 if the tables of any row did not become what they should.
#[derive(clap::Args)]
pub struct Args {
    /// Measure only rows whose names contain TEXT; with several, all of them
    #[arg(long, value_name = "TEXT")]
    filter: Vec<String>,

    /// Measurements of each figure
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = value_parser!(u32).range(1..=1000))]
    rounds: u32,

    /// Print JSON in place of the table
    #[arg(long)]
    json: bool,

    /// Only print the rows' names
    #[arg(long)]
    list: bool,
}

/// Whether every row could be measured.
pub fn run(arguments: Args) -> Result<bool> {
    let Args { filter, rounds, json, list } = arguments;
    let rows = rows::matching(&filter);
    ensure!(!rows.is_empty(), "no row's name contains all of {filter:?}; --list prints them");
    if list {
        for row in &rows {
            println!("{row}");
        }
        return Ok(true);
    }
    let weir = env::var_os("WEIR_BIN").context("WEIR_BIN names no weir to measure: cargo xtask bench sets it")?;
    weir_lab::remove_on_signals()?;
    let machine = Machine::here();
    let bench = Bench::new(&PathBuf::from(weir), rounds);
    let mut measured = Vec::new();
    for (number, row) in (1..).zip(&rows) {
        eprintln!("[{number}/{}] {row}", rows.len());
        measured.push(bench.row(row));
    }
    let report = Report { machine, rounds, rows: measured };
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", table::render(&report));
    }
    Ok(!report.has_failed())
}
