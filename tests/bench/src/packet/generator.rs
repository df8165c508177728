//! The eBPF programs that measure: the generator in front of each program, and the floors.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, bail, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, Map, MapData, MapError, ProgramArray},
    programs::{ProgramFd, ProgramInfo, TestRun as _, TestRunOptions, Xdp},
};
use rustix::time::ClockId;
use weir_packets::oracle::Action;

use crate::{
    cpu,
    recipe::{FRAME_LEN, FRONT, Recipe},
};

/// ELF object with the programs that measure, aligned as ELF readers need it.
pub(crate) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/weir-bench-ebpf"));

/// Programs that every other is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Floor {
    /// Returns `XDP_TX`: what net figures leave out.
    Transmit,
    /// Swaps the MAC addresses.
    MacSwap,
    /// Reads the headers.
    Parse,
    /// Reads the headers and puts a fixed IP header in front: what ratios are ratios to.
    Encapsulate,
}

impl Floor {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Transmit, Self::MacSwap, Self::Parse, Self::Encapsulate];

    /// What tables call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Transmit => "XDP_TX",
            Self::MacSwap => "MAC swap",
            Self::Parse => "parse",
            Self::Encapsulate => "parse + fixed IPIP",
        }
    }

    /// Its name in the object.
    const fn program(self) -> &'static str {
        match self {
            Self::Transmit => "transmit",
            Self::MacSwap => "mac_swap",
            Self::Parse => "parse",
            Self::Encapsulate => "encapsulate",
        }
    }
}

/// A map value that this crate shares with its eBPF programs.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct Shared<T>(pub(crate) T);

// SAFETY: bytemuck's `Pod` promises what aya's asks for: any bytes are a valid value, and there is no padding.
unsafe impl<T: bytemuck::Pod> aya::Pod for Shared<T> {}

/// The generator, loaded.
pub struct Generator {
    ebpf: Ebpf,
    recipe: Array<MapData, Shared<Recipe>>,
    position: Array<MapData, u32>,
    measured: ProgramArray<MapData>,
    measured_linear: ProgramArray<MapData>,
}

/// Which generator a program runs behind: they call only programs of their own kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// For programs that know fragments (section `xdp.frags`).
    Fragments,
    /// For those that don't (section `xdp`).
    Linear,
}

impl Kind {
    const fn program(self) -> &'static str {
        match self {
            Self::Fragments => "generator",
            Self::Linear => "generator_linear",
        }
    }
}

impl Generator {
    /// Loads the generator and the floors.
    ///
    /// # Errors
    /// The kernel refuses them.
    pub fn load() -> anyhow::Result<Self> {
        let mut ebpf = EbpfLoader::new().load(OBJECT).context("cannot load the measuring eBPF programs")?;
        let programs = [Kind::Fragments, Kind::Linear].map(Kind::program);
        for name in programs.into_iter().chain(Floor::ALL.map(Floor::program)) {
            program(&mut ebpf, name)?.load().with_context(|| format!("cannot load the program {name}"))?;
        }
        Ok(Self {
            recipe: take(&mut ebpf, "RECIPE")?,
            position: take(&mut ebpf, "POSITION")?,
            measured: take(&mut ebpf, "MEASURED")?,
            measured_linear: take(&mut ebpf, "MEASURED_LINEAR")?,
            ebpf,
        })
    }

    /// Makes packets by `recipe` from now on.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_recipe(&mut self, recipe: &Recipe) -> anyhow::Result<()> {
        self.recipe.set(0, Shared(*recipe), 0).context("cannot write RECIPE")
    }

    /// Puts the program `floor` behind the generator.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn measure_floor(&mut self, floor: Floor) -> anyhow::Result<Kind> {
        let fd = program(&mut self.ebpf, floor.program())?.fd()?;
        self.measured.set(0, fd, 0).with_context(|| format!("cannot measure {}", floor.name()))?;
        Ok(Kind::Fragments)
    }

    /// Puts `program` behind the generator that can call it.
    ///
    /// # Errors
    /// Neither can.
    pub fn measure(&mut self, program: &ProgramFd) -> anyhow::Result<Kind> {
        if self.measured.set(0, program, 0).is_ok() {
            return Ok(Kind::Fragments);
        }
        self.measured_linear.set(0, program, 0).context(
            "the kernel lets neither generator call it: it is not XDP, or was loaded for a device or with another \
             expected attach type",
        )?;
        Ok(Kind::Linear)
    }

    /// Runs the program behind the generator over the first `packets` packets. Returns the last verdict and this thread's
    /// CPU time, in which other processes have no part.
    ///
    /// # Errors
    /// The kernel refuses, or a signal came.
    pub fn run(&mut self, kind: Kind, packets: u32) -> anyhow::Result<(Action, Duration)> {
        let frame = [0; FRONT + FRAME_LEN];
        self.position.set(0, 0, 0)?;
        let before = cpu::time(ClockId::ThreadCPUTime);
        let result = program(&mut self.ebpf, kind.program())?.test_run(TestRunOptions {
            data_in: Some(&frame),
            repeat: packets,
            ..TestRunOptions::new()
        })?;
        let took = cpu::time(ClockId::ThreadCPUTime).checked_sub(before).context("the CPU clock went back")?;
        Ok((verdict(result.return_value)?, took))
    }

    /// Runs the program behind the generator over the packet at `position`. Returns the verdict and what became of the
    /// packet.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn run_once(&mut self, kind: Kind, position: u32) -> anyhow::Result<(Action, Vec<u8>)> {
        // Room for any header that a program may add.
        let mut out = vec![0; FRAME_LEN + 256];
        let frame = [0; FRONT + FRAME_LEN];
        self.position.set(0, position, 0)?;
        let result = program(&mut self.ebpf, kind.program())?.test_run(TestRunOptions {
            data_in: Some(&frame),
            data_out: Some(&mut out),
            ..TestRunOptions::new()
        })?;
        out.truncate(result.data_size_out as usize);
        Ok((verdict(result.return_value)?, out))
    }
}

/// Opens the program that is pinned at `pin`.
///
/// # Errors
/// There is none.
pub fn open_pinned(pin: &Path) -> anyhow::Result<ProgramFd> {
    let open = || ProgramInfo::from_pin(pin)?.fd();
    open().with_context(|| format!("cannot open a program at {}", pin.display()))
}

/// Checks that the kernel does not measure programs itself, which costs each run some 20 ns.
///
/// # Errors
/// It does.
pub fn ensure_no_statistics() -> anyhow::Result<()> {
    const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";
    let value = std::fs::read_to_string(SWITCH).with_context(|| format!("cannot read {SWITCH}"))?;
    ensure!(value.trim() == "0", "the kernel takes times of BPF programs: sysctl kernel.bpf_stats_enabled=0");
    Ok(())
}

/// The program `name` of the object.
pub(crate) fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut Xdp> {
    Ok(ebpf.program_mut(name).with_context(|| format!("the object lacks the program {name}"))?.try_into()?)
}

/// The map `name` of the object, which is then the caller's.
pub(crate) fn take<T: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<T> {
    let map = ebpf.take_map(name).with_context(|| format!("the object lacks the map {name}"))?;
    T::try_from(map).with_context(|| format!("the map {name} has another shape than expected"))
}

fn verdict(value: u32) -> anyhow::Result<Action> {
    Ok(match value {
        1 => Action::Drop,
        2 => Action::Pass,
        3 => Action::Transmit,
        4 => Action::Redirect,
        0 => bail!("a program gave up on a packet (XDP_ABORTED)"),
        other => bail!("{other} is no XDP verdict"),
    })
}
