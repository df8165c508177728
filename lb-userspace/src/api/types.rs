//! What the API carries.
//!
//! Additions have the shape of the configuration file ([`crate::config::raw`]); everything else is here. Times are
//! Unix times in milliseconds, sizes are bytes, and every counter has counted since its table was made.

use std::{
    net::IpAddr,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::spec::{Hold, Mode, OnDown, Protocol, Scheduler, ServicePort, XdpMode};

/// What the daemon is, where it is attached and how full its tables are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Time since it started, milliseconds.
    pub uptime_ms: u64,
    /// Name of the instance.
    pub instance: String,
    /// The configuration file it was started with.
    #[schema(value_type = String)]
    pub config: PathBuf,
    /// Layout version of the pinned maps.
    pub abi_version: u32,
    /// Where the program is attached.
    pub interfaces: Vec<Interface>,
    /// Number of services.
    pub services: u32,
    /// Number of backends, by state.
    pub backends: BackendCounts,
    /// Use of the kernel tables.
    pub tables: Vec<TableUse>,
    /// Kernel memory that each of its tables takes.
    pub memory: Vec<TableMemory>,
    /// The last change of the configuration since the daemon started.
    pub last_change: Option<LastChange>,
    /// The upgrade that this daemon comes from, or that it came back from.
    #[serde(default)]
    pub last_upgrade: Option<LastUpgrade>,
}

/// An interface that Weir is to be attached to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Interface {
    /// Name, such as `eth0`.
    pub name: String,
    /// Kernel interface index.
    pub index: u32,
    /// The mode that is active; `None` while the program is not attached.
    pub xdp: Option<XdpMode>,
    /// Why this mode, or why none: `as configured`, or the kernel's error.
    pub why: String,
}

/// Number of backends by state: all others add up to `total`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BackendCounts {
    /// All of them.
    pub total: u32,
    /// Taking new flows.
    pub up: u32,
    /// Failing their health check.
    pub down: u32,
    /// Not checked yet.
    pub unknown: u32,
    /// Draining, whatever their health.
    pub draining: u32,
    /// Failing their health check, their flows kept until `hold` is over.
    pub held: u32,
    /// Removed, but still serving their old flows.
    pub leaving: u32,
}

/// How full a kernel table is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TableUse {
    /// Name of the table, such as `slots`.
    pub name: String,
    /// Entries in use; of the flow tables, those that the last sweep left, and 0 before the first.
    pub used: u64,
    /// Entries there is room for.
    pub capacity: u64,
}

/// Kernel memory that a table takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TableMemory {
    /// Name of the table, such as `flows-v4`: those that have a [`TableUse`], and others.
    pub name: String,
    /// Bytes: of all entries where they are allocated beforehand, otherwise of those in use.
    pub bytes: u64,
}

/// A change of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LastChange {
    /// When, Unix time in milliseconds.
    pub at_unix_ms: u64,
    /// What was done, in one line (see [`Change::summary`]).
    pub summary: String,
}

/// A service as it is now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Service {
    /// Unique name.
    pub name: String,
    /// Virtual address that clients connect to.
    #[schema(value_type = String)]
    pub vip: IpAddr,
    /// Port; 0 is every port.
    pub port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
    /// How packets reach the backends.
    pub mode: Mode,
    /// How the backend of a new flow is chosen.
    pub scheduler: Scheduler,
    /// Slots of the service.
    pub slots: u32,
    /// Time after which a silent flow is forgotten, milliseconds.
    pub idle_ms: u64,
    /// Time after a change within which an old flow has to speak to stay where it is, milliseconds.
    pub settle_after_ms: u64,
    /// How long a backend whose health checks fail keeps its flows, milliseconds; `None` is for ever.
    pub hold_ms: Option<u64>,
    /// What packets of flows get whose backend is gone.
    pub on_down: OnDown,
    /// Time in which a backend that comes in gets its full share, milliseconds.
    pub slow_start_ms: u64,
    /// Whether its backends are health-checked.
    pub checked: bool,
    /// What it has forwarded.
    pub traffic: Traffic,
    /// Its backends, in the order of the configuration.
    pub backends: Vec<Backend>,
}

