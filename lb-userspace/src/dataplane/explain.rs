//! The copy of the program that explains: the same object over the same maps, loaded with a constant that makes it change
//! nothing and note what it sees.

use anyhow::Context as _;
use aya::{Ebpf, maps::Array, maps::MapData};
use bytemuck::Zeroable as _;
use lb_common::abi;

use super::{
    Constants, Fixed, PROGRAM, Residence, Wire, explain_program, load_object, maps::take, pins::Pins, program, run_once,
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
        let residence = Residence::Pinned(pins);
        let constants = Constants { explaining: 1, ..Constants::of(settings, capacity, residence) };
        let fixed = Fixed::open(capacity, residence)?;
        let mut ebpf = load_object(object, &constants, &fixed, capacity, residence)?;
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
