//! The bytes that the oracle expects.
//!
//! Checksums are computed in full over the bytes before and after. Weir does not verify checksums, and a wrong one must
//! stay exactly as wrong as it came, so that the receiver finds out: what is expected is the full checksum of the new
//! bytes plus the error that the old one had, which is nothing in a right packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::{EtherType, Ethernet2Header, IpNumber, Ipv4Header, Ipv6Header, TcpHeader, checksum::Sum16BitWords};
use ipnet::IpNet;

use crate::build::Mac;

/// Where the IP header starts, bytes into the frame.
const IP: usize = Ethernet2Header::LEN;

/// Link-layer addresses of a frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub source: Mac,
    pub destination: Mac,
}

/// An end of a flow.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    Source,
    Destination,
}

/// How a frame has to change. All but `None` and `Reset` also take one off the TTL.
#[derive(Clone, Debug)]
pub(super) enum Change {
    None,
    Link(Link),
    Encapsulate {
        link: Link,
        network: IpNet,
        destination: IpAddr,
    },
    Translate {
        link: Link,
        end: End,
        to: SocketAddr,
    },
    /// Into the RST that answers it.
    Reset,
}

impl Change {
    /// `input` after this change; flow entropy is `actual`'s.
    pub(super) fn apply(&self, input: &[u8], actual: &[u8]) -> Vec<u8> {
        let mut frame = input.to_vec();
        match *self {
            Self::None => {}
            Self::Reset => frame = reset(&frame),
            Self::Link(link) => {
                decrement_ttl(&mut frame);
                set_link(&mut frame, link);
            }
            Self::Encapsulate { link, network, destination } => {
                decrement_ttl(&mut frame);
                frame = encapsulate(&frame, network, destination, actual);
                set_link(&mut frame, link);
            }
            Self::Translate { link, end, to } => {
                decrement_ttl(&mut frame);
                translate(&mut frame, end, to);
                set_link(&mut frame, link);
            }
        }
        frame
    }
}

fn set_link(frame: &mut [u8], link: Link) {
    frame[..6].copy_from_slice(&link.destination);
    frame[6..12].copy_from_slice(&link.source);
}

fn is_v4(frame: &[u8]) -> bool {
    frame[IP] >> 4 == 4
}

fn decrement_ttl(frame: &mut [u8]) {
    let before = frame.to_vec();
    frame[IP + if is_v4(&before) { 8 } else { 7 }] -= 1;
    mend_v4_header(&before, frame);
}

fn translate(frame: &mut [u8], end: End, to: SocketAddr) {
    let before = frame.to_vec();
    let address = match (is_v4(frame), end) {
        (true, End::Source) => IP + 12,
        (true, End::Destination) => IP + 16,
        (false, End::Source) => IP + 8,
        (false, End::Destination) => IP + 24,
    };
    let port = transport_offset(frame) + if matches!(end, End::Source) { 0 } else { 2 };
    match to.ip() {
        IpAddr::V4(new) => frame[address..address + 4].copy_from_slice(&new.octets()),
        IpAddr::V6(new) => frame[address..address + 16].copy_from_slice(&new.octets()),
    }
    frame[port..port + 2].copy_from_slice(&to.port().to_be_bytes());
    mend_v4_header(&before, frame);
    mend_transport(&before, frame);
}

fn encapsulate(inner: &[u8], network: IpNet, destination: IpAddr, actual: &[u8]) -> Vec<u8> {
    let (protocol, class) = if is_v4(inner) {
        (IpNumber::IPV4, inner[IP + 1])
    } else {
        (IpNumber::IPV6, inner[IP] << 4 | inner[IP + 1] >> 4)
    };
    let length = ip_end(inner) - IP;
    let (ether_type, header) = match (network, destination) {
        (IpNet::V4(network), IpAddr::V4(destination)) => {
            let entropy = Ipv4Addr::from(field::<4>(actual, IP + 12)) & network.hostmask();
            let source = network.network() | entropy;
            (EtherType::IPV4, outer_v4(protocol, class, length, source, destination))
        }
        (IpNet::V6(network), IpAddr::V6(destination)) => {
            let entropy = Ipv6Addr::from(field::<16>(actual, IP + 8)) & network.hostmask();
            let label = u32::from_be_bytes(field(actual, IP)) & 0xf_ffff;
            let source = network.network() | entropy;
            (EtherType::IPV6, outer_v6(protocol, class, label, length, source, destination))
        }
        _ => unreachable!("the network is of the backend's family"),
    };
    let link = &inner[..IP - 2];
    [link, &ether_type.0.to_be_bytes(), &header, &inner[IP..]].concat()
}

fn outer_v4(protocol: IpNumber, class: u8, length: usize, source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
    let mut header = Ipv4Header {
        dscp: (class >> 2).try_into().expect("six bits"),
        ecn: (class & 3).try_into().expect("two bits"),
        identification: 0,
        dont_fragment: true,
        time_to_live: 64,
        protocol,
        source: source.octets(),
        destination: destination.octets(),
        ..Ipv4Header::default()
    };
    header.set_payload_len(length).expect("it fits the MTU");
    header.header_checksum = header.calc_header_checksum();
    header.to_bytes().to_vec()
}

