//! The ways that frames can take, as far as the kernel's tables care.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::IpAddr,
};

use ipnet::IpNet;
use lb_common::abi::{self, NextHop};
use rtnetlink::packet_route::neighbour::NeighbourState;

use crate::nexthop::{ClientRoute, NetworkView, Resolution, view::Mac};

/// Everything that the tables take from the network: ways to backends, ways to clients, devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths {
    /// Backend address → way to it.
    pub backends: BTreeMap<IpAddr, Reach>,
    /// Client prefix → way to it; empty where nothing needs them.
    pub clients: BTreeMap<IpNet, Reach>,
    /// Interface index → what an egress entry says of it.
    pub devices: BTreeMap<u32, abi::Egress>,
}

/// How a frame gets to an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// To this link-layer address.
    Known {
        /// Link-layer destination.
        mac: Mac,
        /// Outgoing interface.
        ifindex: u32,
        /// The router that `mac` belongs to, if it is one's.
        gateway: Option<IpAddr>,
    },
    /// To a neighbour that the kernel does not know, or no longer.
    Unknown {
        /// The neighbour.
        ask: IpAddr,
        /// Outgoing interface.
        ifindex: u32,
        /// It was asked and gave no answer. Otherwise the kernel is only about to ask, perhaps again, and what was
        /// known of a neighbour behind the same device still holds.
        failed: bool,
        /// In words.
        why: String,
    },
    /// It is this host's own.
    Local,
    /// Not at all, and why.
    Lost(String),
}

impl Paths {
    /// The ways to `backends` and, with `clients`, to everybody else.
    pub fn new(view: &NetworkView, backends: impl IntoIterator<Item = IpAddr>, clients: bool) -> Self {
        let mut paths = Self::default();
        for address in backends {
            paths.add(view, address);
        }
        if clients {
            let routes = view.client_routes().into_iter();
            paths.clients = routes.map(|(net, route)| (net, Reach::of_clients(view, route))).collect();
        }
        let devices = view.links().filter_map(|link| {
            let egress = abi::Egress { ifindex: link.index, mtu: link.mtu, mac: link.mac?, pad: [0; 2] };
            Some((link.index, egress))
        });
        paths.devices = devices.collect();
        paths
    }

    /// Adds the way to the backend at `address`; whether there was none.
    pub fn add(&mut self, view: &NetworkView, address: IpAddr) -> bool {
        let Entry::Vacant(place) = self.backends.entry(address) else { return false };
        place.insert(Reach::of(view, view.resolve(address)));
        true
    }

    /// The number of ways to clients of the address family that has more of them.
    #[must_use]
    pub fn client_count(&self) -> usize {
        let v4 = self.clients.keys().filter(|net| net.addr().is_ipv4()).count();
        v4.max(self.clients.len() - v4)
    }

    /// Leaves at most `limit` ways to clients of each family: those that are `preferred`, then the shortest prefixes.
    pub fn limit_clients(&mut self, limit: usize, preferred: impl Fn(&IpNet) -> bool) {
        let (mut v4, mut v6): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.clients).into_iter().partition(|(net, _)| net.addr().is_ipv4());
        for family in [&mut v4, &mut v6] {
            family.sort_by_cached_key(|(net, _)| (!preferred(net), net.prefix_len()));
            family.truncate(limit);
        }
        self.clients = v4.into_iter().chain(v6).collect();
    }

    /// The neighbours whose addresses must stay known: those of backends, and the routers of clients.
    #[must_use]
    pub fn neighbours(&self) -> BTreeSet<(u32, IpAddr)> {
        let backends = self.backends.iter().filter_map(|(address, reach)| reach.neighbour(*address));
        let routers = self.clients.iter().filter_map(|(net, reach)| match reach {
            Reach::Known { gateway: None, .. } => None,
            reach => reach.neighbour(net.addr()),
        });
        // Many are behind the same few: collecting would sort all of them first.
        let mut neighbours = BTreeSet::new();
        backends.chain(routers).for_each(|neighbour| {
            neighbours.insert(neighbour);
        });
        neighbours
    }
}

impl Reach {
    fn of(view: &NetworkView, resolution: Resolution) -> Self {
        let name =
            |ifindex| view.link(ifindex).map_or_else(|| format!("interface {ifindex}"), |link| link.name.clone());
        match resolution {
            Resolution::Resolved { mac, ifindex, gateway } => Self::Known { mac, ifindex, gateway },
            Resolution::Unresolved { ask, ifindex } => {
                let state = view.neighbour(ifindex, ask).map(|neighbour| neighbour.state);
                let failed = state == Some(NeighbourState::Failed);
                let what = if failed { "no answer from" } else { "waiting for" };
                Self::Unknown { ask, ifindex, failed, why: format!("{what} neighbour {ask} on {}", name(ifindex)) }
            }
            Resolution::NotEthernet { ifindex } => {
                Self::Lost(format!("its route leaves through {}, which is not Ethernet", name(ifindex)))
            }
            Resolution::LinkDown { ifindex } => Self::Lost(format!("{} is down", name(ifindex))),
            Resolution::NoRoute => Self::Lost("no route to host".to_owned()),
            Resolution::Local => Self::Local,
        }
    }

