//! `cargo xtask lab`: a lab to play with.

use anyhow::Result;
use weir_lab::LabCommand;

use crate::{build, setup};

/// Make a lab of network namespaces with real servers and clients around Weir, use it, remove it
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: LabCommand,
}

pub fn run(args: &Args) -> Result<()> {
    let weir = if matches!(args.command, LabCommand::Up { .. }) {
        setup::ensure(setup::Scope::Show)?;
        build::release()?
    } else {
        build::release_path()?
    };
    weir_lab::lab(&weir, args.command.clone())
}
