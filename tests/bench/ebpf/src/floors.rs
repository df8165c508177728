//! What the balancer is compared with: programs that do less than any balancer can. They read and write whole words, as
//! frames are aligned: none of them could be faster.

use aya_ebpf::{bindings::xdp_action, programs::XdpContext};

use crate::{
    packet::{locate, move_head},
    recipe::{OUTER_ID, OUTER_MACS, OUTER_V4, OUTER_V6, checksum},
};

const ETHERTYPE_IPV4: u16 = 0x0800_u16.to_be();
const ETHERTYPE_IPV6: u16 = 0x86dd_u16.to_be();
const TCP: u16 = 6;
const UDP: u16 = 17;
const ETHERNET_LEN: usize = 14;
const IPV4_LEN: u16 = 20;
const IPV6_LEN: u16 = 40;

/// What is 0 in the fragment field of a packet that is not one.
const MORE_OR_OFFSET: u16 = 0x3fff_u16.to_be();

type Mac = [u16; 3];

#[repr(C)]
#[derive(Clone, Copy)]
struct Ethernet {
    destination: Mac,
    source: Mac,
    ethertype: u16,
}

/// IPv4 without options and the ports behind it, in words as they lie in the packet.
#[repr(C)]
#[derive(Clone, Copy)]
struct Ipv4 {
    version_tos: u16,
    length: u16,
    id: u16,
    fragment: u16,
    ttl_protocol: u16,
    checksum: u16,
    source: u32,
    destination: u32,
    ports: u32,
}

/// IPv6 and the ports behind it, in words as they lie in the packet.
#[repr(C)]
#[derive(Clone, Copy)]
struct Ipv6 {
    version_class_label: u32,
    payload_length: u16,
    next_header_hop_limit: u16,
    source: [u64; 2],
    destination: [u64; 2],
    ports: u32,
}

/// What has to be known of a packet to encapsulate it.
enum Parsed {
    /// Bytes of the IP packet.
    V4(u16),
    /// Bytes behind the IP header.
    V6(u16),
}

/// Swaps the MAC addresses.
#[inline(always)]
pub fn mac_swap(context: &XdpContext) -> Option<u32> {
    let macs = locate::<[Mac; 2]>(context, 0)?;
    // SAFETY: they lie within the packet and are aligned.
    unsafe {
        let [destination, source] = *macs;
        *macs = [source, destination];
    }
    Some(xdp_action::XDP_TX)
}

/// Reads the headers.
#[inline(always)]
pub fn parse(context: &XdpContext) -> Option<u32> {
    parsed(context)?;
    Some(xdp_action::XDP_TX)
}

/// Reads the headers and puts a header in front that is always the same, of the packet's own family.
#[inline(always)]
pub fn encapsulate(context: &XdpContext) -> Option<u32> {
    match parsed(context)? {
        Parsed::V4(length) => {
            move_head(context, -i32::from(IPV4_LEN))?;
            let ethernet = locate::<Ethernet>(context, 0)?;
            let header = locate::<[u32; 5]>(context, ETHERNET_LEN)?;
            // SAFETY: both lie within the packet and are aligned.
            unsafe {
                *ethernet = outer_ethernet(ETHERTYPE_IPV4);
                *header = outer_v4(length + IPV4_LEN);
            }
        }
        Parsed::V6(length) => {
            move_head(context, -i32::from(IPV6_LEN))?;
            let ethernet = locate::<Ethernet>(context, 0)?;
            let header = locate::<[u64; 5]>(context, ETHERNET_LEN)?;
            // SAFETY: both lie within the packet and are aligned.
            unsafe {
                *ethernet = outer_ethernet(ETHERTYPE_IPV6);
                *header = outer_v6(length + IPV6_LEN);
            }
        }
    }
    Some(xdp_action::XDP_TX)
}

#[inline(always)]
fn parsed(context: &XdpContext) -> Option<Parsed> {
    let ethernet = locate::<Ethernet>(context, 0)?;
    // SAFETY: it lies within the packet and is aligned.
    match unsafe { (*ethernet).ethertype } {
        ETHERTYPE_IPV4 => parsed_v4(context),
        ETHERTYPE_IPV6 => parsed_v6(context),
        _ => None,
    }
}

