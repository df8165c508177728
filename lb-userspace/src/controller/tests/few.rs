//! Looking at a few backends is as good as looking at their services whole.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};
use rtnetlink::packet_route::neighbour::NeighbourState;

use super::{
    world::{START, World, endpoint, whole},
    *,
};
use crate::{
    controller::{
        affected::Affected,
        desired::{BackendKey, Plan, Scope, plan},
        fills::Fills,
        mirror::Mirror,
    },
    health::{Health, State},
    tables::Write,
};

/// What tells the services apart, each at its own port from 80. The first four have the same backends at the start.
const SERVICES: [(&str, &str); 8] = [
    ("l2", ""),
    ("l2", ""),
    ("nat", "hold = \"0s\"\n"),
    ("l2", "slow_start = \"20s\"\n"),
    ("l2", "on_down = \"reroute\"\nhold = \"0s\"\n"),
    ("l2", "on_down = \"reroute\"\nhold = \"5s\"\n"),
    ("l2", "scheduler = \"weighted-round-robin\"\n"),
    ("l2", "scheduler = \"response-time\"\n"),
];
/// Last octets of backends.
const OCTETS: std::ops::Range<u8> = 1..7;

/// Something that happens.
#[derive(Clone, Debug)]
enum Step {
    /// Checks find backends with this octet otherwise, in the services of these bits.
    Health(u8, u8, State),
    /// The neighbour with this octet.
    Neighbour(u8, NeighbourState),
    /// The device of all backends changes.
    Mtu(u32),
    /// The backend of a service gets this weight; 4 drains it, 5 removes it.
    Configure(usize, u8, u16),
    Wait(u64),
    /// Flows end: slots become steady, and backends leave that nobody needs.
    Settle,
}

fn step() -> impl Strategy<Value = Step> {
    let states = prop::sample::select(vec![State::Up, State::Up, State::Down, State::Unknown]);
    let known = [NeighbourState::Reachable, NeighbourState::Failed, NeighbourState::Incomplete];
    prop_oneof![
        6 => (OCTETS, any::<u8>(), states.clone()).prop_map(|(octet, bits, state)| Step::Health(octet, bits, state)),
        4 => (OCTETS, states).prop_map(|(octet, state)| Step::Health(octet, u8::MAX, state)),
        4 => (OCTETS, prop::sample::select(known.to_vec())).prop_map(|(octet, state)| Step::Neighbour(octet, state)),
        1 => (1400u32..1403).prop_map(Step::Mtu),
        4 => (0..SERVICES.len(), OCTETS, 0u16..=5).prop_map(|(at, octet, how)| Step::Configure(at, octet, how)),
        2 => (1u64..12).prop_map(Step::Wait),
        2 => Just(Step::Settle),
    ]
}

struct History {
    world: World,
    view: NetworkView,
    monotonic: Duration,
    /// What each step has made of each service's backends.
    config: Vec<BTreeMap<u8, u16>>,
    /// How often a few backends were enough.
    few: usize,
}

