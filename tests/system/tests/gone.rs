//! Backends that go, for good or for a while: what becomes of their connections.

use std::{
    net::{Ipv6Addr, SocketAddr, TcpListener},
    process::Output,
    thread::{self, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use weir_lab::{
    Family, Lab, Mode, TCP_LINE_PORT, UDP_ECHO_PORT, WeirDaemon,
    client::long_lived::{Break, How, Kind, LongLived, PATIENCE},
    config::Service,
};
use weir_system::{Echo, lab, packets, weir_binary};

/// What a busy machine may add to any time.
const SLACK: Duration = Duration::from_secs(1);
/// The lab's checks run every 200 ms, 10 % more or less. The second result in a row decides; a check that is not
/// answered fails after 200 ms.
const NOTICED: Duration = Duration::from_millis(2 * 220 + 200).saturating_add(SLACK);
/// How soon a connection ends that speaks to a backend that is gone.
const ENDS: Duration = Duration::from_secs(1);
/// Connections to each service.
const CONNECTIONS: usize = 30;
/// A port for health checks that the test can close.
const HEALTH_PORT: u16 = 9000;

/// A Linux client takes the reset that Weir makes for its own: nothing comes from the backend itself.
#[test]
fn clients_of_a_cut_off_backend_are_reset() -> Result<()> {
    for mode in Mode::ALL {
        let Some(builder) = lab()? else { return Ok(()) };
        let lab = builder.clients(2).mode(mode).build()?;
        let services = Family::BOTH.map(|family| lines(&lab, family, "hold = \"0s\""));
        let weir = lab.weir(&lab.config(&services))?;
        let links = silent(&lab, &Family::BOTH)?;
        let victims = of(&links, "b1");
        cut_off(&lab, &weir, &Family::BOTH)?;
        links.speak(&links.numbers(|_| true))?;
        reset(&links, &victims).with_context(|| format!("{mode:?}\n{}", weir.log()))?;
        ensure!(packets(&weir, "reset")? >= victims.len() as u64);

        links.reopen(&victims)?;
        ensure!(of(&links, "b2").len() == 2 * CONNECTIONS, "not everybody is at b2 now");
    }
    Ok(())
}

#[test]
fn packets_to_a_cut_off_backend_are_dropped_under_drop() -> Result<()> {
    let Some(builder) = lab()? else { return Ok(()) };
    let lab = builder.mode(Mode::L2).build()?;
    let weir = lab.weir(&lab.config(&[lines(&lab, Family::V4, "hold = \"0s\"\non_down = \"drop\"")]))?;
    let links = silent(&lab, &[Family::V4])?;
    let victims = of(&links, "b1");
    cut_off(&lab, &weir, &[Family::V4])?;
    links.speak(&links.numbers(|_| true))?;
    broken(&links, &victims, |broken| broken.how == How::Silence && broken.waited >= Some(PATIENCE))?;
    ensure!(packets(&weir, "backend-gone")? >= victims.len() as u64);
    ensure!(packets(&weir, "reset")? == 0);
    Ok(())
}

/// The other backend knows nothing of a TCP connection and resets it itself; a UDP flow goes on there.
#[test]
fn packets_to_a_cut_off_backend_reach_another_under_reroute() -> Result<()> {
    let Some(builder) = lab()? else { return Ok(()) };
    let lab = builder.mode(Mode::L2).build()?;
    let policy = "hold = \"0s\"\non_down = \"reroute\"";
    let echo = Service {
        port: Some(UDP_ECHO_PORT),
        protocol: "udp",
        more: policy.to_owned(),
        ..lab.service("echo", Family::V6)
    };
    let weir = lab.weir(&lab.config(&[lines(&lab, Family::V4, policy), echo]))?;
    let links = silent(&lab, &[Family::V4])?;
    let victims = of(&links, "b1");
    let target = SocketAddr::new(Family::V6.vip(1), UDP_ECHO_PORT);
    let sockets = (0..CONNECTIONS).map(|_| Echo::open(lab.client(), target)).collect::<Result<Vec<_>>>()?;
    let ask_all = || sockets.iter().map(|socket| socket.ask(10)).collect::<Result<Vec<_>>>();
    let before = ask_all()?;
    ensure!(before.contains(&"b1".to_owned()) && before.contains(&"b2".to_owned()));
    cut_off(&lab, &weir, &[Family::V4])?;
    weir.wait_for("echo", "b1", "down", NOTICED)?;

    links.speak(&links.numbers(|_| true))?;
    reset(&links, &victims)?;
    ensure!(ask_all()?.iter().all(|name| name == "b2"), "not everybody is at b2 now");
    ensure!(packets(&weir, "reset")? == 0 && packets(&weir, "backend-gone")? == 0, "{}", weir.cli(&["stats"])?);
    Ok(())
}

/// A failed health check is often only that.
#[test]
fn a_backend_whose_checks_fail_keeps_its_connections_for_the_hold_time() -> Result<()> {
    const HOLD: Duration = Duration::from_secs(3);
    let Some(builder) = lab()? else { return Ok(()) };
    let lab = builder.build()?;
    let health = format!("{{ port = {HEALTH_PORT}, interval = \"200ms\", timeout = \"200ms\", rise = 2, fall = 2 }}");
    let service = Service { health, ..lines(&lab, Family::V4, "hold = \"3s\"") };
    let open = |backend: usize| {
        let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), HEALTH_PORT);
        // What it does not accept waits in its queue, which is as good as accepted to the checks of this test.
        lab.backends()[backend].netns().enter(|| TcpListener::bind(any))?.context("health port")
    };
    let (first, _second) = (open(0)?, open(1)?);
    let weir = lab.weir(&lab.config(&[service]))?;
    let links = silent(&lab, &[Family::V4])?;
    let (victims, everybody) = (of(&links, "b1"), links.numbers(|_| true));

    // Back within the hold time.
    drop(first);
    weir.wait_for("lines-v4", "b1", "held", NOTICED)?;
    links.speak(&everybody)?;
    let first = open(0)?;
    weir.wait_for("lines-v4", "b1", "up", NOTICED)?;
    sleep(HOLD);
    links.speak(&everybody)?;
    ensure!(links.breaks().is_empty(), "{}", links.breaks()[0]);

    drop(first);
    let held = weir.wait_for("lines-v4", "b1", "held", NOTICED)?;
    let newcomers = silent(&lab, &[Family::V4])?;
    ensure!(of(&newcomers, "b2").len() == CONNECTIONS, "new connections reach a backend that is held");
    while held.elapsed() + SLACK < HOLD {
        links.speak(&everybody)?;
        ensure!(links.breaks().is_empty(), "{}", links.breaks()[0]);
        sleep(Duration::from_millis(100));
    }
    let down = weir.wait_for("lines-v4", "b1", "down", HOLD + SLACK)?;
    ensure!((down - held).abs_diff(HOLD) < SLACK, "it was held for {:?}", down - held);
    links.speak(&everybody)?;
    reset(&links, &victims)
}

