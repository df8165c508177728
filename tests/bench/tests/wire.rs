//! The wire benchmark on the kernel, shortly: whether frames get through and are all accounted for, and whether it refuses
//! to measure what is not. Rates are not looked at.

use std::{env, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use lb_common::reason::Reason;
use weir_bench::{
    packet::{
        frames,
        rows::{Kind, Row},
        world::world,
    },
    wire::{
        ends::{Arrived, Ends},
        measure::{Bench, Options},
        report::RowReport,
        rows,
        verify::{Counted, Lost, Passage},
        wires::{Wire, Wires, stats},
    },
};
use weir_lab::requirements;

const TIME: Duration = Duration::from_millis(20);

/// The `weir` under test; `None`, said on the terminal, on a host where no lab can be.
fn weir() -> Result<Option<PathBuf>> {
    if !requirements::are_met() {
        return Ok(None);
    }
    let weir = env::var_os("WEIR_BIN").context("WEIR_BIN names no weir to test: cargo xtask test sets it")?;
    Ok(Some(weir.into()))
}

fn row(name: &str) -> Row {
    rows::all().into_iter().find(|row| row.to_string() == name).unwrap_or_else(|| panic!("there is no row {name}"))
}

fn error(report: &RowReport) -> &str {
    assert_eq!(report.programs, [], "figures of a row that failed");
    report.error.as_deref().unwrap_or_else(|| panic!("{} did not fail", report.name))
}

#[test]
fn every_row_is_measured() -> Result<()> {
    let Some(weir) = weir()? else { return Ok(()) };
    let mut bench = Bench::new(Options { rounds: 1, time: TIME, weir })?;
    for row in rows::all() {
        let report = bench.row(&row);
        assert_eq!(report.error, None, "{row}");
        let programs: Vec<&str> = report.programs.iter().map(|figures| figures.program.as_str()).collect();
        assert_eq!(programs, ["MAC swap", "drop", "weir"], "{row}");
        for figures in &report.programs {
            assert!(figures.arrived.min > 0.0 && figures.run_time > 0.0, "{row}: {figures:?}");
        }
    }
    Ok(())
}

#[test]
fn frames_that_end_otherwise_than_expected_are_an_error() -> Result<()> {
    let Some(weir) = weir()? else { return Ok(()) };
    let mut bench = Bench::new(Options { rounds: 1, time: TIME, weir })?;
    let right = row("l2/v4/ack/1x100/1");

    let mut row = right.clone();
    row.expected.reason = Reason::ForwardedNat;
    let report = bench.row(&row);
    let error_text = error(&report);
    assert!(error_text.starts_with("weir: weir counted {\"forwarded-l2\": "), "{error_text}");

    // Packets to an address that no service has, which nobody forwards.
    let report = bench.row(&Row { kind: Kind::Foreign, ..right.clone() });
    let error_text = error(&report);
    assert!(error_text.starts_with("weir: weir counted {\"no-service\": "), "{error_text}");

    assert_eq!(bench.row(&right).error, None, "a row that failed spoils no other");
    Ok(())
}

#[test]
fn frames_that_nobody_has_counted_are_an_error() -> Result<()> {
    let Some(weir) = weir()? else { return Ok(()) };
    let row = row("ipip/v4-in-v4/ack/1x100/64k");
    let world = world(&row.setting);
    let service = &world.services[0];
    let wires = Wires::make(&weir)?;
    let mut ends = Ends::attach(&wires)?;
    let daemon = wires.start_weir(&world)?;
    ends.set_recipe(&frames::recipe(&row))?;

    let before = stats(&daemon)?;
    let received = wires.received(Wire::Weir)?;
    let sent = ends.send(&wires, Wire::Weir, TIME)?;
    let counted = Counted::between(&before, &stats(&daemon)?)?;
    let passage =
        Passage { sent: sent.frames, received: wires.received(Wire::Weir)? - received, arrived: ends.arrived()? };
    let lost = passage.through_weir(&row, service, &counted)?;
    assert_eq!(passage.at_sink() + lost.before + lost.behind, sent.frames);

    let refused = |passage: &Passage, counted: &Counted| -> String {
        passage.through_weir(&row, service, counted).map(|lost| format!("{lost:?}")).unwrap_err().to_string()
    };
    // One frame fewer than Weir has counted.
    let fewer = Passage { received: passage.received - 1, ..passage.clone() };
    assert!(refused(&fewer, &counted).starts_with("weir counted {\"forwarded-ipip\": "));
    // A frame that the sink got for a backend and Weir did not count for it.
    let mut more = passage.clone();
    let at = usize::from(service.backends[7].hop.context("no MAC address")?.mac[5]);
    more.arrived[at] = Arrived { frames: counted.backends["b8"].packets + 1, ..more.arrived[at] };
    assert!(refused(&more, &counted).contains("frames arrived at …:08 of"), "{}", refused(&more, &counted));
    // A frame that lacks a byte.
    let mut shorter = passage.clone();
    shorter.arrived[at].bytes -= 1;
    assert!(refused(&shorter, &counted).contains("bytes arrived at …:08 in place of"));
    // A frame that was lost behind Weir is a figure.
    let mut fewer = passage.clone();
    fewer.arrived[at] = Arrived { frames: fewer.arrived[at].frames - 1, bytes: fewer.arrived[at].bytes - 148 };
    assert_eq!(fewer.through_weir(&row, service, &counted)?, Lost { behind: lost.behind + 1, ..lost });
    Ok(())
}
