//! The flow tables: their keys and entries, and what deletes these.

use bytemuck::{Pod, Zeroable};

use super::MAX_BACKEND_ID;

/// Entries of the flow-table counters ([`crate::tracking::FlowEvent`]), with room for more.
pub const FLOW_COUNTERS: u32 = 16;

/// 5-tuple of an IPv4 flow, as its client's packets have it: a key of the flow table.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct FlowKeyV4 {
    /// The client's address, network order.
    pub source: [u8; 4],
    /// The VIP, network order.
    pub destination: [u8; 4],
    /// The client's port, network order.
    pub source_port: [u8; 2],
    /// The service's port, network order.
    pub destination_port: [u8; 2],
    /// IP protocol number.
    pub protocol: u32,
}

/// 5-tuple of an IPv6 flow; see [`FlowKeyV4`].
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct FlowKeyV6 {
    /// The client's address.
    pub source: [u8; 16],
    /// The VIP.
    pub destination: [u8; 16],
    /// The client's port, network order.
    pub source_port: [u8; 2],
    /// The service's port, network order.
    pub destination_port: [u8; 2],
    /// IP protocol number.
    pub protocol: u32,
}

/// Bits of [`FlowWord::flags`].
pub mod flow_flags {
    /// The client has sent more than a SYN.
    pub const ESTABLISHED: u8 = 1;
    /// The client has sent a FIN.
    pub const FIN: u8 = 1 << 1;
    /// The backend has sent a FIN; only seen in mode `nat`.
    pub const FIN_BACK: u8 = 1 << 2;
    /// The last that was seen is an RST.
    pub const RESET: u8 = 1 << 3;
    /// About to be deleted, and as good as not there. Nothing changes such an entry any more.
    pub const BURIED: u8 = 1 << 7;
}

/// What is known of a tracked flow, in one word that is only ever changed by compare-and-swap, so that whoever decides
/// from it (a packet, the sweeper) decides from what holds at that moment:
///
/// ```text
///  63                    32 31      24 23             0
/// +------------------------+----------+----------------+
/// |   seen (seconds)       |  flags   |    backend     |
/// +------------------------+----------+----------------+
/// ```
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct FlowWord(pub u64);

impl FlowWord {
    /// A flow of `backend` with these [`flow_flags`], last seen at `seen`, in seconds of the monotonic clock.
    #[must_use]
    #[inline(always)]
    pub const fn new(backend: u32, flags: u8, seen: u32) -> Self {
        Self((seen as u64) << 32 | (flags as u64) << 24 | (backend & MAX_BACKEND_ID) as u64)
    }

    /// Id of the backend that owns the flow.
    #[must_use]
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "24 bits are what is wanted")]
    pub const fn backend(self) -> u32 {
        (self.0 & MAX_BACKEND_ID as u64) as u32
    }

    /// Bits of [`flow_flags`].
    #[must_use]
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "eight bits are what is wanted")]
    pub const fn flags(self) -> u8 {
        (self.0 >> 24) as u8
    }

    /// When its client was last heard, in seconds of the monotonic clock.
    #[must_use]
    #[inline(always)]
    pub const fn seen(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Whether the client has closed the flow, or it was reset.
    #[must_use]
    #[inline(always)]
    pub const fn is_closed(self) -> bool {
        self.flags() & (flow_flags::FIN | flow_flags::RESET) != 0
    }

    /// Whether the entry is about to be deleted.
    #[must_use]
    #[inline(always)]
    pub const fn is_buried(self) -> bool {
        self.flags() & flow_flags::BURIED != 0
    }

    /// The same with more [`flow_flags`].
    #[must_use]
    #[inline(always)]
    pub const fn with(self, flags: u8) -> Self {
        Self(self.0 | (flags as u64) << 24)
    }
}

/// An entry of the flow table: its value.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct FlowEntry {
    /// The flow's backend and state.
    pub word: FlowWord,
    /// When the flow was opened or, where that was not seen, learnt: seconds of the monotonic clock.
    pub opened: u32,
    /// Hash of the flow, by which a packet finds that the entry is another flow's by now.
    pub tag: u32,
}

/// A judged entry of an IPv4 flow, on its way to the program `weir_bury_v4`: deleted if its word is still this one.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct BurialV4 {
    /// The flow, a [`FlowKeyV4`]; in bytes, since it travels as a packet and packets are not aligned.
    pub key: [u8; 16],
    /// Its [`FlowWord`] as it was judged, in the machine's byte order; all 0 is no burial.
    pub word: [u8; 8],
}

/// A judged entry of an IPv6 flow; see [`BurialV4`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct BurialV6 {
    /// The flow, a [`FlowKeyV6`].
    pub key: [[u8; 8]; 5],
    /// Its [`FlowWord`] as it was judged, in the machine's byte order; all 0 is no burial.
    pub word: [u8; 8],
}

/// Most burials that one run of the programs does.
pub const BURIALS: usize = 32;

const _: () = {
    assert!(size_of::<FlowKeyV4>() == 16);
    assert!(size_of::<FlowKeyV6>() == 40);
    assert!(size_of::<FlowEntry>() == 16);
    assert!(size_of::<BurialV4>() == 24);
    assert!(size_of::<BurialV6>() == 48);
};
