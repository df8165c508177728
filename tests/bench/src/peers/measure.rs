//! The rounds: every load through every contender in turn.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use super::{
    balancers::{self, Contender, Peer},
    cpu::{self, Cpus},
    loads::Load,
    report::{Row, RowReport, Sample},
};

/// What is measured, and how much.
#[derive(Clone, Debug)]
pub struct Options {
    /// Measurements of each row, 1 or more.
    pub rounds: u32,
    /// Seconds of each measurement, 1 or more.
    pub seconds: u32,
    /// Connections a second of [`Load::Paced`], 1 or more.
    pub rate: u32,
    /// The `weir` binary.
    pub weir: PathBuf,
}

/// Measures `rows`, telling of each measurement by `progress`.
///
/// # Errors
/// A contender can't be set up. A measurement that fails is an error of its row.
pub fn measure(rows: &[Row], cpus: &Cpus, options: &Options, progress: impl Fn(&str)) -> Result<Vec<RowReport>> {
    ensure!(options.rounds > 0 && options.seconds > 0, "at least one round of a second has to be measured");
    balancers::check()?;
    let mut contenders = Vec::new();
    for peer in Peer::ALL.into_iter().filter(|peer| rows.iter().any(|row| row.peer == *peer)) {
        progress(&format!("setting up {peer}"));
        contenders.push(Contender::start(peer, cpus, &options.weir).with_context(|| format!("the lab of {peer}"))?);
    }
    let mut outcomes: Vec<Vec<Result<Sample>>> = rows.iter().map(|_| Vec::new()).collect();
    for round in 0..options.rounds {
        for load in Load::ALL {
            for contender in in_turn(&contenders, round) {
                let row = Row { load, peer: contender.peer };
                let Some(at) = rows.iter().position(|other| *other == row) else { continue };
                progress(&format!("[{}/{}] {row}", round + 1, options.rounds));
                outcomes[at].push(sample(contender, load, options));
            }
        }
    }
    Ok(super::report::rows(rows, outcomes))
}

/// Another one is the first in every round.
fn in_turn<T>(all: &[T], round: u32) -> impl Iterator<Item = &T> {
    let first = round as usize % all.len().max(1);
    all[first..].iter().chain(&all[..first])
}

fn sample(contender: &Contender, load: Load, options: &Options) -> Result<Sample> {
    let before = (cpu::machine()?, contender.cpu_time()?, contender.packets()?);
    let report = load.run(contender, options.seconds, options.rate)?;
    let machine = cpu::machine()?.checked_sub(before.0).context("the machine's CPU time went back")?;
    let balancer = contender.cpu_time()?.checked_sub(before.1).context("the balancer's CPU time went back")?;
    let packets = contender.packets()? - before.2;
    ensure_way(contender.peer, packets, report.requests)?;
    Ok(Sample {
        requests: report.requests,
        took: report.duration(),
        bytes: report.bytes,
        latency_us: [report.p50_us, report.p99_us, report.p999_us],
        late_us: report.pace.map(|pace| pace.late_p99_us),
        machine,
        balancer: (contender.peer != Peer::Direct).then_some(balancer),
    })
}

/// Checks that requests have gone through the balancer, or past it, by the number of packets that it was sent: a client
/// waits for each answer before it asks again, so that each request takes one at least.
fn ensure_way(peer: Peer, packets: u64, requests: u64) -> Result<()> {
    match peer {
        Peer::Direct => ensure!(packets < requests, "{packets} packets went to a balancer that is none"),
        _ => ensure!(packets >= requests, "only {packets} packets of {requests} requests went through it"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_to_go_the_right_way() {
        assert!(ensure_way(Peer::Haproxy, 1000, 1000).is_ok());
        assert!(ensure_way(Peer::Haproxy, 999, 1000).is_err());
        assert!(ensure_way(Peer::Direct, 20, 1000).is_ok());
        assert!(ensure_way(Peer::Direct, 1000, 1000).is_err());
    }

    #[test]
    fn everybody_begins_a_round() {
        let order = |round| in_turn(&['a', 'b', 'c'], round).collect::<String>();
        assert_eq!([0, 1, 2, 3].map(order), ["abc", "bca", "cab", "abc"]);
        assert_eq!(in_turn(&[0; 0], 5).count(), 0);
    }
}
