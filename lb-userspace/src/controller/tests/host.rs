//! A controller over a data plane in memory, and packets that go through it by the rules that the kernel's go by.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use lb_common::{
    abi::{FlowEntry, FlowKeyV4, FlowWord, NO_BACKEND, Service, SlotWord, flow_flags, protocol},
    hash,
    tracking::{self, Entry, Flow, FlowEvent, Owner, Policy, Segment},
};
use tempfile::TempDir;

use super::{address, network, start_from, world::endpoint};
use crate::{
    api::{
        control::ControlError,
        types::{Backend, Change},
    },
    controller::{
        clock::Moment,
        core::Core,
        desired::BackendKey,
        edit::{BackendEdit, Edit},
        sweeper::Job,
    },
    flows::FlowKey,
    health::{Health, State},
    tables::{Dataplane, Tables, fake::FakeDataplane},
};

/// A client's SYN.
pub const SYN: Segment = Segment { opens: true, flags: 0 };
/// A client's packet within a connection.
pub const DATA: Segment = Segment { opens: false, flags: flow_flags::ESTABLISHED };
/// A client's last packet.
pub const FIN: Segment = Segment { opens: false, flags: flow_flags::ESTABLISHED | flow_flags::FIN };

/// A host that balances the service "web" at port 80.
pub struct Host {
    pub directory: TempDir,
    pub kernel: FakeDataplane,
    pub core: Core,
    pub now: Moment,
    /// Flows that the flow table has room for.
    pub room: usize,
    services: String,
}

impl Host {
    pub fn new(services: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let kernel = FakeDataplane::default();
        let now = Moment {
            wall: SystemTime::UNIX_EPOCH + Duration::from_hours(500_000),
            monotonic: Duration::from_secs(1_000_000),
        };
        let core = core(&directory, services, &kernel, now).unwrap();
        Self { directory, kernel, core, now, room: usize::MAX, services: services.to_owned() }
    }

    /// The daemon dies, and another one starts.
    pub fn restart(&mut self) {
        self.kernel.fail(None);
        self.core = core(&self.directory, &self.services, &self.kernel, self.now).unwrap();
    }

    /// The same with another configuration file.
    pub fn restart_with(&mut self, services: &str) {
        services.clone_into(&mut self.services);
        self.restart();
    }

    /// Time passes, and what is due by then happens; no sweep does.
    pub fn wait(&mut self, seconds: u64) {
        self.now.wall += Duration::from_secs(seconds);
        self.now.monotonic += Duration::from_secs(seconds);
        let _ = self.core.recover(self.now);
        self.core.tick(self.now);
    }

    /// A sweep begins, if one is due.
    pub fn begin_sweep(&mut self) -> Option<Job> {
        self.core.begin_sweep(self.now)
    }

    /// Waits until a sweep is due, and sweeps.
    pub fn sweep(&mut self) {
        self.wait(60);
        let result = self.begin_sweep().expect("a sweep is due").run();
        self.core.end_sweep(result, self.now);
    }

    /// The health checks of a backend find it to be up or down.
    pub fn health(&mut self, octet: u8, up: bool) {
        let backend = BackendKey { service: endpoint(80), address: address(octet), port: 0 };
        let state = if up { State::Up } else { State::Down };
        let health = Health { state, ..Health::adopted(up, self.now.wall) };
        self.core.health([(backend, health)], self.now);
    }

    pub fn edit(&mut self, octet: u8, how: BackendEdit) -> Result<Change, ControlError> {
        self.edit_named(&format!("b{octet}"), how)
    }

    pub fn edit_named(&mut self, backend: &str, how: BackendEdit) -> Result<Change, ControlError> {
        self.core.edit(&Edit::Backend { service: "web".into(), backend: backend.into(), how }, self.now)
    }

    pub fn add(&mut self, octet: u8) -> Result<Change, ControlError> {
        let backend = crate::config::raw::Backend {
            name: Some(format!("b{octet}")),
            address: address(octet).to_string(),
            port: None,
            weight: 1,
            draining: false,
            drain_until: None,
        };
        self.core.edit(&Edit::AddBackend("web".into(), backend), self.now)
    }

    /// What operators see of a backend.
    pub fn shown(&self, octet: u8) -> Option<Backend> {
        let backends = self.core.service("web", self.now).unwrap().backends;
        backends.into_iter().find(|backend| backend.address == address(octet))
    }

    pub fn tables(&self) -> Tables {
        self.kernel.kernel().read()
    }

    /// The id and the state of the entry of a backend.
    pub fn entry(&self, octet: u8) -> Option<(u32, u8)> {
        let tables = self.kernel.kernel().tables.clone();
        let found = tables.backends.into_iter().find(|(_, entry)| entry.address[3] == octet);
        found.map(|(id, entry)| (id, entry.state))
    }

