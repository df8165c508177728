//! This CPU's counters, see [`lb_common::abi::counters`].

use core::{ffi::c_void, ptr::NonNull};

use aya_ebpf::helpers::generated::{bpf_get_smp_processor_id, bpf_map_lookup_elem};
use lb_common::{
    abi::{CounterLayout, Forwarded, HandshakeTimes, Replied, fixed},
    reason::Reason,
    tracking::FlowEvent,
};

use crate::memory::{address, whole};

/// Where the counters are; replaced before loading, constant to the verifier.
#[unsafe(no_mangle)]
static COUNTED: CounterLayout = CounterLayout { services: 0, backends: 0 };

/// What this CPU counts in. Programs on one CPU don't interrupt each other, so that nobody else writes there but a controller
/// that sets a counter to 0.
#[derive(Clone, Copy)]
pub struct Counters(NonNull<u8>);

impl Counters {
    /// Those of the CPU that this runs on.
    #[inline(always)]
    pub fn of_this_cpu() -> Option<Self> {
        // SAFETY: the helper takes nothing.
        let cpu = unsafe { bpf_get_smp_processor_id() };
        let map = address::<{ fixed::COUNTERS_NUMBER }>().cast_mut().cast::<c_void>();
        // SAFETY: the map is an array, whose key is an index.
        let element = unsafe { bpf_map_lookup_elem(map, (&raw const cpu).cast()) };
        NonNull::new(element.cast()).map(Self)
    }

    /// Counts one packet for `reason`.
    #[inline(always)]
    pub fn count_reason(self, reason: Reason) {
        *self.at::<u64>(CounterLayout::reason(reason as u32)) += 1;
    }

    /// Counts what happened in the flow tables.
    #[inline(always)]
    pub fn count_event(self, event: FlowEvent) {
        *self.at::<u64>(CounterLayout::event(event as u32)) += 1;
    }

    /// Counts a packet to a backend of a service.
    #[inline(always)]
    pub fn count_forwarded(self, service: u32, backend: u32, bytes: u32, opens: bool) {
        let layout = layout();
        let one = Forwarded { packets: 1, bytes: bytes.into(), connections: opens.into(), pad: 0 };
        if let Some(service) = below(layout.services, service) {
            *self.at::<Forwarded>(layout.to_service(service)) += one;
        }
        if let Some(backend) = below(layout.backends, backend) {
            *self.at::<Forwarded>(layout.to_backend(backend)) += one;
        }
    }

    /// Counts a reply of a backend of a service.
    #[inline(always)]
    pub fn count_replied(self, service: u32, backend: u32, bytes: u32) {
        let layout = layout();
        let one = Replied { packets: 1, bytes: bytes.into() };
        if let Some(service) = below(layout.services, service) {
            *self.at::<Replied>(layout.from_service(service)) += one;
        }
        if let Some(backend) = below(layout.backends, backend) {
            *self.at::<Replied>(layout.from_backend(backend)) += one;
        }
    }

    /// Counts a handshake with a backend and the nanoseconds that it took.
    #[inline(always)]
    pub fn count_handshake(self, backend: u32, nanoseconds: u64) {
        let layout = layout();
        if let Some(backend) = below(layout.backends, backend) {
            *self.at::<HandshakeTimes>(layout.handshakes(backend)) += HandshakeTimes { nanoseconds, count: 1 };
        }
    }

    /// The counter so many bytes from the start.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "addresses have 64 bits")]
    fn at<'a, T>(self, offset: u64) -> &'a mut T {
        // SAFETY: `CounterLayout` says that it is there, and the verifier checks; this CPU alone counts there.
        unsafe { &mut *self.0.as_ptr().add(offset as usize).cast::<T>() }
    }
}

/// `id`, if it is less than `end`.
#[inline(always)]
fn below(end: u32, id: u32) -> Option<u64> {
    let id = whole(id.into());
    (id < end.into()).then_some(id)
}

/// Where the counters are.
#[inline(always)]
fn layout() -> CounterLayout {
    // SAFETY: reads a static of the program; volatile, since the loader replaces the value that the compiler sees.
    unsafe { core::ptr::read_volatile(&raw const COUNTED) }
}
