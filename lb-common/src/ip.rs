//! What the packet path needs of an IP header, once for both families.

use crate::{
    abi::{EndpointV4, EndpointV6, FlowEntry, FlowKeyV4, FlowKeyV6, NextHop, Reverse},
    checksum::Difference,
    frame::Frame,
    hash,
    pipeline::Ports,
    reason::Reason,
    reset,
    tables::Tables,
    wire::{ETHERNET_LEN, Ethernet, IPV6_LEN, Ipv4, Ipv6, Tcp, next_header},
};

/// Bits of the IPv4 fragment field: more fragments follow, and where this one starts.
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// The ECN field of the traffic class, and its value "congestion experienced" (RFC 3168).
pub(crate) const ECN_CONGESTION: u8 = 0b11;

/// What was read from an IP header.
#[derive(Clone, Copy)]
pub(crate) struct Packet<A> {
    pub source: A,
    pub destination: A,
    pub protocol: u8,
    pub ttl: u8,
    /// DSCP and ECN.
    pub class: u8,
    /// Header and payload, bytes; at most what the frame holds.
    pub length: u32,
    /// Where the transport header starts, bytes into the frame.
    pub transport: usize,
    /// Why the transport header can't be used although the IP header is sound.
    pub obstacle: Option<Reason>,
}

impl<A> Packet<A> {
    /// Bytes of the IP header, options included.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "at most 60")]
    pub(crate) const fn header_length(&self) -> u32 {
        self.transport.wrapping_sub(ETHERNET_LEN) as u32
    }

    /// Bytes behind the IP header.
    #[inline(always)]
    pub(crate) const fn payload_length(&self) -> u32 {
        self.length.wrapping_sub(self.header_length())
    }
}

/// An address family.
pub(crate) trait Ip {
    type Address: Copy;
    type FlowKey: Copy;
    /// Protocol number of this family inside an outer IP header.
    const NEXT_HEADER: u8;

    /// Reads the IP header `start` bytes into the frame; `None` if it is malformed or the frame ends before the packet.
    fn read<F: Frame>(frame: &F, start: usize) -> Option<Packet<Self::Address>>;
    /// Sets the ECN field of the header `start` bytes into the frame to "congestion experienced".
    fn mark_congestion<F: Frame>(frame: &mut F, start: usize) -> Option<()>;
    /// Decrements the TTL or hop limit, which is above 1. `None` if the header is not there.
    fn decrement_ttl<F: Frame>(frame: &mut F) -> Option<()>;
    /// Replaces the source and returns the checksum difference this makes to the transport header.
    fn set_source<F: Frame>(frame: &mut F, new: Self::Address) -> Option<Difference>;
    /// Replaces the destination and returns the checksum difference this makes to the transport header.
    fn set_destination<F: Frame>(frame: &mut F, new: Self::Address) -> Option<Difference>;

    /// The address from a map value, where IPv4 takes the first four bytes.
    fn address(bytes: &[u8; 16]) -> Self::Address;
    /// The flow hash over the 5-tuple.
    fn flow_hash(seed: [u64; 2], flow: &Self::FlowKey) -> u64;
    /// The flow hash over the source address alone.
    fn source_hash(seed: [u64; 2], source: Self::Address) -> u64;
    /// The flow from `source` to `destination`.
    fn flow_key(source: Self::Address, destination: Self::Address, ports: Ports, protocol: u8) -> Self::FlowKey;
    /// Leaves nothing of the frame but an RST from `packet`'s destination to its source.
    fn put_reset<F: Frame>(frame: &mut F, ethernet: Ethernet, packet: &Packet<Self::Address>, tcp: Tcp) -> Option<()>;

    fn service<T: Tables>(tables: &T, address: Self::Address, port: [u8; 2], protocol: u8) -> Option<T::Service>;
    fn is_vip<T: Tables>(tables: &T, address: Self::Address) -> bool;
    fn reverse<T: Tables>(tables: &T, address: Self::Address, port: [u8; 2], protocol: u8) -> Option<Reverse>;
    fn route<T: Tables>(tables: &T, address: Self::Address) -> Option<NextHop>;
    fn want_neighbour<T: Tables>(tables: &T, address: Self::Address);
    fn flow<'t, T: Tables>(tables: &'t T, key: &Self::FlowKey, hash: u32) -> Option<T::Entry<'t>>;
    fn insert_flow<T: Tables>(tables: &T, key: &Self::FlowKey, hash: u32, entry: &FlowEntry) -> bool;
}

/// IPv4.
pub(crate) enum V4 {}

/// IPv6.
pub(crate) enum V6 {}

impl Ip for V4 {
    type Address = [u8; 4];
    type FlowKey = FlowKeyV4;
    const NEXT_HEADER: u8 = next_header::IPV4;

