//! The controller's state, and what each input does to it. No input waits for anything but the data plane and the disk.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Instant, SystemTime},
};

use anyhow::Context;
use lb_common::abi::service_flags;
use tracing::{debug, error, info, warn};

use super::{
    affected::Affected,
    clock::Moment,
    desired::{BackendKey, Plan, Scope, plan},
    edit::{BackendEdit, Edit, Edited},
    entry,
    fills::Fills,
    mirror::Mirror,
    paths::NO_EGRESS,
    remains::Remains,
    saved::{Start, Store},
    standing::Standings,
    sweeper::Sweeper,
    sweeps::first_sweep,
    want::{Want, adopted_weights, backend_key},
    ways_back::taken,
    weights::Weights,
};
use crate::{
    api::{
        control::ControlError,
        types::{Change, Detached, LastChange, LastUpgrade, unix_ms},
    },
    health::{Health, Target},
    nexthop::{NetworkView, Resolution},
    spec::OnExit,
    tables::{Capacity, Dataplane, Endpoint, Write},
};

/// Everything the controller knows, and the data plane that it keeps right.
pub struct Core {
    pub(super) config: PathBuf,
    pub(super) started: Instant,
    pub(super) want: Want,
    pub(super) view: Arc<NetworkView>,
    pub(super) capacity: Capacity,
    pub(super) mirror: Mirror,
    pub(super) dataplane: Box<dyn Dataplane>,
    pub(super) standings: Standings,
    pub(super) sweeper: Sweeper,
    pub(super) weights: Weights,
    fills: Fills,
    /// When services are to be looked at again, for time alone will have changed something.
    pub(super) due: BTreeMap<Endpoint, SystemTime>,
    pub(super) last_change: Option<LastChange>,
    pub(super) last_upgrade: Option<LastUpgrade>,
    store: Store,
    /// A write or a plan failed: the kernel's tables may be otherwise than `mirror` says or `want` demands.
    pub(super) suspect: bool,
    /// Routes towards clients that the last plan held back.
    held_back: usize,
    /// The configuration is another since somebody last asked.
    pub(super) reconfigured: bool,
    over: bool,
}

impl Core {
    /// Reads the kernel's tables and makes them what `start` wants; what is right already stays as it is.
    pub fn start(
        start: Start,
        dataplane: Box<dyn Dataplane>,
        view: Arc<NetworkView>,
        now: Moment,
    ) -> anyhow::Result<Self> {
        let mirror = Mirror::new(dataplane.read().context("can't read the kernel's tables")?);
        let capacity = Capacity::of(&start.spec.node.tables);
        let want = Want::new(start.spec, &mirror, &view, capacity.routes, now.wall);
        let mut core = Self {
            sweeper: first_sweep(&*dataplane, &mirror, &want, now)?,
            weights: adopted_weights(&mirror),
            fills: Fills::default(),
            due: BTreeMap::new(),
            want,
            capacity,
            config: start.config,
            started: Instant::now(),
            view,
            mirror,
            dataplane,
            standings: Standings::default(),
            last_change: None,
            last_upgrade: None,
            store: start.store,
            suspect: false,
            held_back: 0,
            reconfigured: true,
            over: false,
        };
        core.tell_kept();
        core.reconcile_all(now)?;
        if start.outdated {
            core.store.forget()?;
        }
        Ok(core)
    }

    /// Does what a command asks for; an error has changed nothing.
    pub fn edit(&mut self, edit: &Edit, now: Moment) -> Result<Change, ControlError> {
        self.recover(now).map_err(refused)?;
        let ended = self.ended(edit);
        let edited = self.edited(edit, ended)?;
        let changed =
            edited.as_ref().and_then(|edited| edited.service().or_else(|| self.want.spec.services.get(edited.at())));
        let changed = changed.map(entry::service_key);
        let affected: BTreeSet<_> = changed.into_iter().chain(ended.map(|backend| backend.service)).collect();
        let weights = self.weights.part(&affected);
        let kept = edited.is_some();
        let undo = edited.map(|edited| self.want.put(edited, &self.mirror, &self.view, now.wall));
        match self.carry_out(edit, kept, &affected, ended, now) {
            Ok(plan) => {
                self.reconfigured = true;
                self.take_in(&plan);
                let change = self.change(edit, changed, &plan);
                info!("{}; {} of {} slots moved", change.summary, change.slots_moved, change.slots);
                self.last_change = Some(LastChange { at_unix_ms: unix_ms(now.wall), summary: change.summary.clone() });
                Ok(change)
            }
            Err(refusal) => {
                if let Some(undo) = undo {
                    self.want.undo(undo);
                }
                self.weights.restore(&affected, weights);
                if self.suspect
                    && let Err(error) = self.recover(now)
                {
                    error!("the kernel's tables could not be put right, trying again: {error:#}");
                }
                Err(refusal)
            }
        }
    }

