//! The packet path in this process, over tables that were read back from the kernel.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytemuck::{Pod, Zeroable as _};
use ipnet::IpNet;
use lb_common::{
    abi::{
        BackendEntry, Egress, EndpointV4, EndpointV6, FlowEntry, FlowKeyV4, FlowKeyV6, FlowWord, Handshake, NO_BACKEND,
        NextHop, OuterV4, OuterV6, Reverse, ServiceEntry, Settings, SlotWord,
    },
    frame::{Frame, NoRoom},
    pipeline::{self, Action},
    reason::Reason,
    tables::Step,
    tracking::{Entry, FlowEvent},
    wire::ETHERNET_LEN,
};

use crate::{
    frames::{action_name, xdp},
    tables::{Endpoint, Tables},
};

/// Room that the kernel leaves in front of a frame, bytes.
const HEADROOM: usize = 256;

/// What became of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The XDP action.
    pub action: u32,
    /// The frame as it was then; empty where it is dropped, for then nobody gets it.
    pub bytes: Vec<u8>,
}

impl Answer {
    pub fn new(action: u32, bytes: Vec<u8>) -> Self {
        Self { action, bytes: if action == xdp::DROP { Vec::new() } else { bytes } }
    }

    /// The action in an operator's words.
    pub fn name(&self) -> String {
        action_name(self.action).map_or_else(|| format!("{}, which is none of Weir's", self.action), str::to_owned)
    }
}

/// The packet path over `tables`.
pub struct Host<'a> {
    tables: &'a Tables,
    settings: Settings,
    ingress: u32,
}

impl<'a> Host<'a> {
    pub fn new(tables: &'a Tables, settings: Settings, ingress: u32) -> Self {
        Self { tables, settings, ingress }
    }

    /// What has to become of `frame`.
    pub fn answer(&self, frame: &[u8]) -> Answer {
        let mut frame = HostFrame::new(frame);
        let action = match pipeline::process(&mut frame, self).action {
            Action::Pass => xdp::PASS,
            Action::Drop => xdp::DROP,
            Action::Transmit => xdp::TX,
            Action::Redirect(_) => xdp::REDIRECT,
        };
        Answer::new(action, frame.bytes().to_vec())
    }

    fn service(&self, key: Endpoint) -> Option<ServiceEntry> {
        self.tables.services.get(&key).copied().map(Into::into)
    }

    fn is_vip(&self, address: IpAddr) -> bool {
        self.tables.services.contains_key(&Endpoint::vip_marker(address))
    }

    fn reverse(&self, key: Endpoint) -> Option<Reverse> {
        self.tables.reverse.get(&key).copied()
    }

    /// Longest prefix first, as the kernel's trie.
    fn route(&self, address: IpAddr) -> Option<NextHop> {
        let routes = self.tables.routes.iter().filter(|(net, _)| net.contains(&address));
        routes.max_by_key(|(net, _)| IpNet::prefix_len(net)).map(|(_, hop)| *hop)
    }
}

/// There is none: a program on trial has a flow table of its own, and no packet of the self-test comes twice.
pub enum NoEntry {}

impl Entry for NoEntry {
    fn word(&self) -> FlowWord {
        match *self {}
    }

    fn replace(&self, _: FlowWord, _: FlowWord) -> bool {
        match *self {}
    }

    fn set_opened(&self, _: u32) {
        match *self {}
    }
}

