//! What must become of a frame, worked out independently of Weir: headers read and written by etherparse, checksums
//! computed in full.
//!
//! Which backend a flow gets is not for the oracle to say: it names the fate of the packet for every backend that the
//! service's slots name, and [`judge`] finds the one that happened. Likewise the bits that carry flow entropy (host bits
//! of the outer source, outer flow label) are taken from what happened; that they are the same for all packets of a flow
//! is for tests to check.

mod read;
mod rewrite;

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use lb_common::{
    abi::{Traffic, protocol},
    reason::Reason,
};

use crate::world::{Egress, Gone, Hop, Mode, Service, Via, World};
use read::{Flow, Seen};
use rewrite::{Change, End, Link};

/// What happens to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// On to the kernel's stack, as it came.
    Pass,
    /// Gone.
    Drop,
    /// Out of the device it came in by.
    Transmit,
    /// Out of another device.
    Redirect,
}

/// What happened to a packet, as far as whoever ran it could see.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What happened.
    pub action: Action,
    /// Egress index of a redirect, if it could be seen.
    pub egress: Option<u16>,
    /// Why, if it could be seen.
    pub reason: Option<Reason>,
    /// The frame afterwards; means nothing after a drop.
    pub frame: Vec<u8>,
}

/// What one packet adds to the counters of a service and a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// Service id.
    pub service: u32,
    /// Backend id.
    pub backend: u32,
    /// What is added to the counters of both.
    pub traffic: Traffic,
}

/// What has to happen to a packet, given the backend.
#[derive(Clone, Debug)]
pub struct Fate {
    /// What has to happen.
    pub action: Action,
    /// Why.
    pub reason: Reason,
    /// Egress index of a packet that is sent.
    pub egress: Option<u16>,
    /// The backend that the packet goes to or comes from.
    pub backend: Option<u32>,
    /// What is counted by service and backend.
    pub count: Option<Count>,
    change: Change,
}

impl Fate {
    const fn stay(action: Action, reason: Reason, backend: Option<u32>) -> Self {
        Self { action, reason, egress: None, backend, count: None, change: Change::None }
    }

    /// The frame that has to come out of `input`, with the bits of flow entropy that `actual` has.
    #[must_use]
    pub fn frame(&self, input: &[u8], actual: &[u8]) -> Vec<u8> {
        self.change.apply(input, actual)
    }

    fn check(&self, input: &[u8], outcome: &Outcome) -> Result<(), String> {
        if outcome.action != self.action {
            return Err(format!("{:?} instead of {:?}", outcome.action, self.action));
        }
        if let Some(reason) = outcome.reason
            && reason != self.reason
        {
            return Err(format!("reason {} instead of {}", reason.name(), self.reason.name()));
        }
        if let (Action::Redirect, Some(egress)) = (self.action, outcome.egress)
            && Some(egress) != self.egress
        {
            return Err(format!("egress {egress} instead of {:?}", self.egress));
        }
        if self.action == Action::Drop {
            return Ok(());
        }
        let expected = self.frame(input, &outcome.frame);
        if expected == outcome.frame { Ok(()) } else { Err(difference(&expected, &outcome.frame)) }
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ({})", self.action, self.reason.name())?;
        self.backend.map_or(Ok(()), |backend| write!(f, " with backend {backend}"))
    }
}

/// The fates that `frame` may have when it comes in by the device `ingress` (a kernel interface index): more than one
/// only where several backends may be chosen.
#[must_use]
pub fn fates(world: &World, ingress: u32, frame: &[u8]) -> Vec<Fate> {
    let flow = match read::read(frame) {
        Seen::Foreign(reason) => return vec![Fate::stay(Action::Pass, reason, None)],
        Seen::Obstructed { destination, reason } if world.is_vip(destination) => {
            return vec![Fate::stay(Action::Drop, reason, None)];
        }
        Seen::Obstructed { .. } => return vec![Fate::stay(Action::Pass, Reason::NoService, None)],
        Seen::Flow(flow) => flow,
    };
    let exits = Exits { world, ingress, flow: &flow };
    if let Some((id, service)) = world.service(flow.destination.ip(), flow.destination.port(), flow.protocol) {
        let backends: BTreeSet<u32> = service.slots.iter().copied().collect();
        return backends.into_iter().map(|backend| exits.forward(id, service, backend)).collect();
    }
    vec![exits.reply().unwrap_or_else(|| Fate::stay(Action::Pass, Reason::NoService, None))]
}

/// Finds the fate of `input` that `outcome` is.
///
/// # Errors
/// If it is none of them: what was expected, and how the outcome differs from each.
pub fn judge(world: &World, ingress: u32, input: &[u8], outcome: &Outcome) -> Result<Fate, String> {
    let mut wrong = Vec::new();
    for fate in fates(world, ingress, input) {
        match fate.check(input, outcome) {
            Ok(()) => return Ok(fate),
            Err(difference) => wrong.push(format!("not {fate}: {difference}")),
        }
    }
    Err(format!("{}\n  input {}", wrong.join("\n  "), hex(input)))
}

/// The ways out for one packet.
struct Exits<'a> {
    world: &'a World,
    ingress: u32,
    flow: &'a Flow,
}

