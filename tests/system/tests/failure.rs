//! Backends that crash, hang, lose their link or change their address, and what operators do to them: what the clients
//! see of it, and how soon it is over.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpStream},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use weir_lab::{
    Family, Lab, Mode, TCP_LINE_PORT, WeirDaemon,
    addresses::in_url,
    client::{
        curl,
        steady::{Request, Steady, Story},
    },
    config::Service,
};
use weir_system::{Lines, check_spread, lab, packets};

/// What a busy machine may add to any time.
const SLACK: Duration = Duration::from_secs(1);
/// The lab's checks run every 200 ms, 10 % more or less. The second result in a row decides; a check that is not
/// answered fails after 200 ms.
const NOTICED: Duration = Duration::from_millis(2 * 220 + 200).saturating_add(SLACK);
/// Requests that go on while something happens, and long enough for some of them to reach every backend.
const WHILE: Duration = Duration::from_millis(800);

#[test]
fn a_crashed_server_is_taken_out_and_comes_back() -> Result<()> {
    for mode in Mode::ALL {
        let Some(builder) = lab()? else { return Ok(()) };
        let mut lab = builder.clients(2).backends(4).mode(mode).build()?;
        let lines = Service { port: Some(TCP_LINE_PORT), ..lab.service("lines", Family::V4) };
        let weir = lab.weir(&lab.config(&[lab.service("web", Family::V4), lines]))?;
        crash(&mut lab, &weir).with_context(|| format!("{mode:?}\n{}", weir.log()))?;
    }
    Ok(())
}

fn crash(lab: &mut Lab, weir: &WeirDaemon) -> Result<()> {
    let line_target = SocketAddr::new(Family::V4.vip(1), TCP_LINE_PORT);
    let mut connections = Vec::new();
    for _ in 0..60 {
        let mut lines = Lines::connect(lab.client(), line_target)?;
        connections.push((lines.ask("first")?, lines));
    }
    connections.retain(|(backend, _)| backend != "b2");
    let before = slots(weir)?;
    let load = load(lab);
    sleep(WHILE);

    let killed = Instant::now();
    lab.stop_server(1);
    let down = weir.wait_for("web", "b2", "down", NOTICED)?;
    weir.wait_for("lines", "b2", "down", NOTICED)?;
    sleep(WHILE);
    slots_moved_from_b2(&before, &slots(weir)?)?;
    still_answered(&mut connections)?;

    let started = Instant::now();
    lab.start_server(1)?;
    let ready = Instant::now();
    let up = weir.wait_for("web", "b2", "up", NOTICED)?;
    sleep(WHILE);
    let story = load.finish()?;
    ensure!(slots(weir)? == before, "the slots are not those from before: {before:?}, {:?}", slots(weir)?);
    ensure!(down - killed < NOTICED && up - ready < NOTICED);
    nothing_fails(&story, "before the crash", |request| ended(request) < killed)?;
    nothing_fails(&story, "after its detection", |request| request.at >= down && ended(request) < started)?;
    nothing_fails(&story, "after the return", |request| request.at >= up)?;
    ensure!(story.answers_of("b2", up) > 0, "b2 answers nobody after its return");
    Ok(())
}

