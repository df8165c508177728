//! The whole controller, over a data plane in memory, a scripted network and scripted backends.

use std::{collections::BTreeMap, fs};

use lb_common::abi::NO_BACKEND;
use rtnetlink::packet_route::neighbour::NeighbourState;
use tempfile::TempDir;
use tokio::time;

use super::*;
use crate::{
    api::{
        control::{Control, ControlError},
        types::{BackendState, NextHop},
    },
    config::raw,
    controller::{Controller, Handle},
    spec::XdpMode,
    tables::{Counters, Endpoint, Tables, Write, fake::FakeDataplane},
};

/// A daemon and everything around it.
struct Daemon {
    directory: TempDir,
    services: String,
    kernel: FakeDataplane,
    network: Arc<FakeNetwork>,
    probe: FakeProbe,
    controller: Controller,
}

impl Daemon {
    fn new(services: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (kernel, network) = (FakeDataplane::default(), FakeNetwork::new(network(0..=250)));
        let probe = FakeProbe::default();
        let controller = run(&directory, services, &kernel, &network, &probe);
        Self { directory, services: services.to_owned(), kernel, network, probe, controller }
    }

    /// Dies without a word, and another one starts.
    async fn restart(mut self) -> Self {
        self.controller = run(&self.directory, &self.services, &self.kernel, &self.network, &self.probe);
        time::sleep(Duration::from_millis(1)).await;
        self
    }

    fn handle(&self) -> Handle {
        self.controller.handle()
    }

    fn tables(&self) -> Tables {
        self.kernel.kernel().read()
    }

    fn writes(&self) -> usize {
        self.kernel.kernel().log.len()
    }

    /// Slots by last octet of who has them, of the service at `port`.
    fn spread(&self, port: u16) -> BTreeMap<u8, usize> {
        let tables = self.tables();
        let key = Endpoint { address: [192, 0, 2, 1].into(), port, protocol: 6 };
        let mut spread = BTreeMap::new();
        for word in &tables.slots[&tables.services[&key].first_slot] {
            let id = word.current();
            let octet = if id == NO_BACKEND { 0 } else { tables.backends[&id].address[3] };
            *spread.entry(octet).or_default() += 1;
        }
        spread
    }

    fn takers(&self, port: u16) -> Vec<u8> {
        self.spread(port).into_keys().collect()
    }

    async fn standing(&self, service: &str, octet: u8) -> (BackendState, String) {
        let service = self.handle().service(service).await.unwrap();
        let backend = service.backends.into_iter().find(|backend| backend.address == address(octet)).unwrap();
        (backend.state, backend.reason)
    }
}

fn run(
    directory: &TempDir,
    services: &str,
    kernel: &FakeDataplane,
    network: &Arc<FakeNetwork>,
    probe: &FakeProbe,
) -> Controller {
    let start = start_from(directory.path(), services).unwrap();
    let network = Arc::<FakeNetwork>::clone(network);
    Controller::start(start, Box::new(kernel.clone()), network, Arc::new(probe.clone())).unwrap()
}

async fn seconds(seconds: u64) {
    time::sleep(Duration::from_millis(seconds * 1000 + 500)).await;
}

