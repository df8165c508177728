//! A snapshot of the kernel's links, routes and neighbours, and the next hops that follow from it.
//!
//! What it looks at is what the kernel itself uses for a packet that no policy rule sends elsewhere: the `local`
//! table, then the `main` table. Policy rules, VRFs and type-of-service routes are not followed.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use rtnetlink::packet_route::neighbour::NeighbourState;

/// A link-layer address.
pub type Mac = [u8; 6];

/// Links, routes and neighbours at one moment.
///
/// Cheap to clone: the routes, which can be many, are shared until they are replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkView {
    links: BTreeMap<u32, Link>,
    neighbours: BTreeMap<(u32, IpAddr), Neighbour>,
    routes: Arc<Routes>,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Kernel interface index.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// Its own address; `None` where frames have no Ethernet header (tunnels, loopback).
    pub mac: Option<Mac>,
    /// Largest IP packet, bytes.
    pub mtu: u32,
    /// Administratively up and running.
    pub up: bool,
}

/// What the kernel knows about a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its link-layer address, if one was ever learnt.
    pub mac: Option<Mac>,
    /// The kernel's neighbour state (NUD).
    pub state: NeighbourState,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Which table it is in.
    pub table: Table,
    /// Destinations that it covers.
    pub prefix: IpNet,
    /// Priority; the lowest wins among routes to the same prefix.
    pub metric: u32,
    /// What becomes of packets.
    pub target: Target,
}

/// The kernel tables that every packet's look-up goes through, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// The host's own addresses.
    Local,
    /// Everything else.
    Main,
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// To the host itself.
    Local,
    /// Nowhere: `blackhole`, `unreachable`, `prohibit`, `throw`.
    Refused,
    /// Out through one of these, in the kernel's order.
    Hops(Vec<Hop>),
}

/// One way out of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Outgoing interface.
    pub ifindex: u32,
    /// The router, perhaps of the other address family; `None` where the destination itself is on the link.
    pub gateway: Option<IpAddr>,
    /// The route wants an encapsulation of its own (`ip route ... encap`).
    pub encapsulated: bool,
}

/// The answer to "how does a frame get to this address".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// A frame to this link-layer address, through this interface.
    Resolved {
        /// Link-layer destination.
        mac: Mac,
        /// Outgoing interface.
        ifindex: u32,
        /// The router that `mac` belongs to; `None` where it belongs to the address itself.
        gateway: Option<IpAddr>,
    },
    /// The route is known, the neighbour is not: it is to be solicited.
    Unresolved {
        /// The neighbour: the router, or the address itself.
        ask: IpAddr,
        /// The interface that it is on.
        ifindex: u32,
    },
    /// The route leaves through a tunnel or another interface without link-layer addresses.
    NotEthernet {
        /// That interface.
        ifindex: u32,
    },
    /// The route leaves through an interface that is down.
    LinkDown {
        /// That interface.
        ifindex: u32,
    },
    /// No route, or one that refuses.
    NoRoute,
    /// An address of this host.
    Local,
}

/// Where packets to a whole prefix of clients go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientRoute {
    /// Every address of the prefix has this one answer.
    Towards(Resolution),
    /// The clients are on the link themselves: known neighbours have entries of their own, the others are unknown.
    OnLink {
        /// The interface that they are on.
        ifindex: u32,
    },
}

/// A change of a [`NetworkView`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An interface is new or changed.
    Link(Link),
    /// The interface with this index is gone.
    LinkGone(u32),
    /// A neighbour (interface, address) is new or changed.
    Neighbour(u32, IpAddr, Neighbour),
    /// A neighbour (interface, address) is gone.
    NeighbourGone(u32, IpAddr),
    /// These are all the routes now.
    Routes(Vec<Route>),
}

/// Routes by table and prefix, each list sorted by metric.
#[derive(Debug, Default, PartialEq, Eq)]
struct Routes {
    local: BTreeMap<IpNet, Vec<Route>>,
    main: BTreeMap<IpNet, Vec<Route>>,
}

impl NetworkView {
    /// A view of nothing but these.
    #[must_use]
    pub fn new(events: impl IntoIterator<Item = Event>) -> Self {
        let mut view = Self::default();
        for event in events {
            view.apply(event);
        }
        view
    }

