//! Outer IP headers: any family in any family.

use bytemuck::{Pod, Zeroable};

use crate::{
    abi::{Backend, OuterV4, OuterV6, family},
    checksum,
    frame::Frame,
    pipeline::Tables,
    reason::Reason,
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

/// Both ends of the tunnel that a packet is to go through.
///
/// The source carries the flow's hash in its host bits (and IPv6 in its flow label too), so that receivers, which
/// hash the outer header, spread flows over their queues.
#[derive(Clone, Copy)]
pub(crate) enum Outer {
    V4 { source: [u8; 4], destination: [u8; 4] },
    V6 { label: u32, source: [u8; 16], destination: [u8; 16] },
}

impl Outer {
    /// The tunnel to `backend` for a flow with this hash.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the low 32 bits are the part meant for outer headers")]
    pub(crate) fn choose<T: Tables>(tables: &T, backend: &Backend, hash: u64) -> Result<Self, Reason> {
        let entropy = hash as u32;
        if backend.family == family::V4 {
            let OuterV4 { network, host_mask } = tables.outer_v4();
            if network == 0 {
                return Err(Reason::NoOuterSource);
            }
            let [a, b, c, d, ..] = backend.address;
            Ok(Self::V4 { source: (network | entropy & host_mask).to_be_bytes(), destination: [a, b, c, d] })
        } else {
            let OuterV6 { network_high, network_low, host_mask } = tables.outer_v6();
            if network_high == 0 {
                return Err(Reason::NoOuterSource);
            }
            let low = network_low | u64::from(entropy) & host_mask;
            let source = bytemuck::cast([network_high.to_be_bytes(), low.to_be_bytes()]);
            Ok(Self::V6 { label: entropy & 0xf_ffff, source, destination: backend.address })
        }
    }

    /// Bytes that the outer header adds.
    #[inline(always)]
    pub(crate) const fn header_length(&self) -> u32 {
        match self {
            Self::V4 { .. } => IPV4_LEN as u32,
            Self::V6 { .. } => IPV6_LEN as u32,
        }
    }

    /// Puts Ethernet and outer IP header in front of an inner packet of `length` bytes. MAC addresses are left to
    /// the caller; DSCP and ECN are the inner packet's (RFC 6040, normal mode). All checks have been made.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the sum passed the MTU check, and MTUs are below 65,536")]
    pub(crate) fn push<F: Frame>(&self, frame: &mut F, inner: u8, class: u8, length: u32) -> Result<(), Reason> {
        match *self {
            Self::V4 { source, destination } => {
                frame.grow(IPV4_LEN).map_err(|_| Reason::RewriteFailed)?;
                let outer = frame.at_mut::<EthernetIpv4>(0).ok_or(Reason::RewriteFailed)?;
                outer.ethernet.ethertype = ethertype::IPV4;
                let mut ip = Ipv4 {
                    version_ihl: 0x45,
                    tos: class,
                    total_length: ((length + u32::from(IPV4_LEN)) as u16).to_be_bytes(),
                    id: [0; 2],
                    fragment: DONT_FRAGMENT,
                    ttl: OUTER_TTL,
                    protocol: inner,
                    checksum: [0; 2],
                    source,
                    destination,
                };
                ip.checksum = checksum::ipv4_header(&ip);
                outer.ip = ip;
            }
            Self::V6 { label, source, destination } => {
                frame.grow(IPV6_LEN).map_err(|_| Reason::RewriteFailed)?;
                let outer = frame.at_mut::<EthernetIpv6>(0).ok_or(Reason::RewriteFailed)?;
                outer.ethernet.ethertype = ethertype::IPV6;
                outer.ip = Ipv6 {
                    version_class_label: (6 << 28 | u32::from(class) << 20 | label).to_be_bytes(),
                    payload_length: (length as u16).to_be_bytes(),
                    next_header: inner,
                    hop_limit: OUTER_TTL,
                    source,
                    destination,
                };
            }
        }
        Ok(())
    }
}
