//! Address and port translation, stateless in both directions.

use crate::{
    abi::protocol,
    checksum::Difference,
    frame::Frame,
    ip::{Ip, Packet},
    reason::Reason,
    wire::{Tcp, Udp},
};

/// The end of a flow whose port is translated.
#[derive(Clone, Copy)]
enum End {
    Source,
    Destination,
}

/// Sends a client's packet to `address`, `port`; port 0 keeps the packet's.
#[inline(always)]
pub(crate) fn to_backend<I: Ip, F: Frame>(
    frame: &mut F,
    packet: &Packet<I::Address>,
    address: I::Address,
    port: [u8; 2],
) -> Result<(), Reason> {
    let difference = I::set_destination(frame, address).ok_or(Reason::RewriteFailed)?;
    I::decrement_ttl(frame).ok_or(Reason::RewriteFailed)?;
    set_port(frame, packet.protocol, packet.transport, End::Destination, port, difference)
}

/// Makes a backend's reply come from the VIP `address`, `port`; port 0 keeps the packet's.
#[inline(always)]
pub(crate) fn to_client<I: Ip, F: Frame>(
    frame: &mut F,
    packet: &Packet<I::Address>,
    address: I::Address,
    port: [u8; 2],
) -> Result<(), Reason> {
    let difference = I::set_source(frame, address).ok_or(Reason::RewriteFailed)?;
    I::decrement_ttl(frame).ok_or(Reason::RewriteFailed)?;
    set_port(frame, packet.protocol, packet.transport, End::Source, port, difference)
}

/// Replaces one port and mends the transport checksum for it and for `difference`, the addresses' change.
#[inline(always)]
fn set_port<F: Frame>(
    frame: &mut F,
    protocol: u8,
    offset: usize,
    end: End,
    port: [u8; 2],
    difference: Difference,
) -> Result<(), Reason> {
    if protocol == protocol::TCP {
        let header = frame.at_mut::<Tcp>(offset).ok_or(Reason::RewriteFailed)?;
        let field = match end {
            End::Source => &mut header.source,
            End::Destination => &mut header.destination,
        };
        header.checksum = replace_port(field, port, difference).apply(header.checksum);
    } else {
        let header = frame.at_mut::<Udp>(offset).ok_or(Reason::RewriteFailed)?;
        let field = match end {
            End::Source => &mut header.source,
            End::Destination => &mut header.destination,
        };
        header.checksum = replace_port(field, port, difference).apply_udp(header.checksum);
    }
    Ok(())
}

#[inline(always)]
fn replace_port(field: &mut [u8; 2], port: [u8; 2], difference: Difference) -> Difference {
    if port == [0; 2] {
        return difference;
    }
    let difference = difference.replace(*field, port);
    *field = port;
    difference
}