/// A backend of a service as it is now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Backend {
    /// Unique within the service.
    pub name: String,
    /// The id that slots and counters know it by.
    pub id: u32,
    /// Its address.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Its port, where the forwarding mode rewrites it; `None` keeps the packet's.
    pub port: Option<u16>,
    /// Share of new flows relative to the other backends; 0 takes none.
    pub weight: u16,
    /// Whether it takes new flows.
    pub state: BackendState,
    /// Why it is in this state, such as `connection refused`.
    pub reason: String,
    /// Since when, Unix time in milliseconds.
    pub since_unix_ms: u64,
    /// Where its frames go.
    pub next_hop: NextHop,
    /// Slots whose new flows it takes.
    pub slots: u32,
    /// The same as a share of the service's slots, percent, 0 to 100.
    pub share_percent: f64,
    /// What is left of its flows.
    pub flows: BackendFlows,
    /// What was forwarded to it.
    pub traffic: Traffic,
}

/// The flows of a backend, as far as they are known one by one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BackendFlows {
    /// Tracked flows that name it; none once they count as gone.
    pub tracked: u64,
    /// Age of the oldest of these, milliseconds; `None` if there is none.
    pub oldest_ms: Option<u64>,
    /// Whether these are all: no slot has it as base, so that no untracked flow can belong to it, or they count as gone.
    pub settled: bool,
}

/// Whether a backend takes new flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum BackendState {
    /// Healthy, or not health-checked.
    Up,
    /// Its health check fails.
    Down,
    /// Its health is not known yet.
    Unknown,
    /// Taken out by the operator: live flows stay, new ones go elsewhere.
    Draining,
    /// Its health check fails, but its flows are kept until the service's `hold` is over.
    Held,
    /// Removed from the configuration: it still serves its old flows.
    Leaving,
}

/// Where a backend's frames go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum NextHop {
    /// A neighbour is known.
    Resolved {
        /// Its link-layer address, such as `02:00:00:00:00:01`.
        mac: String,
        /// The interface that frames leave by.
        interface: String,
        /// The gateway, where the backend is not on a connected network.
        #[schema(value_type = Option<String>)]
        gateway: Option<IpAddr>,
    },
    /// No neighbour is known, so packets for the backend are dropped.
    Unresolved {
        /// What is missing, such as `no route`.
        why: String,
    },
}

/// Counters of a service or a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Traffic {
    /// Packets from clients that were forwarded.
    pub packets: u64,
    /// IP bytes of those packets, as received.
    pub bytes: u64,
    /// TCP connections opened or tried: SYNs among those packets.
    pub connections: u64,
    /// `nat`: reply packets sent back to clients.
    pub reply_packets: u64,
    /// `nat`: IP bytes of those.
    pub reply_bytes: u64,
}

/// Every counter at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Stats {
    /// When the counters were read, Unix time in milliseconds.
    pub at_unix_ms: u64,
    /// By service, in the order of the configuration.
    pub services: Vec<ServiceStats>,
    /// By reason, every reason there is.
    pub reasons: Vec<ReasonCount>,
    /// What happened in the flow tables, everything that can.
    pub flow_events: Vec<FlowEventCount>,
}

/// Counters of a service and its backends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ServiceStats {
    /// Name of the service.
    pub name: String,
    /// The service's own counters.
    pub traffic: Traffic,
    /// By backend, in the order of the configuration.
    pub backends: Vec<BackendStats>,
}

/// Counters of a backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BackendStats {
    /// Name of the backend.
    pub name: String,
    /// Whether it takes new flows.
    pub state: BackendState,
    /// What was forwarded to it.
    pub traffic: Traffic,
}

/// How many packets left the program for a reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReasonCount {
    /// Name, such as `no-backend`; never changes.
    pub name: String,
    /// What it means, in one line.
    pub meaning: String,
    /// Packets.
    pub packets: u64,
}

/// How often something happened in the flow tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FlowEventCount {
    /// Name, such as `looked-up`; never changes.
    pub name: String,
    /// What it means, in one line.
    pub meaning: String,
    /// How often.
    pub count: u64,
}

/// What a change of the configuration did. It is in the kernel by the time this is sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Change {
    /// What was done, in one line without a full stop: `backend "a" of service "web" drained`.
    pub summary: String,
    /// Slots of the service whose new flows go to another backend than before.
    pub slots_moved: u32,
    /// Slots of the service.
    pub slots: u32,
    /// Backends of the service that take new flows now.
    pub backends_taking: u32,
    /// Backends of the service.
    pub backends: u32,
    /// What the operator should know: `service "web" has no backend left that takes new flows`.
    pub warnings: Vec<String>,
}

