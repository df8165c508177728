//! The tables of the packet path, as it sees them.

use core::borrow::Borrow;

use crate::{
    abi::{
        BackendEntry, Egress, EndpointV4, EndpointV6, FlowEntry, FlowKeyV4, FlowKeyV6, Handshake, NO_BACKEND, NextHop,
        OuterV4, OuterV6, Reverse, ServiceEntry, SlotWord,
    },
    reason::Reason,
    schedule,
    tracking::{Entry, FlowEvent},
};

/// The tables that the packet path reads and counts in: BPF maps in the kernel, collections on the host.
pub trait Tables {
    /// An entry of the flow table.
    type Entry<'a>: Entry
    where
        Self: 'a;

    /// A service that was found: one that lies somewhere, or the tables' own.
    type Service: Borrow<ServiceEntry>;

    /// A backend, likewise.
    type Backend: Borrow<BackendEntry>;

    /// Seed of the flow hash.
    fn seed(&self) -> [u64; 2];
    /// Source network of IPv4 encapsulation.
    fn outer_v4(&self) -> OuterV4;
    /// Source network of IPv6 encapsulation.
    fn outer_v6(&self) -> OuterV6;
    /// Kernel index of the device that the packet came in by.
    fn ingress_ifindex(&self) -> u32;
    /// Bits of [`kinds`]: what may be found at all.
    fn kinds(&self) -> u64;
    /// Service of an IPv4 endpoint.
    fn service_v4(&self, key: &EndpointV4) -> Option<Self::Service>;
    /// Service of an IPv6 endpoint.
    fn service_v6(&self, key: &EndpointV6) -> Option<Self::Service>;
    /// Whether an IPv4 address is a VIP.
    fn is_vip_v4(&self, address: [u8; 4]) -> bool;
    /// Whether an IPv6 address is a VIP.
    fn is_vip_v6(&self, address: [u8; 16]) -> bool;
    /// The backend that has the slot `offset` of a service while the slot is steady (see [`crate::abi::steady`]);
    /// [`NO_BACKEND`] where the slot itself is to be read.
    fn steady(&self, _service: &ServiceEntry, _offset: u32) -> u32 {
        NO_BACKEND
    }
    /// Slot at `index` of the slot array.
    fn slot(&self, index: u32) -> Option<SlotWord>;
    /// Backend with this id.
    fn backend(&self, id: u32) -> Option<Self::Backend>;
    /// Entry of an IPv4 flow, whose hash is `hash`.
    fn flow_v4(&self, key: &FlowKeyV4, hash: u32) -> Option<Self::Entry<'_>>;
    /// Entry of an IPv6 flow, whose hash is `hash`.
    fn flow_v6(&self, key: &FlowKeyV6, hash: u32) -> Option<Self::Entry<'_>>;
    /// Enters an IPv4 flow, if there is room and it has no entry. Whether it did.
    fn insert_flow_v4(&self, key: &FlowKeyV4, hash: u32, entry: &FlowEntry) -> bool;
    /// Enters an IPv6 flow, if there is room and it has no entry. Whether it did.
    fn insert_flow_v6(&self, key: &FlowKeyV6, hash: u32, entry: &FlowEntry) -> bool;
    /// Live entries of the flow table that name a backend.
    fn live_flows(&self, backend: u32) -> u64;
    /// Counts one live entry more of a backend, or one less.
    fn count_live(&self, backend: u32, more: bool);
    /// Counts what happened in the flow table.
    fn count_event(&self, event: FlowEvent);
    /// The backend at `place`, below [`crate::abi::RING_ENTRIES`], of a service's ring; [`NO_BACKEND`] beyond its end.
    fn ring(&self, service: u32, place: u32) -> u32;
    /// [`schedule::draw`], for which the kernel has a function of its own.
    fn draw(&self, service: u32, choice: u32, length: u32) -> u32
    where
        Self: Sized,
    {
        schedule::draw(self, service, choice, length)
    }
    /// A number that counts up with every call for a service.
    fn turn(&self, service: u32) -> u32;
    /// A random number.
    fn random(&self) -> u32;
    /// Seconds of the monotonic clock. May be some milliseconds old.
    fn now(&self) -> u32;
    /// Nanoseconds of the monotonic clock.
    fn now_nanoseconds(&self) -> u64;
    /// The handshake at `place`.
    fn handshake(&self, place: u32) -> Option<Handshake>;
    /// Puts a handshake at `place`.
    fn set_handshake(&self, place: u32, handshake: Handshake);
    /// Counts a handshake with a backend and the nanoseconds that it took.
    fn count_handshake(&self, backend: u32, nanoseconds: u64);
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
    /// Counts a packet that neither goes to a backend nor comes from one.
    fn count_reason(&self, reason: Reason);
    /// Counts a packet sent to a backend, and its reason; `opens` tells a TCP SYN.
    fn count_forwarded(&self, reason: Reason, service: u32, backend: u32, bytes: u32, opens: bool);
    /// Counts a reply sent to a client, and its reason.
    fn count_replied(&self, reason: Reason, service: u32, backend: u32, bytes: u32);
    /// Takes in a step on the packet's way. Whoever does not explain does nothing.
    fn note(&self, step: Step);
}

/// A step on a packet's way, for explanations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The slot of a client's packet.
    Slot {
        /// Id of the service.
        service: u32,
        /// Index of the slot.
        index: u32,
        /// The slot.
        word: SlotWord,
    },
    /// Who takes a new flow.
    Choice(u32),
    /// The backend that the packet goes to.
    Backend(u32),
    /// The backend that the reply comes from.
    Reply(u32),
}
