//! rtnetlink messages to the types of [`super::view`].

use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_route::{
    AddressFamily,
    link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage},
    route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteNextHopFlags, RouteType, RouteVia},
};

use super::view::{Hop, Link, Neighbour, Route, Table, Target};

/// Table ids of rtnetlink (`RT_TABLE_*`).
const TABLE_MAIN: u32 = 254;
const TABLE_LOCAL: u32 = 255;

/// The interface that a message is about.
///
/// `None` for the messages of a bridge about its ports, which use the same message types: there, "deleted" means
/// that the port left its bridge.
pub(super) fn link(message: &LinkMessage) -> Option<Link> {
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let (mut name, mut address, mut mtu) = (String::new(), None, 0);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(value) => name.clone_from(value),
            LinkAttribute::Address(value) => address = <[u8; 6]>::try_from(value.as_slice()).ok(),
            LinkAttribute::Mtu(value) => mtu = *value,
            _ => {}
        }
    }
    Some(Link {
        index: message.header.index,
        name,
        mac: address.filter(|_| message.header.link_layer_type == LinkLayerType::Ether),
        mtu,
        up: message.header.flags.contains(LinkFlags::Up | LinkFlags::Running),
    })
}

/// The IP neighbour that a message is about; `None` for bridge forwarding entries and proxies.
pub(super) fn neighbour(message: &NeighbourMessage) -> Option<(u32, IpAddr, Neighbour)> {
    if message.header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(value)) => address = Some(IpAddr::V4(*value)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(value)) => address = Some(IpAddr::V6(*value)),
            NeighbourAttribute::LinkLayerAddress(value) => mac = <[u8; 6]>::try_from(value.as_slice()).ok(),
            _ => {}
        }
    }
    Some((message.header.ifindex, address?, Neighbour { mac, state: message.header.state }))
}

/// The route that a message is about.
///
/// `None` for what the look-up of an ordinary packet does not see: other tables, cached exceptions, dead
/// routes, routes for a type of service or from a source prefix, multicast.
pub(super) fn route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    let unusable = RouteFlags::Cloned | RouteFlags::Dead;
    if header.tos != 0 || header.source_prefix_length != 0 || header.flags.intersects(unusable) {
        return None;
    }
    let mut read = RouteParts::default();
    for attribute in &message.attributes {
        read.take(attribute);
    }
    let table = match read.table.unwrap_or_else(|| u32::from(header.table)) {
        TABLE_LOCAL => Table::Local,
        TABLE_MAIN => Table::Main,
        _ => return None,
    };
    let any = match header.address_family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        AddressFamily::Inet6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    let prefix = IpNet::new(read.destination.unwrap_or(any), header.destination_prefix_length).ok()?;
    let metric = read.metric;
    let target = match (table, header.kind) {
        (Table::Local, _) | (_, RouteType::Local) => Target::Local,
        (_, RouteType::Unicast) => Target::Hops(read.hops()),
        (_, RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit | RouteType::Throw) => Target::Refused,
        _ => return None,
    };
    Some(Route { table, prefix: prefix.trunc(), metric, target })
}

/// The attributes of a route or of one of its multipath hops.
#[derive(Default)]
struct RouteParts {
    table: Option<u32>,
    destination: Option<IpAddr>,
    metric: u32,
    ifindex: Option<u32>,
    gateway: Option<IpAddr>,
    encapsulated: bool,
    multipath: Vec<Hop>,
}

impl RouteParts {
    fn take(&mut self, attribute: &RouteAttribute) {
        match attribute {
            RouteAttribute::Table(value) => self.table = Some(*value),
            RouteAttribute::Destination(value) => self.destination = ip(value),
            RouteAttribute::Priority(value) => self.metric = *value,
            RouteAttribute::Oif(value) => self.ifindex = Some(*value),
            RouteAttribute::Gateway(value) => self.gateway = ip(value),
            RouteAttribute::Via(RouteVia::Inet(value)) => self.gateway = Some(IpAddr::V4(*value)),
            RouteAttribute::Via(RouteVia::Inet6(value)) => self.gateway = Some(IpAddr::V6(*value)),
            RouteAttribute::Encap(_) | RouteAttribute::EncapType(_) => self.encapsulated = true,
            RouteAttribute::MultiPath(hops) => {
                for hop in hops.iter().filter(|hop| !hop.flags.contains(RouteNextHopFlags::Dead)) {
                    let mut parts = Self { ifindex: Some(hop.interface_index), ..Self::default() };
                    for attribute in &hop.attributes {
                        parts.take(attribute);
                    }
                    self.multipath.extend(parts.hop());
                }
            }
            _ => {}
        }
    }

    fn hop(&self) -> Option<Hop> {
        Some(Hop { ifindex: self.ifindex?, gateway: self.gateway, encapsulated: self.encapsulated })
    }

    fn hops(self) -> Vec<Hop> {
        if self.multipath.is_empty() { self.hop().into_iter().collect() } else { self.multipath }
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(value) => Some(IpAddr::V4(*value)),
        RouteAddress::Inet6(value) => Some(IpAddr::V6(*value)),
        _ => None,
    }
}
