//! The packet's way through Weir: parse, service, slot, backend, all checks, and only then the rewrite.
//!
//! Nothing is written before every check has passed, so a packet that is passed to the kernel leaves as it came.

use core::borrow::Borrow as _;

use crate::{
    abi::{
        Egress, NO_BACKEND, NextHop, Reverse, Service, ServiceEntry, family, flow_flags, kinds, mode, protocol,
        service_flags,
    },
    encap,
    flow::PacketFlow,
    frame::Frame,
    handshake, hash,
    ip::{Ip, Packet, V4, V6},
    nat,
    reason::Reason,
    reset,
    tables::{Step, Tables},
    tracking::{self, Owner, Policy, Segment},
    wire::{ETHERNET_LEN, Ethernet, TCP_LEN, Tcp, Udp, ethertype, tcp_flags},
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

impl From<Reason> for Verdict {
    /// What stands in a packet's way has it dropped.
    #[inline(always)]
    fn from(reason: Reason) -> Self {
        Self::drop(reason)
    }
}

/// Decides what happens to `frame`, rewrites it for that, and counts it.
#[inline(always)]
pub fn process<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Verdict {
    sent(frame, tables).unwrap_or_else(|verdict| {
        tables.count_reason(verdict.reason);
        verdict
    })
}

/// The verdict on a packet that was sent, which has been counted; an error is that on any other, which has not.
#[inline(always)]
fn sent<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Result<Verdict, Verdict> {
    let Some(ethernet) = frame.at::<Ethernet>(0) else {
        return Err(Verdict::pass(Reason::Malformed));
    };
    if ethernet.destination[0] & 1 != 0 {
        return Err(Verdict::pass(Reason::NotUnicast));
    }
    match ethernet.ethertype {
        ethertype::IPV4 => sent_ip::<V4, F, T>(frame, tables),
        ethertype::IPV6 => sent_ip::<V6, F, T>(frame, tables),
        ethertype::VLAN | ethertype::QINQ => Err(Verdict::pass(Reason::Tagged)),
        _ => Err(Verdict::pass(Reason::NotIp)),
    }
}

/// The ports of a packet, network order. Aligned, so that both are one word.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Source port.
    pub source: [u8; 2],
    /// Destination port.
    pub destination: [u8; 2],
}

/// What was read from a transport header.
#[derive(Clone, Copy)]
struct Transport {
    ports: Ports,
    segment: Segment,
}

#[inline(always)]
fn sent_ip<I: Ip, F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Result<Verdict, Verdict> {
    let Some(packet) = I::read(frame, ETHERNET_LEN) else {
        return Err(Verdict::pass(Reason::Malformed));
    };
    if let Some(obstacle) = packet.obstacle {
        // Without ports only the address tells whether the packet is Weir's.
        let is_ours = I::is_vip(tables, packet.destination);
        return Err(if is_ours { Verdict::drop(obstacle) } else { Verdict::pass(Reason::NoService) });
    }
    let (ports, segment) = match packet.protocol {
        protocol::TCP => {
            let Some(header) = tcp_header(frame, &packet) else { return Err(Verdict::pass(Reason::Malformed)) };
            (Ports { source: header.source, destination: header.destination }, segment(header.flags))
        }
        protocol::UDP => {
            let Some(header) = udp_header(frame, &packet) else { return Err(Verdict::pass(Reason::Malformed)) };
            let segment = Segment { opens: false, flags: flow_flags::ESTABLISHED };
            (Ports { source: header.source, destination: header.destination }, segment)
        }
        _ => return Err(Verdict::pass(Reason::OtherProtocol)),
    };
    let transport = Transport { ports, segment };
    if let Some(entry) = find_service::<I, T>(tables, packet.destination, ports.destination, packet.protocol) {
        return forward::<I, F, T>(frame, tables, &packet, &transport, entry.borrow()).map_err(Verdict::drop);
    }
    if let Some(reverse) = find_reverse::<I, T>(tables, packet.source, ports.source, packet.protocol) {
        return reply::<I, F, T>(frame, tables, &packet, &transport, &reverse);
    }
    Err(Verdict::pass(Reason::NoService))
}

/// The service on this port of the address, or else on all of its ports.
#[inline(always)]
fn find_service<I: Ip, T: Tables>(tables: &T, address: I::Address, port: [u8; 2], protocol: u8) -> Option<T::Service> {
    let found = I::service(tables, address, port, protocol);
    if found.is_none() && tables.kinds() & kinds::ANY_PORT_SERVICES != 0 {
        return I::service(tables, address, [0; 2], protocol);
    }
    found
}

