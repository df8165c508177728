//! `cargo xtask test`: the whole ladder of tests, summed on the last line.

use std::{
    fmt,
    io::{self, Read as _, Write as _},
    ops::AddAssign,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result};

use crate::{build, cargo, setup};

/// Run every test that this user can run
#[derive(clap::Args)]
pub struct Args {}

/// The packages whose tests load eBPF programs or make network namespaces.
const NEED_ROOT: [&str; 3] = ["weir-lab", "weir-system", "weir-bench"];

/// The packages that are eBPF programs: what of them can be tested is tested by others.
const EBPF: [&str; 2] = ["lb-ebpf", "weir-bench-ebpf"];

/// How many tests ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
}

/// Its last line is the sum, whatever happens.
pub fn run(Args {}: &Args) -> Result<ExitCode> {
    let root = setup::is_root()?;
    if root {
        setup::ensure(setup::Scope::Everything)?;
    }

    let mut tally = Tally::default();
    println!("\n== on the host: what needs neither root nor eBPF ==");
    tally += rung(host_tests());
    println!("\n== on the kernel: packets through the eBPF programs, and Weir in the lab ==");
    if root {
        tally += rung(system_tests());
    } else {
        println!("skipped: loading eBPF programs and making network namespaces needs root");
        tally.skipped += 1;
    }

    println!("\n{tally}");
    Ok(if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn host_tests() -> Result<Tally> {
    let arguments = ["test", "--workspace", "--no-fail-fast"];
    let elsewhere = NEED_ROOT.iter().chain(&EBPF).map(|package| format!("--exclude={package}"));
    cargo_test(cargo::cargo().args(arguments).args(elsewhere))
}

/// In the release profile, so that the object that was built for `weir` serves the tests too; one by one, because they
/// measure, and because they share the machine.
fn system_tests() -> Result<Tally> {
    let weir = build::release()?;
    let packages = NEED_ROOT.map(|package| format!("--package={package}"));
    let mut command = cargo::cargo();
    command.args(["test", "--release", "--no-fail-fast"]).args(packages).args(["--", "--test-threads=1"]);
    cargo_test(command.env("WEIR_BIN", weir))
}

/// What a rung adds; one that could not run at all counts as a failed test.
fn rung(result: Result<Tally>) -> Tally {
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        Tally { failed: 1, ..Tally::default() }
    })
}

/// Runs `cargo test`, shows its output as it comes, and sums what the test programs report.
fn cargo_test(command: &mut Command) -> Result<Tally> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("can't run cargo")?;
    let mut output = child.stdout.take().context("cargo has no output")?;
    let (mut tally, mut line, mut buffer) = (Tally::default(), Vec::new(), [0; 4096]);
    loop {
        let read = output.read(&mut buffer).context("can't read cargo's output")?;
        if read == 0 {
            break;
        }
        io::stdout().write_all(&buffer[..read])?;
        io::stdout().flush()?;
        for &byte in &buffer[..read] {
            if byte == b'\n' {
                tally += Tally::from_line(&String::from_utf8_lossy(&line)).unwrap_or_default();
                line.clear();
            } else {
                line.push(byte);
            }
        }
    }
    let status = child.wait().context("can't wait for cargo")?;
    if !status.success() && tally.failed == 0 {
        // Nothing compiled, or a test program died before it could report.
        eprintln!("error: cargo test ended with {status}");
        tally.failed = 1;
    }
    Ok(tally)
}

impl Tally {
    /// Reads libtest's closing line: `test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; …`.
    fn from_line(line: &str) -> Option<Self> {
        let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
        let count = |what: &str| {
            let mut parts = counts.split(';').map(str::trim);
            parts.find_map(|part| part.strip_suffix(what)?.trim().parse().ok())
        };
        Some(Self { passed: count("passed")?, failed: count("failed")?, skipped: count("ignored")? })
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn result_lines_are_summed() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test a ... ok",
            "test result: FAILED. 40 passed; 2 failed; 0 ignored; 0 measured; 9 filtered out; finished in 1.25s",
        ] {
            tally += Tally::from_line(line).unwrap_or_default();
        }
        assert_eq!(tally, Tally { passed: 45, failed: 2, skipped: 1 });
        assert_eq!(tally.to_string(), "45 passed, 2 failed, 1 skipped");
    }
}