impl lb_common::tables::Tables for Host<'_> {
    type Entry<'a>
        = NoEntry
    where
        Self: 'a;
    type Service = ServiceEntry;
    type Backend = BackendEntry;

    fn seed(&self) -> [u64; 2] {
        self.settings.seed
    }

    fn outer_v4(&self) -> OuterV4 {
        self.settings.outer_v4
    }

    fn outer_v6(&self) -> OuterV6 {
        self.settings.outer_v6
    }

    fn ingress_ifindex(&self) -> u32 {
        self.ingress
    }

    // Everything is looked for, so that the kernel's short cuts are compared with the long way.
    fn kinds(&self) -> u64 {
        u64::MAX
    }

    fn service_v4(&self, key: &EndpointV4) -> Option<Self::Service> {
        self.service((*key).into())
    }

    fn service_v6(&self, key: &EndpointV6) -> Option<Self::Service> {
        self.service((*key).into())
    }

    fn is_vip_v4(&self, address: [u8; 4]) -> bool {
        self.is_vip(address.into())
    }

    fn is_vip_v6(&self, address: [u8; 16]) -> bool {
        self.is_vip(address.into())
    }

    fn slot(&self, index: u32) -> Option<SlotWord> {
        let (first, words) = self.tables.slots.range(..=index).next_back()?;
        words.get((index - first) as usize).copied()
    }

    fn backend(&self, id: u32) -> Option<BackendEntry> {
        Some(self.tables.backends.get(&id).map_or_else(BackendEntry::zeroed, |backend| (*backend).into()))
    }

    fn reverse_v4(&self, key: &EndpointV4) -> Option<Reverse> {
        self.reverse((*key).into())
    }

    fn reverse_v6(&self, key: &EndpointV6) -> Option<Reverse> {
        self.reverse((*key).into())
    }

    fn route_v4(&self, address: [u8; 4]) -> Option<NextHop> {
        self.route(Ipv4Addr::from(address).into())
    }

    fn route_v6(&self, address: [u8; 16]) -> Option<NextHop> {
        self.route(Ipv6Addr::from(address).into())
    }

    fn egress(&self, index: u16) -> Option<Egress> {
        self.tables.egresses.get(&index).copied()
    }

    fn flow_v4(&self, _: &FlowKeyV4, _: u32) -> Option<NoEntry> {
        None
    }

    fn flow_v6(&self, _: &FlowKeyV6, _: u32) -> Option<NoEntry> {
        None
    }

    fn insert_flow_v4(&self, _: &FlowKeyV4, _: u32, _: &FlowEntry) -> bool {
        true
    }

    fn insert_flow_v6(&self, _: &FlowKeyV6, _: u32, _: &FlowEntry) -> bool {
        true
    }

    // Chance, time and counters matter to new flows alone, and the packets of the self-test open none.

    fn live_flows(&self, _: u32) -> u64 {
        0
    }

    fn ring(&self, _: u32, _: u32) -> u32 {
        NO_BACKEND
    }

    fn turn(&self, _: u32) -> u32 {
        0
    }

    fn random(&self) -> u32 {
        0
    }

    fn now(&self) -> u32 {
        0
    }

    fn now_nanoseconds(&self) -> u64 {
        0
    }

    fn handshake(&self, _: u32) -> Option<Handshake> {
        None
    }

    // Nothing is counted, remembered or asked for: the packets are not real.

    fn note(&self, _: Step) {}

    fn count_live(&self, _: u32, _: bool) {}

    fn count_event(&self, _: FlowEvent) {}

    fn set_handshake(&self, _: u32, _: Handshake) {}

    fn count_handshake(&self, _: u32, _: u64) {}

    fn want_neighbour(&self, _: [u8; 16], _: u8) {}

    fn count_reason(&self, _: Reason) {}

    fn count_forwarded(&self, _: Reason, _: u32, _: u32, _: u32, _: bool) {}

    fn count_replied(&self, _: Reason, _: u32, _: u32, _: u32) {}
}

/// A frame in memory, with room in front.
struct HostFrame {
    buffer: Vec<u8>,
    start: usize,
}

impl HostFrame {
    fn new(bytes: &[u8]) -> Self {
        Self { buffer: [&[0; HEADROOM], bytes].concat(), start: HEADROOM }
    }

    fn bytes(&self) -> &[u8] {
        self.buffer.get(self.start..).unwrap_or_default()
    }
}

impl Frame for HostFrame {
    fn at<T: Pod>(&self, offset: usize) -> Option<&T> {
        bytemuck::try_from_bytes(self.bytes().get(offset..)?.get(..size_of::<T>())?).ok()
    }

    fn at_mut<T: Pod>(&mut self, offset: usize) -> Option<&mut T> {
        let bytes = self.buffer.get_mut(self.start..)?.get_mut(offset..)?.get_mut(..size_of::<T>())?;
        bytemuck::try_from_bytes_mut(bytes).ok()
    }

    fn holds(&self, bytes: usize) -> bool {
        bytes <= self.bytes().len()
    }

    fn grow(&mut self, bytes: u8) -> Result<(), NoRoom> {
        self.start = self.start.checked_sub(bytes.into()).ok_or(NoRoom)?;
        Ok(())
    }

    fn shrink(&mut self, bytes: u8) -> Result<(), NoRoom> {
        if !self.holds(ETHERNET_LEN + usize::from(bytes)) {
            return Err(NoRoom);
        }
        self.start += usize::from(bytes);
        Ok(())
    }

    fn truncate(&mut self, bytes: u8) -> Result<(), NoRoom> {
        if !self.holds(bytes.into()) {
            return Err(NoRoom);
        }
        self.buffer.truncate(self.start + usize::from(bytes));
        Ok(())
    }
}
