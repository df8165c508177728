//! Which backend owns a flow: memory is needed only where a flow deviates from the slot table.
//!
//! # The invariant
//! For every live flow of a slot: if it is in the flow table its backend is the entry's, otherwise its backend is the
//! slot's `base`. No rule below, and none in [`crate::settling`], moves a live flow of a backend that is not gone.
//!
//! # The rules of a tracked slot
//!
//! | packet | entry | backend |
//! |---|---|---|
//! | any | living | the entry's |
//! | SYN | none | chosen anew; entered unless it is `base` |
//! | SYN | of a flow that is closed or whose backend is gone | chosen anew; has the entry from then on |
//! | SYN | none, and no room | `base` if it is not gone, otherwise the packet is dropped |
//! | other | none | `base`; entered ("learnt") while `current` is another, for then `base` is to change |
//! | other | of a flow whose backend is gone, or none and `base` is gone | what the service's policy says |
//!
//! A SYN that meets the entry of a flow that nobody has closed follows it: it is a retransmission, or forged, or of a
//! client that has forgotten a connection, and its backend is the one that can answer in each case (RFC 9293, section
//! 3.10.7.4; RFC 5961, section 4).
//!
//! An entry that is buried counts as none.
//!
//! # Sources
//! Beamer (Olteanu et al., NSDI 2018) and JET (Horowicz et al., `CoNEXT` 2021) track only flows at risk too; here what a
//! change puts at risk is told by one bit of the slot, and nothing is looked up where it is clear.

use crate::abi::{FlowEntry, FlowWord, NO_BACKEND, Service, SlotWord, flow_flags, service_flags};

/// The flow that a packet belongs to: its place in the flow table, and what the rules need to know besides.
pub trait Flow {
    /// Its entry.
    type Entry: Entry;

    /// Now, in seconds of the monotonic clock.
    fn now(&self) -> u32;
    /// Whether the flows of this backend count as gone. A backend that does not exist is gone.
    fn is_gone(&self, backend: u32) -> bool;
    /// The backend for a new flow; [`NO_BACKEND`] if there is none.
    fn choose(&self) -> u32;
    /// The flow's entry.
    fn find(&self) -> Option<Self::Entry>;
    /// Enters the flow. Whether it did: not if the table is full, or has the flow already.
    fn insert(&self, entry: &FlowEntry) -> bool;
    /// Counts the backend's live entries: one more, or one less.
    fn count_live(&self, backend: u32, more: bool);
    /// Counts what happened.
    fn count_event(&self, event: FlowEvent);
}

/// An entry of the flow table, in place.
pub trait Entry {
    /// Its word, now.
    fn word(&self) -> FlowWord;
    /// Replaces the word if it still is `old`. Whether it was.
    fn replace(&self, old: FlowWord, new: FlowWord) -> bool;
    /// Sets when the flow was opened.
    fn set_opened(&self, opened: u32);
}

/// What of a packet matters to the flow it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// A TCP SYN without ACK.
    pub opens: bool,
    /// What it tells of the flow: bits of [`flow_flags`].
    pub flags: u8,
}

/// What a service wants of the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Enter every new flow, even where its backend is the slot's `base`.
    pub track_every_flow: bool,
    /// Give flows whose backend is gone another one.
    pub reroute: bool,
    /// Tell them that it is gone.
    pub reset: bool,
}

impl Policy {
    /// That of `service`.
    #[must_use]
    #[inline(always)]
    pub const fn of(service: &Service) -> Self {
        Self {
            track_every_flow: service.tracks_every_flow(),
            reroute: service.flags & service_flags::REROUTE != 0,
            reset: service.resets(),
        }
    }
}

/// Whose a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This backend's; [`NO_BACKEND`] if nobody takes new flows.
    Backend(u32),
    /// That of a backend that is gone.
    Gone,
    /// A new flow's that nobody can have: it needs an entry and there is no room.
    Refused,
}

