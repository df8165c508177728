//! The flow tables: their keys, entries and buckets.

use bytemuck::{Pod, Zeroable};

use super::{MAX_BACKEND_ID, NO_BACKEND};

/// Entries of the flow-table counters ([`crate::tracking::FlowEvent`]), with room for more.
pub const FLOW_COUNTERS: u32 = 16;

/// Where in the map `FLOW_ENTRIES` the entries of the IPv4 table are counted.
pub const ENTRIES_V4: u32 = 0;
/// Where those of the IPv6 table are: a line of memory further on.
pub const ENTRIES_V6: u32 = 8;

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
    /// Taken out, and as good as not there. Nothing changes such an entry any more, until its place is given back.
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
    /// That of a place where no entry is.
    pub const FREE: Self = Self(0);

    /// That of a place where an entry is about to be.
    pub const CLAIMED: Self = Self::new(NO_BACKEND, flow_flags::BURIED, 0);

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

    /// Whether the entry was taken out, or is not there yet.
    #[must_use]
    #[inline(always)]
    pub const fn is_buried(self) -> bool {
        self.flags() & flow_flags::BURIED != 0
    }

    /// Whether this is the word of an entry that packets find.
    #[must_use]
    #[inline(always)]
    pub const fn is_entry(self) -> bool {
        self.0 != Self::FREE.0 && !self.is_buried()
    }

    /// The same with more [`flow_flags`].
    #[must_use]
    #[inline(always)]
    pub const fn with(self, flags: u8) -> Self {
        Self(self.0 | (flags as u64) << 24)
    }
}

/// An entry of the flow table, without its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowEntry {
    /// The flow's backend and state.
    pub word: FlowWord,
    /// When the flow was opened or, where that was not seen, learnt: seconds of the monotonic clock.
    pub opened: u32,
}

/// A bucket of the table of IPv4 flows: a line of memory. See [`crate::flow_table`].
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct FlowBucketV4(pub [u64; 8]);

/// A bucket of the table of IPv6 flows: two lines of memory, one for each place.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct FlowBucketV6(pub [u64; 16]);

const _: () = {
    assert!(size_of::<FlowKeyV4>() == 16);
    assert!(size_of::<FlowKeyV6>() == 40);
    assert!(size_of::<FlowBucketV4>() == 64);
    assert!(size_of::<FlowBucketV6>() == 128);
};
