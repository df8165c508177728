//! What Weir is configured with and has found out, as a test states it.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use lb_common::abi;

use crate::build::Mac;

/// Everything that decides what becomes of a packet.
#[derive(Clone, Debug)]
pub struct World {
    /// Seed of the flow hash.
    pub seed: [u64; 2],
    /// Network of outer IPv4 sources.
    pub outer_v4: Option<Ipv4Net>,
    /// Network of outer IPv6 sources; its prefix is at least 64.
    pub outer_v6: Option<Ipv6Net>,
    /// Devices; the first is egress 1.
    pub egresses: Vec<Egress>,
    /// Services; the first has id 1.
    pub services: Vec<Service>,
    /// Routes towards clients.
    pub routes: Vec<Route>,
}

/// A device that frames leave through.
#[derive(Clone, Copy, Debug)]
pub struct Egress {
    /// Kernel interface index.
    pub ifindex: u32,
    /// Largest IP packet, bytes.
    pub mtu: u32,
    /// Own link-layer address.
    pub mac: Mac,
}

/// A balanced service.
#[derive(Clone, Debug)]
pub struct Service {
    /// Virtual address.
    pub vip: IpAddr,
    /// Port; 0 is every port.
    pub port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Forwarding mode of its backends.
    pub mode: Mode,
    /// What of a packet chooses its slot.
    pub hash: HashInput,
    /// Backends.
    pub backends: Vec<Backend>,
    /// Backend ids by slot, 0 where there is none.
    pub slots: Vec<u32>,
    /// Its old flows' backend, if that is gone; new flows are those of `slots`.
    pub gone: Option<Gone>,
}

/// A backend that is gone and still has flows: all those of a service that the flow table does not have.
#[derive(Clone, Copy, Debug)]
pub struct Gone {
    /// Id of the backend, one of the service's.
    pub backend: u32,
    /// Whether their packets are reset, where they can be, rather than dropped.
    pub reset: bool,
}

/// A backend of a service.
#[derive(Clone, Copy, Debug)]
pub struct Backend {
    /// Unique among all services' backends, 1 or more.
    pub id: u32,
    /// Address.
    pub address: IpAddr,
    /// `nat`: port; 0 keeps the packet's.
    pub port: u16,
    /// Where its frames go, if that is known.
    pub hop: Option<Hop>,
}

/// A neighbour and the device in front of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Link-layer address.
    pub mac: Mac,
    /// Egress index, 1 or more.
    pub egress: u16,
}

/// Where replies to a client network go.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// The clients.
    pub network: IpNet,
    /// Where to.
    pub via: Via,
}

/// Where packets to a client network go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// To a neighbour.
    Hop(Hop),
    /// To a neighbour whose link-layer address is not known.
    Unresolved,
    /// To this host itself.
    Local,
}

/// Transport protocol of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// IP protocol number.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => abi::protocol::TCP,
            Self::Udp => abi::protocol::UDP,
        }
    }
}

/// Forwarding mode of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// MAC addresses are rewritten.
    L2,
    /// IP in IP.
    Ipip,
    /// The destination is rewritten, replies come back through Weir.
    Nat,
}

/// What of a packet chooses its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashInput {
    /// The 5-tuple.
    Flow,
    /// The source address.
    Source,
}

impl World {
    /// Ids and services, in the order of their ids.
    pub fn services(&self) -> impl Iterator<Item = (u32, &Service)> {
        (1..).zip(&self.services)
    }

    /// The device at egress index `index`.
    #[must_use]
    pub fn egress(&self, index: u16) -> Option<Egress> {
        self.egresses.get(usize::from(index).checked_sub(1)?).copied()
    }

    /// The service that takes `protocol` to `vip`, `port`: the one with exactly this port before one with every port.
    #[must_use]
    pub fn service(&self, vip: IpAddr, port: u16, protocol: u8) -> Option<(u32, &Service)> {
        let with_port = |port| {
            self.services().find(|(_, service)| {
                service.vip == vip && service.port == port && service.protocol.number() == protocol
            })
        };
        with_port(port).or_else(|| with_port(0))
    }

    /// Whether some service has this address.
    #[must_use]
    pub fn is_vip(&self, address: IpAddr) -> bool {
        self.services.iter().any(|service| service.vip == address)
    }

    /// The `nat` service and backend that a packet of `protocol` from `address`, `port` is a reply of.
    #[must_use]
    pub fn replier(&self, address: IpAddr, port: u16, protocol: u8) -> Option<(u32, &Service, &Backend)> {
        let with_port = |port| {
            self.services()
                .filter(|(_, service)| service.mode == Mode::Nat && service.protocol.number() == protocol)
                .flat_map(|(id, service)| service.backends.iter().map(move |backend| (id, service, backend)))
                .find(|(_, service, backend)| backend.address == address && service.port_of(backend) == port)
        };
        with_port(port).or_else(|| with_port(0))
    }

    /// The most specific route to `client`.
    #[must_use]
    pub fn route(&self, client: IpAddr) -> Option<&Route> {
        self.routes
            .iter()
            .filter(|route| route.network.contains(&client))
            .max_by_key(|route| route.network.prefix_len())
    }
}

impl Service {
    /// The backend with this id.
    #[must_use]
    pub fn backend(&self, id: u32) -> Option<&Backend> {
        self.backends.iter().find(|backend| backend.id == id)
    }

    /// The port that `backend` serves at; 0 is every port.
    #[must_use]
    pub const fn port_of(&self, backend: &Backend) -> u16 {
        if backend.port == 0 { self.port } else { backend.port }
    }
}

/// `count` slots that name `ids` in turn.
#[must_use]
pub fn in_turn(ids: &[u32], count: usize) -> Vec<u32> {
    ids.iter().copied().cycle().take(count).collect()
}