impl History {
    fn new() -> Self {
        let common = |_| OCTETS.map(|octet| (octet, 1)).collect();
        let mut config: Vec<BTreeMap<_, _>> = (0..SERVICES.len()).map(common).collect();
        config[5].remove(&1);
        let mut world = World::new(&text(&config));
        world.want.health.values_mut().for_each(|health| *health = Health::adopted(true, START));
        let all = (80..).take(SERVICES.len()).map(endpoint).collect();
        world.want.weigh(&mut world.weights, &all, Duration::from_secs(1));
        world.reconcile_checked(&all);
        Self { world, view: network(0..=100), monotonic: Duration::from_secs(1), config, few: 0 }
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Health(octet, bits, state) => {
                let mut affected = Affected::default();
                for at in (0..8u16).filter(|at| bits & 1 << at != 0) {
                    let port = own_port(SERVICES[usize::from(at)].0);
                    let backend = BackendKey { service: endpoint(80 + at), address: address(octet), port };
                    if let Some(health) = self.world.want.health.get_mut(&backend) {
                        *health = Health { state, ..Health::unknown(self.world.now) };
                        affected.backends.insert(backend);
                    }
                }
                self.look_at(affected);
            }
            Step::Neighbour(octet, state) => {
                self.view.apply(neighbour(BACK, address(octet), state, octet));
                self.follow();
            }
            Step::Mtu(mtu) => {
                let back = link(BACK, "back");
                let Event::Link(back) = back else { unreachable!("a link") };
                self.view.apply(Event::Link(Link { mtu, ..back }));
                self.follow();
            }
            Step::Configure(at, octet, how) => {
                let backends = &mut self.config[at];
                if how < 5 {
                    backends.insert(octet, how);
                } else if backends.len() > 1 {
                    backends.remove(&octet);
                }
                let services = self.world.put(spec(&text(&self.config)), &self.view, self.world.now);
                self.look_at(Affected::services(services));
            }
            Step::Wait(seconds) => {
                self.world.now += Duration::from_secs(seconds);
                self.monotonic += Duration::from_secs(seconds);
                self.world.weights.tick(&self.world.want.services(), self.monotonic);
                self.look_at(Affected::services((80..).take(SERVICES.len()).map(endpoint).collect()));
            }
            Step::Settle => {
                (80..).take(SERVICES.len()).for_each(|port| self.settle(port));
                let mirror = &self.world.mirror;
                let left = mirror.services().flat_map(|(key, entry)| {
                    let named = mirror.named_by(entry.id);
                    mirror.leaving(key).map(|(id, _)| id).filter(|id| !named.contains(id)).collect::<Vec<_>>()
                });
                self.world.remains.released = left.collect();
                self.look_at(Affected::services((80..).take(SERVICES.len()).map(endpoint).collect()));
                self.world.remains.released.clear();
                let capacity = self.world.capacity.routes;
                self.world.want.look_up_all(&self.world.mirror, &self.view, capacity);
            }
        }
    }

    fn settle(&mut self, port: u16) {
        if !self.world.service(port).tracks_every_flow() {
            self.world.settle(port);
        }
    }

    fn follow(&mut self) {
        let capacity = self.world.capacity.routes;
        if let Some(affected) = self.world.want.follow(&self.world.mirror, &self.view, capacity) {
            self.look_at(affected);
        }
    }

    /// Does what is to be done for what is `affected`, and sees that it is what looking at whole services does, and that
    /// looking at everything finds nothing that is left.
    fn look_at(&mut self, mut affected: Affected) {
        let world = &mut self.world;
        let services = whole(&affected);
        let mut weights = world.weights.clone();
        world.want.weigh(&mut weights, &services, self.monotonic);
        world.want.weigh_affected(&mut world.weights, &mut affected, self.monotonic);
        assert_eq!(format!("{:?}", world.weights), format!("{weights:?}"));

        let in_full = {
            let (fills, capacity) = (Fills::default(), &world.capacity);
            let inputs = world.want.inputs(capacity, [1, 2], &weights, &world.remains, &fills, world.now);
            plan(&world.mirror, &inputs, Scope::Services(&services)).unwrap()
        };
        let plan = world.reconcile(Scope::Affected(&affected));
        assert_eq!(sorted(&plan), sorted(&in_full));
        assert_eq!((&plan.moved, plan.held_back), (&in_full.moved, in_full.held_back));
        for (key, due) in &plan.due {
            assert!(in_full.due[key] <= *due, "a few backends of a service are due before all of them");
        }
        assert_eq!(world.plan(Scope::Everything).unwrap().writes, [], "something else should have changed");
        // What the mirror keeps beside the tables is what it would have found in them.
        let read = Mirror::new(world.tables().clone());
        for (key, service) in world.mirror.services() {
            assert_eq!(world.mirror.takers(service.id), read.takers(service.id), "{key:?}");
            assert_eq!(world.mirror.owner(service.first_slot), Some(service.id));
        }
        for octet in OCTETS {
            let at = |mirror: &Mirror| mirror.backends_at(address(octet)).collect::<Vec<_>>();
            assert_eq!(at(&world.mirror), at(&read));
        }
        self.few += plan.looked_at.by_service().count();
    }
}

/// The writes, in an order that does not depend on how they were found.
fn sorted(plan: &Plan) -> Vec<String> {
    let writes = plan.writes.iter().map(|write| match write {
        Write::Slots { first, words } => format!("slots of {first}: {words:?}"),
        other => other.to_string(),
    });
    let mut writes: Vec<_> = writes.collect();
    writes.sort();
    writes
}

fn own_port(mode: &str) -> u16 {
    if mode == "nat" { 8080 } else { 0 }
}

fn text(config: &[BTreeMap<u8, u16>]) -> String {
    let services = (80..).zip(SERVICES).zip(config).map(|((port, (mode, fields)), backends)| {
        let own_port = match own_port(mode) {
            0 => String::new(),
            port => format!("port = {port}\n"),
        };
        let backends = backends.iter().map(|(octet, weight)| {
            let weight = if *weight == 4 { "draining = true".to_owned() } else { format!("weight = {weight}") };
            format!("[[service.backend]]\nname = \"b{octet}\"\naddress = \"198.51.100.{octet}\"\n{own_port}{weight}\n")
        });
        let head = checked(&format!("s{port}"), port, &[]).replace("\"l2\"", &format!("\"{mode}\""));
        head.replace("slots = 4093\n", &format!("slots = 2003\n{fields}")) + &backends.collect::<String>()
    });
    services.collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_few_backends_come_to_what_their_whole_services_do(steps in vec(step(), 1..50)) {
        let mut history = History::new();
        for step in &steps {
            history.take(step);
        }
    }
}

#[test]
fn most_deaths_need_no_whole_service() {
    let mut history = History::new();
    history.take(&Step::Health(3, u8::MAX, State::Down));
    // Those that draw from a ring, have paces, or reroute from who is gone at once are looked at whole.
    assert_eq!(history.few, 5);
    history.take(&Step::Neighbour(4, NeighbourState::Failed));
    assert_eq!(history.few, 10);
}

#[test]
fn a_service_that_waits_is_filled_once_nobody_is_unknown() {
    let mut world = World::new(&checked("web", 80, &[1, 2]));
    let mut found = |octet, state| {
        let backend = BackendKey { service: endpoint(80), address: address(octet), port: 0 };
        let health = world.want.health.get_mut(&backend).unwrap();
        *health = Health { state, ..Health::unknown(world.now) };
        world.reconcile_affected(&Affected { backends: [backend].into(), ..Affected::default() });
        world.spread(80).into_keys().collect::<Vec<_>>()
    };
    assert_eq!(found(1, State::Up), [0], "the other one may be up in a moment");
    assert_eq!(found(2, State::Down), [1]);
}
