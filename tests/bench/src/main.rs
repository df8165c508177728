//! `cargo xtask bench`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod commands;

/// Measures Weir.
#[derive(Parser)]
#[command(bin_name = "cargo xtask bench")]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Control(commands::control::Args),
    Packet(commands::packet::Args),
    Peers(commands::peers::Args),
    Wire(commands::wire::Args),
    Plot(commands::plot::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().what {
        What::Control(arguments) => commands::control::run(arguments),
        What::Packet(arguments) => commands::packet::run(arguments),
        What::Peers(arguments) => commands::peers::run(arguments),
        What::Plot(arguments) => commands::plot::run(arguments),
        What::Wire(arguments) => commands::wire::run(arguments),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
