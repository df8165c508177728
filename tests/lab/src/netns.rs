//! Network namespaces, by name.

use std::{
    fs::{self, File},
    os::fd::AsFd as _,
    panic,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context as _, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{cleanup, process::run};

/// Where `ip netns` keeps its names.
pub(crate) const NETNS_DIR: &str = "/run/netns";

/// A named network namespace. Only the name is kept: the lab removes the namespace itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes the namespace `name`, with its loopback up.
    pub(crate) fn create(name: String) -> Result<Self> {
        let _gate = cleanup::gate();
        run(Command::new("ip").args(["netns", "add", &name]), "")?;
        Ok(Self { name })
    }

    /// The namespace called `name`, if there is one.
    pub(crate) fn existing(name: String) -> Option<Self> {
        Path::new(NETNS_DIR).join(&name).exists().then_some(Self { name })
    }

    /// Its name as `ip netns` lists it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that `nsenter --net=` wants.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(NETNS_DIR).join(&self.name)
    }

    /// `program`, to be run inside.
    ///
    /// By nsenter, because `ip netns exec` mounts a new /sys and so hides the BPF file system.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// Runs `job` in a thread inside; sockets that it opens stay in the namespace wherever they are used.
    ///
    /// # Errors
    /// The namespace can't be entered.
    ///
    /// # Panics
    /// When `job` does.
    pub fn enter<T: Send>(&self, job: impl FnOnce() -> T + Send) -> Result<T> {
        let inside = || format!("enter namespace {}", self.name);
        let file = File::open(self.path()).with_context(inside)?;
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).with_context(inside)?;
                Ok(job())
            });
            worker.join().unwrap_or_else(|payload| panic::resume_unwind(payload))
        })
    }

    /// Runs lines of `ip` commands inside, stopping at the first that fails.
    pub fn ip(&self, lines: &str) -> Result<()> {
        run(Command::new("ip").args(["-netns", &self.name, "-batch", "-"]), lines)?;
        Ok(())
    }

    /// Writes settings below /proc/sys/net: `("ipv4/ip_forward", "1")`.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.enter(|| {
            settings.iter().try_for_each(|(key, value)| {
                fs::write(format!("/proc/sys/net/{key}"), value).with_context(|| format!("{}: {key}", self.name))
            })
        })?
    }

    /// Ids of the processes inside.
    pub(crate) fn pids(&self) -> Vec<i32> {
        let listed = run(Command::new("ip").args(["netns", "pids", &self.name]), "").unwrap_or_default();
        listed.lines().filter_map(|line| line.trim().parse().ok()).collect()
    }
}