    /// Writes what follows from `want`, into which the change of `affected` was put already; keeps it if it is one of the
    /// configuration.
    fn carry_out(
        &mut self,
        edit: &Edit,
        kept: bool,
        affected: &BTreeSet<Endpoint>,
        ended: Option<BackendKey>,
        now: Moment,
    ) -> Result<Plan, ControlError> {
        self.want.weigh(&mut self.weights, affected, now.monotonic);
        let remains = Remains { ended: ended.into_iter().collect(), ..self.sweeper.remains.clone() };
        let inputs =
            self.want.inputs(&self.capacity, self.dataplane.seed(), &self.weights, &remains, &self.fills, now.wall);
        let plan = plan(&self.mirror, &inputs, Scope::Services(affected))
            .map_err(|full| ControlError::Conflict(full.to_string()))?;
        if let Some(taken) = taken(&self.mirror, &self.want, &plan.writes).first() {
            return Err(ControlError::Conflict(taken.to_string()));
        }
        // Kept first: were it written first, a power failure in between would undo what was done.
        if kept {
            self.store.append(edit).map_err(refused)?;
        }
        if let Err(failure) = self.write(&plan.writes, now) {
            warn!("the kernel refused a change, undoing it: {failure:#}");
            if kept && let Err(error) = self.store.take_back() {
                error!("{error:#}: after a restart the refused change would be tried again");
            }
            return Err(refused(failure));
        }
        if kept {
            self.fold();
        }
        Ok(plan)
    }

    /// Folds the journal into the state file from time to time. What fails is tried again with the next change.
    fn fold(&mut self) {
        if self.store.is_long()
            && let Err(error) = self.store.save(&self.want.spec)
        {
            warn!("{error:#}: the journal goes on growing");
        }
    }

    /// Folds what is left of the journal, so that whoever starts next has nothing to go through.
    fn fold_rest(&mut self) {
        if !self.store.is_folded()
            && let Err(error) = self.store.save(&self.want.spec)
        {
            warn!("{error:#}: the next start goes through the journal");
        }
    }

    /// Takes in what health checks found.
    pub fn health(&mut self, found: impl IntoIterator<Item = (BackendKey, Health)>, now: Moment) {
        let mut affected = BTreeSet::new();
        for (backend, found) in found {
            if let Some(health) = self.want.health.get_mut(&backend) {
                *health = found;
                affected.insert(backend);
            }
        }
        self.keep_right(Affected::backends(affected), now);
    }

    /// Takes in what became of the network.
    pub fn network(&mut self, view: Arc<NetworkView>, now: Moment) {
        debug!("the network is seen anew");
        self.reattach();
        let affected = self.want.follow(&self.mirror, &view, self.capacity.routes);
        self.view = view;
        if let Some(affected) = affected {
            self.keep_right(affected, now);
        }
    }

    /// Attaches again where an interface was made anew.
    pub fn reattach(&mut self) {
        self.dataplane.reattach();
    }

    /// Makes up for what failed, if something did.
    pub fn recover(&mut self, now: Moment) -> anyhow::Result<()> {
        if self.suspect {
            let read = Mirror::new(self.dataplane.read().context("can't read the kernel's tables")?);
            let old = std::mem::replace(&mut self.mirror, read);
            self.sweeper.read_again(&old, &self.mirror, now.monotonic);
            // The tables may have entries of backends that are not wanted, and those need their ways until they have left.
            self.want.look_up_all(&self.mirror, &self.view, self.capacity.routes);
            self.reconcile_all(now)?;
            self.suspect = false;
            info!("the kernel's tables are as they should be again");
        }
        Ok(())
    }

    /// On-link clients that replies wait for, as (neighbour, interface).
    pub fn wanted_neighbours(&mut self) -> Vec<(IpAddr, u32)> {
        let wanted = self.dataplane.wanted_neighbours().unwrap_or_else(|error| {
            warn!("can't tell which clients' neighbours are wanted: {error:#}");
            Vec::new()
        });
        let unresolved = wanted.into_iter().filter_map(|address| match self.view.resolve(address) {
            Resolution::Unresolved { ask, ifindex } => Some((ask, ifindex)),
            _ => None,
        });
        unresolved.collect()
    }

