//! The copy of the program that explains: the same object over the same maps, loaded with a constant that makes it change
//! nothing and note what it sees.

use anyhow::Context as _;
use aya::{Ebpf, EbpfLoader, maps::Array, maps::MapData};
use bytemuck::Zeroable as _;
use lb_common::abi;

use super::{
    Constants, Fixed, PROGRAM, Residence, Wire, explain_program, load_object, maps::take, pins::Pins, prepare, program,
    run_once,
};
use crate::tables::{Capacity, Explained};

/// The copy, loaded and attached to nothing.
pub(super) struct Explainer {
    // Keeps the program alive.
    ebpf: Ebpf,
    explanation: Array<MapData, Wire<abi::Explanation>>,
}

impl Explainer {
    /// Loads the copy of `object` over the maps that are pinned under `pins`.
    pub(super) fn load(
        object: &[u8],
        settings: abi::Settings,
        capacity: &Capacity,
        pins: &Pins,
    ) -> anyhow::Result<Self> {
        let (constants, explaining) = (Constants::of(settings, capacity, Residence::Pinned(pins)), 1_u32);
        let mut loader = EbpfLoader::new();
        loader.override_global("EXPLAINING", &explaining, true);
        prepare(&mut loader, &constants, capacity, Residence::Pinned(pins));
        let fixed = Fixed::open(capacity, Residence::Pinned(pins))?;
        let mut ebpf = load_object(&mut loader, object, &fixed)?;
        program(&mut ebpf, PROGRAM)?.load().map_err(explain_program).context("cannot load the explaining copy")?;
        let explanation = take(&mut ebpf, "EXPLANATION")?;
        Ok(Self { ebpf, explanation })
    }

    /// Runs the copy over `frame`, as if it came in by the device `ingress`.
    pub(super) fn run(&mut self, frame: &[u8], ingress: u32) -> anyhow::Result<Explained> {
        self.explanation.set(0, Wire(abi::Explanation::zeroed()), 0)?;
        let (action, _) = run_once(program(&mut self.ebpf, PROGRAM)?, frame, ingress)?;
        Ok(Explained { action, steps: self.explanation.get(&0, 0)?.0 })
    }
}
