//! Reports for people.

use comfy_table::{CellAlignment, Table, presets};

use super::{
    balancers::Peer,
    report::{Figures, Report, RowReport},
};
use crate::spread::Spread;

/// All medians of `report`, a line for each row; then those beside others in the same rounds, and more of those that were at a
/// fixed rate; then what failed.
#[must_use]
pub fn render(report: &Report) -> String {
    let mut text = heading(report) + "\n";
    let mut table =
        new(&["row", "/s", "p50 ms", "p99 ms", "p99.9 ms", "CPU s / M", "balancer's", "/ balancer's CPU s"]);
    for (row, figures) in measured(report) {
        let mut line = vec![row.name.clone(), whole(figures.rate.median)];
        line.extend([figures.p50_us, figures.p99_us, figures.p999_us].map(milliseconds));
        line.push(seconds(figures.machine_cpu.median));
        line.push(figures.balancer_cpu.map_or_else(nothing, |cpu| seconds(cpu.median)));
        line.push(figures.per_cpu.map_or_else(nothing, |rate| whole(rate.median)));
        table.add_row(line);
    }
    text += &lines(&table);
    text += &ratios(report);
    text += &paced(report);
    text + &failures(report)
}

/// Each row beside the balancers that targets are set by, and beside no balancer.
fn ratios(report: &Report) -> String {
    let columns = ["/ CPU s x haproxy", "min", "max", "p99 x nftables", "min", "max", "/s x direct", "min", "max"];
    let mut table = new(&[&["row"][..], &columns].concat());
    for (row, figures) in measured(report) {
        let ratios = [
            figures.ratio(Peer::Haproxy).and_then(|ratio| ratio.per_cpu),
            figures.ratio(Peer::Nftables).map(|ratio| ratio.p99),
            figures.ratio(Peer::Direct).map(|ratio| ratio.rate),
        ];
        if ratios.iter().any(Option::is_some) {
            table.add_row([row.name.clone()].into_iter().chain(ratios.into_iter().flat_map(spread)));
        }
    }
    if table.is_empty() { String::new() } else { format!("\nin the same rounds\n{}", lines(&table)) }
}

/// The rows whose connections had a time each: how many CPUs were busy, how late clients opened the connections, and all
/// latencies beside those of nftables.
fn paced(report: &Report) -> String {
    let columns = ["p50 x nftables", "min", "max", "p99 x nftables", "min", "max", "p99.9 x nftables", "min", "max"];
    let mut table = new(&[&["row", "CPUs", "late p99 ms"][..], &columns].concat());
    for (row, figures) in measured(report) {
        let Some(late) = figures.late_us else { continue };
        let ratio = figures.ratio(Peer::Nftables);
        let ratios = [ratio.and_then(|it| it.p50), ratio.map(|it| it.p99), ratio.and_then(|it| it.p999)];
        let busy = figures.rate.median * figures.machine_cpu.median / 1e6;
        let line = [row.name.clone(), times(busy), milliseconds(late)];
        table.add_row(line.into_iter().chain(ratios.into_iter().flat_map(spread)));
    }
    let Some(rate) = report.rate.filter(|_| !table.is_empty()) else { return String::new() };
    format!("\nat {rate} connections a second, in the same rounds\n{}", lines(&table))
}

/// What changed from `before` to `now`: a line for each row that both have, then what failed.
#[must_use]
pub fn compare(before: &Report, now: &Report) -> String {
    let mut text = format!("before: {}now:    {}\n", heading(before), heading(now));
    let columns = ["row", "/s before", "now", "/ CPU s before", "now", "verdict", "p99 ms before", "now", "verdict"];
    let mut table = new(&columns);
    for (row, now) in measured(now) {
        let Some(before) = before.row(&row.name).and_then(|row| row.figures.as_ref()) else { continue };
        let mut line = vec![row.name.clone(), whole(before.rate.median), whole(now.rate.median)];
        match (before.per_cpu, now.per_cpu) {
            (Some(before), Some(now)) => {
                line.extend([whole(before.median), whole(now.median), verdict(&now, &before).to_owned()]);
            }
            _ => line.extend([nothing(), nothing(), nothing()]),
        }
        line.extend([before.p99_us, now.p99_us].map(milliseconds));
        line.push(verdict(&before.p99_us, &now.p99_us).to_owned());
        table.add_row(line);
    }
    text += &lines(&table);
    text + &failures(now)
}

/// Which of two figures is the better, where less is better.
fn verdict(before: &Spread, now: &Spread) -> &'static str {
    if before.overlaps(now) {
        "same"
    } else if now.median < before.median {
        "better"
    } else {
        "worse"
    }
}

fn heading(report: &Report) -> String {
    let machine = &report.machine;
    let cpus = if report.cpus.are_apart() {
        format!("CPU {} is the balancer's alone", report.cpus.balancer)
    } else {
        "one CPU for everything".to_owned()
    };
    format!(
        "{}, kernel {}, {}\nrounds: {} of {} s; {cpus}\n",
        machine.date, machine.kernel, machine.cpu, report.rounds, report.seconds
    )
}

fn measured(report: &Report) -> impl Iterator<Item = (&RowReport, &Figures)> {
    report.rows.iter().filter_map(|row| Some((row, row.figures.as_ref()?)))
}

fn failures(report: &Report) -> String {
    let failed = report.rows.iter().filter_map(|row| Some(format!("\n{}: {}\n", row.name, row.error.as_ref()?)));
    failed.collect()
}

