//! The daemon's life: killed, restarted, stopped, detached, and a second one beside it. Traffic must not notice.

use std::{
    fs,
    net::SocketAddr,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, Map, MapData};
use serde_json::Value;
use weir_lab::{Family, Lab, Mode, TCP_LINE_PORT, WeirDaemon, client::curl};
use weir_system::{Lines, lab, load, nothing_fails, pins, services, weir_binary};

/// Time in which every backend is asked many times.
const WHILE: Duration = Duration::from_millis(1200);
/// A change of health is known by then, also on a busy machine: checks run every 200 ms, two in a row decide.
const NOTICED: Duration = Duration::from_secs(2);
/// The lab's first IPv4 VIP.
const URL: &str = "http://10.9.0.1/";

#[test]
fn no_request_fails_when_the_daemon_is_killed_and_restarted() -> Result<()> {
    for mode in Mode::ALL {
        let Some(builder) = lab()? else { return Ok(()) };
        let lab = builder.clients(2).backends(4).mode(mode).build()?;
        let mut weir = lab.weir(&lab.config(&services(&lab)))?;
        killed_under_load(&lab, &mut weir).with_context(|| format!("{mode:?}\n{}", weir.log()))?;
    }
    Ok(())
}

fn killed_under_load(lab: &Lab, weir: &mut WeirDaemon) -> Result<()> {
    let mut connections = Vec::new();
    for _ in 0..20 {
        let mut lines = Lines::connect(lab.client(), SocketAddr::new(Family::V4.vip(1), TCP_LINE_PORT))?;
        connections.push((lines.ask("before")?, lines));
    }
    let before = Tables::read(lab, weir)?;
    let load = Family::BOTH.map(|family| load(lab, family));
    sleep(WHILE);
    let killed = Instant::now();
    weir.kill9()?;
    sleep(WHILE);
    let started = Instant::now();
    weir.restart()?;
    sleep(WHILE);

    for load in load {
        let story = load.finish()?;
        nothing_fails(&story)?;
        ensure!(story.0.len() >= 500, "only {} requests", story.0.len());
        let without = story.0.iter().filter(|request| (killed..started).contains(&request.at)).count();
        ensure!(without >= 100, "only {without} requests while no daemon ran");
    }
    for (backend, lines) in &mut connections {
        let answer = lines.ask("after")?;
        ensure!(answer == *backend, "a connection to {backend} went to {answer}");
    }
    let after = Tables::read(lab, weir)?;
    ensure!(before == after, "the tables are not those from before: {:?}, {:?}", before.services, after.services);
    let log = weir.log();
    let (_, second_life) = log.rsplit_once("taking over the tables").context("it does not say that it takes over")?;
    ensure!(second_life.contains("program replaced") && !second_life.contains("slots moved"), "{second_life}");
    Ok(())
}

/// Ids, slots and addresses of every service's backends, and who has which slot in the kernel.
#[derive(Debug, PartialEq)]
struct Tables {
    services: Vec<Value>,
    slots: Vec<u64>,
}

impl Tables {
    fn read(lab: &Lab, weir: &WeirDaemon) -> Result<Self> {
        let mut services = Vec::new();
        for service in weir.json(&["service", "list"])?.as_array().context("no list")? {
            for backend in service["backends"].as_array().context("no backends")? {
                let facts = ["name", "id", "address", "port", "weight", "state", "slots", "next_hop"];
                services.push(facts.iter().map(|fact| backend[*fact].clone()).collect());
            }
        }
        let status = weir.json(&["status"])?;
        let mut tables = status["tables"].as_array().into_iter().flatten();
        let used = tables.find(|table| table["name"] == "slots").and_then(|table| table["used"].as_u64());
        let pinned = MapData::from_pin(pins(lab).join("maps/SLOTS"))?;
        let map: Array<_, u64> = Map::Array(pinned).try_into()?;
        let read = (0..u32::try_from(used.context("no slots")?)?).map(|slot| Ok(map.get(&slot, 0)?));
        let slots = read.collect::<Result<Vec<_>>>()?;
        ensure!(slots.len() > 1000 && !slots.contains(&0), "{} slots, some of them empty", slots.len());
        Ok(Self { services, slots })
    }
}

