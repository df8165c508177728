//! The clients, and what they see of the balancer: the only judges of whether a flow has moved.

use lb_common::{
    abi::{FlowWord, NO_BACKEND, flow_flags},
    settling::{CLOSING_QUIET, OPENING_QUIET},
    tracking::{Owner, Policy, Segment, closed_from_behind, owner},
};

use super::{CLIENTS, Model, OnDown, table::PacketFlow};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// No flow.
    #[default]
    None,
    /// Has sent a SYN.
    Opening,
    /// Has a connection.
    Live,
    /// Has sent a FIN, and goes on acknowledging.
    HalfClosed,
    /// Does not know yet that its backend is gone.
    Lost,
}

/// A client and its flow.
#[derive(Clone, Copy, Debug, Default)]
pub struct Client {
    phase: Phase,
    backend: u32,
    /// When it speaks at the latest.
    due: u32,
    /// Whether its SYN got it a place that it keeps: not if the table was full, and its backend may change until it speaks.
    firm: bool,
    /// Whether its backend has sent a FIN.
    closed_behind: bool,
    /// A packet of it is on another CPU.
    in_flight: bool,
    /// Counts its flows.
    flow: u32,
}

impl Client {
    /// When it speaks at the latest, if it does.
    pub fn due(&self) -> Option<u32> {
        (self.phase != Phase::None && !self.in_flight).then_some(self.due)
    }
}

impl Model {
    /// A random client does something.
    pub fn client_acts(&self) {
        let client = self.below(CLIENTS as u32) as usize;
        let (state, what) = (self.clients[client].get(), self.below(16));
        match state.phase {
            Phase::None if self.settings.tcp && what < 3 => _ = self.straggler(client),
            _ if state.in_flight && state.phase == Phase::None => {}
            Phase::None => self.open(client),
            Phase::Opening | Phase::Lost if state.in_flight => {}
            Phase::Opening if what < 5 => self.open(client),
            Phase::Live if self.settings.tcp && !state.in_flight && what < 6 => self.act_on_connection(client, what),
            // It vanishes without a word.
            Phase::Live | Phase::HalfClosed if !state.in_flight && what == 6 => self.set_phase(client, Phase::None),
            _ => self.speak(client),
        }
    }

    fn act_on_connection(&self, client: usize, what: u32) {
        let state = self.clients[client].get();
        match what {
            0 | 1 => self.close(client, flow_flags::FIN),
            2 => self.close(client, flow_flags::RESET),
            3 => self.forge(client),
            4 if self.settings.nat && self.below(2) == 0 => self.close_from_behind(client),
            // It has forgotten its connection.
            5 if !state.closed_behind => {
                self.set_phase(client, Phase::None);
                self.open(client);
            }
            _ => self.speak(client),
        }
    }

    fn update(&self, client: usize, update: impl FnOnce(&mut Client)) {
        let mut state = self.clients[client].get();
        update(&mut state);
        self.clients[client].set(state);
    }

    fn set_phase(&self, client: usize, phase: Phase) {
        let patience = self.patience(phase);
        self.update(client, |state| {
            if phase == Phase::None {
                *state = Client { flow: state.flow + 1, in_flight: state.in_flight, ..Client::default() };
            }
            (state.phase, state.due) = (phase, self.now.get() + patience);
        });
    }

    /// How long a client may be silent and keep its flow: half of them use all of it.
    fn patience(&self, phase: Phase) -> u32 {
        let kept = self.settings.idle.min(self.settings.settle_after);
        let longest = match phase {
            Phase::Opening => kept.min(OPENING_QUIET),
            Phase::HalfClosed => kept.min(CLOSING_QUIET),
            Phase::None | Phase::Live | Phase::Lost => kept,
        } - 1;
        if self.below(2) == 0 { longest } else { 1 + self.below(longest) }
    }

    /// One packet.
    fn packet(&self, client: usize, segment: Segment) -> Owner {
        let outer = self.clients[client].get().in_flight;
        self.update(client, |state| state.in_flight = true);
        let owner = self.forward(client, segment);
        self.update(client, |state| state.in_flight = outer);
        owner
    }

    /// What the pipeline does.
    fn forward(&self, client: usize, segment: Segment) -> Owner {
        let slot = self.slots[Self::slot_of(client)].get();
        self.interrupt();
        if !slot.tracked() {
            return Owner::Backend(slot.current());
        }
        let policy = Policy {
            track_every_flow: self.settings.track_every_flow(),
            reroute: self.settings.on_down == OnDown::Reroute,
            reset: self.settings.on_down == OnDown::Reset,
        };
        self.packets.set(self.packets.get() + 1);
        let owner = owner(&PacketFlow { model: self, client, slot, opens: segment.opens }, slot, policy, segment);
        self.packets.set(self.packets.get() - 1);
        owner
    }

    /// A SYN, or the first datagram.
    fn open(&self, client: usize) {
        let interrupts = self.interrupts.get();
        let known = self.entry_of(client).filter(|word| !word.is_closed() && !self.is_gone(word.backend()));
        let refused = self.not_entered();
        let tcp = self.settings.tcp;
        let flags = if tcp { 0 } else { flow_flags::ESTABLISHED };
        let owner = self.packet(client, Segment { opens: tcp, flags });
        self.note(|| format!("client {client} opens: {owner:?}"));
        let undisturbed = interrupts == self.interrupts.get();
        if let Some(word) = known.filter(|word| undisturbed && owner != Owner::Backend(word.backend())) {
            self.violated(|| format!("client {client} has an entry of {}, its SYN went to {owner:?}", word.backend()));
        }
        let Owner::Backend(backend) = owner else { return self.set_phase(client, Phase::None) };
        if undisturbed && backend != NO_BACKEND && self.is_gone(backend) && tcp {
            self.violated(|| format!("client {client}'s new flow went to {backend}, which is gone"));
        }
        self.set_phase(client, Phase::None);
        if backend == NO_BACKEND || self.is_gone(backend) {
            return;
        }
        let firm = refused == self.not_entered();
        self.update(client, |state| (state.backend, state.firm) = (backend, firm));
        self.set_phase(client, if tcp { Phase::Opening } else { Phase::Live });
    }

