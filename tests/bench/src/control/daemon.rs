//! A running `weir run`, and what it is asked.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::runtime::{self, Runtime};
use weir::{
    api::client::Client,
    config,
    dataplane::{Kernel, Pins},
    object::OBJECT,
    tables::{Dataplane as _, Tables},
};

use super::{place::Place, setting::Setting, slots::Slots};

/// What the daemon says of health and of the network is when it has decided.
const LOG: &str = "info,weir::health=debug,weir::controller::core=debug";
/// Time in which the daemon has to answer, or to end.
const PATIENCE: Duration = Duration::from_mins(2);

/// The daemon. Dropped, it is killed; what it pinned goes with the lab.
pub struct Daemon {
    child: Child,
    client: Client,
    runtime: Runtime,
    socket: PathBuf,
    binary: PathBuf,
    log: PathBuf,
    netns: weir_lab::Netns,
    pins: Pins,
    node: weir::spec::Node,
}

impl Daemon {
    /// Starts it with `setting`, and waits until it answers: the daemon, and how long that took.
    ///
    /// Its state is kept below `state`, which is to be on a disk.
    ///
    /// # Errors
    /// It ends, or does not answer; the message holds its log.
    pub fn start(place: &Place, binary: &Path, setting: &Setting, state: &Path) -> Result<(Self, Duration)> {
        let lab = place.lab();
        let (config, log, socket) = (lab.dir().join("weir.toml"), lab.dir().join("weir.log"), lab.socket());
        let text = setting.file(lab.id(), lab.balancer_interfaces(), &socket, state);
        let node = config::parse(&text, "the benchmark's")?.node;
        fs::write(&config, text)?;
        let output = File::create(&log)?;
        let mut command = lab.balancer().command(binary);
        command.arg("run").arg("--config").arg(&config).args(["--log", LOG]).stdin(Stdio::null());
        command.stdout(output.try_clone()?).stderr(output).process_group(0);
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let client = Client::new(&socket).with_timeout(PATIENCE);
        let began = Instant::now();
        let child = command.spawn().context("can't start weir")?;
        let (netns, pins) = (lab.balancer().clone(), Pins::of(lab.id()));
        let binary = binary.to_owned();
        let mut daemon = Self { child, client, runtime, socket, binary, log, netns, pins, node };
        while daemon.ask(async |client| client.status().await.map(drop)).is_err() {
            if let Some(status) = daemon.child.try_wait()? {
                bail!("weir ended with {status}:\n{}", daemon.tail());
            }
            ensure!(began.elapsed() < PATIENCE, "weir does not answer:\n{}", daemon.tail());
            thread::sleep(Duration::from_millis(1));
        }
        Ok((daemon, began.elapsed()))
    }

    /// Asks it by its socket.
    ///
    /// # Errors
    /// It refuses, or does not answer.
    pub fn ask<T, E: std::error::Error + Send + Sync + 'static>(
        &self,
        question: impl AsyncFnOnce(&Client) -> std::result::Result<T, E>,
    ) -> Result<T> {
        Ok(self.runtime.block_on(question(&self.client))?)
    }

    /// Runs `weir ARGUMENTS`: how long it took.
    ///
    /// # Errors
    /// Its exit status is not 0; the message holds its standard error.
    pub fn cli(&self, arguments: &[&str]) -> Result<Duration> {
        let mut command = self.netns.command(&self.binary);
        command.args(arguments).arg("--socket").arg(&self.socket);
        let began = Instant::now();
        let output = command.output().context("can't start weir")?;
        let took = began.elapsed();
        ensure!(output.status.success(), "weir {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(took)
    }

    /// What the kernel's tables hold: read by a program of this process, on trial over the same pins.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn reader(&self) -> Result<Reader> {
        Ok(Reader(Kernel::open_trial(OBJECT, &self.node, &self.pins)?))
    }

    /// The slot table.
    ///
    /// # Errors
    /// There is none.
    pub fn slots(&self) -> Result<Slots> {
        Slots::open(self.pins.directory())
    }

    /// Where the pins are.
    pub fn pins(&self) -> &Path {
        self.pins.directory()
    }

    /// Length of its log, to find what comes later.
    ///
    /// # Errors
    /// It can't be read.
    pub fn logged(&self) -> Result<u64> {
        Ok(fs::metadata(&self.log)?.len())
    }

    /// When the first line after the first `length` bytes of its log was written that contains `text`.
    ///
    /// # Errors
    /// There is none.
    pub fn said(&self, length: u64, text: &str) -> Result<SystemTime> {
        let log = fs::read(&self.log)?;
        let later = log.get(usize::try_from(length)?..).unwrap_or_default();
        let later = String::from_utf8_lossy(later);
        let line = later.lines().find(|line| line.contains(text));
        let line = line.with_context(|| format!("the daemon has not said {text:?}"))?;
        let time = line.split_ascii_whitespace().next().unwrap_or_default();
        humantime::parse_rfc3339(time).with_context(|| format!("{line:?} does not begin with a time"))
    }

    /// CPU time that it has used, and resident memory in bytes.
    ///
    /// # Errors
    /// /proc tells something else than it should.
    pub fn usage(&self) -> Result<(Duration, u64)> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<u64> = stat
            .rsplit_once(')')
            .map(|(_, rest)| rest.split_ascii_whitespace().map(|field| field.parse().unwrap_or(0)).collect())
            .unwrap_or_default();
        // Fields 14, 15 and 24 of proc(5), of which the first two came before the parenthesis.
        let [user, system, pages] = [11, 12, 21].map(|at| fields.get(at).copied().unwrap_or(0));
        let ticks = rustix::param::clock_ticks_per_second();
        let cpu = Duration::from_secs(user + system) / u32::try_from(ticks)?;
        Ok((cpu, pages * rustix::param::page_size() as u64))
    }

    /// Ends it, and leaves what it pinned.
    ///
    /// # Errors
    /// It does not end, or with another status than 0.
    pub fn stop(mut self) -> Result<()> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM)?;
        self.wait()
    }

    /// Ends it, and removes what it pinned.
    ///
    /// # Errors
    /// It does not end, or with another status than 0.
    pub fn detach(mut self) -> Result<()> {
        self.ask(async |client| client.detach().await)?;
        self.wait()
    }

    fn wait(&mut self) -> Result<()> {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "weir ended with {status}:\n{}", self.tail());
                return Ok(());
            }
            thread::sleep(Duration::from_millis(5));
        }
        bail!("weir does not end:\n{}", self.tail())
    }

    /// The end of its log.
    fn tail(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads the tables of a daemon.
pub struct Reader(Kernel);

impl Reader {
    /// All of them, now.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn tables(&self) -> Result<Tables> {
        self.0.read()
    }
}
