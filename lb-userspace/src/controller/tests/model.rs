//! Random histories of a whole controller and of the packets that go through what it writes: no live flow of a living
//! backend moves.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{collection::vec, prelude::*};

use super::{
    host::{DATA, FIN, Host, SYN, key},
    *,
};
use crate::{
    controller::{edit::BackendEdit, sweeper::Job},
    flows::{Census, FlowKey},
};

/// Seconds within which a flow has to speak to stay where it is.
const SETTLE: u64 = 60;
/// Seconds that a backend which fails keeps its flows.
const HOLD: u64 = 10;
/// Clients there are.
const CLIENTS: u16 = 60;

/// Something that happens.
#[derive(Clone, Debug)]
enum Step {
    Open(u16),
    Repeat(u16),
    Speak(u16),
    Close(u16),
    EverybodySpeaks,
    Health(u8, bool),
    Add(u8),
    Weight(u8, u16),
    Drain(u8, Option<u64>),
    Undrain(u8),
    Remove(u8, bool),
    Wait(u64),
    BeginSweep,
    RunSweep,
    EndSweep,
    /// Everybody speaks until slots have settled.
    Settle,
    /// The next change fails after some writes, and the daemon dies of it.
    Die(usize, Box<Step>),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let (client, backend) = (1..=CLIENTS, 1u8..7);
    let change = prop_oneof![
        (backend.clone(), any::<bool>()).prop_map(|(octet, up)| Step::Health(octet, up)),
        backend.clone().prop_map(Step::Add),
        (backend.clone(), 0u16..5).prop_map(|(octet, weight)| Step::Weight(octet, weight)),
        (backend.clone(), prop::option::of(1u64..40)).prop_map(|(octet, deadline)| Step::Drain(octet, deadline)),
        backend.clone().prop_map(Step::Undrain),
        (backend, prop::bool::weighted(0.2)).prop_map(|(octet, now)| Step::Remove(octet, now)),
    ];
    prop_oneof![
        8 => client.clone().prop_map(Step::Open),
        2 => client.clone().prop_map(Step::Repeat),
        6 => client.clone().prop_map(Step::Speak),
        3 => client.prop_map(Step::Close),
        4 => Just(Step::EverybodySpeaks),
        6 => change.clone(),
        4 => (1u64..25).prop_map(Step::Wait),
        3 => Just(Step::BeginSweep),
        3 => Just(Step::RunSweep),
        3 => Just(Step::EndSweep),
        4 => Just(Step::Settle),
        2 => (0usize..6, change).prop_map(|(writes, change)| Step::Die(writes, Box::new(change))),
        1 => Just(Step::Restart),
    ]
}

/// A flow that has to stay where it is.
#[derive(Debug)]
struct Live {
    backend: IpAddr,
    /// Second in which it spoke last.
    spoke: u64,
}

/// What the model knows of a backend, by itself.
#[derive(Clone, Copy, Debug, Default)]
struct Fate {
    down_since: Option<u64>,
    deadline: Option<u64>,
}

struct Model {
    host: Host,
    live: BTreeMap<u16, Live>,
    fates: BTreeMap<u8, Fate>,
    job: Option<Job>,
    swept: Option<anyhow::Result<Census>>,
}

impl Model {
    fn new(on_down: &str, room: usize) -> Self {
        let fields = format!(
            "settle_after = \"{SETTLE}s\"\nidle = \"1h\"\nhold = \"{HOLD}s\"\non_down = \"{on_down}\"\nhealth = "
        );
        let text = checked("web", 80, &[1, 2, 3, 4]).replace("health = ", &fields).replace("4093", "2503");
        let mut host = Host::new(&text);
        host.room = room;
        (1..=4).for_each(|octet| host.health(octet, true));
        Self { host, live: BTreeMap::new(), fates: BTreeMap::new(), job: None, swept: None }
    }

