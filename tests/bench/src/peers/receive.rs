//! Receiving on an interface in a thread of its own.
//!
//! Between veth pairs a packet is received by whoever has sent it: in its softirq, on its CPU, and in its account. With
//! threaded NAPI a thread of the kernel does that, for every balancer in the same way; it has a CPU and a clock.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, bail, ensure};
use weir_lab::Netns;

use super::cpu::Task;

/// Has everything that `device` receives be received by threads of its own: these.
///
/// A device without an XDP program gets generic receive offload, because veth has no NAPI without either.
///
/// # Errors
/// The kernel has no such threads (they came with 5.12), or others of that name come at the same time.
pub fn in_threads(netns: &Netns, device: &str) -> Result<Vec<Task>> {
    run(netns.command("ethtool").args(["-K", device, "gro", "on"]))?;
    let before = threads(device)?;
    // A /sys shows the namespace that it was mounted in: this mounts one anew.
    let write = format!("echo 1 >/sys/class/net/{device}/threaded");
    run(Command::new("ip").args(["netns", "exec", netns.name(), "sh", "-c", &write]))?;
    let mut new = threads(device)?;
    new.retain(|thread| !before.contains(thread));
    let queues = queues(netns, device)?;
    ensure!(new.len() == queues, "{device} has {queues} queues, and {} threads have come: {new:?}", new.len());
    Ok(new)
}

/// Threads of the kernel that receive on devices of this name, in any namespace.
fn threads(device: &str) -> Result<Vec<Task>> {
    let prefix = format!("napi/{device}-");
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("/proc")? {
        let entry = entry?;
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // One that has just ended has no name.
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if name.starts_with(&prefix) {
            found.push(Task::new(id)?);
        }
    }
    Ok(found)
}

fn queues(netns: &Netns, device: &str) -> Result<usize> {
    let count = format!("ls /sys/class/net/{device}/queues | grep -c ^rx-");
    let counted = run(Command::new("ip").args(["netns", "exec", netns.name(), "sh", "-c", &count]))?;
    counted.trim().parse().with_context(|| format!("queues of {device}: {counted}"))
}

/// Runs `command` to its end: what it prints.
pub(super) fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("can't run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
