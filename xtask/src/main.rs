//! `cargo xtask`: what a developer or a first-time user types. One module per verb.

use std::{env, path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::Parser;

mod bench;
mod build;
mod cargo;
mod demo;
mod lab;
mod lint;
mod setup;
mod test;

/// Weir's set-up, build, checks, tests, demonstration and measurements.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
enum Verb {
    Setup(setup::Args),
    Build(build::Args),
    Test(test::Args),
    Lint(lint::Args),
    Lab(lab::Args),
    Demo(demo::Args),
    Bench(bench::Args),
}

fn main() -> ExitCode {
    widen_path();
    match run(&Verb::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: &Verb) -> Result<ExitCode> {
    match verb {
        Verb::Setup(args) => setup::run(args)?,
        Verb::Build(args) => build::run(args)?,
        Verb::Test(args) => return test::run(args),
        Verb::Lint(args) => lint::run(args)?,
        Verb::Lab(args) => lab::run(args)?,
        Verb::Demo(args) => demo::run(args)?,
        Verb::Bench(args) => return bench::run(args),
    }
    Ok(ExitCode::SUCCESS)
}

/// Puts on `PATH`, for this program and all that it starts, where set-up finds and installs programs: cargo's own
/// directory, and those of the administrator's programs, which `su` leaves out.
fn widen_path() {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = setup::cargo_bin()
        .into_iter()
        .chain(env::split_paths(&path))
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from));
    // A directory with a colon in its name can't be on any PATH: then it stays as it is.
    if let Ok(path) = env::join_paths(directories) {
        // SAFETY: this is the only thread.
        unsafe { env::set_var("PATH", path) };
    }
}