    fn second(&self) -> u64 {
        self.host.now.monotonic.as_secs()
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Open(client) | Step::Close(client) if !self.live.contains_key(client) => {
                // A connection that ended before, or a new one.
                if matches!(step, Step::Open(_))
                    && let Some(backend) = self.host.reaches(*client, SYN)
                {
                    self.live.insert(*client, Live { backend, spoke: self.second() });
                    if client % 2 == 0 {
                        self.speak(*client);
                    }
                }
            }
            Step::Open(client) | Step::Speak(client) => self.speak(*client),
            Step::Repeat(client) => {
                if let Some(live) = self.live.get(client) {
                    // Only one that has an entry, or whose slot leads there anyway, is known to the rules.
                    let (_, slot) = self.host.slot_of(*client);
                    let key = FlowKey::V4(key(*client));
                    let entered = self.host.kernel.kernel().flows.contains_key(&key);
                    if entered || slot.current() == slot.base() {
                        assert_eq!(self.host.reaches(*client, SYN), Some(live.backend), "{client} after its SYN");
                    }
                }
            }
            Step::Close(client) => {
                self.speak(*client);
                self.host.packet(*client, FIN);
                self.live.remove(client);
            }
            Step::EverybodySpeaks => {
                let clients: Vec<_> = self.live.keys().copied().collect();
                for client in clients {
                    self.speak(client);
                }
            }
            Step::Wait(seconds) => (0..*seconds).for_each(|_| {
                self.host.wait(1);
                self.forget();
            }),
            Step::Settle => {
                for _ in 0..5 {
                    for step in [
                        Step::Wait(SETTLE / 4),
                        Step::EverybodySpeaks,
                        Step::BeginSweep,
                        Step::RunSweep,
                        Step::EndSweep,
                    ] {
                        self.take(&step);
                    }
                }
            }
            Step::BeginSweep => {
                if self.job.is_none() && self.swept.is_none() {
                    self.job = self.host.begin_sweep();
                }
            }
            Step::RunSweep => self.swept = self.job.take().map(Job::run).or(self.swept.take()),
            Step::EndSweep => {
                if let Some(result) = self.swept.take() {
                    self.host.core.end_sweep(result, self.host.now);
                }
            }
            Step::Die(writes, change) => {
                self.host.kernel.fail(Some(*writes));
                self.forget_what_may_end(change);
                self.take(change);
                self.restart();
            }
            Step::Restart => self.restart(),
            change => self.change(change),
        }
        self.forget();
    }

    fn change(&mut self, change: &Step) {
        let now = self.second();
        match *change {
            Step::Health(octet, up) => {
                self.host.health(octet, up);
                let fate = self.fates.entry(octet).or_default();
                fate.down_since = (!up).then_some(now);
            }
            Step::Add(octet) => {
                // It keeps its flows if it was leaving; nothing is known of its health.
                if self.host.add(octet).is_ok() {
                    self.fates.insert(octet, Fate::default());
                    self.host.health(octet, true);
                }
            }
            Step::Weight(octet, weight) => drop(self.host.edit(octet, BackendEdit::Weight(weight))),
            Step::Drain(octet, deadline) => {
                let wall = deadline.map(|seconds| self.host.now.wall + Duration::from_secs(seconds));
                if self.host.edit(octet, BackendEdit::Drain(wall)).is_ok() {
                    self.fates.entry(octet).or_default().deadline = deadline.map(|seconds| now + seconds);
                }
            }
            Step::Undrain(octet) => {
                if self.host.edit(octet, BackendEdit::Undrain).is_ok() {
                    self.fates.entry(octet).or_default().deadline = None;
                }
            }
            Step::Remove(octet, at_once) => {
                if self.host.edit(octet, BackendEdit::Remove { now: at_once }).is_ok() {
                    self.fates.insert(octet, Fate::default());
                    if at_once {
                        self.live.retain(|_, live| live.backend != address(octet));
                    }
                }
            }
            _ => unreachable!("not a change"),
        }
    }

    fn restart(&mut self) {
        (self.job, self.swept) = (None, None);
        self.host.restart();
        let now = self.second();
        for octet in 1..7 {
            let fate = self.fates.entry(octet).or_default();
            fate.down_since = fate.down_since.map(|_| now);
            self.host.health(octet, fate.down_since.is_none());
        }
    }

    /// A packet of a live flow gets to its backend.
    fn speak(&mut self, client: u16) {
        let now = self.second();
        if let Some(live) = self.live.get_mut(&client) {
            let (_, slot) = self.host.slot_of(client);
            assert_eq!(self.host.reaches(client, DATA), Some(live.backend), "client {client} in {slot:?}");
            live.spoke = now;
        }
    }

    /// Flows that were silent for too long, or whose backend is gone, have no claim any more.
    fn forget(&mut self) {
        let now = self.second();
        let over = |fate: &Fate| {
            fate.down_since.is_some_and(|since| since + HOLD <= now) || fate.deadline.is_some_and(|end| end <= now)
        };
        let gone: BTreeSet<_> =
            self.fates.iter().filter(|(_, fate)| over(fate)).map(|(octet, _)| address(*octet)).collect();
        self.live.retain(|_, live| live.spoke + SETTLE > now && !gone.contains(&live.backend));
    }

    /// A daemon that dies during a removal may have done it, and not answered.
    fn forget_what_may_end(&mut self, change: &Step) {
        if let Step::Remove(octet, true) = change {
            self.live.retain(|_, live| live.backend != address(*octet));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_live_flow_of_a_living_backend_moves(
        steps in vec(step(), 1..120),
        on_down in prop::sample::select(vec!["reset", "reroute", "drop"]),
        room in prop::sample::select(vec![8, 30, usize::MAX]),
    ) {
        let mut model = Model::new(on_down, room);
        for step in &steps {
            model.take(step);
        }
        let clients: Vec<_> = model.live.keys().copied().collect();
        for client in clients {
            model.speak(client);
        }
    }
}

#[test]
fn the_model_sees_a_flow_that_moves() {
    let mut model = Model::new("reset", usize::MAX);
    (1..=CLIENTS).for_each(|client| model.take(&Step::Open(client)));
    model.take(&Step::Drain(1, None));
    let moved =
        model.host.words().iter().map(|word| lb_common::abi::SlotWord::steady(word.current())).collect::<Vec<_>>();
    model.host.kernel.kernel().slots.extend((0..).zip(moved));
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| model.take(&Step::EverybodySpeaks)));
    assert!(caught.is_err());
}
