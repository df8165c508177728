//! Reports for people.

use comfy_table::{CellAlignment, Table, presets};

use super::{
    generator::Floor,
    report::{Figures, Report, RowReport},
};
use crate::spread::Spread;

/// All figures of `report`: a line for each row and program, then the floors, then what failed.
#[must_use]
pub fn render(report: &Report) -> String {
    let machine = &report.machine;
    let mut text = format!(
        "{}, kernel {}, {}\nrounds: {}, packets in each: {}; ns for each packet, beyond XDP_TX but for gross\n\n",
        machine.date, machine.kernel, machine.cpu, report.rounds, report.packets
    );
    let mut table = new(&["row", "program", "gross", "net", "min", "max", "x floor", "min", "max"], 2);
    for (row, figures) in measured(report) {
        let mut line = vec![row.name.clone(), figures.program.clone(), nanoseconds(figures.gross.median)];
        line.extend(spread(Some(&figures.net), nanoseconds));
        line.extend(spread(figures.ratio.as_ref(), times));
        table.add_row(line);
    }
    text += &lines(&table);
    text += &floors(report);
    text += &failures(report);
    text
}

/// What changed from `before` to `now`: a line for each row and program that both have, then what failed.
#[must_use]
pub fn compare(before: &Report, now: &Report) -> String {
    let mut text = format!(
        "before: {}, kernel {}, {}\nnow:    {}, kernel {}, {}\nmedian ns beyond XDP_TX, and as multiples of {}\n\n",
        before.machine.date,
        before.machine.kernel,
        before.machine.cpu,
        now.machine.date,
        now.machine.kernel,
        now.machine.cpu,
        Floor::Encapsulate.name()
    );
    let mut table = new(&["row", "program", "before", "now", "change", "x before", "x now", "verdict"], 2);
    for (row, now) in measured(now) {
        let Some(before) = before.row(&row.name).and_then(|row| row.program(&now.program)) else { continue };
        let ratio = |figures: &Figures| figures.ratio.map_or_else(nothing, |ratio| times(ratio.median));
        table.add_row([
            row.name.clone(),
            now.program.clone(),
            nanoseconds(before.net.median),
            nanoseconds(now.net.median),
            change(before.net.median, now.net.median),
            ratio(before),
            ratio(now),
            verdict(before, now).to_owned(),
        ]);
    }
    text += &lines(&table);
    text + &failures(now)
}

/// Whether a program became slower: not if its times overlap, nor if they do as multiples of the floor, for the machine may
/// have become slower, or be another.
fn verdict(before: &Figures, now: &Figures) -> &'static str {
    let (Some(ratio_before), Some(ratio_now)) = (before.ratio, now.ratio) else { return "-" };
    if before.net.overlaps(&now.net) || ratio_before.overlaps(&ratio_now) {
        "same"
    } else if ratio_now.median < ratio_before.median {
        "faster"
    } else {
        "slower"
    }
}

/// The floors over all rows of each family: they hardly depend on the row.
fn floors(report: &Report) -> String {
    let mut table = new(&["floor", "gross", "net", "min", "max"], 1);
    for (family, part) in [("IPv4", "/v4"), ("IPv6", "/v6")] {
        for floor in Floor::ALL {
            let rows = report.rows.iter().filter(|row| row.name.contains(part));
            let all: Vec<&Figures> = rows.filter_map(|row| row.program(floor.name())).collect();
            let medians =
                |of: fn(&Figures) -> f64| Spread::of(&all.iter().map(|figures| of(figures)).collect::<Vec<_>>());
            let Some(gross) = medians(|figures| figures.gross.median) else { continue };
            let mut line = vec![format!("{}, {family}", floor.name()), nanoseconds(gross.median)];
            line.extend(spread(medians(|figures| figures.net.median).as_ref(), nanoseconds));
            table.add_row(line);
        }
    }
    if table.is_empty() { String::new() } else { format!("\nmedians of all rows\n{}", lines(&table)) }
}

fn failures(report: &Report) -> String {
    let failed = report.rows.iter().filter_map(|row| Some(format!("\n{}: {}\n", row.name, row.error.as_ref()?)));
    failed.collect()
}

/// Rows with the programs that are no floors.
fn measured(report: &Report) -> impl Iterator<Item = (&RowReport, &Figures)> {
    let is_floor = |figures: &Figures| Floor::ALL.iter().any(|floor| floor.name() == figures.program);
    report
        .rows
        .iter()
        .flat_map(move |row| row.programs.iter().filter(move |figures| !is_floor(figures)).map(move |it| (row, it)))
}

