//! The interfaces: what rtnetlink, the `netdev` and `ethtool` families and /sys say about them.

use std::{collections::BTreeSet, fs, io};

use aya::programs::loaded_programs;
use rtnetlink::{
    packet_core::DefaultNla,
    packet_route::{
        RouteNetlinkMessage,
        link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp, XdpAttached},
    },
};

use super::read_value;
use crate::doctor::{
    facts::{Interface, LinkState, Offloads, Peer, Program, ProgramMode},
    netlink::{Client, Generic, parse_attributes, value, value_of},
};

/// The interfaces of these names; all that Weir could attach to if there are none.
pub(super) fn interfaces(names: &[String]) -> io::Result<Vec<(String, Option<Interface>)>> {
    let links = links()?;
    let mut kernel = Devices::open();
    if names.is_empty() {
        let candidates = links.iter().filter(|link| link.is_candidate());
        return Ok(candidates.map(|link| (link.name.clone(), Some(interface(link, &links, &mut kernel)))).collect());
    }
    let by_name = |name: &String| links.iter().find(|link| link.name == *name);
    Ok(names
        .iter()
        .map(|name| (name.clone(), by_name(name).map(|link| interface(link, &links, &mut kernel))))
        .collect())
}

/// What rtnetlink says about an interface.
#[derive(Default)]
struct LinkFacts {
    index: u32,
    name: String,
    ethernet: bool,
    state: LinkState,
    mtu: u32,
    kind: Option<String>,
    master: Option<u32>,
    /// The interface below (of a VLAN) or at the other end (of a veth), if it is in this network namespace.
    lower: Option<u32>,
    rx_queues: Option<u32>,
    programs: Vec<(ProgramMode, u32)>,
}

impl LinkFacts {
    fn is_candidate(&self) -> bool {
        self.ethernet && self.state != LinkState::Down && self.master.is_none()
    }
}

fn links() -> io::Result<Vec<LinkFacts>> {
    let answers = Client::route()?.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    Ok(answers
        .iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(message) => Some(link_facts(message)),
            _ => None,
        })
        .collect())
}

fn link_facts(message: &LinkMessage) -> LinkFacts {
    let mut link = LinkFacts {
        index: message.header.index,
        ethernet: message.header.link_layer_type == LinkLayerType::Ether,
        state: match message.header.flags {
            flags if !flags.contains(LinkFlags::Up) => LinkState::Down,
            flags if !flags.contains(LinkFlags::Running) => LinkState::NoCarrier,
            _ => LinkState::Up,
        },
        ..LinkFacts::default()
    };
    let mut lower_is_elsewhere = false;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Controller(index) => link.master = Some(*index),
            LinkAttribute::Link(index) => link.lower = Some(*index),
            LinkAttribute::LinkNetNsId(_) => lower_is_elsewhere = true,
            LinkAttribute::NumRxQueues(number) => link.rx_queues = Some(*number),
            LinkAttribute::LinkInfo(infos) => link.kind = infos.iter().find_map(kind_name),
            LinkAttribute::Xdp(xdp) => link.programs = programs(xdp),
            _ => {}
        }
    }
    link.lower = link.lower.filter(|_| !lower_is_elsewhere);
    link
}

fn kind_name(info: &LinkInfo) -> Option<String> {
    match info {
        LinkInfo::Kind(kind) => Some(InfoKind::to_string(kind)),
        _ => None,
    }
}

/// Several programs (native and generic at once) come with an id each; a single one only says where it is.
fn programs(xdp: &[LinkXdp]) -> Vec<(ProgramMode, u32)> {
    let attached = xdp.iter().find_map(|attribute| match attribute {
        LinkXdp::Attached(XdpAttached::Driver) => Some(ProgramMode::Native),
        LinkXdp::Attached(XdpAttached::SocketBuffer) => Some(ProgramMode::Generic),
        LinkXdp::Attached(XdpAttached::Hardware) => Some(ProgramMode::Hardware),
        _ => None,
    });
    xdp.iter()
        .filter_map(|attribute| match (attribute, attached) {
            (LinkXdp::ProgId(id), Some(mode)) => Some((mode, *id)),
            (LinkXdp::DrvProgId(id), None) => Some((ProgramMode::Native, *id)),
            (LinkXdp::SkbProgId(id), None) => Some((ProgramMode::Generic, *id)),
            (LinkXdp::HwProgId(id), None) => Some((ProgramMode::Hardware, *id)),
            _ => None,
        })
        .collect()
}

