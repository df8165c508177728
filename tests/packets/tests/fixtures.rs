//! Every fixture through the host build of the packet path, compared with the oracle's answer.

use std::collections::BTreeSet;

use lb_common::{
    abi::{WantedNeighbour, family},
    reason::Reason,
};
use weir_packets::{
    build::Packet,
    fixtures::{
        self, Family, Fixture,
        world::{GONE, world},
    },
    host::{Host, Run},
    oracle,
    world::{Service, World},
};

const INGRESS: u32 = 10;
const OTHER: u32 = 11;

/// Runs a fixture and has the oracle judge it.
fn run(world: &World, ingress: u32, fixture: &Fixture) -> Run {
    let run = Host::new(world).run(ingress, &fixture.frame);
    let fate = oracle::judge(world, ingress, &fixture.frame, &run.outcome);
    let fate = fate.unwrap_or_else(|difference| panic!("{fixture}\n  {difference}"));
    assert_eq!(run.counts, Vec::from_iter(fate.count), "{fixture}: counters");
    run
}

fn encapsulated() -> impl Iterator<Item = Fixture> {
    fixtures::all().into_iter().filter(|fixture| fixture.reason == Reason::ForwardedIpip)
}

#[test]
fn there_are_enough_fixtures_and_each_has_its_own_name() {
    let all = fixtures::all();
    let names: BTreeSet<&str> = all.iter().map(|fixture| fixture.name.as_str()).collect();
    assert!(all.len() >= 60, "only {} fixtures", all.len());
    assert_eq!(names.len(), all.len(), "names are not unique");
}

#[test]
fn the_oracle_agrees_with_the_table() {
    let world = world(INGRESS, OTHER);
    for fixture in fixtures::all() {
        for fate in oracle::fates(&world, INGRESS, &fixture.frame) {
            assert_eq!((fate.action, fate.reason), (fixture.action, fixture.reason), "{fixture}");
        }
    }
}

#[test]
fn every_fixture_comes_out_of_the_host_build_as_the_oracle_says() {
    let world = world(INGRESS, OTHER);
    for fixture in fixtures::all() {
        let outcome = run(&world, INGRESS, &fixture).outcome;
        assert_eq!((outcome.action, outcome.reason), (fixture.action, Some(fixture.reason)), "{fixture}");
    }
}

#[test]
fn the_ingress_device_decides_between_transmit_and_redirect() {
    let world = world(INGRESS, OTHER);
    for fixture in fixtures::all() {
        run(&world, OTHER, &fixture);
    }
}

#[test]
fn only_unresolved_clients_are_asked_for() {
    let world = world(INGRESS, OTHER);
    for fixture in fixtures::all() {
        let wanted = run(&world, INGRESS, &fixture).wanted;
        if fixture.reason != Reason::ClientUnresolved {
            assert_eq!(wanted, [], "{fixture}");
            continue;
        }
        let (kind, at, length) = if fixture.frame[14] >> 4 == 4 { (family::V4, 30, 4) } else { (family::V6, 38, 16) };
        let mut address = [0; 16];
        address[..length].copy_from_slice(&fixture.frame[at..at + length]);
        assert_eq!(wanted, [WantedNeighbour { address, family: kind }], "{fixture}");
    }
}

#[test]
fn without_room_for_the_outer_header_a_packet_is_dropped() {
    let world = world(INGRESS, OTHER);
    let rooms = [
        (19, Reason::RewriteFailed, Reason::RewriteFailed),
        (20, Reason::ForwardedIpip, Reason::RewriteFailed),
        (39, Reason::ForwardedIpip, Reason::RewriteFailed),
        (40, Reason::ForwardedIpip, Reason::ForwardedIpip),
    ];
    for (headroom, v4, v6) in rooms {
        let host = Host::new(&world).with_headroom(headroom);
        for fixture in encapsulated() {
            let outer_is_v4 = run(&world, INGRESS, &fixture).outcome.frame[14] >> 4 == 4;
            let reason = host.run(INGRESS, &fixture.frame).outcome.reason;
            assert_eq!(reason, Some(if outer_is_v4 { v4 } else { v6 }), "{fixture}");
        }
    }
}

#[test]
fn without_an_outer_network_nothing_is_encapsulated() {
    let mut world = world(INGRESS, OTHER);
    (world.outer_v4, world.outer_v6) = (None, None);
    for fixture in encapsulated() {
        assert_eq!(run(&world, INGRESS, &fixture).outcome.reason, Some(Reason::NoOuterSource), "{fixture}");
    }
}

#[test]
fn a_single_outer_source_is_used_as_it_is() {
    let mut world = world(INGRESS, OTHER);
    world.outer_v4 = Some("100.64.10.1/32".parse().unwrap());
    world.outer_v6 = Some("fd00:64::1/128".parse().unwrap());
    for fixture in encapsulated() {
        run(&world, INGRESS, &fixture);
    }
}

#[test]
fn a_new_flow_without_room_and_without_an_own_backend_is_dropped() {
    let mut world = world(INGRESS, OTHER);
    let gone = |service: &&mut Service| service.gone.is_some();
    let service = world.services.iter_mut().find(gone).unwrap();
    let stranger = service.gone.unwrap().backend + 1;
    service.slots.fill(stranger);
    let syn = Packet::syn(&Family::V4.client(), &Family::V4.vip(GONE, 80)).bytes();
    for (room, reason) in [(0, Reason::FlowTableFull), (1, Reason::ForwardedIpip)] {
        let host = Host::new(&world);
        host.memory().room = room;
        assert_eq!(host.run(INGRESS, &syn).outcome.reason, Some(reason), "room for {room}");
    }
}

#[test]
fn fixtures_cover_every_reason_that_a_frame_alone_can_cause() {
    // These need another configuration or driver (tested above), or belong to decapsulation.
    let elsewhere = [
        Reason::NoOuterSource,
        Reason::FlowTableFull,
        Reason::RewriteFailed,
        Reason::Decapsulated,
        Reason::ForeignTunnel,
        Reason::MalformedInner,
    ];
    let seen: BTreeSet<Reason> = fixtures::all().into_iter().map(|fixture| fixture.reason).collect();
    for reason in Reason::ALL.iter().filter(|reason| !elsewhere.contains(reason)) {
        assert!(seen.contains(reason), "no fixture for {}", reason.name());
    }
}
