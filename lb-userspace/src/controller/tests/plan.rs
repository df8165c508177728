//! Planning without a controller around it.

use std::{collections::BTreeMap, time::SystemTime};

use bytemuck::Zeroable;
use lb_common::abi::{self, NextHop, SlotWord};
use rtnetlink::packet_route::neighbour::NeighbourState;

use super::{
    world::{World, endpoint, whole},
    *,
};
use crate::{
    controller::{
        desired::Scope,
        full::Full,
        ways_back::{Taken, taken},
    },
    health::State,
    tables::{Endpoint, Write, fake::Kernel},
};

#[test]
fn a_service_gets_its_entries() {
    let world = World::new(&service("web", 80, "l2", &[1, 2, 3]));
    let tables = world.tables();
    assert_eq!(world.service(80), abi::Service { id: 1, first_slot: 0, slot_count: 4093, ..Zeroable::zeroed() });
    assert_eq!(tables.services[&Endpoint::vip_marker([192, 0, 2, 1].into())].flags, abi::service_flags::VIP_MARKER);
    assert_eq!(tables.services.len(), 2);
    assert_eq!(tables.egresses, BTreeMap::from([(1, egress(BACK))]));
    assert_eq!(tables.backends[&2].next_hop, NextHop::new([6, 0, 0, 0, 0, 2], 1));
    assert_eq!((tables.backends[&2].service, tables.backends[&2].mode), (1, abi::mode::L2));
    assert!(tables.reverse.is_empty() && tables.routes.is_empty());
    let spread = world.spread(80);
    assert_eq!(spread.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
    assert!(spread.values().all(|slots| (1360..=1370).contains(slots)), "{spread:?}");
}

fn egress(ifindex: u32) -> abi::Egress {
    abi::Egress { ifindex, mtu: 1500, mac: [2, 0, 0, 0, 0, u8::try_from(ifindex).unwrap()], pad: [0; 2] }
}

#[test]
fn nat_has_ways_back_and_ways_to_clients() {
    let own_port = service("web", 80, "nat", &[1]) + "port = 8080\n" + &service("any", 81, "nat", &[2]);
    let world = World::new(&own_port);
    let tables = world.tables();
    let at = |octet, port| Endpoint { address: address(octet), port, protocol: abi::protocol::TCP };
    let [web, any] = [world.service(80).id, world.service(81).id];
    let [one, two] = [world.ids()[&(web, 1)], world.ids()[&(any, 2)]];
    assert_eq!(tables.reverse.keys().copied().collect::<Vec<_>>(), [at(1, 8080), at(2, 81)]);
    let reverse = tables.reverse[&at(1, 8080)];
    assert_eq!((reverse.service, reverse.backend, reverse.port), (web, one, 80u16.to_be_bytes()));
    assert_eq!(reverse.address[..4], [192, 0, 2, 1]);
    assert_eq!(tables.reverse[&at(2, 81)].backend, two);
    let route = |net: &str| tables.routes[&net.parse().unwrap()];
    assert_eq!(route("0.0.0.0/0").mac(), [6, 0, 0, 0, 0, 1]);
    assert_eq!(tables.egresses[&route("0.0.0.0/0").egress()].ifindex, FRONT);
    assert_eq!(route("203.0.113.0/24"), NextHop::UNRESOLVED);
    assert_eq!(route("198.51.100.7/32").mac(), [6, 0, 0, 0, 0, 7]);
}

#[test]
fn only_backends_that_can_take_flows_get_slots() {
    let mut world = World::new(&service("web", 80, "l2", &[1, 2, 3, 4, 5]));
    let entry = |octet, more: &str| {
        format!("[[service.backend]]\nname = \"b{octet}\"\naddress = \"198.51.100.{octet}\"\n{more}")
    };
    let text = service("web", 80, "l2", &[1, 2]) + &entry(3, "weight = 0\n") + &entry(4, "draining = true\n");
    let plan = world.configure(&(text + &entry(200, "")));
    assert_eq!(world.spread(80).into_keys().collect::<Vec<_>>(), [1, 2]);
    assert_eq!(world.tables().backends.len(), 6, "one is leaving");
    let moved = u32::try_from(4093 - 4093 * 2 / 5).unwrap();
    assert!(plan.moved[&endpoint(80)].abs_diff(moved) < 100, "{:?}", plan.moved);
    let state = |octet| world.tables().backends[&world.ids()[&(1, octet)]].state;
    assert_eq!((state(1), state(4)), (0, abi::backend_state::DRAINING));
    assert!(!world.tables().backends[&world.ids()[&(1, 200)]].next_hop.is_resolved());
}

#[test]
fn weights_are_shares() {
    let text = service("web", 80, "l2", &[1]) + "weight = 3\n" + &service("web", 80, "l2", &[2])[..0];
    let world = World::new(&(text + "[[service.backend]]\nname = \"b2\"\naddress = \"198.51.100.2\"\nweight = 1\n"));
    let spread = world.spread(80);
    assert!(spread[&1].abs_diff(4093 * 3 / 4) < 20, "{spread:?}");
}

#[test]
fn with_nobody_left_every_slot_is_empty() {
    let mut world = World::new(&checked("web", 80, &[1, 2]));
    assert_eq!(world.spread(80), BTreeMap::from([(0, 4093)]), "nobody has answered a check yet");
    assert!(world.tables().backends.values().all(|backend| backend.state == abi::backend_state::DOWN));
    world.want.health.values_mut().for_each(|health| health.state = State::Up);
    let plan = world.reconcile_checked(&[endpoint(80)].into());
    assert_eq!(plan.moved, BTreeMap::from([(endpoint(80), 4093)]));
    world.want.health.values_mut().for_each(|health| health.state = State::Down);
    world.reconcile_checked(&[endpoint(80)].into());
    assert_eq!(world.spread(80), BTreeMap::from([(0, 4093)]));
}

#[test]
fn what_lives_keeps_its_ids_and_slots_whatever_comes_and_goes() {
    let all = |services: &[(u16, &[u8])]| -> String {
        services.iter().map(|(port, backends)| service(&format!("s{port}"), *port, "l2", backends)).collect()
    };
    let mut world = World::new(&all(&[(80, &[1, 2, 3]), (81, &[1]), (82, &[5])]));
    let (before, old_ids) = (world.tables().clone(), world.ids());
    world.configure(&all(&[(82, &[5, 6]), (80, &[4, 3, 1])]));
    assert_eq!(world.service(80), before.services[&endpoint(80)]);
    assert_eq!(world.service(82), before.services[&endpoint(82)]);
    for (identity, id) in world.ids() {
        match old_ids.get(&identity) {
            Some(old) => assert_eq!(id, *old),
            None => assert!(!before.backends.contains_key(&id), "id {id} is used again at once"),
        }
    }
    // The gap that service 81 left is used, and the ids that went are not.
    world.configure(&all(&[(82, &[5, 6]), (80, &[4, 3, 1]), (83, &[9])]));
    assert_eq!(world.service(83).first_slot, 4093);
    assert_eq!(world.ids()[&(world.service(83).id, 9)], 8);
}

#[test]
fn a_configured_slot_count_waits_for_the_service_to_be_new() {
    let mut world = World::new(&service("web", 80, "l2", &[1, 2]));
    let plan = world.configure(&service("web", 80, "l2", &[1, 2]).replace("4093", "16381"));
    assert_eq!((plan.writes, world.service(80).slot_count), (vec![], 4093));
}

#[test]
fn a_service_that_lives_hashes_as_before_whatever_its_scheduler() {
    let with = |scheduler: &str| {
        service("web", 80, "l2", &[1, 2]).replace("health =", &format!("scheduler = \"{scheduler}\"\nhealth ="))
    };
    let by_source = |world: &World| world.service(80).flags & abi::service_flags::HASH_SOURCE != 0;
    for (before, after) in [("maglev", "source"), ("source", "maglev"), ("source", "random")] {
        let mut world = World::new(&with(before));
        let hashed = by_source(&world);
        assert_eq!(hashed, before == "source");
        world.configure(&with(after));
        assert_eq!(by_source(&world), hashed, "{before} becomes {after}");
        world.configure("");
        world.configure(&with(after));
        assert_eq!(by_source(&world), after == "source", "{after} is added again");
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    let mut world = World::new(&service("web", 80, "l2", &[1, 2]));
    world.capacity.slots = 5000;
    let next = spec(&(service("web", 80, "l2", &[1, 2]) + &service("more", 81, "l2", &[1])));
    world.put(next, &network(0..=100), SystemTime::now());
    let error = world.plan(Scope::Services(&[endpoint(81)].into())).unwrap_err();
    assert_eq!(error, Full::Slots { service: "more".into(), needed: 4093, largest: 907, capacity: 5000 });
}

#[test]
fn a_removed_backend_takes_room_until_it_has_left() {
    let mut world = World::new(&service("web", 80, "l2", &[1, 2]));
    world.capacity.backend_ids = 3;
    let mut with = |backends: &[u8]| {
        let next = spec(&service("web", 80, "l2", backends));
        world.put(next, &network(0..=100), SystemTime::now());
        world.plan(Scope::Everything).map(drop)
    };
    assert_eq!(with(&[1]), Ok(()));
    let full = with(&[1, 3]).unwrap_err();
    assert_eq!(full, Full::Backends { capacity: 2 });
    assert!(full.to_string().contains("those that were removed count until they have left"), "{full}");
}

#[test]
fn a_way_back_that_moves_with_the_file_is_told_of() {
    let with = |web: &[u8], more: &str| service("web", 80, "nat", web) + more;
    let more = service("more", 81, "nat", &[2]) + "port = 80\n";
    let mut world = World::new(&with(&[1, 2], ""));
    let taken_by = |world: &mut World, services: &str| {
        world.put(spec(services), &network(0..=100), SystemTime::now());
        taken(&world.mirror, &world.want, &world.plan(Scope::Everything).unwrap().writes)
    };
    let lost = Taken { service: "web".into(), backend: "198.51.100.2".into() };
    assert_eq!(taken_by(&mut world, &with(&[1], &more)), [lost]);
    assert_eq!(taken_by(&mut world, &with(&[1], &more.replace("port = 80\n", ""))), [], "another port");
    assert_eq!(taken_by(&mut world, &more), [], "a removed service goes at once");
}

#[test]
fn a_neighbour_asked_again_keeps_its_flows_and_one_that_does_not_answer_loses_them() {
    let mut world = World::new(&service("web", 80, "l2", &[1, 2]));
    let mut view = network(0..=100);
    for (state, takes) in
        [(NeighbourState::Probe, true), (NeighbourState::Incomplete, true), (NeighbourState::Failed, false)]
    {
        view.apply(neighbour(BACK, address(2), state, 2));
        let affected = world.want.follow(&world.mirror, &view, 4096).unwrap_or_default();
        world.reconcile_affected(&affected);
        assert_eq!(world.spread(80).contains_key(&2), takes, "{state:?}");
    }
    // Asked once more it is still not known; answering brings it back.
    view.apply(neighbour(BACK, address(2), NeighbourState::Incomplete, 2));
    let affected = world.want.follow(&world.mirror, &view, 4096).unwrap_or_default();
    assert_eq!(world.reconcile_affected(&affected).writes, []);
    view.apply(neighbour(BACK, address(2), NeighbourState::Reachable, 99));
    let affected = world.want.follow(&world.mirror, &view, 4096).unwrap();
    world.reconcile_affected(&affected);
    assert_eq!(world.tables().backends[&world.ids()[&(1, 2)]].next_hop.mac()[5], 99);
    assert!(world.spread(80).contains_key(&2));
}

#[test]
fn a_new_address_of_a_gateway_moves_no_slot() {
    let mut world = World::new(&service("web", 80, "l2", &[1, 2]));
    let mut view = network(0..=100);
    view.apply(neighbour(BACK, address(2), NeighbourState::Reachable, 77));
    let affected = world.want.follow(&world.mirror, &view, 4096).unwrap();
    assert_eq!(whole(&affected), [endpoint(80)].into());
    let plan = world.reconcile_affected(&affected);
    assert!(matches!(plan.writes[..], [Write::Backend(2, _)]), "{:?}", plan.writes);
    assert!(plan.moved.is_empty());
}

#[test]
fn a_device_that_goes_takes_its_entry_and_its_backends_with_it() {
    let mut world = World::new(&service("web", 80, "l2", &[1, 2]));
    let mut view = network(0..=100);
    view.apply(Event::LinkGone(BACK));
    let affected = world.want.follow(&world.mirror, &view, 4096).unwrap();
    world.reconcile_affected(&affected);
    assert!(world.tables().egresses.is_empty());
    assert_eq!(world.spread(80), BTreeMap::from([(0, 4093)]));
}

#[test]
fn adoption_believes_the_tables_and_writes_nothing() {
    let text = checked("web", 80, &[1, 2, 3]) + &service("nat", 81, "nat", &[4]);
    let mut world = World::new(&text);
    world.want.health.values_mut().for_each(|health| health.state = State::Up);
    world.want.health.values_mut().next().unwrap().state = State::Down;
    world.reconcile(Scope::Everything);
    let (tables, log) = (world.tables().clone(), world.kernel.log.len());
    let adopted = World::on(world.kernel, spec(&text), &network(0..=100));
    assert_eq!(*adopted.tables(), tables);
    assert_eq!(adopted.kernel.log.len(), log);
    let states: Vec<_> = adopted.want.health.values().map(|health| health.state).collect();
    assert_eq!(states, [State::Unknown, State::Up, State::Up, State::Up], "held, or not checked yet");
}

#[test]
fn what_a_stranger_left_is_put_right() {
    let text = service("web", 80, "l2", &[1, 2]);
    let mut world = World::new(&text);
    let desired = world.tables().clone();
    let stray = abi::Backend { service: 9, ..world.tables().backends[&1] };
    world.kernel.tables.backends.insert(30, stray);
    world.kernel.tables.backends.get_mut(&2).unwrap().weight = 77;
    world.kernel.slots.insert(17, SlotWord::steady(30));
    let mut mended = World::on(world.kernel, spec(&text), &network(0..=100));
    let slot = mended.tables().slots[&0][17];
    assert_eq!((slot.current(), slot.tracked()), (slot.base(), true), "who knows what was entered by it");
    mended.settle(80);
    assert_eq!(*mended.tables(), desired);
}

#[test]
fn routes_that_do_not_fit_are_left_out_and_hinder_nothing_else() {
    let mut world = World::new(&service("nat", 80, "nat", &[1, 2]));
    let routes = world.tables().routes.clone();
    let too_many = Full::Routes { needed: routes.len(), capacity: 10 };
    world.capacity.routes = 10;
    assert_eq!(world.plan(Scope::Everything), Err(too_many));

    world.capacity.routes = u32::try_from(routes.len()).unwrap();
    let mut view = network(0..=101);
    view.apply(neighbour(BACK, address(2), NeighbourState::Reachable, 22));
    let affected = world.want.follow(&world.mirror, &view, world.capacity.routes).unwrap();
    world.reconcile_affected(&affected);
    assert!(world.tables().routes.keys().eq(routes.keys()), "the new one does not fit");
    assert_eq!(world.tables().routes[&"198.51.100.2/32".parse().unwrap()].mac()[5], 22, "the others are kept right");
    assert_eq!(world.tables().backends[&2].next_hop.mac()[5], 22);
    let affected = world.put(spec(&service("nat", 80, "nat", &[1])), &view, SystemTime::now());
    world.reconcile_checked(&affected);
    assert_eq!((world.tables().routes.len(), world.ids().len()), (routes.len(), 1));
}

#[test]
fn a_start_with_too_many_routes_keeps_those_of_before_then_the_shortest() {
    let of_size = |routes: u32| {
        let mut spec = spec(&service("nat", 80, "nat", &[1, 2]));
        spec.node.tables.routes = routes;
        spec
    };
    let nets = |world: &World| world.tables().routes.keys().map(ToString::to_string).collect::<Vec<_>>();
    let first = World::on(Kernel::default(), of_size(4), &network(0..=100));
    assert_eq!(nets(&first).len(), 4);
    for net in ["0.0.0.0/0", "198.51.100.0/24", "203.0.113.0/24"] {
        assert!(nets(&first).contains(&net.to_owned()), "{:?}", nets(&first));
    }
    assert_eq!(first.spread(80).into_keys().collect::<Vec<_>>(), [1, 2]);

    // Shorter ones have come by the time of the next start, and one of the old is gone.
    let before = nets(&first);
    let mut view = network(0..=100);
    let default = |prefix: &str| Route {
        table: Table::Main,
        prefix: prefix.parse().unwrap(),
        metric: 0,
        target: Target::Hops(vec![Hop { ifindex: FRONT, gateway: Some([203, 0, 113, 1].into()), encapsulated: false }]),
    };
    let on_link = Route {
        table: Table::Main,
        prefix: "198.51.100.0/24".parse().unwrap(),
        metric: 0,
        target: Target::Hops(vec![Hop { ifindex: BACK, gateway: None, encapsulated: false }]),
    };
    let routes = vec![default("0.0.0.0/0"), default("10.0.0.0/8"), default("11.0.0.0/8"), on_link];
    view.apply(Event::Routes(routes));
    let again = World::on(first.kernel, of_size(4), &view);
    let mut expected: Vec<_> = before.into_iter().filter(|net| net != "203.0.113.0/24").collect();
    expected.push("10.0.0.0/8".to_owned());
    expected.sort();
    let mut kept = nets(&again);
    kept.sort();
    assert_eq!(kept, expected);
    assert_eq!(again.spread(80).into_keys().collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn clients_behind_too_many_devices_hinder_nothing_else() {
    let mut world = World::new(&service("nat", 80, "nat", &[1, 2]));
    let mut view = network(0..=100);
    let on_link = |prefix: String, ifindex| Route {
        table: Table::Main,
        prefix: prefix.parse().unwrap(),
        metric: 0,
        target: Target::Hops(vec![Hop { ifindex, gateway: None, encapsulated: false }]),
    };
    let back = || on_link("198.51.100.0/24".into(), BACK);
    let fronts = (10..90u8).map(|index| on_link(format!("10.0.{index}.0/24"), index.into()));
    view.apply(Event::Routes([back()].into_iter().chain(fronts.clone()).collect()));
    for index in 10..=90u8 {
        view.apply(link(index.into(), &format!("eth{index}")));
        view.apply(neighbour(index.into(), [10, 0, index, 7].into(), NeighbourState::Reachable, index));
    }
    let affected = world.want.follow(&world.mirror, &view, 4096).unwrap();
    let plan = world.reconcile_affected(&affected);
    let of = |world: &World, index| world.tables().routes[&format!("10.0.{index}.7/32").parse().unwrap()];
    let (resolved, unresolved): (Vec<_>, Vec<_>) = (10..90).partition(|index| of(&world, *index).is_resolved());
    // 63 entries, 16 of which are for backends; two are of devices from before.
    assert_eq!((resolved.len(), unresolved.len(), plan.held_back), (45, 35, 35));
    assert!(unresolved.iter().all(|index| of(&world, *index) == NextHop::UNRESOLVED));

    // A backend behind another device still is served.
    let moved = on_link("198.51.100.2/32".into(), 90);
    view.apply(Event::Routes([back(), moved].into_iter().chain(fronts).collect()));
    view.apply(neighbour(90, address(2), NeighbourState::Reachable, 2));
    let affected = world.want.follow(&world.mirror, &view, 4096).unwrap();
    assert_eq!(whole(&affected), [endpoint(80)].into());
    world.reconcile_affected(&affected);
    let next_hop = world.tables().backends[&2].next_hop;
    assert_eq!(world.tables().egresses[&next_hop.egress()].ifindex, 90);
    assert_eq!(world.spread(80).into_keys().collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn the_hosts_own_addresses_stay_the_kernels() {
    let mut world = World::new(&service("nat", 80, "nat", &[1]));
    let mut view = network(0..=100);
    let local =
        Route { table: Table::Local, prefix: "203.0.113.9/32".parse().unwrap(), metric: 0, target: Target::Local };
    view.apply(Event::Routes(vec![local]));
    let affected = world.want.follow(&world.mirror, &view, 4096).unwrap();
    world.reconcile_affected(&affected);
    assert_eq!(world.tables().routes[&"203.0.113.9/32".parse().unwrap()], NextHop::LOCAL);
    assert_eq!(world.spread(80), BTreeMap::from([(0, 4093)]), "the route to its backend is gone");
}
