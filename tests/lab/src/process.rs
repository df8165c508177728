//! Child processes: short ones that are run to their end, long ones that are killed with the lab.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::cleanup;

/// Runs `command` to its end with `input` on its standard input; its standard output.
///
/// # Errors
/// It can't be started, or it exits with anything but 0: the message holds its standard error.
pub(crate) fn run(command: &mut Command, input: &str) -> Result<String> {
    let output = output(command, input)?;
    if !output.status.success() {
        bail!("{}: {}: {}", line(command), output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs `command` to its end with `input` on its standard input, whatever its exit status.
///
/// # Errors
/// It can't be started.
pub(crate) fn output(command: &mut Command, input: &str) -> Result<Output> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("can't start {}", line(command)))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that ends without reading all its input says so by its exit status.
        let _ = stdin.write_all(input.as_bytes());
    }
    child.wait_with_output().with_context(|| line(command))
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// A long-running child, killed when dropped. Its output goes to a log file.
#[derive(Debug)]
pub struct Process {
    child: Child,
    what: String,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; what it prints is appended to `log`.
    ///
    /// It gets a process group of its own, so that Ctrl-C on the terminal reaches the lab and not its servers.
    pub(crate) fn start(what: &str, mut command: Command, log: PathBuf) -> Result<Self> {
        let _gate = cleanup::gate();
        let file = File::options().create(true).append(true).open(&log).with_context(|| log.display().to_string())?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).process_group(0);
        let child = command.spawn().with_context(|| format!("can't start {}", line(&command)))?;
        Ok(Self { child, what: what.to_owned(), log })
    }

    /// Process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// All it has printed so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether it has not exited yet.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("process id")?;
        kill_process(pid, signal).with_context(|| format!("{} (pid {pid:?}): {signal:?}", self.what))
    }

    /// SIGKILL, and waits for its end.
    pub fn kill9(mut self) {
        self.end();
    }

    /// SIGTERM, and waits for its end for up to `within`.
    ///
    /// # Errors
    /// It has not ended by then (it is killed), or its exit status was not 0: the message holds its output.
    pub fn terminate(mut self, within: Duration) -> Result<()> {
        self.signal(Signal::TERM)?;
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                if status.success() {
                    return Ok(());
                }
                bail!("{} ended on SIGTERM with {status}:\n{}", self.what, self.log());
            }
            thread::sleep(Duration::from_millis(5));
        }
        bail!("{} still runs {within:?} after SIGTERM:\n{}", self.what, self.log());
    }

    /// Waits until `ready` says so, for up to ten seconds.
    ///
    /// # Errors
    /// It ends before, or is not ready by then: the message holds its output.
    pub(crate) fn wait_until(&mut self, ready: impl Fn() -> bool) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !ready() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended at once with {status}:\n{}", self.what, self.log());
            }
            if Instant::now() > deadline {
                bail!("{} is not ready after 10 s:\n{}", self.what, self.log());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn end(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}
