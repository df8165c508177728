//! The controller's state, and what each input does to it. No input waits for anything but the data plane and the disk.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Instant, SystemTime},
};

use anyhow::Context;
use tracing::{error, info, warn};

use super::{
    desired::{BackendKey, Plan, Scope, plan},
    edit::Edit,
    entry,
    mirror::Mirror,
    paths::NO_EGRESS,
    saved::{Start, Store},
    standing::Standings,
    want::Want,
};
use crate::{
    api::{
        control::ControlError,
        types::{Change, Detached, LastChange, LastUpgrade, unix_ms},
    },
    flows::Census,
    health::{Event, Health, Target},
    nexthop::{NetworkView, Resolution},
    spec::OnExit,
    tables::{Capacity, Dataplane, Endpoint},
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
    pub(super) last_change: Option<LastChange>,
    pub(super) last_upgrade: Option<LastUpgrade>,
    /// What the last sweep of the flow tables found.
    pub(super) census: Option<Census>,
    store: Store,
    /// A write or a plan failed: the kernel's tables may be otherwise than `mirror` says or `want` demands.
    suspect: bool,
    /// Routes towards clients that the last plan held back.
    held_back: usize,
    /// The configuration is another since somebody last asked.
    reconfigured: bool,
    over: bool,
}

impl Core {
    /// Reads the kernel's tables and makes them what `start` wants; what is right already stays as it is.
    pub fn start(start: Start, dataplane: Box<dyn Dataplane>, view: Arc<NetworkView>) -> anyhow::Result<Self> {
        let mirror = Mirror::new(dataplane.read().context("can't read the kernel's tables")?);
        let capacity = Capacity::of(&start.spec.node.tables);
        let mut core = Self {
            want: Want::new(start.spec, &mirror, &view, capacity.routes, SystemTime::now()),
            capacity,
            config: start.config,
            started: Instant::now(),
            view,
            mirror,
            dataplane,
            standings: Standings::default(),
            last_change: None,
            last_upgrade: None,
            census: None,
            store: start.store,
            suspect: false,
            held_back: 0,
            reconfigured: true,
            over: false,
        };
        core.tell_kept_slots();
        core.reconcile(Scope::Everything)?;
        if start.outdated {
            core.store.forget()?;
        }
        Ok(core)
    }

    /// Does what a command asks for; an error has changed nothing.
    pub fn edit(&mut self, edit: &Edit) -> Result<Change, ControlError> {
        self.recover().map_err(refused)?;
        let spec = edit.apply(&self.want.spec)?;
        let next = self.want.with(spec, &self.view, SystemTime::now());
        let affected = next.differences(&self.want);
        let plan = plan(&self.mirror, &next.inputs(&self.capacity, self.dataplane.seed()), Scope::Services(&affected))
            .map_err(|full| ControlError::Conflict(full.to_string()))?;
        // Saved first: were it written first, a power failure in between would undo what was done.
        self.store.save(&next.spec).map_err(refused)?;
        if let Err(error) = self.write(&plan) {
            self.undo(&error);
            return Err(refused(error));
        }
        let previous = std::mem::replace(&mut self.want, next);
        self.reconfigured = true;
        self.standings.update(&affected, &self.want, &self.mirror, &plan.moved);
        let change = self.change(edit, &previous, &plan);
        info!("{}; {} of {} slots moved", change.summary, change.slots_moved, change.slots);
        self.last_change = Some(LastChange { at_unix_ms: unix_ms(SystemTime::now()), summary: change.summary.clone() });
        Ok(change)
    }

    /// Takes in what health checks found.
    pub fn health(&mut self, events: Vec<Event<BackendKey>>) {
        let mut affected = BTreeSet::new();
        for event in events {
            if let Some(health) = self.want.health.get_mut(&event.backend) {
                *health = event.health;
                affected.insert(event.backend.service);
            }
        }
        self.keep_right(&affected);
    }

    /// Takes in what became of the network.
    pub fn network(&mut self, view: Arc<NetworkView>) {
        self.reattach();
        let affected = self.want.follow(&view, self.capacity.routes);
        self.view = view;
        if let Some(affected) = affected {
            self.keep_right(&affected);
        }
    }