/// Median, least and greatest.
fn spread(spread: Option<Spread>) -> [String; 3] {
    spread.map_or_else(|| [nothing(), nothing(), nothing()], |it| [it.median, it.min, it.max].map(times))
}

/// The median of microseconds.
fn milliseconds(latency: Spread) -> String {
    times(latency.median / 1000.0)
}

fn whole(figure: f64) -> String {
    format!("{figure:.0}")
}

fn seconds(figure: f64) -> String {
    format!("{figure:.1}")
}

fn times(figure: f64) -> String {
    format!("{figure:.2}")
}

fn nothing() -> String {
    "-".to_owned()
}

/// A table without borders, whose columns but the first are right-aligned.
fn new(columns: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.force_no_tty();
    table.set_header(columns.iter().copied());
    for (at, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if at == columns.len() - 1 { 0 } else { 2 }));
        if at > 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn lines(table: &Table) -> String {
    table.trim_fmt() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        machine::Machine,
        peers::{
            cpu::Cpus,
            loads::Load,
            report::{Ratio, Row},
        },
    };

    fn around(middle: f64) -> Spread {
        Spread { min: middle * 0.5, median: middle, max: middle * 1.5 }
    }

    fn figures(rate: f64, per_cpu: Option<f64>, ratios: Vec<Ratio>) -> Figures {
        Figures {
            rate: around(rate),
            bytes: around(rate * 10.0),
            p50_us: around(500.0),
            p99_us: around(1500.0),
            p999_us: around(2500.0),
            late_us: None,
            machine_cpu: around(80.0),
            balancer_cpu: per_cpu.map(|rate| around(1e6 / rate)),
            per_cpu: per_cpu.map(around),
            ratios,
        }
    }

    fn ratio(to: Peer) -> Ratio {
        let (p50, p999, per_cpu) = (Some(around(0.7)), Some(around(0.8)), Some(around(4.0)));
        Ratio { to, rate: around(1.5), p50, p99: around(0.5), p999, per_cpu }
    }

    fn row(load: Load, peer: Peer, figures: Result<Figures, &str>) -> RowReport {
        let error = figures.as_ref().err().map(|error| (*error).to_owned());
        RowReport { name: Row { load, peer }.to_string(), load, peer, figures: figures.ok(), error }
    }

    fn report(date: &str, rate: f64) -> Report {
        let ratio = ratio(Peer::Haproxy);
        Report {
            benchmark: crate::peers::report::benchmark(),
            machine: Machine { date: date.to_owned(), kernel: "6.18".to_owned(), cpu: "a CPU".to_owned() },
            cpus: Cpus { balancer: 1, rest: vec![0] },
            rounds: 5,
            seconds: 3,
            rate: Some(700),
            rows: vec![
                row(Load::Close, Peer::Direct, Ok(figures(20_000.0, None, Vec::new()))),
                row(Load::Close, Peer::WeirNat, Ok(figures(rate, Some(rate * 2.0), vec![ratio]))),
                row(Load::Close, Peer::Nginx, Err("7 requests failed")),
            ],
        }
    }

    #[test]
    fn tables_have_a_line_for_each_row_and_the_ratios_below() {
        let expected = "\
today, kernel 6.18, a CPU
rounds: 5 of 3 s; CPU 1 is the balancer's alone

row                /s  p50 ms  p99 ms  p99.9 ms  CPU s / M  balancer's  / balancer's CPU s
close/direct    20000    0.50    1.50      2.50       80.0           -                   -
close/weir-nat  10000    0.50    1.50      2.50       80.0        50.0               20000

in the same rounds
row             / CPU s x haproxy   min   max  p99 x nftables  min  max  /s x direct  min  max
close/weir-nat               4.00  2.00  6.00               -    -    -            -    -    -

close/nginx: 7 requests failed
";
        assert_eq!(render(&report("today", 10_000.0)), expected);
    }

    #[test]
    fn rows_at_a_rate_have_a_table_of_their_own() {
        let late = |ratios| Figures { late_us: Some(around(50.0)), ..figures(700.0, Some(1000.0), ratios) };
        let nftables = row(Load::Paced, Peer::Nftables, Ok(late(Vec::new())));
        let weir = row(Load::Paced, Peer::WeirL2, Ok(late(vec![ratio(Peer::Nftables)])));
        let mut report = report("today", 10_000.0);
        report.rows.extend([weir, nftables]);
        let expected = "
at 700 connections a second, in the same rounds
row             CPUs  late p99 ms  p50 x nftables   min   max  p99 x nftables   min   max  p99.9 x nftables   min   max
paced/weir-l2   0.06         0.05            0.70  0.35  1.05            0.50  0.25  0.75              0.80  0.40  1.20
paced/nftables  0.06         0.05               -     -     -               -     -     -                 -     -     -
";
        assert_eq!(paced(&report), expected);
        assert!(render(&report).contains(expected));
    }

    #[test]
    fn runs_are_compared_row_by_row() {
        let expected = "\
before: then, kernel 6.18, a CPU
rounds: 5 of 3 s; CPU 1 is the balancer's alone
now:    now, kernel 6.18, a CPU
rounds: 5 of 3 s; CPU 1 is the balancer's alone

row             /s before    now  / CPU s before     now  verdict  p99 ms before   now  verdict
close/direct        20000  20000               -       -        -           1.50  1.50     same
close/weir-nat      10000  50000           20000  100000   better           1.50  1.50     same

close/nginx: 7 requests failed
";
        assert_eq!(compare(&report("then", 10_000.0), &report("now", 50_000.0)), expected);
    }

    #[test]
    fn reports_survive_json() {
        let report = report("today", 10_000.0);
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    }
}
