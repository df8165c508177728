//! A SYN flood: handshakes begun from many addresses, none of which is anybody's.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use etherparse::PacketBuilder;
use rustix::{
    io::Errno,
    net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket},
};

use crate::Lab;

/// The network that the SYNs come from (RFC 2544: for tests of network devices, routed nowhere).
const SOURCES_V4: &str = "198.18.0.0/15";
/// The same of IPv6 (RFC 5180).
const SOURCES_V6: &str = "2001:2::/48";
/// SYNs that are sent in one go.
const BURST: u32 = 100;

/// Sends a SYN to `target` from each of `sources` addresses, `per_second` of them in a second, through the lab's first
/// client. The router takes the answers, and drops them.
///
/// # Errors
/// The kernel refuses a raw socket, or a packet.
///
/// # Panics
/// `per_second` is 0.
pub fn syns(lab: &Lab, target: SocketAddr, sources: u32, per_second: u32) -> Result<()> {
    let (family, network) =
        if target.is_ipv4() { (AddressFamily::INET, SOURCES_V4) } else { (AddressFamily::INET6, SOURCES_V6) };
    lab.router().ip(&format!("route replace blackhole {network}"))?;
    // With this protocol number the kernel takes packets with their IP header, whatever their source.
    let socket = lab.client().enter(|| socket(family, SocketType::RAW, Some(ipproto::RAW)))?.context("raw socket")?;
    // The next header takes the port's place there.
    let destination = SocketAddr::new(target.ip(), 0);
    let began = Instant::now();
    for number in 0..sources {
        if number % BURST == 0 {
            let due = Duration::from_secs(1) * number / per_second;
            thread::sleep(due.saturating_sub(began.elapsed()));
        }
        let packet = syn(number, target)?;
        while let Err(error) = sendto(&socket, &packet, SendFlags::empty(), &destination) {
            // The queue is full for the moment.
            if error != Errno::NOBUFS {
                return Err(error).context("send a SYN");
            }
        }
    }
    Ok(())
}

/// SYN `number`: address and port follow from that.
fn syn(number: u32, target: SocketAddr) -> Result<Vec<u8>> {
    let builder = match target.ip() {
        IpAddr::V4(target) => {
            let source = Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 0).to_bits() + number % (1 << 17));
            PacketBuilder::ipv4(source.octets(), target.octets(), 64)
        }
        IpAddr::V6(target) => {
            let source = Ipv6Addr::from_bits(Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 0).to_bits() + u128::from(number));
            PacketBuilder::ipv6(source.octets(), target.octets(), 64)
        }
    };
    let port = 1024 + u16::try_from(number % 60_000)?;
    let mut packet = Vec::new();
    builder.tcp(port, target.port(), number, 64_240).syn().write(&mut packet, &[])?;
    Ok(packet)
}
