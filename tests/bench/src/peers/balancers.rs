//! Who takes part, and how each is set up: in a lab of its own, so that nothing that one leaves meets another.

use std::{
    env,
    ffi::OsString,
    fmt, fs,
    net::{SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use weir_lab::{Family, HTTP_PORTS, Lab, Mode, Process, TCP_LINE_PORT, WeirDaemon, config::Service};

use super::{
    cpu::{Cpus, Task},
    receive,
};

/// Clients of each lab, and backends. The files in `config/` name as many.
pub const MEMBERS: u8 = 3;

/// What other balancers are, beside what the lab needs anyway.
const PROGRAMS: [&str; 3] = ["haproxy", "nft", "/usr/lib/nginx/modules/ngx_stream_module.so"];

/// The balancer's interface, and the router's that it is plugged into.
const INTERFACE: &str = "eth0";
const ROUTERS_PORT: &str = "lb0";

/// A way from the clients to the backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Peer {
    /// No balancer: each client has a backend of its own, through the router.
    Direct,
    /// Weir in mode `nat`: packets of both directions pass through it.
    WeirNat,
    /// Weir in mode `l2`: backends answer their clients directly.
    WeirL2,
    /// `HAProxy` in TCP mode.
    Haproxy,
    /// nginx with its stream module.
    Nginx,
    /// Destination NAT by nftables.
    Nftables,
}

impl Peer {
    /// All of them, as in tables.
    pub const ALL: [Self; 6] = [Self::Direct, Self::WeirNat, Self::WeirL2, Self::Haproxy, Self::Nginx, Self::Nftables];

    /// What tables call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::WeirNat => "weir-nat",
            Self::WeirL2 => "weir-l2",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Nftables => "nftables",
        }
    }

    /// What the lab is wired for. In `nat` the backends' way to their clients is through the balancer.
    const fn wiring(self) -> Mode {
        match self {
            Self::Direct | Self::WeirL2 => Mode::L2,
            Self::WeirNat | Self::Haproxy | Self::Nginx | Self::Nftables => Mode::Nat,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Checks that every balancer is installed.
///
/// # Errors
/// The message names what is missing.
pub fn check() -> Result<()> {
    let path = env::var_os("PATH").unwrap_or_default();
    let is_there = |program: &&str| env::split_paths(&path).any(|dir| dir.join(program).is_file());
    let missing: Vec<_> = PROGRAMS.into_iter().filter(|program| !is_there(program)).collect();
    ensure!(missing.is_empty(), "missing: {}; cargo xtask setup installs them", missing.join(", "));
    Ok(())
}

/// A lab with a balancer in it that works.
#[derive(Debug)]
pub struct Contender {
    /// Which.
    pub peer: Peer,
    // Dropped before the lab that it runs in.
    process: Option<Balancer>,
    /// Its lab.
    pub lab: Lab,
    receivers: Vec<Task>,
}

/// A balancer that has a process.
#[derive(Debug)]
enum Balancer {
    Weir(WeirDaemon),
    Other(Process),
}

impl Contender {
    /// Builds the lab of `peer` and starts its balancer on its CPU. `weir` is also what makes the router's interface take
    /// frames from XDP, in every lab, so that all have the same network.
    ///
    /// # Errors
    /// A program is missing or does not start, or the kernel refuses something.
    pub fn start(peer: Peer, cpus: &Cpus, weir: &Path) -> Result<Self> {
        cpus.keep_off()?;
        let lab = Lab::builder().clients(MEMBERS).backends(MEMBERS).mode(peer.wiring()).weir(weir).build()?;
        for client in lab.clients() {
            // A client's port is free for the next connection after a second.
            client.sysctl(&[("ipv4/tcp_tw_reuse", "1")])?;
        }
        let process = cpus.on_balancers(|| start(peer, &lab)).with_context(|| format!("start {peer}"))?;
        let receivers = receive::in_threads(lab.balancer(), INTERFACE)?;
        receivers.iter().try_for_each(|thread| cpus.give_balancer(*thread))?;
        for thread in receive::in_threads(lab.router(), ROUTERS_PORT)? {
            cpus.give_rest(thread)?;
        }
        Ok(Self { peer, process, lab, receivers })
    }

    /// CPU time that the balancer has used so far: its process, and the threads that receive for it.
    ///
    /// # Errors
    /// It has ended.
    pub fn cpu_time(&self) -> Result<Duration> {
        let process = match &self.process {
            None => None,
            Some(Balancer::Weir(daemon)) => Some(daemon.id().context("weir has ended")?),
            Some(Balancer::Other(process)) => Some(process.id()),
        };
        let process = process.map(Task::new).transpose()?;
        self.receivers.iter().copied().chain(process).map(Task::cpu_time).sum()
    }

    /// The daemon, if this is Weir.
    #[must_use]
    pub fn weir(&self) -> Option<&WeirDaemon> {
        match &self.process {
            Some(Balancer::Weir(daemon)) => Some(daemon),
            _ => None,
        }
    }

    /// Where client `number` (from 0) finds the service that backends have on `port`.
    #[must_use]
    pub fn target(&self, number: usize, port: u16) -> SocketAddr {
        let address = match self.peer {
            Peer::Direct => self.lab.backends()[number % self.lab.backends().len()].address(Family::V4),
            _ => Family::V4.vip(1),
        };
        SocketAddr::new(address, port)
    }

    /// Packets that were sent to the balancer's interface so far.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn packets(&self) -> Result<u64> {
        Ok(sent(&self.lab, ROUTERS_PORT)?.packets)
    }

    /// Bytes of packets that backend `number` (from 0) has sent so far.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn bytes_of(&self, number: usize) -> Result<u64> {
        let counters = self.lab.backends()[number].netns().enter(|| fs::read_to_string(COUNTERS))??;
        Ok(Sent::of(&counters, INTERFACE).context("no counters of a backend")?.bytes)
    }
}

