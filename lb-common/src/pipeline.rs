//! The packet's way through Weir: parse, service, slot, backend, all checks, and only then the rewrite.
//!
//! Nothing is written before every check has passed, so a packet that is passed to the kernel leaves as it came.

use crate::{
    abi::{Backend, Egress, EndpointV4, EndpointV6, NextHop, OuterV4, OuterV6, Reverse, Service, SlotWord},
    abi::{NO_BACKEND, mode, protocol, service_flags},
    encap,
    frame::Frame,
    hash,
    ip::{Ip, Packet, V4, V6},
    nat,
    reason::Reason,
    wire::{ETHERNET_LEN, Ethernet, Tcp, Udp, ethertype, tcp_flags},
};

/// What happens to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// On to the kernel's stack.
    Pass,
    /// Gone.
    Drop,
    /// Out of the device it came in by.
    Transmit,
    /// Out of the device at this egress index.
    Redirect(u16),
}

/// What happens to a packet, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What happens.
    pub action: Action,
    /// Why.
    pub reason: Reason,
}

impl Verdict {
    /// The packet goes on to the kernel.
    #[must_use]
    #[inline(always)]
    pub const fn pass(reason: Reason) -> Self {
        Self { action: Action::Pass, reason }
    }

    /// The packet is dropped.
    #[must_use]
    #[inline(always)]
    pub const fn drop(reason: Reason) -> Self {
        Self { action: Action::Drop, reason }
    }
}

/// The tables that the packet path reads and counts in: BPF maps in the kernel, collections on the host.
pub trait Tables {
    /// Seed of the flow hash.
    fn seed(&self) -> [u64; 2];
    /// Source network of IPv4 encapsulation.
    fn outer_v4(&self) -> OuterV4;
    /// Source network of IPv6 encapsulation.
    fn outer_v6(&self) -> OuterV6;
    /// Kernel index of the device that the packet came in by.
    fn ingress_ifindex(&self) -> u32;
    /// Service of an IPv4 endpoint.
    fn service_v4(&self, key: &EndpointV4) -> Option<Service>;
    /// Service of an IPv6 endpoint.
    fn service_v6(&self, key: &EndpointV6) -> Option<Service>;
    /// Slot at `index` of the slot array.
    fn slot(&self, index: u32) -> Option<SlotWord>;
    /// Backend with this id.
    fn backend(&self, id: u32) -> Option<&Backend>;
    /// How replies of an IPv4 backend are turned back.
    fn reverse_v4(&self, key: &EndpointV4) -> Option<Reverse>;
    /// How replies of an IPv6 backend are turned back.
    fn reverse_v6(&self, key: &EndpointV6) -> Option<Reverse>;
    /// Next hop towards an IPv4 client.
    fn route_v4(&self, address: [u8; 4]) -> Option<NextHop>;
    /// Next hop towards an IPv6 client.
    fn route_v6(&self, address: [u8; 16]) -> Option<NextHop>;
    /// Device at this egress index.
    fn egress(&self, index: u16) -> Option<Egress>;
    /// Asks the controller to have the kernel resolve the neighbour `address` of `family` ([`crate::abi::family`]).
    fn want_neighbour(&self, address: [u8; 16], family: u8);
    /// Counts a packet sent to a backend; `opens` tells a TCP SYN.
    fn count_forwarded(&self, service: u32, backend: u32, bytes: u32, opens: bool);
    /// Counts a reply sent to a client.
    fn count_replied(&self, service: u32, backend: u32, bytes: u32);
}

