//! Plots of what a packet costs.

use anyhow::{Result, ensure};
use plotters::style::RGBColor;
use weir_packets::{
    fixtures::Family,
    world::{Mode, Protocol},
};

use super::{
    Plot,
    bars::{self, Bars, Group},
    canvas::{BLUE, GREEN, GREY, ORANGE, SKY, Series, Sheet, VERMILION, place},
    lines::{self, Lines},
};
use crate::{
    packet::{
        generator::Floor,
        measure::WEIR,
        report::{Figures, Report},
        rows::{Kind, MOST_FLOW_BITS, Row, Setting, Size},
    },
    spread::Spread,
};

/// Numbers of flows that are plotted, as powers of two, and what they are called.
const STEPS: [(u32, &str); 4] = [(0, "1"), (10, "1k"), (16, "64k"), (MOST_FLOW_BITS, "512k")];

/// Modes, and the colours of their lines.
const MODES: [(Mode, &str, RGBColor); 3] =
    [(Mode::L2, "l2", GREEN), (Mode::Ipip, "ipip", BLUE), (Mode::Nat, "nat", ORANGE)];

/// All plots of `report`.
///
/// # Errors
/// It has none of the rows that are plotted.
pub fn plots(report: &Report) -> Result<Vec<Plot>> {
    let flows = flows(report);
    let ratios = ratios(report);
    let mut plots = Vec::new();
    if !flows.panels.is_empty() {
        plots.push(Plot { name: "packet-flows.svg", svg: flows.draw()? });
    }
    if !ratios.panels.is_empty() {
        plots.push(Plot { name: "packet-ratios.svg", svg: ratios.draw()? });
    }
    ensure!(!plots.is_empty(), "it has none of the rows that are plotted: those of 100 services with 100 backends");
    Ok(plots)
}

/// Nanoseconds by number of flows: every mode beside the floor, and beside what else was measured with `ipip`.
fn flows(report: &Report) -> Lines {
    let others = others(report);
    let mut series: Vec<Series> = MODES.map(|(_, name, color)| Series::new(format!("Weir, {name}"), color)).into();
    series.push(Series::new(format!("floor: {}", Floor::Encapsulate.name()), GREY));
    series.extend(others.iter().map(|name| Series::new(format!("{}, ipip", short(name)), VERMILION)));
    let panels = Family::BOTH.map(|family| {
        let weir = MODES.map(|(mode, ..)| along(report, mode, family, WEIR));
        let others = others.iter().map(|name| along(report, Mode::Ipip, family, name));
        let floor = along(report, Mode::Ipip, family, Floor::Encapsulate.name());
        let lines = weir.into_iter().chain([floor]).chain(others).enumerate();
        let lines = lines.filter(|(_, figures)| figures.iter().any(Option::is_some)).collect();
        lines::Panel { title: family_name(family).to_owned(), lines }
    });
    Lines {
        sheet: Sheet {
            title: "What a packet costs, by the number of flows".to_owned(),
            series,
            caption: caption(report, "TCP within connections; 100 services with 100 backends each"),
        },
        axis: "flows".to_owned(),
        steps: STEPS.map(|(_, name)| name.to_owned()).into(),
        height: "ns beyond XDP_TX".to_owned(),
        panels: panels.into_iter().filter(|panel| !panel.lines.is_empty()).collect(),
    }
}

/// What `program` took in rows of `mode`, at each of [`STEPS`].
fn along(report: &Report, mode: Mode, family: Family, program: &str) -> Vec<Option<Spread>> {
    let figures = |bits| figures(report, setting(mode, family, 0), Kind::Ack, bits, program);
    STEPS.map(|(bits, _)| Some(figures(bits)?.net)).into()
}

/// Multiples of the floor: every mode and kind of packet, for one flow and for as many as there are.
fn ratios(report: &Report) -> Bars {
    let panels = Family::BOTH.map(|family| {
        let groups = kinds().into_iter().filter_map(|(label, mode, kind, tracked)| {
            let setting = setting(mode, family, tracked);
            let bar = |(series, bits)| Some((series, figures(report, setting, kind, bits, WEIR)?.ratio?));
            let bars: Vec<_> = [(0, 0), (1, MOST_FLOW_BITS)].into_iter().filter_map(bar).collect();
            (!bars.is_empty()).then(|| Group { label: label.to_owned(), bars })
        });
        bars::Panel {
            title: family_name(family).to_owned(),
            axis: format!("multiples of {}", Floor::Encapsulate.name()),
            groups: groups.collect(),
            mark: Some(1.0),
            scale: bars::Scale::Linear,
        }
    });
    Bars {
        sheet: Sheet {
            title: "What a packet costs, beside the floor".to_owned(),
            series: vec![Series::new("1 flow", SKY), Series::new("512k flows", BLUE)],
            caption: caption(report, "100 services with 100 backends each; the line is the floor"),
        },
        panels: panels.into_iter().filter(|panel| !panel.groups.is_empty()).collect(),
        columns: 2,
    }
}

/// What is plotted beside the floor: its name, and the rows.
const fn kinds() -> [(&'static str, Mode, Kind, u8); 11] {
    [
        ("l2, ACK", Mode::L2, Kind::Ack, 0),
        ("l2, SYN", Mode::L2, Kind::Syn, 0),
        ("ipip, ACK", Mode::Ipip, Kind::Ack, 0),
        ("ipip, SYN", Mode::Ipip, Kind::Syn, 0),
        ("ipip, UDP", Mode::Ipip, Kind::Udp, 0),
        ("ipip, ACK, all tracked", Mode::Ipip, Kind::Ack, 100),
        ("ipip, SYN, all tracked", Mode::Ipip, Kind::Syn, 100),
        ("nat, ACK", Mode::Nat, Kind::Ack, 0),
        ("nat, SYN", Mode::Nat, Kind::Syn, 0),
        ("nat, reply", Mode::Nat, Kind::Reply, 0),
        ("not for Weir", Mode::Ipip, Kind::Foreign, 0),
    ]
}

const fn setting(mode: Mode, family: Family, tracked: u8) -> Setting {
    Setting { mode, family, backend_family: family, protocol: Protocol::Tcp, size: Size::HUNDRED, tracked }
}

fn figures<'a>(report: &'a Report, setting: Setting, kind: Kind, bits: u32, program: &str) -> Option<&'a Figures> {
    report.row(&Row::new(setting, kind, bits).to_string())?.program(program)
}

/// Programs in `report` that are neither floors nor Weir.
fn others(report: &Report) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for figures in report.rows.iter().flat_map(|row| &row.programs) {
        let known = Floor::ALL.iter().any(|floor| floor.name() == figures.program) || figures.program == WEIR;
        if !known && !names.contains(&figures.program) {
            names.push(figures.program.clone());
        }
    }
    names
}

/// The last part of a pin.
fn short(pin: &str) -> &str {
    pin.rsplit_once('/').map_or(pin, |(_, name)| name)
}

const fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

fn caption(report: &Report, what: &str) -> Vec<String> {
    let how = format!("Medians, least and greatest of {} rounds of {} packets", report.rounds, report.packets);
    vec![format!("{what}. {how}."), format!("cargo xtask bench packet: {}", place(&report.machine))]
}