/// The way back from this port of a backend, or else from all of its ports.
#[inline(always)]
fn find_reverse<I: Ip, T: Tables>(tables: &T, address: I::Address, port: [u8; 2], protocol: u8) -> Option<Reverse> {
    let kinds = tables.kinds();
    if kinds & kinds::REVERSE != 0 {
        let found = I::reverse(tables, address, port, protocol);
        if found.is_some() {
            return found;
        }
    }
    if kinds & kinds::ANY_PORT_REVERSE == 0 {
        return None;
    }
    I::reverse(tables, address, [0; 2], protocol)
}

/// The TCP header, if it is sound.
#[inline(always)]
fn tcp_header<'f, F: Frame, A>(frame: &'f F, packet: &Packet<A>) -> Option<&'f Tcp> {
    let header = frame.at::<Tcp>(packet.transport)?;
    let length = u32::from(header.data_offset >> 4) * 4;
    (length >= u32::from(TCP_LEN) && length <= packet.payload_length()).then_some(header)
}

/// The UDP header, if the packet has room for it.
#[inline(always)]
fn udp_header<'f, F: Frame, A>(frame: &'f F, packet: &Packet<A>) -> Option<&'f Udp> {
    let header = frame.at::<Udp>(packet.transport)?;
    (packet.payload_length() as usize >= size_of::<Udp>()).then_some(header)
}

/// What the TCP flags of a client's packet tell.
#[inline(always)]
const fn segment(flags: u8) -> Segment {
    if flags & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::SYN {
        return Segment { opens: true, flags: 0 };
    }
    let mut told = flow_flags::ESTABLISHED;
    if flags & tcp_flags::FIN != 0 {
        told |= flow_flags::FIN;
    }
    if flags & tcp_flags::RST != 0 {
        told |= flow_flags::RESET;
    }
    Segment { opens: false, flags: told }
}

