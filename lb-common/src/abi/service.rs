//! Services, as packets find them.

use bytemuck::{Pod, Zeroable};

use super::{BackendEntry, EndpointV4, EndpointV6, Reverse, SteadyLayout, family};

/// Bits of [`Service::flags`].
pub mod service_flags {
    /// The slot is chosen by the source address alone instead of the 5-tuple.
    pub const HASH_SOURCE: u32 = 1;
    /// Not a service: marks an address as a VIP, under (address, port 0, protocol 0), so that packets whose
    /// ports can't be read (fragments, extension headers) are known to be Weir's. These have maps of their own.
    pub const VIP_MARKER: u32 = 1 << 1;
    /// Packets of flows whose backend is gone are dropped. With neither this nor [`REROUTE`], TCP is reset.
    pub const DROP: u32 = 1 << 2;
    /// Packets of flows whose backend is gone go to another backend.
    pub const REROUTE: u32 = 1 << 3;
    /// Handshakes are timed, see [`super::Handshake`].
    pub const TIME_HANDSHAKES: u32 = 1 << 4;
}

/// Who takes a new flow ([`Service::choice`]).
pub mod choice {
    /// The slot's `current`.
    pub const SLOT: u32 = 0;
    /// The ring's entries in turn.
    pub const TURN: u32 = 1;
    /// An entry of the ring at random.
    pub const RANDOM: u32 = 2;
    /// Of all entries of the ring, at most [`super::COMPARED_BACKENDS`], the one with the fewest flows for its weight.
    pub const LEAST: u32 = 3;
    /// Of two entries of the ring, drawn at random, the one with fewer flows for its weight.
    pub const LEAST_OF_TWO: u32 = 4;
}

/// What a (VIP, port, protocol) maps to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Service {
    /// Index into the service counters.
    pub id: u32,
    /// First slot of this service in the slot array.
    pub first_slot: u32,
    /// Number of slots.
    pub slot_count: u32,
    /// Bits of [`service_flags`].
    pub flags: u32,
    /// One of [`choice`].
    pub choice: u32,
    /// Entries of its [`Ring`](super::Ring) that count, at most [`RING_ENTRIES`](super::RING_ENTRIES).
    pub ring_length: u32,
}

impl Service {
    /// What marks an address as a VIP, see [`service_flags::VIP_MARKER`].
    pub const VIP_MARKER: Self = Self {
        id: 0,
        first_slot: 0,
        slot_count: 0,
        flags: service_flags::VIP_MARKER,
        choice: choice::SLOT,
        ring_length: 0,
    };

    /// Whether every new flow gets an entry in the flow table. The slot alone always gives a SYN and its retransmission
    /// the same backend; any other choice does not, so the first one has to be remembered.
    #[must_use]
    #[inline(always)]
    pub const fn tracks_every_flow(&self) -> bool {
        self.choice != choice::SLOT
    }

    /// Whether packets of flows whose backend is gone are reset, where they can be.
    #[must_use]
    #[inline(always)]
    pub const fn resets(&self) -> bool {
        self.flags & (service_flags::DROP | service_flags::REROUTE) == 0
    }
}

/// A service as packets find it: one cache line, under the service's id in an array.
///
/// The endpoint and the range never change as long as the index of services leads here. Everything else changes word by word.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct ServiceEntry {
    /// The VIP, network order; IPv4 in the first four bytes, the rest 0.
    pub address: [u8; 16],
    /// Port, network order; 0 is every port.
    pub port: [u8; 2],
    /// IP protocol number.
    pub protocol: u8,
    /// One of [`family`]; 0 is an empty entry.
    pub family: u8,
    /// Always 0.
    pub pad: [u8; 4],
    /// The service.
    pub service: Service,
    /// How the places of its slots are to be read.
    pub steady: SteadyLayout,
    /// Always 0.
    pub more_pad: [u8; 8],
}

impl From<Service> for ServiceEntry {
    /// Without an endpoint and without places.
    fn from(service: Service) -> Self {
        Self { service, ..Self::zeroed() }
    }
}

impl ServiceEntry {
    /// Whether it is that of this IPv4 endpoint.
    #[must_use]
    #[inline(always)]
    pub fn is_at_v4(&self, endpoint: &EndpointV4) -> bool {
        let [address, ..]: [[u8; 4]; 4] = bytemuck::cast(self.address);
        address == endpoint.address && self.is_at(endpoint.port, endpoint.protocol, family::V4)
    }

    /// Whether it is that of this IPv6 endpoint.
    #[must_use]
    #[inline(always)]
    pub fn is_at_v6(&self, endpoint: &EndpointV6) -> bool {
        self.address == endpoint.address && self.is_at(endpoint.port, endpoint.protocol, family::V6)
    }

    #[inline(always)]
    fn is_at(&self, port: [u8; 2], protocol: u8, family: u8) -> bool {
        self.port == port && self.protocol == protocol && self.family == family
    }

    /// The way back from `backend`, which has the id `id` and is of this service.
    #[must_use]
    #[inline(always)]
    pub fn reverse(&self, id: u32, backend: &BackendEntry) -> Reverse {
        Reverse { address: self.address, service: backend.service(), backend: id, port: self.port, pad: [0; 2] }
    }

    /// The port that replies of `backend`, which is of this service, come from: its own, or else the service's.
    #[must_use]
    #[inline(always)]
    pub fn port_of(&self, backend: &BackendEntry) -> [u8; 2] {
        if backend.port() == [0; 2] { self.port } else { backend.port() }
    }
}
