//! Map keys and values: what the XDP programs and the controller agree on, byte for byte.
//!
//! Every type but [`Backend`] and [`Traffic`], which only the controller has, is `#[repr(C)]` and [`bytemuck::Pod`]: no enum, no bool, no implicit padding. Fields that come from
//! or go to packets stay in network order as byte arrays. Changing anything here changes [`ABI_VERSION`].

mod backend;
pub mod counters;
mod explanation;
pub mod fixed;
mod flow;
mod service;
pub mod steady;

use bytemuck::{Pod, Zeroable};

pub use backend::{Backend, BackendEntry, MAX_SERVICE_ID, MAX_WEIGHT, backend_state, mode};
pub use counters::{CounterLayout, Forwarded, HandshakeTimes, REASON_COUNTERS, Replied, Traffic};
pub use explanation::{Explanation, explained};
pub use flow::{
    ENTRIES_V4, ENTRIES_V6, FLOW_COUNTERS, FlowBucketV4, FlowBucketV6, FlowEntry, FlowKeyV4, FlowKeyV6, FlowWord,
    flow_flags,
};
pub use service::{Service, ServiceEntry, choice, service_flags};
pub use steady::SteadyLayout;

/// Layout version of every pinned map. A controller that finds another version refuses to touch the maps.
pub const ABI_VERSION: u32 = 8;

/// Backend id that names no backend. Ids start at 1.
pub const NO_BACKEND: u32 = 0;

/// Most entries of a [`Ring`].
pub const RING_ENTRIES: u32 = 1024;

/// Backends that a `least-connections` choice compares one by one; beyond that it takes the better of two.
pub const COMPARED_BACKENDS: u32 = 64;

/// Largest backend id that a [`SlotWord`] can hold.
pub const MAX_BACKEND_ID: u32 = (1 << 24) - 1;

/// IP protocol numbers that services can balance (RFC 9293, RFC 768).
pub mod protocol {
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
}

/// (address, port, protocol) of IPv4: the key of services and of ways back from NAT backends. Port 0 is "every port".
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct EndpointV4 {
    /// IPv4 address, network order.
    pub address: [u8; 4],
    /// Port, network order; 0 is every port.
    pub port: [u8; 2],
    /// IP protocol number, or 0 in a VIP marker (see [`service_flags::VIP_MARKER`]).
    pub protocol: u8,
    /// Always 0.
    pub pad: u8,
}

/// (address, port, protocol) of IPv6; see [`EndpointV4`].
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct EndpointV6 {
    /// IPv6 address.
    pub address: [u8; 16],
    /// Port, network order; 0 is every port.
    pub port: [u8; 2],
    /// IP protocol number, or 0 in a VIP marker (see [`service_flags::VIP_MARKER`]).
    pub protocol: u8,
    /// Always 0.
    pub pad: u8,
}

/// What may be under endpoints besides services on one port: bits of one word, so that no packet is looked up in vain. A bit
/// is set before the first such entry is there, and stays.
pub mod kinds {
    /// Services on every port of an address.
    pub const ANY_PORT_SERVICES: u64 = 1;
    /// Ways back from one port of a backend.
    pub const REVERSE: u64 = 1 << 1;
    /// Ways back from every port of a backend.
    pub const ANY_PORT_REVERSE: u64 = 1 << 2;
}

/// The backends that a service's scheduler draws from, by id: under the service's id in an array.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Ring {
    /// Backend ids; the service's `ring_length` tells how many of them count.
    pub backends: [u32; RING_ENTRIES as usize],
}

/// One slot: which backend takes new flows, which one owns untracked flows, and whether flows may be tracked.
///
/// One aligned 64-bit load reads all of it and one aligned store changes it:
///
/// ```text
///  63          48 47            24 23             0
/// +--------------+----------------+----------------+
/// |    flags     |      base      |    current     |
/// +--------------+----------------+----------------+
/// ```
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct SlotWord(pub u64);

impl SlotWord {
    const ID_MASK: u64 = MAX_BACKEND_ID as u64;
    const BASE_SHIFT: u32 = 24;
    const TRACKED: u64 = 1 << 48;

    /// A slot whose new and untracked flows both belong to `backend`: the steady state.
    #[must_use]
    #[inline(always)]
    pub const fn steady(backend: u32) -> Self {
        Self::new(backend, backend, false)
    }

    /// A slot from its three parts. Ids above [`MAX_BACKEND_ID`] are cut; the controller never allocates them.
    #[must_use]
    #[inline(always)]
    pub const fn new(current: u32, base: u32, tracked: bool) -> Self {
        let tracked = if tracked { Self::TRACKED } else { 0 };
        Self(tracked | (base as u64 & Self::ID_MASK) << Self::BASE_SHIFT | (current as u64 & Self::ID_MASK))
    }

    /// Backend id for new flows.
    #[must_use]
    #[inline(always)]
    pub const fn current(self) -> u32 {
        (self.0 & Self::ID_MASK) as u32
    }

    /// Backend id that untracked flows belong to.
    #[must_use]
    #[inline(always)]
    pub const fn base(self) -> u32 {
        ((self.0 >> Self::BASE_SHIFT) & Self::ID_MASK) as u32
    }

