//! `cargo xtask build`: the `weir` binary with its eBPF object.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::cargo;

/// Build the `weir` binary, eBPF object included, and print its path
#[derive(clap::Args)]
pub struct Args {
    /// Build without optimisation; the eBPF object is always optimised
    #[arg(long)]
    debug: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let path = if args.debug { weir("debug", &[])? } else { release()? };
    println!("{}", path.display());
    Ok(())
}

/// Builds the release binary.
pub fn release() -> Result<PathBuf> {
    weir("release", &["--release"])
}

/// Where [`release`] leaves it.
pub fn release_path() -> Result<PathBuf> {
    path("release")
}

fn path(directory: &str) -> Result<PathBuf> {
    Ok(cargo::target_dir()?.join(directory).join("weir"))
}

fn weir(directory: &str, flags: &[&str]) -> Result<PathBuf> {
    let build = ["build", "--package", "lb-userspace", "--bin", "weir", "--features", "object"];
    cargo::run(cargo::cargo().args(build).args(flags))?;
    let path = path(directory)?;
    ensure!(path.is_file(), "cargo has built weir, but not as {}", path.display());
    Ok(path)
}
