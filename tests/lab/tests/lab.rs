//! The lab without Weir: its network, its servers, its clients, and that nothing of it stays.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, BufReader, Write as _},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    panic::{self, AssertUnwindSafe},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use weir_lab::{
    Family, HTTP_PORTS, Lab, Mode, Netns, TCP_LINE_PORT, TCP_LINE_PORTS, UDP_ECHO_PORT,
    addresses::in_url,
    client::{
        curl, flood,
        long_lived::{How, Kind, LongLived, PATIENCE},
        paced::Paced,
        short::Short,
        steady::Steady,
        wrk::Wrk,
    },
    requirements,
};

/// Sends `bytes` of payload to the echo server at `address`: what comes back within a second from that very address.
fn echo(from: &Netns, address: IpAddr, bytes: usize) -> Option<Vec<u8>> {
    let ask = || {
        let any: SocketAddr = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
        let socket = UdpSocket::bind(any).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        socket.connect((address, UDP_ECHO_PORT)).unwrap();
        socket.send(&vec![b'x'; bytes]).unwrap();
        let mut answer = vec![0; 65536];
        let length = socket.recv(&mut answer).ok()?;
        answer.truncate(length);
        Some(answer)
    };
    from.enter(ask).unwrap()
}

/// The payload whose echo, with the name in front, fills a packet of `mtu` bytes.
fn filling(mtu: usize, family: Family) -> usize {
    mtu - "b1 ".len() - 8 - if family == Family::V4 { 20 } else { 40 }
}

#[test]
fn everybody_is_reached_in_both_families() {
    if !requirements::are_met() {
        return;
    }
    for (mode, two_armed) in [(Mode::L2, false), (Mode::Ipip, true)] {
        let lab = Lab::builder().clients(2).backends(2).mode(mode).two_armed(two_armed).build().unwrap();
        for family in Family::BOTH {
            for (client, backend) in lab.clients().iter().flat_map(|c| lab.backends().iter().map(move |b| (c, b))) {
                let address = backend.address(family);
                let answer = echo(client, address, filling(1500, family)).unwrap();
                assert!(answer.starts_with(backend.name().as_bytes()), "{mode:?} {} to {address}", client.name());
                assert_eq!(curl::get(client, &format!("http://{}/", in_url(address))).unwrap(), backend.name());
                assert!(echo(lab.balancer(), address, filling(1600, family)).is_some(), "{mode:?} lb to {address}");
            }
        }
    }
}

/// In `nat` the replies go to the balancer, which does not forward: without Weir no client gets one.
#[test]
fn nat_backends_reply_through_the_balancer() {
    if !requirements::are_met() {
        return;
    }
    for two_armed in [false, true] {
        let lab = Lab::builder().mode(Mode::Nat).two_armed(two_armed).build().unwrap();
        for family in Family::BOTH {
            let address = lab.backends()[0].address(family);
            assert!(echo(lab.balancer(), address, 56).is_some());
            assert!(echo(lab.client(), address, 56).is_none(), "somebody forwards {address}'s replies");
        }
    }
}

/// The VIPs are routed to the balancer's address, and no backend announces them.
#[test]
fn vips_belong_to_the_balancer() {
    if !requirements::are_met() {
        return;
    }
    let lab = Lab::builder().mode(Mode::L2).build().unwrap();
    for (family, balancer) in [(Family::V4, "10.2.0.2"), (Family::V6, "fd02::2")] {
        let vip = family.vip(1).to_string();
        let route = lab.router().command("ip").args(["route", "get", &vip]).output().unwrap();
        assert!(String::from_utf8_lossy(&route.stdout).contains(&format!("via {balancer} dev br0")), "{route:?}");
        // Asked for directly, on the wire that the backends are on.
        let on_link = if family == Family::V4 { format!("{vip}/32") } else { format!("{vip}/128") };
        lab.router().ip(&format!("route add {on_link} dev br0")).unwrap();
        assert!(echo(lab.router(), family.vip(1), 56).is_none(), "a backend announces {vip}");
    }
}

