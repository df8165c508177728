//! The network monitor beside the kernel's own answers, in network namespaces.

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

mod netns;

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use netns::{Namespace, can_make_namespaces};
use serde_json::Value;
use tokio::{sync::watch, time};
use weir::nexthop::{ClientRoute, NetworkMonitor, NetworkView, Resolution};

/// Longest wait for a change to be seen; a change that needs the kernel to give up on a neighbour takes seconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// The host under test, with links `wan` and `lan` to a peer that is router, server and client at once.
struct Lab {
    host: Namespace,
    peer: Namespace,
}

impl Lab {
    fn new() -> Self {
        let lab = Self { host: Namespace::new(), peer: Namespace::new() };
        for (link, net) in [("wan", 0), ("lan", 1)] {
            let far = format!("{link}-peer");
            lab.host.connect(link, &lab.peer, &far);
            // No duplicate address detection: addresses work at once.
            lab.host.run(&format!("ip addr add 10.77.{net}.9/24 dev {link}"));
            lab.host.run(&format!("ip addr add 2001:db8:{net}::9/64 dev {link} nodad"));
            for last in 1..=3 {
                lab.peer.run(&format!("ip addr add 10.77.{net}.{last}/24 dev {far}"));
                lab.peer.run(&format!("ip addr add 2001:db8:{net}::{last}/64 dev {far} nodad"));
            }
        }
        lab.host.run("ip route add default via 10.77.0.1");
        lab.host.run("ip -6 route add default via 2001:db8:0::1");
        lab
    }

    fn ifindex(&self, link: &str) -> u32 {
        let links: Value = serde_json::from_str(&self.host.run(&format!("ip -j link show dev {link}"))).unwrap();
        u32::try_from(links[0]["ifindex"].as_u64().unwrap()).unwrap()
    }

    /// What the kernel would do, from `ip route get` and `ip neighbour`.
    fn kernel_answer(&self, address: IpAddr) -> Resolution {
        let answer = self.host.try_run(&format!("ip -j route get {address}"));
        if !answer.status.success() {
            return Resolution::NoRoute;
        }
        let answer: Value = serde_json::from_slice(&answer.stdout).unwrap();
        let route = &answer[0];
        if ["local", "broadcast"].iter().any(|kind| route["type"] == *kind) {
            return Resolution::Local;
        }
        let device = route["dev"].as_str().unwrap();
        let ifindex = self.ifindex(device);
        let gateway = route["gateway"].as_str().or(route["via"]["host"].as_str()).map(|text| text.parse().unwrap());
        let ask = gateway.unwrap_or(address);
        let neighbours: Value =
            serde_json::from_str(&self.host.run(&format!("ip -j neighbour show to {ask} dev {device}"))).unwrap();
        let usable = |state: &Value| state != "FAILED" && state != "INCOMPLETE";
        match neighbours[0]["lladdr"].as_str() {
            Some(mac) if usable(&neighbours[0]["state"][0]) => {
                Resolution::Resolved { mac: parse_mac(mac), ifindex, gateway }
            }
            _ => Resolution::Unresolved { ask, ifindex },
        }
    }

    fn peer_mac(&self, link: &str) -> [u8; 6] {
        let links: Value = serde_json::from_str(&self.peer.run(&format!("ip -j link show dev {link}"))).unwrap();
        parse_mac(links[0]["address"].as_str().unwrap())
    }
}

fn parse_mac(text: &str) -> [u8; 6] {
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Runs a test inside a lab's host, on a single-threaded runtime; skips it without root.
fn in_lab(test: impl AsyncFnOnce(&Lab, &NetworkMonitor) + Send) {
    if !can_make_namespaces() {
        return;
    }
    let lab = Lab::new();
    lab.host.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let monitor = NetworkMonitor::start().await.unwrap();
            test(&lab, &monitor).await;
        });
    });
}

