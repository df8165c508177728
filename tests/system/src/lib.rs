//! What the end-to-end tests share: the lab with the `weir` under test, clients of the lab's line and echo servers, load,
//! and judgement of how connections spread.

mod clients;
mod load;
mod spread;

use std::{env, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use weir_lab::{Lab, LabBuilder, WeirDaemon, requirements};

pub use self::{
    clients::{Echo, Lines},
    load::{load, nothing_fails, pins, services},
    spread::check_spread,
};

/// A lab to be built, with the `weir` that the environment's `WEIR_BIN` names; `None`, said on the terminal, on a host
/// where none can be.
///
/// # Errors
/// A lab can be built here and there is no such binary.
pub fn lab() -> Result<Option<LabBuilder>> {
    if !requirements::are_met() {
        return Ok(None);
    }
    Ok(Some(Lab::builder().weir(&weir_binary()?)))
}

/// The `weir` under test.
///
/// # Errors
/// `WEIR_BIN` does not name a file.
pub fn weir_binary() -> Result<PathBuf> {
    let binary = env::var_os("WEIR_BIN").context("WEIR_BIN names no weir to test: cargo xtask test sets it")?;
    let binary = PathBuf::from(binary);
    ensure!(binary.is_file(), "WEIR_BIN: there is no {}", binary.display());
    Ok(binary)
}

/// Packets that `weir stats` counts for `reason`.
///
/// # Errors
/// The daemon does not answer, or knows no such reason.
pub fn packets(weir: &WeirDaemon, reason: &str) -> Result<u64> {
    let stats = weir.json(&["stats"])?;
    let mut reasons = stats["reasons"].as_array().into_iter().flatten();
    let found = reasons.find(|counted| counted["name"] == reason);
    found.and_then(|counted| counted["packets"].as_u64()).with_context(|| format!("no reason {reason}: {stats}"))
}

/// How often `weir stats` says that `event` has happened in the flow tables: `looked-up`, `not-opened`.
///
/// # Errors
/// The daemon does not answer, or knows no such event.
pub fn flow_events(weir: &WeirDaemon, event: &str) -> Result<u64> {
    let stats = weir.json(&["stats"])?;
    let mut events = stats["flow_events"].as_array().into_iter().flatten();
    let found = events.find(|counted| counted["name"] == event);
    found.and_then(|counted| counted["count"].as_u64()).with_context(|| format!("no event {event}: {stats}"))
}
