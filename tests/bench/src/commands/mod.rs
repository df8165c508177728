//! What `cargo xtask bench` can measure, one module each, and the options that they share.

use std::{env, fmt::Display, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::value_parser;
use serde::Serialize;

pub mod control;
pub mod packet;
pub mod peers;
pub mod plot;
pub mod wire;

/// What is measured how often, and what is printed.
#[derive(clap::Args)]
pub struct Common {
    /// Measure only rows whose names contain TEXT; with several, all of them
    #[arg(long, value_name = "TEXT")]
    filter: Vec<String>,

    /// Measurements of each figure
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = value_parser!(u32).range(1..=1000))]
    pub rounds: u32,

    /// Print JSON in place of the table
    #[arg(long)]
    json: bool,

    /// Only print the rows' names
    #[arg(long)]
    list: bool,
}

/// An earlier run.
#[derive(clap::Args)]
pub struct Earlier {
    /// Compare with what an earlier run printed with --json
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    pub against: Option<PathBuf>,
}

impl Common {
    /// The rows to measure, of those that `matching` finds; nothing if only their names are asked for, which it prints.
    fn rows<R: Display>(&self, matching: impl FnOnce(&[String]) -> Vec<R>) -> Result<Vec<R>> {
        let rows = matching(&self.filter);
        ensure!(!rows.is_empty(), "no row's name contains all of {:?}; --list prints them", self.filter);
        if self.list {
            for row in &rows {
                println!("{row}");
            }
            return Ok(Vec::new());
        }
        Ok(rows)
    }

    /// Prints `report` as it is asked for.
    fn print<T: Serialize>(&self, report: &T, table: impl FnOnce(&T) -> String) -> Result<()> {
        if self.json {
            println!("{}", serde_json::to_string_pretty(report)?);
        } else {
            print!("{}", table(report));
        }
        Ok(())
    }
}

/// Measures each row and says which.
fn each<R: Display, T>(rows: &[R], mut measure: impl FnMut(&R) -> T) -> Vec<T> {
    let measure = |(number, row)| {
        eprintln!("[{number}/{}] {row}", rows.len());
        measure(row)
    };
    (1..).zip(rows).map(measure).collect()
}

/// The binary to measure. Namespaces go from here on when the process is interrupted.
fn weir() -> Result<PathBuf> {
    let weir = env::var_os("WEIR_BIN").context("WEIR_BIN names no weir to measure: cargo xtask bench sets it")?;
    weir_lab::remove_on_signals()?;
    Ok(weir.into())
}
