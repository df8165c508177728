//! Findings about one interface.

use crate::doctor::{
    facts::{Host, Interface, LinkState, Offloads, Peer, Program, ProgramMode, xdp_feature},
    report::Finding,
};

/// Largest IP packet that fits one page beside XDP's headroom (256) and the kernel's tail structure (320) with an
/// Ethernet header: 4096 - 256 - 320 - 14, as veth computes it.
const ONE_PAGE_MTU: u32 = 3506;

/// Names of Weir's own programs begin with this.
const OWN_PROGRAMS: &str = "weir";

pub(super) fn findings(name: &str, interface: Option<&Interface>, host: &Host) -> Vec<Finding> {
    let Some(interface) = interface else {
        return vec![Finding::fail("interface", "does not exist", "ip link lists those that do")];
    };
    if !interface.ethernet {
        return vec![Finding::fail("interface", "has no Ethernet header", "attach to the Ethernet interface below it")];
    }
    let mut findings = vec![driver(interface), native_xdp(interface), link(name, interface.state)];
    findings.extend(interface.programs.iter().map(|program| attached(name, program)));
    findings.extend(mtu(name, interface));
    findings.extend(queues(name, interface.queues, host.cpus));
    findings.push(match &interface.offloads {
        Some(offloads) => merged_packets(name, offloads),
        None => Finding::warn("merged packets", "unknown: the kernel does not tell offloads", "see ethtool -k"),
    });
    findings.extend(interface.offloads.as_ref().and_then(|offloads| vlan_tags(name, interface.has_vlans, offloads)));
    findings.extend(interface.peer.as_ref().map(checksums));
    findings.extend(interface.master.as_deref().map(port));
    findings.extend(interface.ipv6_disabled.filter(|disabled| *disabled).map(|_| ipv6(name)));
    findings
}

fn driver(interface: &Interface) -> Finding {
    const CHECK: &str = "driver";
    match interface.driver.as_ref().or(interface.kind.as_ref()) {
        Some(driver) => Finding::ok(CHECK, driver),
        None => Finding::ok(CHECK, "not to be seen from here"),
    }
}

fn native_xdp(interface: &Interface) -> Finding {
    const CHECK: &str = "native XDP";
    const GENERIC: &str = "set xdp = \"generic\" in weir.toml: it works on any interface, and is much slower";
    let Some(features) = interface.xdp_features else {
        return Finding::warn(
            CHECK,
            "unknown: this kernel does not tell (6.3 and newer do)",
            format!("weir run says so when the driver refuses; then {GENERIC}"),
        );
    };
    let names: Vec<_> = [
        (xdp_feature::BASIC, "basic"),
        (xdp_feature::REDIRECT, "redirect"),
        (xdp_feature::NDO_XMIT, "redirect target"),
        (xdp_feature::XSK_ZEROCOPY, "AF_XDP zero-copy"),
        (xdp_feature::HW_OFFLOAD, "hardware offload"),
        (xdp_feature::RX_SG, "large frames"),
        (xdp_feature::NDO_XMIT_SG, "redirect target for large frames"),
    ]
    .into_iter()
    .filter_map(|(bit, name)| (features & bit != 0).then_some(name))
    .collect();
    if features & xdp_feature::BASIC == 0 {
        return Finding::warn(CHECK, "not in this driver", GENERIC);
    }
    if features & xdp_feature::REDIRECT == 0 {
        return Finding::warn(
            CHECK,
            format!("{} (no redirect)", names.join(", ")),
            "let backends and clients be reached through the interface that their packets come in by",
        );
    }
    Finding::ok(CHECK, names.join(", "))
}

fn link(name: &str, state: LinkState) -> Finding {
    const CHECK: &str = "link";
    match state {
        LinkState::Up => Finding::ok(CHECK, "up"),
        LinkState::NoCarrier => Finding::warn(CHECK, "up, but without carrier", "check the cable and the other end"),
        LinkState::Down => Finding::warn(CHECK, "down", format!("ip link set {name} up")),
    }
}