    /// Whether flows of this slot may be in the flow table.
    #[must_use]
    #[inline(always)]
    pub const fn tracked(self) -> bool {
        self.0 & Self::TRACKED != 0
    }
}

/// A resolved next hop, in one word so that it is read and replaced atomically: MAC address and egress index.
///
/// The egress index names an [`Egress`] and the same index of the device map.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct NextHop(pub u64);

impl NextHop {
    /// No neighbour is known.
    pub const UNRESOLVED: Self = Self(0);

    /// Not a neighbour but this host itself: packets to it belong to the kernel. No real next hop has egress 0.
    pub const LOCAL: Self = Self(1);

    /// A next hop behind egress `egress` (1 or more) with link-layer address `mac`.
    #[must_use]
    pub const fn new(mac: [u8; 6], egress: u16) -> Self {
        Self(u64::from_le_bytes([mac[0], mac[1], mac[2], mac[3], mac[4], mac[5], 0, 0]) | (egress as u64) << 48)
    }

    /// Whether a neighbour is known.
    #[must_use]
    #[inline(always)]
    pub const fn is_resolved(self) -> bool {
        self.egress() != 0
    }

    /// Link-layer destination address.
    #[must_use]
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "taken apart into words of two bytes, which are written as such"
    )]
    pub fn mac(self) -> [u8; 6] {
        bytemuck::cast([(self.0 as u16).to_le(), ((self.0 >> 16) as u16).to_le(), ((self.0 >> 32) as u16).to_le()])
    }

    /// Index into the egress array and the device map.
    #[must_use]
    #[inline(always)]
    pub const fn egress(self) -> u16 {
        (self.0 >> 48) as u16
    }
}

/// Address families ([`Backend::family`]).
pub mod family {
    /// IPv4.
    pub const V4: u8 = 4;
    /// IPv6.
    pub const V6: u8 = 6;
}

/// A handshake under way: SYN seen, and the client's next packet awaited. The low bits of the flow hash are its place
/// in an array of [`HANDSHAKES`], where a newer one with the same place takes it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Handshake {
    /// The whole flow hash; 0 is none.
    pub flow: u64,
    /// When the SYN was seen, nanoseconds of the monotonic clock.
    pub opened: u64,
}

/// Handshakes that are timed at once; a power of two.
pub const HANDSHAKES: u32 = 4096;

/// How a reply of a NAT backend is turned back: what follows from its entry and its service's.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Reverse {
    /// The VIP, network order; IPv4 in the first four bytes.
    pub address: [u8; 16],
    /// Id of the service, for the counters.
    pub service: u32,
    /// Id of the backend, for the counters.
    pub backend: u32,
    /// The service's port, network order; 0 keeps the packet's.
    pub port: [u8; 2],
    /// Always 0.
    pub pad: [u8; 2],
}

/// A device that frames leave through.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Egress {
    /// Kernel interface index; 0 is an empty entry.
    pub ifindex: u32,
    /// Largest IP packet, bytes.
    pub mtu: u32,
    /// The device's own link-layer address.
    pub mac: [u8; 6],
    /// Always 0.
    pub pad: [u8; 2],
}

/// What the data plane was loaded with: one element, pinned beside the maps it describes, and a read-only global of
/// the program.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Settings {
    /// [`ABI_VERSION`] of the program that made the maps.
    pub abi_version: u32,
    /// Always 0.
    pub pad: u32,
    /// Seed of the flow hash.
    pub seed: [u64; 2],
    /// Source network of IPv4 encapsulation.
    pub outer_v4: OuterV4,
    /// Source network of IPv6 encapsulation.
    pub outer_v6: OuterV6,
}

/// Source addresses of outer IPv4 headers, host order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct OuterV4 {
    /// Network address; 0 is "none configured".
    pub network: u32,
    /// Bits that carry flow entropy.
    pub host_mask: u32,
}

/// Source addresses of outer IPv6 headers, host order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct OuterV6 {
    /// High half of the network address; 0 is "none configured".
    pub network_high: u64,
    /// Low half of the network address.
    pub network_low: u64,
    /// Bits of the low half that carry flow entropy.
    pub host_mask: u64,
}

/// A client on a connected network whose MAC address the packet path needs: a key that the controller collects.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct WantedNeighbour {
    /// Address, network order; IPv4 in the first four bytes, the rest 0.
    pub address: [u8; 16],
    /// One of [`family`].
    pub family: u8,
}

const _: () = {
    assert!(size_of::<EndpointV4>() == 8);
    assert!(size_of::<EndpointV6>() == 20);
    assert!(size_of::<Service>() == 24);
    assert!(size_of::<ServiceEntry>() == 64);
    assert!(size_of::<Ring>() == 4 * RING_ENTRIES as usize);
    assert!(HANDSHAKES.is_power_of_two() && RING_ENTRIES.is_power_of_two());
    assert!(size_of::<SlotWord>() == 8);
    assert!(size_of::<BackendEntry>() == 32);
    assert!(size_of::<Reverse>() == 28);
    assert!(size_of::<Egress>() == 16);
    assert!(size_of::<Settings>() == 56);
    assert!(size_of::<WantedNeighbour>() == 17);
    assert!(size_of::<Forwarded>() == 32 && size_of::<Replied>() == 16 && size_of::<HandshakeTimes>() == 16);
};
