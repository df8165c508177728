//! Header layouts, as byte arrays in network order, alignment 1.
//!
//! Sources: IEEE 802.3, RFC 791 (IPv4), RFC 8200 (IPv6), RFC 9293 (TCP), RFC 768 (UDP).

use bytemuck::{Pod, Zeroable};

/// Values of [`Ethernet::ethertype`].
pub mod ethertype {
    /// IPv4.
    pub const IPV4: [u8; 2] = [0x08, 0x00];
    /// IPv6.
    pub const IPV6: [u8; 2] = [0x86, 0xdd];
    /// IEEE 802.1Q tag.
    pub const VLAN: [u8; 2] = [0x81, 0x00];
    /// IEEE 802.1ad outer tag.
    pub const QINQ: [u8; 2] = [0x88, 0xa8];
}

/// IP protocol numbers of tunnels and of the IPv6 extension headers (RFC 8200, RFC 4302, RFC 5201, RFC 5533).
pub mod next_header {
    /// IPv4 in IP.
    pub const IPV4: u8 = 4;
    /// IPv6 in IP.
    pub const IPV6: u8 = 41;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// Whether `value` announces an IPv6 extension header other than [`FRAGMENT`], behind which the transport header is.
    #[must_use]
    #[inline(always)]
    pub const fn is_extension(value: u8) -> bool {
        matches!(value, 0 | 43 | 51 | 60 | 135 | 139 | 140)
    }
}

/// Ethernet header.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Ethernet {
    /// Destination address.
    pub destination: [u8; 6],
    /// Source address.
    pub source: [u8; 6],
    /// One of [`ethertype`].
    pub ethertype: [u8; 2],
}

/// IPv4 header without options.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Ipv4 {
    /// Version (4) and header length in 32-bit words.
    pub version_ihl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Header and payload, bytes.
    pub total_length: [u8; 2],
    /// Identification.
    pub id: [u8; 2],
    /// Flags (3 bits) and fragment offset (13 bits, in 8 bytes).
    pub fragment: [u8; 2],
    /// Time to live.
    pub ttl: u8,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Header checksum.
    pub checksum: [u8; 2],
    /// Source address.
    pub source: [u8; 4],
    /// Destination address.
    pub destination: [u8; 4],
}

/// IPv6 header.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Ipv6 {
    /// Version (4 bits), traffic class (8 bits), flow label (20 bits).
    pub version_class_label: [u8; 4],
    /// What follows this header, bytes.
    pub payload_length: [u8; 2],
    /// Protocol of what follows.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub source: [u8; 16],
    /// Destination address.
    pub destination: [u8; 16],
}

/// TCP header without options.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Tcp {
    /// Source port.
    pub source: [u8; 2],
    /// Destination port.
    pub destination: [u8; 2],
    /// Sequence number.
    pub sequence: [u8; 4],
    /// Acknowledgement number.
    pub acknowledgement: [u8; 4],
    /// Header length in 32-bit words (high 4 bits).
    pub data_offset: u8,
    /// FIN, SYN, RST, PSH, ACK, URG, ECE, CWR from bit 0 up.
    pub flags: u8,
    /// Window.
    pub window: [u8; 2],
    /// Checksum.
    pub checksum: [u8; 2],
    /// Urgent pointer.
    pub urgent: [u8; 2],
}

/// Bits of [`Tcp::flags`].
pub mod tcp_flags {
    /// The sender has no more to send.
    pub const FIN: u8 = 0x01;
    /// Opens a connection.
    pub const SYN: u8 = 0x02;
    /// There is no such connection, or no longer.
    pub const RST: u8 = 0x04;
    /// The acknowledgement number is valid.
    pub const ACK: u8 = 0x10;
}

/// UDP header.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Udp {
    /// Source port.
    pub source: [u8; 2],
    /// Destination port.
    pub destination: [u8; 2],
    /// Header and payload, bytes.
    pub length: [u8; 2],
    /// Checksum; 0 is "none" over IPv4.
    pub checksum: [u8; 2],
}

/// Bytes of an Ethernet header: where IP starts.
pub const ETHERNET_LEN: usize = 14;

/// Bytes of an IPv4 header without options.
pub const IPV4_LEN: u8 = 20;

/// Bytes of an IPv6 header without extension headers.
pub const IPV6_LEN: u8 = 40;

/// Bytes of a TCP header without options.
pub const TCP_LEN: u8 = 20;

const _: () = {
    assert!(size_of::<Ethernet>() == ETHERNET_LEN);
    assert!(size_of::<Ipv4>() == IPV4_LEN as usize);
    assert!(size_of::<Ipv6>() == IPV6_LEN as usize);
    assert!(size_of::<Tcp>() == TCP_LEN as usize);
    assert!(size_of::<Udp>() == 8);
};
