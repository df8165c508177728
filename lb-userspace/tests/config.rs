//! Configuration files: what broken ones are told, what good ones mean, and that what is written is read back.
#![expect(clippy::unwrap_used, reason = "a helper of tests that can't go on fails the test")]

use std::{
    fs,
    net::IpAddr,
    num::NonZeroU16,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use proptest::prelude::*;
use weir::{
    config::{self, raw},
    spec::{
        Backend, Health, Hold, Mode, Node, OnDown, OnExit, Protocol, Scheduler, Service, ServicePort, Spec, TableSizes,
        XdpMode,
    },
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const DAY: Duration = Duration::from_hours(24);

/// A file to whose last service, on lines from the ninth on, fields can be added.
const UDP_SERVICE: &str = "\
node.interfaces = [\"eth1\"]

[[service]]
name = \"dns\"
vip = \"192.0.2.10\"
port = 53
protocol = \"udp\"
mode = \"l2\"
";

fn crate_path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

fn reference() -> String {
    fs::read_to_string(crate_path("../docs/weir.toml")).unwrap()
}

fn port(port: u16) -> NonZeroU16 {
    NonZeroU16::new(port).unwrap()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A backend of weight 1, known by its address.
fn plain_backend(text: &str) -> Backend {
    Backend {
        name: text.to_owned(),
        address: address(text),
        port: None,
        weight: 1,
        draining: false,
        drain_deadline: None,
    }
}

/// The checks of a TCP service that says nothing about them.
fn default_health() -> Health {
    Health {
        port: None,
        interval: Duration::from_secs(2),
        timeout: Duration::from_secs(1),
        rise: 2,
        fall: 3,
        jitter: 10,
    }
}

/// Each file of `tests/broken` starts with the lines `#> MESSAGE` that it must give, and gives no others.
#[test]
fn broken_files_are_told_exactly_what_is_wrong() {
    let mut files: Vec<_> =
        fs::read_dir(crate_path("tests/broken")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 60, "found {} broken files", files.len());
    let mut differences = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let expected: Vec<_> = text.lines().map_while(|line| line.strip_prefix("#> ")).collect();
        let expected = expected.join("\n");
        let name = file.file_name().unwrap().to_str().unwrap();
        let found = config::parse(&text, name).map_or_else(|error| error.to_string(), |_| "accepted".to_owned());
        if found != expected || found.is_empty() {
            differences.push(format!("--- {name} expected\n{expected}\n--- found\n{found}\n"));
        }
    }
    assert!(differences.is_empty(), "\n{}", differences.join("\n"));
}

#[test]
fn unreadable_files_are_told_so() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing.toml");
    let error = config::load(&missing).unwrap_err().to_string();
    assert_eq!(error, format!("{}: can't read it: No such file or directory (os error 2)", missing.display()));

    let latin1 = directory.path().join("latin1.toml");
    fs::write(&latin1, b"# \xc3\xbc is fine\n# \xfc is not\n").unwrap();
    let error = config::load(&latin1).unwrap_err().to_string();
    assert_eq!(error, format!("{}:2:3: not UTF-8 text, which a TOML file has to be", latin1.display()));
}

#[test]
fn reading_stops_at_twenty_problems_of_shape() {
    let lines: Vec<_> = (0..100).map(|n| format!("strange-{n} = {n}")).collect();
    let error = config::parse(&lines.join("\n"), "weir.toml").unwrap_err().to_string();
    assert_eq!(error.lines().count(), 20);
}

#[test]
fn problems_without_a_file_name_their_fields() {
    let mut config = raw::Config::from(&config::parse(&reference(), "weir.toml").unwrap());
    config.services[0].backends[1].weight = 1001;
    config.services[0].health = Some(raw::Health::Checks(raw::Checks { rise: 0, ..raw::Checks::default() }));
    let problems: Vec<_> = config::validate(&config).unwrap_err().iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            r#"service "gateway": health.rise: expected 1 to 100, found 0"#,
            r#"service "gateway", backend "b": weight: expected 0 to 1000, found 1001"#,
        ]
    );
}

