//! `cargo xtask setup`: makes this host able to build, test and show Weir.

use std::io::{self, IsTerminal as _};

use anyhow::{Result, bail};

use self::{
    host::Host,
    plan::Plan,
    step::{Log, Step},
};

mod host;
mod plan;
mod step;
#[path = "../../lb-userspace/build/toolchain.rs"]
mod toolchain;

pub use self::{
    host::{Scope, is_root},
    toolchain::cargo_bin,
};

/// Install what building, testing and showing Weir needs
///
/// On Debian 12, as root, it installs what is missing; elsewhere it prints the commands that do.
#[derive(clap::Args)]
pub struct Args {
    /// Only report; exit 1 if something is missing
    #[arg(long)]
    check: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let host = Host::probe(Scope::Everything)?;
    report(&host);
    if args.check {
        return if host.is_ready() { Ok(()) } else { Err(missing(&host)) };
    }
    if host.is_ready() {
        println!("Nothing to install.");
    }
    complete(&host, Scope::Everything)
}

/// Installs what is missing, silently if nothing is.
pub fn ensure(scope: Scope) -> Result<()> {
    let host = Host::probe(scope)?;
    if !host.is_ready() {
        report(&host);
    }
    complete(&host, scope)
}

/// Brings the host from what it is to what it should be.
fn complete(host: &Host, scope: Scope) -> Result<()> {
    match Plan::new(host) {
        Plan::Nothing => Ok(()),
        Plan::Install(steps) => install(&steps, scope),
        Plan::Print { reason, steps, by_hand } => {
            println!("\n{reason}. What to do:\n");
            for step in &steps {
                println!("  # {}\n  {}", step.what, step.as_user(host.root));
            }
            for hint in by_hand {
                println!("  # {hint}");
            }
            println!();
            Err(missing(host))
        }
    }
}

fn install(steps: &[Step], scope: Scope) -> Result<()> {
    println!("\nWill:");
    for step in steps {
        println!("  - {}\n      {}", step.what, step.command);
    }
    println!();
    let log = Log::create()?;
    for step in steps {
        step.run(&log, io::stdout().is_terminal())?;
    }
    let host = Host::probe(scope)?;
    if !host.is_ready() {
        println!();
        report(&host);
        bail!("{}; what was done is in {}", missing(&host), log.path.display());
    }
    println!("This host is ready.");
    Ok(())
}

fn missing(host: &Host) -> anyhow::Error {
    let names: Vec<_> = host.rows().into_iter().filter(|row| row.state.is_err()).map(|row| row.name).collect();
    anyhow::anyhow!("this host is not ready: {}", names.join(", "))
}

fn report(host: &Host) {
    for row in host.rows() {
        let (mark, detail) = match &row.state {
            Ok(found) => ("ok", found),
            Err(lack) => ("missing", lack),
        };
        println!("  {mark:<8} {:<16} {detail}", row.name);
    }
}