    /// Takes in one change.
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Link(link) => {
                self.links.insert(link.index, link);
            }
            Event::LinkGone(index) => {
                self.links.remove(&index);
                self.neighbours.retain(|&(ifindex, _), _| ifindex != index);
            }
            Event::Neighbour(ifindex, address, neighbour) => {
                self.neighbours.insert((ifindex, address), neighbour);
            }
            Event::NeighbourGone(ifindex, address) => {
                self.neighbours.remove(&(ifindex, address));
            }
            Event::Routes(routes) => self.routes = Arc::new(Routes::new(routes)),
        }
    }

    /// The interface with this index.
    #[must_use]
    pub fn link(&self, ifindex: u32) -> Option<&Link> {
        self.links.get(&ifindex)
    }

    /// All interfaces, by index.
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.values()
    }

    /// What the kernel knows about a neighbour.
    #[must_use]
    pub fn neighbour(&self, ifindex: u32, address: IpAddr) -> Option<Neighbour> {
        self.neighbours.get(&(ifindex, address)).copied()
    }

    /// Whether every address resolves the same in `other`, the same neighbours were asked in vain, and the links are the
    /// same.
    ///
    /// Neighbours that only change between usable states make no difference.
    #[must_use]
    pub fn forwards_like(&self, other: &Self) -> bool {
        let usable = |view: &Self| view.usable_neighbours().map(|(key, mac)| (*key, mac)).collect::<Vec<_>>();
        let failed = |view: &Self| view.failed_neighbours().copied().collect::<Vec<_>>();
        self.links == other.links
            && self.routes == other.routes
            && usable(self) == usable(other)
            && failed(self) == failed(other)
    }

    /// How a frame gets to `address`.
    ///
    /// Longest prefix, then lowest metric; routes and multipath hops that can't be used at the moment (link down,
    /// neighbour unknown) stand back behind those that can, but never behind a shorter prefix. The kernel spreads
    /// flows over multipath hops; this names the first usable one.
    #[must_use]
    pub fn resolve(&self, address: IpAddr) -> Resolution {
        match self.routes.lookup(IpNet::from(address)) {
            Some(routes) => match self.choose(routes, Some(address)) {
                Choice::Hop(hop) => self.follow(hop, hop.gateway.unwrap_or(address)),
                Choice::Answer(answer) => answer,
            },
            None => Resolution::NoRoute,
        }
    }

    /// Where packets to clients go, by prefix: a mirror of [`NetworkView::resolve`] for longest-prefix matching.
    ///
    /// Holds every route's prefix, and a host entry for each neighbour that is on the link and known. What must not
    /// be forwarded (the host's own addresses, refused prefixes, on-link prefixes whose neighbour is unknown) has an
    /// entry too, so that no shorter prefix, the default route above all, covers it.
    #[must_use]
    pub fn client_routes(&self) -> BTreeMap<IpNet, ClientRoute> {
        let prefixes = self.routes.main.keys().chain(self.routes.local.keys());
        let mut clients: BTreeMap<_, _> =
            prefixes.filter_map(|prefix| Some((*prefix, self.client_route(*prefix)?))).collect();
        for (&(ifindex, address), _) in self.usable_neighbours() {
            let answer = self.resolve(address);
            if matches!(answer, Resolution::Resolved { ifindex: out, gateway: None, .. } if out == ifindex) {
                clients.insert(IpNet::from(address), ClientRoute::Towards(answer));
            }
        }
        clients
    }

    fn client_route(&self, prefix: IpNet) -> Option<ClientRoute> {
        Some(match self.choose(self.routes.lookup(prefix)?, None) {
            Choice::Hop(hop) => match hop.gateway {
                Some(gateway) => ClientRoute::Towards(self.follow(hop, gateway)),
                None => ClientRoute::OnLink { ifindex: hop.ifindex },
            },
            Choice::Answer(answer) => ClientRoute::Towards(answer),
        })
    }

    /// The best of `routes` (same prefix, sorted by metric) and the best of its hops.
    ///
    /// `destination` is the address in question, `None` for "any of the prefix".
    fn choose<'a>(&self, routes: &'a [Route], destination: Option<IpAddr>) -> Choice<'a> {
        let mut down = None;
        for route in routes {
            let hops = match &route.target {
                Target::Local => return Choice::Answer(Resolution::Local),
                Target::Refused => return Choice::Answer(Resolution::NoRoute),
                Target::Hops(hops) => hops,
            };
            match hops.iter().map(|hop| (self.readiness(hop, destination), hop)).min_by_key(|(rank, _)| *rank) {
                Some((Readiness::LinkDown, hop)) => {
                    down = down.or(Some(Resolution::LinkDown { ifindex: hop.ifindex }));
                }
                Some((Readiness::NotEthernet, hop)) => {
                    return Choice::Answer(Resolution::NotEthernet { ifindex: hop.ifindex });
                }
                Some((Readiness::Known | Readiness::Unknown, hop)) => return Choice::Hop(hop),
                None => {}
            }
        }
        Choice::Answer(down.unwrap_or(Resolution::NoRoute))
    }

    fn readiness(&self, hop: &Hop, destination: Option<IpAddr>) -> Readiness {
        let Some(link) = self.links.get(&hop.ifindex).filter(|link| link.up) else {
            return Readiness::LinkDown;
        };
        if link.mac.is_none() || hop.encapsulated {
            return Readiness::NotEthernet;
        }
        match hop.gateway.or(destination) {
            Some(ask) if self.usable_mac(hop.ifindex, ask).is_none() => Readiness::Unknown,
            _ => Readiness::Known,
        }
    }

    fn follow(&self, hop: &Hop, ask: IpAddr) -> Resolution {
        match self.usable_mac(hop.ifindex, ask) {
            Some(mac) => Resolution::Resolved { mac, ifindex: hop.ifindex, gateway: hop.gateway },
            None => Resolution::Unresolved { ask, ifindex: hop.ifindex },
        }
    }

    fn usable_mac(&self, ifindex: u32, address: IpAddr) -> Option<Mac> {
        self.neighbours.get(&(ifindex, address)).and_then(Neighbour::usable_mac)
    }

    fn usable_neighbours(&self) -> impl Iterator<Item = (&(u32, IpAddr), Mac)> {
        self.neighbours.iter().filter_map(|(key, neighbour)| Some((key, neighbour.usable_mac()?)))
    }

    fn failed_neighbours(&self) -> impl Iterator<Item = &(u32, IpAddr)> {
        self.neighbours.iter().filter(|(_, neighbour)| neighbour.state == NeighbourState::Failed).map(|(key, _)| key)
    }
}

