//! `cargo xtask lint`: formatting and clippy, warnings denied.

use anyhow::{Result, bail};

use crate::cargo;

/// Check formatting and run clippy on the whole workspace
#[derive(clap::Args)]
pub struct Args {}

/// What to check, and the cargo arguments that check it.
const CHECKS: [(&str, &[&str]); 3] = [
    ("formatting", &["fmt", "--all", "--check"]),
    (
        "clippy",
        &[
            "clippy",
            "--workspace",
            "--exclude=lb-ebpf",
            "--exclude=weir-bench-ebpf",
            "--all-targets",
            "--",
            "-Dwarnings",
        ],
    ),
    // As host code: the distribution's eBPF toolchain has no clippy. A program without std can't unwind.
    (
        "clippy of the eBPF programs",
        &[
            "clippy",
            "--package=lb-ebpf",
            "--package=weir-bench-ebpf",
            "--config=profile.dev.panic='abort'",
            "--",
            "-Dwarnings",
        ],
    ),
];

pub fn run(Args {}: &Args) -> Result<()> {
    let mut failed = Vec::new();
    for (what, arguments) in CHECKS {
        println!("lint: {what}");
        if let Err(error) = cargo::run(cargo::cargo().args(arguments)) {
            eprintln!("{error:#}");
            failed.push(what);
        }
    }
    if !failed.is_empty() {
        bail!("not clean: {}", failed.join(", "));
    }
    println!("lint: clean");
    Ok(())
}
