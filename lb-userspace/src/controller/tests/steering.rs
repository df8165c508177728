//! Schedulers and momentary weights, from the configuration to the tables.

use std::collections::BTreeMap;

use lb_common::abi::{HandshakeTimes, Service, choice, service_flags};

use super::{
    host::Host,
    world::{World, endpoint},
    *,
};
use crate::{
    controller::{desired::BackendKey, edit::BackendEdit},
    health::Answers,
};

/// A service "web" with this scheduler and backends of weight 1 that are checked.
fn scheduled(scheduler: &str, slow_start: &str, backends: &[u8]) -> String {
    let fields = format!("slots = 4093\nscheduler = \"{scheduler}\"\nslow_start = \"{slow_start}\"");
    checked("web", 80, backends).replace("slots = 4093", &fields)
}

/// A host whose backends are all up.
fn host(scheduler: &str, slow_start: &str, backends: &[u8]) -> Host {
    let mut host = Host::new(&scheduled(scheduler, slow_start, backends));
    for octet in backends {
        host.health(*octet, true);
    }
    host
}

fn counted(octets: impl Iterator<Item = u8>) -> BTreeMap<u8, u32> {
    octets.fold(BTreeMap::new(), |mut counts, octet| {
        *counts.entry(octet).or_default() += 1;
        counts
    })
}

/// Slots of each backend, by last octet.
fn spread(host: &Host) -> BTreeMap<u8, u32> {
    let backends = host.tables().backends;
    counted(host.words().iter().map(|word| backends[&word.current()].address[3]))
}

/// The entry of the service, and its ring by last octets.
fn ring(host: &Host) -> (Service, Vec<u8>) {
    let tables = host.tables();
    let service = tables.services[&endpoint(80)];
    let ids = tables.rings.get(&service.id).cloned().unwrap_or_default();
    (service, ids.iter().map(|id| tables.backends[id].address[3]).collect())
}

fn key(octet: u8) -> BackendKey {
    BackendKey { service: endpoint(80), address: address(octet), port: 0 }
}

#[test]
fn each_scheduler_gets_what_it_draws_from() {
    let weighted = |scheduler: &str| {
        let text = scheduled(scheduler, "0s", &[1, 2, 3]).replace("b2\"\n", "b2\"\nweight = 3\n");
        World::new(&text.replace("{ interval = \"1s\", timeout = \"500ms\", rise = 2, fall = 3 }", "\"none\""))
    };
    for (scheduler, wanted, length) in [
        ("maglev", choice::SLOT, 0),
        ("source", choice::SLOT, 0),
        ("response-time", choice::SLOT, 0),
        ("round-robin", choice::TURN, 3),
        ("weighted-round-robin", choice::TURN, 5),
        ("random", choice::RANDOM, 5),
        ("least-connections", choice::LEAST, 3),
    ] {
        let world = weighted(scheduler);
        let service = world.service(80);
        assert_eq!((service.choice, service.ring_length), (wanted, length), "{scheduler}");
        assert_eq!(world.tables().rings.get(&service.id).map_or(0, Vec::len), length as usize);
        let of_two = world.tables().backends[&world.ids()[&(service.id, 2)]];
        assert_eq!(of_two.weight, if scheduler == "round-robin" { 1 } else { 3 });
        assert!(world.tables().slots[&0].iter().all(|word| word.tracked() == (wanted != choice::SLOT)), "{scheduler}");
        let timed = service.flags & service_flags::TIME_HANDSHAKES != 0;
        assert_eq!(timed, scheduler == "response-time");
    }
}

#[test]
fn a_ring_follows_who_takes_flows() {
    let mut host = host("round-robin", "0s", &[1, 2, 3]);
    assert_eq!(ring(&host).1, [1, 2, 3]);
    host.health(2, false);
    assert_eq!(ring(&host).1, [1, 3]);
    host.edit(3, BackendEdit::Drain(None)).unwrap();
    assert_eq!(ring(&host).1, [1]);
    host.health(1, false);
    assert_eq!((ring(&host).0.choice, ring(&host).1), (choice::TURN, vec![]));
    host.health(2, true);
    host.add(4).unwrap();
    host.health(4, true);
    assert_eq!(ring(&host).1, [2, 4]);
}

#[test]
fn a_change_that_the_kernel_refuses_leaves_the_ring_as_it_was() {
    let mut host = host("weighted-round-robin", "0s", &[1, 2, 3]);
    let before = ring(&host);
    for writes in 0..4 {
        host.kernel.fail(Some(writes));
        host.edit(2, BackendEdit::Weight(5)).unwrap_err();
        host.kernel.fail(None);
        host.wait(1);
        assert_eq!(ring(&host), before, "after {writes} writes");
        assert_eq!(spread(&host), spread(&self::host("weighted-round-robin", "0s", &[1, 2, 3])));
    }
    host.edit(2, BackendEdit::Weight(5)).unwrap();
    assert_eq!(counted(ring(&host).1.into_iter()), [(1, 1), (2, 5), (3, 1)].into());
}

