//! Follows the kernel's links, routes and neighbours.
//!
//! It subscribes before it reads, so that nothing is missed in between, and reads everything again when the kernel
//! says that it dropped messages, and once a minute in any case.
//!
//! Links and neighbours are followed message by message. Routes are not, because their messages don't tell all: the
//! kernel removes IPv4 routes without a word when a link goes down or an address is deleted (of which only the `local`
//! route is told), and replaces routes in ways that the message does not show. A message about a route or a change of a
//! link therefore only says that the routes are to be read again, at most a tenth of the time however many there are.
//! (Deleting a nexthop object under a route is silent altogether; the next full reading sees it.)

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{Stream, StreamExt, TryStreamExt, channel::mpsc::UnboundedReceiver};
use rtnetlink::{
    Handle, MulticastGroup,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        neighbour::{NeighbourFlags, NeighbourState},
        route::RouteMessage,
    },
    sys::SocketAddr,
};
use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time as timer,
};
use tracing::{debug, warn};

use super::{
    parse,
    refresh::{NeighbourKey, Refresher},
    view::{Event, NetworkView, Route},
};

/// Changes that come within this time of one another are delivered as one.
const COALESCE: Duration = Duration::from_millis(20);
/// Everything is read again this often, whatever was heard.
const RESYNC: Duration = Duration::from_mins(1);
/// How often the neighbours in use are looked over.
const REFRESH: Duration = Duration::from_secs(1);
/// A kernel that takes longer to list its tables is taken for stuck.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause before the next try when rtnetlink failed.
const REOPEN_AFTER: Duration = Duration::from_secs(1);
/// Between two readings of the routes lies at least this many times what the first one took.
const ROUTE_READ_SPACING: u32 = 10;
/// One-off questions that may wait; more are dropped, and whoever asked will ask again.
const SOLICIT_QUEUE: usize = 1024;

const GROUPS: [MulticastGroup; 4] =
    [MulticastGroup::Link, MulticastGroup::Neigh, MulticastGroup::Ipv4Route, MulticastGroup::Ipv6Route];

/// Why the kernel's tables could not be read or followed.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// The sockets could not be opened or subscribed.
    #[error("can't open rtnetlink: {0}")]
    Open(#[from] io::Error),
    /// The kernel refused to list something.
    #[error("can't list {what} over rtnetlink: {source}")]
    List {
        /// What was to be listed.
        what: &'static str,
        /// The kernel's answer.
        source: rtnetlink::Error,
    },
    /// The kernel did not finish its answer.
    #[error("rtnetlink did not answer within {} s", READ_TIMEOUT.as_secs())]
    Timeout,
    /// The socket that changes come from has closed.
    #[error("the rtnetlink socket closed")]
    Closed,
}

/// A current [`NetworkView`], for as long as this value lives.
///
/// Sees the network namespace of the thread that started it. Listing needs no privileges; soliciting needs
/// `CAP_NET_ADMIN`.
#[derive(Debug)]
pub struct NetworkMonitor {
    view: watch::Receiver<Arc<NetworkView>>,
    in_use: watch::Sender<BTreeSet<NeighbourKey>>,
    solicitations: mpsc::Sender<NeighbourKey>,
    follower: JoinHandle<()>,
}

impl NetworkMonitor {
    /// Subscribes, reads everything once, and follows from then on. Needs a tokio runtime.
    pub async fn start() -> Result<Self, MonitorError> {
        let kernel = Kernel::open()?;
        let (published, view) = watch::channel(Arc::new(kernel.read_everything().await?));
        let (in_use, wanted) = watch::channel(BTreeSet::new());
        let (solicitations, asked_for) = mpsc::channel(SOLICIT_QUEUE);
        let follower = Follower {
            current: NetworkView::clone(&view.borrow()),
            published,
            wanted,
            asked_for,
            refresher: Refresher::default(),
            routes_due: None,
            routes_not_before: timer::Instant::now(),
        };
        Ok(Self { view, in_use, solicitations, follower: tokio::spawn(follower.run(kernel)) })
    }

    /// The view of this moment.
    #[must_use]
    pub fn view(&self) -> Arc<NetworkView> {
        Arc::clone(&self.view.borrow())
    }

    /// Wakes whenever next hops may have changed, at most once in about 20 ms.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<NetworkView>> {
        self.view.clone()
    }

    /// Asks the kernel to find the neighbour `address` on an interface; the outcome shows in the view.
    ///
    /// Does nothing where the kernel knows already, or was asked moments ago (see [`super::refresh`]).
    pub fn solicit(&self, address: IpAddr, ifindex: u32) {
        if self.solicitations.try_send((ifindex, address)).is_err() {
            debug!(%address, ifindex, "too many neighbours to solicit at once");
        }
    }

    /// Names the neighbours that packets are being sent to, by interface and address, instead of those named before.
    ///
    /// The kernel is asked for each that it does not know, and asked again whenever it is no longer sure, so that a
    /// replaced address is found out (see [`super::refresh`]).
    pub fn keep_fresh(&self, neighbours: BTreeSet<NeighbourKey>) {
        self.in_use.send_if_modified(|current| {
            let changed = *current != neighbours;
            *current = neighbours;
            changed
        });
    }
}

