//! The benchmark of balancers, with a second for each measurement: whether it measures, and whether it refuses to.
//! Times and rates are not looked at.

use std::{env, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use weir_bench::peers::{
    balancers::{Contender, Peer},
    cpu::Cpus,
    loads::Load,
    report::{Report, Row},
};
use weir_lab::requirements;

/// The `weir` under test.
fn weir() -> Result<PathBuf> {
    Ok(env::var_os("WEIR_BIN").context("WEIR_BIN names no weir: cargo xtask test sets it")?.into())
}

fn start(peer: Peer) -> Result<Contender> {
    Contender::start(peer, &Cpus::divide()?, &weir()?)
}

/// Connections a second of the load that has a rate: few enough for a busy machine.
const RATE: u32 = 200;

fn failure(load: Load, contender: &Contender) -> String {
    match load.run(contender, 1, RATE) {
        Ok(report) => panic!("{load} should have failed: {report:?}"),
        Err(error) => format!("{error:#}"),
    }
}

#[test]
fn every_load_goes_through_every_balancer() -> Result<()> {
    if !requirements::are_met() {
        return Ok(());
    }
    for load in Load::ALL {
        let filter = format!("{load}/");
        let report = measured(&filter)?;
        let rows = Row::matching(&[filter]);
        assert_eq!(report.rows.len(), rows.len());
        for row in rows {
            let measured = report.row(&row.to_string()).with_context(|| format!("{row} is missing"))?;
            assert_eq!((measured.load, measured.peer), (row.load, row.peer));
            let figures = measured.figures.as_ref().with_context(|| format!("{row} has no figures"))?;
            let percentiles = [figures.p50_us, figures.p99_us, figures.p999_us].map(|latency| latency.median);
            assert!(percentiles.is_sorted() && percentiles[0] > 0.0, "{row}: {percentiles:?}");
            assert_eq!(figures.late_us.is_some(), row.load == Load::Paced, "{row}: {figures:?}");
            assert!(figures.rate.min > 0.0 && figures.bytes.min > figures.rate.min, "{row}: {figures:?}");
            assert_eq!(figures.per_cpu.is_some(), row.peer != Peer::Direct, "{row}: {figures:?}");
            let others = [Peer::Direct, Peer::Haproxy, Peer::Nftables].into_iter().filter(|other| *other != row.peer);
            assert!(figures.ratios.iter().map(|ratio| ratio.to).eq(others), "{row}: {figures:?}");
        }
    }
    Ok(())
}

/// A run of the rows that `filter` leaves. On a busy machine a request through one of the balancers may take too long, which
/// is an error of its row: then it is run again.
fn measured(filter: &str) -> Result<Report> {
    let mut attempts = 3;
    loop {
        let mut bench = Command::new(env!("CARGO_BIN_EXE_weir-bench"));
        let options = ["peers", "--rounds", "1", "--seconds", "1", "--json", "--filter", filter];
        let output = bench.args(options).args(["--rate", &RATE.to_string()]).env("WEIR_BIN", weir()?).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        let report: Report = serde_json::from_slice(&output.stdout).with_context(|| said.into_owned())?;
        let errors: Vec<_> = report.rows.iter().filter_map(|row| row.error.as_ref()).collect();
        assert_eq!(output.status.success(), errors.is_empty(), "{errors:?}");
        if errors.is_empty() {
            return Ok(report);
        }
        attempts -= 1;
        ensure!(attempts > 0, "{errors:?}");
        eprintln!("once more: {errors:?}");
    }
}

#[test]
fn requests_that_fail_are_an_error() -> Result<()> {
    if !requirements::are_met() {
        return Ok(());
    }
    // Nobody tells it that a backend has gone.
    let mut contender = start(Peer::Nftables)?;
    contender.lab.stop_server(0);
    let error = failure(Load::Short, &contender);
    assert!(error.contains(" requests failed: "), "{error}");
    // wrk does not even begin where its first connection fails, which is a matter of chance here.
    let error = failure(Load::Close, &contender);
    assert!(error.contains(" requests failed: ") || error.contains("Connection refused"), "{error}");
    contender.lab.start_server(0)?;
    Load::Close.run(&contender, 1, RATE)?;
    Ok(())
}

#[test]
fn a_backend_that_serves_nobody_is_an_error() -> Result<()> {
    if !requirements::are_met() {
        return Ok(());
    }
    let mut contender = start(Peer::WeirNat)?;
    contender.lab.stop_server(2);
    let weir = contender.weir().context("weir does not run")?;
    weir.wait_for("web", "b3", "down", Duration::from_secs(10))?;
    weir.wait_for("lines", "b3", "down", Duration::from_secs(10))?;
    for load in Load::ALL {
        let error = failure(load, &contender);
        assert!(error.starts_with("2 of 3 backends have served: "), "{load}: {error}");
    }
    Ok(())
}