/// Waits until the monitor tells of a view that passes `check`, and returns it and how long that took.
async fn seen(
    changes: &mut watch::Receiver<Arc<NetworkView>>,
    what: &str,
    check: impl Fn(&NetworkView) -> bool,
) -> Duration {
    let start = Instant::now();
    let wait = changes.wait_for(|view| check(view));
    let outcome = time::timeout(PATIENCE, wait).await.map(|view| view.is_ok());
    assert_eq!(outcome, Ok(true), "not seen: {what}");
    start.elapsed()
}

const ADDRESSES: [&str; 16] = [
    "10.77.0.1",
    "10.77.0.2",
    "10.77.1.1",
    "10.77.1.77",
    "10.77.0.9",
    "10.77.0.255",
    "127.0.0.1",
    "192.0.2.1",
    "198.51.100.130",
    "198.51.100.5",
    "203.0.113.1",
    "2001:db8:0::1",
    "2001:db8:1::2",
    "2001:db8:0::9",
    "2001:db8:9::1",
    "2001:db8:beef::1",
];

async fn agrees_with_kernel(lab: &Lab, changes: &mut watch::Receiver<Arc<NetworkView>>) {
    for address in ADDRESSES.map(ip) {
        let expected = lab.kernel_answer(address);
        seen(changes, &format!("{address} → {expected:?}"), |view| view.resolve(address) == expected).await;
    }
}

#[test]
fn resolves_like_the_kernel() {
    in_lab(async |lab, monitor| {
        let mut changes = monitor.subscribe();
        for route in [
            "198.51.100.0/24 via 10.77.0.2",
            "198.51.100.128/25 via 10.77.1.2 metric 50",
            "198.51.100.128/25 via 10.77.0.3 metric 70",
            "203.0.113.0/24 via inet6 2001:db8:1::2 dev lan",
            "unreachable 192.0.2.0/24",
            "2001:db8:9::/48 via 2001:db8:1::3",
            "unreachable 2001:db8:beef::/48",
        ] {
            lab.host.run(&format!("ip route add {route}"));
        }
        agrees_with_kernel(lab, &mut changes).await;

        let asked = ["10.77.0.1", "10.77.0.2", "10.77.1.1", "10.77.1.2", "2001:db8:0::1", "2001:db8:1::2"].map(ip);
        for address in asked {
            let Resolution::Unresolved { ask, ifindex } = lab.kernel_answer(address) else {
                panic!("{address} is known before anybody asked");
            };
            monitor.solicit(ask, ifindex);
        }
        for address in asked {
            let known = |view: &NetworkView| matches!(view.resolve(address), Resolution::Resolved { .. });
            seen(&mut changes, &format!("{address} found"), known).await;
        }
        agrees_with_kernel(lab, &mut changes).await;
    });
}

#[test]
fn routes_are_followed_also_where_the_kernel_says_nothing() {
    in_lab(async |lab, monitor| {
        let mut changes = monitor.subscribe();
        let client = ip("198.51.100.7");
        let (wan, lan) = (lab.ifindex("wan"), lab.ifindex("lan"));
        let leads_to = |ask: &str, ifindex| Resolution::Unresolved { ask: ip(ask), ifindex };
        assert_eq!(monitor.view().resolve(client), leads_to("10.77.0.1", wan));

        for (command, expected) in [
            ("ip route add 198.51.100.0/24 via 10.77.1.1", leads_to("10.77.1.1", lan)),
            ("ip route replace 198.51.100.0/24 via 10.77.1.2", leads_to("10.77.1.2", lan)),
            ("ip route add 198.51.100.0/25 nexthop via 10.77.1.3 nexthop via 10.77.0.3", leads_to("10.77.1.3", lan)),
            ("ip route del 198.51.100.0/25", leads_to("10.77.1.2", lan)),
            // Both of these remove the route without a message about it; IPv6 messages would give the first one away.
            ("sysctl -q -w net.ipv6.conf.lan.disable_ipv6=1", leads_to("10.77.1.2", lan)),
            ("ip link set lan down", leads_to("10.77.0.1", wan)),
            ("ip addr del 10.77.0.9/24 dev wan", Resolution::NoRoute),
        ] {
            // What the step before set off is over: this one must be seen for itself.
            time::sleep(Duration::from_millis(300)).await;
            lab.host.run(command);
            let took = seen(&mut changes, command, |view| view.resolve(client) == expected).await;
            assert!(took < Duration::from_secs(2), "{command} was seen after {took:?}");
            assert!(matches!(
                (lab.kernel_answer(client), expected),
                (Resolution::Unresolved { .. }, Resolution::Unresolved { .. })
                    | (Resolution::NoRoute, Resolution::NoRoute)
            ));
        }
    });
}

