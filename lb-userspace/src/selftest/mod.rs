//! The self-test of a program before it is trusted with traffic: packets for the services of the pinned tables are run
//! through the loaded program by the kernel, and their answers compared with those of the same logic in this process.

mod host;
mod packets;

use std::fmt;

use anyhow::{Context as _, bail};

use self::host::{Answer, Host};
use crate::{
    dataplane::Kernel,
    tables::{Dataplane as _, Tables},
};

/// How often the test begins anew where the tables change under it, as those of a running daemon may.
const ROUNDS: u16 = 10;

/// A packet to test with.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Probe {
    /// What it is: `a tcp packet from 198.51.100.77:40000 to 192.0.2.1:443`.
    what: String,
    frame: Vec<u8>,
}

/// A wrong answer.
#[derive(Debug)]
struct Fault {
    what: String,
    expected: Answer,
    found: Answer,
}

/// Tests `kernel`, which is to be on trial ([`Kernel::open_trial`]), with packets that come in by the device `ingress`
/// (a kernel interface index): how many.
///
/// # Errors
/// The program answers a packet otherwise than it should, or the kernel refuses to run it.
pub fn run(kernel: &mut Kernel, ingress: u32) -> anyhow::Result<usize> {
    let settings = *kernel.settings();
    let mut tables = read(kernel)?;
    let mut last = None;
    for round in 0..ROUNDS {
        let probes = packets::probes(&tables, round)?;
        let host = Host::new(&tables, settings, ingress);
        let fault = first_fault(&probes, &host, |frame| kernel.test_run(frame, ingress))?;
        let Some(fault) = fault else { return Ok(probes.len()) };
        let now = read(kernel)?;
        if now == tables {
            bail!("the program fails its self-test: {fault}");
        }
        // A running daemon has changed them in between, so nothing is proven.
        tables = now;
        last = Some(fault);
    }
    let fault = last.map(|fault| fault.to_string()).unwrap_or_default();
    bail!("the tables changed during each of {ROUNDS} self-tests, and none was passed: {fault}")
}

fn read(kernel: &Kernel) -> anyhow::Result<Tables> {
    kernel.read().context("can't read the kernel's tables")
}

/// The first of `probes` that `program` answers otherwise than `host`.
fn first_fault(
    probes: &[Probe],
    host: &Host<'_>,
    mut program: impl FnMut(&[u8]) -> anyhow::Result<(u32, Vec<u8>)>,
) -> anyhow::Result<Option<Fault>> {
    for Probe { what, frame } in probes {
        let expected = host.answer(frame);
        let (action, bytes) = program(frame).with_context(|| format!("the kernel does not run {what}"))?;
        let found = Answer::new(action, bytes);
        if found != expected {
            return Ok(Some(Fault { what: what.clone(), expected, found }));
        }
    }
    Ok(None)
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, expected, found } = self;
        if expected.action == found.action {
            let at = expected.bytes.iter().zip(&found.bytes).take_while(|(expected, found)| expected == found).count();
            let (wanted, got) = (expected.bytes.len(), found.bytes.len());
            write!(f, "{what} is rewritten wrongly from byte {at} on ({got} bytes long, expected {wanted})")
        } else {
            write!(f, "{what} gets the answer {}, expected {}", found.name(), expected.name())
        }
    }
}

#[cfg(test)]
mod tests;
