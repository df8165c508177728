//! Measures Weir. docs/benchmarks.md says how to run it and what its figures mean.
//!
//! - `control`: what the controller takes.
//! - `packet`: what a packet costs in the eBPF program. `recipe` is the source of its generator, too.
//! - `peers`: the same clients through Weir and through other balancers.
//! - `wire`: what a machine forwards, live frames on their way through a network.
//! - `plot`: plots of reports.
//! - `machine`, `spread`: what every report says; `report` reads them; `select`: which rows; `cpu`: where it is measured.

pub mod control;
pub mod cpu;
pub mod machine;
pub mod packet;
pub mod peers;
pub mod plot;
#[allow(clippy::inline_always, reason = "it is compiled into the generator")]
#[path = "../ebpf/src/recipe.rs"]
pub mod recipe;
pub mod report;
pub mod select;
pub mod spread;
pub mod wire;
