//! The way of the frames: veth pairs between two namespaces of a lab.
//!
//! ```text
//!   outside                      inside
//!   generator ──┬── weir ──────── weir   Weir, attached by its daemon
//!               ├── swap ──────── swap   a program that swaps MAC addresses
//!   sink ───────┴── drop ──────── drop   a program that drops
//! ```
//!
//! Both ends of a pair have the pair's name. Frames go in at one outside end, are taken by the program at the inside end,
//! and come back to the sink at the same outside end.

use std::{fmt, fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use weir::api::types::Stats;
use weir_lab::{Lab, Netns, WeirDaemon};
use weir_packets::{
    build::{ROUTER_MAC, WEIR_MAC},
    fixtures::Family,
    world::World,
};

use super::config;
use crate::packet::world;

/// A veth pair, named by what is at its inside end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// A program that swaps MAC addresses: what ratios are ratios to.
    Swap,
    /// A program that drops: what generating and receiving a frame costs.
    Drop,
    /// The balancer.
    Weir,
}

impl Wire {
    /// All of them, in the order in which they are measured.
    pub const ALL: [Self; 3] = [Self::Swap, Self::Drop, Self::Weir];

    /// What tables call the program at its inside end.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::Swap => "MAC swap",
            Self::Drop => "drop",
            Self::Weir => "weir",
        }
    }

    /// The name of the device at each of its ends.
    #[must_use]
    pub const fn device(self) -> &'static str {
        match self {
            Self::Swap => "swap",
            Self::Drop => "drop",
            Self::Weir => "weir",
        }
    }
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.program())
    }
}

/// The namespaces with all wires between them. They are gone when this is dropped.
pub struct Wires {
    lab: Lab,
}

impl Wires {
    /// Makes them; `weir` is the balancer's binary.
    ///
    /// # Errors
    /// This is no place for a lab, or the kernel refuses something.
    pub fn make(weir: &Path) -> Result<Self> {
        let wires = Self { lab: Lab::builder().backends(1).weir(weir).build()? };
        let mut script = String::new();
        for wire in Wire::ALL {
            let (device, [outside, inside]) = (wire.device(), [ROUTER_MAC, WEIR_MAC].map(config::mac));
            let other = wires.inside().name();
            let _ = writeln!(
                script,
                "link add {device} address {outside} type veth peer name {device} address {inside} netns {other}"
            );
        }
        wires.outside().ip(&script)?;
        // Nobody but the generator may send anything.
        let silent = Wire::ALL.map(|wire| format!("ipv6/conf/{}/disable_ipv6", wire.device()));
        wires.outside().sysctl(&silent.each_ref().map(|key| (key.as_str(), "1")))?;
        let up = Wire::ALL.map(|wire| format!("link set {} up\n", wire.device())).concat();
        wires.inside().ip(&up)?;
        wires.outside().ip(&up)?;
        let own = Family::BOTH.map(|family| config::own_address(Wire::Weir.device(), world::backends(family)));
        wires.inside().ip(&own.concat())?;
        Ok(wires)
    }

    /// The generator's and the sink's namespace.
    #[must_use]
    pub fn outside(&self) -> &Netns {
        self.lab.client()
    }

    /// The balancer's namespace.
    #[must_use]
    pub fn inside(&self) -> &Netns {
        self.lab.balancer()
    }

    /// Starts Weir on its wire, configured as `world`, and waits until it is ready.
    ///
    /// # Errors
    /// It does not start; the message holds its log.
    pub fn start_weir(&self, world: &World) -> Result<WeirDaemon> {
        self.inside().ip(&config::neighbours(Wire::Weir.device(), world))?;
        let node = config::Node {
            instance: self.lab.id(),
            interface: Wire::Weir.device(),
            socket: self.lab.socket().display().to_string(),
            state_dir: self.lab.dir().join("state").display().to_string(),
        };
        self.lab.weir(&config::file(&node, world))
    }

    /// Frames that the device at the inside end of `wire` has received, those that a program took included.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn received(&self, wire: Wire) -> Result<u64> {
        const FILE: &str = "/proc/thread-self/net/dev";
        let table = self.inside().enter(|| fs::read_to_string(FILE))?.with_context(|| format!("cannot read {FILE}"))?;
        received(&table, wire.device()).with_context(|| format!("{FILE} does not tell of {}", wire.device()))
    }

    /// Id of the program at the inside end of `wire`.
    ///
    /// # Errors
    /// There is none, or it is not in the driver.
    pub fn program_id(&self, wire: Wire) -> Result<u32> {
        let mut show = self.inside().command("ip");
        let output = show.args(["-json", "link", "show", "dev", wire.device()]).output().context("cannot run ip")?;
        ensure!(output.status.success(), "ip: {}", String::from_utf8_lossy(&output.stderr).trim());
        let shown: serde_json::Value = serde_json::from_slice(&output.stdout).context("ip prints no JSON")?;
        let xdp = &shown[0]["xdp"];
        // 1 is native mode, in the words of the kernel's XDP_ATTACHED_DRV.
        ensure!(xdp["mode"] == 1, "{} has no XDP program in native mode: {xdp}", wire.device());
        let id = xdp["prog"]["id"].as_u64().context("ip tells no program's id")?;
        Ok(u32::try_from(id)?)
    }
}

/// Packets received by `device` in the kernel's table of devices: lines of `NAME: BYTES PACKETS …`.
fn received(table: &str, device: &str) -> Option<u64> {
    let counters = table.lines().find_map(|line| line.trim_start().strip_prefix(device)?.strip_prefix(':'))?;
    counters.split_whitespace().nth(1)?.parse().ok()
}

/// What `weir` has counted.
///
/// # Errors
/// It does not answer.
pub fn stats(weir: &WeirDaemon) -> Result<Stats> {
    serde_json::from_value(weir.json(&["stats"])?).context("weir stats --json has another shape than expected")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn received_packets_are_the_second_number_of_the_device() {
        let table = "Inter-|   Receive                            |  Transmit\n \
                     face |bytes    packets errs drop fifo frame compressed multicast|bytes packets\n    \
                     lo:       0       1    0    0    0     0          0         0        0       0\n  \
                     weir: 8390656   65552    0    0    0     0          0         0     1026      11\n";
        assert_eq!(received(table, "weir"), Some(65_552));
        assert_eq!(received(table, "lo"), Some(1));
        assert_eq!(received(table, "wei"), None);
        assert_eq!(received(table, "swap"), None);
    }
}