#[test]
fn what_is_left_out_has_defaults() {
    let text = r#"
        node.interfaces = ["eth1"]

        [[service]]
        name = "web"
        vip = "192.0.2.10"
        port = 443
        protocol = "tcp"
        mode = "nat"
        backend = [{ address = "10.0.0.11" }, { address = "10.0.0.12", port = 8443 }]

        [[service]]
        name = "web-v6"
        vip = "2001:db8::10"
        port = 443
        protocol = "tcp"
        mode = "nat"
        health = { interval = "100ms" }
        backend = [{ address = "2001:DB8::11", port = 8443 }]

        [[service]]
        name = "dns"
        vip = "192.0.2.10"
        port = 53
        protocol = "udp"
        mode = "l2"
    "#;
    let spec = config::parse(text, "weir.toml").unwrap();
    let node = Node {
        instance: "main".to_owned(),
        interfaces: vec!["eth1".to_owned()],
        xdp: XdpMode::Native,
        on_exit: OnExit::Keep,
        socket: "/run/weir/main.sock".into(),
        state_dir: "/var/lib/weir/main".into(),
        metrics: None,
        seed: None,
        outer_v4: None,
        outer_v6: None,
        tables: TableSizes { services: 1024, backends: 16_384, slots: 4_194_304, routes: 4096, flows: 262_144 },
    };
    assert_eq!(spec.node, node);
    let web = Service {
        name: "web".to_owned(),
        vip: address("192.0.2.10"),
        port: ServicePort::One(port(443)),
        protocol: Protocol::Tcp,
        mode: Mode::Nat,
        scheduler: Scheduler::Maglev,
        slots: 16_384,
        idle: DAY,
        settle_after: DAY,
        hold: Hold::For(10 * SECOND),
        on_down: OnDown::Reset,
        slow_start: Duration::ZERO,
        health: Some(default_health()),
        backends: vec![
            plain_backend("10.0.0.11"),
            Backend { name: "10.0.0.12:8443".to_owned(), port: Some(port(8443)), ..plain_backend("10.0.0.12") },
        ],
    };
    assert_eq!(spec.services[0], web);
    assert_eq!(spec.services[1].backends[0].name, "[2001:db8::11]:8443");
    let interval = Duration::from_millis(100);
    assert_eq!(spec.services[1].health, Some(Health { interval, timeout: interval, ..default_health() }));
    assert_eq!(spec.services[2].health, None);
    let dns = &spec.services[2];
    assert_eq!((dns.scheduler, dns.idle, dns.settle_after), (Scheduler::Maglev, MINUTE, MINUTE));
    assert_eq!((dns.hold, dns.on_down, dns.slow_start), (Hold::For(10 * SECOND), OnDown::Reroute, Duration::ZERO));
}

#[test]
fn flows_of_udp_settle_as_they_are_forgotten() {
    let times = |more: &str| {
        let spec = config::parse(&format!("{UDP_SERVICE}{more}"), "weir.toml").unwrap();
        (spec.services[0].idle, spec.services[0].settle_after)
    };
    assert_eq!(times("idle = \"5m\""), (5 * MINUTE, 5 * MINUTE));
    assert_eq!(times("settle_after = \"5m\""), (MINUTE, 5 * MINUTE));
    assert_eq!(times("idle = \"90s500ms\"\nsettle_after = \"1s\""), (Duration::from_millis(90_500), SECOND));
}

#[test]
fn every_choice_about_flows_has_its_word() {
    let udp = |more: &str| config::parse(&format!("{UDP_SERVICE}{more}"), "weir.toml").unwrap().services[0].clone();
    let tcp = |more: &str| {
        let text = UDP_SERVICE.replace("udp", "tcp");
        config::parse(&format!("{text}{more}"), "weir.toml").unwrap().services[0].clone()
    };
    let schedulers = [
        ("maglev", Scheduler::Maglev, true),
        ("source", Scheduler::Source, true),
        ("response-time", Scheduler::ResponseTime, true),
        ("round-robin", Scheduler::RoundRobin, false),
        ("weighted-round-robin", Scheduler::WeightedRoundRobin, false),
        ("least-connections", Scheduler::LeastConnections, false),
        ("random", Scheduler::Random, false),
    ];
    for (word, scheduler, for_udp) in schedulers {
        let line = format!("scheduler = {word:?}");
        assert_eq!(tcp(&line).scheduler, scheduler);
        assert_eq!(config::parse(&format!("{UDP_SERVICE}{line}"), "weir.toml").is_ok(), for_udp, "{word}");
    }
    for (word, on_down) in [("reset", OnDown::Reset), ("reroute", OnDown::Reroute), ("drop", OnDown::Drop)] {
        assert_eq!(tcp(&format!("on_down = {word:?}")).on_down, on_down);
    }
    for (text, hold) in [("forever", Hold::Forever), ("0s", Hold::For(Duration::ZERO)), ("1week", Hold::For(7 * DAY))] {
        assert_eq!(udp(&format!("hold = {text:?}")).hold, hold);
    }
}

