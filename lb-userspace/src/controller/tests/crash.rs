//! Random histories: whatever changes, whenever the daemon dies, the tables become what they should be.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use lb_common::abi::{NO_BACKEND, NextHop, backend_state};
use proptest::{collection::vec, prelude::*, sample::Index};
use rtnetlink::packet_route::neighbour::NeighbourState;

use super::{
    world::{START, World, endpoint, whole},
    *,
};
use crate::{
    controller::{desired::Scope, entry},
    health::State,
    nexthop::NetworkView,
    tables::{Endpoint, Tables, fake::Kernel},
};

type Configured = (bool, bool, &'static str, BTreeSet<u8>);

/// Something that happens.
#[derive(Clone, Debug)]
enum Step {
    /// The services are these from now on: port, mode, health checks, scheduler, backends by last octet.
    Configure(BTreeMap<u16, Configured>),
    /// The backends with this octet are found to be up or down.
    Health(u8, bool),
    /// A neighbour's state becomes another.
    Neighbour(u8, NeighbourState),
}

fn step() -> impl Strategy<Value = Step> {
    let backends = prop::collection::btree_set(1u8..8, 0..5);
    let schedulers = prop::sample::select(vec!["maglev", "round-robin", "random", "least-connections"]);
    let services = prop::collection::btree_map(80u16..84, (any::<bool>(), any::<bool>(), schedulers, backends), 0..4);
    let states = prop::sample::select(vec![
        NeighbourState::Reachable,
        NeighbourState::Stale,
        NeighbourState::Incomplete,
        NeighbourState::Failed,
    ]);
    prop_oneof![
        2 => services.prop_map(Step::Configure),
        2 => (1u8..8, any::<bool>()).prop_map(|(octet, up)| Step::Health(octet, up)),
        1 => (1u8..8, states).prop_map(|(octet, state)| Step::Neighbour(octet, state)),
    ]
}

fn text(services: &BTreeMap<u16, Configured>) -> String {
    let services = services.iter().map(|(port, (nat, checks, scheduler, backends))| {
        let (name, backends) = (format!("s{port}"), backends.iter().copied().collect::<Vec<_>>());
        let text = match (nat, checks) {
            (false, true) => checked(&name, *port, &backends),
            (nat, _) => service(&name, *port, if *nat { "nat" } else { "l2" }, &backends),
        };
        text.replace("slots = 4093", &format!("slots = 503\nscheduler = \"{scheduler}\""))
    });
    services.collect()
}

/// The tables without ids: what a packet sees of them.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    /// Service → who has each slot's new flows, and who the old ones.
    slots: BTreeMap<Endpoint, Vec<[Option<IpAddr>; 2]>>,
    /// Service → its choice, and who it draws from.
    rings: BTreeMap<Endpoint, (u32, Vec<IpAddr>)>,
    /// Service → backend → mode, weight and state.
    backends: BTreeMap<Endpoint, BTreeMap<IpAddr, (u8, u32, u8)>>,
    reverse: BTreeMap<Endpoint, ([u8; 16], [u8; 2])>,
    routes: BTreeMap<IpNet, Option<[u8; 6]>>,
    markers: usize,
}

fn seen(tables: &Tables) -> Seen {
    let address = |id: u32| -> IpAddr { <[u8; 4]>::try_from(&tables.backends[&id].address[..4]).unwrap().into() };
    let owner = |id: u32| (id != NO_BACKEND).then(|| address(id));
    let services = || tables.services.iter().filter(|(key, _)| !key.is_vip_marker());
    let slots = services().map(|(key, service)| {
        let words = tables.slots[&service.first_slot].iter();
        (*key, words.map(|word| [owner(word.current()), owner(word.base())]).collect())
    });
    let rings = services().map(|(key, service)| {
        let mut ring: Vec<_> = tables.rings.get(&service.id).into_iter().flatten().map(|id| address(*id)).collect();
        ring.sort_unstable();
        (*key, (service.choice, ring))
    });
    let backends = services().map(|(key, service)| {
        let own = tables.backends.iter().filter(|(_, backend)| backend.service == service.id);
        (*key, own.map(|(id, backend)| (address(*id), (backend.mode, backend.weight, backend.state))).collect())
    });
    let hop = |hop: &NextHop| hop.is_resolved().then(|| hop.mac());
    Seen {
        slots: slots.collect(),
        rings: rings.collect(),
        backends: backends.collect(),
        reverse: tables.reverse.iter().map(|(key, reverse)| (*key, (reverse.address, reverse.port))).collect(),
        routes: tables.routes.iter().map(|(net, next_hop)| (*net, hop(next_hop))).collect(),
        markers: tables.services.keys().filter(|key| key.is_vip_marker()).count(),
    }
}