impl Drop for NetworkMonitor {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

/// The task behind a [`NetworkMonitor`].
struct Follower {
    current: NetworkView,
    published: watch::Sender<Arc<NetworkView>>,
    wanted: watch::Receiver<BTreeSet<NeighbourKey>>,
    asked_for: mpsc::Receiver<NeighbourKey>,
    refresher: Refresher,
    /// When the routes are to be read again, if they are.
    routes_due: Option<timer::Instant>,
    routes_not_before: timer::Instant,
}

/// What a batch of messages asks for.
#[derive(Default)]
struct Changes {
    events: Vec<Event>,
    routes: bool,
    everything: bool,
}

impl Follower {
    async fn run(mut self, mut kernel: Kernel) {
        loop {
            let Err(error) = self.follow(&mut kernel).await;
            warn!(%error, "following routes and neighbours failed; starting over");
            kernel = self.reopen().await;
        }
    }

    async fn reopen(&mut self) -> Kernel {
        loop {
            timer::sleep(REOPEN_AFTER).await;
            match Kernel::open() {
                Ok(kernel) => match self.read_everything(&kernel).await {
                    Ok(()) => return kernel,
                    Err(error) => warn!(%error, "reading routes and neighbours failed"),
                },
                Err(error) => warn!(%error, "opening rtnetlink failed"),
            }
        }
    }

    async fn follow(&mut self, kernel: &mut Kernel) -> Result<std::convert::Infallible, MonitorError> {
        let mut resync = timer::interval_at(timer::Instant::now() + RESYNC, RESYNC);
        let mut refresh = timer::interval(REFRESH);
        loop {
            let routes_due = self.routes_due;
            tokio::select! {
                message = kernel.messages.next() => {
                    let changes = kernel.coalesce(message.ok_or(MonitorError::Closed)?).await?;
                    self.take_in(kernel, changes).await?;
                }
                () = timer::sleep_until(routes_due.unwrap_or_else(timer::Instant::now)), if routes_due.is_some() => {
                    self.read_routes(kernel).await?;
                }
                _ = resync.tick() => self.read_everything(kernel).await?,
                _ = refresh.tick() => self.refresh(kernel).await,
                Ok(()) = self.wanted.changed() => self.refresh(kernel).await,
                Some(neighbour) = self.asked_for.recv() => self.ask(kernel, &BTreeSet::from([neighbour])).await,
            }
        }
    }

    async fn take_in(&mut self, kernel: &Kernel, changes: Changes) -> Result<(), MonitorError> {
        if changes.everything {
            return self.read_everything(kernel).await;
        }
        let links_before: Vec<_> = self.current.links().cloned().collect();
        for event in changes.events {
            self.current.apply(event);
        }
        if changes.routes || !self.current.links().eq(links_before.iter()) {
            self.routes_due = Some(self.routes_not_before);
        }
        // Published once the routes are read, if that is to happen at once: one change, one notification.
        if self.routes_due.is_some_and(|due| due <= timer::Instant::now()) {
            return self.read_routes(kernel).await;
        }
        self.publish();
        Ok(())
    }

    async fn read_everything(&mut self, kernel: &Kernel) -> Result<(), MonitorError> {
        self.current = kernel.read_everything().await?;
        self.routes_due = None;
        self.publish();
        Ok(())
    }

    async fn read_routes(&mut self, kernel: &Kernel) -> Result<(), MonitorError> {
        let start = timer::Instant::now();
        self.routes_due = None;
        self.current.apply(Event::Routes(kernel.within_time(kernel.routes()).await?));
        let end = timer::Instant::now();
        self.routes_not_before = end + (end - start) * ROUTE_READ_SPACING;
        self.publish();
        Ok(())
    }

    /// Puts the current view where everybody sees it, and wakes them if next hops differ.
    fn publish(&self) {
        self.published.send_if_modified(|published| {
            let differs = !published.forwards_like(&self.current);
            *published = Arc::new(self.current.clone());
            differs
        });
    }

    async fn refresh(&mut self, kernel: &Kernel) {
        let wanted = self.wanted.borrow_and_update().clone();
        self.ask(kernel, &wanted).await;
    }

