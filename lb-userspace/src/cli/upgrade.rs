//! `weir upgrade`.

use std::{
    env,
    path::{Path, PathBuf, absolute},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, test_kill_process};

use super::{Outcome, context::Context, render};
use crate::api::types::{LastUpgrade, Upgrading};

/// The daemon gives a preflight 30 s.
const PREFLIGHT: Duration = Duration::from_secs(40);
/// It gives the new binary 30 s to be ready, after which the old one has to start.
const PATIENCE: Duration = Duration::from_mins(1);
/// Pause between questions whether it is over.
const PAUSE: Duration = Duration::from_millis(20);

/// Has the daemon become `binary`, and tells how it went.
pub fn upgrade(binary: Option<PathBuf>, context: &mut Context<'_>) -> anyhow::Result<Outcome> {
    let binary = match binary {
        Some(binary) => absolute(binary)?,
        None => env::current_exe().context("can't tell which binary this is")?,
    };
    let begun = ask(&binary, context)?;
    let ended = wait(&begun, context)?;
    context.show(&ended, render::upgrade)?;
    Ok(if ended.failure.is_none() { Outcome::Done } else { Outcome::Failed })
}

fn ask(binary: &Path, context: &Context<'_>) -> anyhow::Result<Upgrading> {
    let running = context.ask(async |client| client.status().await)?.version;
    let asked = context.ask(async |client| client.clone().with_timeout(PREFLIGHT).upgrade(binary).await);
    asked.with_context(|| format!("not upgraded, version {running} goes on"))
}

/// Waits until the daemon tells how the upgrade ended.
fn wait(begun: &Upgrading, context: &Context<'_>) -> anyhow::Result<LastUpgrade> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        // A process that is gone doesn't come back; asked first, so that what it said last is not missed.
        let gone = is_gone(begun.pid);
        match context.ask(async |client| client.status().await) {
            Ok(status) => match status.last_upgrade.filter(|last| last.at_unix_ms == begun.at_unix_ms) {
                Some(last) => return Ok(last),
                None if status.pid != begun.pid => bail!(
                    "the daemon ended in the upgrade from {} to {}, and another (pid {}, version {}) was started; see \
                     its log",
                    begun.from,
                    begun.to,
                    status.pid,
                    status.version
                ),
                None => {}
            },
            Err(error) if gone => return Err(error).context(
                "the daemon ended in the upgrade; what was attached goes on forwarding, see its log and start it again",
            ),
            // It is on its way from one binary to the other.
            Err(_) => {}
        }
        sleep(PAUSE);
    }
    bail!("the daemon has not told within {} s how the upgrade ended; see its log", PATIENCE.as_secs())
}

fn is_gone(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| test_kill_process(pid) == Err(rustix::io::Errno::SRCH))
}
