//! Frames written down as what they are: who talks to whom, with which odd header fields.
//!
//! ```
//! use weir_packets::build::Packet;
//!
//! let frame = Packet::tcp("198.51.100.1:40000", "192.0.2.1:80").ttl(1).payload(b"hello").bytes();
//! assert_eq!(frame.len(), 14 + 20 + 20 + 5);
//! ```
//!
//! Headers and checksums are etherparse's; nothing of Weir's own packet code is used. Checksums are right unless
//! [`Packet::transport_checksum`] says otherwise. Building panics where a header cannot hold what was asked for: a
//! broken packet description is a bug of the test. Broken frames are made from right ones with [`altered`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::{
    EtherType, Ethernet2Header, IcmpEchoHeader, Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpAuthHeader,
    IpFragOffset, IpNumber, Ipv4Header, Ipv6FragmentHeader, Ipv6Header, Ipv6RawExtHeader, TcpHeader, UdpHeader,
};

/// A link-layer address.
pub type Mac = [u8; 6];

/// The neighbour that frames come from unless a packet says otherwise.
pub const ROUTER_MAC: Mac = [0x02, 0, 0, 0, 0, 0x01];

/// The device that frames are addressed to unless a packet says otherwise.
pub const WEIR_MAC: Mac = [0x02, 0, 0, 0, 0, 0xfe];

/// What trailing Ethernet padding is filled with: not 0, so that a checksum that covers it is noticed.
pub const PADDING_BYTE: u8 = 0xa5;

/// TCP flags that tests ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "flags are independent of each other")]
pub struct TcpFlags {
    /// Synchronise: opens a connection.
    pub syn: bool,
    /// Acknowledgement.
    pub ack: bool,
    /// Finish: closes one direction.
    pub fin: bool,
    /// Reset.
    pub rst: bool,
}

/// What an IP packet carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP with options (a multiple of 4 bytes, at most 40).
    Tcp(TcpFlags, Vec<u8>),
    /// UDP.
    Udp,
    /// An ICMP echo request of the packet's family.
    Echo,
    /// The payload alone, under this protocol number.
    Other(u8),
}

/// An IPv6 extension header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// Hop-by-hop options (0).
    HopByHop,
    /// Routing (43).
    Routing,
    /// Fragment (44).
    Fragment {
        /// Offset in 8-byte units.
        offset: u16,
        /// Whether fragments follow.
        more: bool,
    },
    /// Authentication header (51).
    Authentication,
    /// Destination options (60).
    DestinationOptions,
}

impl Extension {
    /// The number that names this header in the one before it.
    #[must_use]
    pub const fn number(self) -> IpNumber {
        match self {
            Self::HopByHop => IpNumber::IPV6_HEADER_HOP_BY_HOP,
            Self::Routing => IpNumber::IPV6_ROUTE_HEADER,
            Self::Fragment { .. } => IpNumber::IPV6_FRAGMENTATION_HEADER,
            Self::Authentication => IpNumber::AUTHENTICATION_HEADER,
            Self::DestinationOptions => IpNumber::IPV6_DESTINATION_OPTIONS,
        }
    }

    fn bytes(self, next: IpNumber) -> Vec<u8> {
        // PadN of four bytes fills the six bytes that the shortest header has after its two fixed ones.
        const PAD: [u8; 6] = [1, 4, 0, 0, 0, 0];
        match self {
            Self::HopByHop | Self::Routing | Self::DestinationOptions => {
                Ipv6RawExtHeader::new_raw(next, &PAD).expect("six bytes fit").to_bytes().to_vec()
            }
            Self::Fragment { offset, more } => {
                Ipv6FragmentHeader::new(next, fragment_offset(offset), more, 0x0102_0304).to_bytes().to_vec()
            }
            Self::Authentication => {
                IpAuthHeader::new(next, 1, 1, &[0; 12]).expect("twelve bytes fit").to_bytes().to_vec()
            }
        }
    }
}

/// A frame to be: Ethernet, optional tags, IPv4 or IPv6 by its addresses, a transport and a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    source_mac: Mac,
    destination_mac: Mac,
    tags: Vec<EtherType>,
    source: SocketAddr,
    destination: SocketAddr,
    ttl: u8,
    tos: u8,
    flow_label: u32,
    options: Vec<u8>,
    dont_fragment: bool,
    more_fragments: bool,
    fragment_offset: u16,
    extensions: Vec<Extension>,
    transport: Transport,
    transport_checksum: Option<u16>,
    payload: Vec<u8>,
    padding: usize,
}

