//! Backends that are held, drained or removed, and what becomes of their flows.

use lb_common::{
    abi::backend_state::{DOWN, DRAINING, GONE, REMOVED},
    tracking::Owner,
};
use rtnetlink::packet_route::neighbour::NeighbourState;

use super::{
    host::{DATA, FIN, Host, SYN, key},
    *,
};
use crate::{
    api::{
        control::ControlError,
        types::{BackendState, NextHop},
    },
    config::raw,
    controller::edit::{BackendEdit, Edit},
    flows::FlowKey,
};

const REMOVE: BackendEdit = BackendEdit::Remove { now: false };
const END: BackendEdit = BackendEdit::Remove { now: true };

fn web(backends: &[u8], more: &str) -> String {
    let fields = format!("settle_after = \"2m\"\nidle = \"1h\"\n{more}\nhealth = ");
    service("web", 80, "l2", backends).replace("health = ", &fields)
}

/// A host with a client of each backend 1 to 3: (backend, client).
fn host(more: &str) -> (Host, [(u8, u16); 3]) {
    let host = Host::new(&web(&[1, 2, 3], more));
    let client_of = |octet: u8| (1..5000).find(|client| host.connect(*client) == Some(address(octet))).unwrap();
    let clients = [1, 2, 3].map(|octet| (octet, client_of(octet)));
    (host, clients)
}

/// Sweeps until `octet` has no entry. How often it took.
fn sweeps_until_gone(host: &mut Host, octet: u8) -> usize {
    (1..20)
        .find(|_| {
            host.sweep();
            host.entry(octet).is_none()
        })
        .expect("it leaves")
}

#[test]
fn nothing_is_looked_up_in_the_steady_state() {
    let (host, _) = host("");
    assert!(host.words().iter().all(|word| !word.tracked()));
    assert!(host.kernel.kernel().flows.is_empty());
    assert_eq!(host.kernel.kernel().counters.flow_events, Vec::<u64>::new());
}

#[test]
fn a_removed_backend_serves_its_flows_and_leaves_after_the_last() {
    let (mut host, [_, _, (_, client)]) = host("");
    let (id, _) = host.entry(3).unwrap();
    host.edit(3, REMOVE).unwrap();
    assert_eq!(host.entry(3), Some((id, DRAINING | REMOVED)));
    assert_eq!(host.reaches(client, DATA), Some(address(3)));
    let shown = host.shown(3).unwrap();
    assert_eq!((shown.name.as_str(), shown.state, shown.weight), ("198.51.100.3", BackendState::Leaving, 0));
    assert!(!shown.flows.settled);

    for _ in 0..4 {
        host.sweep();
        assert_eq!(host.reaches(client, DATA), Some(address(3)));
    }
    let flows = host.shown(3).unwrap().flows;
    assert!(flows.settled && flows.tracked == 1 && flows.oldest_ms >= Some(120_000), "{flows:?}");
    assert!(host.words().iter().all(|word| word.base() != id));
    host.restart();
    assert_eq!(host.reaches(client, DATA), Some(address(3)), "it leaves over a restart too");

    host.reaches(client, FIN);
    sweeps_until_gone(&mut host, 3);
    assert!(host.shown(3).is_none());
    assert_ne!(host.connect(client), Some(address(3)));
}

#[test]
fn an_id_rests_until_no_flow_can_name_it() {
    let (mut host, _) = host("");
    host.edit(3, REMOVE).unwrap();
    let (id, _) = host.entry(3).unwrap();
    sweeps_until_gone(&mut host, 3);
    assert_eq!(host.core.sweeper.remains.resting.keys().copied().collect::<Vec<_>>(), [id]);
    host.sweep();
    assert!(host.core.sweeper.remains.resting.is_empty());
}

#[test]
fn ids_that_flows_name_are_known_from_the_start() {
    let (mut host, [_, _, (_, client)]) = host("");
    host.edit(3, REMOVE).unwrap();
    host.reaches(client, DATA);
    let (id, _) = host.entry(3).unwrap();
    // Somebody has lost the entry: its flow is deleted by the first sweep unless it speaks at that moment.
    host.kernel.kernel().tables.backends.remove(&id);
    let flow = *host.kernel.kernel().flows.keys().next().unwrap();
    host.kernel.kernel().speaking.insert(flow);
    host.restart();
    assert!(host.core.sweeper.remains.resting.contains_key(&id));
}

