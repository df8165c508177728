//! The kernel's side: loading, pinning and attaching the XDP program, and its maps as [`Tables`].

mod attach;
mod bpf;
mod counters;
mod explain;
mod fixed;
mod flows;
mod index;
mod mapped;
mod maps;
mod memory;
mod pins;
mod services;
mod settings;
mod stores;

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::MapError,
    programs::{ProgramError, ProgramFd, TestRun as _, TestRunOptions, Xdp},
};
use lb_common::{
    abi::{self, CounterLayout, OuterV4, OuterV6, Settings, fixed::COUNT},
    flow_table,
};
use tracing::info;

pub(crate) use attach::{Link, attach};
use explain::Explainer;
use fixed::Fixed;
pub(crate) use fixed::is_supported as has_fixed_tables;
pub use flows::Flows;
pub(crate) use maps::take;
use maps::{Maps, Wire};
use memory::Memory;
pub use pins::{Lock, Pins};

use crate::{
    flows::FlowTable,
    spec::{Node, XdpMode},
    tables::{Attachment, Capacity, Counters, Dataplane, Explained, TableMemory, Tables, Write},
};

/// Name of the balancer's program in the object.
const PROGRAM: &str = "weir";

/// Entries at most of what a program on trial has of its own: enough for the packets that it is tried with.
const TRIAL_ENTRIES: u32 = 4096;

/// Where the maps of a loaded program are.
#[derive(Clone, Copy)]
enum Residence<'a> {
    /// Pinned: those that are there are taken up.
    Pinned(&'a Pins),
    /// The tables are those that are pinned; what packets change is the program's own.
    Trial(&'a Pins),
    /// The program's own, gone with it.
    Unpinned,
}

impl Residence<'_> {
    /// Where the map `name` is pinned, if it is.
    fn pin(self, name: &str) -> Option<PathBuf> {
        match self {
            Self::Pinned(pins) => Some(pins.map(name)),
            Self::Trial(pins) => maps::TABLES.contains(&name).then(|| pins.map(name)),
            Self::Unpinned => None,
        }
    }

    /// Entries of the map `name` where `configured` is what it is to have.
    fn entries(self, name: &str, configured: u32) -> u32 {
        match self {
            Self::Trial(_) if !maps::TABLES.contains(&name) => configured.min(TRIAL_ENTRIES),
            _ => configured,
        }
    }
}

/// The loaded program and its maps.
pub struct Kernel {
    // Keeps the program alive.
    ebpf: Ebpf,
    maps: Maps,
    memory: Memory,
    pins: Option<Pins>,
    /// What it was loaded from, and how large its tables are.
    object: &'static [u8],
    capacity: Capacity,
    /// Loaded when it is first asked.
    explainer: Option<Explainer>,
    // Keeps other daemons from the pins.
    _lock: Option<Lock>,
    settings: Settings,
    /// How [`attach`](Self::attach) was asked to; `None` while nothing is to be attached.
    mode: Option<XdpMode>,
    attachments: Vec<Attachment>,
    adopted: bool,
}

impl Kernel {
    /// Loads `object` for `node`, with maps pinned under `pins`: those of an earlier daemon are adopted as they are,
    /// otherwise new ones are made. Attaches nothing yet.
    ///
    /// # Errors
    /// Another daemon works with the pins; they have another layout, other sizes or another hash seed than asked for; or
    /// the kernel refuses. Pinned state that is in use is left alone then, and what a first start made is removed.
    pub fn open(object: &'static [u8], node: &Node, pins: Pins) -> anyhow::Result<Self> {
        let lock = pins.lock()?;
        let adopted = if let Some(pinned) = pins.settings()? {
            Some(check_settings(&pinned, node)?)
        } else {
            pins.remove_unfinished()?;
            None
        };
        let settings = adopted.unwrap_or_else(|| settings(node, rand::random()));
        let opened = Self::open_pinned(object, settings, &Capacity::of(&node.tables), &pins, adopted.is_some());
        if opened.is_err() && adopted.is_none() {
            pins.abandon();
        }
        // Held all the time: nobody else may take up pins that are being removed.
        opened.map(|kernel| Self { pins: Some(pins), _lock: Some(lock), ..kernel })
    }

