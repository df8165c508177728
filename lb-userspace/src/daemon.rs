//! `weir run`: puts the parts together and ends them in order.

use std::{
    io,
    panic::{self, AssertUnwindSafe},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{sync::watch, task::JoinSet};
use tracing::{error, info, warn};

use crate::{
    api::{control::Control, routes::Daemon, server::Server, types::LastUpgrade},
    cli::format,
    controller::{Controller, Start},
    dataplane::{Kernel, Pins},
    decap::terminated,
    health::TcpProbe,
    metrics,
    nexthop::NetworkMonitor,
    object::OBJECT,
    spec::Node,
    tables::Dataplane as _,
    upgrade::{
        Next, Upgrades,
        baton::{self, Inherited, Predecessor},
        preflight,
    },
};

/// How long what goes on in the background may take to end.
const GRACE: Duration = Duration::from_secs(2);

/// Runs the daemon with the configuration file at `config` until SIGTERM, SIGINT or `weir detach`. With `weir upgrade`
/// this process becomes another binary; if that can't take over, it comes back here with the configuration that it ran
/// with.
///
/// # Errors
/// The configuration is refused, another daemon of the same instance runs, or the kernel or the system refuses
/// something; forwarding that an earlier daemon set up goes on then.
pub fn run(config: &Path) -> anyhow::Result<()> {
    match Inherited::take() {
        None => live(Start::load(config)?, Origin::Fresh),
        Some(Inherited::Predecessor(predecessor)) => succeed(config, &predecessor),
        Some(Inherited::Returned { upgrade, config: text }) => {
            baton::take_back_name();
            let why = upgrade.failure.as_deref().unwrap_or_default();
            error!("not upgraded to {}, version {} goes on: {why}", upgrade.binary.display(), upgrade.from);
            live(Start::with(config, text)?, Origin::Returned(upgrade))
        }
    }
}

/// Takes over from the daemon that this process was; goes back to it if that fails in any way before this one is ready.
fn succeed(config: &Path, predecessor: &Predecessor) -> anyhow::Result<()> {
    predecessor.watch();
    let attempt = || live(Start::load(config)?, Origin::Upgraded(predecessor.clone()));
    match panic::catch_unwind(AssertUnwindSafe(attempt)) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => {
            predecessor.go_back(&format!("{error:#}"));
            Err(error)
        }
        Err(panic) => {
            predecessor.go_back("it panicked; its log tells where");
            panic::resume_unwind(panic)
        }
    }
}

/// How a daemon came to be.
enum Origin {
    /// It was started.
    Fresh,
    /// Another binary in the same process is waiting to be told that this one is ready.
    Upgraded(Predecessor),
    /// The process tried to become another binary, and this is the old one again.
    Returned(LastUpgrade),
}

impl Origin {
    /// Called when the daemon is ready: there is no way back from here. What its status is to say of it.
    fn settle(self) -> Option<LastUpgrade> {
        match self {
            Self::Fresh => None,
            Self::Returned(upgrade) => Some(upgrade),
            Self::Upgraded(predecessor) => predecessor.dismiss(),
        }
    }
}

/// Runs the daemon from `start` to its end, or until it is to become another binary.
fn live(start: Start, origin: Origin) -> anyhow::Result<()> {
    raise_file_limit();
    let text = start.text.clone();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("can't start the runtime")?;
    let next = runtime.block_on(serve(start, origin))?;
    // The other binary must find nobody else at work.
    runtime.shutdown_timeout(GRACE);
    match next {
        None => Ok(()),
        Some(next) => {
            info!("becoming {}, version {}", next.binary.display(), next.version);
            Err(baton::pass_on(next, &text).context("can't become another binary, nor go on"))
        }
    }
}

/// Allows as many open files as this process may have: checks and connections are files, and the usual limit is there
/// for the sake of programs that know no more than 1,024.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        warn!("can't raise the limit of open files: {error}");
    }
}

