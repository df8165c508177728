//! `weir explain` against where packets really go.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use weir_lab::{Family, Lab, Mode, TCP_LINE_PORT, WeirDaemon, config::Service};
use weir_system::{Lines, flow_events, lab};

const CONNECTIONS: usize = 40;

#[test]
fn it_tells_where_packets_go_and_leaves_no_trace() -> Result<()> {
    for mode in Mode::ALL {
        let Some(builder) = lab()? else { return Ok(()) };
        let lab = builder.backends(3).mode(mode).build()?;
        let weir = lab.weir(&lab.config(&services(&lab)))?;
        for family in Family::BOTH {
            connections(&lab, &weir, family).with_context(|| format!("{mode:?} {family:?}\n{}", weir.log()))?;
        }
    }
    Ok(())
}

fn services(lab: &Lab) -> Vec<Service> {
    let lines = |family: Family| Service { port: Some(TCP_LINE_PORT), ..lab.service(name(family), family) };
    Family::BOTH.map(lines).into()
}

const fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "lines",
        Family::V6 => "lines6",
    }
}

/// Connections before a change, connections after it, and what is said of all of them.
fn connections(lab: &Lab, weir: &WeirDaemon, family: Family) -> Result<()> {
    let vip = SocketAddr::new(family.vip(1), TCP_LINE_PORT);
    let mut open = Vec::new();
    let more = |open: &mut Vec<_>| -> Result<()> {
        for _ in 0..CONNECTIONS {
            let mut lines = Lines::connect(lab.client(), vip)?;
            open.push((lines.ask("hello")?, lines));
        }
        Ok(())
    };
    more(&mut open)?;
    for (backend, lines) in &open {
        let packet = explained(weir, lines.local()?, vip, "ack")?;
        ensure!(packet["backend"]["name"] == *backend && packet["slot"]["tracked"] == false, "{backend}: {packet}");
    }
    let drained = weir.json(&["backend", "drain", name(family), "b2"])?;
    ensure!(drained["slots_moved"].as_u64() > Some(0), "{drained}");
    more(&mut open)?;

    let before = counters(weir, name(family))?;
    let mut entries = 0;
    for (backend, lines) in &open {
        for kind in ["syn", "ack"] {
            let packet = explained(weir, lines.local()?, vip, kind)?;
            if kind == "ack" || !packet["entry"].is_null() {
                ensure!(packet["backend"]["name"] == *backend, "{kind} of {backend}: {packet}");
            }
            entries += u64::from(!packet["entry"].is_null());
            ensure!(packet["service"] == name(family) && packet["why"].is_string(), "{packet}");
        }
    }
    ensure!(entries > 0, "no connection had an entry");
    let stranger: SocketAddr = SocketAddr::new(lab_address(family), 9);
    let unserved = explained(weir, stranger, SocketAddr::new(vip.ip(), 9999), "syn")?;
    ensure!(unserved["reason"] == "no-service" && unserved["action"] == "pass", "{unserved}");
    let after = counters(weir, name(family))?;
    ensure!(before == after, "explaining was counted: {before:?}, {after:?}");

    for (backend, lines) in &mut open {
        let answer = lines.ask("still there")?;
        ensure!(answer == *backend, "a connection to {backend} went to {answer}");
    }
    weir.json(&["backend", "undrain", name(family), "b2"])?;
    Ok(())
}

/// An address that no client of the lab has.
fn lab_address(family: Family) -> std::net::IpAddr {
    match family {
        Family::V4 => [203, 0, 113, 9].into(),
        Family::V6 => [0x2001, 0xdb8, 9, 0, 0, 0, 0, 9].into(),
    }
}

/// What is said of the packet of this `kind`.
fn explained(weir: &WeirDaemon, source: SocketAddr, destination: SocketAddr, kind: &str) -> Result<Value> {
    let explanation = weir.json(&["explain", &source.to_string(), &destination.to_string(), "tcp"])?;
    let mut packets = explanation["packets"].as_array().into_iter().flatten();
    let packet = packets.find(|packet| packet["kind"] == kind);
    packet.cloned().with_context(|| format!("no {kind} in {explanation}"))
}

/// What a service and the flow table have counted.
fn counters(weir: &WeirDaemon, service: &str) -> Result<(Value, Value)> {
    let stats = weir.json(&["stats"])?;
    let mut services = stats["services"].as_array().into_iter().flatten();
    let found = services.find(|found| found["name"] == service).context("no such service")?;
    ensure!(flow_events(weir, "looked-up")? > 0, "no look-up was counted");
    Ok((found["traffic"].clone(), stats["flow_events"].clone()))
}
