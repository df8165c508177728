//! `weir stats`.

use comfy_table::{Cell, Table};

use super::table::{Align, lines, state, table};
use crate::{
    api::types::{BackendStats, ServiceStats, Stats, Traffic},
    cli::{Screen, format},
};

/// What to show of the counters.
#[derive(Clone, Copy)]
pub enum View<'a> {
    /// Them.
    Totals,
    /// Their increase per second since these were read.
    RatesSince(&'a Stats),
}

/// A line for each service and backend, and one for each reason and each flow-table event that occurred.
pub fn stats(stats: &Stats, view: View<'_>, screen: Screen) -> String {
    let mut traffic = match view {
        View::Totals => totals(stats, screen),
        View::RatesSince(before) => rates(stats, before, screen),
    };
    let mut reasons = occurrences(["REASON", "PACKETS", "PACKETS/s"], stats, reasons, view, screen);
    let mut events = occurrences(["FLOW TABLE", "TIMES", "TIMES/s"], stats, flow_events, view, screen);
    let reasons = if reasons.is_empty() { "No packet yet.\n".to_owned() } else { lines(&mut reasons) };
    // Nothing to say in the steady state.
    let events = if events.is_empty() { String::new() } else { "\n".to_owned() + &lines(&mut events) };
    lines(&mut traffic) + "\n" + &reasons + &events
}

fn totals(stats: &Stats, screen: Screen) -> Table {
    let mut table = traffic_table(["CONNECTIONS", "PACKETS", "BYTES", "REPLIES", "REPLY BYTES"], screen);
    let cells = |t: &Traffic| {
        [
            format::count(t.connections),
            format::count(t.packets),
            format::bytes(t.bytes),
            format::count(t.reply_packets),
            format::bytes(t.reply_bytes),
        ]
    };
    for service in &stats.services {
        table.add_row(service_row(service, cells(&service.traffic)));
        for backend in &service.backends {
            table.add_row(backend_row(service, backend, cells(&backend.traffic)));
        }
    }
    table
}

fn rates(stats: &Stats, before: &Stats, screen: Screen) -> Table {
    let mut table = traffic_table(["CONNECTIONS/s", "PACKETS/s", "RATE", "REPLIES/s", "REPLY RATE"], screen);
    let seconds = seconds_between(before, stats);
    let cells = |now: &Traffic, before: Option<&Traffic>| {
        // What was not there before has counted since then from 0.
        let before = before.copied().unwrap_or_default();
        let rate = |counter: fn(&Traffic) -> u64| per_second(counter(now), counter(&before), seconds);
        [
            format::rate(rate(|t| t.connections)),
            format::rate(rate(|t| t.packets)),
            format::bit_rate(rate(|t| t.bytes)),
            format::rate(rate(|t| t.reply_packets)),
            format::bit_rate(rate(|t| t.reply_bytes)),
        ]
    };
    for service in &stats.services {
        let old = before.services.iter().find(|old| old.name == service.name);
        table.add_row(service_row(service, cells(&service.traffic, old.map(|old| &old.traffic))));
        for backend in &service.backends {
            let old = old.and_then(|old| old.backends.iter().find(|old| old.name == backend.name));
            table.add_row(backend_row(service, backend, cells(&backend.traffic, old.map(|old| &old.traffic))));
        }
    }
    table
}

/// How often something happened: its name, what it means, and the number.
type Occurrence<'a> = (&'a str, &'a str, u64);

fn reasons(stats: &Stats) -> Vec<Occurrence<'_>> {
    stats.reasons.iter().map(|reason| (reason.name.as_str(), reason.meaning.as_str(), reason.packets)).collect()
}

fn flow_events(stats: &Stats) -> Vec<Occurrence<'_>> {
    stats.flow_events.iter().map(|event| (event.name.as_str(), event.meaning.as_str(), event.count)).collect()
}

/// What occurred of what `list` finds, under these titles: the names', the numbers' and the rates'.
fn occurrences(
    [name, number, rate]: [&str; 3],
    stats: &Stats,
    list: fn(&Stats) -> Vec<Occurrence<'_>>,
    view: View<'_>,
    screen: Screen,
) -> Table {
    let occurred = list(stats).into_iter().filter(|(_, _, number)| *number != 0);
    let (names, meanings) = ((name, Align::Left), ("MEANING", Align::Left));
    let View::RatesSince(before) = view else {
        let mut table = table(&[names, (number, Align::Right), meanings], screen);
        for (name, meaning, number) in occurred {
            table.add_row([name, &format::count(number), meaning]);
        }
        return table;
    };
    let mut table = table(&[names, (rate, Align::Right), (number, Align::Right), meanings], screen);
    let (seconds, before) = (seconds_between(before, stats), list(before));
    for (name, meaning, number) in occurred {
        let old = before.iter().find(|(old, ..)| *old == name).map_or(0, |(.., number)| *number);
        table.add_row([name, &format::rate(per_second(number, old, seconds)), &format::count(number), meaning]);
    }
    table
}

fn traffic_table(numbers: [&str; 5], screen: Screen) -> Table {
    let names = [("SERVICE", Align::Left), ("BACKEND", Align::Left), ("STATE", Align::Left)];
    let columns: Vec<_> = names.into_iter().chain(numbers.map(|number| (number, Align::Right))).collect();
    table(&columns, screen)
}

/// The service as a whole: a line without a backend.
fn service_row(service: &ServiceStats, numbers: [String; 5]) -> Vec<Cell> {
    [Cell::new(&service.name), Cell::new(""), Cell::new("")].into_iter().chain(numbers.map(Cell::new)).collect()
}

fn backend_row(service: &ServiceStats, backend: &BackendStats, numbers: [String; 5]) -> Vec<Cell> {
    [Cell::new(&service.name), Cell::new(&backend.name), state(backend.state)]
        .into_iter()
        .chain(numbers.map(Cell::new))
        .collect()
}

/// A counter that went back was made anew: it has counted from 0.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
fn per_second(now: u64, before: u64, seconds: f64) -> f64 {
    now.checked_sub(before).unwrap_or(now) as f64 / seconds
}

/// At least a millisecond, so that it can be divided by.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
fn seconds_between(before: &Stats, now: &Stats) -> f64 {
    now.at_unix_ms.saturating_sub(before.at_unix_ms).max(1) as f64 / 1000.0
}