/// Services whose scheduler chooses in the packet path have at most 1024 backends; others may have more.
#[test]
fn the_packet_path_chooses_among_1024_backends_at_most() {
    let parse = |scheduler: &str, backends: u32| {
        let addresses = (0..backends).map(|n| format!("{{ address = \"10.1.{}.{}\" }}", n / 200, n % 200 + 1));
        let addresses: Vec<_> = addresses.collect();
        let text = UDP_SERVICE.replace("udp", "tcp");
        let text = format!("{text}scheduler = {scheduler:?}\nbackend = [{}]", addresses.join(", "));
        config::parse(&text, "weir.toml").map(|_| ()).map_err(|error| error.to_string())
    };
    for scheduler in ["round-robin", "weighted-round-robin", "least-connections", "random"] {
        assert_eq!(parse(scheduler, 1024), Ok(()));
        let refusal = format!(
            "weir.toml:9:13: service \"dns\": scheduler: {scheduler:?} chooses among at most 1024 backends, and the \
             service has 1025"
        );
        assert_eq!(parse(scheduler, 1025), Err(refusal));
    }
    for scheduler in ["maglev", "source", "response-time"] {
        assert_eq!(parse(scheduler, 1025), Ok(()));
    }
}

#[test]
fn draining_may_have_an_end() {
    let backend = "backend = [{ address = \"10.0.0.11\", draining = true, drain_until = 1800000001 }]";
    let spec = config::parse(&format!("{UDP_SERVICE}{backend}"), "weir.toml").unwrap();
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_001);
    assert_eq!(spec.services[0].backends[0].drain_deadline, Some(end));
}

#[test]
fn the_instance_names_its_paths() {
    let spec = config::parse("node = { interfaces = [\"eth1\"], instance = \"edge-2\" }", "weir.toml").unwrap();
    assert_eq!(spec.node.socket, Path::new("/run/weir/edge-2.sock"));
    assert_eq!(spec.node.state_dir, Path::new("/var/lib/weir/edge-2"));
}

#[test]
fn the_reference_means_what_it_says() {
    let spec = config::load(&crate_path("../docs/weir.toml")).unwrap();
    let node = Node {
        instance: "edge-1".to_owned(),
        interfaces: vec!["eth1".to_owned(), "eth2".to_owned()],
        xdp: XdpMode::Native,
        on_exit: OnExit::Keep,
        socket: "/run/weir/edge-1.sock".into(),
        state_dir: "/var/lib/weir/edge-1".into(),
        metrics: Some("127.0.0.1:9644".parse().unwrap()),
        seed: Some([0x5eed_5eed_5eed_5eed; 2]),
        outer_v4: Some("10.77.0.0/16".parse().unwrap()),
        outer_v6: Some("fd77::/64".parse().unwrap()),
        tables: TableSizes { services: 1024, backends: 16_384, slots: 4_194_304, routes: 4096, flows: 262_144 },
    };
    assert_eq!(spec.node, node);
    let gateway = Service {
        name: "gateway".to_owned(),
        vip: address("192.0.2.10"),
        port: ServicePort::One(port(443)),
        protocol: Protocol::Tcp,
        mode: Mode::Nat,
        scheduler: Scheduler::Maglev,
        slots: 16_384,
        idle: DAY,
        settle_after: DAY,
        hold: Hold::For(10 * SECOND),
        on_down: OnDown::Reset,
        slow_start: 30 * SECOND,
        health: Some(Health { port: Some(port(8080)), ..default_health() }),
        backends: vec![
            Backend { name: "a".to_owned(), port: Some(port(8443)), weight: 10, ..plain_backend("10.0.0.11") },
            Backend { name: "b".to_owned(), port: Some(port(8443)), weight: 20, ..plain_backend("10.0.0.12") },
        ],
    };
    let dns = Service {
        name: "dns".to_owned(),
        vip: address("2001:db8::53"),
        port: ServicePort::One(port(53)),
        protocol: Protocol::Udp,
        mode: Mode::Ipip,
        idle: MINUTE,
        settle_after: MINUTE,
        on_down: OnDown::Reroute,
        slow_start: Duration::ZERO,
        health: Some(Health { port: Some(port(53)), ..default_health() }),
        backends: vec![plain_backend("10.0.1.53"), plain_backend("2001:db8:1::53")],
        ..gateway.clone()
    };
    let ftp = Service {
        name: "passive-ftp".to_owned(),
        vip: address("192.0.2.11"),
        port: ServicePort::Any,
        protocol: Protocol::Tcp,
        mode: Mode::L2,
        scheduler: Scheduler::Source,
        slow_start: Duration::ZERO,
        health: Some(Health { port: Some(port(21)), ..default_health() }),
        backends: vec![plain_backend("10.0.0.21")],
        ..gateway.clone()
    };
    let reserve = Service {
        name: "reserve".to_owned(),
        vip: address("192.0.2.12"),
        port: ServicePort::One(port(443)),
        health: Some(default_health()),
        scheduler: Scheduler::Maglev,
        backends: Vec::new(),
        ..ftp.clone()
    };
    assert_eq!(spec.services, [gateway, dns, ftp, reserve]);
}

