//! The command line: what `weir` does with its arguments.

pub mod args;
mod backend;
mod check;
mod context;
mod daemon;
mod detach;
mod doctor;
mod drain;
mod explain;
pub(crate) mod format;
mod render;
mod service;
mod stats;
mod upgrade;

use std::{
    ffi::OsString,
    io::{self, Write},
    process::ExitCode,
};

use clap::{CommandFactory, Parser};

use args::{Cli, Command};
use context::Context;
pub use context::Screen;

/// The operation failed.
const FAILED: u8 = 1;
/// The arguments make no sense.
const USAGE: u8 = 2;

/// Runs `weir` with `args`, the program's name first.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let screen = Screen::detect();
    ExitCode::from(run(args, &mut io::stdout(), &mut io::stderr(), screen))
}

/// Runs `weir` with `args`, the program's name first, and returns its exit code: 0 done, 1 failed, 2 wrong usage.
///
/// A reader of `out` that goes away early (`weir stats | head`) is no failure.
pub fn run(args: impl IntoIterator<Item = OsString>, out: &mut dyn Write, err: &mut dyn Write, screen: Screen) -> u8 {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => return usage(&error, out, err, screen),
    };
    let mut context = Context::new(&cli.global, out, err, screen);
    match execute(cli.command, &mut context) {
        Ok(Outcome::Done) => 0,
        Ok(Outcome::Failed) => FAILED,
        Err(error) if is_broken_pipe(&error) => 0,
        Err(error) => {
            // Nobody is left to tell when standard error is gone too.
            let _ = writeln!(context.err, "weir: {error:#}");
            FAILED
        }
    }
}

/// How a command ended that has said everything itself.
enum Outcome {
    Done,
    Failed,
}

fn execute(command: Command, context: &mut Context<'_>) -> anyhow::Result<Outcome> {
    match command {
        Command::Run(run) => daemon::run(&run)?,
        Command::Decap(decap) => daemon::decap(&decap)?,
        Command::Check { file } => return check::check(&file, context),
        Command::Doctor { interfaces } => return doctor::doctor(&interfaces, context),
        Command::Status => {
            let status = context.ask(async |client| client.status().await)?;
            context.show(&status, render::status)?;
        }
        Command::Service(command) => service::execute(command, context)?,
        Command::Backend(command) => backend::execute(command, context)?,
        Command::Stats { watch: None } => stats::once(context)?,
        Command::Stats { watch: Some(seconds) } => stats::watch(seconds, context)?,
        Command::Upgrade { binary } => return upgrade::upgrade(binary, context),
        Command::Preflight(preflight) => daemon::preflight(&preflight, context)?,
        Command::Explain(flow) => explain::explain(&flow, context)?,
        Command::Detach => detach::detach(context)?,
        Command::Completions { shell } => {
            // Into memory first: the generator panics where writing fails, as to a reader that has gone away.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "weir", &mut script);
            context.write(&String::from_utf8(script)?)?;
        }
    }
    Ok(Outcome::Done)
}

/// Help and version go to `out` and are no failure; wrong arguments are one.
fn usage(error: &clap::Error, out: &mut dyn Write, err: &mut dyn Write, screen: Screen) -> u8 {
    let styled = error.render();
    let text = if screen.colour { styled.ansi().to_string() } else { styled.to_string() };
    // A reader that has gone away knows enough.
    let _ = if error.use_stderr() { err.write_all(text.as_bytes()) } else { out.write_all(text.as_bytes()) };
    u8::try_from(error.exit_code()).unwrap_or(USAGE)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).any(|e| e.kind() == io::ErrorKind::BrokenPipe)
}
