//! `cargo xtask lab`: a lab to play with, which stays until it is taken down.

use std::{env, os::unix::process::CommandExt as _, path::Path};

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;

use crate::{
    Lab, Mode,
    addresses::{Family, in_url},
    cleanup,
    lab::SOCKET,
    netns::Netns,
};

/// The name of the lab that stays.
const ID: &str = "weir-lab";

/// What can be done with the lab.
#[derive(Clone, Debug, Subcommand)]
pub enum LabCommand {
    /// Make the lab, with nginx on every backend and Weir in front, and leave it running
    Up {
        /// How Weir forwards to the backends
        #[arg(long, value_enum, default_value_t = Mode::Nat)]
        mode: Mode,
        /// Number of backends
        #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
        backends: u8,
        /// Put the backends behind a second interface of the balancer
        #[arg(long)]
        two_armed: bool,
    },
    /// Remove the lab, and whatever labs of dead processes have left
    Down,
    /// Open a shell on a node: c1, router, lb, b1, b2, ..., or run a command there
    ///
    /// `weir` is on its path and finds the lab's daemon.
    Shell {
        /// The node
        name: String,
        /// The command; without one, a shell
        #[arg(last = true)]
        command: Vec<String>,
    },
}

/// Does what `command` says; `weir` is the binary that `up` runs.
pub fn lab(weir: &Path, command: LabCommand) -> Result<()> {
    match command {
        LabCommand::Up { mode, backends, two_armed } => up(weir, mode, backends, two_armed),
        LabCommand::Down => down(),
        LabCommand::Shell { name, command } => shell(weir, &name, &command),
    }
}

fn up(weir: &Path, mode: Mode, backends: u8, two_armed: bool) -> Result<()> {
    cleanup::remove_on_signals()?;
    let shape = Lab::builder().mode(mode).backends(backends).two_armed(two_armed);
    let lab = shape.weir(weir).named(ID).build()?;
    let daemon = lab.weir(&lab.config(&[lab.service("web", Family::V4), lab.service("web6", Family::V6)]))?;

    println!(
        "The lab is up: a client (c1), the router, Weir (lb) and b1 to b{backends}, in {} mode. Try:\n",
        mode.name()
    );
    for family in Family::BOTH {
        println!("  cargo xtask lab shell c1 -- curl -g http://{}/", in_url(family.vip(1)));
    }
    println!("  cargo xtask lab shell lb -- weir status");
    println!("  cargo xtask lab shell lb -- weir backend drain web b1");
    println!("  cargo xtask lab shell b2");
    println!("  cargo xtask lab down\n");
    println!("Its configuration is {}, logs are beside it.", daemon.config().display());
    daemon.leave();
    lab.leave();
    Ok(())
}

fn down() -> Result<()> {
    let ids = cleanup::abandoned()?;
    if ids.is_empty() {
        println!("There is no lab.");
    }
    for id in ids {
        cleanup::remove(&id)?;
        println!("Lab {id} is removed.");
    }
    Ok(())
}

fn shell(weir: &Path, name: &str, command: &[String]) -> Result<()> {
    let Some(netns) = Netns::existing(format!("{ID}-{name}")) else {
        let names = cleanup::nodes_of(ID)?;
        if names.is_empty() {
            bail!("there is no lab: cargo xtask lab up makes one");
        }
        bail!("the lab has no node {name:?}; it has {}", names.join(", "));
    };
    let shell = env::var("SHELL").unwrap_or_else(|_| "/bin/sh".to_owned());
    let (program, arguments) = command.split_first().map_or((&shell, &[][..]), |(program, rest)| (program, rest));
    let inherited = env::var_os("PATH").unwrap_or_default();
    let weir_first = weir.parent().map(Path::to_owned).into_iter().chain(env::split_paths(&inherited));
    let error = netns
        .command(program)
        .args(arguments)
        .env("PATH", env::join_paths(weir_first)?)
        .env("WEIR_SOCKET", cleanup::directory(ID).join(SOCKET))
        .exec();
    Err(error).with_context(|| format!("can't run {program}"))
}