/// Things that happen in the flow table, each with a counter. Numbers are part of the map layout and only ever appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum FlowEvent {
    /// A packet of a tracked slot: a look-up.
    LookedUp = 0,
    /// A new flow was entered.
    Opened = 1,
    /// An old flow was entered, so that it stays where it is when its slot's `base` changes.
    Learnt = 2,
    /// A new flow took its slot's `base`, or was dropped, because the table has no room for it.
    NotOpened = 3,
    /// An old flow could not be entered, because the table has no room for it.
    NotLearnt = 4,
}

impl FlowEvent {
    /// Every event, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::LookedUp, Self::Opened, Self::Learnt, Self::NotOpened, Self::NotLearnt];

    /// The name that operators see: lower case, hyphenated, never changed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::LookedUp => "looked-up",
            Self::Opened => "opened",
            Self::Learnt => "learnt",
            Self::NotOpened => "not-opened",
            Self::NotLearnt => "not-learnt",
        }
    }

    /// What it means, for operators.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::LookedUp => "A packet's flow was looked up, for its slot may have tracked ones.",
            Self::Opened => "A new flow was entered.",
            Self::Learnt => "An old flow was entered, to stay where it is when its slot settles.",
            Self::NotOpened => "A new flow was not entered: the table is full.",
            Self::NotLearnt => "An old flow was not entered: the table is full.",
        }
    }
}

/// Looks at an entry that other CPUs change meanwhile.
const ATTEMPTS: u32 = 3;

/// Whose a packet of the tracked slot `slot` is; see the [module](self) for the rules.
#[inline(always)]
pub fn owner<F: Flow>(flow: &F, slot: SlotWord, policy: Policy, segment: Segment) -> Owner {
    flow.count_event(FlowEvent::LookedUp);
    let mut seen = slot.base();
    for _ in 0..ATTEMPTS {
        let Some(entry) = flow.find() else { return unknown(flow, slot, policy, segment) };
        let word = entry.word();
        if word.is_buried() {
            return unknown(flow, slot, policy, segment);
        }
        if let Some(owner) = known(flow, &entry, word, policy, segment) {
            return owner;
        }
        seen = word.backend();
    }
    // Whoever fights over the entry leaves it with its backend, unless that flow is over and this a new one: then its sender
    // tries again.
    if segment.opens || flow.is_gone(seen) { Owner::Refused } else { Owner::Backend(seen) }
}

/// Takes in that `backend` has closed or reset the flow, if that has an entry and is its: `told` is one of [`flow_flags`].
/// When its client was last heard stays as it is.
#[inline(always)]
pub fn closed_from_behind<F: Flow>(flow: &F, backend: u32, told: u8) {
    let Some(entry) = flow.find() else { return };
    let word = entry.word();
    let closed = word.with(told);
    let is_its = word.backend() == backend && !word.is_buried();
    if is_its && closed != word && entry.replace(word, closed) {
        count_change(flow, word, closed);
    }
}

/// Takes an entry out of use that nobody needs, if its word still is `judged`. Whether it did.
#[inline(always)]
pub fn bury<E: Entry>(entry: &E, judged: FlowWord) -> bool {
    entry.replace(judged, judged.with(flow_flags::BURIED))
}

/// A flow that has an entry; `None` if that has changed since it held `word`.
#[inline(always)]
fn known<F: Flow>(flow: &F, entry: &F::Entry, word: FlowWord, policy: Policy, segment: Segment) -> Option<Owner> {
    let gone = flow.is_gone(word.backend());
    if segment.opens && (word.is_closed() || gone) || gone && policy.reroute {
        return reopen(flow, entry, word, segment);
    }
    // Who is told that the backend is gone will not speak again: the entry can go soon.
    let flags = if gone && policy.reset { segment.flags | flow_flags::RESET } else { segment.flags };
    let heard = heard(word, Segment { flags, ..segment }, flow.now());
    if heard != word {
        if !entry.replace(word, heard) {
            return None;
        }
        count_change(flow, word, heard);
    }
    Some(if gone { Owner::Gone } else { Owner::Backend(word.backend()) })
}

