//! How slots change and become steady again, and which entries of the flow table are needed no longer: the controller's
//! half of the invariant in [`crate::tracking`].
//!
//! ```text
//!            the fill gives the slot to c              settled: base follows
//!   {b, b} ─────────────────────────────► {c, b, tracked} ─────────────────► {c, c, tracked}
//!     ▲                                        │                                   │
//!     │      no entry left                     │ the fill gives it back            │
//!     └──────────────────────── {b, b, tracked} ◄┘         no entry left           ▼
//!                                                                        {c, c}: steady
//! ```
//!
//! - [`retarget`]: the fill, or a backend that is gone, changes a slot. At once.
//! - [`settled`]: once a slot has been away from its base for the service's settling time, and every flow
//!   that needed an entry in that time got one (no [`FlowEvent::NotLearnt`] and no [`FlowEvent::NotOpened`]), `base`
//!   follows `current`: whoever spoke in that time has an entry.
//! - [`end_of`]: what a sweep of the flow table deletes.
//! - [`untracked`]: a slot whose `current` is its `base` gets no entries that deviate; when a sweep has seen none of any
//!   kind there, looking is over.
//!
//! [`FlowEvent::NotLearnt`]: crate::tracking::FlowEvent::NotLearnt
//! [`FlowEvent::NotOpened`]: crate::tracking::FlowEvent::NotOpened

use crate::abi::{FlowEntry, NO_BACKEND, SlotWord, flow_flags};

/// Seconds that a closed flow is kept for stragglers, where both ends have closed it.
pub const CLOSED_QUIET: u32 = 10;

/// Seconds of silence after which a flow that one end has closed, or that was reset, is over. The other end of a
/// half-closed connection may go on sending for as long as it likes, and what it sends is acknowledged within this.
pub const CLOSING_QUIET: u32 = 120;

/// Seconds of silence after which a handshake has failed. Linux gives up a SYN-ACK after 63 s.
pub const OPENING_QUIET: u32 = 75;

/// The word of a slot that held `old` and whose new flows are `current`'s now.
///
/// `base` stays, unless it is [`NO_BACKEND`] or `base_leaves`: the slot's old flows are gone and their packets are to
/// reach `current`. `track_always` is for services whose scheduler does not follow the slots.
#[must_use]
pub const fn retarget(old: SlotWord, current: u32, base_leaves: bool, track_always: bool) -> SlotWord {
    if old.base() == NO_BACKEND {
        return SlotWord::new(current, current, old.tracked() || track_always);
    }
    if base_leaves {
        return SlotWord::new(current, current, true);
    }
    SlotWord::new(current, old.base(), old.tracked() || track_always || current != old.base())
}

/// The word of a slot that has settled: whoever spoke has an entry, and all others are `current`'s.
///
/// A slot that nobody takes new flows of keeps its base.
#[must_use]
pub const fn settled(old: SlotWord) -> SlotWord {
    if old.current() == NO_BACKEND { old } else { SlotWord::new(old.current(), old.current(), true) }
}

/// The word of a slot in which a sweep that began after its `current` became its `base` has seen no entry.
#[must_use]
pub const fn untracked(old: SlotWord) -> SlotWord {
    if old.current() == old.base() { SlotWord::steady(old.base()) } else { old }
}

/// Why an entry is needed no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum End {
    /// The connection was closed or reset, and has been quiet since.
    Closed,
    /// The connection was never established.
    Unopened,
    /// Silent for longer than the service keeps flows.
    Idle,
    /// It says what the slot says and will say for as long as new flows are its base's, or is in a slot that is not
    /// looked up.
    Redundant,
    /// Its service or its backend is not there any more.
    Orphaned,
}

/// What decides about the entries of a flow besides their words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// The flow's slot, now; `None` if no service has its destination.
    pub slot: Option<SlotWord>,
    /// Whether the entry's backend exists, if only as one that is gone.
    pub backend_exists: bool,
    /// Whether the flow is TCP's.
    pub is_tcp: bool,
    /// Whether the service enters every flow.
    pub track_every_flow: bool,
    /// Seconds of silence after which the service forgets a flow.
    pub idle: u32,
}

/// Whether, and why, an entry is needed no longer `now`, in seconds of the monotonic clock.
#[must_use]
pub fn end_of(entry: &FlowEntry, keep: &Keep, now: u32) -> Option<End> {
    let Some(slot) = keep.slot.filter(|_| keep.backend_exists) else { return Some(End::Orphaned) };
    let word = entry.word;
    // The packet path's clock may be a moment ahead of the caller's.
    let quiet = now.saturating_sub(word.seen());
    let flags = word.flags();
    let both_closed = flags & flow_flags::FIN != 0 && flags & flow_flags::FIN_BACK != 0;
    if both_closed && quiet > CLOSED_QUIET || word.is_closed() && quiet > CLOSING_QUIET {
        return Some(End::Closed);
    }
    if keep.is_tcp && flags & flow_flags::ESTABLISHED == 0 && quiet > OPENING_QUIET {
        return Some(End::Unopened);
    }
    if quiet > keep.idle {
        return Some(End::Idle);
    }
    let says_base = slot.current() == slot.base() && word.backend() == slot.base() && !keep.track_every_flow;
    (says_base || !slot.tracked()).then_some(End::Redundant)
}
