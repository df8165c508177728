//! The validated configuration: what the operator wants, in types that can't hold nonsense.
//!
//! A [`Spec`] only comes out of [`crate::config`], which checks every rule that a single field's type can't express.
//! The controller and the API work on these types and never on the raw file.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use clap::ValueEnum;
use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One whole configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// What concerns this node alone.
    pub node: Node,
    /// The services, in the order of the file; names and (VIP, port, protocol) are unique.
    pub services: Vec<Service>,
}

/// What concerns this node: where it attaches, where its socket is, how big its tables are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Names the pins, the socket and the state directory; several instances can share a host.
    pub instance: String,
    /// Interfaces to attach to, at least one, no duplicates.
    pub interfaces: Vec<String>,
    /// How to attach.
    pub xdp: XdpMode,
    /// What SIGTERM does to the data plane.
    pub on_exit: OnExit,
    /// Where the daemon listens for its CLI.
    pub socket: PathBuf,
    /// Where runtime changes are kept over a restart.
    pub state_dir: PathBuf,
    /// Where Prometheus metrics are served, if anywhere.
    pub metrics: Option<SocketAddr>,
    /// Seed of the flow hash, the same on every node of a cluster; `None` draws one at the first start.
    pub seed: Option<[u64; 2]>,
    /// Source network of outer IPv4 headers; host bits carry flow entropy.
    pub outer_v4: Option<Ipv4Net>,
    /// Source network of outer IPv6 headers; host bits carry flow entropy.
    pub outer_v6: Option<Ipv6Net>,
    /// Sizes of the kernel tables.
    pub tables: TableSizes,
}

/// How the XDP program is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// In the driver. Refused, with the reason, where the driver can't.
    #[default]
    Native,
    /// In the kernel's generic hook: any device, much slower.
    Generic,
}

/// What stopping the daemon does to the data plane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnExit {
    /// Programs and maps stay: traffic flows on.
    #[default]
    Keep,
    /// Programs are detached and pins removed.
    Detach,
}

/// Entries of the kernel tables, fixed when they are first made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableSizes {
    /// Services, each address family.
    pub services: u32,
    /// Backends of all services.
    pub backends: u32,
    /// Slots of all services.
    pub slots: u32,
    /// Routes towards clients of NAT services, each address family.
    pub routes: u32,
    /// Tracked flows, each address family.
    pub flows: u32,
}

impl TableSizes {
    /// Most backends: their table, and what a CPU counts of them, have to be within
    /// [`MOST_BYTES`](lb_common::abi::fixed::MOST_BYTES).
    pub const MOST_BACKENDS: u32 = 8_000_000;
}

/// A balanced service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Unique name: letters, digits, `-`, `_`, `.`.
    pub name: String,
    /// Virtual address that clients connect to.
    pub vip: IpAddr,
    /// Port, or every port.
    pub port: ServicePort,
    /// Transport protocol.
    pub protocol: Protocol,
    /// How packets reach the backends.
    pub mode: Mode,
    /// How a new flow's backend is chosen; UDP services have only those that [follow the slots](Scheduler::follows_slots).
    pub scheduler: Scheduler,
    /// Slots of this service.
    pub slots: u32,
    /// Time after which a tracked flow that has been silent is forgotten.
    pub idle: Duration,
    /// Time after a change within which an old flow has to speak to stay where it is.
    pub settle_after: Duration,
    /// How long a backend whose health checks fail keeps its flows.
    pub hold: Hold,
    /// What packets of flows get whose backend is gone; never [`OnDown::Reset`] for UDP.
    pub on_down: OnDown,
    /// Time in which a backend that comes in, or back in, gets from little to its full share; zero gives it all at once.
    pub slow_start: Duration,
    /// How backends are checked; `None` takes them as always up.
    pub health: Option<Health>,
    /// The backends; names are unique within the service.
    pub backends: Vec<Backend>,
}

/// A backend of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Unique within the service; by default the address, or `ADDRESS:PORT` where it has a port of its own.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// `nat`: its port; `None` keeps the packet's. Other modes deliver to the service's port, so `None`.
    pub port: Option<NonZeroU16>,
    /// Share of new flows relative to the other backends, 0 to [`MOST_WEIGHT`](Self::MOST_WEIGHT); 0 takes none.
    pub weight: u16,
    /// Draining: takes no new flows, whatever its weight.
    pub draining: bool,
    /// When the flows that are left of a draining backend count as gone, in whole seconds; `None` lets them end by
    /// themselves.
    pub drain_deadline: Option<SystemTime>,
}

impl Backend {
    /// Largest weight.
    pub const MOST_WEIGHT: u16 = 1000;
}

/// The port of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ServicePort {
    /// Every port of the VIP that no other service has.
    Any,
    /// This one.
    One(NonZeroU16),
}

/// Transport protocol of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Forwarding mode of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Direct server return by MAC rewriting.
    L2,
    /// IP-in-IP, any family in any family.
    Ipip,
    /// Destination rewritten, replies come back through Weir.
    Nat,
}

/// How the backend of a new flow is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Scheduler {
    /// Weighted consistent hashing of the 5-tuple.
    #[default]
    Maglev,
    /// Weighted consistent hashing of the source address: all flows of a client go to one backend.
    Source,
    /// Each backend in turn, whatever its weight.
    RoundRobin,
    /// Each backend in turn, as often as its weight says.
    WeightedRoundRobin,
    /// The backend with the fewest tracked flows for its weight.
    LeastConnections,
    /// Any backend, as likely as its weight says.
    Random,
    /// As [`Maglev`](Self::Maglev), with weights that follow how fast backends answer.
    ResponseTime,
}

/// How long a backend whose health checks fail keeps its flows, before they count as gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// This long; zero is not at all.
    For(Duration),
    /// Until it is up again or removed.
    Forever,
}

/// What packets of flows get whose backend is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum OnDown {
    /// A TCP reset, so that clients connect again at once.
    Reset,
    /// Another backend.
    Reroute,
    /// Nothing.
    Drop,
}

/// TCP health checks of a service's backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Port to connect to; `None` is where the service's packets go.
    pub port: Option<NonZeroU16>,
    /// Time between checks.
    pub interval: Duration,
    /// Time after which a check has failed; at most `interval`.
    pub timeout: Duration,
    /// Successes in a row that bring a backend up.
    pub rise: u32,
    /// Failures in a row that take it down.
    pub fall: u32,
    /// Each interval is stretched or shrunk at random by up to this much, in percent, 0 to 50.
    pub jitter: u8,
}

impl Scheduler {
    /// Whether the slot of a flow alone tells its backend, so that a flow needs no memory to be found again.
    #[must_use]
    pub const fn follows_slots(self) -> bool {
        match self {
            Self::Maglev | Self::Source | Self::ResponseTime => true,
            Self::RoundRobin | Self::WeightedRoundRobin | Self::LeastConnections | Self::Random => false,
        }
    }
}

impl fmt::Display for ServicePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.pad("any"),
            Self::One(port) => fmt::Display::fmt(port, f),
        }
    }
}
