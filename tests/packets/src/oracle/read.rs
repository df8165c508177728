//! What the oracle sees in a frame.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    EtherType, Ethernet2HeaderSlice, IpNumber, Ipv4HeaderSlice, Ipv6HeaderSlice, TcpSlice, UdpHeaderSlice,
};
use lb_common::reason::Reason;

/// What a frame is to Weir before any table is asked.
pub(super) enum Seen {
    /// Nothing that Weir handles.
    Foreign(Reason),
    /// An IP packet whose ports can't be read where they usually are.
    Obstructed { destination: IpAddr, reason: Reason },
    /// A TCP or UDP packet.
    Flow(Flow),
}

/// A TCP or UDP packet.
pub(super) struct Flow {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub protocol: u8,
    pub ttl: u8,
    /// Header and payload, bytes.
    pub length: usize,
    /// A TCP SYN without ACK.
    pub opens: bool,
    /// A TCP RST.
    pub resets: bool,
}

/// What both IP headers say.
struct Ip<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: IpNumber,
    ttl: u8,
    length: usize,
    obstacle: Option<Reason>,
    payload: &'a [u8],
}

pub(super) fn read(frame: &[u8]) -> Seen {
    let Ok(ethernet) = Ethernet2HeaderSlice::from_slice(frame) else {
        return Seen::Foreign(Reason::Malformed);
    };
    if ethernet.destination()[0] & 1 != 0 {
        return Seen::Foreign(Reason::NotUnicast);
    }
    let packet = &frame[ethernet.slice().len()..];
    let ip = match ethernet.ether_type() {
        EtherType::IPV4 => read_v4(packet),
        EtherType::IPV6 => read_v6(packet),
        EtherType::VLAN_TAGGED_FRAME | EtherType::PROVIDER_BRIDGING => return Seen::Foreign(Reason::Tagged),
        _ => return Seen::Foreign(Reason::NotIp),
    };
    ip.map_or(Seen::Foreign(Reason::Malformed), |ip| read_transport(&ip))
}

fn read_v4(packet: &[u8]) -> Option<Ip<'_>> {
    let header = Ipv4HeaderSlice::from_slice(packet).ok()?;
    let length = usize::from(header.total_len());
    Some(Ip {
        source: header.source_addr().into(),
        destination: header.destination_addr().into(),
        protocol: header.protocol(),
        ttl: header.ttl(),
        length,
        obstacle: header.is_fragmenting_payload().then_some(Reason::Fragment),
        payload: packet.get(header.slice().len()..length)?,
    })
}

fn read_v6(packet: &[u8]) -> Option<Ip<'_>> {
    let header = Ipv6HeaderSlice::from_slice(packet).ok()?;
    let length = header.slice().len() + usize::from(header.payload_length());
    let obstacle = match header.next_header() {
        IpNumber::IPV6_FRAGMENTATION_HEADER => Some(Reason::Fragment),
        IpNumber::IPV6_HEADER_HOP_BY_HOP
        | IpNumber::IPV6_ROUTE_HEADER
        | IpNumber::AUTHENTICATION_HEADER
        | IpNumber::IPV6_DESTINATION_OPTIONS
        | IpNumber::MOBILITY_HEADER
        | IpNumber::HIP
        | IpNumber::SHIM6 => Some(Reason::ExtensionHeader),
        _ => None,
    };
    Some(Ip {
        source: header.source_addr().into(),
        destination: header.destination_addr().into(),
        protocol: header.next_header(),
        ttl: header.hop_limit(),
        length,
        obstacle,
        payload: packet.get(header.slice().len()..length)?,
    })
}

fn read_transport(ip: &Ip<'_>) -> Seen {
    if let Some(reason) = ip.obstacle {
        return Seen::Obstructed { destination: ip.destination, reason };
    }
    let ports = match ip.protocol {
        IpNumber::TCP => TcpSlice::from_slice(ip.payload).ok().map(|header| {
            (header.source_port(), header.destination_port(), header.syn() && !header.ack(), header.rst())
        }),
        IpNumber::UDP => UdpHeaderSlice::from_slice(ip.payload)
            .ok()
            .map(|header| (header.source_port(), header.destination_port(), false, false)),
        _ => return Seen::Foreign(Reason::OtherProtocol),
    };
    let Some((source, destination, opens, resets)) = ports else {
        return Seen::Foreign(Reason::Malformed);
    };
    Seen::Flow(Flow {
        source: SocketAddr::new(ip.source, source),
        destination: SocketAddr::new(ip.destination, destination),
        protocol: ip.protocol.0,
        ttl: ip.ttl,
        length: ip.length,
        opens,
        resets,
    })
}