    async fn ask(&mut self, kernel: &Kernel, wanted: &BTreeSet<NeighbourKey>) {
        for (ifindex, address) in self.refresher.due(Instant::now(), &self.current, wanted) {
            // The next round tries again; what fails for good shows as a next hop that stays unresolved.
            if let Err(error) = kernel.ask(ifindex, address).await {
                debug!(%address, ifindex, %error, "the kernel would not look for a neighbour");
            }
        }
    }
}

/// The two sockets: requests have one of their own, so that an overrun of notifications can't eat an answer.
struct Kernel {
    requests: Handle,
    messages: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    /// Keeps the subscribed connection from closing.
    _subscription: Handle,
    /// The connections' tasks; they end when this is dropped.
    _connections: JoinSet<()>,
}

impl Kernel {
    fn open() -> io::Result<Self> {
        let mut connections = JoinSet::new();
        let (connection, subscription, messages) = rtnetlink::new_multicast_connection(&GROUPS)?;
        connections.spawn(connection);
        let (connection, requests, _) = rtnetlink::new_connection()?;
        connections.spawn(connection);
        Ok(Self { requests, messages, _subscription: subscription, _connections: connections })
    }

    /// All messages from `first` on, until [`COALESCE`] has passed.
    async fn coalesce(
        &mut self,
        first: (NetlinkMessage<RouteNetlinkMessage>, SocketAddr),
    ) -> Result<Changes, MonitorError> {
        let mut changes = Changes::default();
        changes.note(&first.0.payload);
        let end = timer::Instant::now() + COALESCE;
        while let Ok(message) = timer::timeout_at(end, self.messages.next()).await {
            changes.note(&message.ok_or(MonitorError::Closed)?.0.payload);
        }
        Ok(changes)
    }

    async fn read_everything(&self) -> Result<NetworkView, MonitorError> {
        let read = async {
            let mut events = Vec::new();
            let links = list("links", self.requests.link().get().execute()).await?;
            events.extend(links.iter().filter_map(parse::link).map(Event::Link));
            for family in [AddressFamily::Inet, AddressFamily::Inet6] {
                let request = self.requests.neighbours().get().set_address_family(family);
                let neighbours = list("neighbours", request.execute()).await?;
                let parsed = neighbours.iter().filter_map(parse::neighbour);
                events.extend(parsed.map(|(ifindex, address, found)| Event::Neighbour(ifindex, address, found)));
            }
            events.push(Event::Routes(self.routes().await?));
            Ok(NetworkView::new(events))
        };
        self.within_time(read).await
    }

    async fn routes(&self) -> Result<Vec<Route>, MonitorError> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            let listed = list("routes", self.requests.route().get(request).execute()).await?;
            routes.extend(listed.iter().filter_map(parse::route));
        }
        Ok(routes)
    }

    async fn within_time<T>(&self, read: impl Future<Output = Result<T, MonitorError>>) -> Result<T, MonitorError> {
        timer::timeout(READ_TIMEOUT, read).await.map_err(|_| MonitorError::Timeout)?
    }

    /// What `ip neighbour replace ADDRESS dev INTERFACE use` sends.
    async fn ask(&self, ifindex: u32, address: IpAddr) -> Result<(), rtnetlink::Error> {
        let request = self.requests.neighbours().add(ifindex, address).replace();
        request.state(NeighbourState::None).flags(NeighbourFlags::Use).execute().await
    }
}

async fn list<T>(
    what: &'static str,
    answer: impl Stream<Item = Result<T, rtnetlink::Error>>,
) -> Result<Vec<T>, MonitorError> {
    pin!(answer).try_collect().await.map_err(|source| MonitorError::List { what, source })
}

impl Changes {
    fn note(&mut self, payload: &NetlinkPayload<RouteNetlinkMessage>) {
        match payload {
            NetlinkPayload::Overrun(_) => self.everything = true,
            NetlinkPayload::InnerMessage(message) => self.note_message(message),
            _ => {}
        }
    }

    fn note_message(&mut self, message: &RouteNetlinkMessage) {
        let event = match message {
            RouteNetlinkMessage::NewLink(link) => parse::link(link).map(Event::Link),
            RouteNetlinkMessage::DelLink(link) => parse::link(link).map(|link| Event::LinkGone(link.index)),
            RouteNetlinkMessage::NewNeighbour(neighbour) => {
                parse::neighbour(neighbour).map(|(ifindex, address, found)| Event::Neighbour(ifindex, address, found))
            }
            RouteNetlinkMessage::DelNeighbour(neighbour) => {
                parse::neighbour(neighbour).map(|(ifindex, address, _)| Event::NeighbourGone(ifindex, address))
            }
            RouteNetlinkMessage::NewRoute(_) | RouteNetlinkMessage::DelRoute(_) => {
                self.routes = true;
                None
            }
            _ => None,
        };
        self.events.extend(event);
    }
}