#[test]
fn a_removed_backend_that_is_added_again_has_its_flows() {
    let (mut host, [_, _, (_, client)]) = host("");
    let before = host.entry(3);
    host.edit(3, REMOVE).unwrap();
    host.add(3).unwrap();
    assert_eq!((host.entry(3), host.reaches(client, DATA)), (before, Some(address(3))));
    host.edit(3, REMOVE).unwrap();
    host.restart_with(&(web(&[1, 2, 3], "") + "# changed\n"));
    assert_eq!((host.entry(3), host.reaches(client, DATA)), (before, Some(address(3))));
    host.restart_with(&web(&[1, 2], ""));
    assert_eq!(host.entry(3).map(|(_, state)| state), Some(DRAINING | REMOVED));
    assert_eq!(host.reaches(client, DATA), Some(address(3)));
}

#[test]
fn a_backend_that_is_removed_at_once_is_gone() {
    let (mut host, [_, (_, other), (_, client)]) = host("");
    let (id, _) = host.entry(3).unwrap();
    host.edit(3, END).unwrap();
    assert_eq!(host.entry(3), Some((id, GONE | DRAINING | REMOVED)));
    assert_eq!(host.packet(client, DATA), Owner::Gone);
    let flows = host.shown(3).unwrap().flows;
    assert!(flows.settled && flows.tracked == 0, "nothing is left to wait for: {flows:?}");
    assert!(host.connect(client).is_some_and(|backend| backend != address(3)));
    host.restart();
    assert_eq!(host.entry(3), Some((id, GONE | DRAINING | REMOVED)));

    // One that is leaving can be told to hurry.
    host.edit(2, REMOVE).unwrap();
    assert_eq!(host.reaches(other, DATA), Some(address(2)));
    assert!(host.edit_named("198.51.100.2", REMOVE).is_err());
    host.edit_named("198.51.100.2", END).unwrap();
    assert_eq!(host.packet(other, DATA), Owner::Gone);
}

#[test]
fn under_reroute_flows_of_one_that_is_gone_go_elsewhere_and_stay_there() {
    let (mut host, [_, _, (_, client)]) = host("on_down = \"reroute\"");
    let (id, _) = host.entry(3).unwrap();
    host.edit(3, END).unwrap();
    assert!(host.words().iter().all(|word| word.base() != id));
    let now_at = host.reaches(client, DATA);
    assert!(now_at.is_some() && now_at != Some(address(3)));
    host.add(3).unwrap();
    assert_eq!(host.reaches(client, DATA), now_at);
}

#[test]
fn a_backend_that_fails_is_held_and_then_gone() {
    let text = web(&[1, 2, 3], "").replace("health = \"none\"", "health = { interval = \"1s\", timeout = \"1s\" }");
    let mut host = Host::new(&text);
    (1..=3).for_each(|octet| host.health(octet, true));
    let client = (1..5000).find(|client| host.connect(*client) == Some(address(3))).unwrap();
    host.health(3, false);
    assert_eq!(host.entry(3).map(|(_, state)| state), Some(DOWN));
    assert_eq!(host.shown(3).map(|backend| backend.state), Some(BackendState::Held));
    host.wait(9);
    assert_eq!(host.reaches(client, DATA), Some(address(3)));
    host.wait(1);
    assert_eq!(host.entry(3).map(|(_, state)| state), Some(DOWN | GONE));
    assert_eq!(host.shown(3).map(|backend| backend.state), Some(BackendState::Down));
    assert_eq!(host.packet(client, DATA), Owner::Gone);
    host.restart();
    assert_eq!(host.entry(3).map(|(_, state)| state), Some(DOWN | GONE), "it is not held again");
    host.health(3, true);
    assert_eq!((host.entry(3).map(|(_, state)| state), host.reaches(client, SYN)), (Some(0), Some(address(3))));

    let mut at_once = Host::new(&text.replace("idle =", "hold = \"0s\"\nidle ="));
    at_once.health(3, false);
    assert_eq!(at_once.entry(3).map(|(_, state)| state), Some(DOWN | GONE));
}

#[test]
fn a_drain_ends_at_its_deadline_even_after_a_restart() {
    let (mut host, [_, _, (_, client)]) = host("");
    let deadline = host.now.wall + Duration::from_millis(29_500);
    host.edit(3, BackendEdit::Drain(Some(deadline))).unwrap();
    assert_eq!(host.reaches(client, DATA), Some(address(3)));
    host.restart();
    host.wait(29);
    assert_eq!(host.reaches(client, DATA), Some(address(3)));
    host.wait(1);
    assert_eq!(host.packet(client, DATA), Owner::Gone);
    assert_eq!(host.shown(3).map(|backend| backend.state), Some(BackendState::Draining));
    host.edit(3, BackendEdit::Undrain).unwrap();
    assert_eq!(host.entry(3).map(|(_, state)| state), Some(0));
}

