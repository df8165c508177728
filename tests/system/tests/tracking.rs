//! The flow table: it is not asked where nothing deviates, and a flood that fills it costs nobody a connection.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread::{self, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{Array, Map, MapData};
use lb_common::abi::{FlowEntry, FlowKeyV4, FlowWord, SlotWord, protocol};
use weir::{
    dataplane::{Flows, Pins},
    flows::FlowKey,
};
use weir_lab::{
    Family, Lab, Mode, TCP_LINE_PORT, WeirDaemon,
    client::{
        flood,
        long_lived::{Connection, Kind, LongLived},
        wrk::Wrk,
    },
    config::Service,
};
use weir_system::{flow_events, lab, packets, pins};

/// A backend that was added has been checked by then, also on a busy machine.
const NOTICED: Duration = Duration::from_secs(3);
/// Sweeps that find nothing any more have told so by then.
const SETTLED: Duration = Duration::from_secs(20);
/// Room in the flooded table.
const FLOWS: u32 = 4096;
/// Addresses of the flood.
const SOURCES: u32 = 100_000;
/// Of the flood: a second of it fills the table several times over.
const PER_SECOND: u32 = 20_000;

#[test]
fn a_flood_fills_the_table_and_breaks_nothing_in_nat() -> Result<()> {
    flooded(Mode::Nat, Family::V4)
}

#[test]
fn a_flood_fills_the_table_and_breaks_nothing_in_l2() -> Result<()> {
    flooded(Mode::L2, Family::V6)
}

#[test]
fn a_flood_fills_the_table_and_breaks_nothing_in_ipip() -> Result<()> {
    flooded(Mode::Ipip, Family::V4)
}

fn flooded(mode: Mode, family: Family) -> Result<()> {
    let Some(builder) = lab()? else { return Ok(()) };
    let lab = builder.clients(2).backends(4).mode(mode).build()?;
    let mut service = lines(&lab, family);
    let late = service.members.pop().context("no backends")?;
    let weir = lab.weir(&lab.config_with(&format!("tables = {{ flows = {FLOWS} }}"), &[service]))?;
    let target = SocketAddr::new(family.vip(1), TCP_LINE_PORT);
    let pause = Duration::from_millis(50)..=Duration::from_millis(500);
    let kinds = [(100, Some(pause)), (100, None), (20, None)].map(|(count, pause)| Kind { target, count, pause });
    let links = LongLived::open(&lab, &kinds)?;
    let (established, renewed): (Vec<_>, Vec<_>) = (0..220).partition(|number| *number < 200);

    weir.cli(&["backend", "add", "lines", &late.address.to_string(), "--name", &late.name])?;
    weir.wait_for("lines", &late.name, "up", NOTICED)?;
    let over = AtomicBool::new(false);
    let rounds = thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let outcome = flood::syns(&lab, target, SOURCES, PER_SECOND);
            over.store(true, Ordering::Relaxed);
            outcome
        });
        let mut rounds = 0;
        let renewing = loop {
            if over.load(Ordering::Relaxed) {
                break Ok(rounds);
            }
            if let Err(error) = links.reopen(&renewed) {
                break Err(error);
            }
            rounds += 1;
        };
        flood.join().map_err(|_| anyhow::anyhow!("the flood panicked"))??;
        renewing
    });
    let rounds = rounds.with_context(|| weir.log())?;
    ensure!(rounds >= 3, "new connections were opened {rounds} times only");
    ensure!(flow_events(&weir, "not-opened")? > 1000, "the table is not full: {}", weir.cli(&["stats"])?);
    // Of a backend that lives there is room for every new flow.
    ensure!(packets(&weir, "flow-table-full")? == 0);
    links.speak(&established)?;
    links.reopen(&renewed)?;
    let breaks = links.breaks();
    ensure!(breaks.is_empty(), "{} connections broke, first this: {}", breaks.len(), breaks[0]);
    Ok(())
}

#[test]
fn in_a_settled_service_nobody_asks_the_flow_table() -> Result<()> {
    for mode in Mode::ALL {
        let Some(builder) = lab()? else { return Ok(()) };
        let lab = builder.clients(2).backends(3).mode(mode).build()?;
        // So that connections that were reset, which are many, are soon forgotten.
        let web = Service { more: "idle = \"2s\"".to_owned(), ..lab.service("web", Family::V4) };
        let mut weir = lab.weir(&lab.config(&[web, lines(&lab, Family::V4)]))?;
        steady(&lab, &mut weir).with_context(|| format!("{mode:?}\n{}", weir.log()))?;
    }
    Ok(())
}

