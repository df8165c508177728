//! The eBPF programs at the ends of the wires, and the generator that sends live frames into them.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, DevMap, MapData, PerCpuArray},
    programs::{TestRun as _, TestRunAttrs, TestRunOptions, XdpMode},
};
use rustix::{
    net::{AddressFamily, SocketType, netdevice::name_to_index, socket},
    time::ClockId,
};

use super::wires::{Wire, Wires};
use crate::{
    cpu,
    packet::generator::{OBJECT, Shared, program, take},
    recipe::{FRAME_LEN, FRONT, Recipe},
};

/// Frames that the kernel hands on at a time: as many as a driver's poll takes by default.
const BATCH: u32 = 64;

/// Frames between two looks at the clock: less than a tenth of a second's.
const CHUNK: u32 = 1 << 16;

/// For how long no frame may arrive until none is taken to be on its way any more.
const QUIET: Duration = Duration::from_millis(20);

/// The generator's program, the sink's, and those in Weir's place.
const PROGRAMS: [&str; 4] = ["send", "count", "mac_swap", "discard"];

/// What is at the ends of all wires but for Weir. Dropped, nothing of it stays attached.
pub struct Ends {
    ebpf: Ebpf,
    recipe: Array<MapData, Shared<Recipe>>,
    position: Array<MapData, u32>,
    wire: DevMap<MapData>,
    arrived: PerCpuArray<MapData, [u64; 2]>,
}

/// What the generator did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sent {
    /// Frames that it sent.
    pub frames: u64,
    /// How long that took, by the clock on the wall.
    pub wall: Duration,
    /// The CPU time of all that happened meanwhile: of the thread that generates, which does what follows from a frame too,
    /// and of the kernel's thread that takes over where that is too much at a time.
    pub cpu: Duration,
}

/// Frames that have arrived at one address, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrived {
    /// Frames.
    pub frames: u64,
    /// Bytes of these frames, Ethernet included.
    pub bytes: u64,
}

impl Ends {
    /// Loads the programs and attaches those in Weir's place and the sink to `wires`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn attach(wires: &Wires) -> Result<Self> {
        let mut ebpf = EbpfLoader::new().load(OBJECT).context("cannot load the measuring eBPF programs")?;
        for name in PROGRAMS {
            program(&mut ebpf, name)?.load().with_context(|| format!("cannot load the program {name}"))?;
        }
        let mut attach = |name: &str, wire: Wire| -> Result<()> {
            let device = wire.device();
            let attached = program(&mut ebpf, name)?.attach(device, XdpMode::Driver);
            attached.with_context(|| format!("cannot attach {name} to {device}"))?;
            Ok(())
        };
        wires.outside().enter(|| Wire::ALL.into_iter().try_for_each(|wire| attach("count", wire)))??;
        wires.inside().enter(|| {
            attach("mac_swap", Wire::Swap)?;
            attach("discard", Wire::Drop)
        })??;
        Ok(Self {
            recipe: take(&mut ebpf, "RECIPE")?,
            position: take(&mut ebpf, "POSITION")?,
            wire: take(&mut ebpf, "WIRE")?,
            arrived: take(&mut ebpf, "ARRIVED")?,
            ebpf,
        })
    }

    /// Makes frames by `recipe` from now on.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_recipe(&mut self, recipe: &Recipe) -> Result<()> {
        self.recipe.set(0, Shared(*recipe), 0).context("cannot write RECIPE")
    }

    /// Sends frames into `wire` for `time`, and waits until the last one has arrived somewhere.
    ///
    /// # Errors
    /// The kernel refuses, or a signal came.
    pub fn send(&mut self, wires: &Wires, wire: Wire, time: Duration) -> Result<Sent> {
        // Devices are those of the thread's namespace; the thread is gone with its tie to a CPU.
        let sent = wires.outside().enter(|| self.send_here(wire, time))??;
        self.wait_for_quiet(wires, wire)?;
        Ok(sent)
    }

    fn send_here(&mut self, wire: Wire, time: Duration) -> Result<Sent> {
        let cpu = cpu::stay_on_one()?;
        let any_socket = socket(AddressFamily::INET, SocketType::DGRAM, None).context("cannot make a socket")?;
        let index = name_to_index(&any_socket, wire.device()).with_context(|| format!("no device {wire}"))?;
        self.wire.set(0, index, None, 0).context("cannot write WIRE")?;
        self.position.set(0, 0, 0).context("cannot write POSITION")?;
        let program = program(&mut self.ebpf, "send")?;

        let kernel = kernel_thread(cpu)?;
        let cpu_before = busy(&kernel)?;
        let start = Instant::now();
        let mut frames = 0;
        // At least once: a short time may be over before it has begun.
        loop {
            let frame = [0; FRONT + FRAME_LEN];
            program.test_run(TestRunOptions {
                data_in: Some(&frame),
                repeat: CHUNK,
                attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                ..TestRunOptions::new()
            })?;
            frames += u64::from(CHUNK);
            if start.elapsed() >= time {
                break;
            }
        }
        let (wall, cpu) = (start.elapsed(), busy(&kernel)?.saturating_sub(cpu_before));
        Ok(Sent { frames, wall, cpu })
    }

    fn wait_for_quiet(&self, wires: &Wires, wire: Wire) -> Result<()> {
        let state = || -> Result<_> { Ok((wires.received(wire)?, self.arrived()?)) };
        let mut before = state()?;
        loop {
            std::thread::sleep(QUIET);
            let now = state()?;
            if now == before {
                return Ok(());
            }
            before = now;
        }
    }

    /// What has arrived at the sink so far, by the last byte of the destination's MAC address.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn arrived(&self) -> Result<Vec<Arrived>> {
        let sum = |at: u32| -> Result<Arrived> {
            let by_cpu = self.arrived.get(&at, 0).context("cannot read ARRIVED")?;
            Ok(by_cpu.iter().fold(Arrived::default(), |sum, [frames, bytes]| Arrived {
                frames: sum.frames + frames,
                bytes: sum.bytes + bytes,
            }))
        };
        (0..self.arrived.len()).map(sum).collect()
    }
}

/// CPU time of this thread, and of the kernel's whose statistics are in `kernel`.
fn busy(kernel: &Path) -> Result<Duration> {
    let text = fs::read_to_string(kernel).with_context(|| format!("cannot read {}", kernel.display()))?;
    let nanoseconds = text.split_whitespace().next().and_then(|word| word.parse().ok());
    let kernel = nanoseconds.map(Duration::from_nanos).with_context(|| format!("no times in {}", kernel.display()))?;
    Ok(cpu::time(ClockId::ThreadCPUTime) + kernel)
}

/// Where the statistics are of the thread that does the kernel's network work on `cpu` when there is too much of it at a
/// time.
fn kernel_thread(cpu: usize) -> Result<PathBuf> {
    let name = format!("ksoftirqd/{cpu}");
    for process in fs::read_dir("/proc").context("cannot read /proc")? {
        let directory = process?.path();
        // Processes may go while this looks for them.
        if fs::read_to_string(directory.join("comm")).is_ok_and(|comm| comm.trim() == name) {
            return Ok(directory.join("schedstat"));
        }
    }
    bail!("there is no {name}")
}