    /// Loads `object` with maps pinned under `pins`, which are there already if they are to be `adopted`.
    fn open_pinned(
        object: &'static [u8],
        settings: Settings,
        capacity: &Capacity,
        pins: &Pins,
        adopted: bool,
    ) -> anyhow::Result<Self> {
        if adopted {
            pins.check_sizes(capacity)?;
        }
        pins.make_directories()?;
        let mut kernel = Self::load(object, settings, capacity, Residence::Pinned(pins))?;
        kernel.adopted = adopted;
        if adopted {
            kernel.maps.adopt().context("cannot take up the pinned tables")?;
        }
        // Last: pins without settings are those of a start that did not finish.
        kernel.maps.set_settings(settings)?;
        Ok(kernel)
    }

    /// Loads `object` with maps of its own that are gone when this is dropped: for tests and measurements.
    ///
    /// # Errors
    /// The kernel refuses the maps or the program.
    pub fn open_unpinned(object: &'static [u8], settings: Settings, capacity: &Capacity) -> anyhow::Result<Self> {
        Self::load(object, settings, capacity, Residence::Unpinned)
    }

    /// Loads `object` over the tables that a daemon has pinned under `pins`, to be tried by [`test_run`](Self::test_run):
    /// what packets change is this program's own, so that nothing pinned and nothing that real traffic sees changes. The
    /// daemon may run.
    ///
    /// # Errors
    /// There are no pinned tables; they have another layout, other sizes or another hash seed than asked for; or the
    /// kernel refuses the program.
    pub fn open_trial(object: &'static [u8], node: &Node, pins: &Pins) -> anyhow::Result<Self> {
        let path = pins.directory().display();
        let pinned = pins.settings()?.with_context(|| format!("{path} holds no tables to take over"))?;
        let settings = check_settings(&pinned, node)?;
        let capacity = Capacity::of(&node.tables);
        pins.check_sizes(&capacity)?;
        Self::load(object, settings, &capacity, Residence::Trial(pins))
    }

    fn load(
        object: &'static [u8],
        settings: Settings,
        capacity: &Capacity,
        residence: Residence<'_>,
    ) -> anyhow::Result<Self> {
        let constants = Constants::of(settings, capacity, residence);
        let fixed = Fixed::open(capacity, residence)?;
        let mut ebpf = load_object(object, &constants, &fixed, capacity, residence)?;
        program(&mut ebpf, PROGRAM)?.load().map_err(explain_program).context("cannot load the XDP program")?;
        let memory = Memory::of(&ebpf, &fixed)?;
        let maps = Maps::take(&mut ebpf, &fixed, &constants)?;
        let (attachments, adopted) = (Vec::new(), false);
        let capacity = *capacity;
        Ok(Self {
            ebpf,
            maps,
            memory,
            pins: None,
            object,
            capacity,
            explainer: None,
            _lock: None,
            settings,
            mode: None,
            attachments,
            adopted,
        })
    }

    /// What the program was loaded with.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether [`open`](Self::open) found the maps of an earlier daemon.
    #[must_use]
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// Attaches the program to `interfaces`, replacing the program of an earlier daemon atomically where there is
    /// one, and detaches it from interfaces that are no longer listed.
    ///
    /// # Errors
    /// An interface is missing, busy with another program, or can't do `mode`.
    pub fn attach(&mut self, interfaces: &[String], mode: XdpMode) -> anyhow::Result<()> {
        let pins = self.pins.clone().context("only a pinned data plane can be attached")?;
        let mut wanted = Vec::new();
        for interface in interfaces {
            wanted.push(Link::of(interface, mode)?);
        }
        let program = program(&mut self.ebpf, PROGRAM)?;
        self.mode = Some(mode);
        self.attachments.clear();
        for link in &wanted {
            let replaced = attach(program, link, Some(&pins))?;
            let how = if replaced { "program replaced" } else { "attached" };
            info!("{}: {how}, {} XDP", link.interface, link.mode_name());
            self.attachments.push(link.attached());
        }
        for stale in pins.links()? {
            if !wanted.contains(&stale) {
                info!("{}: detached", stale.interface);
                pins.remove_link(&stale)?;
            }
        }
        Ok(())
    }

    /// Runs the program once over `frame` as if it came in by interface `ingress`, in this network namespace.
    /// Returns the XDP action and the frame as it is then. Counters count.
    ///
    /// # Errors
    /// The kernel refuses the run: the frame is shorter than an Ethernet header or `ingress` does not exist.
    pub fn test_run(&mut self, frame: &[u8], ingress: u32) -> anyhow::Result<(u32, Vec<u8>)> {
        run_once(program(&mut self.ebpf, PROGRAM)?, frame, ingress)
    }

