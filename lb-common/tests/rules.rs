//! The rules of tracking and settling one by one, as their tables state them.

#![expect(clippy::unwrap_used, reason = "all of this is a test")]

use std::cell::{Cell, RefCell};

use lb_common::{
    abi::{FlowEntry, FlowWord, NO_BACKEND, SlotWord, flow_flags},
    settling::{CLOSED_QUIET, CLOSING_QUIET, End, Keep, OPENING_QUIET, end_of, retarget, settled, untracked},
    tracking::{Entry, Flow, FlowEvent, Owner, Policy, Segment, bury, closed_from_behind, owner},
};

const NOW: u32 = 1_000_000;
const BASE: u32 = 1;
const CURRENT: u32 = 2;
const OTHER: u32 = 3;

const SYN: Segment = Segment { opens: true, flags: 0 };
const ACK: Segment = Segment { opens: false, flags: flow_flags::ESTABLISHED };
const FIN: Segment = Segment { opens: false, flags: flow_flags::ESTABLISHED | flow_flags::FIN };
const RST: Segment = Segment { opens: false, flags: flow_flags::ESTABLISHED | flow_flags::RESET };

const PLAIN: Policy = Policy { track_every_flow: false, reroute: false, reset: true };
const REROUTE: Policy = Policy { track_every_flow: false, reroute: true, reset: false };
const EVERY: Policy = Policy { track_every_flow: true, reroute: false, reset: true };

/// A slot that moves from `BASE` to `CURRENT`.
const CHANGING: SlotWord = SlotWord::new(CURRENT, BASE, true);
/// A slot that may have entries of old.
const LEVEL: SlotWord = SlotWord::new(BASE, BASE, true);

/// A flow, alone in its table.
struct Alone {
    entry: RefCell<Option<FlowEntry>>,
    room: bool,
    gone: Vec<u32>,
    chosen: u32,
    events: RefCell<Vec<FlowEvent>>,
    live: Cell<i32>,
}

struct InPlace<'a>(&'a Alone);

impl Entry for InPlace<'_> {
    fn word(&self) -> FlowWord {
        self.0.entry.borrow().unwrap().word
    }

    fn replace(&self, old: FlowWord, new: FlowWord) -> bool {
        let is_old = self.word() == old;
        if is_old {
            self.0.entry.borrow_mut().as_mut().unwrap().word = new;
        }
        is_old
    }

    fn set_opened(&self, opened: u32) {
        self.0.entry.borrow_mut().as_mut().unwrap().opened = opened;
    }
}

impl<'a> Flow for &'a Alone {
    type Entry = InPlace<'a>;

    fn now(&self) -> u32 {
        NOW
    }

    fn is_gone(&self, backend: u32) -> bool {
        backend == NO_BACKEND || self.gone.contains(&backend)
    }

    fn choose(&self) -> u32 {
        self.chosen
    }

    fn find(&self) -> Option<InPlace<'a>> {
        self.entry.borrow().is_some().then_some(InPlace(self))
    }

    fn insert(&self, entry: &FlowEntry) -> bool {
        let fits = self.room && self.entry.borrow().is_none();
        if fits {
            *self.entry.borrow_mut() = Some(*entry);
        }
        fits
    }

    fn count_live(&self, _: u32, more: bool) {
        self.live.set(self.live.get() + if more { 1 } else { -1 });
    }

    fn count_event(&self, event: FlowEvent) {
        self.events.borrow_mut().push(event);
    }
}

impl Alone {
    /// With an entry of `backend` that was last heard a minute ago, if there is to be one.
    fn new(entry: Option<(u32, u8)>, chosen: u32) -> Self {
        let entry =
            entry.map(|(backend, flags)| FlowEntry { word: FlowWord::new(backend, flags, NOW - 60), opened: NOW - 90 });
        let (events, live) = (RefCell::default(), Cell::new(0));
        Self { entry: RefCell::new(entry), room: true, gone: Vec::new(), chosen, events, live }
    }

    fn gone(self, gone: &[u32]) -> Self {
        Self { gone: gone.to_vec(), ..self }
    }

    fn full(self) -> Self {
        Self { room: false, ..self }
    }

    fn owner(&self, slot: SlotWord, policy: Policy, segment: Segment) -> Owner {
        owner(&self, slot, policy, segment)
    }