/// Wherever a packet goes, it finds what it needs, and no backend gets flows that it can't take.
fn assert_forwards(tables: &Tables, settled: bool) {
    for (key, service) in tables.services.iter().filter(|(key, _)| !key.is_vip_marker()) {
        for id in tables.slots[&service.first_slot].iter().map(|word| word.current()).filter(|id| *id != NO_BACKEND) {
            let backend = tables.backends.get(&id).unwrap_or_else(|| panic!("{key:?} names {id}, which has no entry"));
            assert_eq!(backend.service, service.id);
            if settled {
                assert!(backend.state & backend_state::DOWN == 0 && backend.next_hop.is_resolved(), "{backend:?}");
            }
            if backend.next_hop.is_resolved() {
                assert!(tables.egresses.contains_key(&backend.next_hop.egress()));
            }
        }
        let ring = tables.rings.get(&service.id).cloned().unwrap_or_default();
        assert_eq!(ring.len(), service.ring_length as usize);
        for id in ring {
            let backend = tables.backends.get(&id).unwrap_or_else(|| panic!("{key:?} draws {id}, which has no entry"));
            assert!(backend.service == service.id && (!settled || entry::takes_flows(backend)), "{backend:?}");
        }
        for base in tables.slots[&service.first_slot].iter().map(|word| word.base()).filter(|id| *id != NO_BACKEND) {
            assert_eq!(tables.backends[&base].service, service.id, "{key:?} forgot whose its old flows are");
        }
    }
}

/// The backends of services that are in both keep their ids, and services their slots.
fn assert_kept(before: &Tables, after: &Tables) {
    for (key, old) in before.services.iter().filter(|(key, _)| !key.is_vip_marker()) {
        if let Some(new) = after.services.get(key) {
            assert_eq!((old.id, old.first_slot, old.slot_count), (new.id, new.first_slot, new.slot_count));
        }
    }
    for (id, old) in &before.backends {
        if let Some(new) = after.backends.get(id) {
            assert_eq!((old.service, old.address), (new.service, new.address), "id {id} means another backend at once");
        }
    }
}

/// Takes in what happens; says which services are affected.
fn take_in(world: &mut World, view: &mut NetworkView, current: &mut String, step: &Step) -> BTreeSet<Endpoint> {
    match step {
        Step::Configure(services) => {
            *current = text(services);
            world.put(spec(current), view, START)
        }
        Step::Health(octet, up) => {
            let state = if *up { State::Up } else { State::Down };
            let known = world
                .want
                .health
                .iter_mut()
                .filter(|(key, health)| key.address == address(*octet) && health.reason != "health checks are off");
            known
                .map(|(key, health)| {
                    health.state = state;
                    key.service
                })
                .collect()
        }
        Step::Neighbour(octet, state) => {
            view.apply(neighbour(BACK, address(*octet), *state, *octet));
            whole(&world.want.follow(&world.mirror, view, 4096).unwrap_or_default())
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Each step is reconciled by looking at what it affects. Before it is done, the daemon dies after some of the
    /// writes, and another one starts over what is left.
    #[test]
    fn any_history_leads_to_what_is_wanted(steps in vec((step(), any::<Index>(), any::<bool>()), 1..12)) {
        let mut view = network(0..=100);
        let mut current = String::new();
        let mut world = World::on(Kernel::default(), spec(""), &view);
        for (step, died_after, dies) in steps {
            let before = world.tables().clone();
            let affected = take_in(&mut world, &mut view, &mut current, &step);
            let plan = world.plan(Scope::Services(&affected)).unwrap();
            if dies {
                let mut left = Kernel { tables: world.kernel.tables.clone(), slots: world.kernel.slots.clone(), rings: world.kernel.rings.clone(), ..Kernel::default() };
                for write in &plan.writes[..died_after.index(plan.writes.len() + 1)] {
                    left.write(write);
                    assert_forwards(&left.read(), false);
                }
                let health = world.want.health.clone();
                let mut heir = World::on(left, spec(&current), &view);
                assert_kept(&before, heir.tables());
                // The heir finds out in time what its predecessor knew.
                heir.want.health = health;
                heir.reconcile(Scope::Everything);
                world.reconcile(Scope::Services(&affected));
                prop_assert_eq!(seen(heir.tables()), seen(world.tables()));
                world = heir;
            } else {
                world.reconcile_checked(&affected);
                assert_kept(&before, world.tables());
            }
            assert_forwards(world.tables(), true);
            prop_assert_eq!(world.plan(Scope::Everything).unwrap().writes, vec![]);
        }
    }
}

#[test]
fn the_oracle_sees_a_slot_that_is_wrong() {
    let mut world = World::new(&service("web", 80, "l2", &[1, 2]));
    let right = seen(world.tables());
    world.kernel.slots.insert(world.service(80).first_slot, lb_common::abi::SlotWord::steady(NO_BACKEND));
    assert_ne!(seen(&world.kernel.read()), right);
    assert_eq!(right.backends[&endpoint(80)].len(), 2);
}
