//! A lab: made by its builder, removed when dropped.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    Mode,
    addresses::{Family, VIPS},
    cleanup::Claim,
    client::curl,
    config::{self, Member, Service},
    netns::Netns,
    process::Process,
    requirements,
    server::Backend,
    topology::{Nodes, Shape},
    weir::{self, WeirDaemon},
};

/// Bytes of the file that `/50M` serves.
const BLOB_LENGTH: u64 = 50_000_000;
/// Bytes of the file that `/1M` serves.
const PAGE_LENGTH: usize = 1_000_000;
/// The daemon's socket in the lab's directory.
pub(crate) const SOCKET: &str = "weir.sock";
/// Most clients, and most backends, of a lab.
const MAX_MEMBERS: u8 = 64;

/// What a lab is to be; [`LabBuilder::build`] makes it.
#[derive(Clone, Debug)]
pub struct LabBuilder {
    shape: Shape,
    id: Option<String>,
    weir: Option<PathBuf>,
}

impl LabBuilder {
    /// How many client namespaces (one by default), each with its own address.
    #[must_use]
    pub fn clients(mut self, clients: u8) -> Self {
        self.shape.clients = clients;
        self
    }

    /// How many backends (two by default).
    #[must_use]
    pub fn backends(mut self, backends: u8) -> Self {
        self.shape.backends = backends;
        self
    }

    /// Which forwarding mode the routes and VIPs are made for (`nat` by default).
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.shape.mode = mode;
        self
    }

    /// Whether the balancer has a second interface, behind which the backends are.
    #[must_use]
    pub fn two_armed(mut self, two_armed: bool) -> Self {
        self.shape.two_armed = two_armed;
        self
    }

    /// The `weir` binary: what makes the bridges take frames from XDP, decapsulates on `ipip` backends, and is the
    /// daemon. Without it the lab is a network with servers and no balancer.
    #[must_use]
    pub fn weir(mut self, binary: &Path) -> Self {
        self.weir = Some(binary.to_owned());
        self
    }

    /// A name of one's own, for a lab that outlives this process.
    pub(crate) fn named(mut self, id: &str) -> Self {
        self.id = Some(id.to_owned());
        self
    }

    /// Makes it, with all servers ready.
    ///
    /// # Errors
    /// This process is not root, a program is missing, or the kernel refuses something. Nothing of it is left then.
    pub fn build(self) -> Result<Lab> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        requirements::check()?;
        let members = 1..=MAX_MEMBERS;
        ensure!(members.contains(&self.shape.clients), "a lab has 1 to {MAX_MEMBERS} clients");
        ensure!(members.contains(&self.shape.backends), "a lab has 1 to {MAX_MEMBERS} backends");
        let unique = || format!("weir-{}-{}", process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let claim = Claim::new(&self.id.unwrap_or_else(unique))?;
        let nodes = Nodes::build(claim.id(), self.shape)?;
        let mut lab = Lab {
            helpers: Vec::new(),
            backends: backends(&nodes, self.shape, &claim.dir()),
            clients: nodes.clients,
            router: nodes.router,
            balancer: nodes.balancer,
            shape: self.shape,
            weir: self.weir,
            claim,
        };
        lab.start_helpers()?;
        lab.start_servers()?;
        Ok(lab)
    }
}

fn backends(nodes: &Nodes, shape: Shape, dir: &Path) -> Vec<Backend> {
    let vips = || Family::BOTH.iter().flat_map(|family| (1..=VIPS).map(|n| family.vip(n))).collect::<Vec<_>>();
    let make = |(index, netns): (u8, &Netns)| {
        let [v4, v6] = Family::BOTH.map(|family| shape.backend_address(family, index));
        let vips = if shape.direct_return() { vips() } else { Vec::new() };
        Backend::new(format!("b{}", index + 1), netns.clone(), v4, v6, vips, dir)
    };
    (0..).zip(&nodes.backends).map(make).collect()
}

/// Clients, a router, the balancer's place and backends with servers, each in a network namespace of its own.
#[derive(Debug)]
pub struct Lab {
    // Dropped in this order: first what runs, last the name, with which all that is left goes.
    helpers: Vec<Process>,
    backends: Vec<Backend>,
    clients: Vec<Netns>,
    router: Netns,
    balancer: Netns,
    shape: Shape,
    weir: Option<PathBuf>,
    claim: Claim,
}

impl Lab {
    /// A lab of one client and two backends, wired for `nat`, unless told otherwise.
    #[must_use]
    pub fn builder() -> LabBuilder {
        let shape = Shape { mode: Mode::Nat, clients: 1, backends: 2, two_armed: false };
        LabBuilder { shape, id: None, weir: None }
    }

    /// Its name, with which the names of its namespaces begin, and that of its Weir instance.
    #[must_use]
    pub fn id(&self) -> &str {
        self.claim.id()
    }

