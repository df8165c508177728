//! The network that the daemon runs in: the lab's, with all backends behind one router, where any of their addresses answers.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use weir_lab::{Family, Lab, Mode, Netns};

use super::setting::{CHECK_PORT, NETWORK};

/// The lab, and the servers that health checks meet.
pub struct Place {
    // Dropped before the lab is.
    servers: HashMap<Ipv4Addr, Server>,
    lab: Lab,
}

impl Place {
    /// Makes it; `weir` is the binary.
    ///
    /// # Errors
    /// This host can't have a lab.
    pub fn build(weir: &Path) -> Result<Self> {
        let lab = Lab::builder().backends(1).mode(Mode::Ipip).weir(weir).build()?;
        let [router] = lab.backends() else { unreachable!("a lab of one backend") };
        let address = router.address(Family::V4);
        let mac = mac(router.netns())?;
        let interface = lab.balancer_interfaces()[0];
        // The neighbour is known for good: to find it is not what is measured.
        lab.balancer().ip(&format!(
            "neigh replace {address} lladdr {mac} dev {interface} nud permanent\nroute add {NETWORK} via {address}\n"
        ))?;
        router.netns().ip(&format!("route add local {NETWORK} dev lo\n"))?;
        Ok(Self { servers: HashMap::new(), lab })
    }

    /// The lab.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Starts what health checks connect to at each of `addresses`.
    ///
    /// # Errors
    /// An address can't be had.
    pub fn serve(&mut self, addresses: impl Iterator<Item = Ipv4Addr>) -> Result<()> {
        for address in addresses {
            let server = Server::start(self.lab.backends()[0].netns(), address)?;
            self.servers.insert(address, server);
        }
        Ok(())
    }

    /// Stops the server at `address`: from now on connections are refused.
    pub fn kill(&mut self, address: Ipv4Addr) {
        self.servers.remove(&address);
    }

    /// Takes the way to `address` from the balancer, or gives it back.
    ///
    /// # Errors
    /// `ip` refuses.
    pub fn cut(&self, address: Ipv4Addr, cut: bool) -> Result<()> {
        let what = if cut { "add" } else { "delete" };
        self.lab.balancer().ip(&format!("route {what} unreachable {address}/32\n"))
    }
}

/// The link-layer address of the first interface of a backend.
fn mac(netns: &Netns) -> Result<String> {
    let shown = netns.command("ip").args(["-json", "link", "show", "dev", "eth0"]).output()?;
    ensure!(shown.status.success(), "ip link show failed");
    let links: Value = serde_json::from_slice(&shown.stdout)?;
    links[0]["address"].as_str().map(str::to_owned).context("eth0 has no address")
}

/// Accepts connections at one address and closes them.
struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(netns: &Netns, address: Ipv4Addr) -> Result<Self> {
        let listener = netns.enter(|| TcpListener::bind(SocketAddr::from((address, CHECK_PORT))))??;
        listener.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                while listener.accept().is_ok() {}
                thread::sleep(Duration::from_millis(20));
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Its end closes the listener.
        self.thread.take().map(JoinHandle::join);
    }
}