#[test]
fn what_a_sweep_relies_on_ends_it_when_it_changes() {
    let (mut host, _) = host("");
    let of_three: Vec<u16> = (1..500).filter(|client| host.connect(*client) == Some(address(3))).collect();
    host.edit(3, REMOVE).unwrap();
    for client in &of_three {
        assert_eq!(host.reaches(*client, DATA), Some(address(3)));
    }
    host.wait(60);
    let job = host.begin_sweep().unwrap();
    // The sweep does not know this backend, and would take flows for orphans that come to it in the place of old ones.
    host.add(7).unwrap();
    let mut of_seven = of_three.clone();
    of_seven.retain(|client| {
        host.reaches(*client, FIN);
        host.connect(*client) == Some(address(7))
    });
    assert!(of_seven.len() > 10, "{of_seven:?}");
    let known = host.kernel.kernel().flows.len();
    host.core.end_sweep(job.run(), host.now);
    assert_eq!(host.kernel.kernel().flows.len(), known);
    for _ in 0..3 {
        assert!(of_seven.iter().all(|client| host.reaches(*client, DATA) == Some(address(7))));
        host.sweep();
    }
}

#[test]
fn slots_do_not_settle_while_old_flows_find_no_room() {
    let (mut host, [_, _, (_, client)]) = host("");
    host.room = 0;
    host.edit(3, REMOVE).unwrap();
    for _ in 0..6 {
        assert_eq!(host.reaches(client, DATA), Some(address(3)));
        host.sweep();
    }
    host.room = 1;
    host.reaches(client, DATA);
    (0..4).for_each(|_| host.sweep());
    let id = host.entry(3).unwrap().0;
    assert!(host.words().iter().all(|word| word.base() != id));
    assert_eq!(host.reaches(client, DATA), Some(address(3)));
}

#[test]
fn what_an_earlier_service_left_in_the_flow_table_moves_no_flow_of_a_new_one() {
    let (mut host, [_, _, (_, client)]) = host("");
    host.edit(3, REMOVE).unwrap();
    host.reaches(client, DATA);
    assert!(host.kernel.kernel().flows.contains_key(&FlowKey::V4(key(client))));
    host.core.edit(&Edit::RemoveService("web".into()), host.now).unwrap();
    let again = raw::Service::from(&spec(&web(&[1, 2, 4], "")).services[0]);
    host.core.edit(&Edit::AddService(again), host.now).unwrap();
    let now_at = host.connect(client);
    assert!(now_at.is_some());
    // Its slot is looked up from now on.
    (1..=9).for_each(|octet| drop(host.add(20 + octet)));
    assert_eq!(host.reaches(client, DATA), now_at);
    host.sweep();
    host.sweep();
    assert_eq!(host.reaches(client, DATA), now_at);
    assert!(host.core.sweeper.remains.resting.is_empty());
}

#[test]
fn a_new_service_is_not_filled_backend_by_backend() {
    let text = web(&[1, 2, 3], "").replace("health = \"none\"", "health = { interval = \"1s\", timeout = \"1s\" }");
    let mut host = Host::new(&text);
    host.health(1, true);
    assert_eq!(host.connect(7), None, "who else is up is about to be known");
    host.health(3, true);
    host.health(2, false);
    assert!(host.words().iter().all(|word| !word.tracked() && word.current() != 0));

    let mut slow = Host::new(&text);
    slow.health(1, true);
    slow.wait(1);
    assert_eq!(slow.connect(7), Some(address(1)), "one that is slow does not keep the service waiting");
}

#[test]
fn the_way_to_one_that_leaves_is_followed() {
    let (mut host, [_, _, (_, client)]) = host("");
    host.edit(3, REMOVE).unwrap();
    assert!(host.core.neighbours().contains(&(BACK, address(3))));
    let mut view = network(0..=250);
    view.apply(neighbour(BACK, address(3), NeighbourState::Reachable, 99));
    host.core.network(Arc::new(view), host.now);
    let hop = host.shown(3).unwrap().next_hop;
    assert!(matches!(hop, NextHop::Resolved { mac, .. } if mac.ends_with("63")));
    assert_eq!(host.reaches(client, DATA), Some(address(3)));
    host.reaches(client, FIN);
    sweeps_until_gone(&mut host, 3);
    assert!(!host.core.neighbours().contains(&(BACK, address(3))));
}