impl Exits<'_> {
    fn forward(&self, id: u32, service: &Service, backend_id: u32) -> Fate {
        if let Some(gone) = service.gone.filter(|_| !self.flow.opens) {
            return self.of_gone(gone);
        }
        if backend_id == 0 {
            return Fate::stay(Action::Drop, Reason::NoBackend, None);
        }
        self.try_forward(id, service, backend_id)
            .unwrap_or_else(|reason| Fate::stay(Action::Drop, reason, Some(backend_id)))
    }

    /// The fate of a packet whose backend is gone. An RST is never answered (RFC 9293, section 3.10.7.1).
    fn of_gone(&self, gone: Gone) -> Fate {
        if gone.reset && self.flow.protocol == protocol::TCP && !self.flow.resets {
            let stay = Fate::stay(Action::Transmit, Reason::Reset, Some(gone.backend));
            return Fate { change: Change::Reset, ..stay };
        }
        Fate::stay(Action::Drop, Reason::BackendGone, Some(gone.backend))
    }

    fn try_forward(&self, id: u32, service: &Service, backend_id: u32) -> Result<Fate, Reason> {
        // A backend that is not there is an empty entry of the backend array, without a next hop.
        let backend = service.backend(backend_id).ok_or(Reason::NextHopUnresolved)?;
        let hop = backend.hop.ok_or(Reason::NextHopUnresolved)?;
        let egress = self.world.egress(hop.egress).ok_or(Reason::Inconsistent)?;
        let link = Link { source: egress.mac, destination: hop.mac };
        let (reason, added, change) = match service.mode {
            Mode::L2 => (Reason::ForwardedL2, 0, Change::Link(link)),
            Mode::Ipip => {
                let network = self.outer_network(backend.address).ok_or(Reason::NoOuterSource)?;
                let added = if backend.address.is_ipv4() { 20 } else { 40 };
                (Reason::ForwardedIpip, added, Change::Encapsulate { link, network, destination: backend.address })
            }
            Mode::Nat => {
                let port = if backend.port == 0 { self.flow.destination.port() } else { backend.port };
                let to = SocketAddr::new(backend.address, port);
                (Reason::ForwardedNat, 0, Change::Translate { link, end: End::Destination, to })
            }
        };
        self.admit(egress, added)?;
        let traffic = Traffic {
            packets: 1,
            bytes: self.flow.length as u64,
            connections: self.flow.opens.into(),
            ..Traffic::default()
        };
        Ok(self.send(hop, egress, reason, Count { service: id, backend: backend_id, traffic }, change))
    }

    /// The fate of a NAT backend's packet to a client; `None` if it is not one.
    fn reply(&self) -> Option<Fate> {
        let from = self.flow.source;
        if self.world.route(self.flow.destination.ip()).is_some_and(|route| route.via == Via::Local) {
            return None;
        }
        let (id, service, backend) = self.world.replier(from.ip(), from.port(), self.flow.protocol)?;
        let fate = self.try_reply(id, service, backend.id);
        Some(fate.unwrap_or_else(|reason| Fate::stay(Action::Drop, reason, Some(backend.id))))
    }

    fn try_reply(&self, id: u32, service: &Service, backend: u32) -> Result<Fate, Reason> {
        let route = self.world.route(self.flow.destination.ip()).ok_or(Reason::NoRoute)?;
        let Via::Hop(hop) = route.via else { return Err(Reason::ClientUnresolved) };
        let egress = self.world.egress(hop.egress).ok_or(Reason::Inconsistent)?;
        self.admit(egress, 0)?;
        let port = if service.port == 0 { self.flow.source.port() } else { service.port };
        let change = Change::Translate {
            link: Link { source: egress.mac, destination: hop.mac },
            end: End::Source,
            to: SocketAddr::new(service.vip, port),
        };
        let traffic = Traffic { reply_packets: 1, reply_bytes: self.flow.length as u64, ..Traffic::default() };
        Ok(self.send(hop, egress, Reason::RepliedNat, Count { service: id, backend, traffic }, change))
    }

    fn outer_network(&self, backend: IpAddr) -> Option<IpNet> {
        match backend {
            IpAddr::V4(_) => self.world.outer_v4.map(IpNet::V4),
            IpAddr::V6(_) => self.world.outer_v6.map(IpNet::V6),
        }
    }

    /// Whether the packet may leave by `egress` with `added` bytes more.
    const fn admit(&self, egress: Egress, added: usize) -> Result<(), Reason> {
        if self.flow.ttl <= 1 {
            return Err(Reason::TtlExpired);
        }
        if self.flow.length + added > egress.mtu as usize {
            return Err(Reason::TooBig);
        }
        Ok(())
    }

    const fn send(&self, hop: Hop, egress: Egress, reason: Reason, count: Count, change: Change) -> Fate {
        let action = if egress.ifindex == self.ingress { Action::Transmit } else { Action::Redirect };
        Fate { action, reason, egress: Some(hop.egress), backend: Some(count.backend), count: Some(count), change }
    }
}

fn difference(expected: &[u8], actual: &[u8]) -> String {
    let at = expected.iter().zip(actual).position(|(a, b)| a != b).unwrap_or(expected.len().min(actual.len()));
    format!("frames differ from byte {at} on\n    expected {}\n    actual   {}", hex(expected), hex(actual))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}
