//! The far end of the tunnels: what the balancer wraps comes out as it was, and nothing else is touched.
#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy's allowance covers test functions alone")]

use ipnet::IpNet;
use lb_common::reason::Reason;
use weir_packets::{
    build::{Packet, Transport, altered},
    fixtures::{self, world::world},
    host::{self, Host},
    oracle::Action,
    random,
};

const INGRESS: u32 = 10;
const OTHER: u32 = 11;

/// The outer networks of the fixtures' world.
fn allowed() -> Vec<IpNet> {
    vec!["100.64.10.0/24".parse().unwrap(), "fd00:64:0:10::/64".parse().unwrap()]
}

/// Every frame that the balancer makes a tunnel packet of the fixtures.
fn tunnelled() -> Vec<Vec<u8>> {
    let host = Host::new(&world(INGRESS, OTHER));
    let frames = fixtures::all().into_iter().filter(|fixture| fixture.reason == Reason::ForwardedIpip);
    frames.map(|fixture| host.run(INGRESS, &fixture.frame).outcome.frame).collect()
}

/// `tunnel` without its outer header: MAC addresses, the inner packet's type, the inner packet.
fn inner(tunnel: &[u8]) -> Vec<u8> {
    let outer = if tunnel[14] >> 4 == 4 { 20 } else { 40 };
    let packet = &tunnel[14 + outer..];
    let ether_type: [u8; 2] = if packet[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
    [&tunnel[..12], &ether_type, packet].concat()
}

#[test]
fn what_was_wrapped_is_unwrapped() {
    let tunnelled = tunnelled();
    assert!(tunnelled.len() > 20);
    for frame in tunnelled {
        let outcome = host::decapsulate(&frame, &allowed());
        assert_eq!((outcome.action, outcome.reason), (Action::Pass, Some(Reason::Decapsulated)));
        assert_eq!(outcome.frame, inner(&frame));
    }
}

#[test]
fn outer_options_go_with_the_outer_header() {
    let payload = &Packet::tcp("198.51.100.7:40000", "192.0.2.2:443").bytes()[14..];
    let tunnel = Packet::other("100.64.10.9", "10.0.2.1", Transport::Other(4)).payload(payload);
    let outcome = host::decapsulate(&tunnel.options(&[1; 12]).bytes(), &allowed());
    assert_eq!(outcome.reason, Some(Reason::Decapsulated));
    assert_eq!(outcome.frame[14..], *payload);
}

#[test]
fn tunnel_packets_from_elsewhere_pass_as_they_came() {
    let elsewhere = ["100.64.11.0/24".parse().unwrap(), "fd00:64:0:11::/64".parse().unwrap()];
    for frame in tunnelled() {
        let outcome = host::decapsulate(&frame, &elsewhere);
        assert_eq!((outcome.action, outcome.reason), (Action::Pass, Some(Reason::ForeignTunnel)));
        assert_eq!(outcome.frame, frame);
    }
}

#[test]
fn what_is_no_tunnel_packet_passes_as_it_came() {
    for fixture in fixtures::all() {
        let outcome = host::decapsulate(&fixture.frame, &allowed());
        assert_eq!(outcome.action, Action::Pass, "{fixture}");
        assert_eq!(outcome.frame, fixture.frame, "{fixture}");
    }
}

#[test]
fn a_tunnel_packet_without_a_sound_inner_packet_is_dropped() {
    let tunnel = |protocol| Packet::other("100.64.10.9", "10.0.2.1", Transport::Other(protocol));
    let frames = [
        ("no inner packet", tunnel(4).bytes()),
        ("IPv6 announced, IPv4 inside", tunnel(41).payload(&[0x45; 40]).bytes()),
        ("IPv4 announced, IPv6 inside", tunnel(4).payload(&[0x60; 40]).bytes()),
        ("no IP inside", tunnel(4).payload(&[0; 40]).bytes()),
        ("nothing but padding inside", tunnel(4).padding(46).bytes()),
        ("an outer fragment", tunnel(4).payload(&[0x45; 40]).fragment(0, true).bytes()),
    ];
    for (what, frame) in frames {
        let outcome = host::decapsulate(&frame, &allowed());
        assert_eq!((outcome.action, outcome.reason), (Action::Drop, Some(Reason::MalformedInner)), "{what}");
    }
}

#[test]
fn garbage_is_unwrapped_dropped_or_left_alone() {
    let valid = tunnelled().into_iter().chain(fixtures::all().into_iter().map(|fixture| fixture.frame)).collect();
    for frame in random::frames(42, valid).take(20_000) {
        let outcome = host::decapsulate(&frame, &allowed());
        match (outcome.action, outcome.reason) {
            (Action::Pass, Some(Reason::Decapsulated)) => assert!(outcome.frame.len() < frame.len()),
            (Action::Pass, _) => assert_eq!(outcome.frame, frame, "a passed frame was changed"),
            (action, reason) => assert_eq!((action, reason), (Action::Drop, Some(Reason::MalformedInner))),
        }
    }
    let short = altered(tunnelled().remove(0), |frame| frame.truncate(33));
    assert_eq!(host::decapsulate(&short, &allowed()).reason, Some(Reason::Malformed));
}
