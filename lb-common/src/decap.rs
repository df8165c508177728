//! The other end of the tunnel: strips outer headers on a backend, so that it needs no tunnel device.

use crate::{
    frame::Frame,
    ip::{ECN_CONGESTION, Ip, Packet, V4, V6},
    pipeline::Verdict,
    reason::Reason,
    wire::{ETHERNET_LEN, Ethernet, ethertype, next_header},
};

/// Which outer sources are trusted: LPM tries in the kernel.
pub trait AllowedSources {
    /// Whether tunnel packets from this IPv4 address are accepted.
    fn allows_v4(&self, address: [u8; 4]) -> bool;
    /// Whether tunnel packets from this IPv6 address are accepted.
    fn allows_v6(&self, address: [u8; 16]) -> bool;
}

/// Strips the outer header of a tunnel packet from an allowed source; everything else passes as it came.
#[inline(always)]
pub fn process<F: Frame, A: AllowedSources>(frame: &mut F, allowed: &A) -> Verdict {
    let Some(ethernet) = frame.at::<Ethernet>(0) else {
        return Verdict::pass(Reason::Malformed);
    };
    if ethernet.destination[0] & 1 != 0 {
        return Verdict::pass(Reason::NotUnicast);
    }
    let kind = ethernet.ethertype;
    match kind {
        ethertype::IPV4 => strip::<V4, F>(frame, |packet| allowed.allows_v4(packet.source)),
        ethertype::IPV6 => strip::<V6, F>(frame, |packet| allowed.allows_v6(packet.source)),
        ethertype::VLAN | ethertype::QINQ => Verdict::pass(Reason::Tagged),
        _ => Verdict::pass(Reason::NotIp),
    }
}

#[inline(always)]
fn strip<I: Ip, F: Frame>(frame: &mut F, allows: impl Fn(&Packet<I::Address>) -> bool) -> Verdict {
    let Some(outer) = I::read(frame, ETHERNET_LEN) else {
        return Verdict::pass(Reason::Malformed);
    };
    let inner = match (outer.obstacle, outer.protocol) {
        (None, next_header::IPV4) => ethertype::IPV4,
        (None, next_header::IPV6) => ethertype::IPV6,
        // Fragments too: the kernel may put them together.
        _ => return Verdict::pass(Reason::OtherProtocol),
    };
    if !allows(&outer) {
        return Verdict::pass(Reason::ForeignTunnel);
    }
    let stripped = match inner {
        ethertype::IPV4 => strip_to::<V4, F, _>(frame, &outer, inner),
        _ => strip_to::<V6, F, _>(frame, &outer, inner),
    };
    match stripped {
        Some(()) => Verdict::pass(Reason::Decapsulated),
        None => Verdict::drop(Reason::MalformedInner),
    }
}

/// Leaves the packet of family `I` that `outer` carries; `None` if that is not sound.
#[inline(always)]
fn strip_to<I: Ip, F: Frame, A>(frame: &mut F, outer: &Packet<A>, inner: [u8; 2]) -> Option<()> {
    let packet = I::read(frame, outer.transport)?;
    if outer.transport + packet.length as usize > ETHERNET_LEN + outer.length as usize {
        return None;
    }
    // RFC 6040, section 4.2: congestion in the tunnel is told to the receiver, or to the sender by a loss.
    if outer.class & ECN_CONGESTION == ECN_CONGESTION {
        if packet.class & ECN_CONGESTION == 0 {
            return None;
        }
        I::mark_congestion(frame, outer.transport)?;
    }
    move_ethernet(frame, outer.transport - ETHERNET_LEN, inner)
}

/// Takes `length` bytes out from behind the Ethernet header.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "an IP header is at most 60 bytes")]
fn move_ethernet<F: Frame>(frame: &mut F, length: usize, inner: [u8; 2]) -> Option<()> {
    let mut ethernet = *frame.at::<Ethernet>(0)?;
    ethernet.ethertype = inner;
    frame.shrink(length as u8).ok()?;
    *frame.at_mut::<Ethernet>(0)? = ethernet;
    Some(())
}
