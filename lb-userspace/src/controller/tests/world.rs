//! A kernel, what is wanted of it, and the planning in between.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use lb_common::abi::{self, NO_BACKEND, SlotWord};

use super::{network, spec};
use crate::{
    controller::{
        affected::Affected,
        desired::{Plan, Scope, plan},
        edit::Edited,
        entry,
        fills::Fills,
        full::Full,
        mirror::Mirror,
        remains::Remains,
        want::{Want, adopted_weights},
        weights::Weights,
    },
    nexthop::NetworkView,
    spec::Spec,
    tables::{Capacity, Endpoint, Tables, Write, fake::Kernel},
};

/// When all health is known since; it is later than that.
pub const START: SystemTime = SystemTime::UNIX_EPOCH;

/// A kernel, and what is wanted of it.
pub struct World {
    pub kernel: Kernel,
    pub mirror: Mirror,
    pub want: Want,
    pub capacity: Capacity,
    pub weights: Weights,
    pub remains: Remains,
    pub fills: Fills,
    pub now: SystemTime,
}

impl World {
    /// A daemon that has started with all backends 0 to 100 reachable.
    pub fn new(services: &str) -> Self {
        Self::on(Kernel::default(), spec(services), &network(0..=100))
    }

    pub fn on(kernel: Kernel, spec: Spec, view: &NetworkView) -> Self {
        let mirror = Mirror::new(kernel.read());
        let capacity = Capacity::of(&spec.node.tables);
        let want = Want::new(spec, &mirror, view, capacity.routes, START);
        let (remains, now) = (Remains::default(), START + Duration::from_secs(2));
        let (weights, fills) = (adopted_weights(&mirror), Fills::default());
        let mut world = Self { kernel, mirror, want, capacity, weights, remains, fills, now };
        world.reconcile(Scope::Everything);
        world
    }

    pub fn plan(&self, scope: Scope<'_>) -> Result<Plan, Full> {
        plan(
            &self.mirror,
            &self.want.inputs(&self.capacity, [1, 2], &self.weights, &self.remains, &self.fills, self.now),
            scope,
        )
    }

    pub fn reconcile(&mut self, scope: Scope<'_>) -> Plan {
        let plan = self.plan(scope).unwrap();
        for write in &plan.writes {
            self.kernel.write(write);
            self.mirror.apply(write);
        }
        assert_eq!(self.kernel.read(), *self.mirror.tables());
        plan
    }

    /// Changes the configuration, and checks that looking at what changed is as good as looking at everything.
    pub fn configure(&mut self, services: &str) -> Plan {
        let affected = self.put(spec(services), &network(0..=100), START);
        self.reconcile_checked(&affected)
    }

    /// Puts the services of `spec` in place of what there is, one by one: those that are others, come or go.
    pub fn put(&mut self, spec: Spec, view: &NetworkView, now: SystemTime) -> BTreeSet<Endpoint> {
        let mut affected = BTreeSet::new();
        let keys: BTreeSet<_> = spec.services.iter().map(entry::service_key).collect();
        while let Some(at) =
            self.want.spec.services.iter().position(|service| !keys.contains(&entry::service_key(service)))
        {
            affected.insert(entry::service_key(&self.want.spec.services[at]));
            self.put_one(Edited::Remove(at), view, now);
        }
        for service in spec.services {
            let (key, old) = (entry::service_key(&service), &self.want.spec.services);
            match old.iter().position(|old| entry::service_key(old) == key) {
                Some(at) if old[at] == service => continue,
                Some(at) => self.put_one(Edited::Replace(at, service), view, now),
                None => self.put_one(Edited::Insert(old.len(), service), view, now),
            }
            affected.insert(key);
        }
        affected
    }

    /// Puts one service, after having seen that it can be undone.
    fn put_one(&mut self, edited: Edited, view: &NetworkView, now: SystemTime) {
        let before = self.want.clone();
        let undo = self.want.put(edited.clone(), &self.mirror, view, now);
        self.want.undo(undo);
        assert_eq!((&self.want.spec, &self.want.health), (&before.spec, &before.health));
        assert_eq!(self.want.paths, before.paths);
        self.want.put(edited, &self.mirror, view, now);
    }

    pub fn reconcile_checked(&mut self, affected: &BTreeSet<Endpoint>) -> Plan {
        let plan = self.reconcile(Scope::Services(affected));
        assert_eq!(self.plan(Scope::Everything).unwrap().writes, [], "something else should have changed");
        plan
    }

    /// The same for what is affected.
    pub fn reconcile_affected(&mut self, affected: &Affected) -> Plan {
        let plan = self.reconcile(Scope::Affected(affected));
        assert_eq!(self.plan(Scope::Everything).unwrap().writes, [], "something else should have changed");
        plan
    }

    pub fn tables(&self) -> &Tables {
        self.mirror.tables()
    }

    pub fn service(&self, port: u16) -> abi::Service {
        self.tables().services[&endpoint(port)]
    }

    /// Slots of each backend of the service at `port`, by last octet; 0 stands for none.
    pub fn spread(&self, port: u16) -> BTreeMap<u8, usize> {
        let mut spread = BTreeMap::new();
        for word in &self.tables().slots[&self.service(port).first_slot] {
            let octet = match word.current() {
                NO_BACKEND => 0,
                id => self.tables().backends[&id].address[3],
            };
            *spread.entry(octet).or_default() += 1;
        }
        spread
    }

    /// The slots of the service at `port` become steady, as if all old flows had ended.
    pub fn settle(&mut self, port: u16) {
        let first = self.service(port).first_slot;
        let words = (0u32..).zip(self.tables().slots[&first].clone());
        let words = words.map(|(offset, word)| (offset, SlotWord::steady(word.current()))).collect();
        let write = Write::Slots { first, words };
        self.kernel.write(&write);
        self.mirror.apply(&write);
    }

    /// Backends by service id and last octet, without those that are leaving.
    pub fn ids(&self) -> BTreeMap<(u32, u8), u32> {
        let configured = self.tables().backends.iter().filter(|(_, backend)| !entry::is_leaving(backend));
        configured.map(|(id, backend)| ((backend.service, backend.address[3]), *id)).collect()
    }
}

/// The key of the service at `port`.
pub fn endpoint(port: u16) -> Endpoint {
    Endpoint { address: [192, 0, 2, 1].into(), port, protocol: abi::protocol::TCP }
}

/// All services that have anything to do with what is affected.
pub fn whole(affected: &Affected) -> BTreeSet<Endpoint> {
    let of_backends = affected.backends.iter().map(|backend| backend.service);
    affected.services.iter().copied().chain(of_backends).collect()
}