    #[inline(always)]
    fn read<F: Frame>(frame: &F, start: usize) -> Option<Packet<[u8; 4]>> {
        let header = frame.at::<Ipv4>(start)?;
        let header_length = usize::from(header.version_ihl & 0x0f) * 4;
        let length = u32::from(u16::from_be_bytes(header.total_length));
        if header.version_ihl >> 4 != 4 || header_length < size_of::<Ipv4>() || (length as usize) < header_length {
            return None;
        }
        let fragment = u16::from_be_bytes(header.fragment);
        let obstacle = if fragment & (MORE_FRAGMENTS | FRAGMENT_OFFSET) == 0 { None } else { Some(Reason::Fragment) };
        let packet = Packet {
            source: header.source,
            destination: header.destination,
            protocol: header.protocol,
            ttl: header.ttl,
            class: header.tos,
            length,
            transport: start + header_length,
            obstacle,
        };
        frame.holds(start + length as usize).then_some(packet)
    }

    #[inline(always)]
    fn mark_congestion<F: Frame>(frame: &mut F, start: usize) -> Option<()> {
        let header = frame.at_mut::<Ipv4>(start)?;
        let old = [header.version_ihl, header.tos];
        header.tos |= ECN_CONGESTION;
        header.checksum = Difference::NONE.replace(old, [header.version_ihl, header.tos]).apply(header.checksum);
        Some(())
    }

    #[inline(always)]
    fn decrement_ttl<F: Frame>(frame: &mut F) -> Option<()> {
        let header = frame.at_mut::<Ipv4>(ETHERNET_LEN)?;
        let old = [header.ttl, header.protocol];
        header.ttl = header.ttl.wrapping_sub(1);
        header.checksum = Difference::NONE.replace(old, [header.ttl, header.protocol]).apply(header.checksum);
        Some(())
    }

    #[inline(always)]
    fn set_source<F: Frame>(frame: &mut F, new: [u8; 4]) -> Option<Difference> {
        let header = frame.at_mut::<Ipv4>(ETHERNET_LEN)?;
        let difference = Difference::NONE.replace(header.source, new);
        header.source = new;
        header.checksum = difference.apply(header.checksum);
        Some(difference)
    }

    #[inline(always)]
    fn set_destination<F: Frame>(frame: &mut F, new: [u8; 4]) -> Option<Difference> {
        let header = frame.at_mut::<Ipv4>(ETHERNET_LEN)?;
        let difference = Difference::NONE.replace(header.destination, new);
        header.destination = new;
        header.checksum = difference.apply(header.checksum);
        Some(difference)
    }

    #[inline(always)]
    fn address(bytes: &[u8; 16]) -> [u8; 4] {
        let [address, ..]: [[u8; 4]; 4] = bytemuck::cast(*bytes);
        address
    }

    #[inline(always)]
    fn flow_hash(seed: [u64; 2], flow: &FlowKeyV4) -> u64 {
        hash::flow_v4(seed, flow.source, flow.destination, flow.source_port, flow.destination_port, flow.protocol)
    }

    #[inline(always)]
    fn source_hash(seed: [u64; 2], source: [u8; 4]) -> u64 {
        hash::source_v4(seed, source)
    }

    #[inline(always)]
    fn flow_key(source: [u8; 4], destination: [u8; 4], ports: Ports, protocol: u8) -> FlowKeyV4 {
        let Ports { source: source_port, destination: destination_port } = ports;
        FlowKeyV4 { source, destination, source_port, destination_port, protocol: protocol.into() }
    }

    #[inline(always)]
    fn put_reset<F: Frame>(frame: &mut F, ethernet: Ethernet, packet: &Packet<[u8; 4]>, tcp: Tcp) -> Option<()> {
        reset::put_v4(frame, ethernet, packet, tcp)
    }

    #[inline(always)]
    fn service<T: Tables>(tables: &T, address: [u8; 4], port: [u8; 2], protocol: u8) -> Option<T::Service> {
        tables.service_v4(&EndpointV4 { address, port, protocol, pad: 0 })
    }

    #[inline(always)]
    fn is_vip<T: Tables>(tables: &T, address: [u8; 4]) -> bool {
        tables.is_vip_v4(address)
    }

    #[inline(always)]
    fn reverse<T: Tables>(tables: &T, address: [u8; 4], port: [u8; 2], protocol: u8) -> Option<Reverse> {
        tables.reverse_v4(&EndpointV4 { address, port, protocol, pad: 0 })
    }

    #[inline(always)]
    fn route<T: Tables>(tables: &T, address: [u8; 4]) -> Option<NextHop> {
        tables.route_v4(address)
    }

    #[inline(always)]
    fn want_neighbour<T: Tables>(tables: &T, address: [u8; 4]) {
        let [a, b, c, d] = address;
        tables.want_neighbour([a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], crate::abi::family::V4);
    }

    #[inline(always)]
    fn flow<'t, T: Tables>(tables: &'t T, key: &FlowKeyV4, hash: u32) -> Option<T::Entry<'t>> {
        tables.flow_v4(key, hash)
    }

    #[inline(always)]
    fn insert_flow<T: Tables>(tables: &T, key: &FlowKeyV4, hash: u32, entry: &FlowEntry) -> bool {
        tables.insert_flow_v4(key, hash, entry)
    }
}