#[test]
fn servers_answer_with_their_names() {
    if !requirements::are_met() {
        return;
    }
    let lab = Lab::builder().mode(Mode::L2).build().unwrap();
    let backend = &lab.backends()[1];
    for family in Family::BOTH {
        let address = backend.address(family);
        for port in HTTP_PORTS {
            let url = format!("http://{}:{port}/", in_url(address));
            assert_eq!(curl::spread(lab.client(), &url, 3).unwrap(), [("b2".to_owned(), 3)].into());
        }
        let ask = || {
            let mut stream = TcpStream::connect((address, TCP_LINE_PORT)).unwrap();
            stream.write_all(b"hello\n").unwrap();
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line).unwrap();
            line
        };
        assert_eq!(lab.client().enter(ask).unwrap(), "b2 hello\n");
        assert_eq!(echo(lab.client(), address, 3).unwrap(), b"b2 xxx");
    }
}

#[test]
fn a_large_file_arrives_whole() {
    if !requirements::are_met() {
        return;
    }
    let lab = Lab::builder().mode(Mode::L2).build().unwrap();
    let expected = lab.blob_sha256().unwrap();
    let url = format!("http://{}/50M", in_url(lab.backends()[0].address(Family::V6)));
    let file = lab.dir().join("downloaded");
    assert_eq!(curl::download(lab.client(), &url, &file).unwrap(), expected);
    assert_eq!(file.metadata().unwrap().len(), 50_000_000);
}

#[test]
fn clients_count_what_fails() {
    if !requirements::are_met() {
        return;
    }
    let mut lab = Lab::builder().clients(2).mode(Mode::L2).build().unwrap();
    let target = SocketAddr::new(lab.backends()[0].address(Family::V4), 80);
    let url = format!("http://{target}/");

    for keep_alive in [true, false] {
        let report = Wrk { connections: 4, seconds: 1, keep_alive }.run(&lab, &url).unwrap();
        assert_eq!(report.failed(), 0, "{report:?}");
        assert!(report.requests > 100, "{report:?}");
        assert_eq!(report.by_backend, [("b1".to_owned(), report.requests)].into());
    }
    let each = |path: &str| {
        let addresses: Vec<_> = lab.backends().iter().map(|backend| backend.address(Family::V4)).collect();
        let path = path.to_owned();
        move |number: usize| format!("http://{}/{path}", addresses[number])
    };
    let wrk = Wrk { connections: 4, seconds: 1, keep_alive: true };
    let report = wrk.run_each(&lab, each("")).unwrap();
    assert_eq!(report.failed(), 0, "{report:?}");
    assert!(report.by_backend.keys().eq(["b1", "b2"]), "{report:?}");
    let report = wrk.download_each(&lab, each("1M")).unwrap();
    assert_eq!(report.failed(), 0, "{report:?}");
    assert!(report.requests > 0 && report.bytes > report.requests * 1_000_000, "{report:?}");
    assert!(report.p50_us <= report.p99_us && report.p99_us <= report.p999_us, "{report:?}");
    let missing = Wrk { connections: 1, seconds: 1, keep_alive: true }.run(&lab, &format!("{url}missing")).unwrap();
    assert_eq!(missing.bad_status, missing.requests);

    let steady = Steady::start(&lab, target, 2, Duration::from_millis(5));
    thread::sleep(Duration::from_millis(300));
    let stopped = Instant::now();
    lab.stop_server(0);
    thread::sleep(Duration::from_millis(300));
    lab.start_server(0).unwrap();
    let started = Instant::now();
    thread::sleep(Duration::from_millis(300));
    let story = steady.finish().unwrap();
    assert!(story.failed().count() > 10, "{story:?}");
    assert!(story.failed().all(|request| request.at + request.took >= stopped), "{story:?}");
    assert!(story.failed().all(|request| request.at < started), "{story:?}");
    assert!(story.answers_of("b1", started) > 10, "{story:?}");
}

