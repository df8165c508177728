//! The preflight: a binary shows that it could take over from the daemon that runs, without touching anything.

use std::{path::Path, process::Stdio, time::Duration};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::{Child, Command},
    time::timeout,
};

use super::{VERSION, baton};
use crate::{
    controller::Start,
    dataplane::{Kernel, Link, Pins},
    object::OBJECT,
    selftest,
    spec::Node,
};

/// Within this time a preflight must be over.
const PATIENCE: Duration = Duration::from_secs(30);

/// Most bytes that are read of what a preflight prints.
const MOST_OUTPUT: u64 = 64 << 10;

/// What a binary says of itself that has passed: a line of JSON on standard output. Fields are only ever added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passed {
    /// Its version. The name of the field tells a Weir from other programs.
    pub weir: String,
    /// Packets that its self-test was made with.
    pub packets: u64,
}

/// Does what a daemon with the configuration file at `config` would do to take over, as far as that changes nothing:
/// configuration, interfaces, layout and sizes of the pinned tables, the verifier, the self-test.
///
/// # Errors
/// The daemon would not start, or its program fails the self-test.
pub fn run(config: &Path) -> anyhow::Result<Passed> {
    let node = Start::load(config)?.spec.node;
    let packets = test(&node, &Pins::of(&node.instance))?;
    Ok(Passed { weir: VERSION.to_owned(), packets: packets as u64 })
}

/// Tests this binary's program over the tables that are pinned under `pins`: with how many packets.
///
/// # Errors
/// As of [`Kernel::open_trial`] and [`selftest::run`], or an interface is missing.
pub fn test(node: &Node, pins: &Pins) -> anyhow::Result<usize> {
    let mut ingress = None;
    for interface in &node.interfaces {
        let link = Link::of(interface, node.xdp)?;
        ingress.get_or_insert(link.index);
    }
    let mut kernel = Kernel::open_trial(OBJECT, node, pins)?;
    selftest::run(&mut kernel, ingress.context("there is no interface")?)
}

/// Has `binary` make its preflight for the configuration file at `config`.
///
/// # Errors
/// It does not pass, is not over in time, or is no Weir.
pub async fn ask(binary: &Path, config: &Path) -> anyhow::Result<Passed> {
    let mut command = Command::new(binary);
    command.arg("preflight").arg("--config").arg(config).env_remove(baton::VARIABLE);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
    let mut group = Group(command.spawn().context("it can't be executed")?);
    let child = &mut group.0;
    let (out, err) = (child.stdout.take().context("no output")?, child.stderr.take().context("no output")?);
    let over = async {
        let (out, err) = tokio::join!(read(out), read(err));
        (out, err, child.wait().await)
    };
    let over = timeout(PATIENCE, over).await;
    let (out, err, status) =
        over.with_context(|| format!("it was not over within {} s and was killed", PATIENCE.as_secs()))?;
    let status = status.context("it can't be waited for")?;
    if !status.success() {
        let err = err.trim().trim_start_matches("weir: ");
        bail!("{}", if err.is_empty() { status.to_string() } else { err.to_owned() });
    }
    let passed = serde_json::from_str::<Passed>(&out);
    ensure!(passed.is_ok(), "it does not answer as weir does");
    Ok(passed?)
}

/// The beginning of what comes by `pipe`, which is closed then: who writes more has itself to blame.
async fn read(pipe: impl AsyncRead + Unpin) -> String {
    let mut bytes = Vec::new();
    // What has come before an error is all there is.
    let _ = pipe.take(MOST_OUTPUT).read_to_end(&mut bytes).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A child that leads a process group: all of the group ends with this, unless the child has ended before.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        let leader = self.0.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(leader) = leader {
            // Fails only when all of it has ended.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}
