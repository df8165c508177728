//! Packets for the program to be asked about, and the words for what it does with them.

use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use etherparse::PacketBuilder;

/// MAC addresses of crafted packets: locally administered, and nobody's. The program does not ask whose they are.
const SOURCE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const DESTINATION_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const TTL: u8 = 64;
const WINDOW: u16 = 65_535;

/// `enum xdp_action` in linux/bpf.h.
pub mod xdp {
    /// The packet is dropped.
    pub const DROP: u32 = 1;
    /// It goes on to the kernel.
    pub const PASS: u32 = 2;
    /// It leaves by the interface that it came in by.
    pub const TX: u32 = 3;
    /// It leaves by another interface.
    pub const REDIRECT: u32 = 4;
}

/// The word for an XDP action: `pass`, `drop`, `transmit` or `redirect`; `None` for others, which Weir's programs have not.
pub const fn action_name(action: u32) -> Option<&'static str> {
    match action {
        xdp::DROP => Some("drop"),
        xdp::PASS => Some("pass"),
        xdp::TX => Some("transmit"),
        xdp::REDIRECT => Some("redirect"),
        _ => None,
    }
}

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A TCP SYN.
    Syn,
    /// A TCP segment of an open connection.
    Ack,
    /// A UDP datagram.
    Datagram,
}

/// A frame with a packet from `source` to `destination`. A SYN has no payload.
///
/// # Errors
/// The addresses are of different families.
pub fn frame(source: SocketAddr, destination: SocketAddr, kind: Kind, payload: &[u8]) -> anyhow::Result<Vec<u8>> {
    let ethernet = PacketBuilder::ethernet2(SOURCE_MAC, DESTINATION_MAC);
    let ip = match (source, destination) {
        (SocketAddr::V4(from), SocketAddr::V4(to)) => ethernet.ipv4(from.ip().octets(), to.ip().octets(), TTL),
        (SocketAddr::V6(from), SocketAddr::V6(to)) => ethernet.ipv6(from.ip().octets(), to.ip().octets(), TTL),
        (from, to) => bail!("{} and {} are of different address families", from.ip(), to.ip()),
    };
    let (from, to) = (source.port(), destination.port());
    let mut frame = Vec::new();
    let written = match kind {
        Kind::Syn => ip.tcp(from, to, 1, WINDOW).syn().write(&mut frame, &[]),
        Kind::Ack => ip.tcp(from, to, 1, WINDOW).ack(1).psh().write(&mut frame, payload),
        Kind::Datagram => ip.udp(from, to).write(&mut frame, payload),
    };
    written.context("can't write a packet")?;
    Ok(frame)
}
