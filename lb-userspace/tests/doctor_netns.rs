//! What `weir doctor` finds in a network namespace, beside what ethtool and ip say.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod netns;

use netns::{Namespace, can_make_namespaces};
use weir::doctor::{self, Finding, Level, Report};

/// What `weir doctor` says about `interfaces`, run inside.
fn examine(namespace: &Namespace, interfaces: &[&str]) -> Report {
    let interfaces: Vec<_> = interfaces.iter().map(|name| (*name).to_owned()).collect();
    namespace.enter(|| doctor::run(&interfaces))
}

fn finding<'a>(report: &'a Report, interface: &str, check: &str) -> &'a Finding {
    let mut findings = report.findings.iter().filter(|finding| finding.interface.as_deref() == Some(interface));
    findings.find(|finding| finding.check == check).expect(check)
}

fn level(report: &Report, interface: &str, check: &str) -> Level {
    finding(report, interface, check).level
}

/// Whether ethtool says that an offload is on.
fn ethtool_says_on(namespace: &Namespace, interface: &str, feature: &str) -> bool {
    let features = namespace.run(&format!("ethtool -k {interface}"));
    let line = features.lines().find(|line| line.trim().starts_with(&format!("{feature}:"))).expect(feature);
    line.contains(": on")
}

#[test]
fn a_veth_is_seen_as_it_is() {
    if !can_make_namespaces() {
        return;
    }
    let (host, peer) = (Namespace::new(), Namespace::new());
    host.run("ip link add near type veth peer name far numrxqueues 2 numtxqueues 2");
    host.run("ip link set near up");
    host.connect("out", &peer, "in");

    let report = examine(&host, &["near", "out", "lo", "nowhere"]);
    assert_eq!(finding(&report, "near", "driver").found, "veth");
    assert!(finding(&report, "near", "native XDP").found.starts_with("basic, redirect"));
    assert_eq!(level(&report, "near", "link"), Level::Warn, "its peer is down");
    assert_eq!(level(&report, "out", "link"), Level::Ok);
    assert_eq!(finding(&report, "out", "MTU").found, "1500");
    assert_eq!(level(&report, "lo", "interface"), Level::Fail);
    assert_eq!(level(&report, "nowhere", "interface"), Level::Fail);
    assert_eq!(report.exit_code(), 1);

    assert!(ethtool_says_on(&host, "far", "tx-checksum-ip-generic"));
    assert_eq!(level(&report, "near", "checksums"), Level::Warn);
    assert!(finding(&report, "out", "checksums").found.contains("another network namespace"));
    host.run("ethtool -K far tx off");
    assert!(!ethtool_says_on(&host, "far", "tx-checksum-ip-generic"));
    host.run("ip link set far up");
    assert!(finding(&examine(&host, &["far"]), "far", "receive queues").found.starts_with('1'));
    host.run("ethtool -L far rx 2 tx 2");
    let report = examine(&host, &["near", "far"]);
    assert_eq!(level(&report, "near", "checksums"), Level::Ok);
    assert_eq!(level(&report, "near", "link"), Level::Ok);
    assert_eq!(finding(&report, "far", "receive queues").found, "2");
}

#[test]
fn without_names_the_interfaces_that_weir_could_use_are_examined() {
    if !can_make_namespaces() {
        return;
    }
    let (host, peer) = (Namespace::new(), Namespace::new());
    host.connect("one", &peer, "far-one");
    host.connect("two", &peer, "far-two");
    host.connect("three", &peer, "far-three");
    host.run("ip link add bridge type bridge");
    host.run("ip link set two master bridge");
    host.run("ip link set three down");
    let report = examine(&host, &[]);
    let named: std::collections::BTreeSet<_> =
        report.findings.iter().filter_map(|finding| finding.interface.as_deref()).collect();
    assert_eq!(named, ["one"].into());
    assert!(finding(&examine(&host, &["two"]), "two", "port").found.contains("bridge"));
}

#[test]
fn a_namespace_without_interfaces_is_survived() {
    if !can_make_namespaces() {
        return;
    }
    let report = examine(&Namespace::new(), &[]);
    assert_eq!(report.findings.last().map(|finding| (finding.check, finding.level)), Some(("interfaces", Level::Warn)));
}