    /// Attaches again where an interface was made anew.
    pub fn reattach(&mut self) {
        self.dataplane.reattach();
    }

    /// Makes up for what failed, if something did.
    pub fn recover(&mut self) -> anyhow::Result<()> {
        if self.suspect {
            self.mirror = Mirror::new(self.dataplane.read().context("can't read the kernel's tables")?);
            self.reconcile(Scope::Everything)?;
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
        self.dataplane.detach().map_err(refused)?;
        self.over = true;
        info!("detached from {}; nothing is balanced any more", interfaces.join(", "));
        Ok(Detached { interfaces })
    }

    /// Ends the controller and does what the configuration says of the data plane.
    pub fn stop(&mut self) -> Result<(), ControlError> {
        match self.want.spec.node.on_exit {
            OnExit::Detach => self.detach().map(drop),
            OnExit::Keep => {
                self.over = true;
                info!("stopping; the data plane stays and goes on forwarding");
                Ok(())
            }
        }
    }

    /// Ends the controller and leaves the data plane as it is, for another daemon to take it over.
    pub fn leave(&mut self) {
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
    fn keep_right(&mut self, affected: &BTreeSet<Endpoint>) {
        if self.suspect {
            return;
        }
        if let Err(failure) = self.reconcile(Scope::Services(affected)) {
            self.suspect = true;
            error!("the kernel's tables could not be changed, trying again: {failure:#}");
        }
    }

    fn reconcile(&mut self, scope: Scope<'_>) -> anyhow::Result<()> {
        let plan = plan(&self.mirror, &self.want.inputs(&self.capacity, self.dataplane.seed()), scope)?;
        self.write(&plan)?;
        let everything;
        let affected = match scope {
            Scope::Services(affected) => affected,
            Scope::Everything => {
                everything = self.want.services().into_keys().collect();
                &everything
            }
        };
        self.standings.update(affected, &self.want, &self.mirror, &plan.moved);
        Ok(())
    }

    fn write(&mut self, plan: &Plan) -> anyhow::Result<()> {
        if let Err(error) = self.dataplane.write(&plan.writes) {
            self.suspect = true;
            return Err(error);
        }
        plan.writes.iter().for_each(|write| self.mirror.apply(write));
        self.tell_held_back(plan.held_back);
        Ok(())
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

    /// After a write that failed half-way: back to what was.
    fn undo(&mut self, failure: &anyhow::Error) {
        warn!("the kernel refused a change, undoing it: {failure:#}");
        if let Err(error) = self.store.save(&self.want.spec) {
            error!("{error:#}: after a restart the refused change would be tried again");
        }
        if let Err(error) = self.recover() {
            error!("the kernel's tables could not be put right, trying again: {error:#}");
        }
    }

    fn change(&self, edit: &Edit, previous: &Want, plan: &Plan) -> Change {
        let of_name = |want: &Want| {
            let service = want.spec.services.iter().find(|service| service.name == edit.service());
            service.map(entry::service_key)
        };
        let mut change = Change { summary: edit.summary(), ..Change::default() };
        let Some(key) = of_name(&self.want).or_else(|| of_name(previous)) else { return change };
        change.slots_moved = plan.moved.get(&key).copied().unwrap_or(0);
        let Some(service) = self.mirror.tables().services.get(&key) else { return change };
        change.slots = service.slot_count;
        let entries = &self.mirror.tables().backends;
        for backend in self.mirror.backends_of(service.id).filter_map(|id| entries.get(&id)) {
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

    /// Services that are being served keep their slots whatever the configuration says.
    fn tell_kept_slots(&self) {
        for (key, service) in self.want.services() {
            if let Some(old) = self.mirror.tables().services.get(&key).filter(|old| old.slot_count != service.slots) {
                warn!(
                    "service {} keeps its {} slots, because other numbers would move its flows; {} as configured takes \
                     effect when the service is removed and added again",
                    service.name, old.slot_count, service.slots
                );
            }
        }
    }
}

fn refused(error: impl Into<anyhow::Error>) -> ControlError {
    ControlError::Dataplane(format!("{:#}", error.into()))
}
