//! A server on a socket of its own, with a controller that answers from a fixed scene and remembers what it was asked.

use std::{
    collections::VecDeque,
    ffi::OsString,
    future::Future,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use tempfile::TempDir;
use tokio::{runtime::Runtime, sync::oneshot, task::JoinHandle};
use weir::{
    api::{
        control::{Control, ControlError, Upgrader},
        explain::{Explanation, Flow},
        routes,
        server::Server,
        types::{
            Backend, BackendCounts, BackendFlows, BackendState, BackendStats, Change, Detached, FlowEventCount,
            Interface, LastChange, LastUpgrade, NextHop, ReasonCount, Service, ServiceStats, Stats, Status,
            TableMemory, TableUse, Traffic, Upgrading,
        },
    },
    cli::{self, Screen},
    config::raw,
    spec::{Mode, OnDown, Protocol, Scheduler, XdpMode},
};

/// Seconds since 1970 at which the scene plays: 2027-01-15T08:00:00Z.
const NOW: u64 = 1_800_000_000;

/// A controller that answers from [`scene`].
#[derive(Default)]
pub struct Fake {
    /// What it was asked to change.
    pub calls: Mutex<Vec<String>>,
    /// How often the counters were read: they grow each time.
    reads: Mutex<u64>,
    /// What becomes of the draining backend: one of these each time that its service is asked for, the last one for ever.
    pub drains: Mutex<VecDeque<Draining>>,
    /// How the last upgrade ended.
    upgraded: Mutex<Option<LastUpgrade>>,
}

/// What is found of a draining backend.
#[derive(Clone, Copy)]
pub enum Draining {
    /// These flows are left.
    Left(BackendFlows),
    /// It takes new flows again.
    Up,
    /// It is not there any more.
    Gone,
    /// Its whole service is not there any more.
    ServiceGone,
    /// The daemon can't tell.
    Failing,
}

impl Fake {
    /// What is to become of the draining backend.
    pub fn drains(&self, states: &[Draining]) {
        *self.drains.lock().unwrap() = states.iter().copied().collect();
    }

    fn drained(&self) -> Option<Draining> {
        let mut drains = self.drains.lock().unwrap();
        if drains.len() > 1 { drains.pop_front() } else { drains.front().copied() }
    }

    fn find(name: &str) -> Result<Service, ControlError> {
        if name == "broken" {
            return Err(ControlError::Dataplane("writing the slots: Cannot allocate memory (os error 12)".to_owned()));
        }
        scene().into_iter().find(|service| service.name == name).ok_or_else(|| ControlError::no_service(name))
    }

    fn change(&self, service: &str, backend: Option<&str>, call: String) -> Result<Change, ControlError> {
        let service = Self::find(service)?;
        if let Some(name) = backend
            && service.backends.iter().all(|backend| backend.name != name)
        {
            return Err(ControlError::no_backend(&service.name, name));
        }
        self.calls.lock().unwrap().push(call.clone());
        Ok(Change {
            summary: call,
            slots_moved: 21_845,
            slots: 65_537,
            backends_taking: 2,
            backends: 3,
            warnings: Vec::new(),
        })
    }
}

#[async_trait]
impl Control for Fake {
    async fn status(&self) -> Result<Status, ControlError> {
        Ok(Status {
            version: "0.1.0".to_owned(),
            pid: 4242,
            uptime_ms: 11_520_000,
            instance: "main".to_owned(),
            config: PathBuf::from("/etc/weir/weir.toml"),
            abi_version: 1,
            interfaces: vec![
                Interface {
                    name: "eth1".to_owned(),
                    index: 3,
                    xdp: Some(XdpMode::Native),
                    why: "as configured".to_owned(),
                },
                Interface { name: "wan0".to_owned(), index: 12, xdp: None, why: "no such device".to_owned() },
            ],
            services: 2,
            backends: BackendCounts::of(scene().iter().flat_map(|service| &service.backends).map(|b| b.state)),
            tables: vec![
                TableUse { name: "slots".to_owned(), used: 65_558, capacity: 4_194_304 },
                TableUse { name: "backends".to_owned(), used: 4, capacity: 16_384 },
            ],
            memory: [("slots", 33_554_432), ("flows-v4", 25_165_824), ("flows-v6", 31_457_280)]
                .map(|(name, bytes)| TableMemory { name: name.to_owned(), bytes })
                .into(),
            last_change: Some(LastChange {
                at_unix_ms: (NOW - 300) * 1000,
                summary: "backend \"10.0.0.8\" of service \"web\" drained".to_owned(),
            }),
            last_upgrade: self.upgraded.lock().unwrap().clone(),
        })
    }

    async fn services(&self) -> Result<Vec<Service>, ControlError> {
        Ok(scene())
    }

    async fn service(&self, name: &str) -> Result<Service, ControlError> {
        let mut service = Self::find(name)?;
        match self.drained() {
            None => {}
            Some(Draining::Left(flows)) => service.backends[1].flows = flows,
            Some(Draining::Up) => service.backends[1].state = BackendState::Up,
            Some(Draining::Gone) => drop(service.backends.remove(1)),
            Some(Draining::ServiceGone) => return Err(ControlError::no_service(name)),
            Some(Draining::Failing) => return Err(ControlError::Dataplane("can't read the counters".to_owned())),
        }
        Ok(service)
    }

    async fn add_service(&self, service: raw::Service) -> Result<Change, ControlError> {
        if scene().iter().any(|other| other.name == service.name) {
            return Err(ControlError::Conflict(format!("service {:?} exists already", service.name)));
        }
        self.calls.lock().unwrap().push(serde_json::to_string(&service).unwrap());
        Ok(Change {
            summary: format!("service {:?} added", service.name),
            slots_moved: 0,
            slots: 1009,
            backends_taking: 0,
            backends: 1,
            warnings: vec!["no backend is up yet".to_owned()],
        })
    }

    async fn remove_service(&self, name: &str) -> Result<Change, ControlError> {
        Self::find(name)?;
        Ok(Change { summary: format!("service {name:?} removed"), ..Change::default() })
    }

    async fn add_backend(&self, service: &str, backend: raw::Backend) -> Result<Change, ControlError> {
        self.change(service, None, format!("{} added to {service}", serde_json::to_string(&backend).unwrap()))
    }

    async fn remove_backend(&self, service: &str, backend: &str, now: bool) -> Result<Change, ControlError> {
        let when = if now { " at once" } else { "" };
        self.change(service, Some(backend), format!("{backend} of {service} removed{when}"))
    }

    async fn set_weight(&self, service: &str, backend: &str, weight: u16) -> Result<Change, ControlError> {
        if weight > 1000 {
            return Err(ControlError::Invalid(vec![format!("weight: expected 0 to 1000, found {weight}")]));
        }
        self.change(service, Some(backend), format!("{backend} of {service} has weight {weight}"))
    }

    async fn drain(&self, service: &str, backend: &str, deadline: Option<Duration>) -> Result<Change, ControlError> {
        let when = deadline.map_or_else(String::new, |deadline| format!(" within {deadline:?}"));
        self.change(service, Some(backend), format!("{backend} of {service} drained{when}"))
    }

    async fn undrain(&self, service: &str, backend: &str) -> Result<Change, ControlError> {
        self.change(service, Some(backend), format!("{backend} of {service} undrained"))
    }

    async fn stats(&self) -> Result<Stats, ControlError> {
        let reads = {
            let mut reads = self.reads.lock().unwrap();
            *reads += 1;
            *reads - 1
        };
        let mut services = scene();
        // Two seconds of 500 packets and 1 Mbit/s to the first backend between two reads.
        services[0].traffic.packets += 1000 * reads;
        services[0].backends[0].traffic.packets += 1000 * reads;
        services[0].backends[0].traffic.bytes += 250_000 * reads;
        let services = services.into_iter().map(|service| ServiceStats {
            name: service.name,
            traffic: service.traffic,
            backends: service
                .backends
                .into_iter()
                .map(|b| BackendStats { name: b.name, state: b.state, traffic: b.traffic })
                .collect(),
        });
        let reason = |name: &str, meaning: &str, packets| ReasonCount {
            name: name.to_owned(),
            meaning: meaning.to_owned(),
            packets,
        };
        let event = |name: &str, meaning: &str, count| FlowEventCount {
            name: name.to_owned(),
            meaning: meaning.to_owned(),
            count,
        };
        Ok(Stats {
            at_unix_ms: NOW * 1000 + 2000 * reads,
            services: services.collect(),
            reasons: vec![
                reason("no-service", "Passed: no service has this address, port and protocol.", 12),
                reason("forwarded-ipip", "Forwarded to a backend in an IP-in-IP tunnel.", 1_500_000 + 1000 * reads),
                reason("no-backend", "Dropped: the service has no backend that is up.", 0),
            ],
            flow_events: vec![
                event("looked-up", "A packet's flow was looked up.", 70_000 + 500 * reads),
                event("not-opened", "A new flow was not entered: the table is full.", 0),
            ],
        })
    }

    async fn explain(&self, flow: Flow) -> Result<Explanation, ControlError> {
        Ok(crate::explain::explanation(flow))
    }

    async fn detach(&self) -> Result<Detached, ControlError> {
        Ok(Detached { interfaces: vec!["eth1".to_owned(), "wan0".to_owned()] })
    }
}

/// Two services: one with a backend in each state, one without backends.
pub fn scene() -> Vec<Service> {
    let backend = |name: &str, id: u32, state, reason: &str, slots: u32| Backend {
        name: name.to_owned(),
        id,
        address: format!("10.0.0.{}", id + 6).parse().unwrap(),
        port: None,
        weight: 1,
        state,
        reason: reason.to_owned(),
        since_unix_ms: (NOW - 45) * 1000,
        next_hop: NextHop::Resolved {
            mac: format!("02:00:00:00:00:{id:02x}"),
            interface: "eth1".to_owned(),
            gateway: None,
        },
        slots,
        share_percent: 100.0 * f64::from(slots) / 65_537.0,
        flows: BackendFlows { tracked: 0, oldest_ms: None, settled: slots == 0 },
        traffic: Traffic::default(),
    };
    let mut backends = vec![
        backend("10.0.0.7", 1, BackendState::Up, "connected in 0.3 ms", 65_537),
        backend("10.0.0.8", 2, BackendState::Draining, "drained by the operator", 0),
        backend("ten/9 é", 3, BackendState::Down, "connection refused", 0),
    ];
    backends[0].traffic = Traffic { packets: 1_500_000, bytes: 2_000_000_000, connections: 1234, ..Traffic::default() };
    backends[1].flows = BackendFlows { tracked: 312, oldest_ms: Some(7_200_000), settled: false };
    backends[2].next_hop = NextHop::Unresolved { why: "no route".to_owned() };
    vec![
        Service {
            name: "web".to_owned(),
            vip: "192.0.2.10".parse().unwrap(),
            port: 443,
            protocol: Protocol::Tcp,
            mode: Mode::Ipip,
            scheduler: Scheduler::LeastConnections,
            slots: 65_537,
            idle_ms: 86_400_000,
            settle_after_ms: 90_500,
            hold_ms: Some(10_000),
            on_down: OnDown::Reset,
            slow_start_ms: 0,
            checked: true,
            traffic: Traffic { packets: 1_500_000, bytes: 2_000_000_000, connections: 1234, ..Traffic::default() },
            backends,
        },
        Service {
            name: "dns".to_owned(),
            vip: "2001:db8::53".parse().unwrap(),
            port: 0,
            protocol: Protocol::Udp,
            mode: Mode::Nat,
            scheduler: Scheduler::Source,
            slots: 21,
            idle_ms: 60_000,
            settle_after_ms: 60_000,
            hold_ms: None,
            on_down: OnDown::Reroute,
            slow_start_ms: 30_000,
            checked: false,
            traffic: Traffic { packets: 7, bytes: 700, connections: 0, reply_packets: 6, reply_bytes: 5_400 },
            backends: Vec::new(),
        },
    ]
}

#[async_trait]
impl Upgrader for Fake {
    async fn upgrade(&self, binary: &Path) -> Result<Upgrading, ControlError> {
        let name = binary.file_name().unwrap().to_str().unwrap();
        if name == "weir-bad" {
            return Err(ControlError::Conflict(format!("the preflight of {} failed: out of luck", binary.display())));
        }
        let (from, to, at_unix_ms) = ("0.1.0".to_owned(), "0.2.0".to_owned(), (NOW - 60) * 1000);
        let failure = (name == "weir-back").then(|| "interface eth9 does not exist".to_owned());
        let (pid, binary) = (4242, binary.to_owned());
        if name != "weir-gone" {
            let ended = LastUpgrade { at_unix_ms, took_ms: 349, from: from.clone(), to: to.clone(), binary, failure };
            *self.upgraded.lock().unwrap() = Some(ended);
            return Ok(Upgrading { at_unix_ms, pid, from, to, packets: 18 });
        }
        Ok(Upgrading { at_unix_ms, pid: 4241, from, to, packets: 18 })
    }
}

/// A server over [`Fake`], stopped when dropped.
pub struct Daemon {
    pub socket: PathBuf,
    pub control: Arc<Fake>,
    pub runtime: Runtime,
    stop: Option<oneshot::Sender<()>>,
    serving: Option<JoinHandle<io::Result<()>>>,
    directory: TempDir,
}

/// What a run of `weir` left behind.
#[derive(Debug, PartialEq, Eq)]
pub struct Ran {
    pub code: u8,
    pub out: String,
    pub err: String,
}

impl Daemon {
    pub fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("run/main.sock");
        let runtime = Runtime::new().unwrap();
        let control = Arc::new(Fake::default());
        let (stop, stopped) = oneshot::channel::<()>();
        let server = runtime.block_on(async { Server::bind(&socket) }).unwrap();
        let shutdown = async move { drop(stopped.await) };
        let daemon = routes::Daemon { control: control.clone(), upgrader: control.clone() };
        let serving = runtime.spawn(server.serve(daemon, shutdown));
        Self { socket, control, runtime, stop: Some(stop), serving: Some(serving), directory }
    }

    /// A directory that goes away with the daemon.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        let bounded = async { tokio::time::timeout(Duration::from_secs(20), future).await };
        self.runtime.block_on(bounded).expect("no answer within 20 s")
    }

    /// Stops the daemon and waits until it has.
    pub fn stop(&mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
        if let Some(serving) = self.serving.take() {
            self.block_on(serving).unwrap().unwrap();
        }
    }

    /// Runs `weir` with this daemon's socket.
    pub fn weir(&self, args: &[&str]) -> Ran {
        let socket = self.socket.to_str().unwrap();
        weir(&[&["--socket", socket], args].concat())
    }

    /// Runs `weir` with `screen` into `out` and returns the exit code and standard error.
    pub fn weir_into(&self, args: &[&str], out: &mut dyn Write, screen: Screen) -> (u8, String) {
        let socket = self.socket.to_str().unwrap();
        let mut err = Vec::new();
        let code = cli::run(arguments(&[&["--socket", socket], args].concat()), out, &mut err, screen);
        (code, String::from_utf8(err).unwrap())
    }

    /// What the controller was asked to change.
    pub fn calls(&self) -> Vec<String> {
        self.control.calls.lock().unwrap().clone()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.stop();
        }
    }
}

/// Runs `weir` and takes what it says.
pub fn weir(args: &[&str]) -> Ran {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = cli::run(arguments(args), &mut out, &mut err, file());
    Ran { code, out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap() }
}

/// Output that goes to a file.
pub fn file() -> Screen {
    Screen { terminal: false, colour: false, now: || SystemTime::UNIX_EPOCH + Duration::from_secs(NOW) }
}

fn arguments(args: &[&str]) -> Vec<OsString> {
    ["weir"].iter().chain(args).map(OsString::from).collect()
}

/// Asserts that `weir` succeeded with exactly `expected` and no word on standard error.
#[track_caller]
pub fn assert_out(ran: &Ran, expected: &str) {
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{}", ran.out);
    assert!(ran.out == expected, "expected:\n{expected}\nfound:\n{}", ran.out);
}

/// Asserts that `weir` failed with exactly one line.
#[track_caller]
pub fn assert_failed(ran: &Ran, expected: &str) {
    assert_eq!((ran.code, ran.out.as_str(), ran.err.trim_end_matches('\n')), (1, "", expected));
    assert_eq!(ran.err.lines().count(), 1);
}