fn interface(link: &LinkFacts, links: &[LinkFacts], kernel: &mut Devices) -> Interface {
    let by_index = |index: u32| links.iter().find(|other| other.index == index);
    let is_veth = link.kind.as_deref() == Some("veth");
    let peer = link.lower.filter(|_| is_veth).and_then(by_index);
    Interface {
        ethernet: link.ethernet,
        kind: link.kind.clone(),
        driver: driver(link),
        state: link.state,
        mtu: link.mtu,
        master: link.master.map(|index| by_index(index).map_or_else(|| index.to_string(), |link| link.name.clone())),
        has_vlans: links.iter().any(|other| other.kind.as_deref() == Some("vlan") && other.lower == Some(link.index)),
        queues: kernel.rx_queues(link.index).or(link.rx_queues),
        xdp_features: kernel.xdp_features(link.index),
        offloads: kernel.offloads(link.index),
        programs: link.programs.iter().map(|&(mode, id)| Program { mode, id, name: program_name(id) }).collect(),
        peer: is_veth.then(|| match peer {
            Some(peer) => Peer::Here { name: peer.name.clone(), offloads: kernel.offloads(peer.index) },
            None => Peer::Elsewhere,
        }),
        ipv6_disabled: read_value::<u8>(format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", link.name))
            .map(|disabled| disabled != 0),
    }
}

/// The driver, from /sys, if /sys shows this network namespace.
fn driver(link: &LinkFacts) -> Option<String> {
    let directory = format!("/sys/class/net/{}", link.name);
    read_value(format!("{directory}/ifindex")).filter(|index: &u32| *index == link.index)?;
    let driver = fs::read_link(format!("{directory}/device/driver")).ok()?;
    Some(driver.file_name()?.to_str()?.to_owned())
}

fn program_name(id: u32) -> Option<String> {
    let program = loaded_programs().filter_map(Result::ok).find(|program| program.id() == id)?;
    program.name_as_str().map(str::to_owned)
}

/// The kernel's generic netlink families about devices, as far as it has them.
struct Devices {
    client: Option<Client>,
    netdev: Option<u16>,
    ethtool: Option<u16>,
}

/// Command and attributes of the `netdev` family (`linux/netdev.h`).
mod netdev {
    pub(super) const DEV_GET: u8 = 1;
    pub(super) const IFINDEX: u16 = 1;
    pub(super) const XDP_FEATURES: u16 = 3;
}

/// Commands and attributes of the `ethtool` family (`linux/ethtool_netlink.h`).
mod ethtool {
    pub(super) const FEATURES_GET: u8 = 11;
    pub(super) const FEATURES_HW: u16 = 2;
    pub(super) const FEATURES_ACTIVE: u16 = 4;
    pub(super) const FEATURES_NOCHANGE: u16 = 5;
    pub(super) const CHANNELS_GET: u8 = 17;
    pub(super) const CHANNELS_RX_COUNT: u16 = 6;
    pub(super) const CHANNELS_COMBINED_COUNT: u16 = 9;
    /// The nested attribute that names the device, in every question, and its index within.
    pub(super) const HEADER: u16 = 1;
    pub(super) const HEADER_DEV_INDEX: u16 = 1;
    pub(super) const BITSET_BITS: u16 = 3;
    pub(super) const BIT_NAME: u16 = 2;
    pub(super) const BIT_VALUE: u16 = 3;
    pub(super) const BITSET_NOMASK: u16 = 1;
}

impl Devices {
    fn open() -> Self {
        let mut client = Client::generic().ok();
        let mut family = |name| client.as_mut()?.family(name).ok();
        let (netdev, ethtool) = (family("netdev"), family("ethtool"));
        Self { client, netdev, ethtool }
    }

    fn xdp_features(&mut self, ifindex: u32) -> Option<u64> {
        let attributes = vec![DefaultNla::new(netdev::IFINDEX, ifindex.to_ne_bytes().to_vec())];
        let question = Generic { family: self.netdev?, command: netdev::DEV_GET, attributes };
        let answer = self.client.as_mut()?.get(question).ok()?.pop()?;
        Some(u64::from_ne_bytes(answer.attribute(netdev::XDP_FEATURES)?.try_into().ok()?))
    }

    fn offloads(&mut self, ifindex: u32) -> Option<Offloads> {
        let answer = self.ethtool(ethtool::FEATURES_GET, ifindex)?;
        let bits = |kind| answer.attribute(kind).and_then(|bitset| names_in(&bitset));
        let fixed = bits(ethtool::FEATURES_NOCHANGE)?;
        let changeable = bits(ethtool::FEATURES_HW)?.difference(&fixed).cloned().collect();
        Some(Offloads { active: bits(ethtool::FEATURES_ACTIVE)?, changeable })
    }

    fn rx_queues(&mut self, ifindex: u32) -> Option<u32> {
        let answer = self.ethtool(ethtool::CHANNELS_GET, ifindex)?;
        let count = |kind| Some(u32::from_ne_bytes(answer.attribute(kind)?.try_into().ok()?));
        let queues =
            count(ethtool::CHANNELS_RX_COUNT).unwrap_or(0) + count(ethtool::CHANNELS_COMBINED_COUNT).unwrap_or(0);
        (queues > 0).then_some(queues)
    }

    fn ethtool(&mut self, command: u8, ifindex: u32) -> Option<Generic> {
        use rtnetlink::packet_core::{Emitable, NLA_F_NESTED};

        let device = [DefaultNla::new(ethtool::HEADER_DEV_INDEX, ifindex.to_ne_bytes().to_vec())];
        let mut header = vec![0; device.as_slice().buffer_len()];
        device.as_slice().emit(&mut header);
        let attributes = vec![DefaultNla::new(ethtool::HEADER | NLA_F_NESTED, header)];
        let question = Generic { family: self.ethtool?, command, attributes };
        self.client.as_mut()?.get(question).ok()?.pop()
    }
}

/// The names of the bits that are set in an ethtool bitset.
///
/// With a mask, every listed bit says whether it is set; without, the listed bits are those that are set.
fn names_in(bitset: &[u8]) -> Option<BTreeSet<String>> {
    let bitset = parse_attributes(bitset).ok()?;
    let is_list = value_of(&bitset, ethtool::BITSET_NOMASK).is_some();
    let Some(bits) = value_of(&bitset, ethtool::BITSET_BITS) else {
        return Some(BTreeSet::new());
    };
    let mut names = BTreeSet::new();
    for bit in parse_attributes(&bits).ok()? {
        let bit = parse_attributes(&value(&bit)).ok()?;
        if is_list || value_of(&bit, ethtool::BIT_VALUE).is_some() {
            let name = String::from_utf8(value_of(&bit, ethtool::BIT_NAME)?).ok()?;
            names.insert(name.trim_end_matches('\0').to_owned());
        }
    }
    Some(names)
}
