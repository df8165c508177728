//! `weir decap`: strips Weir's tunnel headers on a backend, in XDP, so that it needs no tunnel device.

use anyhow::Context as _;
use aya::{
    EbpfLoader,
    maps::lpm_trie::{Key, LpmTrie},
    programs::Xdp,
};
use ipnet::IpNet;
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

use crate::{
    dataplane::{Link, attach},
    spec::XdpMode,
};

/// Name of the decapsulation program in the object.
const PROGRAM: &str = "weir_decap";

/// Attaches the decapsulation program of `object` to `interfaces` and keeps it there until SIGTERM or SIGINT. Tunnel
/// packets (IP-in-IP, any family in any family) are accepted from `sources` only; everything else passes as it came.
///
/// # Errors
/// Not permitted, an interface is missing or busy, or it can't do `mode`.
pub fn run(object: &[u8], interfaces: &[String], sources: &[IpNet], mode: XdpMode) -> anyhow::Result<()> {
    let mut ebpf = EbpfLoader::new().load(object).context("cannot load the eBPF object")?;
    let mut sources_v4: LpmTrie<_, [u8; 4], u8> =
        ebpf.take_map("DECAP_SOURCES_V4").context("the object lacks DECAP_SOURCES_V4")?.try_into()?;
    let mut sources_v6: LpmTrie<_, [u8; 16], u8> =
        ebpf.take_map("DECAP_SOURCES_V6").context("the object lacks DECAP_SOURCES_V6")?.try_into()?;
    for source in sources {
        let prefix = u32::from(source.prefix_len());
        match source {
            IpNet::V4(net) => sources_v4.insert(&Key::new(prefix, net.network().octets()), 1, 0),
            IpNet::V6(net) => sources_v6.insert(&Key::new(prefix, net.network().octets()), 1, 0),
        }
        .with_context(|| format!("cannot allow {source}: at most 256 sources of each family"))?;
    }
    let program: &mut Xdp = ebpf.program_mut(PROGRAM).context("the object lacks the decapsulator")?.try_into()?;
    program.load().context("cannot load the XDP program")?;
    for interface in interfaces {
        let link = Link::of(interface, mode)?;
        attach(program, &link, None)?;
        info!("{interface}: decapsulating, {} XDP", link.mode_name());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(terminated())?;
    info!("detached");
    Ok(())
}

/// Waits for SIGTERM or SIGINT.
///
/// # Errors
/// The signal handlers can't be installed.
pub async fn terminated() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => (),
        _ = interrupt.recv() => (),
    }
    Ok(())
}