impl Packet {
    /// A TCP segment (ACK set) between two "ADDRESS:PORT".
    #[must_use]
    pub fn tcp(source: &str, destination: &str) -> Self {
        let flags = TcpFlags { ack: true, ..TcpFlags::default() };
        Self::between(endpoint(source), endpoint(destination), Transport::Tcp(flags, Vec::new()))
    }

    /// A TCP SYN between two "ADDRESS:PORT".
    #[must_use]
    pub fn syn(source: &str, destination: &str) -> Self {
        Self::tcp(source, destination).flags(TcpFlags { syn: true, ..TcpFlags::default() })
    }

    /// A UDP datagram between two "ADDRESS:PORT".
    #[must_use]
    pub fn udp(source: &str, destination: &str) -> Self {
        Self::between(endpoint(source), endpoint(destination), Transport::Udp)
    }

    /// An echo request between two addresses.
    #[must_use]
    pub fn echo(source: &str, destination: &str) -> Self {
        Self::other(source, destination, Transport::Echo)
    }

    /// A packet without ports between two addresses.
    #[must_use]
    pub fn other(source: &str, destination: &str, transport: Transport) -> Self {
        let bare = |address: &str| SocketAddr::new(address.parse().expect("an IP address"), 0);
        Self::between(bare(source), bare(destination), transport)
    }

    /// A packet between two endpoints of one family; the ports matter to TCP and UDP only.
    #[must_use]
    pub fn between(source: SocketAddr, destination: SocketAddr, transport: Transport) -> Self {
        assert_eq!(source.is_ipv4(), destination.is_ipv4(), "{source} and {destination} are of different families");
        Self {
            source_mac: ROUTER_MAC,
            destination_mac: WEIR_MAC,
            tags: Vec::new(),
            source,
            destination,
            ttl: 64,
            tos: 0,
            flow_label: 0,
            options: Vec::new(),
            dont_fragment: true,
            more_fragments: false,
            fragment_offset: 0,
            extensions: Vec::new(),
            transport,
            transport_checksum: None,
            payload: Vec::new(),
            padding: 0,
        }
    }

    /// Sets the link-layer destination.
    #[must_use]
    pub fn to_mac(self, destination_mac: Mac) -> Self {
        Self { destination_mac, ..self }
    }

    /// Adds a VLAN tag inside the ones already there: 0x8100 for a customer's, 0x88a8 for a provider's.
    #[must_use]
    pub fn tag(mut self, tpid: u16) -> Self {
        self.tags.push(EtherType(tpid));
        self
    }

    /// Sets TTL or hop limit.
    #[must_use]
    pub fn ttl(self, ttl: u8) -> Self {
        Self { ttl, ..self }
    }

    /// Sets type of service or traffic class: DSCP and ECN.
    #[must_use]
    pub fn tos(self, tos: u8) -> Self {
        Self { tos, ..self }
    }

    /// Sets the flow label, 20 bits (IPv6).
    #[must_use]
    pub fn flow_label(self, flow_label: u32) -> Self {
        Self { flow_label, ..self }
    }

    /// Sets the IPv4 options: a multiple of 4 bytes, at most 40.
    #[must_use]
    pub fn options(self, options: &[u8]) -> Self {
        Self { options: options.to_vec(), ..self }
    }

    /// Sets the "don't fragment" bit (IPv4); it is set unless this clears it.
    #[must_use]
    pub fn dont_fragment(self, dont_fragment: bool) -> Self {
        Self { dont_fragment, ..self }
    }

    /// Makes it an IPv4 fragment: `offset` in 8-byte units. Only a fragment at offset 0 has a transport header.
    #[must_use]
    pub fn fragment(self, fragment_offset: u16, more_fragments: bool) -> Self {
        Self { fragment_offset, more_fragments, dont_fragment: false, ..self }
    }

    /// Adds an IPv6 extension header after the ones already there.
    #[must_use]
    pub fn extension(mut self, extension: Extension) -> Self {
        self.extensions.push(extension);
        self
    }