#[test]
fn the_example_of_the_readme_is_accepted() {
    let readme = fs::read_to_string(crate_path("../README.md")).unwrap();
    let examples: Vec<_> = readme.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(!examples.is_empty());
    for example in examples {
        config::parse(example, "README.md").unwrap();
    }
}

/// The reference says of itself that it has every field: a field added to the raw types has to be added there.
#[test]
fn the_reference_has_every_field() {
    let spec = config::parse(&reference(), "weir.toml").unwrap();
    let mut written = raw::Config::from(&spec);
    written.services.truncate(1);
    let written: toml::Table = toml::from_str(&toml::to_string(&written).unwrap()).unwrap();
    let reference: toml::Table = toml::from_str(&reference()).unwrap();
    let service = |table: &toml::Table| table["service"][0].as_table().unwrap().clone();
    let keys = |table: &toml::Table| table.keys().cloned().collect::<Vec<_>>();
    assert_eq!(reference["node"], written["node"]);
    assert_eq!(service(&reference)["health"], service(&written)["health"]);
    assert_eq!(service(&reference)["backend"][0], service(&written)["backend"][0]);
    assert_eq!(keys(&service(&reference)), keys(&service(&written)));
}

/// What a service says of flows, for TCP: scheduler, what becomes of flows of gone backends, hold, and the idle time, the
/// settling time and the slow start.
fn flows() -> impl Strategy<Value = (Scheduler, OnDown, Hold, [Duration; 3])> {
    let schedulers = prop_oneof![
        Just(Scheduler::Maglev),
        Just(Scheduler::Source),
        Just(Scheduler::RoundRobin),
        Just(Scheduler::WeightedRoundRobin),
        Just(Scheduler::LeastConnections),
        Just(Scheduler::Random),
        Just(Scheduler::ResponseTime),
    ];
    let on_down = prop_oneof![Just(OnDown::Reset), Just(OnDown::Reroute), Just(OnDown::Drop)];
    let millis = |range: RangeInclusive<u64>| range.prop_map(Duration::from_millis);
    let hold = prop_oneof![Just(Hold::Forever), millis(0..=604_800_000).prop_map(Hold::For)];
    let memory = || millis(1000..=8 * 604_800_000);
    let times = (memory(), memory(), millis(0..=3_600_000)).prop_map(|(idle, settle, slow)| [idle, settle, slow]);
    (schedulers, on_down, hold, times)
}

