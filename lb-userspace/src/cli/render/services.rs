//! `weir service` and `weir backend`.

use std::{net::SocketAddr, time::Duration};

use comfy_table::{Cell, Table};

use super::{
    ago,
    table::{Align, alarming, lines, plain, state, table},
};
use crate::{
    api::types::{Backend, BackendFlows, BackendState, NextHop, Service, word},
    cli::{Screen, format},
    spec::Hold,
};

/// A line for each service.
pub fn services(services: &[Service], screen: Screen) -> String {
    let columns = [
        ("SERVICE", Align::Left),
        ("VIP", Align::Left),
        ("PORT", Align::Right),
        ("PROTOCOL", Align::Left),
        ("MODE", Align::Left),
        ("UP", Align::Right),
        ("CONNECTIONS", Align::Right),
        ("PACKETS", Align::Right),
        ("BYTES", Align::Right),
    ];
    let mut table = table(&columns, screen);
    for service in services {
        let up = service.backends.iter().filter(|backend| backend.state == BackendState::Up).count();
        let up_text = format!("{up} of {}", service.backends.len());
        table.add_row([
            Cell::new(&service.name),
            Cell::new(service.vip),
            Cell::new(service.service_port()),
            Cell::new(word(&service.protocol)),
            Cell::new(word(&service.mode)),
            if up == 0 { alarming(&up_text) } else { Cell::new(up_text) },
            Cell::new(format::count(service.traffic.connections)),
            Cell::new(format::count(service.traffic.packets)),
            Cell::new(format::bytes(service.traffic.bytes)),
        ]);
    }
    lines(&mut table)
}

/// One service, and a line for each of its backends.
pub fn service(service: &Service, screen: Screen) -> String {
    let mut facts = plain(screen);
    facts.add_row(["service", &service.name]);
    facts.add_row(["vip", &service.vip.to_string()]);
    facts.add_row(["port", &service.service_port().to_string()]);
    facts.add_row(["protocol", &word(&service.protocol)]);
    facts.add_row(["mode", &word(&service.mode)]);
    facts.add_row(["scheduler", &word(&service.scheduler)]);
    facts.add_row(["slots", &format::exact(service.slots.into())]);
    facts.add_row(["idle", &format::span(Duration::from_millis(service.idle_ms))]);
    facts.add_row(["settle_after", &format::span(Duration::from_millis(service.settle_after_ms))]);
    facts.add_row(["hold", &hold(service.hold())]);
    facts.add_row(["on_down", &word(&service.on_down)]);
    facts.add_row(["slow_start", &format::span(Duration::from_millis(service.slow_start_ms))]);
    facts.add_row(["health", if service.checked { "checked" } else { "not checked" }]);
    let traffic = &service.traffic;
    let forwarded = format!(
        "{} connections, {} packets, {}",
        format::count(traffic.connections),
        format::count(traffic.packets),
        format::bytes(traffic.bytes)
    );
    facts.add_row(["forwarded", &forwarded]);
    if traffic.reply_packets != 0 {
        let replied =
            format!("{} packets, {}", format::count(traffic.reply_packets), format::bytes(traffic.reply_bytes));
        facts.add_row(["replied", &replied]);
    }
    let mut backends = backend_table(&[], screen);
    for backend in &service.backends {
        backends.add_row(backend_row(backend, screen));
    }
    lines(&mut facts) + "\n" + &lines(&mut backends)
}

/// A line for each backend of `services`.
pub fn backends(services: &[Service], screen: Screen) -> String {
    let mut table = backend_table(&[("SERVICE", Align::Left)], screen);
    for service in services {
        for backend in &service.backends {
            table.add_row([Cell::new(&service.name)].into_iter().chain(backend_row(backend, screen)));
        }
    }
    lines(&mut table)
}

fn backend_table(first: &[(&str, Align)], screen: Screen) -> Table {
    let columns = [
        ("BACKEND", Align::Left),
        ("ADDRESS", Align::Left),
        ("WEIGHT", Align::Right),
        ("STATE", Align::Left),
        ("SINCE", Align::Right),
        ("SLOTS", Align::Right),
        ("SHARE", Align::Right),
        ("FLOWS", Align::Right),
        ("NEXT HOP", Align::Left),
        ("REASON", Align::Left),
    ];
    table(&[first, &columns].concat(), screen)
}

fn backend_row(backend: &Backend, screen: Screen) -> [Cell; 10] {
    [
        Cell::new(&backend.name),
        Cell::new(address(backend)),
        Cell::new(backend.weight),
        state(backend.state),
        Cell::new(ago(backend.since_unix_ms, screen)),
        Cell::new(format::exact(backend.slots.into())),
        Cell::new(format::percent(backend.share_percent)),
        Cell::new(flows(&backend.flows)),
        next_hop(&backend.next_hop),
        Cell::new(&backend.reason),
    ]
}

/// `312`, or `312+` where untracked flows may come on top.
fn flows(flows: &BackendFlows) -> String {
    format::count(flows.tracked) + if flows.settled { "" } else { "+" }
}

fn hold(hold: Hold) -> String {
    match hold {
        Hold::For(time) => format::span(time),
        Hold::Forever => "forever".to_owned(),
    }
}

fn address(backend: &Backend) -> String {
    backend.port.map_or_else(|| backend.address.to_string(), |port| SocketAddr::new(backend.address, port).to_string())
}

fn next_hop(next_hop: &NextHop) -> Cell {
    match next_hop {
        NextHop::Resolved { mac, interface, gateway: None } => Cell::new(format!("{mac} {interface}")),
        NextHop::Resolved { mac, interface, gateway: Some(gateway) } => {
            Cell::new(format!("{mac} {interface} via {gateway}"))
        }
        NextHop::Unresolved { why } => alarming(&format!("none: {why}")),
    }
}
