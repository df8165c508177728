//! `weir run`: puts the parts together and ends them in order.

use std::{path::Path, sync::Arc};

use anyhow::Context as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{sync::watch, task::JoinSet};
use tracing::{info, warn};

use crate::{
    api::{control::Control, server::Server},
    controller::{Controller, Start},
    dataplane::{Kernel, Pins},
    decap::terminated,
    health::TcpProbe,
    metrics,
    nexthop::NetworkMonitor,
    object::OBJECT,
    spec::Node,
};

/// Runs the daemon with the configuration file at `config` until SIGTERM, SIGINT or `weir detach`.
///
/// # Errors
/// The configuration is refused, another daemon of the same instance runs, or the kernel or the system refuses
/// something; forwarding that an earlier daemon set up goes on then.
pub fn run(config: &Path) -> anyhow::Result<()> {
    let start = Start::load(config)?;
    raise_file_limit();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("can't start the runtime")?;
    runtime.block_on(serve(start))
}

/// Allows as many open files as this process may have: checks and connections are files, and the usual limit is there
/// for the sake of programs that know no more than 1,024.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        warn!("can't raise the limit of open files: {error}");
    }
}

async fn serve(start: Start) -> anyhow::Result<()> {
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
    let network = NetworkMonitor::start().await.context("can't follow routes and neighbours")?;
    let mut controller = start_controller(start, &node, network)?;

    let handle = controller.handle();
    let control: Arc<dyn Control> = Arc::new(handle.clone());
    let (stop, stopped) = watch::channel(());
    let mut servers = JoinSet::new();
    servers.spawn(api.serve(Arc::clone(&control), closed(stopped.clone())));
    if let Some(scraped) = scraped {
        info!("metrics at http://{}/metrics", scraped.address()?);
        servers.spawn(scraped.serve(control, closed(stopped)));
    }
    info!("ready: {}", node.socket.display());

    tokio::select! {
        ended = controller.ended() => ended.context("the controller failed")?,
        signal = terminated() => {
            signal.context("can't wait for signals")?;
            handle.stop().await?;
            controller.ended().await.context("the controller failed")?;
        }
    }
    drop(stop);
    while let Some(served) = servers.join_next().await {
        served??;
    }
    Ok(())
}

/// Loads and attaches the data plane, and has the controller make its tables right.
fn start_controller(start: Start, node: &Node, network: NetworkMonitor) -> anyhow::Result<Controller> {
    let pins = Pins::of(&node.instance);
    let mut kernel = Kernel::open(OBJECT, node, pins.clone())?;
    let adopted = kernel.adopted();
    if adopted {
        info!("taking over the tables in {}", pins.directory().display());
    }
    let started = kernel
        .attach(&node.interfaces, node.xdp)
        .and_then(|()| Controller::start(start, Box::new(kernel), Arc::new(network), Arc::new(TcpProbe)));
    if started.is_err() && !adopted {
        pins.abandon();
    }
    started
}

/// Ready when the sender is dropped.
async fn closed(mut stopped: watch::Receiver<()>) {
    while stopped.changed().await.is_ok() {}
}