/// Median, least and greatest.
fn spread(spread: Option<&Spread>, text: fn(f64) -> String) -> [String; 3] {
    let of = |figure: fn(&Spread) -> f64| spread.map_or_else(nothing, |spread| text(figure(spread)));
    [of(|spread| spread.median), of(|spread| spread.min), of(|spread| spread.max)]
}

fn nanoseconds(figure: f64) -> String {
    format!("{figure:.1}")
}

/// A multiple.
pub(crate) fn times(figure: f64) -> String {
    format!("{figure:.2}")
}

fn nothing() -> String {
    "-".to_owned()
}

/// By how much a figure has changed.
pub(crate) fn change(before: f64, now: f64) -> String {
    if before > 0.0 { format!("{:+.1} %", (now / before - 1.0) * 100.0) } else { nothing() }
}

/// A table without borders, whose columns from the one at `numbers` on are right-aligned.
pub(crate) fn new(columns: &[&str], numbers: usize) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.force_no_tty();
    table.set_header(columns.iter().copied());
    let last = columns.len() - 1;
    for (at, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if at == last { 0 } else { 2 }));
        if at >= numbers {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// What is printed of `table`.
pub(crate) fn lines(table: &Table) -> String {
    table.trim_fmt() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{machine::Machine, packet::report};

    fn figures(program: &str, net: f64) -> Figures {
        let around = |middle: f64| Spread { min: middle * 0.75, median: middle, max: middle * 1.25 };
        Figures {
            program: program.to_owned(),
            gross: around(net + 25.0),
            net: around(net),
            ratio: Some(around(net / 8.0)),
        }
    }

    fn report(date: &str, rows: &[(&str, f64)]) -> Report {
        let row = |(name, net): &(&str, f64)| RowReport {
            name: (*name).to_owned(),
            programs: vec![figures("XDP_TX", 0.0), figures("parse + fixed IPIP", 8.0), figures("weir", *net)],
            error: None,
        };
        Report {
            benchmark: report::benchmark(),
            machine: Machine { date: date.to_owned(), kernel: "6.18".to_owned(), cpu: "a CPU".to_owned() },
            packets: 1000,
            rounds: 5,
            rows: rows.iter().map(row).collect(),
        }
    }

    fn failed(mut report: Report) -> Report {
        let error = Some("counted otherwise".to_owned());
        report.rows.push(RowReport { name: "l2/v6".to_owned(), programs: Vec::new(), error });
        report
    }

    #[test]
    fn tables_have_a_line_for_each_program_and_the_floors_below() {
        let report = failed(report("today", &[("ipip/v4-in-v4/ack/1x100/1", 32.0), ("l2/v6/ack/1x100/64k", 16.0)]));
        let expected = "\
today, kernel 6.18, a CPU
rounds: 5, packets in each: 1000; ns for each packet, beyond XDP_TX but for gross

row                        program  gross   net   min   max  x floor   min   max
ipip/v4-in-v4/ack/1x100/1  weir      57.0  32.0  24.0  40.0     4.00  3.00  5.00
l2/v6/ack/1x100/64k        weir      41.0  16.0  12.0  20.0     2.00  1.50  2.50

medians of all rows
floor                     gross  net  min  max
XDP_TX, IPv4               25.0  0.0  0.0  0.0
parse + fixed IPIP, IPv4   33.0  8.0  8.0  8.0
XDP_TX, IPv6               25.0  0.0  0.0  0.0
parse + fixed IPIP, IPv6   33.0  8.0  8.0  8.0

l2/v6: counted otherwise
";
        assert_eq!(render(&report), expected);
    }

    #[test]
    fn runs_are_compared_row_by_row() {
        let before = report("then", &[("a", 32.0), ("b", 32.0), ("c", 32.0), ("gone", 1.0)]);
        let now = report("now", &[("a", 33.6), ("b", 64.0), ("c", 16.0), ("new", 1.0)]);
        let expected = "\
before: then, kernel 6.18, a CPU
now:    now, kernel 6.18, a CPU
median ns beyond XDP_TX, and as multiples of parse + fixed IPIP

row  program  before   now    change  x before  x now  verdict
a    weir       32.0  33.6    +5.0 %      4.00   4.20     same
b    weir       32.0  64.0  +100.0 %      4.00   8.00   slower
c    weir       32.0  16.0   -50.0 %      4.00   2.00   faster
";
        assert_eq!(compare(&before, &now), expected);
    }

    #[test]
    fn reports_survive_json() {
        let report = failed(report("today", &[("a", 32.0)]));
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    }
}
