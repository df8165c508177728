//! `cargo xtask demo`: Weir at work, from nothing installed to the last number.

use anyhow::Result;

use crate::{build, setup};

/// Set up, build, and show Weir balancing real HTTP traffic in a lab
#[derive(clap::Args)]
pub struct Args {}

pub fn run(Args {}: &Args) -> Result<()> {
    setup::ensure(setup::Scope::Show)?;
    weir_lab::demo(&build::release()?)
}
