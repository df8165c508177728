//! `cargo xtask bench`: measurements.

use std::{ffi::OsString, process::ExitCode};

use anyhow::{Context as _, Result, ensure};

use crate::{build, cargo, setup};

/// Measure Weir; `cargo xtask bench help` lists what can be measured
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// What to measure, and how
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Builds `weir` and the measuring program, optimised, and becomes the latter in all but name: its exit code is ours.
pub fn run(args: &Args) -> Result<ExitCode> {
    let with_others = args.arguments.first().is_some_and(|what| what == "peers");
    setup::ensure(if with_others { setup::Scope::Everything } else { setup::Scope::Show })?;
    let weir = build::release()?;
    cargo::run(cargo::cargo().args(["build", "--quiet", "--release", "--package", "weir-bench"]))?;
    let program = cargo::target_dir()?.join("release/weir-bench");
    ensure!(program.is_file(), "cargo has built weir-bench, but not as {}", program.display());
    let status = std::process::Command::new(&program).args(&args.arguments).env("WEIR_BIN", weir).status();
    let code = status.with_context(|| format!("can't run {}", program.display()))?.code();
    Ok(code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}
