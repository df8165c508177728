//! What the controller's tests share, and those that need more than one of its modules.

mod actor;
mod crash;
mod edit;
mod few;
mod host;
mod leaving;
mod model;
mod plan;
mod saved;
mod scale;
mod settling;
mod steering;
mod world;

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use rtnetlink::packet_route::neighbour::NeighbourState;
use tokio::sync::watch;

use super::{Network, Start};
use crate::{
    config,
    health::{CheckError, Probe},
    nexthop::{
        NetworkView,
        view::{Event, Hop, Link, Neighbour, Route, Table, Target},
    },
    spec::Spec,
};

/// The interface that backends 198.51.100.0/24 are on.
pub const BACK: u32 = 2;
/// The interface that clients are behind a router on.
pub const FRONT: u32 = 3;

/// A configuration of `services`, in TOML.
pub fn spec(services: &str) -> Spec {
    config::parse(&file(Path::new("/nonexistent"), services), "test").unwrap_or_else(|error| panic!("{error}"))
}

/// The text of a configuration file whose state directory is `state`.
pub fn file(state: &Path, services: &str) -> String {
    let state = state.display();
    format!(
        "[node]\ninterfaces = [\"eth9\"]\nstate_dir = \"{state}\"\nouter_v4 = \"10.77.0.0/16\"\n\
         [node.tables]\nservices = 20\nbackends = 300\nslots = 200000\n{services}"
    )
}

/// A service `name` at port `port` with backends of these last octets, without health checks.
pub fn service(name: &str, port: u16, mode: &str, backends: &[u8]) -> String {
    with_health(name, port, mode, "\"none\"", backends)
}

/// A service whose backends are checked every second, twice and thrice.
pub fn checked(name: &str, port: u16, backends: &[u8]) -> String {
    let health = "{ interval = \"1s\", timeout = \"500ms\", rise = 2, fall = 3 }";
    with_health(name, port, "l2", health, backends)
}

fn with_health(name: &str, port: u16, mode: &str, health: &str, backends: &[u8]) -> String {
    let backend = |octet| format!("[[service.backend]]\nname = \"b{octet}\"\naddress = \"198.51.100.{octet}\"\n");
    format!(
        "[[service]]\nname = \"{name}\"\nvip = \"192.0.2.1\"\nport = {port}\nprotocol = \"tcp\"\nmode = \"{mode}\"\n\
         slots = 4093\nhealth = {health}\n{}",
        backends.iter().map(backend).collect::<String>()
    )
}

/// The address of the backend with this last octet.
pub fn address(octet: u8) -> IpAddr {
    [198, 51, 100, octet].into()
}

/// A network in which the backends with these last octets, and the clients' router, are known neighbours.
pub fn network(known: impl IntoIterator<Item = u8>) -> NetworkView {
    let mut view = NetworkView::new([link(BACK, "back"), link(FRONT, "front"), routes()]);
    view.apply(neighbour(FRONT, [203, 0, 113, 1].into(), NeighbourState::Reachable, 1));
    for octet in known {
        view.apply(neighbour(BACK, address(octet), NeighbourState::Reachable, octet));
    }
    view
}

/// An interface.
pub fn link(index: u32, name: &str) -> Event {
    let mac = Some([2, 0, 0, 0, 0, u8::try_from(index).unwrap()]);
    Event::Link(Link { index, name: name.to_owned(), mac, mtu: 1500, up: true })
}

/// A neighbour whose address ends with `mac`.
pub fn neighbour(ifindex: u32, address: IpAddr, state: NeighbourState, mac: u8) -> Event {
    let failed = matches!(state, NeighbourState::Failed | NeighbourState::Incomplete);
    Event::Neighbour(ifindex, address, Neighbour { mac: (!failed).then_some([6, 0, 0, 0, 0, mac]), state })
}

fn routes() -> Event {
    let route = |prefix: &str, ifindex, gateway| Route {
        table: Table::Main,
        prefix: prefix.parse().unwrap(),
        metric: 0,
        target: Target::Hops(vec![Hop { ifindex, gateway, encapsulated: false }]),
    };
    Event::Routes(vec![
        route("198.51.100.0/24", BACK, None),
        route("203.0.113.0/24", FRONT, None),
        route("0.0.0.0/0", FRONT, Some([203, 0, 113, 1].into())),
    ])
}

/// A network to script.
pub struct FakeNetwork {
    pub view: watch::Sender<Arc<NetworkView>>,
    pub solicited: Mutex<Vec<(IpAddr, u32)>>,
    pub fresh: Mutex<BTreeSet<(u32, IpAddr)>>,
}

impl FakeNetwork {
    pub fn new(view: NetworkView) -> Arc<Self> {
        let (view, _) = watch::channel(Arc::new(view));
        Arc::new(Self { view, solicited: Mutex::default(), fresh: Mutex::default() })
    }

    /// Something happens.
    pub fn apply(&self, event: Event) {
        self.view.send_modify(|view| Arc::make_mut(view).apply(event));
    }
}

impl Network for FakeNetwork {
    fn subscribe(&self) -> watch::Receiver<Arc<NetworkView>> {
        self.view.subscribe()
    }

    fn solicit(&self, address: IpAddr, ifindex: u32) {
        self.solicited.lock().unwrap().push((address, ifindex));
    }

    fn keep_fresh(&self, neighbours: BTreeSet<(u32, IpAddr)>) {
        *self.fresh.lock().unwrap() = neighbours;
    }
}

/// Backends that refuse are listed; all others answer.
#[derive(Clone, Default)]
pub struct FakeProbe(pub Arc<Mutex<HashMap<IpAddr, String>>>);

impl FakeProbe {
    pub fn refuse(&self, octets: impl IntoIterator<Item = u8>) {
        let refusals = octets.into_iter().map(|octet| (address(octet), "connection refused".to_owned()));
        self.0.lock().unwrap().extend(refusals);
    }

    pub fn answer(&self, octet: u8) {
        self.0.lock().unwrap().remove(&address(octet));
    }
}

#[async_trait]
impl Probe for FakeProbe {
    async fn check(&self, address: SocketAddr, _: Duration) -> Result<(), CheckError> {
        let refusal = self.0.lock().unwrap().get(&address.ip()).cloned();
        refusal.map_or(Ok(()), |reason| Err(CheckError::Failed(reason)))
    }
}

/// What a daemon with this configuration file starts from.
pub fn start_from(directory: &Path, services: &str) -> anyhow::Result<Start> {
    let config = directory.join("weir.toml");
    std::fs::write(&config, file(&directory.join("state"), services))?;
    Start::load(&config)
}
