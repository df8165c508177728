//! The cases that every build of the packet path must get right: what comes in, what happens to it and why.
//!
//! All of them play in one [`world`], so that the kernel's maps are filled once. The bytes that must come out are the
//! oracle's to say.

mod broken;
mod foreign;
mod forwarded;
mod gone;
mod replies;
pub mod world;

use std::fmt;

use lb_common::reason::Reason;

use crate::{build::Packet, oracle::Action};

/// One case.
#[derive(Clone, Debug)]
pub struct Fixture {
    /// What is special about it; unique.
    pub name: String,
    /// What comes in, by the ingress device of the world.
    pub frame: Vec<u8>,
    /// What has to happen.
    pub action: Action,
    /// Why.
    pub reason: Reason,
}

impl fmt::Display for Fixture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?} ({})", self.name, self.action, self.reason.name())
    }
}

/// Every case.
#[must_use]
pub fn all() -> Vec<Fixture> {
    let mut cases = Cases(Vec::new());
    for family in Family::BOTH {
        forwarded::add(&mut cases, family);
        replies::add(&mut cases, family);
        foreign::add(&mut cases, family);
        broken::add(&mut cases, family);
        gone::add(&mut cases, family);
    }
    forwarded::add_v4(&mut cases);
    gone::add_v4(&mut cases);
    forwarded::add_v6(&mut cases);
    foreign::add_v4(&mut cases);
    foreign::add_v6(&mut cases);
    foreign::add_non_ip(&mut cases);
    broken::add_v4(&mut cases);
    broken::add_v6(&mut cases);
    cases.0
}

/// An address family, and the addresses that the [`world`] uses of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }

    /// The address of VIP `number`.
    #[must_use]
    pub fn vip_address(self, number: u8) -> String {
        match self {
            Self::V4 => format!("192.0.2.{number}"),
            Self::V6 => format!("2001:db8::{number:x}"),
        }
    }

    /// The address of backend `number` of VIP `vip`.
    #[must_use]
    pub fn backend_address(self, vip: u8, number: u8) -> String {
        match self {
            Self::V4 => format!("10.0.{vip}.{number}"),
            Self::V6 => format!("fd00:{vip:x}::{number:x}"),
        }
    }

    /// The address of client `number` of client network `network`.
    #[must_use]
    pub fn client_address(self, network: u8, number: u8) -> String {
        match self {
            Self::V4 => format!("198.51.{network}.{number}"),
            Self::V6 => format!("2001:db8:c:{network:x}::{number:x}"),
        }
    }

    /// "ADDRESS:PORT" of a VIP.
    #[must_use]
    pub fn vip(self, number: u8, port: u16) -> String {
        self.endpoint(&self.vip_address(number), port)
    }

    /// "ADDRESS:PORT" of a backend.
    #[must_use]
    pub fn backend(self, vip: u8, number: u8, port: u16) -> String {
        self.endpoint(&self.backend_address(vip, number), port)
    }

    /// "ADDRESS:PORT" of the client that most cases have.
    #[must_use]
    pub fn client(self) -> String {
        self.endpoint(&self.client_address(100, 7), 40_000)
    }

    /// "ADDRESS:PORT".
    #[must_use]
    pub fn endpoint(self, address: &str, port: u16) -> String {
        match self {
            Self::V4 => format!("{address}:{port}"),
            Self::V6 => format!("[{address}]:{port}"),
        }
    }

    /// A TCP segment from the client to a VIP.
    fn tcp(self, vip: u8, port: u16) -> Packet {
        Packet::tcp(&self.client(), &self.vip(vip, port))
    }

    /// A UDP datagram from the client to a VIP.
    fn udp(self, vip: u8, port: u16) -> Packet {
        Packet::udp(&self.client(), &self.vip(vip, port))
    }

    const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// The table while it is written.
struct Cases(Vec<Fixture>);

impl Cases {
    fn add(&mut self, name: String, frame: Vec<u8>, action: Action, reason: Reason) {
        self.0.push(Fixture { name, frame, action, reason });
    }

    fn transmits(&mut self, name: String, packet: &Packet, reason: Reason) {
        self.add(name, packet.bytes(), Action::Transmit, reason);
    }

    fn redirects(&mut self, name: String, packet: &Packet, reason: Reason) {
        self.add(name, packet.bytes(), Action::Redirect, reason);
    }

    fn drops(&mut self, name: String, packet: &Packet, reason: Reason) {
        self.add(name, packet.bytes(), Action::Drop, reason);
    }

    fn passes(&mut self, name: String, packet: &Packet, reason: Reason) {
        self.add(name, packet.bytes(), Action::Pass, reason);
    }
}

/// The payload of two bytes that gives `packet` the transport checksum `wanted`, whose offset in the frame is `offset`.
fn payload_for_checksum(packet: &Packet, offset: usize, wanted: u16) -> [u8; 2] {
    let checksum = |payload: [u8; 2]| {
        let frame = packet.clone().payload(&payload).bytes();
        u16::from_be_bytes([frame[offset], frame[offset + 1]])
    };
    // What the payload adds to the sum, the checksum loses, modulo 65,535.
    let missing = (u32::from(checksum([0; 2])) + 0xffff - u32::from(wanted)) % 0xffff;
    let payload = u16::try_from(missing).expect("less than 65,535").to_be_bytes();
    assert_eq!(checksum(payload), wanted, "the checksum is somewhere else");
    payload
}