/// Decides what happens to `frame`, rewrites it for that, and counts by service and backend.
///
/// The caller counts the verdict's reason.
#[inline(always)]
pub fn process<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Verdict {
    let Some(ethernet) = frame.at::<Ethernet>(0) else {
        return Verdict::pass(Reason::Malformed);
    };
    if ethernet.destination[0] & 1 != 0 {
        return Verdict::pass(Reason::NotUnicast);
    }
    match ethernet.ethertype {
        ethertype::IPV4 => process_ip::<V4, F, T>(frame, tables),
        ethertype::IPV6 => process_ip::<V6, F, T>(frame, tables),
        ethertype::VLAN | ethertype::QINQ => Verdict::pass(Reason::Tagged),
        _ => Verdict::pass(Reason::NotIp),
    }
}

/// What was read from a transport header.
#[derive(Clone, Copy)]
struct Transport {
    source: [u8; 2],
    destination: [u8; 2],
    /// A TCP SYN without ACK.
    opens: bool,
}

#[inline(always)]
fn process_ip<I: Ip, F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Verdict {
    let Some(packet) = I::read(frame, ETHERNET_LEN) else {
        return Verdict::pass(Reason::Malformed);
    };
    if let Some(obstacle) = packet.obstacle {
        // Without ports only the address tells whether the packet is Weir's.
        return match I::service(tables, packet.destination, [0; 2], 0) {
            Some(_) => Verdict::drop(obstacle),
            None => Verdict::pass(Reason::NoService),
        };
    }
    let transport = match read_transport(frame, &packet) {
        Ok(transport) => transport,
        Err(reason) => return Verdict::pass(reason),
    };
    if let Some(service) = I::service(tables, packet.destination, transport.destination, packet.protocol)
        .or_else(|| I::service(tables, packet.destination, [0; 2], packet.protocol))
    {
        return forward::<I, F, T>(frame, tables, &packet, &transport, service).unwrap_or_else(Verdict::drop);
    }
    if let Some(reverse) = I::reverse(tables, packet.source, transport.source, packet.protocol)
        .or_else(|| I::reverse(tables, packet.source, [0; 2], packet.protocol))
    {
        return reply::<I, F, T>(frame, tables, &packet, &reverse).unwrap_or_else(Verdict::drop);
    }
    Verdict::pass(Reason::NoService)
}

#[inline(always)]
fn read_transport<F: Frame, A>(frame: &F, packet: &Packet<A>) -> Result<Transport, Reason> {
    let room = ETHERNET_LEN + packet.length as usize - packet.transport;
    match packet.protocol {
        protocol::TCP => {
            let header = frame.at::<Tcp>(packet.transport).ok_or(Reason::Malformed)?;
            let header_length = usize::from(header.data_offset >> 4) * 4;
            if header_length < size_of::<Tcp>() || header_length > room {
                return Err(Reason::Malformed);
            }
            let opens = header.flags & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::SYN;
            Ok(Transport { source: header.source, destination: header.destination, opens })
        }
        protocol::UDP => {
            let header = frame.at::<Udp>(packet.transport).ok_or(Reason::Malformed)?;
            if size_of::<Udp>() > room {
                return Err(Reason::Malformed);
            }
            Ok(Transport { source: header.source, destination: header.destination, opens: false })
        }
        _ => Err(Reason::OtherProtocol),
    }
}

/// The way out of this host: next hop and device.
#[derive(Clone, Copy)]
struct Exit {
    next_hop: NextHop,
    egress: Egress,
}

impl Exit {
    #[inline(always)]
    fn find<T: Tables>(tables: &T, next_hop: NextHop) -> Result<Self, Reason> {
        let egress = tables.egress(next_hop.egress()).ok_or(Reason::Inconsistent)?;
        if egress.ifindex == 0 {
            return Err(Reason::Inconsistent);
        }
        Ok(Self { next_hop, egress })
    }

    /// Whether a packet of `length` bytes with this TTL may leave here.
    #[inline(always)]
    fn admit(&self, length: u32, ttl: u8) -> Result<(), Reason> {
        if ttl <= 1 {
            return Err(Reason::TtlExpired);
        }
        if length > self.egress.mtu {
            return Err(Reason::TooBig);
        }
        Ok(())
    }

