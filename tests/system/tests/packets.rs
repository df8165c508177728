//! The packet path in the kernel (`BPF_PROG_TEST_RUN`): it has to do what the oracle says, and byte for byte what the
//! host build does.

mod tables;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use aya::test_helpers::NetNsGuard;
use ipnet::{IpNet, Ipv4Net};
use lb_common::{
    abi::{HandshakeTimes, NextHop, Settings, Traffic},
    reason::Reason,
    tracking::FlowEvent,
};
use weir::{
    dataplane::Kernel,
    object::OBJECT,
    spec::TableSizes,
    tables::{Capacity, Counters, Dataplane as _, diff},
};
use weir_packets::{
    fixtures::{self, world::world},
    host::Host,
    oracle::{self, Action, Count, Fate, Outcome},
    random,
    tables::Tables,
    world::World,
};

use self::tables::{capacity, endpoints, writes};

/// The kernel runs programs over nothing shorter than an Ethernet header.
const SHORTEST: usize = 14;
const GARBAGE: usize = 12_000;

#[test]
fn every_fixture_comes_out_of_the_kernel_as_the_oracle_says() -> Result<()> {
    let mut rig = Rig::new()?;
    let mut wanted = BTreeSet::new();
    for fixture in fixtures::all().iter().filter(|fixture| fixture.frame.len() >= SHORTEST) {
        let before = rig.counters()?.reasons;
        let fate = rig.run(&fixture.frame).with_context(|| fixture.to_string())?;
        assert_eq!((fate.action, fate.reason), (fixture.action, fixture.reason), "{fixture}");
        assert_eq!(counted(&before, &rig.counters()?.reasons), [fixture.reason], "{fixture}");
        wanted.extend(rig.kernel.wanted_neighbours()?.into_iter().map(|address| (address, fixture.reason)));
    }
    let unresolved = fixtures::Family::BOTH.map(|family| {
        let address = family.client_address(fixtures::world::CLIENTS_UNRESOLVED, 9);
        (address.parse::<IpAddr>().unwrap(), Reason::ClientUnresolved)
    });
    assert_eq!(wanted, BTreeSet::from(unresolved));
    assert_eq!(rig.counters()?, rig.expected);
    Ok(())
}

#[test]
fn garbage_comes_out_of_the_kernel_as_the_oracle_says() -> Result<()> {
    let mut rig = Rig::new()?;
    let valid = fixtures::all().into_iter().map(|fixture| fixture.frame).collect();
    for frame in random::frames(20_260_101, valid).filter(|frame| frame.len() >= SHORTEST).take(GARBAGE) {
        rig.run(&frame)?;
    }
    assert_eq!(rig.counters()?, rig.expected);
    Ok(())
}

#[test]
fn the_tables_that_the_kernel_holds_are_those_that_were_written() -> Result<()> {
    let rig = Rig::new()?;
    let tables = Tables::from(&rig.world);
    let held = rig.kernel.read()?;
    assert_eq!(held.backends, tables.backends);
    assert_eq!(held.egresses, tables.egresses);
    assert_eq!(held.services, endpoints(&tables.services_v4, &tables.services_v6).collect());
    assert_eq!(held.reverse, endpoints(&tables.reverse_v4, &tables.reverse_v6).collect());
    assert_eq!(held.slots.into_values().flatten().collect::<Vec<_>>(), tables.slots);
    Ok(())
}

#[test]
fn all_routes_of_a_full_table_can_be_replaced() -> Result<()> {
    let sizes = TableSizes { services: 1, backends: 1, slots: 101, routes: 4, flows: 4 };
    let mut kernel = Kernel::open_unpinned(OBJECT, Settings::default(), &Capacity::of(&sizes))?;
    let with_routes = |second: u8| {
        let net = |n| IpNet::from(Ipv4Net::new_assert([10, second, n, 0].into(), 24));
        let routes = (0..4).map(|n| (net(n), NextHop::LOCAL)).collect();
        weir::tables::Tables { routes, ..Default::default() }
    };
    let (nothing, old, new) = (weir::tables::Tables::default(), with_routes(1), with_routes(2));
    kernel.write(&diff(&nothing, &old))?;
    kernel.write(&diff(&old, &new))?;
    assert_eq!(kernel.read()?, new);
    Ok(())
}

