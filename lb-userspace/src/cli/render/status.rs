//! `weir status`.

use std::time::Duration;

use comfy_table::Cell;

use super::{
    ago,
    table::{Align, alarming, lines, plain, table},
};
use crate::{
    api::types::{BackendCounts, Interface, LastUpgrade, Status, TableMemory, word},
    cli::{Screen, format},
};

/// What the daemon is doing: a few facts, the interfaces, the tables.
pub fn status(status: &Status, screen: Screen) -> String {
    [facts(status, screen), interfaces(&status.interfaces, screen), tables(status, screen)].join("\n")
}

fn facts(status: &Status, screen: Screen) -> String {
    let uptime = format::duration(Duration::from_millis(status.uptime_ms));
    let changed = status.last_change.as_ref().map_or_else(
        || "not since the daemon started".to_owned(),
        |change| format!("{} ago: {}", ago(change.at_unix_ms, screen), change.summary),
    );
    let mut table = plain(screen);
    table.add_row(["weir", &format!("{}, table layout {}", status.version, status.abi_version)]);
    table.add_row(["instance", &format!("{}, pid {}, up {uptime}", status.instance, status.pid)]);
    table.add_row(["config", &status.config.display().to_string()]);
    table.add_row(["changed", &changed]);
    if let Some(upgrade) = &status.last_upgrade {
        table.add_row(["upgrade", &last_upgrade(upgrade, screen)]);
    }
    table.add_row(["services", &format::exact(status.services.into())]);
    table.add_row(["backends", &counts(status.backends)]);
    table.add_row(["memory", &memory(&status.memory)]);
    lines(&mut table)
}

/// `5m ago: from 1.3.0 to 1.4.0 in 0.3 s`, or what became of it.
fn last_upgrade(upgrade: &LastUpgrade, screen: Screen) -> String {
    let LastUpgrade { at_unix_ms, took_ms, from, to, binary, failure } = upgrade;
    let ago = ago(*at_unix_ms, screen);
    match failure {
        None => format!("{ago} ago: from {from} to {to} in {:.1} s", Duration::from_millis(*took_ms).as_secs_f64()),
        Some(why) => format!("{ago} ago: {from} came back from {to} ({}): {why}", binary.display()),
    }
}

/// `4: 2 up, 1 down, 1 draining`, without the states that no backend is in.
fn counts(counts: BackendCounts) -> String {
    let BackendCounts { total, up, down, unknown, draining, held, leaving } = counts;
    let states = [
        (up, "up"),
        (down, "down"),
        (held, "held"),
        (unknown, "unknown"),
        (draining, "draining"),
        (leaving, "leaving"),
    ];
    let states: Vec<_> = states
        .into_iter()
        .filter(|&(number, _)| number != 0)
        .map(|(number, state)| format!("{} {state}", format::exact(number.into())))
        .collect();
    if states.is_empty() { "0".to_owned() } else { format!("{}: {}", format::exact(total.into()), states.join(", ")) }
}

/// `214 MB in kernel tables, 201 MB of it in the flow tables`.
fn memory(tables: &[TableMemory]) -> String {
    if tables.is_empty() {
        return "unknown".to_owned();
    }
    let sum = |of: fn(&TableMemory) -> bool| tables.iter().filter(|table| of(table)).map(|table| table.bytes).sum();
    let (all, flows) = (sum(|_| true), sum(|table| table.name.starts_with("flows-")));
    format!("{} in kernel tables, {} of it in the flow tables", format::bytes(all), format::bytes(flows))
}

fn interfaces(interfaces: &[Interface], screen: Screen) -> String {
    let mut table = table(
        &[("INTERFACE", Align::Left), ("INDEX", Align::Right), ("XDP", Align::Left), ("WHY", Align::Left)],
        screen,
    );
    for interface in interfaces {
        let mode = interface.xdp.map_or_else(|| alarming("not attached"), |mode| Cell::new(word(&mode)));
        table.add_row([Cell::new(&interface.name), Cell::new(interface.index), mode, Cell::new(&interface.why)]);
    }
    lines(&mut table)
}

fn tables(status: &Status, screen: Screen) -> String {
    let numbers = ["USED", "CAPACITY", "SHARE", "MEMORY"].map(|number| (number, Align::Right));
    let columns: Vec<_> = [("TABLE", Align::Left)].into_iter().chain(numbers).collect();
    let mut table = table(&columns, screen);
    for entry in &status.tables {
        let share = format::percent(format::share(entry.used, entry.capacity));
        let memory = status.memory.iter().find(|memory| memory.name == entry.name);
        let memory = memory.map_or_else(String::new, |memory| format::bytes(memory.bytes));
        table.add_row([entry.name.clone(), format::exact(entry.used), format::exact(entry.capacity), share, memory]);
    }
    lines(&mut table)
}