    pub fn words(&self) -> Vec<SlotWord> {
        let tables = self.tables();
        tables.slots[&tables.services[&endpoint(80)].first_slot].clone()
    }

    /// Whose a packet of client `client` is.
    pub fn packet(&self, client: u16, segment: Segment) -> Owner {
        let key = key(client);
        let (service, slot) = self.slot_of(client);
        if !slot.tracked() {
            return Owner::Backend(slot.current());
        }
        let policy = Policy::of(&service);
        let flow = HostFlow { host: self, key: FlowKey::V4(key), slot };
        tracking::owner(&flow, slot, policy, segment)
    }

    /// The address of the backend that a packet of client `client` gets to.
    pub fn reaches(&self, client: u16, segment: Segment) -> Option<IpAddr> {
        match self.packet(client, segment) {
            Owner::Backend(NO_BACKEND) | Owner::Gone | Owner::Refused => None,
            Owner::Backend(id) => {
                let kernel = self.kernel.kernel();
                let [a, b, c, d, ..] = kernel.tables.backends.get(&id).expect("its entry").address;
                Some([a, b, c, d].into())
            }
        }
    }

    /// A client connects; who it gets to.
    pub fn connect(&self, client: u16) -> Option<IpAddr> {
        let reached = self.reaches(client, SYN)?;
        assert_eq!(self.reaches(client, DATA), Some(reached));
        Some(reached)
    }

    /// The service of a client, and its slot.
    pub fn slot_of(&self, client: u16) -> (Service, SlotWord) {
        let key = key(client);
        let kernel = self.kernel.kernel();
        let service = kernel.tables.services[&endpoint(80)];
        let hash = hash::flow_v4(
            self.kernel.seed(),
            key.source,
            key.destination,
            key.source_port,
            key.destination_port,
            key.protocol,
        );
        let slot = kernel.slots[&(service.first_slot + hash::slot_of(hash, service.slot_count))];
        (service, slot)
    }
}

fn core(directory: &TempDir, services: &str, kernel: &FakeDataplane, now: Moment) -> anyhow::Result<Core> {
    let start = start_from(directory.path(), services)?;
    Core::start(start, Box::new(kernel.clone()), std::sync::Arc::new(network(0..=250)), now)
}

/// The flow of a client.
pub fn key(client: u16) -> FlowKeyV4 {
    FlowKeyV4 {
        source: [203, 0, 113, 9],
        destination: [192, 0, 2, 1],
        source_port: client.to_be_bytes(),
        destination_port: 80u16.to_be_bytes(),
        protocol: protocol::TCP.into(),
    }
}

/// A flow of the host, as the rules see it.
struct HostFlow<'a> {
    host: &'a Host,
    key: FlowKey,
    slot: SlotWord,
}

struct HostEntry {
    kernel: FakeDataplane,
    key: FlowKey,
}

impl Flow for HostFlow<'_> {
    type Entry = HostEntry;

    fn now(&self) -> u32 {
        self.host.now.seconds()
    }

    fn is_gone(&self, backend: u32) -> bool {
        let kernel = self.host.kernel.kernel();
        kernel.tables.backends.get(&backend).is_none_or(crate::controller::entry::is_gone)
    }

    fn choose(&self) -> u32 {
        self.slot.current()
    }

    fn find(&self) -> Option<HostEntry> {
        let known = self.host.kernel.kernel().flows.contains_key(&self.key);
        known.then(|| HostEntry { kernel: self.host.kernel.clone(), key: self.key })
    }

    fn insert(&self, entry: &FlowEntry) -> bool {
        let flows = &mut self.host.kernel.kernel().flows;
        if flows.len() >= self.host.room || flows.contains_key(&self.key) {
            return false;
        }
        flows.insert(self.key, *entry);
        true
    }

    fn count_live(&self, _: u32, _: bool) {}

    fn count_event(&self, event: FlowEvent) {
        let events = &mut self.host.kernel.kernel().counters.flow_events;
        events.resize(FlowEvent::ALL.len(), 0);
        events[event as usize] += 1;
    }
}

impl Entry for HostEntry {
    fn word(&self) -> FlowWord {
        self.kernel.kernel().flows[&self.key].word
    }

    fn replace(&self, old: FlowWord, new: FlowWord) -> bool {
        let mut kernel = self.kernel.kernel();
        let entry = kernel.flows.get_mut(&self.key).unwrap();
        let same = entry.word == old;
        if same {
            entry.word = new;
        }
        same
    }

    fn set_opened(&self, opened: u32) {
        self.kernel.kernel().flows.get_mut(&self.key).unwrap().opened = opened;
    }
}
