//! `weir explain`.

use std::time::Duration;

use super::table::{lines, plain};
use crate::{
    api::{
        explain::{ExplainedEntry, ExplainedPacket, ExplainedSlot, Explanation, PacketKind},
        types::{NextHop, word},
    },
    cli::{Screen, format},
};

/// The flow, and for each packet the steps of its way.
pub fn explanation(explanation: &Explanation, screen: Screen) -> String {
    let Explanation { source, destination, protocol, interface, packets } = explanation;
    let head = format!("{} {source} -> {destination}, coming in by {interface}\n", word(protocol));
    packets.iter().fold(head, |text, packet| text + "\n" + &steps(packet, screen))
}

fn steps(packet: &ExplainedPacket, screen: Screen) -> String {
    let title = match packet.kind {
        PacketKind::Syn => "a new connection (SYN)",
        PacketKind::Ack => "a packet of an open connection",
        PacketKind::Datagram => "a datagram",
    };
    let mut table = plain(screen);
    table.add_row(["packet", title]);
    if let Some(service) = &packet.service {
        table.add_row(["service", service]);
    }
    if let Some(slot) = &packet.slot {
        table.add_row(["slot", &slot_text(slot)]);
        if slot.tracked {
            table.add_row(["entry", &packet.entry.as_ref().map_or_else(|| "none".to_owned(), entry)]);
        }
    }
    if let Some(choice) = &packet.choice {
        table.add_row(["choice", choice]);
    }
    let backend = packet.backend.as_ref();
    let name = backend.map_or_else(
        || "none".to_owned(),
        |backend| {
            if backend.name == backend.address {
                backend.name.clone()
            } else {
                format!("{} ({})", backend.name, backend.address)
            }
        },
    );
    table.add_row([if packet.is_reply { "from" } else { "backend" }, &name]);
    table.add_row(["why", &packet.why]);
    if let Some(backend) = backend.filter(|_| !packet.is_reply) {
        table.add_row(["next hop", &next_hop(&backend.next_hop)]);
    }
    table.add_row(["verdict", &format!("{} ({})", packet.action, packet.reason)]);
    table.add_row(["", &packet.meaning]);
    lines(&mut table)
}

fn slot_text(slot: &ExplainedSlot) -> String {
    let ExplainedSlot { index, of, current, base, tracked } = slot;
    let current = current.as_deref().unwrap_or("nobody");
    let base = base.as_deref().unwrap_or("nobody");
    let tracked = if *tracked { "tracked" } else { "not tracked" };
    let (index, of) = (format::exact((*index).into()), format::exact((*of).into()));
    format!("{index} of {of}: current {current}, base {base}, {tracked}")
}

fn entry(entry: &ExplainedEntry) -> String {
    let state = match (entry.closed, entry.established) {
        (true, _) => "closed",
        (false, true) => "established",
        (false, false) => "opening",
    };
    let ago = |ms| format::duration(Duration::from_millis(ms));
    let (opened, heard) = (ago(entry.opened_ms_ago), ago(entry.heard_ms_ago));
    format!("{}, {state}, opened {opened} ago, last heard {heard} ago", entry.backend)
}

fn next_hop(hop: &NextHop) -> String {
    match hop {
        NextHop::Resolved { mac, interface, gateway: None } => format!("{mac} {interface}"),
        NextHop::Resolved { mac, interface, gateway: Some(gateway) } => format!("{mac} {interface} via {gateway}"),
        NextHop::Unresolved { why } => format!("not known: {why}"),
    }
}