    /// Whether the configuration is another since this was last asked, so that others are to be checked and kept fresh.
    pub fn take_reconfigured(&mut self) -> bool {
        std::mem::take(&mut self.reconfigured)
    }

    /// What is to be checked.
    #[must_use]
    pub fn targets(&self) -> BTreeMap<BackendKey, Target> {
        self.want.targets()
    }

    /// What is known of a backend's health.
    #[must_use]
    pub fn known_health(&self, backend: &BackendKey) -> Health {
        self.want.health.get(backend).cloned().unwrap_or_else(|| Health::unknown(SystemTime::now()))
    }

    /// The neighbours, by interface, whose addresses must stay known.
    #[must_use]
    pub fn neighbours(&self) -> BTreeSet<(u32, IpAddr)> {
        self.want.paths.neighbours()
    }

    /// Detaches for good; the controller ends.
    pub fn detach(&mut self) -> Result<Detached, ControlError> {
        let attached = self.dataplane.attachments().into_iter().filter(|attachment| attachment.xdp.is_some());
        let interfaces: Vec<String> = attached.map(|attachment| attachment.interface).collect();
        self.sweeper.abandon();
        self.dataplane.detach().map_err(refused)?;
        self.over = true;
        self.sweeper.halt();
        info!("detached from {}; nothing is balanced any more", interfaces.join(", "));
        Ok(Detached { interfaces })
    }

    /// Ends the controller and does what the configuration says of the data plane.
    pub fn stop(&mut self) -> Result<(), ControlError> {
        match self.want.spec.node.on_exit {
            OnExit::Detach => self.detach().map(drop),
            OnExit::Keep => {
                self.sweeper.halt();
                self.fold_rest();
                self.over = true;
                info!("stopping; the data plane stays and goes on forwarding");
                Ok(())
            }
        }
    }

    /// Ends the controller and leaves the data plane as it is, for another daemon to take it over.
    pub fn leave(&mut self) {
        self.sweeper.halt();
        self.fold_rest();
        self.over = true;
        info!("handing over; the data plane stays and goes on forwarding");
    }

    /// Takes note of how an upgrade went.
    pub fn upgraded(&mut self, upgrade: LastUpgrade) {
        self.last_upgrade = Some(upgrade);
    }

