//! Reports for people.

use super::report::{Figures, Report, RowReport};
use crate::{
    packet::table::{change, lines, new, times},
    spread::Spread,
};

/// All figures of `report`: a line for each row and program, then what failed.
#[must_use]
pub fn render(report: &Report) -> String {
    let machine = &report.machine;
    let mut text = format!(
        "{}, kernel {}, {}\nrounds: {}, seconds of each: {}; million frames a second, lost frames of all rounds\n\n",
        machine.date, machine.kernel, machine.cpu, report.rounds, report.seconds
    );
    let columns = ["row", "program", "sent", "arrived", "lost", "CPUs", "by CPU", "x swap", "min", "max", "BPF ns"];
    let mut table = new(&columns, 2);
    for (row, figures) in measured(report) {
        table.add_row([
            row.name.clone(),
            figures.program.clone(),
            millions(&figures.sent),
            millions(&figures.arrived),
            (figures.lost_before + figures.lost_behind).to_string(),
            times(figures.cpus.median),
            millions(&figures.arrived_per_cpu),
            times(figures.ratio.median),
            times(figures.ratio.min),
            times(figures.ratio.max),
            format!("{:.1}", figures.run_time),
        ]);
    }
    text += &lines(&table);
    text + &failures(report)
}

/// What changed from `before` to `now`: a line for each row that both have of a program that is compared with the floor,
/// then what failed.
#[must_use]
pub fn compare(before: &Report, now: &Report) -> String {
    let mut text = format!(
        "before: {}, kernel {}, {}\nnow:    {}, kernel {}, {}\nmillion frames for each second of CPU time, and as \
         multiples of the MAC swap\n\n",
        before.machine.date,
        before.machine.kernel,
        before.machine.cpu,
        now.machine.date,
        now.machine.kernel,
        now.machine.cpu
    );
    let mut table = new(&["row", "program", "before", "now", "change", "x before", "x now", "verdict"], 2);
    for (row, now) in measured(now) {
        let Some(before) = before.row(&row.name).and_then(|row| row.program(&now.program)) else { continue };
        table.add_row([
            row.name.clone(),
            now.program.clone(),
            millions(&before.arrived_per_cpu),
            millions(&now.arrived_per_cpu),
            change(before.arrived_per_cpu.median, now.arrived_per_cpu.median),
            times(before.ratio.median),
            times(now.ratio.median),
            verdict(before, now).to_owned(),
        ]);
    }
    text += &lines(&table);
    text + &failures(now)
}

/// Whether a program became slower: not if its rates overlap, nor if they do as multiples of the floor, for the machine
/// may have become slower, or be another.
fn verdict(before: &Figures, now: &Figures) -> &'static str {
    if before.arrived_per_cpu.overlaps(&now.arrived_per_cpu) || before.ratio.overlaps(&now.ratio) {
        "same"
    } else if now.ratio.median > before.ratio.median {
        "faster"
    } else {
        "slower"
    }
}

fn measured(report: &Report) -> impl Iterator<Item = (&RowReport, &Figures)> {
    report.rows.iter().flat_map(|row| row.programs.iter().map(move |figures| (row, figures)))
}

fn failures(report: &Report) -> String {
    let failed = report.rows.iter().filter_map(|row| Some(format!("\n{}: {}\n", row.name, row.error.as_ref()?)));
    failed.collect()
}

fn millions(rate: &Spread) -> String {
    format!("{:.2}", rate.median / 1e6)
}
