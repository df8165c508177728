//! What the API tells of a flow's way through the program.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::types::NextHop;
use crate::spec::Protocol;

/// A flow to explain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct Flow {
    /// `ADDRESS:PORT` that its packets come from.
    #[param(value_type = String)]
    pub source: SocketAddr,
    /// `ADDRESS:PORT` that they go to.
    #[param(value_type = String)]
    pub destination: SocketAddr,
    /// Transport protocol.
    pub protocol: Protocol,
}

/// What the loaded program does with the packets of a flow, as the kernel has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// `ADDRESS:PORT` that its packets come from.
    #[schema(value_type = String)]
    pub source: SocketAddr,
    /// `ADDRESS:PORT` that they go to.
    #[schema(value_type = String)]
    pub destination: SocketAddr,
    /// Transport protocol.
    pub protocol: Protocol,
    /// The interface that they come in by.
    pub interface: String,
    /// One packet of each kind that makes a difference.
    pub packets: Vec<ExplainedPacket>,
}

/// A kind of packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PacketKind {
    /// A TCP SYN, which opens a connection.
    Syn,
    /// A later packet of a TCP connection.
    Ack,
    /// A UDP datagram.
    Datagram,
}

/// What becomes of one packet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ExplainedPacket {
    /// What packet it is.
    pub kind: PacketKind,
    /// The service that it belongs to.
    pub service: Option<String>,
    /// Its slot.
    pub slot: Option<ExplainedSlot>,
    /// The flow's entry in the flow table, where that was looked at and has one.
    pub entry: Option<ExplainedEntry>,
    /// Who would take a new flow, where that was asked.
    pub choice: Option<String>,
    /// Whether the packet would enter the flow in the flow table.
    pub enters: bool,
    /// Whether the flow's entry would be replaced by another, or deleted.
    pub replaces: bool,
    /// Whether it is a reply of a `nat` backend.
    pub is_reply: bool,
    /// The backend that it goes to or, as a reply, comes from.
    pub backend: Option<ExplainedBackend>,
    /// Why that backend, or why none, in one sentence.
    pub why: String,
    /// What the program does with it: `pass`, `drop`, `transmit` (out of the interface that it came in by) or `redirect`.
    pub action: String,
    /// Name of the reason that would be counted.
    pub reason: String,
    /// What that means.
    pub meaning: String,
}

/// A slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExplainedSlot {
    /// Its number within the service, from 0.
    pub index: u32,
    /// Slots of the service.
    pub of: u32,
    /// The backend of new flows; `None` if nobody takes any.
    pub current: Option<String>,
    /// The backend of flows without an entry of their own.
    pub base: Option<String>,
    /// Whether flows of this slot are looked up in the flow table.
    pub tracked: bool,
}

/// An entry of the flow table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExplainedEntry {
    /// The flow's backend.
    pub backend: String,
    /// Whether more than a SYN was seen.
    pub established: bool,
    /// Whether the client has closed the flow, or it was reset.
    pub closed: bool,
    /// Time since it was opened or, where that was not seen, learnt; milliseconds.
    pub opened_ms_ago: u64,
    /// Time since its client was last heard, milliseconds.
    pub heard_ms_ago: u64,
}

/// A backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ExplainedBackend {
    /// Its name; one that is no longer in the configuration has its address for one.
    pub name: String,
    /// The id that slots and the flow table know it by.
    pub id: u32,
    /// `ADDRESS`, or `ADDRESS:PORT` where it has a port of its own.
    pub address: String,
    /// Where packets to it go.
    pub next_hop: NextHop,
}
