//! The servers of a backend.

mod nginx;
mod who;

use std::{
    net::{IpAddr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::process::Signal;

use self::who::Who;
pub use self::who::{TCP_LINE_PORT, TCP_LINE_PORTS, UDP_ECHO_PORT};
use crate::{addresses::Family, netns::Netns, process::Process};

/// The ports on which every backend serves HTTP.
pub const HTTP_PORTS: [u16; 3] = [80, 8080, 8443];

/// A backend: nginx on [`HTTP_PORTS`], a line server and an echo server, all of which answer with its name.
#[derive(Debug)]
pub struct Backend {
    name: String,
    netns: Netns,
    v4: IpAddr,
    v6: IpAddr,
    /// Further addresses that it answers on.
    vips: Vec<IpAddr>,
    dir: PathBuf,
    nginx: Option<Process>,
    who: Option<Who>,
}

impl Backend {
    pub(crate) fn new(name: String, netns: Netns, v4: IpAddr, v6: IpAddr, vips: Vec<IpAddr>, lab_dir: &Path) -> Self {
        let dir = lab_dir.join(&name);
        Self { name, netns, v4, v6, vips, dir, nginx: None, who: None }
    }

    /// `b1` and so on: what its servers answer with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Its own address.
    #[must_use]
    pub fn address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    /// Starts what does not run; [`Backend::wait`] says when it is ready.
    pub(crate) fn start(&mut self, blob: &Path) -> Result<()> {
        if self.nginx.is_none() {
            self.nginx = Some(nginx::start(&self.name, &self.netns, &self.dir, blob)?);
        }
        if self.who.is_none() {
            let udp = [self.v4, self.v6].into_iter().chain(self.vips.iter().copied()).collect::<Vec<_>>();
            self.who = Some(Who::start(&self.name, &self.netns, &udp)?);
        }
        Ok(())
    }

    /// Waits until nginx accepts connections.
    pub(crate) fn wait(&mut self) -> Result<()> {
        let address = SocketAddr::new(self.v4, HTTP_PORTS[0]);
        let connects = || TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok();
        let netns = self.netns.clone();
        let nginx = self.nginx.as_mut().context("nginx is stopped")?;
        nginx.wait_until(|| netns.enter(connects).unwrap_or(false))
    }

    /// Kills its servers as a crash would: SIGKILL, connections reset.
    pub(crate) fn stop(&mut self) {
        self.nginx.take().into_iter().for_each(Process::kill9);
        self.who = None;
    }

    /// Stops or continues nginx: a server that hangs, whose kernel still accepts connections.
    pub(crate) fn freeze(&self, frozen: bool) -> Result<()> {
        let nginx = self.nginx.as_ref().with_context(|| format!("{}'s nginx does not run", self.name))?;
        nginx.signal(if frozen { Signal::STOP } else { Signal::CONT })
    }
}
