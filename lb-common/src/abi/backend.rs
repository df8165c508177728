//! Backends: what there is to say of one, and how packets find it.

use bytemuck::{Pod, Zeroable};

use super::{EndpointV4, EndpointV6, NextHop, ServiceEntry, family};

/// Forwarding modes ([`Backend::mode`]).
pub mod mode {
    /// An empty entry.
    pub const NONE: u8 = 0;
    /// Direct server return: only the MAC addresses change.
    pub const L2: u8 = 1;
    /// IP in IP, any family in any family.
    pub const IPIP: u8 = 2;
    /// Destination rewritten; replies are rewritten back through Weir.
    pub const NAT: u8 = 3;
}

/// Bits of [`Backend::state`].
pub mod backend_state {
    /// The last word of the health checks was "down".
    pub const DOWN: u8 = 1;
    /// Draining: takes no new flows.
    pub const DRAINING: u8 = 1 << 1;
    /// Its flows count as gone: their packets get what the service's policy says. The one bit that the packet path
    /// reads.
    pub const GONE: u8 = 1 << 2;
    /// No longer in the configuration; serves the flows that it has until none is left.
    pub const REMOVED: u8 = 1 << 3;
}

/// Largest weight that a [`BackendEntry`] can hold.
pub const MAX_WEIGHT: u32 = (1 << 20) - 1;
/// Largest id of a service that a [`BackendEntry`] can hold.
pub const MAX_SERVICE_ID: u32 = (1 << 20) - 1;

/// One backend of one service. An address never changes under an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Zeroable)]
pub struct Backend {
    /// Address, network order; IPv4 in the first four bytes, the rest 0.
    pub address: [u8; 16],
    /// Where frames for this backend go.
    pub next_hop: NextHop,
    /// Id of the service it belongs to, at most [`MAX_SERVICE_ID`].
    pub service: u32,
    /// Share of new flows relative to the service's other backends, at most [`MAX_WEIGHT`]. Only a choice by
    /// [`choice::LEAST`](super::choice::LEAST) and [`choice::LEAST_OF_TWO`](super::choice::LEAST_OF_TWO) reads it on the packet path.
    pub weight: u32,
    /// `nat`: destination port, network order; 0 keeps the packet's.
    pub port: [u8; 2],
    /// One of [`mode`]; 0 is an empty entry.
    pub mode: u8,
    /// One of [`family`].
    pub family: u8,
    /// Bits of [`backend_state`].
    pub state: u8,
}

/// A [`Backend`] as packets find it: half a cache line, under the backend's id in an array. Nothing at all is an empty entry.
///
/// Its last word is replaced in one store, after the others:
///
/// ```text
///  63        44 43        24 23   20 19    18 17  16 15         0
/// +------------+------------+-------+--------+------+------------+
/// |   weight   |  service   | state | family | mode |    port    |
/// +------------+------------+-------+--------+------+------------+
/// ```
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct BackendEntry {
    /// See [`Backend::address`].
    pub address: [u8; 16],
    /// See [`Backend::next_hop`].
    pub next_hop: NextHop,
    rest: u64,
}

#[expect(clippy::cast_possible_truncation, reason = "taken apart")]
impl BackendEntry {
    /// See [`Backend::port`].
    #[must_use]
    #[inline(always)]
    pub const fn port(&self) -> [u8; 2] {
        (self.rest as u16).to_le_bytes()
    }

    /// See [`Backend::mode`].
    #[must_use]
    #[inline(always)]
    pub const fn mode(&self) -> u8 {
        (self.rest >> 16 & 0b11) as u8
    }

    /// See [`Backend::family`].
    #[must_use]
    #[inline(always)]
    pub const fn family(&self) -> u8 {
        match self.rest >> 18 & 0b11 {
            1 => family::V4,
            2 => family::V6,
            _ => 0,
        }
    }

    /// See [`Backend::state`].
    #[must_use]
    #[inline(always)]
    pub const fn state(&self) -> u8 {
        (self.rest >> 20 & 0b1111) as u8
    }

    /// See [`Backend::service`].
    #[must_use]
    #[inline(always)]
    pub const fn service(&self) -> u32 {
        (self.rest >> 24) as u32 & MAX_SERVICE_ID
    }

    /// See [`Backend::weight`].
    #[must_use]
    #[inline(always)]
    pub const fn weight(&self) -> u32 {
        (self.rest >> 44) as u32
    }

    /// Whether replies of this backend of `service` come from this IPv4 endpoint.
    #[must_use]
    #[inline(always)]
    pub fn is_behind_v4(&self, endpoint: &EndpointV4, service: &ServiceEntry) -> bool {
        let [address, ..]: [[u8; 4]; 4] = bytemuck::cast(self.address);
        address == endpoint.address
            && self.family() == family::V4
            && self.is_behind(endpoint.port, endpoint.protocol, service)
    }

    /// Whether replies of this backend of `service` come from this IPv6 endpoint.
    #[must_use]
    #[inline(always)]
    pub fn is_behind_v6(&self, endpoint: &EndpointV6, service: &ServiceEntry) -> bool {
        self.address == endpoint.address
            && self.family() == family::V6
            && self.is_behind(endpoint.port, endpoint.protocol, service)
    }

    #[inline(always)]
    fn is_behind(&self, port: [u8; 2], protocol: u8, service: &ServiceEntry) -> bool {
        port == service.port_of(self) && protocol == service.protocol
    }
}

impl From<Backend> for BackendEntry {
    /// A weight or an id that is too large is cut: the controller makes none.
    fn from(backend: Backend) -> Self {
        let family = match backend.family {
            family::V4 => 1,
            family::V6 => 2,
            _ => 0,
        };
        let rest = u64::from(u16::from_le_bytes(backend.port))
            | u64::from(backend.mode & 0b11) << 16
            | family << 18
            | u64::from(backend.state & 0b1111) << 20
            | u64::from(backend.service & MAX_SERVICE_ID) << 24
            | u64::from(backend.weight & MAX_WEIGHT) << 44;
        Self { address: backend.address, next_hop: backend.next_hop, rest }
    }
}

impl From<BackendEntry> for Backend {
    fn from(entry: BackendEntry) -> Self {
        Self {
            address: entry.address,
            next_hop: entry.next_hop,
            service: entry.service(),
            weight: entry.weight(),
            port: entry.port(),
            mode: entry.mode(),
            family: entry.family(),
            state: entry.state(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_entry_tells_all_of_a_backend(
            (address, next_hop, port) in any::<([u8; 16], u64, [u8; 2])>(),
            (service, weight) in (0..=MAX_SERVICE_ID, 0..=MAX_WEIGHT),
            (mode, family, state) in (0u8..4, prop::sample::select(&[0, family::V4, family::V6]), 0u8..16),
        ) {
            let next_hop = NextHop(next_hop);
            let backend = Backend { address, next_hop, service, weight, port, mode, family, state };
            prop_assert_eq!(Backend::from(BackendEntry::from(backend)), backend);
        }
    }

    #[test]
    fn nothing_is_an_empty_entry() {
        assert_eq!(BackendEntry::from(Backend::zeroed()), BackendEntry::zeroed());
        assert_eq!(Backend::from(BackendEntry::zeroed()), Backend::zeroed());
    }
}