    /// Backend, flags, and when it was last heard.
    fn word(&self) -> Option<(u32, u8, u32)> {
        self.entry.borrow().map(|entry| (entry.word.backend(), entry.word.flags(), entry.word.seen()))
    }

    /// What happened after the look-up.
    fn event(&self) -> Option<FlowEvent> {
        let events = self.events.borrow();
        assert_eq!(events[0], FlowEvent::LookedUp);
        assert!(events.len() <= 2, "{events:?}");
        events.get(1).copied()
    }
}

#[test]
fn a_packet_follows_a_living_entry() {
    for (segment, flags) in [(ACK, ACK.flags), (FIN, FIN.flags), (RST, RST.flags)] {
        let flow = Alone::new(Some((OTHER, flow_flags::ESTABLISHED)), CURRENT);
        assert_eq!(flow.owner(CHANGING, PLAIN, segment), Owner::Backend(OTHER));
        assert_eq!((flow.word(), flow.event()), (Some((OTHER, flags, NOW)), None));
        assert_eq!(flow.live.get(), if segment == ACK { 0 } else { -1 });
    }
}

#[test]
fn a_syn_follows_an_entry_that_nobody_has_closed() {
    for flags in [0, flow_flags::ESTABLISHED, flow_flags::ESTABLISHED | flow_flags::FIN_BACK] {
        let flow = Alone::new(Some((OTHER, flags)), CURRENT);
        assert_eq!(flow.owner(CHANGING, PLAIN, SYN), Owner::Backend(OTHER));
        assert_eq!(
            flow.word(),
            Some((OTHER, flags & !flow_flags::FIN_BACK, NOW)),
            "what the old flow was told is over"
        );
    }
}

#[test]
fn a_syn_takes_the_place_of_a_flow_that_is_over() {
    for (flags, gone) in [(flow_flags::FIN, &[][..]), (flow_flags::RESET, &[]), (flow_flags::ESTABLISHED, &[OTHER])] {
        let flow = Alone::new(Some((OTHER, flags)), CURRENT).gone(gone);
        assert_eq!(flow.owner(CHANGING, PLAIN, SYN), Owner::Backend(CURRENT));
        assert_eq!((flow.word(), flow.event()), (Some((CURRENT, 0, NOW)), Some(FlowEvent::Opened)));
        let flow = Alone::new(Some((OTHER, flags)), BASE).gone(gone);
        assert_eq!(flow.owner(LEVEL, PLAIN, SYN), Owner::Backend(BASE));
        assert_eq!((flow.word(), flow.event()), (Some((BASE, 0, NOW)), Some(FlowEvent::Opened)), "until it is swept");
    }
}

#[test]
fn a_new_flow_is_entered_where_it_deviates_from_the_base() {
    let flow = Alone::new(None, CURRENT);
    assert_eq!(flow.owner(CHANGING, PLAIN, SYN), Owner::Backend(CURRENT));
    assert_eq!((flow.word(), flow.event(), flow.live.get()), (Some((CURRENT, 0, NOW)), Some(FlowEvent::Opened), 1));
    let flow = Alone::new(None, BASE);
    assert_eq!(flow.owner(LEVEL, PLAIN, SYN), Owner::Backend(BASE));
    assert_eq!((flow.word(), flow.event()), (None, None));
    let flow = Alone::new(None, BASE);
    assert_eq!(flow.owner(LEVEL, EVERY, SYN), Owner::Backend(BASE));
    assert_eq!(flow.word(), Some((BASE, 0, NOW)), "a scheduler of its own would choose otherwise next time");
    assert_eq!(Alone::new(None, NO_BACKEND).owner(CHANGING, PLAIN, SYN), Owner::Backend(NO_BACKEND));
}

#[test]
fn a_new_flow_without_room_is_the_bases_or_nobodys() {
    for entry in [None, Some((OTHER, flow_flags::FIN | flow_flags::BURIED))] {
        let flow = Alone::new(entry, CURRENT).full();
        assert_eq!(flow.owner(CHANGING, PLAIN, SYN), Owner::Backend(BASE));
        assert_eq!(flow.event(), Some(FlowEvent::NotOpened));
        let flow = Alone::new(entry, CURRENT).full().gone(&[BASE]);
        assert_eq!(flow.owner(CHANGING, PLAIN, SYN), Owner::Refused);
    }
}

