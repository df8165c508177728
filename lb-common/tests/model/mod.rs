//! A small world around the tracking rules: clients that open, use and lose flows, backends that come and go, a controller
//! and its sweeps. Packets run the very code that runs in the kernel; what the world knows of it is what clients see.
//!
//! Other CPUs: every access of a packet to the flow table, and every step of the controller, may be interrupted by another
//! packet, a change or a part of a sweep ([`Model::interrupt`]).

mod clients;
mod controller;
mod random;
mod sweep;
mod table;

use std::cell::{Cell, RefCell};

use lb_common::{
    abi::{FlowWord, SlotWord},
    tracking::FlowEvent,
};

use crate::support::Random;
use clients::Client;
use controller::{Backend, Since};
use sweep::Sweep;
use table::Table;

/// Client addresses, each of which can have one flow at a time.
const CLIENTS: usize = 24;
/// Slots of the service.
const SLOTS: usize = 11;
/// Backend ids are below this.
const IDS: usize = 24;
/// Steps of a sequence.
const STEPS: u32 = 200;
/// Operations within operations.
const DEEPEST: u32 = 2;

/// A rule that is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// A full table claims to have entered the flow.
    FullTableClaimsInsertion,
    /// Entries are replaced whether they changed or not.
    ReplaceWithoutComparing,
    /// A SYN does not find its flow's entry.
    SynIsAlwaysNew,
    /// `base` becomes `current` with every change.
    BaseFollowsAtOnce,
    /// Slots become untracked whatever entries they have.
    UntrackedWhileOccupied,
    /// Slots become untracked by sweeps that began before the slot's `current` became its `base`.
    UntrackedByOldSweep,
    /// Entries are counted as gone when they are judged, though they may live on.
    JudgedCountsAsGone,
    /// Entries are taken out though they changed after they were judged.
    BuryWithoutComparing,
    /// Places are given back while packets are on their way that may have found their entries.
    ClearedTooEarly,
    /// Slots settle although flows could not be learnt.
    SettledDespiteFailures,
    /// Slots settle although new flows could not be entered.
    UnopenedDoNotCount,
    /// Slots settle at once.
    SettledAtOnce,
    /// Entries of closed flows are taken out without waiting for stragglers.
    ClosedWithoutQuiet,
    /// Ids of removed backends are used again at once.
    IdReusedAtOnce,
}

/// What happens to flows whose backend is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnDown {
    Reset,
    Drop,
    Reroute,
}

/// Who takes new flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheduler {
    Hash,
    RoundRobin,
    Random,
}

/// What does not change in a sequence. Times in seconds.
#[derive(Clone, Copy, Debug)]
struct Settings {
    tcp: bool,
    scheduler: Scheduler,
    on_down: OnDown,
    /// Whether backends' answers pass through.
    nat: bool,
    idle: u32,
    settle_after: u32,
    hold: u32,
    capacity: usize,
}

impl Settings {
    fn draw(random: &mut Random) -> Self {
        let tcp = random.below(4) != 0;
        let scheduler = [Scheduler::Hash, Scheduler::RoundRobin, Scheduler::Hash, Scheduler::Random];
        let on_down = [OnDown::Reroute, OnDown::Drop, OnDown::Reset];
        Self {
            tcp,
            scheduler: if tcp { random.pick(&scheduler) } else { Scheduler::Hash },
            on_down: random.pick(if tcp { &on_down[..] } else { &on_down[..2] }),
            nat: random.below(2) == 0,
            idle: random.pick(&[20, 60, 200, 500]),
            settle_after: random.pick(&[15, 40, 90, 200, 500]),
            hold: random.pick(&[0, 10, u32::MAX]),
            capacity: random.pick(&[1, 4, 12, 2 * CLIENTS]),
        }
    }

    fn track_every_flow(&self) -> bool {
        self.scheduler != Scheduler::Hash
    }
}

/// The world. Everything in it is reached through a shared reference, because CPUs do.
pub struct Model {
    settings: Settings,
    broken: Option<Broken>,
    trace: bool,
    random: RefCell<Random>,
    now: Cell<u32>,
    slots: Vec<Cell<SlotWord>>,
    table: Table,
    live: Vec<Cell<i64>>,
    events: [Cell<u64>; FlowEvent::ALL.len()],
    backends: Vec<Cell<Option<Backend>>>,
    ring: RefCell<Vec<u32>>,
    turn: Cell<usize>,
    since: Vec<Cell<Since>>,
    /// When a slot or the ring last named each backend.
    named: Vec<Cell<u32>>,
    sweep: RefCell<Option<Sweep>>,
    clients: Vec<Cell<Client>>,
    /// Packets that are on their way.
    packets: Cell<u32>,
    /// Whether the controller is at work: there is one.
    controlling: Cell<bool>,
    /// Operations within operations: how deep now, and how many so far.
    depth: Cell<u32>,
    interrupts: Cell<u64>,
    violation: RefCell<Option<String>>,
}

/// Runs the sequence of this seed. What went wrong first, if anything did.
pub fn run(seed: u64, broken: Option<Broken>, trace: bool) -> Result<(), String> {
    let model = Model::new(seed, broken, trace);
    model.note(|| format!("{:?}", model.settings));
    for _ in 0..4 {
        model.add_backend();
    }
    for step in 0..STEPS {
        model.step();
        model.check();
        if let Some(violation) = model.violation.take() {
            return Err(format!("seed {seed}, step {step}: {violation}"));
        }
    }
    model.wind_down();
    model.violation.take().map_or(Ok(()), |violation| Err(format!("seed {seed}, winding down: {violation}")))
}