    /// Sets the flags of a TCP segment.
    #[must_use]
    pub fn flags(mut self, flags: TcpFlags) -> Self {
        match &mut self.transport {
            Transport::Tcp(own, _) => *own = flags,
            other => panic!("{other:?} has no flags"),
        }
        self
    }

    /// Sets the options of a TCP segment: a multiple of 4 bytes, at most 40.
    #[must_use]
    pub fn tcp_options(mut self, options: &[u8]) -> Self {
        match &mut self.transport {
            Transport::Tcp(_, own) => *own = options.to_vec(),
            other => panic!("{other:?} has no options"),
        }
        self
    }

    /// Sets the TCP or UDP checksum instead of computing it; 0 is "none" in UDP.
    #[must_use]
    pub fn transport_checksum(self, checksum: u16) -> Self {
        Self { transport_checksum: Some(checksum), ..self }
    }

    /// Sets what the transport carries.
    #[must_use]
    pub fn payload(self, payload: &[u8]) -> Self {
        Self { payload: payload.to_vec(), ..self }
    }

    /// Makes the IP packet `length` bytes long by its payload: all zeros, or one zero byte after another.
    ///
    /// # Panics
    /// If the headers alone are longer.
    #[must_use]
    pub fn ip_length(self, length: usize) -> Self {
        let headers = Self { payload: Vec::new(), padding: 0, ..self.clone() }.bytes().len() - self.link_length();
        assert!(headers <= length, "headers of {headers} bytes are longer than {length}");
        let payload = vec![0; length - headers];
        Self { payload, ..self }
    }

    /// Adds Ethernet padding: bytes in the frame after the end of the IP packet.
    #[must_use]
    pub fn padding(self, padding: usize) -> Self {
        Self { padding, ..self }
    }