#[inline(always)]
fn parsed_v4(context: &XdpContext) -> Option<Parsed> {
    // SAFETY: it lies within the packet and is aligned.
    let ip = unsafe { &*locate::<Ipv4>(context, ETHERNET_LEN)? };
    let whole = ip.fragment & MORE_OR_OFFSET == 0;
    if ip.version_tos & 0xff != 0x45 || !whole || !is_balanced(ip.ttl_protocol >> 8) {
        return None;
    }
    // Like a look-up would, this needs all of addresses and ports, so that no read is left out.
    let [source_port, destination_port] = ports(ip.ports);
    let same = (ip.source ^ ip.destination) | (source_port ^ destination_port);
    (same != 0).then_some(Parsed::V4(u16::from_be(ip.length)))
}

#[inline(always)]
fn parsed_v6(context: &XdpContext) -> Option<Parsed> {
    // SAFETY: it lies within the packet and is aligned.
    let ip = unsafe { &*locate::<Ipv6>(context, ETHERNET_LEN)? };
    if ip.version_class_label & 0xf0 != 0x60 || !is_balanced(ip.next_header_hop_limit & 0xff) {
        return None;
    }
    let [source_port, destination_port] = ports(ip.ports);
    let same = (ip.source[0] ^ ip.destination[0])
        | (ip.source[1] ^ ip.destination[1])
        | u64::from(source_port ^ destination_port);
    (same != 0).then_some(Parsed::V6(u16::from_be(ip.payload_length)))
}

#[inline(always)]
const fn is_balanced(protocol: u16) -> bool {
    protocol == TCP || protocol == UDP
}

#[inline(always)]
const fn ports(word: u32) -> [u32; 2] {
    [word & 0xffff, word >> 16]
}

#[inline(always)]
const fn outer_ethernet(ethertype: u16) -> Ethernet {
    Ethernet { destination: mac(OUTER_MACS[0]), source: mac(OUTER_MACS[1]), ethertype }
}

const fn mac(bytes: [u8; 6]) -> Mac {
    [
        u16::from_le_bytes([bytes[0], bytes[1]]),
        u16::from_le_bytes([bytes[2], bytes[3]]),
        u16::from_le_bytes([bytes[4], bytes[5]]),
    ]
}

#[inline(always)]
const fn outer_v4(length: u16) -> [u32; 5] {
    const VERSION: u32 = 0x45;
    const ID: u32 = OUTER_ID.to_be() as u32;
    const DONT_FRAGMENT: u32 = 0x40;
    const TTL_IPIP: u32 = 64 | 4 << 8;
    const SOURCE: u32 = u32::from_le_bytes(OUTER_V4[0]);
    const DESTINATION: u32 = u32::from_le_bytes(OUTER_V4[1]);
    const SUM: u32 = VERSION
        + ID
        + DONT_FRAGMENT
        + TTL_IPIP
        + (SOURCE & 0xffff)
        + (SOURCE >> 16)
        + (DESTINATION & 0xffff)
        + (DESTINATION >> 16);
    let length = length.to_be() as u32;
    let checksum = checksum(SUM + length);
    [VERSION | length << 16, ID | DONT_FRAGMENT << 16, TTL_IPIP | checksum << 16, SOURCE, DESTINATION]
}

#[inline(always)]
const fn outer_v6(payload_length: u16) -> [u64; 5] {
    const VERSION: u64 = 0x60;
    // IPv6 (41), 64 hops.
    const NEXT_HEADER_HOP_LIMIT: u64 = 0x4029;
    const SOURCE: [u64; 2] = halves(OUTER_V6[0]);
    const DESTINATION: [u64; 2] = halves(OUTER_V6[1]);
    let first = VERSION | (payload_length.to_be() as u64) << 32 | NEXT_HEADER_HOP_LIMIT << 48;
    [first, SOURCE[0], SOURCE[1], DESTINATION[0], DESTINATION[1]]
}

#[expect(clippy::cast_possible_truncation, reason = "taken apart")]
const fn halves(address: [u8; 16]) -> [u64; 2] {
    let bits = u128::from_le_bytes(address);
    [bits as u64, (bits >> 64) as u64]
}
