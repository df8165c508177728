//! `weir status`.

use std::time::Duration;

use comfy_table::Cell;

use super::{
    ago,
    table::{Align, alarming, lines, plain, table},
};
use crate::{
    api::types::{BackendCounts, Interface, LastUpgrade, Status, TableUse, word},
    cli::{Screen, format},
};

/// What the daemon is doing: a few facts, the interfaces, the tables.
pub fn status(status: &Status, screen: Screen) -> String {
    [facts(status, screen), interfaces(&status.interfaces, screen), tables(&status.tables, screen)].join("\n")
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

fn tables(tables: &[TableUse], screen: Screen) -> String {
    let columns = [("TABLE", Align::Left), ("USED", Align::Right), ("CAPACITY", Align::Right), ("SHARE", Align::Right)];
    let mut table = table(&columns, screen);
    for entry in tables {
        let share = format::percent(format::share(entry.used, entry.capacity));
        table.add_row([entry.name.clone(), format::exact(entry.used), format::exact(entry.capacity), share]);
    }
    lines(&mut table)
}
