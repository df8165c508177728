//! Measures what a packet costs in Weir's eBPF program, behind a generator that makes each packet anew, beside floors
//! that no balancer can get under. docs/benchmarks.md says how to run it and what its figures mean.
//!
//! - `rows`: what is measured, as data; `world` and `frames` make configurations and packets of it.
//! - `generator`, `balancer`: what is loaded into the kernel. `recipe` is the generator's own source.
//! - `measure`: the rounds; `verify`: whether the packets did what they should.
//! - `report`, `table`: what comes out.

pub mod balancer;
pub mod frames;
pub mod generator;
pub mod measure;
#[allow(clippy::inline_always, reason = "it is compiled into the generator")]
#[path = "../ebpf/src/recipe.rs"]
pub mod recipe;
pub mod report;
pub mod rows;
pub mod table;
pub mod verify;
pub mod world;