    /// A SYN of somebody else, where the flow has an entry or its slot gives new flows to `base`. Elsewhere nothing tells it
    /// from a new flow's.
    fn forge(&self, client: usize) {
        let slot = self.slots[Self::slot_of(client)].get();
        let level = slot.current() == slot.base() && !self.settings.track_every_flow();
        let closed = self.entry_of(client).map(FlowWord::is_closed);
        if !level && closed.is_none() || closed == Some(true) {
            return;
        }
        self.note(|| format!("client {client}'s SYN is forged"));
        let depth = self.depth.replace(u32::MAX);
        self.packet(client, Segment { opens: true, flags: 0 });
        self.depth.set(depth);
    }

    /// A packet of a flow that is over.
    fn straggler(&self, client: usize) -> Owner {
        self.note(|| format!("client {client}'s straggler"));
        self.packet(client, Segment { opens: false, flags: flow_flags::ESTABLISHED })
    }

    fn close(&self, client: usize, how: u8) {
        let flow = self.clients[client].get().flow;
        self.say(client, how);
        let state = self.clients[client].get();
        if state.flow != flow || state.phase != Phase::Live {
            return;
        }
        let goes_on = how == flow_flags::FIN && !state.closed_behind && self.below(2) == 0;
        self.set_phase(client, if goes_on { Phase::HalfClosed } else { Phase::None });
    }

    fn close_from_behind(&self, client: usize) {
        let state = self.clients[client].get();
        let told = if self.below(2) == 0 { flow_flags::RESET } else { flow_flags::FIN_BACK };
        let slot = self.slots[Self::slot_of(client)].get();
        self.note(|| format!("client {client}'s backend closes: {told}"));
        if told == flow_flags::RESET {
            self.set_phase(client, Phase::None);
        } else {
            self.update(client, |state| state.closed_behind = true);
        }
        if slot.tracked() {
            self.packets.set(self.packets.get() + 1);
            closed_from_behind(&PacketFlow { model: self, client, slot, opens: false }, state.backend, told);
            self.packets.set(self.packets.get() - 1);
        }
    }

    /// Data, or what the client's phase wants.
    pub fn speak(&self, client: usize) {
        self.say(client, 0);
    }

    fn say(&self, client: usize, flags: u8) {
        let before = self.clients[client].get();
        let interrupts = self.interrupts.get();
        let told_gone =
            before.phase == Phase::Lost && self.is_gone(before.backend) && self.names(client, before.backend);
        let owner = self.packet(client, Segment { opens: false, flags: flags | flow_flags::ESTABLISHED });
        self.note(|| format!("client {client} of {} speaks ({flags}): {owner:?}", before.backend));
        let now = self.clients[client].get();
        if now.flow != before.flow {
            return;
        }
        if before.phase == Phase::Lost {
            return self.found_out(client, owner, told_gone && interrupts == self.interrupts.get());
        }
        if owner == Owner::Backend(before.backend) {
            let phase = if now.phase == Phase::Opening { Phase::Live } else { now.phase };
            self.update(client, |state| state.firm = true);
            return self.set_phase(client, phase);
        }
        // A flow that was begun while the table was full may fail before it is established.
        if before.firm {
            self.violated(|| format!("client {client}'s flow moved from {} to {owner:?}", before.backend));
        }
        self.set_phase(client, Phase::None);
    }

    /// Whether what is known of the client's flow says that it is `backend`'s.
    fn names(&self, client: usize, backend: u32) -> bool {
        let slot = self.slots[Self::slot_of(client)].get();
        let owner = self.entry_of(client).map_or(slot.base(), FlowWord::backend);
        slot.tracked() && owner == backend
    }

    /// What a client hears whose backend is gone.
    fn found_out(&self, client: usize, owner: Owner, told_gone: bool) {
        let old = self.clients[client].get().backend;
        let reroute = self.settings.on_down == OnDown::Reroute;
        let right = match owner {
            Owner::Gone => !reroute,
            Owner::Backend(new) => reroute && new != old,
            Owner::Refused => reroute,
        };
        if told_gone && !right {
            self.violated(|| format!("client {client}'s backend {old} is gone, its packet went to {owner:?}"));
        }
        self.set_phase(client, Phase::None);
        if let (true, Owner::Backend(new)) = (reroute, owner)
            && new != NO_BACKEND
            && !self.is_gone(new)
        {
            self.update(client, |state| (state.backend, state.firm) = (new, true));
            self.set_phase(client, Phase::Live);
        }
    }

    /// The flows of a backend that has gone are no longer to be kept.
    pub fn lose_flows(&self, backend: u32) {
        self.each_flow_of(backend, Phase::Lost);
    }

    /// A backend that comes back does not know its old flows.
    pub fn forget_lost(&self, backend: u32) {
        if self.is_gone(backend) {
            self.each_flow_of(backend, Phase::None);
        }
    }

    fn each_flow_of(&self, backend: u32, phase: Phase) {
        for client in 0..CLIENTS {
            let state = self.clients[client].get();
            if state.phase != Phase::None && state.backend == backend {
                self.set_phase(client, Phase::None);
                self.update(client, |state| state.backend = backend);
                // Those with a packet on its way have to be left alone.
                if !state.in_flight && state.phase != Phase::Opening {
                    self.set_phase(client, phase);
                }
            }
        }
    }
}