#[test]
fn a_backend_that_comes_back_gets_its_slots_little_by_little() {
    let mut host = host("maglev", "9s", &[1, 2]);
    let full = spread(&host);
    assert!(full[&1].abs_diff(full[&2]) <= 1, "{full:?}");
    host.health(2, false);
    assert_eq!(spread(&host), [(1, 4093)].into());
    host.health(2, true);
    let mut shares = Vec::new();
    for _ in 0..12 {
        shares.push(spread(&host)[&2]);
        host.wait(1);
    }
    for (step, share) in (1..).zip(&shares) {
        let step: u32 = std::cmp::min(step, 10);
        let wanted = 4093 * step / (10 + step);
        assert!(share.abs_diff(wanted) <= 1, "{share} slots in step {step}, not {wanted}");
    }
    assert_eq!(spread(&host), full);
    // The steps were those of the one: nobody else's slots went elsewhere in between.
    assert!(shares.is_sorted());
}

#[test]
fn a_ring_that_goes_by_weights_starts_slowly_too() {
    for scheduler in ["round-robin", "weighted-round-robin", "random"] {
        let mut host = host(scheduler, "9s", &[1, 2]);
        host.health(2, false);
        host.health(2, true);
        assert_eq!(counted(ring(&host).1.into_iter()), [(1, 10), (2, 1)].into(), "{scheduler}");
        host.wait(4);
        assert_eq!(counted(ring(&host).1.into_iter()), [(1, 2), (2, 1)].into(), "{scheduler}");
        host.wait(5);
        assert_eq!(ring(&host).1, [1, 2], "{scheduler}");
    }
    let mut host = host("least-connections", "9s", &[1, 2]);
    host.health(2, false);
    host.health(2, true);
    let weights: Vec<u32> = host.tables().backends.values().map(|entry| entry.weight).collect();
    assert_eq!(weights, [10, 1]);
}

#[test]
fn whoever_is_added_or_undrained_starts_slowly_and_whoever_was_there_does_not() {
    let mut host = host("round-robin", "9s", &[1, 2]);
    assert_eq!(ring(&host).1, [1, 2]);
    host.add(3).unwrap();
    host.health(3, true);
    assert_eq!(counted(ring(&host).1.into_iter()), [(1, 10), (2, 10), (3, 1)].into());
    host.wait(9);
    assert_eq!(ring(&host).1, [1, 2, 3]);
    host.edit(1, BackendEdit::Drain(None)).unwrap();
    host.edit(1, BackendEdit::Undrain).unwrap();
    assert_eq!(counted(ring(&host).1.into_iter()), [(1, 1), (2, 10), (3, 10)].into());
    host.restart();
    assert_eq!(ring(&host).1, [1, 2, 3], "a restart disturbs nobody who takes flows");
}

#[test]
fn a_slow_backend_loses_slots_and_gets_them_back() {
    let mut host = host("response-time", "0s", &[1, 2, 3]);
    let full = spread(&host);
    host.wait(1);
    assert!(!host.core.wants_times(host.now));
    // By its health checks first, then by what clients see.
    for round in 0..40 {
        host.now.monotonic += Duration::from_secs(10);
        assert!(host.core.wants_times(host.now));
        let answers = |octet: u8| {
            let slow = octet == 2 && round < 6;
            (key(octet), Answers { total: Duration::from_millis(if slow { 200 } else { 5 }), count: 5 })
        };
        let answers: Vec<_> = [1, 2, 3].map(answers).into();
        host.core.take_times(answers.iter().map(|(backend, answers)| (backend, *answers)));
        host.wait(0);
        if round == 5 {
            let slow = spread(&host);
            assert!(slow[&2] * 3 < slow[&1] && slow[&1].abs_diff(slow[&3]) <= 1, "{slow:?}");
        }
    }
    assert_eq!(spread(&host), full);
}

#[test]
fn a_backend_that_is_slow_with_clients_loses_slots() {
    let mut host = host("response-time", "0s", &[1, 2]);
    host.wait(1);
    let ids = [1, 2].map(|octet| host.entry(octet).unwrap().0);
    for round in 1..8 {
        let times = |milliseconds: u64| HandshakeTimes {
            nanoseconds: round * 1_000_000 * 50 * milliseconds,
            count: round * 50,
        };
        host.kernel.kernel().counters.handshakes = [(ids[0], times(40)), (ids[1], times(120))].into();
        host.now.monotonic += Duration::from_secs(10);
        host.core.take_times(std::iter::empty());
        host.wait(0);
    }
    let spread = spread(&host);
    assert!(spread[&2] * 2 < spread[&1], "{spread:?}");
}
