//! `weir explain`, and what it asks the daemon.

use serde_json::{Value, json};
use weir::api::{
    explain::{ExplainedBackend, ExplainedEntry, ExplainedPacket, ExplainedSlot, Explanation, Flow, PacketKind},
    types::NextHop,
};

use crate::support::{Daemon, assert_out};

/// A new connection to a slot that changes, and one of its old connections.
pub fn explanation(flow: Flow) -> Explanation {
    let backend = |name: &str, id, last: u8| ExplainedBackend {
        name: name.to_owned(),
        id,
        address: format!("10.0.0.{last}:8443"),
        next_hop: NextHop::Resolved {
            mac: format!("02:00:00:00:00:{last:02x}"),
            interface: "eth1".to_owned(),
            gateway: None,
        },
    };
    let slot = ExplainedSlot {
        index: 7,
        of: 16_384,
        current: Some("b".to_owned()),
        base: Some("a".to_owned()),
        tracked: true,
    };
    let syn = ExplainedPacket {
        kind: PacketKind::Syn,
        service: Some("gateway".to_owned()),
        slot: Some(slot),
        entry: None,
        choice: Some("b".to_owned()),
        enters: true,
        replaces: false,
        is_reply: false,
        backend: Some(backend("b", 2, 8)),
        why: "a new flow: it gets an entry in the flow table".to_owned(),
        action: "transmit".to_owned(),
        reason: "forwarded-nat".to_owned(),
        meaning: "Forwarded to a backend with its destination rewritten.".to_owned(),
    };
    let entry = ExplainedEntry {
        backend: "a".to_owned(),
        established: true,
        closed: false,
        opened_ms_ago: 7_200_000,
        heard_ms_ago: 61_000,
    };
    let ack = ExplainedPacket {
        kind: PacketKind::Ack,
        entry: Some(entry),
        choice: None,
        enters: false,
        backend: Some(backend("a", 1, 7)),
        why: "the flow table has the flow".to_owned(),
        ..syn.clone()
    };
    let Flow { source, destination, protocol } = flow;
    Explanation { source, destination, protocol, interface: "eth1".to_owned(), packets: vec![syn, ack] }
}

#[test]
fn each_step_has_its_line() {
    let daemon = Daemon::start();
    let expected = "\
tcp 203.0.113.9:40000 -> 192.0.2.10:443, coming in by eth1

packet    a new connection (SYN)
service   gateway
slot      7 of 16,384: current b, base a, tracked
entry     none
choice    b
backend   b (10.0.0.8:8443)
why       a new flow: it gets an entry in the flow table
next hop  02:00:00:00:00:08 eth1
verdict   transmit (forwarded-nat)
          Forwarded to a backend with its destination rewritten.

packet    a packet of an open connection
service   gateway
slot      7 of 16,384: current b, base a, tracked
entry     a, established, opened 2h ago, last heard 1m 1s ago
backend   a (10.0.0.7:8443)
why       the flow table has the flow
next hop  02:00:00:00:00:07 eth1
verdict   transmit (forwarded-nat)
          Forwarded to a backend with its destination rewritten.
";
    assert_out(&daemon.weir(&["explain", "203.0.113.9:40000", "192.0.2.10:443"]), expected);
}

#[test]
fn the_daemon_is_asked_for_the_flow_that_was_named() {
    let daemon = Daemon::start();
    let ran = daemon.weir(&["explain", "[2001:db8::9]:5353", "[2001:db8::53]:53", "udp", "--json"]);
    let answer: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(answer["source"], json!("[2001:db8::9]:5353"));
    assert_eq!(answer["destination"], json!("[2001:db8::53]:53"));
    assert_eq!(answer["protocol"], json!("udp"));
    assert_eq!(answer["packets"][1]["entry"]["heard_ms_ago"], json!(61_000));
}

#[test]
fn an_address_without_a_port_is_wrong_usage() {
    let daemon = Daemon::start();
    let ran = daemon.weir(&["explain", "203.0.113.9", "192.0.2.10:443"]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("SRC:PORT"), "{}", ran.err);
}
