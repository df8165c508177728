//! What a machine forwards: live frames on their way through veth pairs, from a generator by way of Weir, attached by a
//! real daemon, to a sink. Beside it, the same way by way of programs that no balancer can be faster than.
//!
//! - `rows`: what is measured, of the rows that `packet` knows; `config` is the daemon's.
//! - `wires`: the namespaces and devices; `ends`: the programs at them, and the generator.
//! - `measure`: the rounds; `verify`: whether every frame is accounted for.
//! - `report`, `table`: what comes out.

pub mod config;
pub mod ends;
pub mod measure;
pub mod report;
pub mod rows;
pub mod table;
pub mod verify;
pub mod wires;