    /// The flow tables, for tests and measurements.
    #[must_use]
    pub fn flows(&self) -> &Flows {
        self.maps.flows()
    }

    /// The loaded program, for measurements that call it from a program of their own.
    ///
    /// # Errors
    /// The object lacks the program.
    pub fn program_fd(&mut self) -> anyhow::Result<&ProgramFd> {
        Ok(program(&mut self.ebpf, PROGRAM)?.fd()?)
    }
}

/// What the program's constants are set to.
struct Constants {
    settings: Wire<Settings>,
    /// Elements of the tables at fixed addresses.
    fixed: [u32; COUNT],
    /// 1 in the copy that only explains.
    explaining: u32,
    /// Where the counters are.
    counted: Wire<CounterLayout>,
    /// Buckets of a flow table less 1, and the entries that it has room for.
    flow_buckets: u32,
    most_flows: u32,
}

impl Constants {
    fn of(settings: Settings, capacity: &Capacity, residence: Residence<'_>) -> Self {
        Self {
            settings: Wire(settings),
            fixed: fixed::lengths(capacity),
            explaining: 0,
            counted: Wire(counters::layout(capacity, residence)),
            flow_buckets: residence.entries("FLOWS_V4", flow_table::buckets(capacity.flows)) - 1,
            most_flows: residence.entries("FLOWS_V4", capacity.flows),
        }
    }
}

/// Loads `object` with these constants over these tables, with its other maps of this `capacity` at that residence.
fn load_object(
    object: &[u8],
    constants: &Constants,
    fixed: &Fixed,
    capacity: &Capacity,
    residence: Residence<'_>,
) -> anyhow::Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    loader.override_global("LOADED_SETTINGS", &constants.settings, true);
    loader.override_global("EXPLAINING", &constants.explaining, true);
    loader.override_global("FIXED_LENGTHS", &constants.fixed, true);
    loader.override_global("COUNTED", &constants.counted, true);
    loader.override_global("FLOW_BUCKETS_MASK", &constants.flow_buckets, true);
    loader.override_global("MOST_FLOWS", &constants.most_flows, true);
    for (name, entries) in maps::sizes(capacity) {
        loader.map_max_entries(name, residence.entries(name, entries));
    }
    for name in maps::names() {
        if let Some(pin) = residence.pin(name) {
            loader.map_pin_path(name, pin);
        }
    }
    loader.load(bytemuck::cast_slice(&fixed.put_into(object)?)).map_err(explain_load)
}

/// The program called `name`.
fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut Xdp> {
    Ok(ebpf.program_mut(name).with_context(|| format!("the object lacks the program {name}"))?.try_into()?)
}

/// Runs `program` once over `frame`; see [`Kernel::test_run`].
pub(crate) fn run_once(program: &Xdp, frame: &[u8], ingress: u32) -> anyhow::Result<(u32, Vec<u8>)> {
    let mut out = vec![0; frame.len() + 256];
    let length = u32::try_from(frame.len())?;
    // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    let context: [u32; 6] = [0, length, 0, ingress, 0, 0];
    let result = program.test_run(TestRunOptions {
        data_in: Some(frame),
        data_out: Some(&mut out),
        ctx_in: Some(bytemuck::cast_slice(&context)),
        ..TestRunOptions::new()
    })?;
    out.truncate(result.data_size_out as usize);
    Ok((result.return_value, out))
}

impl Dataplane for Kernel {
    fn read(&self) -> anyhow::Result<Tables> {
        self.maps.read()
    }

    fn write(&mut self, writes: &[Write]) -> anyhow::Result<()> {
        let written = self.maps.write(writes);
        // Whatever was written of them.
        let finished = self.maps.finish().context("cannot finish a change of the kernel's tables");
        written.and(finished)
    }

    fn wanted_neighbours(&mut self) -> anyhow::Result<Vec<IpAddr>> {
        self.maps.take_wanted_neighbours()
    }

    fn counters(&self, services: &[u32], backends: &[u32]) -> anyhow::Result<Counters> {
        self.maps.counters(services, backends)
    }

    fn flow_table(&self) -> anyhow::Result<Box<dyn FlowTable>> {
        Ok(Box::new(self.maps.flow_table()))
    }