impl Ip for V6 {
    type Address = [u8; 16];
    type FlowKey = FlowKeyV6;
    const NEXT_HEADER: u8 = next_header::IPV6;

    #[inline(always)]
    fn read<F: Frame>(frame: &F, start: usize) -> Option<Packet<[u8; 16]>> {
        let header = frame.at::<Ipv6>(start)?;
        let [first, second, ..] = header.version_class_label;
        if first >> 4 != 6 {
            return None;
        }
        let length = u32::from(IPV6_LEN) + u32::from(u16::from_be_bytes(header.payload_length));
        let obstacle = if next_header::is_extension(header.next_header) {
            Some(Reason::ExtensionHeader)
        } else if header.next_header == next_header::FRAGMENT {
            Some(Reason::Fragment)
        } else {
            None
        };
        let packet = Packet {
            source: header.source,
            destination: header.destination,
            protocol: header.next_header,
            ttl: header.hop_limit,
            class: first << 4 | second >> 4,
            length,
            transport: start + size_of::<Ipv6>(),
            obstacle,
        };
        frame.holds(start + length as usize).then_some(packet)
    }

    #[inline(always)]
    fn mark_congestion<F: Frame>(frame: &mut F, start: usize) -> Option<()> {
        let header = frame.at_mut::<Ipv6>(start)?;
        // The traffic class lies across the first two bytes, four bits in each; ECN is its low two bits.
        header.version_class_label[1] |= ECN_CONGESTION << 4;
        Some(())
    }

    #[inline(always)]
    fn decrement_ttl<F: Frame>(frame: &mut F) -> Option<()> {
        let header = frame.at_mut::<Ipv6>(ETHERNET_LEN)?;
        header.hop_limit = header.hop_limit.wrapping_sub(1);
        Some(())
    }

    #[inline(always)]
    fn set_source<F: Frame>(frame: &mut F, new: [u8; 16]) -> Option<Difference> {
        let header = frame.at_mut::<Ipv6>(ETHERNET_LEN)?;
        let difference = Difference::NONE.replace(header.source, new);
        header.source = new;
        Some(difference)
    }

    #[inline(always)]
    fn set_destination<F: Frame>(frame: &mut F, new: [u8; 16]) -> Option<Difference> {
        let header = frame.at_mut::<Ipv6>(ETHERNET_LEN)?;
        let difference = Difference::NONE.replace(header.destination, new);
        header.destination = new;
        Some(difference)
    }

    #[inline(always)]
    fn address(bytes: &[u8; 16]) -> [u8; 16] {
        *bytes
    }

    #[inline(always)]
    fn flow_hash(seed: [u64; 2], flow: &FlowKeyV6) -> u64 {
        hash::flow_v6(seed, flow.source, flow.destination, flow.source_port, flow.destination_port, flow.protocol)
    }

    #[inline(always)]
    fn source_hash(seed: [u64; 2], source: [u8; 16]) -> u64 {
        hash::source_v6(seed, source)
    }

    #[inline(always)]
    fn flow_key(source: [u8; 16], destination: [u8; 16], ports: Ports, protocol: u8) -> FlowKeyV6 {
        let Ports { source: source_port, destination: destination_port } = ports;
        FlowKeyV6 { source, destination, source_port, destination_port, protocol: protocol.into() }
    }

    #[inline(always)]
    fn put_reset<F: Frame>(frame: &mut F, ethernet: Ethernet, packet: &Packet<[u8; 16]>, tcp: Tcp) -> Option<()> {
        reset::put_v6(frame, ethernet, packet, tcp)
    }

    #[inline(always)]
    fn service<T: Tables>(tables: &T, address: [u8; 16], port: [u8; 2], protocol: u8) -> Option<T::Service> {
        tables.service_v6(&EndpointV6 { address, port, protocol, pad: 0 })
    }

    #[inline(always)]
    fn is_vip<T: Tables>(tables: &T, address: [u8; 16]) -> bool {
        tables.is_vip_v6(address)
    }

    #[inline(always)]
    fn reverse<T: Tables>(tables: &T, address: [u8; 16], port: [u8; 2], protocol: u8) -> Option<Reverse> {
        tables.reverse_v6(&EndpointV6 { address, port, protocol, pad: 0 })
    }

    #[inline(always)]
    fn route<T: Tables>(tables: &T, address: [u8; 16]) -> Option<NextHop> {
        tables.route_v6(address)
    }

    #[inline(always)]
    fn want_neighbour<T: Tables>(tables: &T, address: [u8; 16]) {
        tables.want_neighbour(address, crate::abi::family::V6);
    }

    #[inline(always)]
    fn flow<'t, T: Tables>(tables: &'t T, key: &FlowKeyV6, hash: u32) -> Option<T::Entry<'t>> {
        tables.flow_v6(key, hash)
    }

    #[inline(always)]
    fn insert_flow<T: Tables>(tables: &T, key: &FlowKeyV6, hash: u32, entry: &FlowEntry) -> bool {
        tables.insert_flow_v6(key, hash, entry)
    }
}