/// Serves until the end; what the daemon is to become then, if not nothing.
async fn serve(start: Start, origin: Origin) -> anyhow::Result<Option<Next>> {
    let node = start.spec.node.clone();
    // First of all: a second daemon of this instance ends here, before it touches the data plane.
    let api = Server::bind(&node.socket)?;
    let scraped = match node.metrics {
        Some(address) => {
            let bound = metrics::Server::bind(address).await;
            Some(bound.with_context(|| format!("can't serve metrics at {address}"))?)
        }
        None => None,
    };
    let (upgrades, mut decided) = Upgrades::new(&start.config);
    let network = NetworkMonitor::start().await.context("can't follow routes and neighbours")?;
    let mut controller = start_controller(start, &node, network)?;

    let handle = controller.handle();
    if let Some(upgrade) = origin.settle() {
        handle.upgraded(upgrade).await?;
    }
    let control: Arc<dyn Control> = Arc::new(handle.clone());
    let (stop, stopped) = watch::channel(());
    let mut servers = JoinSet::new();
    let daemon = Daemon { control: Arc::clone(&control), upgrader: Arc::new(upgrades) };
    servers.spawn(api.serve(daemon, closed(stopped.clone())));
    if let Some(scraped) = scraped {
        info!("metrics at http://{}/metrics", scraped.address()?);
        servers.spawn(scraped.serve(control, closed(stopped)));
    }
    info!("ready: {}", node.socket.display());

    let mut next = None;
    tokio::select! {
        ended = controller.ended() => ended.context("the controller failed")?,
        signal = terminated() => {
            signal.context("can't wait for signals")?;
            handle.stop().await?;
            controller.ended().await.context("the controller failed")?;
        }
        Some(binary) = decided.recv() => {
            handle.leave().await?;
            controller.ended().await.context("the controller failed")?;
            next = Some(binary);
        }
    }
    drop(stop);
    end(servers, next.is_some()).await?;
    Ok(next)
}

/// Waits for the servers to end. If another binary is due, it is to go on whatever became of them.
async fn end(mut servers: JoinSet<io::Result<()>>, handing_over: bool) -> anyhow::Result<()> {
    while let Some(served) = servers.join_next().await {
        match served.map_err(anyhow::Error::from).and_then(|served| Ok(served?)) {
            Err(failure) if handing_over => error!("a server of the API or of metrics failed: {failure:#}"),
            result => result?,
        }
    }
    Ok(())
}

/// Loads and attaches the data plane, and has the controller make its tables right.
fn start_controller(start: Start, node: &Node, network: NetworkMonitor) -> anyhow::Result<Controller> {
    let pins = Pins::of(&node.instance);
    let mut kernel = Kernel::open(OBJECT, node, pins.clone())?;
    tell_memory(&kernel);
    let adopted = kernel.adopted();
    let tested = if adopted { test(node, &pins) } else { Ok(()) };
    let started = tested
        .and_then(|()| kernel.attach(&node.interfaces, node.xdp))
        .and_then(|()| Controller::start(start, Box::new(kernel), Arc::new(network), Arc::new(TcpProbe)));
    if started.is_err() && !adopted {
        pins.abandon();
    }
    started
}

/// Tests this program over the tables that it is to forward by; the one that is attached forwards in the meantime.
fn test(node: &Node, pins: &Pins) -> anyhow::Result<()> {
    info!("taking over the tables in {}", pins.directory().display());
    let packets = preflight::test(node, pins)?;
    info!("self-test passed: {packets} packets");
    Ok(())
}

/// Logs what the tables take of the kernel's memory: the flow tables' sizes are the operator's to choose.
fn tell_memory(kernel: &Kernel) {
    let tables = match kernel.memory() {
        Ok(tables) => tables,
        Err(error) => return warn!("can't tell the memory of the kernel's tables: {error:#}"),
    };
    let of = |name: &str| tables.iter().filter(|table| table.name == name).map(|table| table.bytes).sum();
    let all = tables.iter().map(|table| table.bytes).sum();
    let [v4, v6, all] = [of("flows-v4"), of("flows-v6"), all].map(format::bytes);
    info!("kernel memory: {v4} for the flow table of IPv4, {v6} for that of IPv6, {all} for all tables");
}

/// Ready when the sender is dropped.
async fn closed(mut stopped: watch::Receiver<()>) {
    while stopped.changed().await.is_ok() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_that_fails_does_not_stop_an_upgrade() {
        let servers = || {
            let mut servers = JoinSet::new();
            servers.spawn(async { Err(io::Error::other("the listener is gone")) });
            servers.spawn(async { Ok(()) });
            servers
        };
        end(servers(), true).await.unwrap();
        assert!(end(servers(), false).await.unwrap_err().to_string().contains("the listener is gone"));
    }
}
