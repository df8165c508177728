//! Counters: what each CPU has counted, in one element of an array.
//!
//! An array by CPU of every kind of counter would cost a look-up each. This way a packet finds all of its CPU's counters by one,
//! and the controller reads them in memory that it shares. No line of memory is two CPUs':
//!
//! ```text
//! reasons | events of the flow tables | Forwarded: services, backends | Replied: services, backends | HandshakeTimes: backends
//! ```
//!
//! What a packet towards a backend counts is apart from the rest, so that more of it fits into a processor's caches.

use core::ops::AddAssign;

use bytemuck::{Pod, Zeroable};

use super::FLOW_COUNTERS;
use crate::tracking::FlowEvent;

/// Reasons that there is room for: more than there are, so that a new one does not change the layout.
pub const REASON_COUNTERS: u32 = 64;

/// Packets that were sent to a backend, or to those of a service: half a cache line.
#[repr(C, align(32))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Forwarded {
    /// Packets from clients.
    pub packets: u64,
    /// IP bytes of those packets (as received, without link layer).
    pub bytes: u64,
    /// TCP SYNs (without ACK) among them: connections opened or tried.
    pub connections: u64,
    /// Always 0.
    pub pad: u64,
}

/// Replies that were sent back to clients: mode `nat`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Replied {
    /// Packets.
    pub packets: u64,
    /// IP bytes of those packets.
    pub bytes: u64,
}

/// Sums of the handshakes with a backend.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct HandshakeTimes {
    /// From a SYN to the client's next packet, nanoseconds: the client's round trip and the backend's answer.
    pub nanoseconds: u64,
    /// How many were timed.
    pub count: u64,
}

impl AddAssign for Forwarded {
    fn add_assign(&mut self, more: Self) {
        self.packets += more.packets;
        self.bytes += more.bytes;
        self.connections += more.connections;
    }
}

impl AddAssign for Replied {
    fn add_assign(&mut self, more: Self) {
        self.packets += more.packets;
        self.bytes += more.bytes;
    }
}

impl AddAssign for HandshakeTimes {
    fn add_assign(&mut self, more: Self) {
        self.nanoseconds += more.nanoseconds;
        self.count += more.count;
    }
}

/// What was counted for a service or a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets from clients that were forwarded.
    pub packets: u64,
    /// IP bytes of those packets (as received, without link layer).
    pub bytes: u64,
    /// TCP SYNs (without ACK) among them: connections opened or tried.
    pub connections: u64,
    /// `nat`: reply packets sent back.
    pub reply_packets: u64,
    /// `nat`: IP bytes of those.
    pub reply_bytes: u64,
}

impl From<(Forwarded, Replied)> for Traffic {
    fn from((forwarded, replied): (Forwarded, Replied)) -> Self {
        Self {
            packets: forwarded.packets,
            bytes: forwarded.bytes,
            connections: forwarded.connections,
            reply_packets: replied.packets,
            reply_bytes: replied.bytes,
        }
    }
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, more: Self) {
        self.packets += more.packets;
        self.bytes += more.bytes;
        self.connections += more.connections;
        self.reply_packets += more.reply_packets;
        self.reply_bytes += more.reply_bytes;
    }
}

/// Where each counter is in an element: bytes from its start. Constant to the program.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct CounterLayout {
    /// Services that are counted, by id: those below this.
    pub services: u32,
    /// Backends that are counted, likewise.
    pub backends: u32,
}

/// Bytes of what is the same whatever the sizes.
const HEAD: u64 = (REASON_COUNTERS + FLOW_COUNTERS) as u64 * 8;

const _: () = {
    assert!(FlowEvent::ALL.len() <= FLOW_COUNTERS as usize, "events have counters of their own");
    assert!(
        HEAD.is_multiple_of(align_of::<Forwarded>() as u64),
        "what is sent to a backend is counted in one cache line"
    );
};

impl CounterLayout {
    /// The map's name.
    pub const NAME: &str = "COUNTERS";

    /// The size of an element, bytes, is a multiple of this: a page, so that an element begins on one.
    pub const STEP: usize = 4096;

    /// Where packets are counted by reason, for the reason with this number.
    #[must_use]
    #[inline(always)]
    pub const fn reason(number: u32) -> u64 {
        number as u64 * 8
    }

    /// Where what happened in the flow tables is counted, by the number of the event.
    #[must_use]
    #[inline(always)]
    pub const fn event(number: u32) -> u64 {
        (REASON_COUNTERS + number) as u64 * 8
    }

    /// Where the [`Forwarded`] of a service is.
    #[must_use]
    #[inline(always)]
    pub const fn to_service(self, id: u64) -> u64 {
        HEAD + id * size_of::<Forwarded>() as u64
    }

    /// Where the [`Forwarded`] of a backend is.
    #[must_use]
    #[inline(always)]
    pub const fn to_backend(self, id: u64) -> u64 {
        self.to_service(self.services as u64) + id * size_of::<Forwarded>() as u64
    }

    /// Where the [`Replied`] of a service is.
    #[must_use]
    #[inline(always)]
    pub const fn from_service(self, id: u64) -> u64 {
        self.to_backend(self.backends as u64) + id * size_of::<Replied>() as u64
    }

    /// Where the [`Replied`] of a backend is.
    #[must_use]
    #[inline(always)]
    pub const fn from_backend(self, id: u64) -> u64 {
        self.from_service(self.services as u64) + id * size_of::<Replied>() as u64
    }

    /// Where the [`HandshakeTimes`] of a backend are.
    #[must_use]
    #[inline(always)]
    pub const fn handshakes(self, id: u64) -> u64 {
        self.from_backend(self.backends as u64) + id * size_of::<HandshakeTimes>() as u64
    }

    /// Bytes of an element.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.handshakes(self.backends as u64).next_multiple_of(Self::STEP as u64)
    }
}