/// A flow that has no entry, or one that is as good as none.
#[inline(always)]
fn unknown<F: Flow>(flow: &F, slot: SlotWord, policy: Policy, segment: Segment) -> Owner {
    let now = flow.now();
    let base = slot.base();
    let gone = flow.is_gone(base);
    if segment.opens || gone && policy.reroute {
        let chosen = flow.choose();
        if chosen == NO_BACKEND || chosen == base && !policy.track_every_flow {
            return Owner::Backend(chosen);
        }
        let word = FlowWord::new(chosen, segment.flags, now);
        let owner = enter(flow, word, now, FlowEvent::Opened);
        return if owner == NO_BACKEND { no_room(flow, slot) } else { Owner::Backend(owner) };
    }
    if gone {
        return if base == NO_BACKEND { Owner::Backend(NO_BACKEND) } else { Owner::Gone };
    }
    // A closing flow needs no place of its own any more.
    if slot.current() != base && segment.flags & flow_flags::RESET == 0 {
        let owner = enter(flow, FlowWord::new(base, segment.flags, now), now, FlowEvent::Learnt);
        if owner != NO_BACKEND {
            return Owner::Backend(owner);
        }
        flow.count_event(FlowEvent::NotLearnt);
    }
    Owner::Backend(base)
}

/// A new flow in the place of an old one with the same 5-tuple; `None` if the entry has changed since it held `old`.
///
/// Where the slot says the same, the entry is needed no longer: then the next sweep takes it out, as all such.
#[inline(always)]
fn reopen<F: Flow>(flow: &F, entry: &F::Entry, old: FlowWord, segment: Segment) -> Option<Owner> {
    let chosen = flow.choose();
    if chosen == NO_BACKEND {
        return Some(Owner::Backend(NO_BACKEND));
    }
    let now = flow.now();
    let new = FlowWord::new(chosen, segment.flags, now);
    if !entry.replace(old, new) {
        return None;
    }
    entry.set_opened(now);
    if !old.is_closed() {
        flow.count_live(old.backend(), false);
    }
    if !new.is_closed() {
        flow.count_live(chosen, true);
    }
    flow.count_event(FlowEvent::Opened);
    Some(Owner::Backend(chosen))
}

/// A new flow that can't be entered: its packets will find no entry, so it has to be `base`'s.
#[inline(always)]
fn no_room<F: Flow>(flow: &F, slot: SlotWord) -> Owner {
    flow.count_event(FlowEvent::NotOpened);
    if flow.is_gone(slot.base()) { Owner::Refused } else { Owner::Backend(slot.base()) }
}

/// Enters a flow that had no entry, and counts `event`. Whose the flow is: another CPU may have made an entry of it
/// meanwhile; [`NO_BACKEND`]'s if there is no room.
#[inline(always)]
fn enter<F: Flow>(flow: &F, word: FlowWord, now: u32, event: FlowEvent) -> u32 {
    if !flow.insert(&FlowEntry { word, opened: now }) {
        let Some(entry) = flow.find() else { return NO_BACKEND };
        let word = entry.word();
        return if word.is_buried() { NO_BACKEND } else { word.backend() };
    }
    if !word.is_closed() {
        flow.count_live(word.backend(), true);
    }
    flow.count_event(event);
    word.backend()
}

/// The word after this packet. One that follows an RST shows that nobody believed it. A SYN may open a new flow at a backend
/// that has closed the old one: what it sent then says nothing of the new one.
#[inline(always)]
const fn heard(word: FlowWord, segment: Segment, now: u32) -> FlowWord {
    let outdated = if segment.opens { flow_flags::RESET | flow_flags::FIN_BACK } else { flow_flags::RESET };
    FlowWord::new(word.backend(), word.flags() & !outdated | segment.flags, now)
}

/// Keeps the count of live entries in step with a flow that closes, or lives on after all.
#[inline(always)]
fn count_change<F: Flow>(flow: &F, old: FlowWord, new: FlowWord) {
    if old.is_closed() != new.is_closed() {
        flow.count_live(new.backend(), old.is_closed());
    }
}