fn start(peer: Peer, lab: &Lab) -> Result<Option<Balancer>> {
    match peer {
        Peer::Direct => Ok(None),
        Peer::WeirNat | Peer::WeirL2 => Ok(Some(Balancer::Weir(lab.weir(&lab.config(&services(lab)))?))),
        Peer::Haproxy => {
            let run = |file: &Path| ["-db".into(), "-f".into(), file.into()];
            proxy(lab, "haproxy", include_str!("config/haproxy.cfg"), run).map(Some)
        }
        Peer::Nginx => {
            let run = |file: &Path| {
                let dir = file.parent().unwrap_or(file);
                ["-e".into(), "stderr".into(), "-p".into(), dir.into(), "-c".into(), file.into()]
            };
            proxy(lab, "nginx", include_str!("config/nginx.conf"), run).map(Some)
        }
        Peer::Nftables => nftables(lab).map(|()| None),
    }
}

/// What all of them balance: the web servers, and the line servers.
fn services(lab: &Lab) -> [Service; 2] {
    let health = r#"{ port = 80, interval = "1s", rise = 2, fall = 2 }"#.to_owned();
    let web = Service { health, ..lab.service("web", Family::V4) };
    let lines = Service { name: "lines".to_owned(), port: Some(TCP_LINE_PORT), ..web.clone() };
    [web, lines]
}