/// Services with distinct VIPs whose backends are in no other service.
fn service(index: u8) -> impl Strategy<Value = Service> {
    let modes = prop_oneof![Just(Mode::L2), Just(Mode::Ipip), Just(Mode::Nat)];
    let service_port = prop_oneof![Just(ServicePort::Any), (1..=u16::MAX).prop_map(|n| ServicePort::One(port(n)))];
    let protocols = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)];
    let health = (1..=u16::MAX, 10..=3_600_000_u64, 0..=100_u64, 1..=100_u32, 1..=100_u32, 0..=50_u8).prop_map(
        |(check_port, interval, share, rise, fall, jitter)| Health {
            port: Some(port(check_port)),
            interval: Duration::from_millis(interval),
            timeout: Duration::from_millis((interval * share / 100).max(10)),
            rise,
            fall,
            jitter,
        },
    );
    let member =
        (0..=1000_u16, any::<bool>(), prop::option::of(0..=253_402_300_799_u64), prop::option::of(1..=u16::MAX));
    let members = prop::collection::vec(member, 0..12);
    (any::<bool>(), modes, service_port, protocols, flows(), prop::option::of(health), members).prop_map(
        move |(v4, mode, service_port, protocol, flows, health, members)| {
            let host = |net: u8, n: usize| {
                let n = n + 1;
                address(&if v4 { format!("10.{net}.{index}.{n}") } else { format!("2001:db8:{net}:{index}::{n:x}") })
            };
            let backends = members.into_iter().enumerate().map(|(n, (weight, draining, until, own_port))| {
                let may_have_port = mode == Mode::Nat && service_port != ServicePort::Any;
                let own_port = own_port.filter(|_| may_have_port).map(port);
                let until = until.filter(|_| draining).map(|until| SystemTime::UNIX_EPOCH + Duration::from_secs(until));
                let name = format!("b{n}");
                Backend { name, address: host(1, n), port: own_port, weight, draining, drain_deadline: until }
            });
            let (scheduler, on_down, hold, [idle, settle_after, slow_start]) = flows;
            let is_udp = protocol == Protocol::Udp;
            Service {
                name: format!("service-{index}"),
                vip: host(0, 0),
                port: service_port,
                protocol,
                mode,
                scheduler: if is_udp && !scheduler.follows_slots() { Scheduler::Source } else { scheduler },
                slots: 1_048_576,
                idle,
                settle_after,
                hold,
                on_down: if is_udp && on_down == OnDown::Reset { OnDown::Drop } else { on_down },
                slow_start,
                health,
                backends: backends.collect(),
            }
        },
    )
}

fn spec() -> impl Strategy<Value = Spec> {
    (service(0), service(1), service(2), any::<Option<[u64; 2]>>(), 3_200_000..=134_217_728_u32).prop_map(
        |(first, second, third, seed, slots)| Spec {
            node: Node {
                instance: "prop".to_owned(),
                interfaces: vec!["eth1".to_owned()],
                xdp: XdpMode::Generic,
                on_exit: OnExit::Detach,
                socket: "/tmp/a b\"c\".sock".into(),
                state_dir: "/tmp/state".into(),
                metrics: Some("[::1]:9644".parse().unwrap()),
                seed,
                outer_v4: Some("10.77.0.0/16".parse().unwrap()),
                outer_v6: Some("fd77::/64".parse().unwrap()),
                tables: TableSizes { services: 3, backends: 36, slots, routes: 1, flows: 1 << 26 },
            },
            services: vec![first, second, third],
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(spec in spec()) {
        let text = config::to_toml(&spec);
        let read = config::parse(&text, "written.toml").map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(&read, &spec, "{}", text);
        let json = serde_json::to_string(&raw::Config::from(&spec)).unwrap();
        let from_json: raw::Config = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(config::validate(&from_json), Ok(spec));
    }

    /// Whatever a slip of the editor makes of a file: an answer, and one that points into the file.
    #[test]
    fn mangled_files_are_answered(at in any::<prop::sample::Index>(), cut in 0..40_usize, paste in "[ -~\n]{0,6}") {
        let mut text: Vec<char> = reference().chars().collect();
        let at = at.index(text.len());
        let end = (at + cut).min(text.len());
        text.splice(at..end, paste.chars());
        let text: String = text.into_iter().collect();
        if let Err(config::ConfigError::Invalid { problems, .. }) = config::parse(&text, "weir.toml") {
            prop_assert!(!problems.is_empty());
            let lines: Vec<_> = text.split('\n').collect();
            for (position, problem) in problems {
                let line = lines.get(position.line - 1).map(|line| line.chars().count());
                prop_assert!(line.is_some_and(|length| position.column <= length + 1), "{:?} {}", position, problem);
                prop_assert!(!problem.to_string().contains('\n'));
            }
        }
    }
}
