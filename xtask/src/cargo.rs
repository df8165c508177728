//! Running cargo on this workspace.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

/// The workspace's root directory.
pub fn root() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}

/// The target directory: this program lies in `TARGET/PROFILE/xtask`.
pub fn target_dir() -> Result<PathBuf> {
    let program = env::current_exe().context("can't tell where cargo's target directory is")?;
    let target = program.ancestors().nth(2).context("xtask does not run from a target directory")?;
    Ok(target.to_owned())
}

/// The cargo that runs this program, in the workspace's root.
pub fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    cargo
}

/// Runs `command`; its output goes where ours goes.
pub fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("can't run {name}"))?;
    if !status.success() {
        let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
        bail!("`cargo {}` failed", arguments.join(" "));
    }
    Ok(())
}