/// A removed backend serves its connections until they end, and is forgotten then.
#[test]
fn a_removed_backend_leaves_when_its_last_connection_has_ended() -> Result<()> {
    for mode in Mode::ALL {
        let Some(builder) = lab()? else { return Ok(()) };
        let lab = builder.mode(mode).build()?;
        let service = lines(&lab, Family::V4, "settle_after = \"2s\"\nidle = \"4s\"");
        let weir = lab.weir(&lab.config(&[service]))?;
        leaves(&lab, &weir).with_context(|| format!("{mode:?}\n{}", weir.log()))?;
    }
    Ok(())
}

fn leaves(lab: &Lab, weir: &WeirDaemon) -> Result<()> {
    let pause = Some(Duration::from_millis(200)..=Duration::from_millis(400));
    let target = SocketAddr::new(Family::V4.vip(1), TCP_LINE_PORT);
    let links = LongLived::open(lab, &[Kind { target, count: CONNECTIONS, pause }])?;
    let old = of(&links, "b1");
    weir.cli(&["backend", "remove", "lines-v4", "b1"])?;
    let removed = Instant::now();
    // Its name went with its configuration.
    let leaving = lab.backends()[0].address(Family::V4).to_string();
    let newcomers = silent(lab, &[Family::V4])?;
    ensure!(of(&newcomers, "b2").len() == CONNECTIONS, "new connections reach a backend that was removed");
    // Long enough for its slots to settle, and for silent flows to be forgotten.
    while removed.elapsed() < Duration::from_secs(8) {
        links.speak(&old)?;
        ensure!(links.breaks().is_empty(), "{}", links.breaks()[0]);
        ensure!(weir.backend("lines-v4", &leaving)?["state"] == "leaving");
        sleep(Duration::from_millis(500));
    }
    links.reopen(&old)?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Ok(left) = weir.backend("lines-v4", &leaving) {
        ensure!(Instant::now() < deadline, "it does not leave: {left}");
        sleep(Duration::from_millis(100));
    }
    ensure!(of(&links, "b2").len() == CONNECTIONS && links.breaks().is_empty(), "somebody is not at b2");
    Ok(())
}

