//! The rows of the table: which packets meet which configuration, and what has to become of them.

use std::fmt;

use lb_common::reason::Reason;
use weir_packets::{
    fixtures::Family,
    oracle::Action,
    world::{Mode, Protocol},
};

/// One row: packets of one kind on one configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What the balancer is configured with.
    pub setting: Setting,
    /// What is sent.
    pub kind: Kind,
    /// Number of flows, as a power of two; at most [`MOST_FLOW_BITS`].
    pub flow_bits: u32,
    /// What every packet has to meet with.
    pub expected: Expected,
}

/// Flows of a row at most, as a power of two: clients then repeat no address.
pub const MOST_FLOW_BITS: u32 = 19;

/// A configuration of the balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Forwarding mode of all services.
    pub mode: Mode,
    /// Family of VIPs and clients.
    pub family: Family,
    /// Family of backends.
    pub backend_family: Family,
    /// Protocol of all services.
    pub protocol: Protocol,
    /// How many services of which size.
    pub size: Size,
    /// Percentage of slots that are tracked: their services have just lost their first backend to new flows. All flows
    /// have been opened since, so that those of tracked slots have an entry in the flow table.
    pub tracked: u8,
}

/// How many services, backends and slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Services.
    pub services: u16,
    /// Backends of each service.
    pub backends: u16,
    /// Slots of each service.
    pub slots: u32,
}

/// Kinds of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TCP, within a connection.
    Ack,
    /// TCP, opening a connection.
    Syn,
    /// UDP.
    Udp,
    /// TCP, within a connection, from a backend of a `nat` service to its client.
    Reply,
    /// TCP to an address that no service has.
    Foreign,
}

/// What has to become of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The program's verdict.
    pub action: Action,
    /// What the balancer counts it for.
    pub reason: Reason,
}

impl Size {
    /// One service with 100 backends. Slots are what `weir` chooses for it.
    pub const ONE: Self = Self { services: 1, backends: 100, slots: 1 << 14 };
    /// What targets are set for: 100 services with 100 backends each.
    pub const HUNDRED: Self = Self { services: 100, ..Self::ONE };
    /// 10,000 services with 10 backends each, and slots so that they fit into a table: 100 for each backend.
    pub const TEN_THOUSAND: Self = Self { services: 10_000, backends: 10, slots: 1_000 };
}

impl Kind {
    /// What carries it.
    #[must_use]
    pub const fn protocol(self) -> Protocol {
        match self {
            Self::Udp => Protocol::Udp,
            Self::Ack | Self::Syn | Self::Reply | Self::Foreign => Protocol::Tcp,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Ack => "ack",
            Self::Syn => "syn",
            Self::Udp => "udp",
            Self::Reply => "reply",
            Self::Foreign => "non-vip",
        }
    }
}

impl Row {
    /// Packets of `kind` on `setting`, which is given the kind's protocol.
    #[must_use]
    pub const fn new(setting: Setting, kind: Kind, flow_bits: u32) -> Self {
        let expected = match (kind, setting.mode) {
            (Kind::Foreign, _) => Expected { action: Action::Pass, reason: Reason::NoService },
            (Kind::Reply, _) => Expected { action: Action::Transmit, reason: Reason::RepliedNat },
            (_, Mode::L2) => Expected { action: Action::Transmit, reason: Reason::ForwardedL2 },
            (_, Mode::Ipip) => Expected { action: Action::Transmit, reason: Reason::ForwardedIpip },
            (_, Mode::Nat) => Expected { action: Action::Transmit, reason: Reason::ForwardedNat },
        };
        Self { setting: Setting { protocol: kind.protocol(), ..setting }, kind, flow_bits, expected }
    }
}

/// `MODE/FAMILY/KIND/SERVICESxBACKENDS/FLOWS`: `ipip/v4-in-v6/syn/100x100/64k`; `…/tracked-10/64k` where 10 % of slots
/// are tracked.
impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Setting { mode, family, backend_family, size, tracked, .. } = self.setting;
        match mode {
            Mode::L2 => write!(f, "l2/{}", family_name(family)),
            Mode::Ipip => write!(f, "ipip/{}-in-{}", family_name(family), family_name(backend_family)),
            Mode::Nat => write!(f, "nat/{}", family_name(family)),
        }?;
        let flows = match self.flow_bits {
            bits @ ..10 => format!("{}", 1 << bits),
            bits => format!("{}k", 1 << (bits - 10)),
        };
        write!(f, "/{}/{}x{}", self.kind.name(), size.services, size.backends)?;
        if tracked > 0 {
            write!(f, "/tracked-{tracked}")?;
        }
        write!(f, "/{flows}")
    }
}

const fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "v4",
        Family::V6 => "v6",
    }
}

/// 1, 1k, 64k and 512k flows.
const FLOW_BITS: [u32; 4] = [0, 10, 16, MOST_FLOW_BITS];

/// Every row, those on the same configuration one after the other.
#[must_use]
pub fn all() -> Vec<Row> {
    let mut rows = Vec::new();
    for setting in paths() {
        let kinds: &[Kind] = match setting.mode {
            Mode::L2 | Mode::Ipip => &[Kind::Ack, Kind::Syn],
            Mode::Nat => &[Kind::Ack, Kind::Syn, Kind::Reply],
        };
        add(&mut rows, setting, kinds, &FLOW_BITS);
        if is_plain_ipip(&setting) {
            add(&mut rows, setting, &[Kind::Foreign], &[0, MOST_FLOW_BITS]);
        }
        add(&mut rows, setting, &[Kind::Udp], &FLOW_BITS);
    }
    for path in paths().into_iter().filter(is_plain_ipip) {
        let setting = |tracked| Setting { tracked, ..path };
        if path.family == Family::V4 {
            for size in [Size::ONE, Size::TEN_THOUSAND] {
                add(&mut rows, Setting { size, ..path }, &[Kind::Ack], &FLOW_BITS);
            }
            add(&mut rows, setting(1), &[Kind::Ack], &FLOW_BITS);
            add(&mut rows, setting(10), &[Kind::Ack], &FLOW_BITS);
        }
        add(&mut rows, setting(100), &[Kind::Ack, Kind::Syn], &FLOW_BITS);
    }
    rows
}

/// IP-in-IP with one family inside and outside: what the finer rows are about.
fn is_plain_ipip(setting: &Setting) -> bool {
    setting.mode == Mode::Ipip && setting.family == setting.backend_family
}

/// The rows whose names contain every one of `parts`.
#[must_use]
pub fn matching(parts: &[String]) -> Vec<Row> {
    crate::select::matching(all(), parts)
}

fn add(rows: &mut Vec<Row>, setting: Setting, kinds: &[Kind], flow_bits: &[u32]) {
    for kind in kinds {
        rows.extend(flow_bits.iter().map(|bits| Row::new(setting, *kind, *bits)));
    }
}

/// Every mode with every family that it takes, and the family that it forwards by.
fn paths() -> Vec<Setting> {
    let mut paths = Vec::new();
    for family in Family::BOTH {
        let (same, other) = (family, family.other());
        let modes = [(Mode::L2, same), (Mode::Ipip, same), (Mode::Ipip, other), (Mode::Nat, same)];
        paths.extend(modes.map(|(mode, backend_family)| Setting {
            mode,
            family,
            backend_family,
            protocol: Protocol::Tcp,
            size: Size::HUNDRED,
            tracked: 0,
        }));
    }
    paths
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_say_what_a_row_is_and_are_unique() {
        let names: Vec<String> = all().iter().map(Row::to_string).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
        for name in [
            "l2/v6/udp/100x100/1",
            "ipip/v4-in-v6/syn/100x100/64k",
            "ipip/v4-in-v4/ack/10000x10/512k",
            "ipip/v6-in-v6/non-vip/100x100/1",
            "nat/v4/reply/100x100/1k",
            "ipip/v4-in-v4/ack/100x100/tracked-1/512k",
        ] {
            assert!(names.iter().any(|other| other == name), "{name} is not among {names:?}");
        }
    }

    #[test]
    fn rows_of_one_configuration_follow_each_other() {
        let rows = all();
        let mut seen = Vec::new();
        for row in &rows {
            if seen.last() != Some(&row.setting) {
                assert!(!seen.contains(&row.setting), "{row} comes apart from its like");
                seen.push(row.setting);
            }
        }
    }

    #[test]
    fn all_parts_of_a_filter_have_to_match() {
        let parts = ["nat/v6".to_owned(), "/1k".to_owned()];
        let names: Vec<String> = matching(&parts).iter().map(Row::to_string).collect();
        let kinds = ["ack", "syn", "reply", "udp"];
        assert_eq!(names, kinds.map(|kind| format!("nat/v6/{kind}/100x100/1k")));
        assert!(matching(&["no such row".to_owned()]).is_empty());
    }
}
