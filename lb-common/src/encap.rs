//! Outer IP headers: any family in any family.

use bytemuck::{Pod, Zeroable};

use crate::{
    abi::{BackendEntry, OuterV4, OuterV6},
    checksum,
    frame::Frame,
    ip::{Ip, Packet, V4},
    pipeline::Exit,
    reason::Reason,
    tables::Tables,
    wire::{Ethernet, IPV4_LEN, IPV6_LEN, Ipv4, Ipv6, ethertype},
};

/// TTL and hop limit of outer headers.
const OUTER_TTL: u8 = 64;

/// "Don't fragment": what does not fit the path is better lost and noticed than split.
const DONT_FRAGMENT: [u8; 2] = [0x40, 0];

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct EthernetIpv4 {
    ethernet: Ethernet,
    ip: Ipv4,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct EthernetIpv6 {
    ethernet: Ethernet,
    ip: Ipv6,
}

/// Sends a packet to `backend` through an IPv4 tunnel. All that can be checked is checked before the first write.
///
/// The outer source carries the flow's hash in its host bits, so that receivers, which hash the outer header, spread flows
/// over their queues. DSCP and ECN are the inner packet's (RFC 6040, normal mode).
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the low half of the hash is meant for outer headers; lengths passed the MTU check"
)]
pub(crate) fn in_ipv4<I: Ip, F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    packet: &Packet<I::Address>,
    backend: &BackendEntry,
    exit: &Exit,
    hash: u64,
) -> Result<(), Reason> {
    let OuterV4 { network, host_mask } = tables.outer_v4();
    if network == 0 {
        return Err(Reason::NoOuterSource);
    }
    let length = packet.length + u32::from(IPV4_LEN);
    exit.admit(length, packet.ttl)?;
    I::decrement_ttl(frame).ok_or(Reason::RewriteFailed)?;
    let mut ip = Ipv4 {
        version_ihl: 0x45,
        tos: packet.class,
        total_length: (length as u16).to_be_bytes(),
        id: [0; 2],
        fragment: DONT_FRAGMENT,
        ttl: OUTER_TTL,
        protocol: I::NEXT_HEADER,
        checksum: [0; 2],
        source: (network | hash as u32 & host_mask).to_be_bytes(),
        destination: V4::address(&backend.address),
    };
    ip.checksum = checksum::ipv4_header(&ip);
    frame.grow(IPV4_LEN).map_err(|_| Reason::RewriteFailed)?;
    let outer = frame.at_mut::<EthernetIpv4>(0).ok_or(Reason::RewriteFailed)?;
    outer.ethernet = exit.ethernet(ethertype::IPV4);
    outer.ip = ip;
    Ok(())
}

/// The same through an IPv6 tunnel, whose flow label carries the hash too.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "as in `in_ipv4`")]
pub(crate) fn in_ipv6<I: Ip, F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    packet: &Packet<I::Address>,
    backend: &BackendEntry,
    exit: &Exit,
    hash: u64,
) -> Result<(), Reason> {
    let OuterV6 { network_high, network_low, host_mask } = tables.outer_v6();
    if network_high == 0 {
        return Err(Reason::NoOuterSource);
    }
    exit.admit(packet.length + u32::from(IPV6_LEN), packet.ttl)?;
    I::decrement_ttl(frame).ok_or(Reason::RewriteFailed)?;
    let entropy = hash as u32;
    frame.grow(IPV6_LEN).map_err(|_| Reason::RewriteFailed)?;
    let outer = frame.at_mut::<EthernetIpv6>(0).ok_or(Reason::RewriteFailed)?;
    outer.ethernet = exit.ethernet(ethertype::IPV6);
    outer.ip = Ipv6 {
        version_class_label: (6 << 28 | u32::from(packet.class) << 20 | entropy & 0xf_ffff).to_be_bytes(),
        payload_length: (packet.length as u16).to_be_bytes(),
        next_header: I::NEXT_HEADER,
        hop_limit: OUTER_TTL,
        source: bytemuck::cast([
            network_high.to_be_bytes(),
            (network_low | u64::from(entropy) & host_mask).to_be_bytes(),
        ]),
        destination: backend.address,
    };
    Ok(())
}