#[test]
fn a_backend_that_was_down_stays_down_over_a_restart() -> Result<()> {
    let Some(builder) = lab()? else { return Ok(()) };
    let mut lab = builder.backends(3).build()?;
    let mut weir = lab.weir(&lab.config(&services(&lab)))?;
    lab.stop_server(1);
    weir.wait_for("web", "b2", "down", NOTICED)?;
    let load = load(&lab, Family::V4);
    let end_of_first_log = weir.log().len();
    weir.kill9()?;
    weir.restart()?;
    let watched = Instant::now();
    while watched.elapsed() < WHILE {
        let b2 = weir.backend("web", "b2")?;
        ensure!(b2["state"] == "down" && b2["slots"] == 0, "{b2}");
    }
    nothing_fails(&load.finish()?)?;
    let log = weir.log();
    let said = &log[end_of_first_log..];
    ensure!(!said.contains("backend web/b2 is up") && !said.contains("backends of web are up"), "{log}");

    // Recovery while nobody watched is found out.
    weir.kill9()?;
    lab.start_server(1)?;
    weir.restart()?;
    weir.wait_for("web", "b2", "up", NOTICED)?;
    ensure!(curl::spread(lab.client(), URL, 60)?.contains_key("b2"));
    Ok(())
}

#[test]
fn runtime_changes_survive_a_restart_until_the_file_changes() -> Result<()> {
    let Some(builder) = lab()? else { return Ok(()) };
    let lab = builder.backends(3).mode(Mode::L2).build()?;
    let config = lab.config(&[lab.service("web", Family::V4)]);
    let mut weir = lab.weir(&config)?;
    weir.cli(&["backend", "drain", "web", "b1"])?;
    weir.cli(&["backend", "weight", "web", "b2", "3"])?;
    let add = ["service", "add", "other", "--vip", "10.9.0.2", "--port", "8080", "--mode", "l2", "--no-health"];
    weir.cli(&[&add[..], &["--backend", "10.2.0.13,name=b3"]].concat())?;

    for kill in [false, true] {
        if kill {
            weir.kill9()?;
        }
        weir.restart()?;
        ensure!(weir.backend("web", "b1")?["state"] == "draining");
        ensure!(weir.backend("web", "b2")?["weight"] == 3);
        ensure!(weir.log().contains("going on with the runtime changes"), "{}", weir.log());
        let answers = curl::spread(lab.client(), URL, 60)?;
        ensure!(!answers.contains_key("b1") && answers["b2"] > answers["b3"], "{answers:?}");
        ensure!(curl::get(lab.client(), "http://10.9.0.2:8080/")? == "b3");
    }

    weir.terminate()?;
    fs::write(weir.config(), format!("{config}\n# Looked over.\n"))?;
    weir.restart()?;
    ensure!(weir.log().contains("has changed since runtime changes were saved"), "{}", weir.log());
    ensure!(weir.backend("web", "b1")?["state"] == "up");
    ensure!(weir.backend("web", "b2")?["weight"] == 1);
    ensure!(weir.backend("other", "b3").is_err());
    ensure!(curl::spread(lab.client(), URL, 60)?.len() == 3);
    Ok(())
}

#[test]
fn stopped_it_leaves_the_packet_path_unless_told_otherwise() -> Result<()> {
    let Some(builder) = lab()? else { return Ok(()) };
    let lab = builder.build()?;
    let web = || [lab.service("web", Family::V4)];
    let mut weir = lab.weir(&lab.config(&web()))?;
    let load = load(&lab, Family::V4);
    sleep(WHILE);
    weir.terminate()?;
    sleep(WHILE);
    nothing_fails(&load.finish()?)?;
    ensure!(pins(&lab).join("maps/SLOTS").exists() && !lab.socket().exists());

    fs::write(weir.config(), lab.config_with("on_exit = \"detach\"", &web()))?;
    weir.restart()?;
    weir.terminate()?;
    nothing_is_left(&lab)
}

