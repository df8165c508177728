//! The controller: makes the kernel's tables what configuration, health and network say they should be.
//!
//! - `desired` with `ids`, `paths`, `entry`: what the tables should hold, and the writes that lead there. Pure.
//! - `mirror`: the tables as last read and written.
//! - `want`: configuration, health and network in step with one another; `edit`: what commands do to a configuration.
//! - `core`: the state and what each input does to it; `standing`, `report`: what operators see of it.
//! - `saved`: runtime changes on disk, and what a daemon starts from.
//! - `actor`: the task that owns it all. [`Controller::start`] is where a daemon begins.

mod actor;
mod core;
mod desired;
mod edit;
mod entry;
mod full;
mod ids;
mod mirror;
mod paths;
mod report;
mod saved;
mod standing;
mod want;

pub use actor::{Controller, Handle, Network};
pub use full::Full;
pub use saved::{Start, Store};

#[cfg(test)]
mod tests;