    /// Whether the controller has ended.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.over
    }

    /// Reconciles after an input that can't be refused: what fails now is tried again.
    pub(super) fn keep_right(&mut self, affected: Affected, now: Moment) {
        if self.suspect {
            return;
        }
        if let Err(failure) = self.reconcile(affected, now) {
            self.suspect = true;
            error!("the kernel's tables could not be changed, trying again: {failure:#}");
        }
    }

    pub(super) fn reconcile(&mut self, mut affected: Affected, now: Moment) -> anyhow::Result<()> {
        self.want.weigh_affected(&mut self.weights, &mut affected, now.monotonic);
        self.make_right(Scope::Affected(&affected), now)
    }

    fn reconcile_all(&mut self, now: Moment) -> anyhow::Result<()> {
        self.want.weigh(&mut self.weights, &self.want.services().into_keys().collect(), now.monotonic);
        self.make_right(Scope::Everything, now)
    }

    fn make_right(&mut self, scope: Scope<'_>, now: Moment) -> anyhow::Result<()> {
        let (weights, remains) = (&self.weights, &self.sweeper.remains);
        let inputs = self.want.inputs(&self.capacity, self.dataplane.seed(), weights, remains, &self.fills, now.wall);
        let plan = plan(&self.mirror, &inputs, scope)?;
        for taken in taken(&self.mirror, &self.want, &plan.writes) {
            warn!("the configuration has another backend there already: {taken}");
        }
        self.write(&plan.writes, now)?;
        self.take_in(&plan);
        Ok(())
    }

    /// Does `writes`, to the kernel's tables and to all that follows them.
    pub(super) fn write(&mut self, writes: &[Write], now: Moment) -> anyhow::Result<()> {
        self.sweeper.before(writes, &self.mirror);
        if let Err(error) = self.dataplane.write(writes) {
            self.suspect = true;
            return Err(error);
        }
        for write in writes {
            self.mirror.apply(write);
        }
        self.sweeper.after(writes, &self.mirror, now.monotonic);
        Ok(())
    }

    /// Takes in a plan that was written.
    fn take_in(&mut self, plan: &Plan) {
        self.follow_due(plan);
        self.tell_held_back(plan.held_back);
        self.standings.update(&plan.looked_at, &self.want, &self.mirror, &plan.moved);
    }

    /// What a change makes of the configuration; nothing if a backend is leaving already, and is now `ended`.
    fn edited(&self, edit: &Edit, ended: Option<BackendKey>) -> Result<Option<Edited>, ControlError> {
        match (edit.apply(&self.want.spec), ended) {
            (Err(ControlError::NotFound(_)), Some(_)) => Ok(None),
            (result, _) => result.map(Some),
        }
    }

    /// The backend, configured or leaving, whose flows are not waited for any longer if this change is made.
    fn ended(&self, edit: &Edit) -> Option<BackendKey> {
        let Edit::Backend { service, backend, how: BackendEdit::Remove { now: true } } = edit else { return None };
        let service = self.want.spec.services.iter().find(|other| other.name == *service)?;
        let key = entry::service_key(service);
        let configured =
            service.backends.iter().find(|other| other.name == *backend).map(|found| backend_key(key, found));
        let leaving = || self.mirror.leaving(&key).find(|(_, other)| other.name == *backend);
        configured.or_else(|| leaving().map(|(_, found)| backend_key(key, &found)))
    }

    /// Once, and not with every plan.
    fn tell_held_back(&mut self, routes: usize) {
        match (std::mem::replace(&mut self.held_back, routes), routes) {
            (0, 1..) => warn!(
                "{routes} routes towards clients are held back, so that replies of `nat` services don't get there: {}",
                NO_EGRESS
            ),
            (1.., 0) => info!("no route towards clients is held back any more"),
            _ => {}
        }
    }

    /// What was done, and what became of the service at `changed`.
    fn change(&self, edit: &Edit, changed: Option<Endpoint>, plan: &Plan) -> Change {
        let mut change = Change { summary: edit.summary(), ..Change::default() };
        let named = || self.want.spec.services.iter().find(|service| service.name == edit.service());
        let Some(key) = changed.or_else(|| named().map(entry::service_key)) else { return change };
        change.slots_moved = plan.moved.get(&key).copied().unwrap_or(0);
        let Some(service) = self.mirror.tables().services.get(&key) else { return change };
        change.slots = service.slot_count;
        let entries = &self.mirror.tables().backends;
        let own = self.mirror.backends_of(service.id).filter_map(|id| entries.get(&id));
        for backend in own.filter(|backend| !entry::is_leaving(backend)) {
            change.backends += 1;
            change.backends_taking += u32::from(entry::takes_flows(backend));
        }
        change.warnings = self.warnings(&key, change.backends_taking);
        change
    }

    fn warnings(&self, key: &Endpoint, taking: u32) -> Vec<String> {
        let mut warnings = Vec::new();
        let services = self.want.services();
        let Some(service) = services.get(key) else { return warnings };
        if taking == 0 && !service.backends.is_empty() {
            warnings.push(format!("service {:?} has no backend that takes new flows", service.name));
        }
        for backend in &service.backends {
            if let Some(standing) = self.standings.get(key, backend).filter(|standing| standing.is_unready()) {
                warnings.push(format!("backend {:?} takes no flows: {}", backend.name, standing.reason));
            }
        }
        warnings
    }

    /// Services that are being served keep their slots, and what they hash by, whatever the configuration says.
    fn tell_kept(&self) {
        for (key, service) in self.want.services() {
            let Some(old) = self.mirror.tables().services.get(&key) else { continue };
            if old.slot_count != service.slots {
                warn!(
                    "service {} keeps its {} slots, because other numbers would move its flows; {} as configured takes \
                     effect when the service is removed and added again",
                    service.name, old.slot_count, service.slots
                );
            }
            let configured = entry::service(service, old.id, old.first_slot, old.slot_count);
            if entry::hashing_as_before(configured, old) != configured {
                let by_source = old.flags & service_flags::HASH_SOURCE != 0;
                let hashed = if by_source { "clients' addresses" } else { "addresses and ports" };
                warn!(
                    "service {} keeps hashing by {hashed}, because anything else would move its flows; its scheduler takes \
                     full effect when the service is removed and added again",
                    service.name
                );
            }
        }
    }
}

fn refused(error: impl Into<anyhow::Error>) -> ControlError {
    ControlError::Dataplane(format!("{:#}", error.into()))
}
