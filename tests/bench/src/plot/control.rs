//! The plot of what the controller takes.

use anyhow::{Result, ensure};
use serde::Deserialize;

use super::{
    Plot,
    bars::{Bars, Group, Panel, Scale},
    canvas::{BLUE, GREEN, GREY, INK, ORANGE, PURPLE, SKY, Series, Sheet, VERMILION, place},
};
use crate::{machine::Machine, spread::Spread};

/// What is plotted of a report.
#[derive(Clone, Debug, Deserialize)]
pub struct Report {
    machine: Machine,
    rounds: u32,
    rows: Vec<Row>,
}

#[derive(Clone, Debug, Deserialize)]
struct Row {
    name: String,
    figures: Vec<Figure>,
}

/// One figure of a row.
#[derive(Clone, Debug, Deserialize)]
struct Figure {
    what: String,
    unit: String,
    spread: Spread,
}

/// Units of time, and how many of them a millisecond has.
const UNITS: [(&str, f64); 5] = [("ns", 1e6), ("us", 1e3), ("µs", 1e3), ("ms", 1.0), ("s", 1e-3)];

/// What reports call what nothing gets under.
const FLOOR: &str = "floor";

/// All plots of `report`: its times, by row.
///
/// # Errors
/// It has no times.
pub fn plots(report: &Report) -> Result<Vec<Plot>> {
    let names = names(report);
    let group = |row: &Row| {
        let bar = |figure: &Figure| {
            let series = names.iter().position(|name| *name == figure.what)?;
            Some((series, milliseconds(figure)?))
        };
        let bars: Vec<_> = row.figures.iter().filter_map(bar).collect();
        (!bars.is_empty()).then(|| Group { label: row.name.clone(), bars })
    };
    let groups: Vec<Group> = report.rows.iter().filter_map(group).collect();
    ensure!(!groups.is_empty(), "it has no times");
    let colors = [BLUE, ORANGE, GREEN, VERMILION, SKY, PURPLE, INK];
    let mut colors = colors.iter().cycle();
    let mut series = |name: &&str| {
        let color = if *name == FLOOR { &GREY } else { colors.next().unwrap_or(&BLUE) };
        Series::new(*name, *color)
    };
    let bars = Bars {
        sheet: Sheet {
            title: "What the controller takes".to_owned(),
            series: names.iter().map(&mut series).collect(),
            caption: vec![
                format!(
                    "Medians, least and greatest of {} rounds; each step of the scale is ten times.",
                    report.rounds
                ),
                format!("cargo xtask bench control: {}", place(&report.machine)),
            ],
        },
        panels: vec![Panel {
            title: "By row, SERVICESxBACKENDS".to_owned(),
            axis: "milliseconds".to_owned(),
            groups,
            mark: None,
            scale: Scale::Logarithmic,
        }],
        columns: 1,
    };
    Ok(vec![Plot { name: "control.svg", svg: bars.draw()? }])
}

/// Names of all times, in the order in which they come.
fn names(report: &Report) -> Vec<&str> {
    let mut names = Vec::new();
    for figure in report.rows.iter().flat_map(|row| &row.figures) {
        if milliseconds(figure).is_some() && !names.contains(&figure.what.as_str()) {
            names.push(figure.what.as_str());
        }
    }
    names
}

/// `None` if it is no time that passes: CPU time, say, or a number of slots.
fn milliseconds(figure: &Figure) -> Option<Spread> {
    if figure.what.starts_with("CPU") {
        return None;
    }
    let (_, divisor) = UNITS.iter().find(|(unit, _)| *unit == figure.unit)?;
    Some(figure.spread.divided_by(*divisor))
}
