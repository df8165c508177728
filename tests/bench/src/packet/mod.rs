//! What a packet costs in Weir's eBPF program, behind a generator that makes each packet anew, beside floors that no
//! balancer can get under.
//!
//! - `rows`: what is measured, as data; `world` and `frames` make configurations and packets of it.
//! - `generator`, `balancer`: what is loaded into the kernel.
//! - `measure`: the rounds; `verify`: whether the packets did what they should.
//! - `report`, `table`: what comes out.

pub mod balancer;
pub mod frames;
pub mod generator;
pub mod measure;
pub mod report;
pub mod rows;
pub mod table;
pub mod verify;
pub mod world;