/// A frozen server accepts and says nothing: a request to it fails when the client's patience ends.
#[test]
fn a_frozen_server_is_a_failure() {
    if !requirements::are_met() {
        return;
    }
    let lab = Lab::builder().backends(1).mode(Mode::L2).build().unwrap();
    lab.freeze_server(0, true).unwrap();
    let target = SocketAddr::new(lab.backends()[0].address(Family::V4), 80);
    let steady = Steady::start(&lab, target, 1, Duration::ZERO);
    let story = steady.finish().unwrap();
    assert!(story.0.iter().all(|request| request.answer.is_err() && request.took < Duration::from_secs(3)));
    lab.freeze_server(0, false).unwrap();
    assert_eq!(curl::get(lab.client(), &format!("http://{target}/")).unwrap(), "b1");
    lab.plug(0, false).unwrap();
    assert!(echo(lab.client(), target.ip(), 56).is_none());
}

#[test]
fn connections_tell_how_they_break() {
    if !requirements::are_met() {
        return;
    }
    let mut lab = Lab::builder().clients(2).mode(Mode::L2).build().unwrap();
    let targets = [0, 1].map(|n| SocketAddr::new(lab.backends()[n].address(Family::V6), TCP_LINE_PORTS[n]));
    let silent = Kind { target: targets[0], count: 30, pause: None };
    let talking =
        Kind { target: targets[1], count: 30, pause: Some(Duration::from_millis(5)..=Duration::from_millis(50)) };
    let links = LongLived::open(&lab, &[silent, talking]).unwrap();
    let of = |links: &LongLived, name: &str| links.numbers(|connection| connection.backend.as_deref() == Some(name));
    let everybody: Vec<_> = (0..60).collect();
    assert_eq!((of(&links, "b1"), of(&links, "b2")), (everybody[..30].to_vec(), everybody[30..].to_vec()));
    let addresses: BTreeSet<_> = links.connections().iter().map(|connection| connection.client.unwrap().ip()).collect();
    assert_eq!(addresses.len(), 2);
    let opened = Instant::now();
    thread::sleep(Duration::from_millis(300));
    let spoke = |from: Instant| links.numbers(|connection| connection.answered > Some(from));
    assert_eq!(spoke(opened), everybody[30..]);
    links.speak(&everybody[..1]).unwrap();
    assert_eq!(spoke(opened), [&everybody[..1], &everybody[30..]].concat());
    assert_eq!(links.breaks(), []);

    // The kernel closes what its process has left, and refuses what comes; unplugged it does neither.
    lab.stop_server(0);
    lab.plug(1, false).unwrap();
    links.speak(&everybody).unwrap();
    let breaks = links.breaks();
    assert_eq!(breaks.len(), 60);
    let (closed, unanswered): (Vec<_>, Vec<_>) = breaks.iter().partition(|broken| broken.connection.number < 30);
    assert!(closed.iter().all(|broken| matches!(broken.how, How::Closed | How::Reset)), "{closed:?}");
    assert!(unanswered.iter().all(|broken| broken.how == How::Silence && broken.waited > Some(PATIENCE)));
    assert!(links.reopen(&everybody[..1]).is_err());

    lab.start_server(0).unwrap();
    lab.plug(1, true).unwrap();
    links.reopen(&everybody).unwrap();
    assert_eq!((of(&links, "b1").len(), of(&links, "b2").len()), (30, 30));
}

#[test]
fn short_connections_are_counted_by_who_answers() {
    if !requirements::are_met() {
        return;
    }
    let mut lab = Lab::builder().clients(2).mode(Mode::L2).build().unwrap();
    let addresses: Vec<_> = lab.backends().iter().map(|backend| backend.address(Family::V6)).collect();
    let target = |number: usize| SocketAddr::new(addresses[number], TCP_LINE_PORT);
    let short = Short { connections: 4, time: Duration::from_millis(300) };
    let report = short.run_each(&lab, target).unwrap();
    assert_eq!(report.failed(), 0, "{report:?}");
    assert!(report.by_backend.keys().eq(["b1", "b2"]), "{report:?}");
    assert_eq!(report.requests, report.by_backend.values().sum::<u64>());
    assert!(report.requests > 50 && report.duration_us >= 300_000, "{report:?}");
    assert!(report.p50_us > 0 && report.p50_us <= report.p99_us && report.p99_us <= report.p999_us, "{report:?}");

    // Every connection that is due, and not one more.
    let paced = Paced { rate: 200, time: Duration::from_millis(500) };
    let report = paced.run_each(&lab, target).unwrap();
    assert_eq!((report.requests, report.failed()), (100, 0), "{report:?}");
    assert_eq!(report.by_backend, [("b1".to_owned(), 50), ("b2".to_owned(), 50)].into());
    let pace = report.pace.unwrap();
    assert!(report.duration_us >= 500_000 - 5000, "{report:?}");
    assert!(report.p50_us <= report.p99_us && pace.late_p99_us <= report.p99_us, "{report:?}");
    assert!((1..=100).contains(&pace.in_time), "{report:?}");

    lab.stop_server(1);
    let error = short.run_each(&lab, target).unwrap_err();
    assert_eq!(error.to_string(), "nobody answered");
    let report = paced.run_each(&lab, target).unwrap();
    assert_eq!((report.requests, report.failed(), report.connect_errors), (50, 50, 50), "{report:?}");
}

