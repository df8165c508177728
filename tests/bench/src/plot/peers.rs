//! The plot of the balancers beside each other.

use anyhow::{Result, ensure};
use plotters::style::RGBColor;
use serde::Deserialize;

use super::{
    Plot,
    bars::{Bars, Group, Panel, Scale},
    canvas::{BLUE, GREEN, GREY, ORANGE, SKY, Series, Sheet, VERMILION, place},
};
use crate::{machine::Machine, spread::Spread};

/// What is plotted of a report.
#[derive(Clone, Debug, Deserialize)]
pub struct Report {
    machine: Machine,
    rounds: u32,
    seconds: f64,
    rows: Vec<Row>,
}

/// A load through one of those who take part.
#[derive(Clone, Debug, Deserialize)]
struct Row {
    load: String,
    peer: String,
    #[serde(default)]
    figures: Option<Figures>,
}

#[derive(Clone, Debug, Deserialize)]
struct Figures {
    ratios: Vec<Ratio>,
}

/// Figures as multiples of those that another has in the same round.
#[derive(Clone, Debug, Deserialize)]
struct Ratio {
    to: String,
    rate: Spread,
    p99: Spread,
    #[serde(default)]
    per_cpu: Option<Spread>,
}

/// Those who take part: what reports call them, what the legend does, and their colours.
const PEERS: [(&str, &str, RGBColor); 6] = [
    ("weir-nat", "Weir, nat", BLUE),
    ("weir-l2", "Weir, l2", SKY),
    ("nftables", "nftables", GREEN),
    ("haproxy", "HAProxy", ORANGE),
    ("nginx", "nginx", VERMILION),
    ("direct", "no balancer", GREY),
];

/// All plots of `report`.
///
/// # Errors
/// It has nobody beside the others.
pub fn plots(report: &Report) -> Result<Vec<Plot>> {
    let panels = [
        panel(report, "Requests for a CPU second of the balancer", "HAProxy", "haproxy", |_, ratio| ratio.per_cpu),
        panel(report, "Requests a second", "no balancer", "direct", rate),
        panel(report, "99th percentile of the latency", "nftables", "nftables", |_, ratio| Some(ratio.p99)),
    ];
    let panels: Vec<Panel> = panels.into_iter().filter(|panel| !panel.groups.is_empty()).collect();
    ensure!(!panels.is_empty(), "it has no figures beside those of HAProxy, nftables or no balancer");
    let how = format!("Medians, least and greatest of {} rounds of {} s", report.rounds, report.seconds);
    let bars = Bars {
        sheet: Sheet {
            title: "Weir beside other balancers".to_owned(),
            series: PEERS.iter().map(|(_, name, color)| Series::new(*name, *color)).collect(),
            caption: vec![
                format!("The same clients and servers for all, in network namespaces. {how}."),
                format!("cargo xtask bench peers: {}", place(&report.machine)),
            ],
        },
        panels,
        columns: 2,
    };
    Ok(vec![Plot { name: "peers.svg", svg: bars.draw()? }])
}

/// Nothing where everybody has the rate that was asked for.
fn rate(row: &Row, ratio: &Ratio) -> Option<Spread> {
    (row.load != "paced").then_some(ratio.rate)
}

/// Everybody's `figure` as multiples of that of `to`, by load, in the report's order.
fn panel(report: &Report, title: &str, name: &str, to: &str, figure: fn(&Row, &Ratio) -> Option<Spread>) -> Panel {
    let mut groups: Vec<Group> = Vec::new();
    for row in &report.rows {
        let ratios = row.figures.iter().flat_map(|figures| &figures.ratios);
        let Some(spread) = ratios.filter(|ratio| ratio.to == to).find_map(|ratio| figure(row, ratio)) else { continue };
        let Some(series) = PEERS.iter().position(|(peer, ..)| *peer == row.peer) else { continue };
        match groups.iter_mut().find(|group| group.label == row.load) {
            Some(group) => group.bars.push((series, spread)),
            None => groups.push(Group { label: row.load.clone(), bars: vec![(series, spread)] }),
        }
    }
    for group in &mut groups {
        group.bars.sort_by_key(|(series, _)| *series);
    }
    Panel {
        title: title.to_owned(),
        axis: format!("multiples of {name}"),
        groups,
        mark: Some(1.0),
        scale: Scale::Linear,
    }
}
