//! The task that owns the controller, and the handle that others ask it by.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{self, JoinHandle, JoinSet},
    time::{self, MissedTickBehavior},
};
use tracing::error;

use super::{
    clock::Moment,
    core::Core,
    desired::BackendKey,
    edit::{BackendEdit, Edit},
    saved::Start,
};
use crate::{
    api::{
        control::{Control, ControlError},
        explain::{Explanation, Flow},
        types::{Change, Detached, LastUpgrade, Service, Stats, Status},
    },
    config::raw,
    flows::Census,
    health::{Probe, Runner},
    nexthop::{NetworkMonitor, NetworkView},
    tables::Dataplane,
};

/// How often time is told to the controller, and the data plane is asked which clients' neighbours it wants: what a first
/// reply to an on-link client waits for.
const POLL: Duration = Duration::from_millis(200);
/// Pause between tries to put the kernel's tables right, and between looks at the interfaces.
const RETRY: Duration = Duration::from_secs(1);
/// Requests that may wait.
const REQUESTS: usize = 64;

/// The network as the controller sees it: a [`NetworkMonitor`], or a stand-in for it.
pub trait Network: Send + Sync + 'static {
    /// The view of this moment, and those that follow.
    fn subscribe(&self) -> watch::Receiver<Arc<NetworkView>>;

    /// Asks the kernel to find a neighbour on an interface.
    fn solicit(&self, address: IpAddr, ifindex: u32);

    /// Names the neighbours, by interface, whose addresses must stay known.
    fn keep_fresh(&self, neighbours: BTreeSet<(u32, IpAddr)>);
}

impl Network for NetworkMonitor {
    fn subscribe(&self) -> watch::Receiver<Arc<NetworkView>> {
        self.subscribe()
    }

    fn solicit(&self, address: IpAddr, ifindex: u32) {
        self.solicit(address, ifindex);
    }

    fn keep_fresh(&self, neighbours: BTreeSet<(u32, IpAddr)>) {
        self.keep_fresh(neighbours);
    }
}

/// A running controller.
#[derive(Debug)]
pub struct Controller {
    handle: Handle,
    task: JoinHandle<()>,
}

/// What others ask the controller by. Clones ask the same one.
#[derive(Clone, Debug)]
pub struct Handle(mpsc::Sender<Request>);

/// Something to do with the controller's state. It sends its own answer.
type Request = Box<dyn FnOnce(&mut Core) + Send>;

impl Controller {
    /// Makes the kernel's tables what `start` wants, then keeps them right until it is stopped.
    ///
    /// Everything is as it should be, apart from health checks that have yet to answer, when this returns.
    ///
    /// # Errors
    /// The tables can't be read or written, or have no room. What was written by then is valid.
    pub fn start(
        start: Start,
        dataplane: Box<dyn Dataplane>,
        network: Arc<dyn Network>,
        probe: Arc<dyn Probe>,
    ) -> anyhow::Result<Self> {
        let mut view = network.subscribe();
        let now = Arc::clone(&view.borrow_and_update());
        let core = Core::start(start, dataplane, now, Moment::now())?;
        let (sender, requests) = mpsc::channel(REQUESTS);
        let actor = Actor { core, requests, view, network, runner: Runner::new(probe), sweeps: JoinSet::new() };
        Ok(Self { handle: Handle(sender), task: tokio::spawn(actor.run()) })
    }

    /// What the API and others ask it by.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Waits until the controller has ended: stopped, or detached by a command.
    pub async fn ended(&mut self) -> anyhow::Result<()> {
        Ok((&mut self.task).await?)
    }
}

impl Handle {
    /// Ends the controller, and does what `on_exit` says of the data plane.
    pub async fn stop(&self) -> Result<(), ControlError> {
        self.ask(Core::stop).await
    }

    /// Ends the controller and leaves the data plane as it is, whatever `on_exit` says: another daemon takes it over.
    pub async fn leave(&self) -> Result<(), ControlError> {
        self.ask(|core| {
            core.leave();
            Ok(())
        })
        .await
    }

    /// Tells how the upgrade went that this daemon comes from.
    pub async fn upgraded(&self, upgrade: LastUpgrade) -> Result<(), ControlError> {
        self.ask(|core| {
            core.upgraded(upgrade);
            Ok(())
        })
        .await
    }

