//! What the controller takes: `cargo xtask bench control`.
//!
//! - `rows`: what is measured; `setting`: with which configuration.
//! - `place`: the network that the daemon runs in; `daemon`: the daemon; `slots`: the kernel's slot table, watched.
//! - `measure`: one row after the other; `floors`: what nothing gets under; `check`: whether the tables are right.
//! - `sweep`: the rows without a daemon. `report`, `table`: what is printed.

mod check;
mod daemon;
mod floors;
pub mod measure;
mod place;
pub mod report;
pub mod rows;
pub mod setting;
mod slots;
mod sweep;
pub mod table;

pub use check::check;
