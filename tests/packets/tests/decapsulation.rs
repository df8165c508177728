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
    let inner = &Packet::tcp("198.51.100.7:40000", "192.0.2.2:443").bytes()[14..];
    let frames = [
        ("no inner packet", tunnel(4).bytes()),
        ("IPv6 announced, IPv4 inside", tunnel(41).payload(&[0x45; 40]).bytes()),
        ("IPv4 announced, IPv6 inside", tunnel(4).payload(&[0x60; 40]).bytes()),
        ("no IP inside", tunnel(4).payload(&[0; 40]).bytes()),
        ("nothing but padding inside", tunnel(4).padding(46).bytes()),
        (
            "an inner packet that goes on in the padding",
            tunnel(4).payload(&inner[..inner.len() - 1]).padding(100).bytes(),
        ),
        ("an inner header cut short", tunnel(4).payload(&inner[..19]).padding(100).bytes()),
    ];
    for (what, frame) in frames {
        let outcome = host::decapsulate(&frame, &allowed());
        assert_eq!((outcome.action, outcome.reason), (Action::Drop, Some(Reason::MalformedInner)), "{what}");
    }
}

#[test]
fn fragments_of_tunnel_packets_are_left_to_the_kernel() {
    let inner = &Packet::tcp("198.51.100.7:40000", "192.0.2.2:443").bytes()[14..];
    let tunnel = Packet::other("100.64.10.9", "10.0.2.1", Transport::Other(4)).payload(inner);
    let frame = tunnel.fragment(0, true).bytes();
    let outcome = host::decapsulate(&frame, &allowed());
    assert_eq!((outcome.action, outcome.reason), (Action::Pass, Some(Reason::OtherProtocol)));
    assert_eq!(outcome.frame, frame);
}

/// RFC 6040, figure 4: the inner packet's ECN field after decapsulation, by the outer and inner fields on arrival.
#[test]
fn congestion_in_the_tunnel_is_not_lost() {
    const NOT_ECT: u8 = 0b00;
    const ECT_1: u8 = 0b01;
    const ECT_0: u8 = 0b10;
    const CE: u8 = 0b11;
    let table = [
        (NOT_ECT, NOT_ECT, Some(NOT_ECT)),
        (CE, NOT_ECT, None),
        (CE, ECT_0, Some(CE)),
        (CE, ECT_1, Some(CE)),
        (CE, CE, Some(CE)),
        (ECT_0, ECT_0, Some(ECT_0)),
        (NOT_ECT, CE, Some(CE)),
    ];
    for (client, vip, protocol) in
        [("198.51.100.7:40000", "192.0.2.2:443", 4), ("[2001:db8:c::7]:40000", "[2001:db8::2]:443", 41)]
    {
        for (outer, inner, expected) in table {
            let packet = |ecn: u8| Packet::tcp(client, vip).tos(0xa8 | ecn).bytes();
            for (source, backend) in [("100.64.10.9", "10.0.2.1"), ("fd00:64:0:10::9", "fd00:2::1")] {
                let tunnel = Packet::other(source, backend, Transport::Other(protocol));
                let outcome = host::decapsulate(&tunnel.tos(outer).payload(&packet(inner)[14..]).bytes(), &allowed());
                match expected {
                    Some(ecn) => {
                        assert_eq!(outcome.frame[14..], packet(ecn)[14..], "{source}: {outer:02b}, {inner:02b}");
                    }
                    None => {
                        assert_eq!(outcome.reason, Some(Reason::MalformedInner), "{source}: {outer:02b}, {inner:02b}");
                    }
                }
            }
        }
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