/// The way out of this host: next hop and device.
#[derive(Clone, Copy)]
pub(crate) struct Exit {
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
    pub(crate) fn admit(&self, length: u32, ttl: u8) -> Result<(), Reason> {
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

    /// The Ethernet header of a packet that leaves here.
    #[inline(always)]
    pub(crate) fn ethernet(&self, ethertype: [u8; 2]) -> Ethernet {
        Ethernet { destination: self.next_hop.mac(), source: self.egress.mac, ethertype }
    }

    #[inline(always)]
    fn set_macs<F: Frame>(&self, frame: &mut F) -> Result<(), Reason> {
        let ethernet = frame.at_mut::<Ethernet>(0).ok_or(Reason::RewriteFailed)?;
        *ethernet = self.ethernet(ethernet.ethertype);
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
    entry: &ServiceEntry,
) -> Result<Verdict, Reason> {
    let service = &entry.service;
    let key = I::flow_key(packet.source, packet.destination, transport.ports, packet.protocol);
    let hash = slot_hash::<I, T>(tables, service, packet.source, &key);
    let offset = hash::slot_of(hash, service.slot_count);
    let id = match tables.steady(entry, offset) {
        NO_BACKEND => {
            let index = service.first_slot.wrapping_add(offset);
            let slot = tables.slot(index).ok_or(Reason::Inconsistent)?;
            tables.note(Step::Slot { service: service.id, index, word: slot });
            if slot.tracked() {
                let flow = PacketFlow::<I, T>::new(tables, key, service, slot, hash);
                match tracked_owner(&flow, transport.segment) {
                    GONE if service.resets() => return reset::answer::<I, F, T>(frame, tables),
                    GONE => return Err(Reason::BackendGone),
                    REFUSED => return Err(Reason::FlowTableFull),
                    id => id,
                }
            } else {
                slot.current()
            }
        }
        id => id,
    };
    if id == NO_BACKEND {
        return Err(Reason::NoBackend);
    }
    tables.note(Step::Backend(id));
    let backend = tables.backend(id).ok_or(Reason::Inconsistent)?;
    let backend = backend.borrow();
    if !backend.next_hop.is_resolved() {
        return Err(Reason::NextHopUnresolved);
    }
    let exit = Exit::find(tables, backend.next_hop)?;
    let reason = match backend.mode() {
        mode::L2 => {
            exit.admit(packet.length, packet.ttl)?;
            I::decrement_ttl(frame).ok_or(Reason::RewriteFailed)?;
            exit.set_macs(frame)?;
            Reason::ForwardedL2
        }
        mode::IPIP => {
            if backend.family() == family::V4 {
                encap::in_ipv4::<I, F, T>(frame, tables, packet, backend, &exit, hash)?;
            } else {
                encap::in_ipv6::<I, F, T>(frame, tables, packet, backend, &exit, hash)?;
            }
            Reason::ForwardedIpip
        }
        mode::NAT => {
            exit.admit(packet.length, packet.ttl)?;
            nat::to_backend::<I, F>(frame, packet, I::address(&backend.address), backend.port())?;
            exit.set_macs(frame)?;
            Reason::ForwardedNat
        }
        _ => return Err(Reason::Inconsistent),
    };
    if service.flags & service_flags::TIME_HANDSHAKES != 0 && packet.protocol == protocol::TCP {
        handshake::follow(tables, hash, id, transport.segment.opens);
    }
    tables.count_forwarded(reason, service.id, id, packet.length, transport.segment.opens);
    Ok(exit.verdict(tables, reason))
}

/// What [`tracked_owner`] tells of a flow whose backend is gone: no id has so many bits.
const GONE: u32 = u32::MAX;
/// What it tells of a new flow that nobody can have.
const REFUSED: u32 = u32::MAX - 1;

/// Whose a packet of a tracked slot is, or [`GONE`], or [`REFUSED`].
///
/// A function of its own, so that the steady state pays nothing for it: not the registers, and not the stack. Hence a plain
/// number: of an enum some bytes are undefined at times, and the verifier lets no function return that.
#[inline(never)]
fn tracked_owner<I: Ip, T: Tables>(flow: &PacketFlow<'_, I, T>, segment: Segment) -> u32 {
    match tracking::owner(flow, flow.slot, Policy::of(flow.service), segment) {
        Owner::Backend(id) => id,
        Owner::Gone => GONE,
        Owner::Refused => REFUSED,
    }
}

/// The hash that chooses the slot of a flow.
#[inline(always)]
fn slot_hash<I: Ip, T: Tables>(tables: &T, service: &Service, source: I::Address, key: &I::FlowKey) -> u64 {
    if service.flags & service_flags::HASH_SOURCE == 0 {
        I::flow_hash(tables.seed(), key)
    } else {
        I::source_hash(tables.seed(), source)
    }
}

/// A NAT backend's packet on its way to the client. An error is a drop.
#[inline(always)]
fn reply<I: Ip, F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    packet: &Packet<I::Address>,
    transport: &Transport,
    reverse: &Reverse,
) -> Result<Verdict, Verdict> {
    tables.note(Step::Reply(reverse.backend));
    let next_hop = I::route(tables, packet.destination).ok_or(Reason::NoRoute)?;
    if next_hop == NextHop::LOCAL {
        // The backend answers this host itself: a health check, most likely.
        return Err(Verdict::pass(Reason::NoService));
    }
    if !next_hop.is_resolved() {
        I::want_neighbour(tables, packet.destination);
        return Err(Verdict::drop(Reason::ClientUnresolved));
    }
    let exit = Exit::find(tables, next_hop)?;
    exit.admit(packet.length, packet.ttl)?;
    nat::to_client::<I, F>(frame, packet, I::address(&reverse.address), reverse.port)?;
    exit.set_macs(frame)?;
    if transport.segment.flags & (flow_flags::FIN | flow_flags::RESET) != 0 {
        let [client, vip] = [packet.destination, I::address(&reverse.address)];
        let vip_port = if reverse.port == [0; 2] { transport.ports.source } else { reverse.port };
        let ports = Ports { source: transport.ports.destination, destination: vip_port };
        let key = I::flow_key(client, vip, ports, packet.protocol);
        if let Some(entry) = I::service(tables, vip, reverse.port, packet.protocol) {
            let service = &entry.borrow().service;
            close_from_behind::<I, T>(tables, client, key, service, reverse.backend, transport.segment.flags);
        }
    }
    tables.count_replied(Reason::RepliedNat, reverse.service, reverse.backend, packet.length);
    Ok(exit.verdict(tables, Reason::RepliedNat))
}

/// Notes that a NAT backend has closed or reset a flow, if the flow has an entry.
#[inline(always)]
fn close_from_behind<I: Ip, T: Tables>(
    tables: &T,
    client: I::Address,
    key: I::FlowKey,
    service: &Service,
    backend: u32,
    told: u8,
) {
    let hash = slot_hash::<I, T>(tables, service, client, &key);
    let index = service.first_slot.wrapping_add(hash::slot_of(hash, service.slot_count));
    let Some(slot) = tables.slot(index).filter(|slot| slot.tracked()) else { return };
    let told = if told & flow_flags::RESET != 0 { flow_flags::RESET } else { flow_flags::FIN_BACK };
    let flow = PacketFlow::<I, T>::new(tables, key, service, slot, hash);
    tracked_close(&flow, backend, told);
}

/// A function of its own, like [`tracked_owner`].
#[inline(never)]
fn tracked_close<I: Ip, T: Tables>(flow: &PacketFlow<'_, I, T>, backend: u32, told: u8) {
    tracking::closed_from_behind(flow, backend, told);
}
