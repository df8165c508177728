//! What the lab needs of the host.

use std::{
    env,
    io::{self, Write as _},
    path::Path,
};

use anyhow::{Result, bail};

/// The programs that it runs.
const PROGRAMS: [&str; 8] = ["ip", "nsenter", "ethtool", "nginx", "curl", "wrk", "sha256sum", "timeout"];

/// Checks for root and for every program.
///
/// # Errors
/// Something is missing: the message names all of it.
pub fn check() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("the lab needs root: it makes network namespaces");
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let is_there = |program: &&str| env::split_paths(&path).any(|dir| Path::new(&dir).join(program).is_file());
    let missing: Vec<_> = PROGRAMS.into_iter().filter(|program| !is_there(program)).collect();
    if !missing.is_empty() {
        bail!("the lab needs {}: cargo xtask setup installs what is missing", missing.join(", "));
    }
    Ok(())
}

/// For tests: whether the lab can be made here. Where it can't, says why, past the test harness's capturing.
#[must_use]
pub fn are_met() -> bool {
    check().map_err(|why| io::stderr().write_all(format!("skipped: {why}\n").as_bytes())).is_ok()
}
