//! The packet benchmark on the kernel, with few packets: whether it measures, and whether it refuses to. Times are not
//! looked at.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use aya::{Ebpf, programs::Xdp};
use lb_common::reason::Reason;
use weir::object::OBJECT;
use weir_bench::packet::{
    balancer::Balancer,
    frames,
    generator::Generator,
    measure::{Bench, Options},
    report::RowReport,
    rows::{self, Kind, Row},
    verify,
};
use weir_packets::oracle::Action;

/// Neither a multiple of the flows nor a divisor.
const PACKETS: u32 = 3_000;

const OPTIONS: Options = Options { rounds: 2, packets: PACKETS, external: Vec::new() };

fn row(name: &str) -> Row {
    rows::all().into_iter().find(|row| row.to_string() == name).unwrap_or_else(|| panic!("there is no row {name}"))
}

fn error(report: &RowReport) -> &str {
    assert_eq!(report.programs, [], "figures of a row that failed");
    report.error.as_deref().unwrap_or_else(|| panic!("{} did not fail", report.name))
}

#[test]
fn rows_of_every_kind_are_measured() -> Result<()> {
    let mut bench = Bench::new(OPTIONS)?;
    for name in [
        "l2/v4/udp/100x100/64k",
        "l2/v6/ack/100x100/1k",
        "ipip/v4-in-v4/ack/1x100/1k",
        "ipip/v4-in-v4/non-vip/100x100/512k",
        "ipip/v4-in-v6/syn/100x100/1k",
        "ipip/v6-in-v4/udp/100x100/1k",
        "nat/v4/syn/100x100/1k",
        "nat/v4/reply/100x100/1k",
        "nat/v6/reply/100x100/64k",
        "nat/v6/udp/100x100/1k",
        "ipip/v4-in-v4/ack/100x100/tracked-10/1k",
        "ipip/v6-in-v6/syn/100x100/tracked-100/1k",
    ] {
        let report = bench.row(&row(name));
        assert_eq!(report.error, None, "{name}");
        let programs: Vec<&str> = report.programs.iter().map(|figures| figures.program.as_str()).collect();
        assert_eq!(programs, ["XDP_TX", "MAC swap", "parse", "parse + fixed IPIP", "weir"], "{name}");
    }
    Ok(())
}

#[test]
fn packets_that_end_otherwise_than_expected_are_an_error() -> Result<()> {
    let mut bench = Bench::new(OPTIONS)?;
    let right = row("l2/v4/ack/100x100/1k");

    let mut row = right.clone();
    row.expected.reason = Reason::ForwardedNat;
    let report = bench.row(&row);
    assert_eq!(error(&report), "weir: packet 0: forwarded-l2 in place of forwarded-nat");

    let mut row = right.clone();
    row.expected.action = Action::Redirect;
    let report = bench.row(&row);
    assert_eq!(error(&report), "weir: packet 0: Transmit in place of Redirect");

    // Packets that nobody is there to forward, in a row that wants them forwarded.
    let row = Row { kind: Kind::Foreign, ..right.clone() };
    let report = bench.row(&row);
    assert_eq!(error(&report), "weir: packet 0: Pass in place of Transmit");

    assert_eq!(bench.row(&right).error, None, "a row that failed spoils no other");
    Ok(())
}

#[test]
fn every_packet_has_to_be_counted() -> Result<()> {
    for name in ["ipip/v6-in-v6/syn/100x100/1k", "nat/v4/reply/100x100/1k", "ipip/v4-in-v4/non-vip/100x100/512k"] {
        let row = row(name);
        let mut balancer = Balancer::load(&row.setting)?;
        let mut generator = Generator::load()?;
        generator.set_recipe(&frames::recipe(&row))?;
        let kind = generator.measure(balancer.program()?)?;
        let before = balancer.counters()?;
        generator.run(kind, PACKETS)?;
        verify::counters(&row, &balancer, &before, PACKETS, 1).with_context(|| name.to_owned())?;

        let error = verify::counters(&row, &balancer, &before, PACKETS + 1, 1).unwrap_err().to_string();
        let reason = row.expected.reason.name();
        assert_eq!(error, format!("counted {{\"{reason}\": 3000}} in place of {{\"{reason}\": 3001}}"));
        if row.kind != Kind::Foreign {
            let mut other = row.clone();
            other.kind = if row.kind == Kind::Syn { Kind::Ack } else { Kind::Syn };
            let error = verify::counters(&other, &balancer, &before, PACKETS, 1).unwrap_err().to_string();
            assert!(error.starts_with("service 1: counted Traffic"), "{error}");
        }
    }
    Ok(())
}

#[test]
fn packets_that_find_no_entry_where_they_should_are_an_error() -> Result<()> {
    let row = row("ipip/v4-in-v4/ack/100x100/tracked-100/1k");
    let mut balancer = Balancer::load(&row.setting)?;
    let mut generator = Generator::load()?;
    let kind = generator.measure(balancer.program()?)?;
    // Nobody has opened these flows.
    generator.set_recipe(&frames::recipe(&row))?;
    let before = balancer.counters()?;
    generator.run(kind, PACKETS)?;
    let error = verify::counters(&row, &balancer, &before, PACKETS, 1).unwrap_err().to_string();
    assert!(error.starts_with("retired backend 1: counted Traffic"), "{error}");
    Ok(())
}

#[test]
fn other_programs_are_measured_in_the_same_rounds() -> Result<()> {
    // A program that leaves everything here to the kernel.
    let mut ebpf = Ebpf::load(OBJECT)?;
    let program: &mut Xdp = ebpf.program_mut("weir_decap").context("no decapsulator")?.try_into()?;
    program.load()?;
    // Names on this file system have no dots.
    let pins = tempfile::Builder::new().prefix("weir-bench-").tempdir_in("/sys/fs/bpf")?;
    let pin = pins.path().join("program");
    program.pin(&pin)?;

    let external = vec![pin.clone()];
    let mut bench = Bench::new(Options { external, ..OPTIONS })?;
    let report = bench.row(&row("ipip/v6-in-v6/non-vip/100x100/512k"));
    assert_eq!(report.error, None);
    assert!(report.program(&pin.display().to_string()).is_some(), "{report:?}");

    let report = bench.row(&row("l2/v4/ack/100x100/1k"));
    assert_eq!(error(&report), format!("{}: packet 0: Pass in place of Transmit", pin.display()));

    let external = vec![PathBuf::from("/sys/fs/bpf/no such pin")];
    let missing = Bench::new(Options { external, ..OPTIONS }).err().context("there is no such pin")?;
    assert!(format!("{missing:#}").starts_with("cannot open a program at /sys/fs/bpf/no such pin"), "{missing:#}");
    Ok(())
}