fn attached(name: &str, program: &Program) -> Finding {
    const CHECK: &str = "XDP program";
    let place = match program.mode {
        ProgramMode::Native => "native",
        ProgramMode::Generic => "generic",
        ProgramMode::Hardware => "on the card",
    };
    let id = program.id;
    match &program.name {
        Some(own) if own.starts_with(OWN_PROGRAMS) => Finding::ok(CHECK, format!("{own}, {place}")),
        Some(other) => Finding::fail(
            CHECK,
            format!("{other} (id {id}, {place}) is not Weir's"),
            format!("stop what attached it, or ip link set dev {name} xdp off"),
        ),
        None => Finding::warn(
            CHECK,
            format!("id {id}, {place}: can't see whose"),
            format!("if it is not Weir's, stop what attached it (bpftool prog show id {id})"),
        ),
    }
}

/// Only native XDP has the limit.
fn mtu(name: &str, interface: &Interface) -> Option<Finding> {
    const CHECK: &str = "MTU";
    let features = interface.xdp_features?;
    let mtu = interface.mtu;
    if mtu <= ONE_PAGE_MTU || features & xdp_feature::BASIC == 0 {
        return Some(Finding::ok(CHECK, mtu.to_string()));
    }
    if features & xdp_feature::RX_SG != 0 {
        return Some(Finding::ok(CHECK, format!("{mtu}, frames of several pages")));
    }
    Some(Finding::warn(
        CHECK,
        format!("{mtu}: this driver takes XDP frames of one page only"),
        format!("ip link set {name} mtu 1500, {ONE_PAGE_MTU} at most"),
    ))
}

fn queues(name: &str, queues: Option<u32>, cpus: Option<usize>) -> Option<Finding> {
    const CHECK: &str = "receive queues";
    let queues = queues?;
    match cpus {
        Some(cpus) if queues == 1 && cpus > 1 => Some(Finding::warn(
            CHECK,
            format!("1, with {cpus} CPUs: one CPU does all the work"),
            format!("ethtool -l {name} tells how many it can have, ethtool -L sets them"),
        )),
        _ => Some(Finding::ok(CHECK, queues.to_string())),
    }
}

/// Received packets that were merged are no packets that could be forwarded, and drivers refuse XDP beside it.
fn merged_packets(name: &str, offloads: &Offloads) -> Finding {
    const CHECK: &str = "merged packets";
    // By the kernel's name, and as ethtool -K calls it.
    let merging = [("rx-lro", "lro"), ("rx-gro-hw", "rx-gro-hw")];
    let active: Vec<_> = merging.into_iter().filter(|(feature, _)| offloads.active.contains(*feature)).collect();
    if active.is_empty() {
        return Finding::ok(CHECK, "the card merges none");
    }
    let names: Vec<_> = active.iter().map(|(feature, _)| *feature).collect();
    let found = format!("{} is on: native XDP may be refused", names.join(" and "));
    if active.iter().all(|(feature, _)| offloads.changeable.contains(*feature)) {
        let switches: Vec<_> = active.iter().map(|(_, switch)| format!("{switch} off")).collect();
        return Finding::warn(CHECK, found, format!("ethtool -K {name} {}", switches.join(" ")));
    }
    Finding::warn(
        CHECK,
        format!("{found}, and it can't be switched here"),
        "switch it off in the hypervisor (virtio: guest_tso4, guest_tso6, guest_ecn, guest_ufo), or set xdp = \"generic\"",
    )
}

/// A tag that the card takes off is gone before XDP sees the frame, and a forwarded frame goes out without.
fn vlan_tags(name: &str, has_vlans: bool, offloads: &Offloads) -> Option<Finding> {
    const CHECK: &str = "VLAN tags";
    let stripped = offloads.active.contains("rx-vlan-hw-parse");
    (stripped && has_vlans).then(|| {
        Finding::warn(
            CHECK,
            "the card takes them off before XDP sees them",
            format!("ethtool -K {name} rxvlan off, if balanced traffic is tagged"),
        )
    })
}