#[test]
fn a_device_that_went_away_leaves_no_egress() -> Result<()> {
    let rig = Rig::new()?;
    assert!(!rig.kernel.read()?.egresses.is_empty());
    ip(&["link", "del", "in0"])?;
    assert_eq!(rig.kernel.read()?.egresses, BTreeMap::new(), "the device map has emptied itself");
    Ok(())
}

/// The balancer's program, loaded and configured with the fixtures' world in a network namespace of its own.
struct Rig {
    kernel: Kernel,
    host: Host,
    world: World,
    ingress: u32,
    /// What the counters have to be.
    expected: Counters,
    // Last: the devices that the maps name are in there.
    _namespace: NetNsGuard,
}

impl Rig {
    fn new() -> Result<Self> {
        let namespace = NetNsGuard::new()?;
        ip(&["link", "add", "in0", "type", "veth", "peer", "name", "other0"])?;
        let (ingress, other) = (index_of("in0")?, index_of("other0")?);
        let world = world(ingress, other);
        let tables = Tables::from(&world);
        let mut kernel = Kernel::open_unpinned(OBJECT, tables.settings, &capacity(&tables, 1)?)?;
        kernel.write(&writes(&tables))?;
        let expected = Counters {
            services: world.services().map(|(id, _)| (id, Traffic::default())).collect(),
            backends: (0..tables.backend_entries()).map(|id| (id, Traffic::default())).collect(),
            reasons: vec![0; Reason::ALL.len()],
            flow_events: vec![0; FlowEvent::ALL.len()],
            live_flows: (0..tables.backend_entries()).map(|id| (id, 0)).collect(),
            handshakes: (0..tables.backend_entries()).map(|id| (id, HandshakeTimes::default())).collect(),
        };
        Ok(Self { kernel, host: Host::new(&world), world, ingress, expected, _namespace: namespace })
    }

    /// Runs the program over `frame`, compares what comes out, and notes what has to be counted.
    fn run(&mut self, frame: &[u8]) -> Result<Fate> {
        let (action, after) = self.kernel.test_run(frame, self.ingress)?;
        let action = match action {
            1 => Action::Drop,
            2 => Action::Pass,
            3 => Action::Transmit,
            4 => Action::Redirect,
            other => anyhow::bail!("XDP action {other}"),
        };
        let outcome = Outcome { action, egress: None, reason: None, frame: after };
        let fate = oracle::judge(&self.world, self.ingress, frame, &outcome).map_err(anyhow::Error::msg)?;
        let host = self.host.run(self.ingress, frame).outcome;
        if action != Action::Drop {
            ensure!(host.frame == outcome.frame, "the host build makes {:02x?} of {frame:02x?}", host.frame);
        }
        for event in self.host.memory().events.drain(..) {
            self.expected.flow_events[event as usize] += 1;
        }
        self.expect(&fate);
        Ok(fate)
    }

    fn expect(&mut self, fate: &Fate) {
        self.expected.reasons[fate.reason as usize] += 1;
        if let Some(Count { service, backend, traffic }) = fate.count {
            *self.expected.services.entry(service).or_default() += traffic;
            *self.expected.backends.entry(backend).or_default() += traffic;
        }
    }

    fn counters(&self) -> Result<Counters> {
        let ids = |counters: &BTreeMap<u32, Traffic>| counters.keys().copied().collect::<Vec<_>>();
        self.kernel.counters(&ids(&self.expected.services), &ids(&self.expected.backends))
    }
}

/// The reasons that were counted between two readings.
fn counted(before: &[u64], after: &[u64]) -> Vec<Reason> {
    let changed = |reason: &&Reason| before[**reason as usize] != after[**reason as usize];
    Reason::ALL.iter().filter(changed).copied().collect()
}

fn index_of(device: &str) -> Result<u32> {
    let links: serde_json::Value = serde_json::from_slice(&ip(&["-json", "link", "show", "dev", device])?)?;
    let index = links[0]["ifindex"].as_u64().with_context(|| format!("{device} has no index"))?;
    Ok(u32::try_from(index)?)
}

/// Runs `ip` in this thread's network namespace.
fn ip(arguments: &[&str]) -> Result<Vec<u8>> {
    let output = Command::new("ip").args(arguments).output().context("cannot run ip")?;
    ensure!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}