    /// A directory that goes with the lab.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.claim.dir()
    }

    /// The forwarding mode that it is wired for.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.shape.mode
    }

    /// The clients.
    #[must_use]
    pub fn clients(&self) -> &[Netns] {
        &self.clients
    }

    /// The first client.
    #[must_use]
    pub fn client(&self) -> &Netns {
        &self.clients[0]
    }

    /// The router, in which the fabric's bridges are too.
    #[must_use]
    pub fn router(&self) -> &Netns {
        &self.router
    }

    /// Where Weir runs.
    #[must_use]
    pub fn balancer(&self) -> &Netns {
        &self.balancer
    }

    /// The interfaces that Weir is to be attached to.
    #[must_use]
    pub fn balancer_interfaces(&self) -> &'static [&'static str] {
        self.shape.balancer_interfaces()
    }

    /// The backends.
    #[must_use]
    pub fn backends(&self) -> &[Backend] {
        &self.backends
    }

    /// Kills the servers of backend `index` (from 0) as a crash would.
    pub fn stop_server(&mut self, index: usize) {
        self.backends[index].stop();
    }

    /// Starts the servers of backend `index` again, and waits until they are ready.
    pub fn start_server(&mut self, index: usize) -> Result<()> {
        let blob = self.blob_file();
        self.backends[index].start(&blob)?;
        self.backends[index].wait()
    }

    /// Stops (SIGSTOP) or continues the web server of backend `index`: its kernel still accepts connections.
    pub fn freeze_server(&self, index: usize, frozen: bool) -> Result<()> {
        self.backends[index].freeze(frozen)
    }

    /// Pulls or plugs the cable of backend `index`.
    pub fn plug(&self, index: usize, plugged: bool) -> Result<()> {
        let state = if plugged { "up" } else { "down" };
        self.router.ip(&format!("link set b{} {state}", index + 1))
    }

    /// SHA-256 of what `/50M` serves: random bytes, made at the first call.
    pub fn blob_sha256(&self) -> Result<String> {
        let path = self.blob_file();
        if !path.exists() {
            let mut file = File::create(&path).with_context(|| path.display().to_string())?;
            io::copy(&mut File::open("/dev/urandom")?.take(BLOB_LENGTH), &mut file)?;
        }
        curl::sha256(&path)
    }

    fn blob_file(&self) -> PathBuf {
        self.dir().join("50M")
    }

    /// The backends as members of a service, by their addresses of `family`, all of weight 1.
    #[must_use]
    pub fn members(&self, family: Family) -> Vec<Member> {
        let member = |backend: &Backend| Member {
            name: backend.name().to_owned(),
            address: backend.address(family),
            port: None,
            weight: 1,
        };
        self.backends.iter().map(member).collect()
    }

    /// A service of the lab's mode on the first VIP of `family`: see [`Service`].
    #[must_use]
    pub fn service(&self, name: &str, family: Family) -> Service {
        Service::new(self, name, family)
    }

    /// A configuration file.
    #[must_use]
    pub fn config(&self, services: &[Service]) -> String {
        config::render(self, "", services)
    }

    /// A configuration file with further lines in `[node]`: `on_exit = "detach"`.
    #[must_use]
    pub fn config_with(&self, node: &str, services: &[Service]) -> String {
        config::render(self, node, services)
    }

    /// Starts a program of the lab, and waits until it is `ready`; what it prints goes into a log in [`Lab::dir`].
    ///
    /// # Errors
    /// It can't be started, ends, or is not ready within ten seconds; the message holds what it printed.
    pub fn start(&self, name: &str, command: Command, ready: impl Fn() -> bool) -> Result<Process> {
        let mut process = Process::start(name, command, self.dir().join(format!("{name}.log")))?;
        process.wait_until(ready)?;
        Ok(process)
    }

    /// Starts Weir with the configuration `config`, and waits until it is ready.
    ///
    /// # Errors
    /// The lab was built without [`LabBuilder::weir`], or it does not start; the message holds its log.
    pub fn weir(&self, config: &str) -> Result<WeirDaemon> {
        let binary = self.weir.as_deref().context("this lab was built without weir")?;
        WeirDaemon::start(binary, &self.balancer, &self.dir(), self.socket(), config)
    }

    /// The daemon's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir().join(SOCKET)
    }

    /// Leaves everything running after this process.
    pub(crate) fn leave(self) {
        // Nothing is dropped; the name is given up when the process ends, and `lab down` finds it by that.
        std::mem::forget(self);
    }

    /// The XDP programs beside Weir's own.
    fn start_helpers(&mut self) -> Result<()> {
        let Some(binary) = &self.weir else { return Ok(()) };
        weir::mount_bpf_filesystem()?;
        let log = |name: &str| self.claim.dir().join(format!("{name}-decap.log"));
        let ports = self.shape.balancer_ports();
        self.helpers.push(weir::accept_xdp_frames(binary, &self.router, ports, log("router"))?);
        if self.shape.mode == Mode::Ipip {
            for backend in &self.backends {
                self.helpers.push(weir::decapsulate(binary, backend.netns(), log(backend.name()))?);
            }
        }
        Ok(())
    }

    fn start_servers(&mut self) -> Result<()> {
        let blob = self.blob_file();
        fs::write(self.dir().join("1M"), vec![b'x'; PAGE_LENGTH])?;
        self.backends.iter_mut().try_for_each(|backend| backend.start(&blob))?;
        self.backends.iter_mut().try_for_each(Backend::wait)
    }
}