/// No other backend loses more slots than chance has it, and b2 keeps none.
fn slots_moved_from_b2(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> Result<()> {
    let all: u64 = before.values().sum();
    ensure!(after["b2"] == 0 && after.values().sum::<u64>() == all, "{before:?} became {after:?}");
    for (backend, slots) in before.iter().filter(|(backend, _)| *backend != "b2") {
        ensure!(after[backend] > *slots, "{before:?} became {after:?}");
    }
    Ok(())
}

/// A few may be on slots that change hands though neither backend is concerned: up to 1 % do.
fn still_answered(connections: &mut [(String, Lines)]) -> Result<()> {
    let all = connections.len();
    let mut broken = Vec::new();
    for (backend, lines) in connections {
        let answer = lines.ask("again");
        if answer.as_ref().ok() != Some(backend) {
            broken.push(format!("{backend}: {answer:?}"));
        }
    }
    ensure!(all > 20 && broken.len() <= 3, "{} of {all} connections are broken: {broken:?}", broken.len());
    Ok(())
}

/// A server whose process hangs: its kernel accepts connections until the queue is full, and none after that.
#[test]
fn a_hung_server_is_taken_out_once_it_accepts_no_connection() -> Result<()> {
    let Some(builder) = lab()? else { return Ok(()) };
    let lab = builder.mode(Mode::L2).build()?;
    let weir = lab.weir(&lab.config(&[lab.service("web", Family::V4)]))?;
    lab.freeze_server(0, true)?;
    let target = SocketAddr::new(lab.backends()[0].address(Family::V4), 80);
    let connect = || TcpStream::connect_timeout(&target, Duration::from_millis(300));
    let queue = lab.router().enter(|| (0..5000).map_while(|_| connect().ok()).collect::<Vec<_>>())?;
    ensure!(queue.len() < 5000, "the queue has no end");
    weir.wait_for("web", "b1", "down", NOTICED)?;
    let reason = weir.backend("web", "b1")?["reason"].clone();
    ensure!(reason.as_str().is_some_and(|reason| reason.starts_with("timed out")), "{reason}");
    everybody_is_answered(&lab, Family::V4, &["b2"])?;

    drop(queue);
    lab.freeze_server(0, false)?;
    weir.wait_for("web", "b1", "up", NOTICED)?;
    everybody_is_answered(&lab, Family::V4, &["b1", "b2"])
}

#[test]
fn an_unplugged_backend_is_taken_out_and_comes_back() -> Result<()> {
    let Some(builder) = lab()? else { return Ok(()) };
    let lab = builder.mode(Mode::Ipip).two_armed(true).build()?;
    let weir = lab.weir(&lab.config(&both_families(&lab)))?;
    lab.plug(0, false)?;
    for service in ["web", "web6"] {
        weir.wait_for(service, "b1", "down", NOTICED)?;
    }
    for family in Family::BOTH {
        everybody_is_answered(&lab, family, &["b2"])?;
    }
    // Long enough for the kernel to give the neighbour up.
    sleep(Duration::from_secs(5));
    lab.plug(0, true)?;
    for service in ["web", "web6"] {
        // The kernel is asked for the neighbour again every three seconds.
        weir.wait_for(service, "b1", "up", NOTICED + Duration::from_secs(4))?;
    }
    for family in Family::BOTH {
        everybody_is_answered(&lab, family, &["b1", "b2"])?;
    }
    Ok(())
}

#[test]
fn without_any_backend_packets_are_dropped_and_counted() -> Result<()> {
    let Some(builder) = lab()? else { return Ok(()) };
    let mut lab = builder.build()?;
    let weir = lab.weir(&lab.config(&[lab.service("web", Family::V4)]))?;
    ensure!(packets(&weir, "no-backend")? == 0);
    for (index, backend) in ["b1", "b2"].into_iter().enumerate() {
        lab.stop_server(index);
        weir.wait_for("web", backend, "down", NOTICED)?;
    }
    ensure!(slots(&weir)?.values().all(|slots| *slots == 0), "{:?}", slots(&weir));
    ensure!(weir.log().contains("service web has no backend left"), "{}", weir.log());
    ensure!(Lines::connect(lab.client(), SocketAddr::new(Family::V4.vip(1), 80)).is_err(), "somebody answers");
    let dropped = packets(&weir, "no-backend")?;
    ensure!(dropped >= 1, "nothing is counted");

    for (index, backend) in ["b1", "b2"].into_iter().enumerate() {
        lab.start_server(index)?;
        weir.wait_for("web", backend, "up", NOTICED)?;
    }
    everybody_is_answered(&lab, Family::V4, &["b1", "b2"])?;
    ensure!(packets(&weir, "no-backend")? == dropped, "packets are still dropped");
    Ok(())
}

#[test]
fn a_drained_backend_gets_no_new_connection() -> Result<()> {
    let Some(builder) = lab()? else { return Ok(()) };
    let lab = builder.backends(4).build()?;
    let weir = lab.weir(&lab.config(&[lab.service("web", Family::V4)]))?;
    let load = load(&lab);
    sleep(WHILE);
    let said = weir.cli(&["backend", "drain", "web", "b3"])?;
    let drained = Instant::now();
    ensure!(said.contains("drained") && said.contains("slots moved"), "{said}");
    ensure!(weir.backend("web", "b3")?["state"] == "draining");
    ensure!(slots(&weir)?["b3"] == 0);
    sleep(WHILE);
    let asked_back = Instant::now();
    weir.cli(&["backend", "undrain", "web", "b3"])?;
    let back = Instant::now();
    sleep(WHILE);
    let story = load.finish()?;
    let meanwhile = |request: &Request| request.at >= drained && ended(request) < asked_back;
    nothing_fails(&story, "while b3 was drained", meanwhile)?;
    let strays = story.0.iter().filter(|r| meanwhile(r) && r.answer.as_deref() == Ok("b3")).count();
    ensure!(strays == 0, "{strays} new connections reached b3");
    nothing_fails(&story, "after its return", |request| request.at >= back)?;
    ensure!(story.answers_of("b3", back) > 0, "b3 answers nobody after its return");
    Ok(())
}

/// What the command line changes is in force when it returns.
#[test]
fn runtime_changes_take_effect() -> Result<()> {
    let Some(builder) = lab()? else { return Ok(()) };
    let lab = builder.backends(4).mode(Mode::L2).build()?;
    let weir = lab.weir(&lab.config(&[lab.service("web", Family::V4)]))?;
    let url = "http://10.9.0.1/";

    for (backend, weight) in [("b1", "6"), ("b2", "3"), ("b4", "0")] {
        let said = weir.cli(&["backend", "weight", "web", backend, weight])?;
        ensure!(said.contains(&format!("has weight {weight}")) && said.contains("slots moved"), "{said}");
    }
    check_spread(&curl::spread(lab.client(), url, 1000)?, &[6, 3, 1, 0])?;

    weir.cli(&["backend", "remove", "web", "b1"])?;
    check_spread(&curl::spread(lab.client(), url, 1000)?, &[0, 3, 1, 0])?;
    weir.cli(&["backend", "add", "web", "10.2.0.11", "--name", "b1", "--weight", "2"])?;
    weir.wait_for("web", "b1", "up", NOTICED)?;
    check_spread(&curl::spread(lab.client(), url, 1000)?, &[2, 3, 1, 0])?;

    let other = "http://10.9.0.2:8080/";
    let add = ["service", "add", "other", "--vip", "10.9.0.2", "--port", "8080", "--mode", "l2"];
    let backends = ["--backend", "10.2.0.11,name=b1", "--backend", "10.2.0.12,weight=3,name=b2"];
    weir.cli(&[&add[..], &backends, &["--health-interval", "200ms"]].concat())?;
    weir.wait_for("other", "b1", "up", NOTICED)?;
    weir.wait_for("other", "b2", "up", NOTICED)?;
    check_spread(&curl::spread(lab.client(), other, 1000)?, &[1, 3])?;
    weir.cli(&["service", "remove", "other"])?;
    ensure!(Lines::connect(lab.client(), "10.9.0.2:8080".parse()?).is_err(), "a removed service answers");
    check_spread(&curl::spread(lab.client(), url, 1000)?, &[2, 3, 1, 0])?;

    for (args, why) in [
        (&["backend", "drain", "web", "b9"][..], "b9"),
        (&["service", "show", "nothing"], "nothing"),
        (&["backend", "add", "web", "10.2.0.12"], "10.2.0.12"),
        (&["backend", "weight", "web", "b1", "1001"], "1000"),
    ] {
        let output = weir.output(args)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(1) && said.contains(why), "weir {args:?}: {} {said}", output.status);
    }
    Ok(())
}

