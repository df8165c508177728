//! `weir decap`: strips Weir's tunnel headers on a backend, in XDP, so that it needs no tunnel device.

use anyhow::Context as _;
use aya::{
    Ebpf, EbpfLoader,
    maps::lpm_trie::{Key, LpmTrie},
    programs::Xdp,
};
use ipnet::IpNet;
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

use crate::{
    dataplane::{Link, attach, explain_load, explain_program, run_once, take},
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
    let mut decapsulator = Decapsulator::load(object, sources)?;
    for interface in interfaces {
        let link = Link::of(interface, mode)?;
        attach(decapsulator.program()?, &link, None)?;
        info!("{interface}: decapsulating, {} XDP", link.mode_name());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(terminated())?;
    info!("detached");
    Ok(())
}

/// The decapsulation program, loaded; detached and unloaded when dropped.
pub struct Decapsulator(Ebpf);

impl Decapsulator {
    /// Loads the program of `object`, with these allowed sources.
    ///
    /// # Errors
    /// The kernel refuses the program, or there are more than 256 sources of one address family.
    pub fn load(object: &[u8], sources: &[IpNet]) -> anyhow::Result<Self> {
        let mut ebpf = EbpfLoader::new().load(object).map_err(explain_load)?;
        let mut sources_v4: LpmTrie<_, [u8; 4], u8> = take(&mut ebpf, "DECAP_SOURCES_V4")?;
        let mut sources_v6: LpmTrie<_, [u8; 16], u8> = take(&mut ebpf, "DECAP_SOURCES_V6")?;
        for source in sources {
            let prefix = u32::from(source.prefix_len());
            match source {
                IpNet::V4(net) => sources_v4.insert(&Key::new(prefix, net.network().octets()), 1, 0),
                IpNet::V6(net) => sources_v6.insert(&Key::new(prefix, net.network().octets()), 1, 0),
            }
            .with_context(|| format!("cannot allow {source}: at most 256 sources of each family"))?;
        }
        let mut loaded = Self(ebpf);
        loaded.program()?.load().map_err(explain_program).context("cannot load the XDP program")?;
        Ok(loaded)
    }

    /// Runs the program once over `frame`; see [`crate::dataplane::Kernel::test_run`].
    ///
    /// # Errors
    /// The kernel refuses the run.
    pub fn test_run(&mut self, frame: &[u8], ingress: u32) -> anyhow::Result<(u32, Vec<u8>)> {
        run_once(self.program()?, frame, ingress)
    }

    fn program(&mut self) -> anyhow::Result<&mut Xdp> {
        Ok(self.0.program_mut(PROGRAM).context("the object lacks the decapsulator")?.try_into()?)
    }
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