/// Starts a proxy that listens on the VIP.
fn proxy<const N: usize>(
    lab: &Lab,
    program: &str,
    configuration: &str,
    arguments: impl Fn(&Path) -> [OsString; N],
) -> Result<Balancer> {
    let file = lab.dir().join(format!("{program}.conf"));
    fs::write(&file, configuration)?;
    take_vip(lab)?;
    // Each connection to a backend has a port of the balancer.
    lab.balancer().sysctl(&[("ipv4/ip_local_port_range", "1024 65535"), ("ipv4/tcp_tw_reuse", "1")])?;
    lab.balancer().sysctl(&[("core/somaxconn", "4096")])?;
    let mut command = lab.balancer().command(program);
    command.args(arguments(&file));
    let vip = SocketAddr::new(Family::V4.vip(1), HTTP_PORTS[0]);
    let listens = || TcpStream::connect_timeout(&vip, Duration::from_secs(1)).is_ok();
    Ok(Balancer::Other(lab.start(program, command, || lab.balancer().enter(listens).unwrap_or(false))?))
}

/// Gives the VIP to the balancer's kernel.
fn take_vip(lab: &Lab) -> Result<()> {
    lab.balancer().ip(&format!("address add {} dev lo", Family::V4.vip(1)))
}

/// Has the balancer's kernel forward. Connections that have ended are forgotten soon: all namespaces share the number of
/// those that may be known.
fn nftables(lab: &Lab) -> Result<()> {
    let balancer = lab.balancer();
    let file = lab.dir().join("nftables.nft");
    fs::write(&file, include_str!("config/nftables.nft"))?;
    receive::run(balancer.command("nft").arg("-f").arg(&file))?;
    balancer.sysctl(&[
        ("ipv4/ip_forward", "1"),
        ("netfilter/nf_conntrack_tcp_timeout_time_wait", "1"),
        ("netfilter/nf_conntrack_tcp_timeout_close", "1"),
        ("netfilter/nf_conntrack_tcp_timeout_fin_wait", "5"),
        ("netfilter/nf_conntrack_tcp_timeout_close_wait", "5"),
        ("netfilter/nf_conntrack_tcp_timeout_last_ack", "5"),
    ])
}

/// Where a thread finds the counters of its namespace's interfaces.
const COUNTERS: &str = "/proc/thread-self/net/dev";

/// What an interface has sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sent {
    bytes: u64,
    packets: u64,
}

/// What the router has sent through `device`.
fn sent(lab: &Lab, device: &str) -> Result<Sent> {
    let counters = lab.router().enter(|| fs::read_to_string(COUNTERS))??;
    Sent::of(&counters, device).with_context(|| format!("no counters of {device}"))
}

impl Sent {
    /// Reads `/proc/net/dev`: after the colon eight figures of what was received, then bytes and packets sent.
    fn of(counters: &str, device: &str) -> Option<Self> {
        let (_, figures) =
            counters.lines().filter_map(|line| line.split_once(':')).find(|(name, _)| name.trim() == device)?;
        let mut figures = figures.split_whitespace().skip(8).map_while(|figure| figure.parse().ok());
        Some(Self { bytes: figures.next()?, packets: figures.next()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_interface_has_sent_is_read() {
        let counters = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       2    0    0    0     0          0         0      100       2    0    0    0     0       0          0
   lb0: 3000000    4000    0    0    0     0          0         0   500000    6000    0    0    0     0       0          0
";
        assert_eq!(Sent::of(counters, "lb0"), Some(Sent { bytes: 500_000, packets: 6000 }));
        assert_eq!(Sent::of(counters, "lb"), None);
    }

    /// The files name addresses, which the lab gives.
    #[test]
    fn every_file_has_the_vip_and_all_backends_and_ports() {
        for file in
            [include_str!("config/haproxy.cfg"), include_str!("config/nginx.conf"), include_str!("config/nftables.nft")]
        {
            assert!(file.contains(&Family::V4.vip(1).to_string()));
            assert!(file.contains("80") && file.contains(&TCP_LINE_PORT.to_string()));
            for backend in 1..=MEMBERS {
                assert!(file.contains(&format!("10.2.0.{}", 10 + backend)), "{backend} is missing in {file}");
            }
            assert!(!file.contains(&format!("10.2.0.{}", 11 + MEMBERS)));
        }
    }
}