/// What detaching did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Detached {
    /// The interfaces that the program was attached to.
    pub interfaces: Vec<String>,
}

/// What a daemon is to become.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Upgrade {
    /// Absolute path of the binary on the daemon's host, which nobody but root and the daemon's user may be able to change.
    #[schema(value_type = String)]
    pub binary: PathBuf,
}

/// An upgrade that has begun: the new binary has passed its preflight. How it ends is in [`Status::last_upgrade`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Upgrading {
    /// When it began, Unix time in milliseconds: the same as in [`LastUpgrade`].
    pub at_unix_ms: u64,
    /// Process id of the daemon, which stays.
    pub pid: u32,
    /// Version of the daemon.
    pub from: String,
    /// Version of the new binary.
    pub to: String,
    /// Packets that the new binary's self-test was made with.
    pub packets: u64,
}

/// How an upgrade ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LastUpgrade {
    /// When it began, Unix time in milliseconds.
    pub at_unix_ms: u64,
    /// How long no daemon answered, milliseconds. Packets were forwarded all the time.
    pub took_ms: u64,
    /// Version before.
    pub from: String,
    /// Version of the new binary.
    pub to: String,
    /// The new binary.
    #[schema(value_type = String)]
    pub binary: PathBuf,
    /// Why the new binary could not take over, so that the old one goes on; `None` if it did.
    pub failure: Option<String>,
}

/// The new weight of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Weight {
    /// Share of new flows relative to the other backends, 0 to 1000; 0 takes none.
    #[schema(maximum = 1000)]
    pub weight: u16,
}

/// How a backend is to be drained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Drain {
    /// Time from now after which what is left of its flows counts as gone, milliseconds; without it they end by
    /// themselves.
    pub deadline_ms: Option<u64>,
}

/// How a backend is to be removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Removal {
    /// Its old flows count as gone at once, instead of being served until the last one has ended.
    pub now: bool,
}

/// The body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// What went wrong, in one line.
    pub error: String,
    /// Each thing that is wrong with what was sent.
    #[serde(default)]
    pub problems: Vec<String>,
}

impl From<lb_common::abi::Traffic> for Traffic {
    fn from(t: lb_common::abi::Traffic) -> Self {
        Self {
            packets: t.packets,
            bytes: t.bytes,
            connections: t.connections,
            reply_packets: t.reply_packets,
            reply_bytes: t.reply_bytes,
        }
    }
}

impl Service {
    /// How long a backend whose health checks fail keeps its flows.
    #[must_use]
    pub const fn hold(&self) -> Hold {
        match self.hold_ms {
            Some(ms) => Hold::For(Duration::from_millis(ms)),
            None => Hold::Forever,
        }
    }

    /// The port as the configuration has it.
    #[must_use]
    pub fn service_port(&self) -> ServicePort {
        std::num::NonZeroU16::new(self.port).map_or(ServicePort::Any, ServicePort::One)
    }
}

impl BackendCounts {
    /// Counts `states`.
    #[must_use]
    pub fn of(states: impl IntoIterator<Item = BackendState>) -> Self {
        let mut counts = Self::default();
        for state in states {
            counts.total += 1;
            *match state {
                BackendState::Up => &mut counts.up,
                BackendState::Down => &mut counts.down,
                BackendState::Unknown => &mut counts.unknown,
                BackendState::Draining => &mut counts.draining,
                BackendState::Held => &mut counts.held,
                BackendState::Leaving => &mut counts.leaving,
            } += 1;
        }
        counts
    }
}

impl BackendState {
    /// The word for it, as in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Unknown => "unknown",
            Self::Draining => "draining",
            Self::Held => "held",
            Self::Leaving => "leaving",
        }
    }
}

/// `time` as the API carries it: Unix time in milliseconds, 0 for times before 1970.
#[must_use]
pub fn unix_ms(time: SystemTime) -> u64 {
    millis(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO))
}

/// `duration` as the API carries it: milliseconds.
#[must_use]
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The word that the configuration, the API and the command line have for `value`, such as `ipip`.
#[must_use]
pub fn word(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|possible| possible.get_name().to_owned()).unwrap_or_default()
}