#[test]
fn detach_removes_everything_with_and_without_a_daemon() -> Result<()> {
    let Some(builder) = lab()? else { return Ok(()) };
    let lab = builder.two_armed(true).build()?;
    let mut weir = lab.weir(&lab.config(&[lab.service("web", Family::V4)]))?;
    let said = weir.cli(&["detach"])?;
    ensure!(said.contains("detached from eth0, eth1"), "{said}");
    nothing_is_left(&lab)?;
    let deadline = Instant::now() + NOTICED;
    while weir.cli(&["status"]).is_ok() {
        ensure!(Instant::now() < deadline, "the daemon goes on");
    }
    // It has ended by itself; what is waited for here is only its process.
    weir.kill9()?;

    weir.restart()?;
    weir.kill9()?;
    ensure!(curl::get(lab.client(), URL).is_ok(), "the packet path went with the daemon");
    let binary = weir_binary()?;
    let detach = || lab.balancer().command(&binary).args(["detach", "--instance", lab.id()]).output();
    let detached = detach()?;
    let said = String::from_utf8_lossy(&detached.stdout);
    ensure!(detached.status.success() && said.contains("eth0") && said.contains("eth1"), "{detached:?}");
    nothing_is_left(&lab)?;
    let nothing = detach()?;
    ensure!(nothing.status.code() == Some(1), "{nothing:?}");
    Ok(())
}

/// By the same socket or by another one: there is one daemon to an instance.
#[test]
fn a_second_daemon_is_refused_and_does_no_harm() -> Result<()> {
    let Some(builder) = lab()? else { return Ok(()) };
    let lab = builder.build()?;
    let config = lab.config(&[lab.service("web", Family::V4)]);
    let weir = lab.weir(&config)?;
    let pid = weir.json(&["status"])?["pid"].clone();
    let load = load(&lab, Family::V4);
    let other_socket = lab.dir().join("other.toml");
    fs::write(&other_socket, config.replace("weir.sock", "other.sock"))?;
    for config in [weir.config(), other_socket] {
        let second = run_briefly(lab.balancer().command(weir_binary()?).args(["run", "--config"]).arg(&config))?;
        ensure!(second.0 == Some(1) && second.1.contains("another daemon"), "{config:?}: {second:?}");
    }
    sleep(WHILE);
    nothing_fails(&load.finish()?)?;
    ensure!(weir.json(&["status"])?["pid"] == pid);
    weir.cli(&["backend", "drain", "web", "b1"])?;
    let answers = curl::spread(lab.client(), URL, 60)?;
    ensure!(answers.keys().eq(["b2"]), "the first daemon has no say any more: {answers:?}");
    Ok(())
}

/// No pin, no program; and the kernel gets the packets: given the VIP, it refuses the connection itself.
fn nothing_is_left(lab: &Lab) -> Result<()> {
    ensure!(!pins(lab).exists(), "pins are left in {}", pins(lab).display());
    for interface in lab.balancer_interfaces() {
        let shown = lab.balancer().command("ip").args(["link", "show", "dev", interface]).output()?;
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        ensure!(shown.contains(interface) && !shown.contains("xdp"), "{shown}");
    }
    lab.balancer().ip("address add 10.9.0.1/32 dev lo")?;
    let refused = Lines::connect(lab.client(), "10.9.0.1:80".parse()?).map(drop);
    lab.balancer().ip("address delete 10.9.0.1/32 dev lo")?;
    let refused = format!("{:#}", refused.err().context("somebody accepts")?);
    ensure!(refused.contains("refused"), "{refused}");
    Ok(())
}

/// Runs `command` for up to five seconds: its exit status, `None` if it still ran, and its standard error.
fn run_briefly(command: &mut Command) -> Result<(Option<i32>, String)> {
    let mut limited = Command::new("timeout");
    limited.args(["--kill-after=1", "5"]).arg(command.get_program()).args(command.get_args());
    let output = limited.output()?;
    // 124 is timeout's own.
    Ok((output.status.code().filter(|code| *code != 124), String::from_utf8_lossy(&output.stderr).into_owned()))
}
