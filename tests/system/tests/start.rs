//! Starting: in the XDP mode that the interface can do, or not at all, with a message that says what to do.

use std::{
    fs,
    process::{Child, Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use weir_lab::{
    Family, Lab, Mode, Netns, WeirDaemon,
    addresses::in_url,
    client::{curl, wrk::Wrk},
};
use weir_system::{check_spread, lab, pins, weir_binary};

/// Where the metrics are served in these tests.
const METRICS: &str = "127.0.0.1:9464";

/// A bridge has no native XDP, and generic XDP there balances all the same.
#[test]
fn an_interface_without_native_xdp_is_refused_until_generic_is_asked_for() -> Result<()> {
    let Some(builder) = lab()? else { return Ok(()) };
    let lab = builder.backends(4).build()?;
    put_bridge_over_eth0(&lab)?;
    let on_bridge = |node: &str| {
        let services =
            Family::BOTH.map(|family| lab.service(&format!("web-{family:?}"), family).weights(&[4, 3, 2, 1]));
        lab.config_with(node, &services).replace(r#"["eth0"]"#, r#"["br0"]"#)
    };
    let said = refusal(&lab, &on_bridge(""))?;
    for part in ["br0", "no native XDP", "xdp = \"generic\""] {
        ensure!(said.contains(part), "{said}");
    }
    ensure!(!pins(&lab).exists(), "the refused start left {}", pins(&lab).display());

    let weir = lab.weir(&on_bridge("xdp = \"generic\""))?;
    mode_is(&weir, "generic")?;
    balances(&lab)
}

/// The same where native would do.
#[test]
fn generic_xdp_balances_in_every_mode() -> Result<()> {
    for mode in Mode::ALL {
        let Some(builder) = lab()? else { return Ok(()) };
        let lab = builder.backends(4).mode(mode).build()?;
        let services =
            Family::BOTH.map(|family| lab.service(&format!("web-{family:?}"), family).weights(&[4, 3, 2, 1]));
        let mut weir = lab.weir(&lab.config_with("xdp = \"generic\"", &services))?;
        mode_is(&weir, "generic")?;
        balances(&lab).with_context(|| format!("{mode:?}"))?;

        // A link's mode can't be changed: it goes, and a new one comes.
        for (node, mode) in [("", "native"), ("xdp = \"generic\"", "generic")] {
            fs::write(weir.config(), lab.config_with(node, &services))?;
            weir.restart()?;
            mode_is(&weir, mode)?;
            curl::spread(lab.client(), "http://10.9.0.1/", 60)?;
        }
    }
    Ok(())
}

fn put_bridge_over_eth0(lab: &Lab) -> Result<()> {
    lab.balancer().ip("address flush dev eth0\n\
         link add br0 type bridge mcast_snooping 0\n\
         link set br0 mtu 1600\n\
         link set eth0 master br0\n\
         link set br0 up\n\
         address add 10.2.0.2/24 dev br0\n\
         address add fd02::2/64 dev br0 nodad\n\
         route replace 0.0.0.0/0 via 10.2.0.1\n\
         route replace ::/0 via fd02::1\n")
}

fn mode_is(weir: &WeirDaemon, mode: &str) -> Result<()> {
    let status = weir.json(&["status"])?;
    ensure!(status["interfaces"][0]["xdp"] == mode, "{status}");
    let shown = weir.cli(&["status"])?;
    ensure!(shown.contains(mode), "{shown}");
    ensure!(weir.log().contains(&format!("{mode} XDP")), "{}", weir.log());
    Ok(())
}

fn balances(lab: &Lab) -> Result<()> {
    for family in Family::BOTH {
        let url = format!("http://{}/", in_url(family.vip(1)));
        check_spread(&curl::spread(lab.client(), &url, 1000)?, &[4, 3, 2, 1])?;
        let expected = lab.blob_sha256()?;
        let arrived = curl::download(lab.client(), &format!("{url}50M"), &lab.dir().join("downloaded"))?;
        ensure!(arrived == expected, "the file arrived with SHA-256 {arrived}, not {expected}");
        let report = Wrk { connections: 8, seconds: 1, keep_alive: false }.run(lab, &url)?;
        ensure!(report.failed() == 0, "{report:?}");
    }
    Ok(())
}

#[test]
fn an_interface_that_is_missing_is_named() -> Result<()> {
    let Some(builder) = lab()? else { return Ok(()) };
    let lab = builder.build()?;
    let config = lab.config(&[lab.service("web", Family::V4)]);
    let said = refusal(&lab, &config.replace(r#"["eth0"]"#, r#"["eth0", "eth9"]"#))?;
    ensure!(said.contains("interface eth9 does not exist"), "{said}");
    ensure!(!pins(&lab).exists(), "the refused start left {}", pins(&lab).display());
    Ok(())
}

#[test]
fn a_broken_configuration_is_refused_with_the_place() -> Result<()> {
    let Some(builder) = lab()? else { return Ok(()) };
    let lab = builder.build()?;
    let config = lab.config(&[lab.service("web", Family::V4)]);
    let line = 1 + config.lines().position(|line| line == "mode = \"nat\"").context("no mode")?;
    for (wrong, why) in [("mode = \"nut\"", "nut"), ("mode = ", "")] {
        let said = refusal(&lab, &config.replacen("mode = \"nat\"", wrong, 1))?;
        ensure!(said.contains(&format!("refused.toml:{line}:")) && said.contains(why), "line {line}: {said}");
    }
    ensure!(!pins(&lab).exists());
    Ok(())
}

/// A start that is refused does nothing to what an earlier daemon left forwarding.
#[test]
fn a_refused_start_leaves_the_packet_path_alone() -> Result<()> {
    let Some(builder) = lab()? else { return Ok(()) };
    let lab = builder.build()?;
    let config = lab.config(&[lab.service("web", Family::V4)]);
    let mut weir = lab.weir(&config)?;
    weir.kill9()?;
    let eth9 = config.replace(r#"["eth0"]"#, r#"["eth0", "eth9"]"#);
    let other_seed = config.replacen("[node]", "[node]\nseed = \"00112233445566778899aabbccddeeff\"", 1);
    let with_tables = |table| config.replacen("\n[[service]]", &format!("\n[node.tables]\n{table}\n\n[[service]]"), 1);
    let sizes = ["slots = 65536", "slots = 8388608", "backends = 1000", "services = 10", "routes = 100"];
    let broken = config.replacen("mode", "mood", 1);
    let mut refused = vec![(eth9, "eth9"), (other_seed, "seed"), (broken, "mood")];
    refused.extend(sizes.map(|table| (with_tables(table), "the pinned tables have other sizes")));
    for (config, why) in refused {
        let said = refusal(&lab, &config)?;
        ensure!(said.contains(why), "{said}");
        curl::spread(lab.client(), "http://10.9.0.1/", 60).context(said)?;
    }
    weir.restart()?;
    ensure!(curl::spread(lab.client(), "http://10.9.0.1/", 60)?.len() == 2);
    Ok(())
}

#[test]
fn another_xdp_program_is_not_replaced() -> Result<()> {
    let Some(builder) = lab()? else { return Ok(()) };
    let lab = builder.build()?;
    let decap = Decap::start(lab.balancer())?;
    let config = lab.config(&[lab.service("web", Family::V4)]);
    let said = refusal(&lab, &config)?;
    for part in ["eth0", "another XDP program", "xdp off"] {
        ensure!(said.contains(part), "{said}");
    }
    ensure!(has_xdp(lab.balancer())?, "the other program is gone");
    drop(decap);

    let weir = lab.weir(&config)?;
    mode_is(&weir, "native")?;
    let second = decap_command(lab.balancer())?.output()?;
    let said = String::from_utf8_lossy(&second.stderr);
    ensure!(second.status.code() == Some(1) && said.contains("another XDP program"), "{second:?}");
    curl::get(lab.client(), "http://10.9.0.1/")?;
    Ok(())
}

/// `weir decap` on the balancer's interface, for a network from which nothing comes.
struct Decap(Child);

impl Decap {
    fn start(netns: &Netns) -> Result<Self> {
        let decap = Self(decap_command(netns)?.stderr(Stdio::null()).spawn()?);
        let deadline = Instant::now() + Duration::from_secs(10);
        while !has_xdp(netns)? {
            ensure!(Instant::now() < deadline, "weir decap does not attach");
            sleep(Duration::from_millis(10));
        }
        Ok(decap)
    }
}

impl Drop for Decap {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn decap_command(netns: &Netns) -> Result<Command> {
    let mut command = netns.command(weir_binary()?);
    command.args(["decap", "--interface", "eth0", "--source", "192.0.2.255/32"]);
    Ok(command)
}

fn has_xdp(netns: &Netns) -> Result<bool> {
    let shown = netns.command("ip").args(["link", "show", "dev", "eth0"]).output()?;
    Ok(String::from_utf8_lossy(&shown.stdout).contains("xdp"))
}

/// What Prometheus would get: described, and the same numbers as `weir stats`.
#[test]
fn metrics_tell_what_the_counters_say() -> Result<()> {
    let Some(builder) = lab()? else { return Ok(()) };
    let lab = builder.build()?;
    let node = format!("metrics = \"{METRICS}\"");
    let weir = lab.weir(&lab.config_with(&node, &[lab.service("web", Family::V4)]))?;
    curl::spread(lab.client(), "http://10.9.0.1/", 100)?;
    let (metrics, stats) = quiet_reading(&lab, &weir)?;

    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        let described = |what: &str| metrics.contains(&format!("# {what} {name} "));
        ensure!(name.starts_with("weir_") && described("HELP") && described("TYPE"), "{line} is not described");
    }
    let service = &stats["services"][0];
    let counters = ["packets", "bytes", "connections", "reply_packets", "reply_bytes"];
    for counter in counters {
        ensure!(service["traffic"][counter].as_u64().is_some_and(|count| count >= 100), "{service}");
        let name = format!("weir_service_{counter}_total{{service=\"web\"}}");
        has(&metrics, &format!("{name} {}", service["traffic"][counter]))?;
        for backend in service["backends"].as_array().context("no backends")? {
            let labels = format!("backend={},service=\"web\"", backend["name"]);
            has(&metrics, &format!("weir_backend_{counter}_total{{{labels}}} {}", backend["traffic"][counter]))?;
        }
    }
    for reason in stats["reasons"].as_array().context("no reasons")? {
        // ARP and the like come at any time.
        if ["forwarded-nat", "replied-nat", "no-backend", "too-big"].iter().any(|name| reason["name"] == *name) {
            has(&metrics, &format!("weir_reason_packets_total{{reason={}}} {}", reason["name"], reason["packets"]))?;
        }
    }
    has(&metrics, "weir_interface_attached{interface=\"eth0\",mode=\"native\"} 1")?;
    has(&metrics, "weir_backend_up{backend=\"b1\",service=\"web\"} 1")
}

/// Metrics and counters with no traffic in between.
fn quiet_reading(lab: &Lab, weir: &WeirDaemon) -> Result<(String, serde_json::Value)> {
    let read = || curl::get(lab.balancer(), &format!("http://{METRICS}/metrics"));
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let before = weir.json(&["stats"])?;
        let metrics = read()?;
        let after = weir.json(&["stats"])?;
        if before["services"] == after["services"] {
            return Ok((metrics, after));
        }
        ensure!(Instant::now() < deadline, "there is always traffic");
    }
}

fn has(metrics: &str, line: &str) -> Result<()> {
    ensure!(metrics.lines().any(|other| other == line), "no {line} in\n{metrics}");
    Ok(())
}

/// Starts weir with `config`, which it must refuse with exit status 1 and without a panic: what it says.
fn refusal(lab: &Lab, config: &str) -> Result<String> {
    let file = lab.dir().join("refused.toml");
    fs::write(&file, config)?;
    let mut command = lab.balancer().command("timeout");
    command.args(["--kill-after=1", "5"]).arg(weir_binary()?).args(["run", "--config"]).arg(&file);
    let Output { status, stderr, .. } = command.output()?;
    let said = String::from_utf8_lossy(&stderr).into_owned();
    ensure!(status.code() == Some(1) && said.contains("weir: "), "{status} for\n{config}\n{said}");
    Ok(said)
}
