//! The same load of clients through Weir and through other balancers, in labs of their own, one after the other.
//!
//! - `balancers`: who takes part, and how each is set up; `config/` has the files of those that have one.
//! - `cpu`, `receive`: a CPU for the balancer alone, and how much of it the balancer uses.
//! - `loads`: what clients do.
//! - `measure`: the rounds, and whether everybody was served by everybody.
//! - `report`, `table`: what comes out.

pub mod balancers;
pub mod cpu;
pub mod loads;
pub mod measure;
pub mod receive;
pub mod report;
pub mod table;