#[test]
fn a_flood_comes_from_many_addresses() {
    if !requirements::are_met() {
        return;
    }
    let lab = Lab::builder().backends(1).mode(Mode::L2).build().unwrap();
    let backend = &lab.backends()[0];
    for (family, port) in Family::BOTH.into_iter().zip(TCP_LINE_PORTS) {
        let sources = || peers(backend.netns(), family).len();
        assert_eq!(sources(), 0);
        let began = Instant::now();
        let before = tcp_counters(backend.netns());
        // No more than the server keeps: it answers those beyond by SYN cookies.
        flood::syns(&lab, SocketAddr::new(backend.address(family), port), 120, 1000).unwrap();
        assert!(began.elapsed() > Duration::from_millis(100), "{:?}", began.elapsed());
        let after = tcp_counters(backend.netns());
        assert!(after["InSegs"] - before["InSegs"] >= 120, "{before:?}, {after:?}");
        assert_eq!(after["InErrs"], before["InErrs"]);
        assert_eq!(after["InCsumErrors"], before["InCsumErrors"]);
        assert_eq!(sources(), 120);
    }
}

/// Addresses that have begun handshakes with `backend`.
fn peers(backend: &Netns, family: Family) -> BTreeSet<String> {
    let output = backend.command("ss").args(["-Htn", "state", "syn-recv"]).output().unwrap();
    let listed = String::from_utf8(output.stdout).unwrap();
    // An IPv4 address stands mapped into IPv6: the socket that listens is of both families.
    let is_wanted = |address: &String| address.contains("ffff:198.1") == (family == Family::V4);
    let peer = |line: &str| line.split_whitespace().nth(3).unwrap().rsplit_once(':').unwrap().0.to_owned();
    listed.lines().map(peer).filter(is_wanted).collect()
}

/// The `Tcp` counters of a namespace, which are both families'.
fn tcp_counters(netns: &Netns) -> BTreeMap<String, u64> {
    let counters = netns.enter(|| std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap()).unwrap();
    let mut lines = counters.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let counter = |(name, value): (&str, &str)| Some((name.to_owned(), value.parse().ok()?));
    names.split(' ').zip(values.split(' ')).filter_map(counter).collect()
}

#[test]
fn nothing_stays_after_a_panic() {
    if !requirements::are_met() {
        return;
    }
    let mut left = None;
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
        let lab = Lab::builder().build().unwrap();
        let server = lab.backends()[0].netns().name().to_owned();
        left = Some((lab.id().to_owned(), lab.dir(), pids(&server)));
        panic!("on purpose");
    }));
    assert!(outcome.is_err());
    let (id, dir, pids) = left.unwrap();
    assert!(!pids.is_empty());
    assert!(!dir.exists());
    let namespaces = std::fs::read_dir("/run/netns").unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(namespaces.filter(|name| name.to_string_lossy().starts_with(&format!("{id}-"))).count(), 0);
    for pid in pids {
        assert!(!Path::new("/proc").join(&pid).exists(), "process {pid} is still there");
    }
}

fn pids(namespace: &str) -> Vec<String> {
    let output = std::process::Command::new("ip").args(["netns", "pids", namespace]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split_whitespace().map(str::to_owned).collect()
}