    fn of_clients(view: &NetworkView, route: ClientRoute) -> Self {
        match route {
            ClientRoute::Towards(resolution) => Self::of(view, resolution),
            ClientRoute::OnLink { .. } => Self::Lost("its hosts have routes of their own".to_owned()),
        }
    }

    /// The neighbour, by interface and address, that frames to `address` are handed to.
    #[must_use]
    pub fn neighbour(&self, address: IpAddr) -> Option<(u32, IpAddr)> {
        match self {
            Self::Known { ifindex, gateway, .. } => Some((*ifindex, gateway.unwrap_or(address))),
            Self::Unknown { ask, ifindex, .. } => Some((*ifindex, *ask)),
            Self::Local | Self::Lost(_) => None,
        }
    }

    /// Why there is no way, if there is none.
    #[must_use]
    pub fn obstacle(&self) -> Option<&str> {
        match self {
            Self::Known { .. } => None,
            Self::Unknown { why, .. } | Self::Lost(why) => Some(why),
            Self::Local => Some("it is an address of this host"),
        }
    }
}

/// The egress table while next hops are being made: finds or adds the entry of a device.
#[derive(Debug)]
pub struct Egresses<'a> {
    devices: &'a BTreeMap<u32, abi::Egress>,
    entries: BTreeMap<u16, abi::Egress>,
    limit: u16,
    held_back: usize,
}

/// Entries that only devices of backends are given.
const FOR_BACKENDS: u16 = 16;

/// Why a backend whose neighbour is known has no next hop.
pub const NO_EGRESS: &str = "backends and clients are behind too many network interfaces";

impl<'a> Egresses<'a> {
    /// Those of `actual` whose devices are still there, as they are now. `limit` is the size of the table.
    #[must_use]
    pub fn new(actual: &BTreeMap<u16, abi::Egress>, devices: &'a BTreeMap<u32, abi::Egress>, limit: u16) -> Self {
        let kept = actual.iter().filter_map(|(index, egress)| Some((*index, *devices.get(&egress.ifindex)?)));
        Self { devices, entries: kept.collect(), limit, held_back: 0 }
    }

    /// The next hop of a backend, given the one in the tables so far. It is unresolved where its device finds no room.
    pub fn of_backend(&mut self, reach: &Reach, old: NextHop) -> NextHop {
        self.make_room(reach, self.limit);
        self.known(reach, old).unwrap_or(NextHop::UNRESOLVED)
    }

    /// The next hop of clients, given the one in the tables so far. It is unresolved, and counted as held back, where
    /// its device finds no room: without an entry a less specific route would send replies elsewhere.
    pub fn of_clients(&mut self, reach: &Reach, old: NextHop) -> NextHop {
        self.make_room(reach, self.limit.saturating_sub(FOR_BACKENDS));
        self.known(reach, old).unwrap_or_else(|| {
            self.held_back += 1;
            NextHop::UNRESOLVED
        })
    }

    /// How many next hops of clients found no room for their device.
    #[must_use]
    pub const fn held_back(&self) -> usize {
        self.held_back
    }

    /// The table.
    #[must_use]
    pub fn entries(self) -> BTreeMap<u16, abi::Egress> {
        self.entries
    }

    /// The next hop, given the one in the tables so far; `None` if its device has no entry.
    #[must_use]
    pub fn known(&self, reach: &Reach, old: NextHop) -> Option<NextHop> {
        match *reach {
            // It is not (or no longer) there.
            Reach::Known { ifindex, .. } if !self.devices.contains_key(&ifindex) => Some(NextHop::UNRESOLVED),
            Reach::Known { mac, ifindex, .. } => Some(NextHop::new(mac, self.index(ifindex)?)),
            Reach::Unknown { ifindex, failed: false, .. } => {
                let same_device = self.entries.get(&old.egress()).is_some_and(|egress| egress.ifindex == ifindex);
                Some(if same_device { old } else { NextHop::UNRESOLVED })
            }
            Reach::Local => Some(NextHop::LOCAL),
            Reach::Unknown { .. } | Reach::Lost(_) => Some(NextHop::UNRESOLVED),
        }
    }

    /// Adds an entry for the device of `reach`, if it needs one and there is room below `limit`.
    fn make_room(&mut self, reach: &Reach, limit: u16) {
        let Reach::Known { ifindex, .. } = reach else { return };
        let Some(egress) = self.devices.get(ifindex).filter(|_| self.index(*ifindex).is_none()) else { return };
        if let Some(index) = (1..limit).find(|index| !self.entries.contains_key(index)) {
            self.entries.insert(index, *egress);
        }
    }

    fn index(&self, ifindex: u32) -> Option<u16> {
        self.entries.iter().find(|(_, entry)| entry.ifindex == ifindex).map(|(index, _)| *index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_next_hop_is_known_once_its_device_has_an_entry() {
        let devices = [(7, abi::Egress { ifindex: 7, mtu: 1500, mac: [2; 6], pad: [0; 2] })].into();
        let mut egresses = Egresses::new(&BTreeMap::new(), &devices, 4);
        let reach = Reach::Known { mac: [4; 6], ifindex: 7, gateway: None };
        assert_eq!(egresses.known(&reach, NextHop::UNRESOLVED), None);
        let hop = egresses.of_backend(&reach, NextHop::UNRESOLVED);
        assert!(hop.is_resolved());
        assert_eq!(egresses.known(&reach, NextHop::UNRESOLVED), Some(hop));
    }
}
