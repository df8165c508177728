//! The answer to a client whose backend is gone: a TCP RST, made of the packet itself.

use bytemuck::{Pod, Zeroable};

use crate::{
    abi::protocol,
    checksum::{self, Difference},
    frame::Frame,
    ip::{Ip, Packet},
    pipeline::{Action, Verdict},
    reason::Reason,
    tables::Tables,
    wire::{ETHERNET_LEN, Ethernet, IPV4_LEN, IPV6_LEN, Ipv4, Ipv6, TCP_LEN, Tcp, ethertype, tcp_flags},
};

const TTL: u8 = 64;
const DONT_FRAGMENT: [u8; 2] = [0x40, 0];
/// Bytes of an Ethernet header.
const ETHERNET: u8 = 14;
/// Header length in the high four bits, in 32-bit words.
const TCP_DATA_OFFSET: u8 = (TCP_LEN / 4) << 4;

/// An RST over IPv4.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct ResetV4 {
    ethernet: Ethernet,
    ip: Ipv4,
    tcp: Tcp,
}

/// An RST over IPv6.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct ResetV6 {
    ethernet: Ethernet,
    ip: Ipv6,
    tcp: Tcp,
}

/// Turns a client's packet into the RST that its backend would have sent, out of where it came in. An RST gets no
/// answer, and neither does what is not TCP.
///
/// The RST has the sequence number that the client expects next, which it tells in every ACK, so that it is believed
/// without further questions (RFC 9293, section 3.10.7.1; RFC 5961, section 3.2).
#[inline(always)]
pub(crate) fn answer<I: Ip, F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Result<Verdict, Reason> {
    match frame.apart(|frame| put::<I, F>(frame).unwrap_or(Reason::RewriteFailed)) {
        Reason::Reset => {
            tables.count_reason(Reason::Reset);
            Ok(Verdict { action: Action::Transmit, reason: Reason::Reset })
        }
        reason => Err(reason),
    }
}

/// Makes the RST. [`Reason::Reset`], or why it did not.
#[inline(always)]
fn put<I: Ip, F: Frame>(frame: &mut F) -> Option<Reason> {
    let packet = I::read(frame, ETHERNET_LEN)?;
    if packet.protocol != protocol::TCP {
        return Some(Reason::BackendGone);
    }
    let ethernet = *frame.at::<Ethernet>(0)?;
    let received = *frame.at::<Tcp>(packet.transport)?;
    if received.flags & tcp_flags::RST != 0 {
        return Some(Reason::BackendGone);
    }
    let tcp = answer_header(&received, &packet);
    let back = Ethernet { destination: ethernet.source, source: ethernet.destination, ..ethernet };
    I::put_reset(frame, back, &packet, tcp)?;
    Some(Reason::Reset)
}

/// The TCP header of the answer, without checksum.
#[inline(always)]
fn answer_header<A>(received: &Tcp, packet: &Packet<A>) -> Tcp {
    let header = Tcp {
        source: received.destination,
        destination: received.source,
        sequence: received.acknowledgement,
        acknowledgement: [0; 4],
        data_offset: TCP_DATA_OFFSET,
        flags: tcp_flags::RST,
        window: [0; 2],
        checksum: [0; 2],
        urgent: [0; 2],
    };
    if received.flags & tcp_flags::ACK != 0 {
        return header;
    }
    let counts = |flag: u8| u32::from(received.flags & flag != 0);
    let data =
        packet.length.wrapping_sub(packet.header_length()).wrapping_sub(u32::from(received.data_offset >> 4) * 4);
    let length = data.wrapping_add(counts(tcp_flags::SYN)).wrapping_add(counts(tcp_flags::FIN));
    let acknowledgement = u32::from_be_bytes(received.sequence).wrapping_add(length).to_be_bytes();
    Tcp { sequence: [0; 4], acknowledgement, flags: tcp_flags::RST | tcp_flags::ACK, ..header }
}

/// Leaves nothing of the frame but an IPv4 RST with these headers, from `packet`'s destination to its source.
#[inline(always)]
pub(crate) fn put_v4<F: Frame>(frame: &mut F, ethernet: Ethernet, packet: &Packet<[u8; 4]>, tcp: Tcp) -> Option<()> {
    frame.truncate(ETHERNET + IPV4_LEN + TCP_LEN).ok()?;
    let mut ip = Ipv4 {
        version_ihl: 0x45,
        tos: 0,
        total_length: u16::from(IPV4_LEN + TCP_LEN).to_be_bytes(),
        id: [0; 2],
        fragment: DONT_FRAGMENT,
        ttl: TTL,
        protocol: protocol::TCP,
        checksum: [0; 2],
        source: packet.destination,
        destination: packet.source,
    };
    ip.checksum = checksum::ipv4_header(&ip);
    let addresses = Difference::NONE.replace([0; 4], ip.source).replace([0; 4], ip.destination);
    let ethernet = Ethernet { ethertype: ethertype::IPV4, ..ethernet };
    *frame.at_mut::<ResetV4>(0)? = ResetV4 { ethernet, ip, tcp: with_checksum(tcp, addresses) };
    Some(())
}

/// Leaves nothing of the frame but an IPv6 RST with these headers, from `packet`'s destination to its source.
#[inline(always)]
pub(crate) fn put_v6<F: Frame>(frame: &mut F, ethernet: Ethernet, packet: &Packet<[u8; 16]>, tcp: Tcp) -> Option<()> {
    frame.truncate(ETHERNET + IPV6_LEN + TCP_LEN).ok()?;
    let ip = Ipv6 {
        version_class_label: [0x60, 0, 0, 0],
        payload_length: u16::from(TCP_LEN).to_be_bytes(),
        next_header: protocol::TCP,
        hop_limit: TTL,
        source: packet.destination,
        destination: packet.source,
    };
    let addresses = Difference::NONE.replace([0; 16], ip.source).replace([0; 16], ip.destination);
    let ethernet = Ethernet { ethertype: ethertype::IPV6, ..ethernet };
    *frame.at_mut::<ResetV6>(0)? = ResetV6 { ethernet, ip, tcp: with_checksum(tcp, addresses) };
    Some(())
}

/// `tcp` with its checksum; `addresses` is what they add to it.
#[inline(always)]
fn with_checksum(tcp: Tcp, addresses: Difference) -> Tcp {
    // From a segment of zeros, whose checksum is all ones, to this one.
    const ZEROS: [u8; 2] = [0xff, 0xff];
    let pseudo = addresses.replace([0; 4], [0, protocol::TCP, 0, TCP_LEN]);
    let words: [[u8; 4]; 5] = bytemuck::cast(tcp);
    let upper = pseudo.replace([0; 4], words[0]).replace([0; 4], words[1]).replace([0; 4], words[2]);
    let whole = upper.replace([0; 4], words[3]).replace([0; 4], words[4]);
    Tcp { checksum: whole.apply(ZEROS), ..tcp }
}

const _: () = assert!(ETHERNET as usize == ETHERNET_LEN);