#[test]
fn an_old_flow_is_the_bases_and_learnt_while_that_is_to_change() {
    let flow = Alone::new(None, CURRENT);
    assert_eq!(flow.owner(CHANGING, PLAIN, ACK), Owner::Backend(BASE));
    assert_eq!((flow.word(), flow.event()), (Some((BASE, ACK.flags, NOW)), Some(FlowEvent::Learnt)));
    let flow = Alone::new(None, BASE);
    assert_eq!(flow.owner(LEVEL, PLAIN, ACK), Owner::Backend(BASE));
    assert_eq!((flow.word(), flow.event()), (None, None));
    let flow = Alone::new(None, CURRENT).full();
    assert_eq!(flow.owner(CHANGING, PLAIN, ACK), Owner::Backend(BASE));
    assert_eq!(flow.event(), Some(FlowEvent::NotLearnt));
    let flow = Alone::new(None, CURRENT);
    assert_eq!(flow.owner(CHANGING, PLAIN, RST), Owner::Backend(BASE));
    assert_eq!(flow.word(), None, "whoever resets needs no place any more");
}

#[test]
fn what_flows_of_a_gone_backend_get_is_the_policys_to_say() {
    let known = |policy| {
        let flow = Alone::new(Some((OTHER, ACK.flags)), CURRENT).gone(&[OTHER]);
        (flow.owner(CHANGING, policy, ACK), flow.word())
    };
    assert_eq!(known(PLAIN), (Owner::Gone, Some((OTHER, RST.flags, NOW))));
    assert_eq!(known(REROUTE), (Owner::Backend(CURRENT), Some((CURRENT, ACK.flags, NOW))));
    let drop = Policy { reset: false, ..PLAIN };
    assert_eq!(known(drop), (Owner::Gone, Some((OTHER, ACK.flags, NOW))), "it was told nothing, and may go on");
    let unknown = |policy| {
        let flow = Alone::new(None, CURRENT).gone(&[BASE]);
        (flow.owner(CHANGING, policy, ACK), flow.word())
    };
    assert_eq!(unknown(PLAIN), (Owner::Gone, None));
    assert_eq!(unknown(REROUTE), (Owner::Backend(CURRENT), Some((CURRENT, ACK.flags, NOW))));
    let nobody = SlotWord::new(NO_BACKEND, NO_BACKEND, true);
    assert_eq!(Alone::new(None, NO_BACKEND).owner(nobody, PLAIN, ACK), Owner::Backend(NO_BACKEND));
}

#[test]
fn an_entry_that_is_buried_while_it_is_looked_at_is_not_believed() {
    let buried = Some((OTHER, ACK.flags | flow_flags::BURIED));
    let flow = Alone::new(buried, BASE);
    assert_eq!(flow.owner(LEVEL, PLAIN, ACK), Owner::Backend(BASE));
    closed_from_behind(&&flow, OTHER, flow_flags::FIN_BACK);
    assert_eq!(flow.word(), Some((OTHER, ACK.flags | flow_flags::BURIED, NOW - 60)));
}

#[test]
fn a_backend_that_closes_is_noted_without_its_client_having_spoken() {
    for (told, live) in [(flow_flags::FIN_BACK, 0), (flow_flags::RESET, -1)] {
        let flow = Alone::new(Some((OTHER, ACK.flags)), CURRENT);
        closed_from_behind(&&flow, BASE, told);
        assert_eq!(flow.word(), Some((OTHER, ACK.flags, NOW - 60)), "another backend has no say");
        closed_from_behind(&&flow, OTHER, told);
        assert_eq!((flow.word(), flow.live.get()), (Some((OTHER, ACK.flags | told, NOW - 60)), live));
    }
    let flow = Alone::new(None, CURRENT);
    closed_from_behind(&&flow, OTHER, flow_flags::FIN_BACK);
    assert_eq!(flow.word(), None);
}

#[test]
fn only_what_was_judged_is_buried() {
    let flow = Alone::new(Some((OTHER, FIN.flags)), CURRENT);
    let judged = InPlace(&flow).word();
    assert!(!bury(&InPlace(&flow), FlowWord::new(OTHER, FIN.flags, NOW - 61)));
    assert!(bury(&InPlace(&flow), judged));
    assert!(!bury(&InPlace(&flow), judged), "it is another word by now");
}