fn steady(lab: &Lab, weir: &mut WeirDaemon) -> Result<()> {
    let target = SocketAddr::new(Family::V4.vip(1), TCP_LINE_PORT);
    let links = LongLived::open(lab, &[Kind { target, count: 30, pause: None }])?;
    wait_until_settled(lab, weir)?;
    let before = flow_events(weir, "looked-up")?;
    traffic(lab, &links)?;
    ensure!(flow_events(weir, "looked-up")? == before, "the table was asked in the steady state");
    ensure!(flows(lab)?.count()? == [0, 0], "flows were entered in the steady state");

    let connection = links.connections().swap_remove(0);
    let backend = connection.backend.clone().context("nobody answers")?;
    for service in ["web", "lines"] {
        weir.cli(&["backend", "drain", service, &backend])?;
    }
    traffic(lab, &links)?;
    let after = flow_events(weir, "looked-up")?;
    ensure!(after > before + 1000, "{before} look-ups before a change, {after} after it");

    // Without Weir's word for it: who looks an entry up notes the time in it.
    let mut entry = Entry::of(lab, &connection)?;
    weir.kill9()?;
    entry.make_old()?;
    traffic(lab, &links)?;
    ensure!(!entry.is_old()?, "an entry was not looked up after a change");
    weir.restart()?;
    for service in ["web", "lines"] {
        weir.cli(&["backend", "undrain", service, &backend])?;
    }
    wait_until_settled(lab, weir)?;
    weir.kill9()?;
    entry.make_old()?;
    traffic(lab, &links)?;
    ensure!(entry.is_old()?, "an entry was looked up in the steady state");
    ensure!(links.breaks().is_empty(), "connections broke: {}", links.breaks()[0]);
    Ok(())
}

/// Thousands of requests, in connections of their own and in few, and a line over each of `links`.
fn traffic(lab: &Lab, links: &LongLived) -> Result<()> {
    for keep_alive in [false, true] {
        let report = Wrk { connections: 8, seconds: 1, keep_alive }.run(lab, "http://10.9.0.1/")?;
        ensure!(report.failed() == 0 && report.requests > 500, "{report:?}");
    }
    links.speak(&links.numbers(|_| true))
}

/// Waits until both flow tables are empty and no slot is tracked any more.
fn wait_until_settled(lab: &Lab, weir: &WeirDaemon) -> Result<()> {
    let deadline = Instant::now() + SETTLED;
    loop {
        let (entries, tracked) = (flows(lab)?.count()?, tracked_slots(lab, weir)?);
        if entries == [0, 0] && tracked == 0 {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "after {SETTLED:?} {entries:?} flows are left and {tracked} slots are tracked:\n{}",
            weir.log()
        );
        sleep(Duration::from_millis(100));
    }
}

/// The flow tables of the lab's Weir.
fn flows(lab: &Lab) -> Result<Flows> {
    Flows::pinned(&Pins::of(lab.id()))
}

/// Slots of all services for whose packets the flow table is asked.
fn tracked_slots(lab: &Lab, weir: &WeirDaemon) -> Result<usize> {
    let path = pins(lab).join("maps").join("SLOTS");
    let map = MapData::from_pin(&path).with_context(|| path.display().to_string())?;
    let slots: Array<_, u64> = Map::Array(map).try_into()?;
    let status = weir.json(&["status"])?;
    let mut tables = status["tables"].as_array().into_iter().flatten();
    let used = tables.find(|table| table["name"] == "slots").and_then(|table| table["used"].as_u64());
    let mut tracked = 0;
    for slot in 0..u32::try_from(used.context("no slots")?)? {
        tracked += usize::from(SlotWord(slots.get(&slot, 0)?).tracked());
    }
    Ok(tracked)
}

/// The entry of a connection over IPv4, as it was when it was found.
struct Entry {
    flows: Flows,
    key: FlowKey,
    old: FlowEntry,
}

impl Entry {
    fn of(lab: &Lab, connection: &Connection) -> Result<Self> {
        let (Some(SocketAddr::V4(client)), SocketAddr::V4(target)) = (connection.client, connection.target) else {
            bail!("no connection over IPv4: {connection:?}");
        };
        let key = FlowKey::V4(FlowKeyV4 {
            source: client.ip().octets(),
            destination: target.ip().octets(),
            source_port: client.port().to_be_bytes(),
            destination_port: target.port().to_be_bytes(),
            protocol: protocol::TCP.into(),
        });
        let flows = flows(lab)?;
        let found = flows.get(&key)?.context("the connection has no entry")?;
        let word = FlowWord::new(found.word.backend(), found.word.flags(), 1);
        Ok(Self { flows, key, old: FlowEntry { word, ..found } })
    }

    /// Puts it in as if the connection had not spoken since the machine was started.
    fn make_old(&mut self) -> Result<()> {
        self.flows.set(&self.key, &self.old)
    }

    fn is_old(&self) -> Result<bool> {
        Ok(self.flows.get(&self.key)? == Some(self.old))
    }
}

/// The service `lines` of all backends, none of which is gone because a flood is in the way of its checks.
fn lines(lab: &Lab, family: Family) -> Service {
    Service { port: Some(TCP_LINE_PORT), more: "hold = \"1h\"".to_owned(), ..lab.service("lines", family) }
}