    fn memory(&self) -> anyhow::Result<Vec<TableMemory>> {
        self.memory.read()
    }

    fn seed(&self) -> [u64; 2] {
        self.settings.seed
    }

    fn explain(&mut self, frame: &[u8], ingress: u32) -> anyhow::Result<Explained> {
        let explainer = match &mut self.explainer {
            Some(explainer) => explainer,
            none => {
                let pins = self.pins.as_ref().context("only a pinned data plane can be explained")?;
                none.insert(Explainer::load(self.object, self.settings, &self.capacity, pins)?)
            }
        };
        explainer.run(frame, ingress)
    }

    fn reattach(&mut self) {
        let (Some(pins), Some(mode)) = (&self.pins, self.mode) else { return };
        let Ok(program) = program(&mut self.ebpf, PROGRAM) else { return };
        for attachment in &mut self.attachments {
            attach::look_again(program, attachment, mode, pins);
        }
    }

    fn attachments(&self) -> Vec<Attachment> {
        self.attachments.clone()
    }

    fn detach(&mut self) -> anyhow::Result<()> {
        self.mode = None;
        self.attachments.clear();
        match &self.pins {
            Some(pins) => pins.remove_all(),
            None => Ok(()),
        }
    }
}

/// What the program is loaded with for `node`; `drawn` is the seed where none is configured.
fn settings(node: &Node, drawn: [u64; 2]) -> Settings {
    let outer_v4 = node.outer_v4.map_or_else(OuterV4::default, |net| OuterV4 {
        network: net.network().to_bits(),
        host_mask: net.hostmask().to_bits(),
    });
    let outer_v6 = node.outer_v6.map_or_else(OuterV6::default, |net| {
        let [network_high, network_low] = halves(net.network().to_bits());
        let [_, host_mask] = halves(net.hostmask().to_bits());
        OuterV6 { network_high, network_low, host_mask }
    });
    Settings { abi_version: abi::ABI_VERSION, pad: 0, seed: node.seed.unwrap_or(drawn), outer_v4, outer_v6 }
}

/// The high and the low half.
fn halves(bits: u128) -> [u64; 2] {
    bytemuck::cast::<_, [[u8; 8]; 2]>(bits.to_be_bytes()).map(u64::from_be_bytes)
}

/// The settings to go on with where tables made with `pinned` are to be adopted for `node`.
fn check_settings(pinned: &Settings, node: &Node) -> anyhow::Result<Settings> {
    if let Some(seed) = node.seed {
        ensure!(
            seed == pinned.seed,
            "node.seed differs from the one that the pinned tables were made with: changing it moves connections to \
             other backends; `weir detach` first if that is meant"
        );
    }
    // The outer networks are the program's, not the tables': a new program may have others.
    Ok(settings(node, pinned.seed))
}

/// The kernel's refusal of maps in an operator's words.
pub(crate) fn explain_load(error: aya::EbpfError) -> anyhow::Error {
    let hint = match &error {
        aya::EbpfError::MapError(MapError::CreateError { io_error, .. }) => hint(io_error),
        _ => None,
    };
    let error = anyhow::Error::new(error);
    match hint {
        Some(hint) => error.context(hint),
        None => error.context("cannot load the eBPF object"),
    }
}

/// The kernel's refusal of a program in an operator's words.
pub(crate) fn explain_program(error: ProgramError) -> anyhow::Error {
    let hint = match &error {
        ProgramError::LoadError { io_error, .. } => hint(io_error),
        _ => None,
    };
    let error = anyhow::Error::new(error);
    match hint {
        Some(hint) => error.context(hint),
        None => error,
    }
}

/// What an operator can do about a refusal of the bpf system call.
fn hint(error: &std::io::Error) -> Option<&'static str> {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            Some("not permitted to use BPF: run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON")
        }
        std::io::ErrorKind::OutOfMemory => Some("not enough memory for the tables: lower the sizes in [node.tables]"),
        _ => None,
    }
}

/// Checks that `path` is on a BPF file system.
pub(crate) fn ensure_bpffs(path: &Path) -> anyhow::Result<()> {
    // The magic number of bpffs, linux/magic.h.
    const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
    let found = rustix::fs::statfs(path).with_context(|| format!("cannot look at {}", path.display()))?;
    if found.f_type != BPF_FS_MAGIC {
        bail!("{} is not a BPF file system: mount -t bpf bpf {0}", path.display());
    }
    Ok(())
}