/// Announced, as a machine that takes over an address does.
#[test]
fn a_new_mac_address_is_followed_when_it_is_announced() -> Result<()> {
    let Some(builder) = lab()? else { return Ok(()) };
    let lab = builder.mode(Mode::L2).build()?;
    let weir = lab.weir(&lab.config(&both_families(&lab)))?;
    let backend = lab.backends()[0].netns();
    backend.sysctl(&[("ipv4/conf/eth0/arp_notify", "1"), ("ipv6/conf/eth0/ndisc_notify", "1")])?;
    // The kernel does not believe one that follows another within a second.
    sleep(Duration::from_millis(1100));
    backend.ip("link set eth0 address 02:00:00:00:00:77")?;
    mac_is_followed(&lab, &weir, "02:00:00:00:00:77", SLACK)
}

/// Not announced: the checks fail until the kernel has asked again.
#[test]
fn a_new_mac_address_is_found_when_it_is_not_announced() -> Result<()> {
    let Some(builder) = lab()? else { return Ok(()) };
    let lab = builder.mode(Mode::L2).build()?;
    // Sooner than by default, which is 15 to 45 s after the last sign of life, 5 s and three questions.
    for family in ["ipv4", "ipv6"] {
        let key = |name| format!("{family}/neigh/eth0/{name}");
        let (reachable, delay) = (key("base_reachable_time_ms"), key("delay_first_probe_time"));
        lab.balancer().sysctl(&[(&reachable, "1000"), (&delay, "1")])?;
    }
    let weir = lab.weir(&lab.config(&both_families(&lab)))?;
    lab.backends()[0].netns().ip("link set eth0 address 02:00:00:00:00:78")?;
    weir.wait_for("web", "b1", "down", NOTICED)?;
    everybody_is_answered(&lab, Family::V4, &["b2"])?;
    mac_is_followed(&lab, &weir, "02:00:00:00:00:78", Duration::from_secs(20))
}

