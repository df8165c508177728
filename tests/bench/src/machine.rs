//! Where and when something was measured.

use std::{fs, time::SystemTime};

use serde::{Deserialize, Serialize};

/// Where and when something was measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// When the run began, RFC 3339, UTC.
    pub date: String,
    /// Release of the kernel.
    pub kernel: String,
    /// Model of the CPU.
    pub cpu: String,
}

impl Machine {
    /// This one, now.
    #[must_use]
    pub fn here() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            cpu: model.map_or("unknown", |(_, name)| name).to_owned(),
        }
    }
}
