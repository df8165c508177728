//! `cargo xtask bench wire`.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use clap::value_parser;
use weir_bench::{
    machine::Machine,
    wire::{
        measure::{Bench, Options},
        report::{BENCHMARK, Report},
        rows, table,
    },
};

/// What a machine forwards: live frames through veth pairs, by way of Weir and of programs that do less
///
/// Needs root; works in network namespaces of its own. Exit code 1 if frames of any row went where they should not.
#[derive(clap::Args)]
pub struct Args {
    /// Measure only rows whose names contain TEXT; with several, all of them
    #[arg(long, value_name = "TEXT")]
    filter: Vec<String>,

    /// Measurements of each program in each row
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = value_parser!(u32).range(1..=1000))]
    rounds: u32,

    /// Seconds of each measurement
    #[arg(long, value_name = "N", default_value_t = 1.0, value_parser = seconds)]
    seconds: f64,

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
    let weir = std::env::var_os("WEIR_BIN").context("WEIR_BIN names no weir to measure: cargo xtask bench sets it")?;
    weir_lab::remove_on_signals()?;
    let mut bench = Bench::new(Options { rounds, time: Duration::from_secs_f64(seconds), weir: weir.into() })?;
    let mut measured = Vec::new();
    for (number, row) in (1..).zip(&rows) {
        eprintln!("[{number}/{}] {row}", rows.len());
        measured.push(bench.row(row));
    }
    drop(bench);
    let report = Report { benchmark: BENCHMARK.to_owned(), machine, seconds, rounds, rows: measured };
    match before {
        Some(before) => print!("{}", table::compare(&before, &report)),
        None if json => println!("{}", serde_json::to_string_pretty(&report)?),
        None => print!("{}", table::render(&report)),
    }
    Ok(!report.has_failed())
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.01..=600.0).contains(&seconds) { Ok(seconds) } else { Err("not between 0.01 and 600".to_owned()) }
}