fn mac_is_followed(lab: &Lab, weir: &WeirDaemon, mac: &str, within: Duration) -> Result<()> {
    let deadline = Instant::now() + within;
    for (service, family) in [("web", Family::V4), ("web6", Family::V6)] {
        loop {
            let seen = weir.backend(service, "b1")?;
            if seen["next_hop"]["mac"] == mac {
                break;
            }
            ensure!(Instant::now() < deadline, "{service} after {within:?}: {seen}\n{}", weir.log());
            sleep(Duration::from_millis(10));
        }
        weir.wait_for(service, "b1", "up", NOTICED)?;
        everybody_is_answered(lab, family, &["b1", "b2"])?;
    }
    Ok(())
}

/// `web` on IPv4 and `web6` on IPv6.
fn both_families(lab: &Lab) -> [Service; 2] {
    [("web", Family::V4), ("web6", Family::V6)].map(|(name, family)| lab.service(name, family))
}

fn load(lab: &Lab) -> Steady {
    Steady::start(lab, SocketAddr::new(Family::V4.vip(1), 80), 3, Duration::from_millis(10))
}

/// Slots of each backend of `web`.
fn slots(weir: &WeirDaemon) -> Result<BTreeMap<String, u64>> {
    let shown = weir.json(&["service", "show", "web"])?;
    let slots = shown["backends"].as_array().into_iter().flatten().map(|backend| {
        let (name, slots) = (backend["name"].as_str(), backend["slots"].as_u64());
        Ok((name.context("no name")?.to_owned(), slots.context("no slots")?))
    });
    slots.collect()
}

/// When it was answered, or had failed.
fn ended(request: &Request) -> Instant {
    request.at + request.took
}

/// Checks that none of the requests that `which` takes has failed; there must be some.
fn nothing_fails(story: &Story, when: &str, which: impl Fn(&Request) -> bool) -> Result<()> {
    let concerned: Vec<_> = story.0.iter().filter(|request| which(request)).collect();
    let failed: Vec<_> = concerned.iter().filter_map(|request| request.answer.as_ref().err()).collect();
    ensure!(concerned.len() > 20, "only {} requests {when}", concerned.len());
    ensure!(failed.is_empty(), "{} of {} requests failed {when}: {failed:?}", failed.len(), concerned.len());
    Ok(())
}

/// 60 requests to the first VIP are answered, by all of `backends` and nobody else.
fn everybody_is_answered(lab: &Lab, family: Family, backends: &[&str]) -> Result<()> {
    let answers = curl::spread(lab.client(), &format!("http://{}/", in_url(family.vip(1))), 60)?;
    ensure!(answers.keys().eq(backends), "{family:?}: answers of {answers:?}, not of {backends:?}");
    Ok(())
}