fn outer_v6(
    protocol: IpNumber,
    class: u8,
    label: u32,
    length: usize,
    source: Ipv6Addr,
    destination: Ipv6Addr,
) -> Vec<u8> {
    let mut header = Ipv6Header {
        traffic_class: class,
        flow_label: label.try_into().expect("twenty bits"),
        next_header: protocol,
        hop_limit: 64,
        source: source.octets(),
        destination: destination.octets(),
        ..Ipv6Header::default()
    };
    header.set_payload_length(length).expect("it fits the MTU");
    header.to_bytes().to_vec()
}

/// The RST that answers `received`, which is a TCP segment without RST (RFC 9293, section 3.10.7.1).
fn reset(received: &[u8]) -> Vec<u8> {
    let segment = &received[transport_offset(received)..ip_end(received)];
    let (asked, data) = TcpHeader::from_slice(segment).expect("a TCP segment");
    let mut answer = TcpHeader::new(asked.destination_port, asked.source_port, asked.acknowledgment_number, 0);
    answer.rst = true;
    if !asked.ack {
        let length = data.len() + usize::from(asked.syn) + usize::from(asked.fin);
        let length = u32::try_from(length).expect("a segment's length");
        answer.sequence_number = 0;
        answer.acknowledgment_number = asked.sequence_number.wrapping_add(length);
        answer.ack = true;
    }
    let ip = if is_v4(received) {
        let (source, destination) = (field(received, IP + 16), field(received, IP + 12));
        let mut ip = Ipv4Header { source, destination, ..Ipv4Header::default() };
        (ip.identification, ip.dont_fragment, ip.time_to_live, ip.protocol) = (0, true, 64, IpNumber::TCP);
        ip.set_payload_len(answer.header_len()).expect("it is short");
        ip.header_checksum = ip.calc_header_checksum();
        answer.checksum = answer.calc_checksum_ipv4(&ip, &[]).expect("it is short");
        ip.to_bytes().to_vec()
    } else {
        let (source, destination) = (field(received, IP + 24), field(received, IP + 8));
        let mut ip = Ipv6Header { source, destination, ..Ipv6Header::default() };
        (ip.hop_limit, ip.next_header) = (64, IpNumber::TCP);
        ip.set_payload_length(answer.header_len()).expect("it is short");
        answer.checksum = answer.calc_checksum_ipv6(&ip, &[]).expect("it is short");
        ip.to_bytes().to_vec()
    };
    [&received[6..12], &received[..6], &received[12..IP], &ip, &answer.to_bytes()].concat()
}

/// `N` bytes of `frame` at `offset`; zeros if they are not there.
fn field<const N: usize>(frame: &[u8], offset: usize) -> [u8; N] {
    frame.get(offset..offset + N).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; N])
}

fn number(frame: &[u8], offset: usize) -> u16 {
    u16::from_be_bytes(field(frame, offset))
}

fn transport_offset(frame: &[u8]) -> usize {
    IP + if is_v4(frame) { usize::from(frame[IP] & 0x0f) * 4 } else { Ipv6Header::LEN }
}

/// Where the IP packet ends: what follows is padding.
fn ip_end(frame: &[u8]) -> usize {
    IP + if is_v4(frame) {
        usize::from(number(frame, IP + 2))
    } else {
        Ipv6Header::LEN + usize::from(number(frame, IP + 4))
    }
}

fn mend_v4_header(before: &[u8], after: &mut [u8]) {
    if is_v4(before) {
        let full = |frame: &[u8]| zeroed(&frame[IP..transport_offset(frame)], 10, Sum16BitWords::new());
        let checksum = with_old_error(full(before), number(before, IP + 10), full(after));
        after[IP + 10..IP + 12].copy_from_slice(&checksum.to_be_bytes());
    }
}

fn mend_transport(before: &[u8], after: &mut [u8]) {
    let is_udp = protocol(before) == IpNumber::UDP;
    let in_header = if is_udp { 6 } else { 16 };
    let offset = transport_offset(before) + in_header;
    let old = number(before, offset);
    if is_udp && old == 0 {
        return;
    }
    let full = |frame: &[u8]| zeroed(&frame[transport_offset(frame)..ip_end(frame)], in_header, pseudo_header(frame));
    let checksum = match with_old_error(full(before), old, full(after)) {
        0 if is_udp => u16::MAX,
        checksum => checksum,
    };
    after[offset..offset + 2].copy_from_slice(&checksum.to_be_bytes());
}

fn protocol(frame: &[u8]) -> IpNumber {
    IpNumber(frame[IP + if is_v4(frame) { 9 } else { 6 }])
}

fn pseudo_header(frame: &[u8]) -> Sum16BitWords {
    let addresses = if is_v4(frame) { IP + 12..IP + 20 } else { IP + 8..IP + 40 };
    let length = u16::try_from(ip_end(frame) - transport_offset(frame)).expect("an IP packet's length");
    Sum16BitWords::new()
        .add_slice(&frame[addresses])
        .add_2bytes([0, protocol(frame).0])
        .add_2bytes(length.to_be_bytes())
}

/// The full checksum of `bytes`, whose checksum field is at `field`, on top of `sum`.
fn zeroed(bytes: &[u8], field: usize, sum: Sum16BitWords) -> u16 {
    sum.add_slice(&bytes[..field]).add_slice(&bytes[field + 2..]).ones_complement().to_be()
}

/// The checksum `full_after` plus the error of `old`, which should have been `full_before`; modulo 65,535, as ones'
/// complement sums are.
fn with_old_error(full_before: u16, old: u16, full_after: u16) -> u16 {
    let sum = u32::from(full_after) + u32::from(old) + 0xffff - u32::from(full_before);
    u16::try_from(sum % 0xffff).expect("less than 65,535")
}
