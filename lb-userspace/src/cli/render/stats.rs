//! `weir stats`.

use comfy_table::{Cell, Table};

use super::table::{Align, lines, state, table};
use crate::{
    api::types::{BackendStats, ReasonCount, ServiceStats, Stats, Traffic},
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

/// A line for each service and backend, and one for each reason that occurred.
pub fn stats(stats: &Stats, view: View<'_>, screen: Screen) -> String {
    let (mut traffic, mut reasons) = match view {
        View::Totals => (totals(stats, screen), reason_totals(stats, screen)),
        View::RatesSince(before) => (rates(stats, before, screen), reason_rates(stats, before, screen)),
    };
    let reasons = if reasons.is_empty() { "No packet yet.\n".to_owned() } else { lines(&mut reasons) };
    lines(&mut traffic) + "\n" + &reasons
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

fn reason_totals(stats: &Stats, screen: Screen) -> Table {
    let columns = [("REASON", Align::Left), ("PACKETS", Align::Right), ("MEANING", Align::Left)];
    let mut table = table(&columns, screen);
    for reason in occurred(stats) {
        table.add_row([reason.name.clone(), format::count(reason.packets), reason.meaning.clone()]);
    }
    table
}

fn reason_rates(stats: &Stats, before: &Stats, screen: Screen) -> Table {
    let columns =
        [("REASON", Align::Left), ("PACKETS/s", Align::Right), ("PACKETS", Align::Right), ("MEANING", Align::Left)];
    let mut table = table(&columns, screen);
    let seconds = seconds_between(before, stats);
    for reason in occurred(stats) {
        let old = before.reasons.iter().find(|old| old.name == reason.name).map_or(0, |old| old.packets);
        let rate = format::rate(per_second(reason.packets, old, seconds));
        table.add_row([reason.name.clone(), rate, format::count(reason.packets), reason.meaning.clone()]);
    }
    table
}

fn occurred(stats: &Stats) -> impl Iterator<Item = &ReasonCount> {
    stats.reasons.iter().filter(|reason| reason.packets != 0)
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