    #[inline(always)]
    fn verdict<T: Tables>(&self, tables: &T, reason: Reason) -> Verdict {
        let action = if self.egress.ifindex == tables.ingress_ifindex() {
            Action::Transmit
        } else {
            Action::Redirect(self.next_hop.egress())
        };
        Verdict { action, reason }
    }

    #[inline(always)]
    fn set_macs<F: Frame>(&self, frame: &mut F) -> Result<(), Reason> {
        let ethernet = frame.at_mut::<Ethernet>(0).ok_or(Reason::RewriteFailed)?;
        ethernet.destination = self.next_hop.mac();
        ethernet.source = self.egress.mac;
        Ok(())
    }
}

/// A client's packet on its way to a backend. An error is a drop.
#[inline(always)]
fn forward<I: Ip, F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    packet: &Packet<I::Address>,
    transport: &Transport,
    service: Service,
) -> Result<Verdict, Reason> {
    let seed = tables.seed();
    let hash = if service.flags & service_flags::HASH_SOURCE == 0 {
        I::flow_hash(seed, packet, transport.source, transport.destination)
    } else {
        I::source_hash(seed, packet)
    };
    let index = service.first_slot.wrapping_add(hash::slot_of(hash, service.slot_count));
    let id = tables.slot(index).ok_or(Reason::Inconsistent)?.current();
    if id == NO_BACKEND {
        return Err(Reason::NoBackend);
    }
    let backend = tables.backend(id).ok_or(Reason::Inconsistent)?;
    if !backend.next_hop.is_resolved() {
        return Err(Reason::NextHopUnresolved);
    }
    let exit = Exit::find(tables, backend.next_hop)?;
    let reason = match backend.mode {
        mode::L2 => {
            exit.admit(packet.length, packet.ttl)?;
            I::decrement_ttl(frame).ok_or(Reason::RewriteFailed)?;
            exit.set_macs(frame)?;
            Reason::ForwardedL2
        }
        mode::IPIP => {
            let outer = encap::Outer::choose(tables, backend, hash)?;
            exit.admit(packet.length + outer.header_length(), packet.ttl)?;
            I::decrement_ttl(frame).ok_or(Reason::RewriteFailed)?;
            outer.push(frame, I::NEXT_HEADER, packet.class, packet.length)?;
            exit.set_macs(frame)?;
            Reason::ForwardedIpip
        }
        mode::NAT => {
            exit.admit(packet.length, packet.ttl)?;
            nat::to_backend::<I, F>(frame, packet, I::address(&backend.address), backend.port)?;
            exit.set_macs(frame)?;
            Reason::ForwardedNat
        }
        _ => return Err(Reason::Inconsistent),
    };
    tables.count_forwarded(service.id, id, packet.length, transport.opens);
    Ok(exit.verdict(tables, reason))
}

/// A NAT backend's packet on its way to the client. An error is a drop.
#[inline(always)]
fn reply<I: Ip, F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    packet: &Packet<I::Address>,
    reverse: &Reverse,
) -> Result<Verdict, Reason> {
    let next_hop = I::route(tables, packet.destination).ok_or(Reason::NoRoute)?;
    if next_hop == NextHop::LOCAL {
        // The backend answers this host itself: a health check, most likely.
        return Ok(Verdict::pass(Reason::NoService));
    }
    if !next_hop.is_resolved() {
        I::want_neighbour(tables, packet.destination);
        return Err(Reason::ClientUnresolved);
    }
    let exit = Exit::find(tables, next_hop)?;
    exit.admit(packet.length, packet.ttl)?;
    nat::to_client::<I, F>(frame, packet, I::address(&reverse.address), reverse.port)?;
    exit.set_macs(frame)?;
    tables.count_replied(reverse.service, reverse.backend, packet.length);
    Ok(exit.verdict(tables, Reason::RepliedNat))
}