impl Model {
    fn new(seed: u64, broken: Option<Broken>, trace: bool) -> Self {
        let mut random = Random(Random(seed).next());
        let settings = Settings::draw(&mut random);
        Self {
            settings,
            broken,
            trace,
            random: RefCell::new(random),
            now: Cell::new(1000),
            slots: vec![Cell::new(SlotWord::steady(0)); SLOTS],
            table: Table::new(settings.capacity, CLIENTS),
            live: vec![Cell::new(0); IDS],
            events: [const { Cell::new(0) }; FlowEvent::ALL.len()],
            backends: vec![Cell::new(None); IDS],
            ring: RefCell::default(),
            turn: Cell::new(0),
            since: vec![Cell::new(Since::Level(0)); SLOTS],
            named: vec![Cell::new(0); IDS],
            sweep: RefCell::default(),
            clients: vec![Cell::new(Client::default()); CLIENTS],
            packets: Cell::new(0),
            controlling: Cell::new(false),
            depth: Cell::new(0),
            interrupts: Cell::new(0),
            violation: RefCell::default(),
        }
    }

    /// A random number below `limit`.
    fn below(&self, limit: u32) -> u32 {
        self.random.borrow_mut().below(limit)
    }

    fn slot_of(client: usize) -> usize {
        Random(client as u64).next() as usize % SLOTS
    }

    fn note(&self, what: impl FnOnce() -> String) {
        if self.trace {
            println!(
                "{:>6} {:width$}{}",
                self.now.get(),
                "",
                what(),
                width = 4 * self.depth.get().min(DEEPEST) as usize
            );
        }
    }

    fn violated(&self, what: impl FnOnce() -> String) {
        let mut violation = self.violation.borrow_mut();
        if violation.is_none() {
            *violation = Some(what());
        }
    }

    fn step(&self) {
        self.pass_time();
        match self.below(100) {
            0..50 => self.client_acts(),
            50..66 => self.controller_acts(),
            _ => self.sweep_goes_on(),
        }
    }

    /// Where another CPU may have its turn.
    fn interrupt(&self) {
        if self.depth.get() >= DEEPEST || self.below(20) != 0 {
            return;
        }
        self.interrupts.set(self.interrupts.get() + 1);
        self.depth.set(self.depth.get() + 1);
        match self.below(10) {
            0..2 if !self.controlling.get() => self.controller_acts(),
            2..5 if !self.controlling.get() => self.sweep_goes_on(),
            _ => self.client_acts(),
        }
        self.depth.set(self.depth.get() - 1);
    }

    /// Mostly a moment, sometimes so long that flows and slots grow old. Clients speak when they must.
    fn pass_time(&self) {
        let longest = self.settings.idle.max(self.settings.settle_after);
        let seconds = match self.below(10) {
            0..4 => 0,
            4..7 => 1 + self.below(3),
            7..9 => 1 + self.below(longest / 3),
            _ => 1 + self.below(longest),
        };
        self.advance(self.now.get() + seconds);
        self.hold_ends();
    }

    fn advance(&self, until: u32) {
        loop {
            let due = (0..CLIENTS).filter_map(|client| Some((self.clients[client].get().due()?, client))).min();
            let Some((due, client)) = due.filter(|&(due, _)| due <= until) else { break };
            self.now.set(due.max(self.now.get()));
            self.speak(client);
        }
        self.now.set(until);
    }

    /// What holds whenever nothing is under way.
    fn check(&self) {
        let mut live = [0; IDS];
        for (client, word) in self.table.words() {
            let slot = self.slots[Self::slot_of(client)].get();
            if !slot.tracked() {
                self.violated(|| format!("client {client} has an entry in a slot that is not looked up"));
            }
            live[word.backend() as usize] += i64::from(!word.is_closed());
        }
        if self.live.iter().map(Cell::get).ne(live) {
            self.violated(|| format!("live entries are {live:?}, counted are {:?}", self.live));
        }
    }

    /// All flows end, changes too: memory of them has to go.
    fn wind_down(&self) {
        for client in &self.clients {
            client.set(Client::default());
        }
        let longest = self.settings.idle.max(self.settings.settle_after).max(200);
        self.depth.set(u32::MAX);
        for _ in 0..6 {
            self.now.set(self.now.get() + longest + 2);
            self.sweep_whole();
        }
        self.depth.set(0);
        self.check();
        if let Some((client, word)) = self.table.words().next() {
            self.violated(|| format!("client {client}'s entry stays: {word:?}"));
        }
        for slot in self.slots.iter().map(Cell::get).filter(|slot| slot.current() != 0) {
            if slot.current() != slot.base() || slot.tracked() && !self.settings.track_every_flow() {
                self.violated(|| format!("a slot never settles: {slot:?}"));
            }
        }
        let nobody_takes_flows = self.ring.borrow().is_empty();
        if !nobody_takes_flows && self.backends.iter().any(|backend| backend.get().is_some_and(|b| b.removed)) {
            self.violated(|| "a removed backend stays".to_owned());
        }
    }

    /// What an entry that counts says.
    fn entry_of(&self, client: usize) -> Option<FlowWord> {
        self.table.word_of(client).filter(|word| !word.is_buried())
    }
}
