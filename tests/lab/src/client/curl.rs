//! curl, in a client's namespace.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, Result};

use crate::{netns::Netns, process::run};

/// Longest time for one request, seconds.
const MAX_TIME: &str = "20";

/// Fetches `url`: the body without its line end. Only a complete answer with a 2xx status counts.
///
/// # Errors
/// The request fails or takes more than 20 s.
pub fn get(client: &Netns, url: &str) -> Result<String> {
    Ok(run(client.command("curl").args(["-gsS", "--fail", "--max-time", MAX_TIME, url]), "")?.trim_end().to_owned())
}

/// Fetches `url` `count` times, each on a new connection: how many answers came from each backend.
///
/// # Errors
/// Any of the requests fails.
pub fn spread(client: &Netns, url: &str, count: u32) -> Result<BTreeMap<String, u64>> {
    // curl's own ranges repeat a request; the fragment that tells the repetitions apart is not sent. The URL's
    // brackets must not be taken for a range.
    let url = format!("{}#[1-{count}]", url.replace('[', "\\[").replace(']', "\\]"));
    let mut command = client.command("curl");
    command.args(["-sS", "--fail", "--max-time", MAX_TIME, "-H", "Connection: close", &url]);
    let mut counts = BTreeMap::new();
    for backend in run(&mut command, "")?.lines() {
        *counts.entry(backend.to_owned()).or_default() += 1;
    }
    Ok(counts)
}

/// Fetches `url` into `file`: its SHA-256 in hexadecimal.
///
/// # Errors
/// The transfer fails or takes more than 60 s.
pub fn download(client: &Netns, url: &str, file: &Path) -> Result<String> {
    let mut command = client.command("curl");
    command.args(["-gsS", "--fail", "--max-time", "60", "-o"]).arg(file).arg(url);
    run(&mut command, "")?;
    sha256(file)
}

/// SHA-256 of a file in hexadecimal.
pub(crate) fn sha256(file: &Path) -> Result<String> {
    let printed = run(std::process::Command::new("sha256sum").arg(file), "")?;
    Ok(printed.split_whitespace().next().context("sha256sum prints nothing")?.to_owned())
}
