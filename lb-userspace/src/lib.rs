//! The controller of Weir: everything of the `weir` binary but its `main`.

pub mod api;
pub mod cli;
pub mod config;
pub mod controller;
#[cfg(feature = "object")]
pub mod daemon;
pub mod dataplane;
pub mod decap;
pub mod doctor;
pub mod flows;
mod frames;
pub mod health;
pub mod metrics;
pub mod nexthop;
#[cfg(feature = "object")]
pub mod object;
pub mod selftest;
mod side_by_side;
pub mod spec;
pub mod tables;
#[cfg(feature = "object")]
mod upgrade;