#[test]
fn a_lost_carrier_is_seen_and_so_is_its_return() {
    in_lab(async |lab, monitor| {
        let mut changes = monitor.subscribe();
        let (server, lan) = (ip("10.77.1.2"), lab.ifindex("lan"));
        monitor.solicit(server, lan);
        let found = Resolution::Resolved { mac: lab.peer_mac("lan-peer"), ifindex: lan, gateway: None };
        seen(&mut changes, "the server", |view| view.resolve(server) == found).await;

        lab.peer.run("ip link set lan-peer down");
        let down = Resolution::LinkDown { ifindex: lan };
        seen(&mut changes, "the link going down", |view| view.resolve(server) == down).await;

        lab.peer.run("ip link set lan-peer up");
        let asked = Resolution::Unresolved { ask: server, ifindex: lan };
        seen(&mut changes, "the link coming up", |view| view.resolve(server) == asked).await;
        monitor.keep_fresh(BTreeSet::from([(lan, server)]));
        seen(&mut changes, "the server again", |view| view.resolve(server) == found).await;
    });
}

#[test]
fn an_interface_that_goes_and_comes_back_is_a_new_one() {
    in_lab(async |lab, monitor| {
        let mut changes = monitor.subscribe();
        let client = ip("10.77.1.2");
        let before = lab.ifindex("lan");
        lab.host.run("ip link del lan");
        let gone = |view: &NetworkView| view.link(before).is_none() && view.links().all(|link| link.name != "lan");
        seen(&mut changes, "the interface going", gone).await;

        lab.host.connect("lan", &lab.peer, "lan-peer");
        lab.host.run("ip addr add 10.77.1.9/24 dev lan");
        let after = lab.ifindex("lan");
        let expected = Resolution::Unresolved { ask: client, ifindex: after };
        seen(&mut changes, "the interface coming back", |view| view.resolve(client) == expected).await;
    });
}

/// The kernel says "deleted" of a port that leaves its bridge, in the message that is also about interfaces.
#[test]
fn a_port_that_leaves_its_bridge_is_still_there() {
    in_lab(async |lab, monitor| {
        let mut changes = monitor.subscribe();
        let (server, lan) = (ip("10.77.1.50"), lab.ifindex("lan"));
        lab.host.run("ip neighbour add 10.77.1.50 lladdr 02:00:00:00:00:50 dev lan nud permanent");
        let resolved = |view: &NetworkView| matches!(view.resolve(server), Resolution::Resolved { .. });
        seen(&mut changes, "its neighbour", resolved).await;
        lab.host.run("ip link add bridge type bridge");
        lab.host.run("ip link set lan master bridge");
        lab.host.run("ip link set lan nomaster");
        lab.host.run("ip link set lan mtu 1400");
        seen(&mut changes, "the last change", |view| view.link(lan).is_some_and(|link| link.mtu == 1400)).await;
        assert!(resolved(&monitor.view()));
    });
}

#[test]
fn a_deleted_neighbour_is_found_again_while_it_is_in_use() {
    in_lab(async |lab, monitor| {
        let mut changes = monitor.subscribe();
        let (server, lan) = (ip("2001:db8:1::2"), lab.ifindex("lan"));
        let found = Resolution::Resolved { mac: lab.peer_mac("lan-peer"), ifindex: lan, gateway: None };
        monitor.keep_fresh(BTreeSet::from([(lan, server)]));
        seen(&mut changes, "the server", |view| view.resolve(server) == found).await;
        let entry = ClientRoute::Towards(found);
        assert_eq!(monitor.view().client_routes().get(&server.into()), Some(&entry));

        lab.host.run("ip neighbour del 2001:db8:1::2 dev lan");
        seen(&mut changes, "the deletion", |view| view.resolve(server) != found).await;
        assert_eq!(monitor.view().client_routes().get(&server.into()), None);
        seen(&mut changes, "the server again", |view| view.resolve(server) == found).await;
        assert_eq!(lab.kernel_answer(server), found);
    });
}