/// Why an entry of `backend` ends that was last heard so many seconds ago.
fn end(slot: SlotWord, backend: u32, flags: u8, quiet: u32) -> Option<End> {
    let keep = Keep { slot: Some(slot), backend_exists: true, is_tcp: true, track_every_flow: false, idle: 3600 };
    end_of(&FlowEntry { word: FlowWord::new(backend, flags, NOW - quiet), opened: 0 }, &keep, NOW)
}

#[test]
fn entries_end_when_nobody_needs_them() {
    use flow_flags::{ESTABLISHED, FIN, FIN_BACK, RESET};
    let both = ESTABLISHED | FIN | FIN_BACK;
    let cases = [
        (ESTABLISHED, 3600, None, Some(End::Idle)),
        (0, OPENING_QUIET, None, Some(End::Unopened)),
        (both, CLOSED_QUIET, None, Some(End::Closed)),
        (ESTABLISHED | FIN, CLOSING_QUIET, None, Some(End::Closed)),
        (ESTABLISHED | RESET, CLOSING_QUIET, None, Some(End::Closed)),
        (ESTABLISHED | FIN_BACK, 3600, None, Some(End::Idle)),
    ];
    for (flags, quiet, at, after) in cases {
        assert_eq!(end(CHANGING, OTHER, flags, quiet), at, "{flags:#b} after {quiet} s");
        assert_eq!(end(CHANGING, OTHER, flags, quiet + 1), after, "{flags:#b} after {} s", quiet + 1);
    }
    assert_eq!(end(LEVEL, BASE, ESTABLISHED, 0), Some(End::Redundant));
    assert_eq!(end(LEVEL, OTHER, ESTABLISHED, 0), None);
    assert_eq!(end(CHANGING, BASE, ESTABLISHED, 0), None, "learnt, and needed when the base changes");
    assert_eq!(end(SlotWord::steady(BASE), OTHER, ESTABLISHED, 0), Some(End::Redundant), "nobody looks there");
    let entry = FlowEntry { word: FlowWord::new(OTHER, ESTABLISHED, NOW), opened: 0 };
    let keep = Keep { slot: Some(LEVEL), backend_exists: true, is_tcp: true, track_every_flow: true, idle: 3600 };
    assert_eq!(end_of(&FlowEntry { word: FlowWord::new(BASE, ESTABLISHED, NOW), ..entry }, &keep, NOW), None);
    assert_eq!(end_of(&entry, &Keep { slot: None, ..keep }, NOW), Some(End::Orphaned));
    assert_eq!(end_of(&entry, &Keep { backend_exists: false, ..keep }, NOW), Some(End::Orphaned));
    let datagram = FlowEntry { word: FlowWord::new(OTHER, 0, NOW - 1000), ..entry };
    assert_eq!(end_of(&datagram, &Keep { is_tcp: false, ..keep }, NOW), None);
    let ahead = FlowEntry { word: FlowWord::new(OTHER, ESTABLISHED, NOW + 1), ..entry };
    assert_eq!(end_of(&ahead, &keep, NOW), None, "the packet path's clock is a moment ahead");
}

#[test]
fn slots_change_as_the_picture_says() {
    let steady = SlotWord::steady(BASE);
    assert_eq!(retarget(steady, CURRENT, false, false), CHANGING);
    assert_eq!(retarget(steady, BASE, false, false), steady);
    assert_eq!(retarget(steady, BASE, false, true), LEVEL);
    assert_eq!(retarget(CHANGING, OTHER, false, false), SlotWord::new(OTHER, BASE, true));
    assert_eq!(retarget(CHANGING, BASE, false, false), LEVEL);
    assert_eq!(retarget(steady, CURRENT, true, false), SlotWord::new(CURRENT, CURRENT, true));
    assert_eq!(retarget(SlotWord::steady(NO_BACKEND), CURRENT, false, false), SlotWord::steady(CURRENT));
    assert_eq!(settled(CHANGING), SlotWord::new(CURRENT, CURRENT, true));
    let nobody = SlotWord::new(NO_BACKEND, BASE, true);
    assert_eq!(settled(nobody), nobody);
    assert_eq!(untracked(LEVEL), steady);
    assert_eq!(untracked(CHANGING), CHANGING);
}