#[test]
fn replies_of_one_that_leaves_find_their_way_back_unless_another_needs_it() {
    let both = |web: &[u8], more: &[u8]| service("web", 80, "nat", web) + &service("more", 81, "nat", more);
    let mut host = Host::new(&both(&[1, 2], &[4]).replace("health =", "settle_after = \"2m\"\nhealth ="));
    assert_eq!(host_reverse(&host, 2).len(), 1);
    host.edit(2, REMOVE).unwrap();
    assert_eq!(host_reverse(&host, 2).len(), 1);
    sweeps_until_gone(&mut host, 2);
    assert!(host_reverse(&host, 2).is_empty());
}

/// [`Host::edit`], for the service at port 81.
fn add_to_more(host: &mut Host, address: &str, port: Option<u16>) -> Result<(), ControlError> {
    let port = port.map(i64::from);
    let backend =
        raw::Backend { name: None, address: address.into(), port, weight: 1, draining: false, drain_until: None };
    host.core.edit(&Edit::AddBackend("more".into(), backend), host.now).map(drop)
}

#[test]
fn the_way_back_of_one_that_leaves_is_not_given_to_another_service() {
    let text = service("web", 80, "nat", &[1, 2]) + &service("more", 81, "nat", &[4]);
    let mut host = Host::new(&text);
    let before = host_reverse(&host, 2);
    host.edit(2, REMOVE).unwrap();
    add_to_more(&mut host, "198.51.100.2", Some(8080)).expect("another port is free");
    let tables = host.tables();
    let Err(ControlError::Conflict(why)) = add_to_more(&mut host, "198.51.100.2", Some(80)) else {
        panic!("no conflict")
    };
    assert!(why.contains("`weir backend remove --now web 198.51.100.2`"), "{why}");
    assert_eq!(host.tables(), tables, "nothing was changed");
    assert!(host_reverse(&host, 2).contains(&before[0]));
    host.edit_named("198.51.100.2", END).unwrap();
    add_to_more(&mut host, "198.51.100.2", Some(80)).unwrap();
    assert!(!host_reverse(&host, 2).contains(&before[0]));
    assert_eq!(host_reverse(&host, 2).len(), 2);
    host.sweep();
    assert_eq!(host_reverse(&host, 2).len(), 2, "who has left takes nothing along");
}

#[test]
fn a_way_back_of_every_port_is_one_of_each() {
    let any = service("web", 80, "nat", &[1, 2]).replace("port = 80", "port = \"any\"");
    let mut host = Host::new(&(any + &service("more", 81, "nat", &[4])));
    host.edit(2, REMOVE).unwrap();
    assert!(matches!(add_to_more(&mut host, "198.51.100.2", None), Err(ControlError::Conflict(_))));
    let mut host = Host::new(&(service("web", 80, "nat", &[1, 2]) + &service("more", 81, "nat", &[4])));
    host.edit(2, REMOVE).unwrap();
    host.add(2).expect("its own service can have it back");
    host.edit(2, REMOVE).unwrap();
    // A file is as it is: the way back goes to who is configured.
    host.restart_with(&(service("web", 80, "nat", &[1]) + &service("more", 81, "nat", &[4, 2]) + "port = 80\n"));
    assert_eq!(host.tables().reverse.values().filter(|reverse| reverse.service == 2).count(), 2);
}

fn host_reverse(host: &Host, octet: u8) -> Vec<u32> {
    let tables = host.tables();
    tables.reverse.iter().filter(|(key, _)| key.address == address(octet)).map(|(_, reverse)| reverse.backend).collect()
}

#[test]
fn one_that_has_not_been_checked_is_not_gone_after_a_restart() {
    let health = "health = { interval = \"1s\", timeout = \"1s\" }\nhold = \"0s\"";
    let mut host = Host::new(&web(&[1, 2, 3], "").replace("health = \"none\"", health));
    (1..=3).for_each(|octet| host.health(octet, true));
    let client = (1..5000).find(|client| host.connect(*client) == Some(address(3))).unwrap();
    host.edit(3, REMOVE).unwrap();
    host.add(3).unwrap();
    assert_eq!(host.entry(3).map(|(_, state)| state), Some(DOWN));
    host.restart();
    assert_eq!((host.entry(3).map(|(_, state)| state), host.reaches(client, DATA)), (Some(DOWN), Some(address(3))));
    host.health(3, false);
    assert_eq!(host.entry(3).map(|(_, state)| state), Some(DOWN | GONE));
}