/// A veth passes packets on without checksums; what rewrites them in between updates a checksum that is not there.
fn checksums(peer: &Peer) -> Finding {
    const CHECK: &str = "checksums";
    match peer {
        Peer::Here { name, offloads: Some(offloads) } => {
            if !offloads.active.iter().any(|feature| feature.starts_with("tx-checksum-ip")) {
                return Finding::ok(CHECK, format!("computed by the peer, {name}"));
            }
            Finding::warn(
                CHECK,
                format!("{name}, the peer, leaves them out: TCP through nat mode will stall"),
                format!("ethtool -K {name} tx off"),
            )
        }
        Peer::Here { name, offloads: None } => {
            Finding::warn(CHECK, format!("unknown for {name}, the peer"), format!("ethtool -K {name} tx off"))
        }
        Peer::Elsewhere => Finding::warn(
            CHECK,
            "the veth's peer is in another network namespace: can't see whether it computes them",
            "ethtool -K PEER tx off, in the peer's namespace",
        ),
    }
}

fn port(master: &str) -> Finding {
    Finding::warn(
        "port",
        format!("belongs to {master}: routes and neighbours are those of {master}"),
        format!("attach to {master} instead"),
    )
}

fn ipv6(name: &str) -> Finding {
    Finding::warn(
        "IPv6",
        "disabled: no IPv6 next hop can be resolved through this interface",
        format!("sysctl -w net.ipv6.conf.{name}.disable_ipv6=0, if backends or clients use IPv6"),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::doctor::report::Level::{self, Fail, Ok as Fine, Warn};

    /// An interface on which everything is as it should be.
    fn good() -> Interface {
        Interface {
            ethernet: true,
            driver: Some("mlx5_core".into()),
            state: LinkState::Up,
            mtu: 1500,
            queues: Some(8),
            xdp_features: Some(xdp_feature::BASIC | xdp_feature::REDIRECT),
            offloads: Some(Offloads::default()),
            ipv6_disabled: Some(false),
            ..Interface::default()
        }
    }

    /// Level, text and advice of one check after `change`.
    fn after(change: impl FnOnce(&mut Interface), check: &str) -> Option<(Level, String, String)> {
        let mut interface = good();
        change(&mut interface);
        let host = Host { cpus: Some(4), ..Host::default() };
        let finding = findings("eth0", Some(&interface), &host).into_iter().find(|finding| finding.check == check)?;
        assert_eq!(finding.advice.is_some(), finding.level != Fine, "{finding:?}");
        Some((finding.level, finding.found, finding.advice.unwrap_or_default()))
    }

    fn level(change: impl FnOnce(&mut Interface), check: &str) -> Option<Level> {
        after(change, check).map(|(level, ..)| level)
    }

    fn offloads(active: &[&str], changeable: &[&str]) -> Offloads {
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        Offloads { active: names(active), changeable: names(changeable) }
    }

    #[test]
    fn a_good_interface_is_fine() {
        let host = Host { cpus: Some(4), ..Host::default() };
        assert_eq!(findings("eth0", Some(&good()), &host).iter().find(|finding| finding.level != Fine), None);
    }

    #[test]
    fn what_is_no_ethernet_interface_fails_and_nothing_else_is_said() {
        for interface in [None, Some(Interface { ethernet: false, ..good() })] {
            let findings = findings("eth0", interface.as_ref(), &Host::default());
            assert_eq!(findings.iter().map(|finding| finding.level).collect::<Vec<_>>(), [Fail]);
        }
    }

    #[test]
    fn native_xdp_is_the_kernels_word() {
        let with = |features| after(|interface| interface.xdp_features = features, "native XDP").unwrap();
        assert_eq!(with(Some(0x23)), (Fine, "basic, redirect, large frames".into(), String::new()));
        let (level, found, advice) = with(Some(0));
        assert_eq!((level, found.as_str()), (Warn, "not in this driver"));
        assert!(advice.contains("xdp = \"generic\""));
        assert_eq!(with(Some(xdp_feature::BASIC)).0, Warn);
        assert_eq!(with(None).0, Warn);
    }

    #[test]
    fn a_link_must_be_up_and_have_a_carrier() {
        assert_eq!(level(|interface| interface.state = LinkState::Down, "link"), Some(Warn));
        assert_eq!(level(|interface| interface.state = LinkState::NoCarrier, "link"), Some(Warn));
    }

    #[test]
    fn somebody_elses_program_is_in_the_way() {
        let with = |name: Option<&str>| {
            let program = Program { mode: ProgramMode::Native, id: 7, name: name.map(str::to_owned) };
            level(|interface| interface.programs.push(program), "XDP program")
        };
        assert_eq!(level(|_| (), "XDP program"), None);
        assert_eq!(with(Some("weir")), Some(Fine));
        assert_eq!(with(Some("cil_xdp_entry")), Some(Fail));
        assert_eq!(with(None), Some(Warn));
    }

    #[test]
    fn large_frames_need_a_driver_that_takes_them() {
        let with = |mtu, features| {
            level(
                |interface| {
                    interface.mtu = mtu;
                    interface.xdp_features = features;
                },
                "MTU",
            )
        };
        assert_eq!(with(3506, Some(xdp_feature::BASIC)), Some(Fine));
        assert_eq!(with(3507, Some(xdp_feature::BASIC)), Some(Warn));
        assert_eq!(with(9000, Some(xdp_feature::BASIC | xdp_feature::RX_SG)), Some(Fine));
        assert_eq!(with(9000, Some(0)), Some(Fine));
        assert_eq!(with(9000, None), None);
    }

    #[test]
    fn one_queue_for_several_cpus_warns() {
        assert_eq!(level(|interface| interface.queues = Some(1), "receive queues"), Some(Warn));
        assert_eq!(level(|interface| interface.queues = Some(2), "receive queues"), Some(Fine));
        assert_eq!(level(|interface| interface.queues = None, "receive queues"), None);
        assert_eq!(queues("eth0", Some(1), Some(1)).unwrap().level, Fine);
    }

    #[test]
    fn merged_packets_are_switched_off_where_that_is_possible() {
        let with = |offloads| after(|interface| interface.offloads = offloads, "merged packets").unwrap();
        let both = ["rx-lro", "rx-gro-hw"];
        let (level, found, advice) = with(Some(offloads(&both, &both)));
        assert_eq!((level, found.as_str()), (Warn, "rx-lro and rx-gro-hw is on: native XDP may be refused"));
        assert_eq!(advice, "ethtool -K eth0 lro off rx-gro-hw off");
        let (level, _, advice) = with(Some(offloads(&["rx-gro-hw"], &[])));
        assert_eq!(level, Warn);
        assert!(advice.contains("hypervisor"));
        assert_eq!(with(Some(offloads(&["rx-gro"], &["rx-gro"]))).0, Fine);
        assert_eq!(with(None).0, Warn);
    }

    #[test]
    fn stripped_tags_matter_where_there_are_vlans() {
        let with = |has_vlans, active: &[&str]| {
            let offloads = offloads(active, &[]);
            level(
                |interface| {
                    interface.has_vlans = has_vlans;
                    interface.offloads = Some(offloads);
                },
                "VLAN tags",
            )
        };
        assert_eq!(with(true, &["rx-vlan-hw-parse"]), Some(Warn));
        assert_eq!(with(false, &["rx-vlan-hw-parse"]), None);
        assert_eq!(with(true, &[]), None);
    }

    #[test]
    fn the_peer_of_a_veth_must_compute_checksums() {
        let with = |peer| level(|interface| interface.peer = peer, "checksums");
        let here = |offloads| Some(Peer::Here { name: "veth1".into(), offloads });
        assert_eq!(with(None), None);
        assert_eq!(with(here(Some(offloads(&["tx-checksum-ip-generic"], &[])))), Some(Warn));
        assert_eq!(with(here(Some(offloads(&["tx-checksum-sctp"], &[])))), Some(Fine));
        assert_eq!(with(here(None)), Some(Warn));
        assert_eq!(with(Some(Peer::Elsewhere)), Some(Warn));
    }

    #[test]
    fn ports_and_interfaces_without_ipv6_warn() {
        assert_eq!(level(|interface| interface.master = Some("bond0".into()), "port"), Some(Warn));
        assert_eq!(level(|_| (), "port"), None);
        assert_eq!(level(|interface| interface.ipv6_disabled = Some(true), "IPv6"), Some(Warn));
        assert_eq!(level(|interface| interface.ipv6_disabled = None, "IPv6"), None);
    }
}