#[tokio::test(start_paused = true)]
async fn backends_take_flows_while_they_answer() {
    let daemon = Daemon::new(&checked("web", 80, &[1, 2, 3]));
    assert_eq!(daemon.takers(80), [0]);
    time::sleep(Duration::from_millis(10)).await;
    assert_eq!(daemon.takers(80), [1, 2, 3]);
    daemon.probe.refuse([2]);
    seconds(1).await;
    assert_eq!(daemon.takers(80), [1, 2, 3], "one failure is not enough");
    seconds(3).await;
    assert_eq!(daemon.takers(80), [1, 3]);
    assert_eq!(daemon.standing("web", 2).await, (BackendState::Held, "connection refused".to_owned()));
    daemon.probe.answer(2);
    seconds(3).await;
    assert_eq!(daemon.takers(80), [1, 2, 3]);
    assert_eq!(daemon.standing("web", 2).await.0, BackendState::Up);
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_results_is_one_change() {
    let backends: Vec<u8> = (1..=40).collect();
    let daemon = Daemon::new(&checked("web", 80, &backends));
    time::sleep(Duration::from_millis(10)).await;
    let fills = daemon.kernel.kernel().log.iter().filter(|write| matches!(write, Write::Slots { .. })).count();
    // One from the start, when nobody had answered.
    assert!(fills <= 3, "{fills} fills");
    assert_eq!(daemon.takers(80), backends);
}

#[tokio::test(start_paused = true)]
async fn a_restart_changes_nothing_and_knows_what_was_known() {
    let daemon = Daemon::new(&(checked("web", 80, &[1, 2, 3]) + &service("nat", 81, "nat", &[4])));
    daemon.probe.refuse([3]);
    seconds(5).await;
    let (tables, writes) = (daemon.tables(), daemon.writes());
    let daemon = daemon.restart().await;
    assert_eq!(daemon.tables(), tables);
    assert_eq!(daemon.writes(), writes);
    assert_eq!(daemon.standing("web", 3).await.0, BackendState::Held);
    seconds(5).await;
    assert_eq!(daemon.writes(), writes);
}

#[tokio::test(start_paused = true)]
async fn commands_are_in_the_kernel_when_they_answer_and_outlive_the_daemon() {
    let daemon = Daemon::new(&service("web", 80, "l2", &[1, 2, 3, 4]));
    let before = daemon.spread(80);
    let change = daemon.handle().drain("web", "b2", None).await.unwrap();
    assert_eq!(daemon.takers(80), [1, 3, 4]);
    assert!(usize::try_from(change.slots_moved).unwrap() >= before[&2], "{change:?}");
    assert_eq!((change.slots, change.backends_taking, change.backends), (4093, 3, 4));
    assert_eq!(daemon.handle().drain("web", "b2", None).await.unwrap().slots_moved, 0);
    assert_eq!(daemon.standing("web", 2).await.0, BackendState::Draining);

    daemon.handle().set_weight("web", "b1", 8).await.unwrap();
    assert!(daemon.spread(80)[&1].abs_diff(4093 * 8 / 10) < 80);
    let added = raw::Backend {
        name: Some("new".into()),
        address: "198.51.100.9".into(),
        port: None,
        weight: 1,
        draining: false,
        drain_until: None,
    };
    daemon.handle().add_backend("web", added).await.unwrap();
    daemon.handle().remove_backend("web", "b3", false).await.unwrap();
    assert_eq!(daemon.takers(80), [1, 4, 9]);

    let (tables, writes) = (daemon.tables(), daemon.writes());
    let daemon = daemon.restart().await;
    assert_eq!((daemon.tables(), daemon.writes()), (tables, writes));
    let names = daemon.handle().service("web").await.unwrap().backends.into_iter().map(|backend| backend.name);
    assert_eq!(names.collect::<Vec<_>>(), ["b1", "b2", "b4", "new", "198.51.100.3"]);
}

#[tokio::test(start_paused = true)]
async fn services_come_and_go() {
    let daemon = Daemon::new(&service("web", 80, "l2", &[1, 2]));
    let more = raw::Service::from(&spec(&checked("more", 81, &[5])).services[0]);
    let change = daemon.handle().add_service(more).await.unwrap();
    assert_eq!(change.warnings.len(), 2, "nobody takes flows before the first check: {change:?}");
    time::sleep(Duration::from_millis(10)).await;
    assert_eq!(daemon.takers(81), [5]);
    let change = daemon.handle().remove_service("web").await.unwrap();
    assert_eq!((change.slots, change.backends), (0, 0));
    let tables = daemon.tables();
    assert_eq!((tables.services.len(), tables.backends.len()), (2, 1));
    daemon.handle().remove_service("more").await.unwrap();
    assert_eq!(daemon.tables(), Tables { egresses: tables.egresses, ..Tables::default() });
}

#[tokio::test(start_paused = true)]
async fn a_command_that_fails_changes_nothing() {
    let daemon = Daemon::new(&service("web", 80, "l2", &[1, 2, 3]));
    daemon.handle().drain("web", "b3", None).await.unwrap();
    let state = daemon.directory.path().join("state/journal");
    let (tables, saved) = (daemon.tables(), fs::read(&state).unwrap());
    let services = daemon.handle().services().await.unwrap();
    let invalid = daemon.handle().set_weight("web", "b1", 1001).await;
    assert!(matches!(invalid, Err(ControlError::Invalid(_))), "{invalid:?}");
    let writes_of_a_removal = 2;
    for fails_after in 0..writes_of_a_removal {
        daemon.kernel.kernel().fail_after = Some(fails_after);
        let failed = daemon.handle().remove_backend("web", "b1", false).await;
        assert_eq!(failed, Err(ControlError::Dataplane("the map is out of order".to_owned())), "{fails_after}");
        assert_eq!(daemon.tables(), tables);
        assert_eq!(fs::read(&state).unwrap(), saved);
        assert_eq!(daemon.handle().services().await.unwrap(), services);
    }
    daemon.handle().remove_backend("web", "b1", false).await.unwrap();
    assert_eq!(daemon.takers(80), [2]);
}

#[tokio::test(start_paused = true)]
async fn a_change_that_can_not_be_saved_is_not_made() {
    let daemon = Daemon::new(&service("web", 80, "l2", &[1, 2]));
    fs::write(daemon.directory.path().join("state"), "in the way").unwrap();
    let tables = daemon.tables();
    let failed = daemon.handle().drain("web", "b1", None).await.unwrap_err().to_string();
    assert!(failed.contains("can't save the change in"), "{failed}");
    assert_eq!(daemon.tables(), tables);
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_written_is_written_later() {
    let daemon = Daemon::new(&checked("web", 80, &[1, 2]));
    time::sleep(Duration::from_millis(10)).await;
    daemon.probe.refuse([2]);
    daemon.kernel.kernel().fail_after = Some(0);
    seconds(6).await;
    assert_eq!(daemon.takers(80), [1]);
}

#[tokio::test(start_paused = true)]
async fn the_network_is_followed() {
    let daemon = Daemon::new(&service("web", 80, "l2", &[1, 2]));
    time::sleep(Duration::from_millis(1)).await;
    assert_eq!(*daemon.network.fresh.lock().unwrap(), [(BACK, address(1)), (BACK, address(2))].into());
    daemon.network.apply(neighbour(BACK, address(1), NeighbourState::Failed, 1));
    time::sleep(Duration::from_millis(1)).await;
    assert_eq!(daemon.takers(80), [2]);
    let why = "no answer from neighbour 198.51.100.1 on back".to_owned();
    assert_eq!(daemon.standing("web", 1).await, (BackendState::Down, why.clone()));
    let service = daemon.handle().service("web").await.unwrap();
    assert_eq!(service.backends[0].next_hop, NextHop::Unresolved { why });
    let (mac, interface) = ("06:00:00:00:00:02".to_owned(), "back".to_owned());
    assert_eq!(service.backends[1].next_hop, NextHop::Resolved { mac, interface, gateway: None });
}

#[tokio::test(start_paused = true)]
async fn an_interface_that_goes_is_told_of_and_attached_to_when_it_is_back() {
    let daemon = Daemon::new(&service("web", 80, "l2", &[1, 2]));
    let interface = async || {
        let interface = daemon.handle().status().await.unwrap().interfaces.remove(0);
        (interface.xdp, interface.why)
    };
    time::sleep(Duration::from_millis(1)).await;
    let why = "interface fake0 does not exist".to_owned();
    daemon.kernel.kernel().obstacle = Some(why.clone());
    daemon.network.apply(Event::LinkGone(7));
    time::sleep(Duration::from_millis(1)).await;
    assert_eq!(interface().await, (None, why.clone()), "a change of the network is looked at at once");
    daemon.kernel.kernel().obstacle = None;
    assert_eq!(interface().await, (None, why));
    seconds(1).await;
    assert_eq!(interface().await, (Some(XdpMode::Native), "as configured".to_owned()), "and without one soon");
}

#[tokio::test(start_paused = true)]
async fn clients_that_replies_wait_for_are_looked_for() {
    let daemon = Daemon::new(&service("nat", 80, "nat", &[1]));
    daemon.kernel.kernel().wanted = vec![[203, 0, 113, 50].into(), address(1), [8, 8, 8, 8].into()];
    time::sleep(Duration::from_millis(250)).await;
    assert_eq!(*daemon.network.solicited.lock().unwrap(), [([203, 0, 113, 50].into(), FRONT)]);
    daemon.network.apply(neighbour(FRONT, [203, 0, 113, 50].into(), NeighbourState::Reachable, 50));
    time::sleep(Duration::from_millis(1)).await;
    let route = daemon.tables().routes[&"203.0.113.50/32".parse().unwrap()];
    assert_eq!(route.mac(), [6, 0, 0, 0, 0, 50]);
}

#[tokio::test(start_paused = true)]
async fn it_tells_what_it_does() {
    let daemon = Daemon::new(&(service("web", 80, "l2", &[1, 2]) + &checked("more", 81, &[3])));
    let traffic = lb_common::abi::Traffic { packets: 7, ..Default::default() };
    let reasons = vec![1, 2, 3];
    daemon.kernel.kernel().counters = Counters {
        services: [(1, traffic)].into(),
        backends: [(2, traffic)].into(),
        reasons,
        flow_events: vec![9, 5],
        ..Counters::default()
    };
    let status = daemon.handle().status().await.unwrap();
    assert_eq!((status.services, status.backends.total, status.backends.up, status.backends.unknown), (2, 3, 2, 1));
    let slots = status.tables.iter().find(|table| table.name == "slots").unwrap();
    assert_eq!((slots.used, slots.capacity), (2 * 4093, 200_000));
    let web = daemon.handle().service("web").await.unwrap();
    assert_eq!((web.traffic.packets, web.backends[0].traffic.packets, web.backends[1].traffic.packets), (7, 0, 7));
    assert_eq!(web.backends[0].slots + web.backends[1].slots, web.slots);
    let counted = daemon.handle().stats().await.unwrap();
    assert_eq!((counted.services[0].traffic.packets, counted.services[1].traffic.packets), (7, 0));
    assert_eq!((counted.reasons[2].packets, counted.reasons[3].packets), (3, 0));
    let events: Vec<_> = counted.flow_events.iter().map(|event| (event.name.as_str(), event.count)).collect();
    assert_eq!(events, [("looked-up", 9), ("opened", 5), ("learnt", 0), ("not-opened", 0), ("not-learnt", 0)]);
    assert_eq!(daemon.handle().service("wob").await, Err(ControlError::no_service("wob")));
}

#[tokio::test(start_paused = true)]
async fn it_ends_as_configured() {
    let mut daemon = Daemon::new(&service("web", 80, "l2", &[1]));
    daemon.handle().stop().await.unwrap();
    daemon.controller.ended().await.unwrap();
    assert!(!daemon.kernel.kernel().detached);
    assert!(matches!(daemon.handle().status().await, Err(ControlError::Dataplane(_))));

    let mut daemon = daemon.restart().await;
    assert_eq!(daemon.handle().detach().await.unwrap().interfaces, ["fake0"]);
    daemon.controller.ended().await.unwrap();
    assert!(daemon.kernel.kernel().detached);
}