/// What [`NetworkView::choose`] found.
enum Choice<'a> {
    /// A hop through an Ethernet link that is up.
    Hop(&'a Hop),
    /// Something that needs no neighbour.
    Answer(Resolution),
}

/// How soon a hop could take a packet, best first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Readiness {
    Known,
    Unknown,
    NotEthernet,
    LinkDown,
}

impl Neighbour {
    /// The address to send frames to, while the kernel itself would use it.
    #[must_use]
    pub fn usable_mac(&self) -> Option<Mac> {
        use NeighbourState::{Delay, Noarp, Permanent, Probe, Reachable, Stale};
        self.mac.filter(|_| matches!(self.state, Reachable | Stale | Delay | Probe | Permanent | Noarp))
    }
}

impl Routes {
    fn new(all: Vec<Route>) -> Self {
        let mut routes = Self::default();
        for route in all {
            let table = match route.table {
                Table::Local => &mut routes.local,
                Table::Main => &mut routes.main,
            };
            table.entry(route.prefix).or_default().push(route);
        }
        for same_prefix in routes.local.values_mut().chain(routes.main.values_mut()) {
            // Stable: among equals the kernel's order stays.
            same_prefix.sort_by_key(|route| route.metric);
        }
        routes
    }

    /// The routes that decide about `prefix` as a whole.
    fn lookup(&self, prefix: IpNet) -> Option<&[Route]> {
        longest_match(&self.local, prefix).or_else(|| longest_match(&self.main, prefix)).map(Vec::as_slice)
    }
}

fn longest_match<T>(table: &BTreeMap<IpNet, T>, prefix: IpNet) -> Option<&T> {
    (0..=prefix.prefix_len())
        .rev()
        .filter_map(|length| IpNet::new(prefix.addr(), length).ok())
        .find_map(|candidate| table.get(&candidate.trunc()))
}

#[cfg(test)]
mod tests;