    /// The frame.
    ///
    /// # Panics
    /// If a field does not fit its header, or belongs to the other address family.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let transport = if self.fragment_offset == 0 { self.transport_bytes() } else { self.payload.clone() };
        let mut frame = self.link_header();
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => frame.extend(self.v4(source, destination, &transport)),
            (IpAddr::V6(source), IpAddr::V6(destination)) => frame.extend(self.v6(source, destination, &transport)),
            _ => unreachable!("checked when the packet was described"),
        }
        frame.resize(frame.len() + self.padding, PADDING_BYTE);
        frame
    }

    const fn link_length(&self) -> usize {
        Ethernet2Header::LEN + 4 * self.tags.len()
    }

    fn link_header(&self) -> Vec<u8> {
        let network = if self.source.is_ipv4() { EtherType::IPV4 } else { EtherType::IPV6 };
        let mut types = self.tags.iter().copied().chain([network]);
        let ether_type = types.next().unwrap_or(network);
        let mut header = Ethernet2Header { source: self.source_mac, destination: self.destination_mac, ether_type }
            .to_bytes()
            .to_vec();
        for (vlan, ether_type) in (100_u16..).zip(types) {
            header.extend(vlan.to_be_bytes());
            header.extend(ether_type.0.to_be_bytes());
        }
        header
    }

    fn v4(&self, source: Ipv4Addr, destination: Ipv4Addr, transport: &[u8]) -> Vec<u8> {
        assert!(self.extensions.is_empty() && self.flow_label == 0, "IPv4 has no extension headers and flow labels");
        let mut header = Ipv4Header {
            dscp: (self.tos >> 2).try_into().expect("six bits"),
            ecn: (self.tos & 3).try_into().expect("two bits"),
            identification: 0x1d1d,
            dont_fragment: self.dont_fragment,
            more_fragments: self.more_fragments,
            fragment_offset: fragment_offset(self.fragment_offset),
            time_to_live: self.ttl,
            protocol: self.protocol(),
            source: source.octets(),
            destination: destination.octets(),
            options: self.options.as_slice().try_into().expect("IPv4 options fit"),
            ..Ipv4Header::default()
        };
        header.set_payload_len(transport.len()).expect("an IPv4 packet's length fits");
        header.header_checksum = header.calc_header_checksum();
        [&header.to_bytes(), transport].concat()
    }

    fn v6(&self, source: Ipv6Addr, destination: Ipv6Addr, transport: &[u8]) -> Vec<u8> {
        let v4_only = !self.options.is_empty() || self.more_fragments || self.fragment_offset != 0;
        assert!(!v4_only, "IPv6 has no options, and fragments are an extension header");
        let numbers: Vec<IpNumber> =
            self.extensions.iter().map(|extension| extension.number()).chain([self.protocol()]).collect();
        let extensions: Vec<u8> =
            self.extensions.iter().zip(&numbers[1..]).flat_map(|(extension, next)| extension.bytes(*next)).collect();
        let mut header = Ipv6Header {
            traffic_class: self.tos,
            flow_label: self.flow_label.try_into().expect("twenty bits"),
            next_header: numbers[0],
            hop_limit: self.ttl,
            source: source.octets(),
            destination: destination.octets(),
            ..Ipv6Header::default()
        };
        header.set_payload_length(extensions.len() + transport.len()).expect("an IPv6 packet's length fits");
        [&header.to_bytes(), extensions.as_slice(), transport].concat()
    }

    fn protocol(&self) -> IpNumber {
        match self.transport {
            Transport::Tcp(..) => IpNumber::TCP,
            Transport::Udp => IpNumber::UDP,
            Transport::Echo if self.source.is_ipv4() => IpNumber::ICMP,
            Transport::Echo => IpNumber::IPV6_ICMP,
            Transport::Other(number) => IpNumber(number),
        }
    }

    fn transport_bytes(&self) -> Vec<u8> {
        let header = match &self.transport {
            Transport::Tcp(flags, options) => self.tcp_header(*flags, options),
            Transport::Udp => self.udp_header(),
            Transport::Echo => self.echo_header(),
            Transport::Other(_) => Vec::new(),
        };
        [header, self.payload.clone()].concat()
    }

    fn tcp_header(&self, flags: TcpFlags, options: &[u8]) -> Vec<u8> {
        let mut header = TcpHeader::new(self.source.port(), self.destination.port(), 0x0a0b_0c0d, 0x7210);
        (header.syn, header.ack, header.fin, header.rst) = (flags.syn, flags.ack, flags.fin, flags.rst);
        header.set_options_raw(options).expect("TCP options fit");
        let computed = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                header.calc_checksum_ipv4_raw(source.octets(), destination.octets(), &self.payload)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                header.calc_checksum_ipv6_raw(source.octets(), destination.octets(), &self.payload)
            }
            _ => unreachable!("checked when the packet was described"),
        };
        header.checksum = self.transport_checksum.unwrap_or_else(|| computed.expect("a TCP segment's length fits"));
        header.to_bytes().to_vec()
    }

    fn udp_header(&self) -> Vec<u8> {
        let mut header =
            UdpHeader::without_ipv4_checksum(self.source.port(), self.destination.port(), self.payload.len())
                .expect("a UDP datagram's length fits");
        let computed = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                header.calc_checksum_ipv4_raw(source.octets(), destination.octets(), &self.payload)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                header.calc_checksum_ipv6_raw(source.octets(), destination.octets(), &self.payload)
            }
            _ => unreachable!("checked when the packet was described"),
        };
        header.checksum = self.transport_checksum.unwrap_or_else(|| computed.expect("a UDP datagram's length fits"));
        header.to_bytes().to_vec()
    }

    fn echo_header(&self) -> Vec<u8> {
        let echo = IcmpEchoHeader { id: 7, seq: 1 };
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let echo = Icmpv6Type::EchoRequest(echo);
                Icmpv6Header::with_checksum(echo, source.octets(), destination.octets(), &self.payload)
                    .expect("an ICMPv6 message's length fits")
                    .to_bytes()
                    .to_vec()
            }
            _ => Icmpv4Header::with_checksum(Icmpv4Type::EchoRequest(echo), &self.payload).to_bytes().to_vec(),
        }
    }
}

/// `frame` after `change`: how broken frames are made from right ones.
#[must_use]
pub fn altered(mut frame: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    change(&mut frame);
    frame
}

fn endpoint(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|_| panic!("{text} is not ADDRESS:PORT"))
}

fn fragment_offset(units: u16) -> IpFragOffset {
    units.try_into().expect("thirteen bits")
}