    async fn ask<T: Send + 'static>(
        &self,
        what: impl FnOnce(&mut Core) -> Result<T, ControlError> + Send + 'static,
    ) -> Result<T, ControlError> {
        let gone = || ControlError::Dataplane("the controller has ended".to_owned());
        let (answer, answered) = oneshot::channel();
        let request = move |core: &mut Core| {
            // Fails if the asker has gone away: then nobody needs the answer.
            let _ = answer.send(what(core));
        };
        self.0.send(Box::new(request)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    async fn edit(&self, edit: Edit) -> Result<Change, ControlError> {
        self.ask(move |core| core.edit(&edit, Moment::now())).await
    }

    async fn edit_backend(&self, service: &str, backend: &str, how: BackendEdit) -> Result<Change, ControlError> {
        self.edit(Edit::Backend { service: service.to_owned(), backend: backend.to_owned(), how }).await
    }
}

#[async_trait]
impl Control for Handle {
    async fn status(&self) -> Result<Status, ControlError> {
        self.ask(|core| Ok(core.status())).await
    }

    async fn services(&self) -> Result<Vec<Service>, ControlError> {
        self.ask(|core| core.services(Moment::now())).await
    }

    async fn service(&self, name: &str) -> Result<Service, ControlError> {
        let name = name.to_owned();
        self.ask(move |core| core.service(&name, Moment::now())).await
    }

    async fn add_service(&self, service: raw::Service) -> Result<Change, ControlError> {
        self.edit(Edit::AddService(service)).await
    }

    async fn remove_service(&self, name: &str) -> Result<Change, ControlError> {
        self.edit(Edit::RemoveService(name.to_owned())).await
    }

    async fn add_backend(&self, service: &str, backend: raw::Backend) -> Result<Change, ControlError> {
        self.edit(Edit::AddBackend(service.to_owned(), backend)).await
    }

    async fn remove_backend(&self, service: &str, backend: &str, now: bool) -> Result<Change, ControlError> {
        self.edit_backend(service, backend, BackendEdit::Remove { now }).await
    }

    async fn set_weight(&self, service: &str, backend: &str, weight: u16) -> Result<Change, ControlError> {
        self.edit_backend(service, backend, BackendEdit::Weight(weight)).await
    }

    async fn drain(&self, service: &str, backend: &str, deadline: Option<Duration>) -> Result<Change, ControlError> {
        let until = |deadline: Duration| {
            let problem = || ControlError::Invalid(vec!["the deadline is too far away".to_owned()]);
            SystemTime::now().checked_add(deadline).ok_or_else(problem)
        };
        let deadline = deadline.map(until).transpose()?;
        self.edit_backend(service, backend, BackendEdit::Drain(deadline)).await
    }

    async fn undrain(&self, service: &str, backend: &str) -> Result<Change, ControlError> {
        self.edit_backend(service, backend, BackendEdit::Undrain).await
    }

    async fn stats(&self) -> Result<Stats, ControlError> {
        self.ask(|core| core.stats()).await
    }

    async fn explain(&self, flow: Flow) -> Result<Explanation, ControlError> {
        self.ask(move |core| core.explain(&flow, Moment::now())).await
    }

    async fn detach(&self) -> Result<Detached, ControlError> {
        self.ask(Core::detach).await
    }
}

/// The task: one input after the other.
struct Actor {
    core: Core,
    requests: mpsc::Receiver<Request>,
    view: watch::Receiver<Arc<NetworkView>>,
    network: Arc<dyn Network>,
    runner: Runner<BackendKey>,
    /// The sweep that is under way, if one is.
    sweeps: JoinSet<anyhow::Result<Census>>,
}

impl Actor {
    async fn run(mut self) {
        let mut polls = time::interval(POLL);
        polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut retries = time::interval(RETRY);
        retries.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut follows_network = true;
        while !self.core.is_over() {
            if self.core.take_reconfigured() {
                self.runner.follow(self.core.targets(), |backend| self.core.known_health(backend));
                self.network.keep_fresh(self.core.neighbours());
            }
            tokio::select! {
                request = self.requests.recv() => match request {
                    Some(request) => {
                        request(&mut self.core);
                        // What follows from a change may take longer than the change: the answer is to go out first, and
                        // its task may wait for this one's thread.
                        task::yield_now().await;
                    }
                    None => return,
                },
                event = self.runner.event() => {
                    let mut events = vec![event];
                    events.extend(std::iter::from_fn(|| self.runner.event_now()));
                    let found = events.into_iter().map(|event| (event.backend, event.health));
                    self.core.health(found, Moment::now());
                }
                changed = self.view.changed(), if follows_network => {
                    follows_network = changed.is_ok();
                    if follows_network {
                        let view = Arc::clone(&self.view.borrow_and_update());
                        self.core.network(view, Moment::now());
                        self.network.keep_fresh(self.core.neighbours());
                    } else {
                        error!("the network is no longer followed: next hops stay as they are until a restart");
                    }
                }
                Some(swept) = self.sweeps.join_next() => {
                    let result = swept.unwrap_or_else(|failure| Err(failure.into()));
                    self.core.end_sweep(result, Moment::now());
                }
                _ = polls.tick() => self.tick(),
                _ = retries.tick() => {
                    self.core.reattach();
                    if let Err(error) = self.core.recover(Moment::now()) {
                        error!("the kernel's tables could not be put right, trying again: {error:#}");
                    }
                }
            }
        }
    }

    fn tick(&mut self) {
        let now = Moment::now();
        if self.core.wants_times(now) {
            self.core.take_times(self.runner.take_answers());
        }
        self.core.tick(now);
        if self.sweeps.is_empty()
            && let Some(job) = self.core.begin_sweep(now)
        {
            self.sweeps.spawn_blocking(|| job.run());
        }

        for (address, ifindex) in self.core.wanted_neighbours() {
            self.network.solicit(address, ifindex);
        }
    }
}
