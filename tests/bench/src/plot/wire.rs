//! The plot of what a machine forwards.

use anyhow::{Result, ensure};

use super::{
    Plot,
    bars::{Bars, Group, Panel, Scale},
    canvas::{BLUE, GREY, PALE, Series, Sheet, place},
};
use crate::{
    packet::rows::Row,
    wire::{report::Report, rows, wires::Wire},
};

/// All plots of `report`.
///
/// # Errors
/// It has no figures.
pub fn plots(report: &Report) -> Result<Vec<Plot>> {
    let panel = |(bits, title): (u32, &str)| {
        let groups: Vec<Group> =
            rows::all().iter().filter(|row| row.flow_bits == bits).filter_map(|row| group(report, row)).collect();
        let axis = "million frames for each second of CPU time".to_owned();
        (!groups.is_empty()).then(|| Panel { title: title.to_owned(), axis, groups, mark: None, scale: Scale::Linear })
    };
    let panels: Vec<Panel> = [(0, "1 flow"), (16, "64k flows")].into_iter().filter_map(panel).collect();
    ensure!(!panels.is_empty(), "it has no figures");
    let how = format!("Medians, least and greatest of {} rounds of {} s", report.rounds, report.seconds);
    let bars = Bars {
        sheet: Sheet {
            title: "What one CPU forwards, generator and sink included".to_owned(),
            series: Wire::ALL.iter().map(|wire| series(*wire)).collect(),
            caption: vec![
                format!("Live frames of 128 bytes through veth pairs; one service with 100 backends. {how}."),
                format!("cargo xtask bench wire: {}", place(&report.machine)),
            ],
        },
        panels,
        columns: 2,
    };
    Ok(vec![Plot { name: "wire.svg", svg: bars.draw()? }])
}

/// What came through each program in `row`.
fn group(report: &Report, row: &Row) -> Option<Group> {
    let measured = report.row(&row.to_string())?;
    let bar = |(series, wire): (usize, &Wire)| {
        Some((series, measured.program(wire.program())?.arrived_per_cpu.divided_by(1e6)))
    };
    let bars: Vec<_> = Wire::ALL.iter().enumerate().filter_map(bar).collect();
    let label = row.to_string().split('/').take(2).collect::<Vec<_>>().join(", ");
    (!bars.is_empty()).then_some(Group { label, bars })
}

fn series(wire: Wire) -> Series {
    match wire {
        Wire::Swap => Series::new("MAC swap in Weir's place", GREY),
        Wire::Drop => Series::new("drop in Weir's place", PALE),
        Wire::Weir => Series::new("Weir", BLUE),
    }
}
