//! The other end of the tunnel: strips outer headers on a backend, so that it needs no tunnel device.

use crate::{
    frame::Frame,
    ip::{Ip, Packet, V4, V6},
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
    let Some(packet) = I::read(frame) else {
        return Verdict::pass(Reason::Malformed);
    };
    let inner = match packet.protocol {
        next_header::IPV4 => ethertype::IPV4,
        next_header::IPV6 => ethertype::IPV6,
        _ => return Verdict::pass(Reason::OtherProtocol),
    };
    if !allows(&packet) {
        return Verdict::pass(Reason::ForeignTunnel);
    }
    if packet.obstacle.is_some() || !inner_is_sound(frame, &packet, inner) {
        return Verdict::drop(Reason::MalformedInner);
    }
    match move_ethernet(frame, packet.transport - ETHERNET_LEN, inner) {
        Some(()) => Verdict::pass(Reason::Decapsulated),
        None => Verdict::drop(Reason::MalformedInner),
    }
}

/// Whether what follows the outer header starts like the IP version that the outer header announces.
#[inline(always)]
fn inner_is_sound<F: Frame, A>(frame: &F, packet: &Packet<A>, inner: [u8; 2]) -> bool {
    let version = if inner == ethertype::IPV4 { 4 } else { 6 };
    frame.at::<u8>(packet.transport).is_some_and(|first| first >> 4 == version)
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
