//! The controller: makes the kernel's tables what configuration, health and network say they should be.
//!
//! - `desired` with `ids`, `paths`, `entry`, `ring`, `takers`, `fills`: what the tables should hold, and the writes that lead
//!   there. Pure. `affected`: how much of them is looked at.
//! - `phase`: whether a backend takes flows, keeps those that it has, or is gone. Pure.
//! - `weights`: what backends get of new flows while they start slowly or answer slowly. Pure.
//! - `deviations`: which slots are tracked and since when, and how they become steady again. Pure.
//! - `sweeper` with `remains`: when the flow tables are swept, and what follows from what was found. Pure.
//! - `mirror`: the tables as last read and written.
//! - `want`: configuration, health and network in step with one another; `edit`: what commands do to a configuration.
//! - `core`: the state and what each input does to it; `sweeps`: what time does to it.
//! - `standing`, `report`, `explain`: what operators see of it; `full`, `ways_back`: what they are refused, and why.
//! - `saved` with `journal`: runtime changes on disk, and what a daemon starts from.
//! - `actor`: the task that owns it all. [`Controller::start`] is where a daemon begins.

mod actor;
mod affected;
mod clock;
mod core;
mod desired;
mod deviations;
mod edit;
mod entry;
mod explain;
mod fills;
mod full;
mod ids;
mod journal;
mod mirror;
mod paths;
mod phase;
mod remains;
mod report;
mod ring;
mod saved;
mod standing;
mod sweeper;
mod sweeps;
mod takers;
mod want;
mod ways_back;
mod weights;

pub use actor::{Controller, Handle, Network};
pub use full::Full;
pub use saved::{Start, Store};

#[cfg(test)]
mod tests;