/// The peer's address changes without a word, and nothing but the packet path (here: nobody) sends to it.
#[test]
fn a_replaced_link_layer_address_is_found_out() {
    in_lab(async |lab, monitor| {
        // The same steps as by default, in less time: sure for at most 1.5 s, doubtful for 1 s, asked 3 times in 0.6 s.
        for knob in ["base_reachable_time_ms=1000", "delay_first_probe_time=1", "retrans_time_ms=200"] {
            lab.host.run(&format!("sysctl -q -w net.ipv4.neigh.lan.{knob}"));
        }
        let mut changes = monitor.subscribe();
        let (server, lan) = (ip("10.77.1.2"), lab.ifindex("lan"));
        let with_mac = |mac| Resolution::Resolved { mac, ifindex: lan, gateway: None };
        let old = lab.peer_mac("lan-peer");
        monitor.keep_fresh(BTreeSet::from([(lan, server)]));
        seen(&mut changes, "the server", |view| view.resolve(server) == with_mac(old)).await;

        let new = [2, 0, 0, 0, 0xbe, 0xef];
        lab.peer.run("ip link set lan-peer address 02:00:00:00:be:ef");
        seen(&mut changes, "the new address", |view| view.resolve(server) == with_mac(new)).await;
    });
}

#[test]
fn a_permanent_neighbour_stays_permanent() {
    in_lab(async |lab, monitor| {
        let mut changes = monitor.subscribe();
        let (server, lan) = (ip("10.77.1.50"), lab.ifindex("lan"));
        lab.host.run("ip neighbour add 10.77.1.50 lladdr 02:00:00:00:00:50 dev lan nud permanent");
        let known = |view: &NetworkView| matches!(view.resolve(server), Resolution::Resolved { .. });
        seen(&mut changes, "the permanent neighbour", known).await;
        monitor.keep_fresh(BTreeSet::from([(lan, server)]));
        monitor.solicit(server, lan);
        time::sleep(Duration::from_millis(1500)).await;
        assert!(lab.host.run("ip neighbour show to 10.77.1.50 dev lan").contains("PERMANENT"));
    });
}

/// More changes than the socket holds, while nobody reads: messages are lost, the outcome must not be.
#[test]
fn an_overrun_loses_nothing() {
    const NEIGHBOURS: u32 = 4000;
    in_lab(async |lab, monitor| {
        let mut changes = monitor.subscribe();
        let lan = lab.ifindex("lan");
        let batch = tempfile::NamedTempFile::new().unwrap();
        let add = |n: u32| {
            format!(
                "neighbour add fd00::{n:x} lladdr 02:00:00:00:{:02x}:{:02x} dev lan nud permanent\n",
                n >> 8,
                n & 255
            )
        };
        std::fs::write(batch.path(), (1..=NEIGHBOURS).map(add).collect::<String>()).unwrap();

        // Blocks this thread, and with it the only thread of the runtime.
        lab.host.run(&format!("ip -batch {}", batch.path().display()));
        assert!(dropped_netlink_messages(lab) > 0, "the socket held everything: the test shows nothing");
        let complete =
            |view: &NetworkView| (1..=NEIGHBOURS).all(|n| view.neighbour(lan, ip(&format!("fd00::{n:x}"))).is_some());
        seen(&mut changes, "every neighbour", complete).await;
    });
}

/// Drops of all netlink sockets in the host's namespace: the ninth column of /proc/net/netlink.
fn dropped_netlink_messages(lab: &Lab) -> u64 {
    let table = lab.host.run("cat /proc/thread-self/net/netlink");
    table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(8)?.parse::<u64>().ok()).sum()
}
