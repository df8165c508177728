//! `cargo xtask demo`: Weir at work in a lab, in about a minute. Every number shown is measured, and checked.

mod faults;
mod modes;
mod screen;
mod spread;

use std::{path::Path, time::Instant};

use anyhow::{Result, bail};

use self::screen::Screen;
use crate::{Lab, Mode, WeirDaemon, addresses::Family, cleanup, client::wrk::Wrk, config::Service, lab::LabBuilder};

/// Weights of the backends.
const WEIGHTS: [u16; 4] = [4, 3, 2, 1];
/// Clients, each with an address of its own.
const CLIENTS: u8 = 3;
/// wrk's connections open at a time, for each client.
const CONNECTIONS: u32 = 8;

/// Runs the demo with the binary `weir`, and removes all of it.
///
/// # Errors
/// Any of the checks fails, or something does not work at all.
pub fn demo(weir: &Path) -> Result<()> {
    cleanup::remove_on_signals()?;
    let started = Instant::now();
    let mut screen = Screen::default();
    screen::title("Weir: a layer-4 load balancer in the network driver's XDP hook");
    nat(weir, &mut screen)?;
    modes::all(weir, &mut screen)?;
    screen.summary(started.elapsed());
    match screen.failures() {
        0 => Ok(()),
        failures => bail!("{failures} of {} checks failed", screen.checks()),
    }
}

/// The long part: one lab, one daemon, everything that can happen to them.
fn nat(weir: &Path, screen: &mut Screen) -> Result<()> {
    let began = Instant::now();
    let mut lab = shape(weir, Mode::Nat).build()?;
    let mut daemon = lab.weir(&lab.config(&services(&lab)))?;
    introduce(&lab, &daemon, screen, began)?;
    spread::show(&lab, &daemon, screen)?;
    faults::server_dies(&mut lab, &daemon, screen)?;
    faults::server_is_drained(&lab, &daemon, screen)?;
    faults::daemon_dies(&lab, &mut daemon, screen)?;
    screen.section("What Weir counted", "weir stats");
    screen::verbatim(&daemon.cli(&["stats"])?);
    Ok(())
}

fn introduce(lab: &Lab, daemon: &WeirDaemon, screen: &mut Screen, began: Instant) -> Result<()> {
    let status = daemon.json(&["status"])?;
    let attached = status["interfaces"][0]["xdp"].as_str().unwrap_or("not").to_owned();
    screen::paragraph(
        "clients            router             balancer           servers (nginx)\n\n\
         c1 c2 c3  ───────  10.1.0.1  ───────  lb: Weir  ────┬──  b1  weight 4\n\
         10.1.0.11-13       10.2.0.1           10.2.0.2      ├──  b2  weight 3\n\
         \u{20}                                                   ├──  b3  weight 2\n\
         \u{20}                                                   └──  b4  weight 1",
    );
    screen::paragraph(&format!(
        "Nine network namespaces with real servers and clients, made in {:.1} s. Clients connect to 10.9.0.1 and\n\
         fd09::1, which no machine has: Weir takes what arrives for them off the wire and sends it to a backend. Its\n\
         program is attached to {} in {attached} mode; IP forwarding is off there.",
        began.elapsed().as_secs_f64(),
        lab.balancer_interfaces().join(" and "),
    ));
    screen.check(attached == "native", "the packet path runs in the driver (native XDP)");
    Ok(())
}

fn shape(weir: &Path, mode: Mode) -> LabBuilder {
    Lab::builder().clients(CLIENTS).backends(4).mode(mode).weir(weir)
}

/// `web` on IPv4 and `web6` on IPv6.
fn services(lab: &Lab) -> [Service; 2] {
    [("web", Family::V4), ("web6", Family::V6)].map(|(name, family)| lab.service(name, family).weights(&WEIGHTS))
}

/// Each request has a connection of its own, so that each is balanced by itself.
fn short_connections(seconds: u32) -> Wrk {
    Wrk { connections: CONNECTIONS, seconds, keep_alive: false }
}
