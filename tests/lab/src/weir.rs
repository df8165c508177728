//! Weir itself, as the lab runs it: the daemon in the balancer's namespace and its command line.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{
    addresses::{OUTER_V4, OUTER_V6},
    netns::Netns,
    process::{Process, output, run},
};

/// Where the BPF file system belongs.
const BPF_DIR: &str = "/sys/fs/bpf";

/// A documentation network (RFC 5737) from which nothing ever comes: what is decapsulated from it alone is passed whole.
const NOBODY: &str = "192.0.2.255/32";

/// The daemon of a lab, running or not. Dropped, it is killed; what it pinned goes with the lab.
#[derive(Debug)]
pub struct WeirDaemon {
    binary: PathBuf,
    netns: Netns,
    dir: PathBuf,
    socket: PathBuf,
    process: Option<Process>,
}

impl WeirDaemon {
    pub(crate) fn start(binary: &Path, netns: &Netns, dir: &Path, socket: PathBuf, config: &str) -> Result<Self> {
        fs::write(dir.join("weir.toml"), config)?;
        let mut daemon =
            Self { binary: binary.to_owned(), netns: netns.clone(), dir: dir.to_owned(), socket, process: None };
        daemon.restart()?;
        Ok(daemon)
    }

    /// Where its configuration file is.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.dir.join("weir.toml")
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// All it has logged, over all its starts.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        self.dir.join("weir.log")
    }

    /// Starts it (again), after SIGTERM if it runs, and waits until it answers and knows the state of every backend.
    ///
    /// # Errors
    /// It ends, or is not ready within ten seconds; the message holds its log.
    pub fn restart(&mut self) -> Result<()> {
        if self.process.is_some() {
            self.terminate()?;
        }
        let mut command = self.netns.command(&self.binary);
        command.arg("run").arg("--config").arg(self.config());
        let mut process = Process::start("weir", command, self.log_file())?;
        process.wait_until(|| self.is_ready())?;
        self.process = Some(process);
        Ok(())
    }

    /// Leaves it running after this process.
    pub(crate) fn leave(self) {
        std::mem::forget(self);
    }

    /// Whether it answers, and each backend has been checked; one whose MAC address is still asked for has not.
    fn is_ready(&self) -> bool {
        let is_settled = |backend: &Value| {
            let waits = backend["reason"].as_str().is_some_and(|reason| reason.starts_with("waiting for"));
            backend["state"] != "unknown" && !waits
        };
        let are_settled =
            |service: &Value| service["backends"].as_array().is_some_and(|all| all.iter().all(is_settled));
        let services = self.json(&["service", "list"]);
        services.is_ok_and(|services| services.as_array().is_some_and(|all| all.iter().all(are_settled)))
    }

    /// SIGKILL, as a crash would.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill9(&mut self) -> Result<()> {
        self.process.take().context("weir does not run")?.kill9();
        Ok(())
    }

    /// SIGTERM, and waits for its end.
    ///
    /// # Errors
    /// It does not run, takes more than ten seconds, or ends with another status than 0.
    pub fn terminate(&mut self) -> Result<()> {
        self.process.take().context("weir does not run")?.terminate(Duration::from_secs(10))
    }

    /// Has it replaced by `binary` while it runs, and waits until that is ready.
    ///
    /// # Errors
    /// It is not replaced, or not ready within ten seconds; the message says why.
    pub fn upgrade(&mut self, binary: &Path) -> Result<()> {
        let path = binary.to_str().context("the binary's path is no UTF-8")?;
        self.cli(&["upgrade", "--binary", path])?;
        let mut process = self.process.take().context("weir does not run")?;
        process.wait_until(|| self.is_ready())?;
        self.process = Some(process);
        Ok(())
    }

    /// Runs `weir ARGS` against this daemon, whatever its exit status.
    ///
    /// # Errors
    /// It can't be started.
    pub fn output(&self, args: &[&str]) -> Result<Output> {
        output(self.netns.command(&self.binary).args(args).arg("--socket").arg(&self.socket), "")
    }

    /// Runs `weir ARGS` against this daemon: what it prints.
    ///
    /// # Errors
    /// Its exit status is not 0; the message holds its standard error.
    pub fn cli(&self, args: &[&str]) -> Result<String> {
        run(self.netns.command(&self.binary).args(args).arg("--socket").arg(&self.socket), "")
    }

    /// The same with `--json`.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let printed = self.cli(&[args, &["--json"]].concat())?;
        serde_json::from_str(&printed).with_context(|| format!("weir {args:?} --json printed {printed}"))
    }

    /// What `weir service show` says of `backend`.
    ///
    /// # Errors
    /// There is no such service or backend, or the daemon does not answer.
    pub fn backend(&self, service: &str, backend: &str) -> Result<Value> {
        let shown = self.json(&["service", "show", service])?;
        let mut backends = shown["backends"].as_array().into_iter().flatten();
        let found = backends.find(|candidate| candidate["name"] == backend);
        found.cloned().with_context(|| format!("no backend {backend} in {shown}"))
    }

    /// Waits until `backend` of `service` is in `state` (`up`, `down`, `draining`): the moment at which it was seen.
    ///
    /// # Errors
    /// It is not within `within`.
    pub fn wait_for(&self, service: &str, backend: &str, state: &str, within: Duration) -> Result<Instant> {
        let deadline = Instant::now() + within;
        loop {
            let seen = self.backend(service, backend)?;
            if seen["state"] == state {
                return Ok(Instant::now());
            }
            if Instant::now() > deadline {
                bail!("{backend} is not {state} after {within:?}: {seen}\n{}", self.log());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Connections counted by Weir for each backend of `service`, in the order of the configuration.
    pub fn connections(&self, service: &str) -> Result<Vec<(String, u64)>> {
        let shown = self.json(&["service", "show", service])?;
        let backends = shown["backends"].as_array().context("no backends")?;
        let counts = backends.iter().map(|backend| {
            let name = backend["name"].as_str().context("a backend without a name")?;
            Ok((name.to_owned(), backend["traffic"]["connections"].as_u64().context("no connections")?))
        });
        counts.collect()
    }
}

/// Mounts the BPF file system where systemd has not: Weir pins its programs and maps there.
pub(crate) fn mount_bpf_filesystem() -> Result<()> {
    let mounts = fs::read_to_string("/proc/mounts")?;
    if !mounts.lines().any(|mount| mount.split(' ').skip(1).take(2).eq([BPF_DIR, "bpf"])) {
        run(std::process::Command::new("mount").args(["-t", "bpf", "bpf", BPF_DIR]), "")?;
    }
    Ok(())
}

/// Lets `interfaces` (veth) take the frames that XDP on the other end sends: they need a program for that, and
/// `weir decap` for a network from which nothing comes is one that passes everything.
pub(crate) fn accept_xdp_frames(binary: &Path, netns: &Netns, interfaces: &[&str], log: PathBuf) -> Result<Process> {
    attach_decap(binary, netns, interfaces, &[NOBODY], log)
}

/// Unwraps on `eth0` what Weir has encapsulated.
pub(crate) fn decapsulate(binary: &Path, netns: &Netns, log: PathBuf) -> Result<Process> {
    attach_decap(binary, netns, &["eth0"], &[OUTER_V4, OUTER_V6], log)
}

fn attach_decap(binary: &Path, netns: &Netns, interfaces: &[&str], sources: &[&str], log: PathBuf) -> Result<Process> {
    ensure!(binary.exists(), "there is no {}", binary.display());
    let mut command = netns.command(binary);
    command.arg("decap");
    for interface in interfaces {
        command.args(["--interface", interface]);
    }
    for source in sources {
        command.args(["--source", source]);
    }
    let mut process = Process::start("weir decap", command, log)?;
    process.wait_until(|| interfaces.iter().all(|interface| has_xdp(netns, interface)))?;
    Ok(process)
}

fn has_xdp(netns: &Netns, interface: &str) -> bool {
    let show = ["-netns", netns.name(), "-json", "link", "show", "dev", interface];
    let shown = run(std::process::Command::new("ip").args(show), "").unwrap_or_default();
    serde_json::from_str::<Value>(&shown).is_ok_and(|links| links[0]["xdp"].is_object())
}