#[test]
fn a_drain_can_be_waited_for() -> Result<()> {
    let Some(builder) = lab()? else { return Ok(()) };
    let lab = builder.build()?;
    let weir = lab.weir(&lab.config(&[lines(&lab, Family::V4, "settle_after = \"2s\"\nidle = \"1h\"")]))?;
    let pause = Some(Duration::from_millis(200)..=Duration::from_millis(400));
    let target = SocketAddr::new(Family::V4.vip(1), TCP_LINE_PORT);
    let links = LongLived::open(&lab, &[Kind { target, count: CONNECTIONS, pause }])?;
    let old = of(&links, "b1");
    thread::scope(|scope| {
        let drain = scope.spawn(|| drain(&lab, &["--wait"]));
        // Until its slots have settled and the sweeps have counted.
        sleep(Duration::from_secs(6));
        let left = weir.backend("lines-v4", "b1")?["flows"]["tracked"].as_u64();
        ensure!(left == Some(old.len() as u64), "{left:?} flows are counted of {}", old.len());
        ensure!(!drain.is_finished(), "nobody waited for {} connections", old.len());
        links.reopen(&old)?;
        let output = drain.join().map_err(|_| anyhow!("the drain panicked"))??;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{output:?}");
        ensure!(said.contains(&format!("{} flows left", old.len())), "it does not tell how far it is: {said}");
        ensure!(of(&links, "b2").len() == CONNECTIONS && links.breaks().is_empty(), "somebody is not at b2");
        Ok(())
    })
    .with_context(|| weir.log())
}

/// What is left after the deadline counts as gone.
#[test]
fn a_drain_ends_at_its_deadline() -> Result<()> {
    let Some(builder) = lab()? else { return Ok(()) };
    let lab = builder.mode(Mode::Ipip).build()?;
    let weir = lab.weir(&lab.config(&[lines(&lab, Family::V6, "")]))?;
    let links = silent(&lab, &[Family::V6])?;
    let (victims, everybody) = (of(&links, "b1"), links.numbers(|_| true));
    let drained = Instant::now();
    // Deadlines are whole seconds, rounded up.
    let deadline = Duration::from_secs(3);
    thread::scope(|scope| {
        let drain = scope.spawn(|| drain(&lab, &["--deadline", "3s", "--wait"]));
        sleep(Duration::from_millis(500));
        while drained.elapsed() + SLACK < deadline {
            links.speak(&everybody)?;
            ensure!(links.breaks().is_empty(), "{} after {:?}", links.breaks()[0], drained.elapsed());
            sleep(Duration::from_millis(100));
        }
        sleep((deadline + 2 * SLACK).saturating_sub(drained.elapsed()));
        links.speak(&everybody)?;
        reset(&links, &victims)?;
        let output = drain.join().map_err(|_| anyhow!("the drain panicked"))??;
        ensure!(output.status.success(), "{output:?}");
        Ok(())
    })
    .with_context(|| weir.log())
}

/// `weir backend drain` for b1, which must end within half a minute.
fn drain(lab: &Lab, options: &[&str]) -> Result<Output> {
    let service = if lab.mode() == Mode::Ipip { "lines-v6" } else { "lines-v4" };
    let mut command = lab.balancer().command("timeout");
    command.args(["--kill-after=1", "30"]).arg(weir_binary()?);
    command.args(["backend", "drain", service, "b1"]).args(options).arg("--socket").arg(lab.socket());
    Ok(command.output()?)
}

/// The service `lines-v4` or `lines-v6` on the first VIP, with further lines.
fn lines(lab: &Lab, family: Family, more: &str) -> Service {
    let name = format!("lines-{family:?}").to_lowercase();
    Service { port: Some(TCP_LINE_PORT), more: more.to_owned(), ..lab.service(&name, family) }
}

/// Connections to the `lines` of these families, that speak when they are told to.
fn silent(lab: &Lab, families: &[Family]) -> Result<LongLived> {
    let target = |family: &Family| SocketAddr::new(family.vip(1), TCP_LINE_PORT);
    let kinds: Vec<_> =
        families.iter().map(|family| Kind { target: target(family), count: CONNECTIONS, pause: None }).collect();
    LongLived::open(lab, &kinds)
}

/// Connections that `backend` answers.
fn of(links: &LongLived, backend: &str) -> Vec<usize> {
    links.numbers(|connection| connection.backend.as_deref() == Some(backend))
}

/// Pulls b1's cable and waits until it is known to be down.
fn cut_off(lab: &Lab, weir: &WeirDaemon, families: &[Family]) -> Result<()> {
    lab.plug(0, false)?;
    for family in families {
        weir.wait_for(&format!("lines-{family:?}").to_lowercase(), "b1", "down", NOTICED)?;
    }
    Ok(())
}

/// Exactly `victims` have been reset, as soon as they spoke.
fn reset(links: &LongLived, victims: &[usize]) -> Result<()> {
    broken(links, victims, |broken| broken.how == How::Reset && broken.waited.is_some_and(|waited| waited < ENDS))
}

/// Exactly `victims` have broken, in the way that is `expected`.
fn broken(links: &LongLived, victims: &[usize], expected: impl Fn(&Break) -> bool) -> Result<()> {
    let breaks = links.breaks();
    let mut numbers: Vec<_> = breaks.iter().map(|broken| broken.connection.number).collect();
    numbers.sort_unstable();
    ensure!(!victims.is_empty() && numbers == victims, "{numbers:?} broke instead of {victims:?}");
    let other = breaks.iter().find(|broken| !expected(broken));
    other.map_or(Ok(()), |broken| Err(anyhow!("it breaks in another way: {broken}")))
}
