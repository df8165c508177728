//! What becomes of a flow's packets, asked of the kernel and told in the configuration's names.

use lb_common::{
    abi::{self, FlowWord, NO_BACKEND, SlotWord, explained, flow_flags},
    reason::Reason,
};

use super::{clock::Moment, core::Core, entry};
use crate::{
    api::{
        control::ControlError,
        explain::{ExplainedBackend, ExplainedEntry, ExplainedPacket, ExplainedSlot, Explanation, Flow, PacketKind},
    },
    frames::{self, Kind, action_name},
    spec::Protocol,
    tables::Explained,
};

impl Core {
    /// What the loaded program does with packets of `flow`. Nothing that real traffic sees changes by it.
    pub fn explain(&mut self, flow: &Flow, now: Moment) -> Result<Explanation, ControlError> {
        let Flow { source, destination, protocol } = *flow;
        if source.is_ipv4() != destination.is_ipv4() {
            let problem = format!("source {source} and destination {destination} are of different address families");
            return Err(ControlError::Invalid(vec![problem]));
        }
        let attached = self.dataplane.attachments().into_iter().find(|attachment| attachment.xdp.is_some());
        let attached = attached.ok_or_else(|| ControlError::Conflict("the program is not attached".to_owned()))?;
        let kinds: &[Kind] = match protocol {
            Protocol::Tcp => &[Kind::Syn, Kind::Ack],
            Protocol::Udp => &[Kind::Datagram],
        };
        let mut packets = Vec::new();
        for &kind in kinds {
            let asked = frames::frame(source, destination, kind, b"explain")
                .and_then(|frame| self.dataplane.explain(&frame, attached.index));
            let found = asked.map_err(|error| ControlError::Dataplane(format!("{error:#}")))?;
            packets.push(self.told(kind, &found, now.seconds()));
        }
        Ok(Explanation { source, destination, protocol, interface: attached.interface, packets })
    }

    fn told(&self, kind: Kind, found: &Explained, now: u32) -> ExplainedPacket {
        let seen = |bit: u32| found.steps.seen & bit != 0;
        let slot = seen(explained::SLOT).then(|| self.slot(&found.steps));
        let entry = seen(explained::ENTRY).then(|| self.entry(&found.steps, now));
        let backend = (seen(explained::BACKEND) && found.steps.backend != NO_BACKEND).then_some(found.steps.backend);
        let reason = Reason::ALL.iter().find(|reason| **reason as u32 == found.steps.reason);
        ExplainedPacket {
            kind: match kind {
                Kind::Syn => PacketKind::Syn,
                Kind::Ack => PacketKind::Ack,
                Kind::Datagram => PacketKind::Datagram,
            },
            service: slot.as_ref().and_then(|_| self.service_name(found.steps.service)),
            why: why(kind, &found.steps),
            slot: slot.flatten(),
            entry,
            choice: seen(explained::CHOICE).then(|| self.backend_name(found.steps.chosen)).flatten(),
            enters: seen(explained::ENTERED),
            replaces: seen(explained::REPLACED),
            is_reply: seen(explained::REPLY),
            backend: backend.and_then(|id| self.backend(id)),
            action: action_name(found.action).unwrap_or("abort").to_owned(),
            reason: reason.map_or_else(String::new, |reason| reason.name().to_owned()),
            meaning: reason.map_or_else(String::new, |reason| reason.meaning().to_owned()),
        }
    }

    fn slot(&self, steps: &abi::Explanation) -> Option<ExplainedSlot> {
        let service = self
            .mirror
            .tables()
            .services
            .values()
            .find(|service| service.id == steps.service && service.flags & abi::service_flags::VIP_MARKER == 0)?;
        let word = SlotWord(steps.slot_word);
        Some(ExplainedSlot {
            index: steps.slot.wrapping_sub(service.first_slot),
            of: service.slot_count,
            current: self.backend_name(word.current()),
            base: self.backend_name(word.base()),
            tracked: word.tracked(),
        })
    }

    fn entry(&self, steps: &abi::Explanation, now: u32) -> ExplainedEntry {
        let word = FlowWord(steps.entry_word);
        let ago = |then: u32| u64::from(now.saturating_sub(then)) * 1000;
        ExplainedEntry {
            backend: self.backend_name(word.backend()).unwrap_or_else(|| format!("id {}", word.backend())),
            established: word.flags() & flow_flags::ESTABLISHED != 0,
            closed: word.is_closed(),
            opened_ms_ago: ago(steps.opened),
            heard_ms_ago: ago(word.seen()),
        }
    }

    fn backend(&self, id: u32) -> Option<ExplainedBackend> {
        let entry = self.mirror.tables().backends.get(&id)?;
        let next_hop = self.next_hop(id, entry::address(entry));
        Some(ExplainedBackend { name: self.backend_name(id)?, id, address: entry::place(entry), next_hop })
    }

    fn service_name(&self, id: u32) -> Option<String> {
        let services = &self.mirror.tables().services;
        let key = services.iter().find(|(key, service)| service.id == id && !key.is_vip_marker())?.0;
        self.want.services().get(key).map(|service| service.name.clone())
    }

    /// A backend's name; one that is no longer in the configuration has its address for one.
    fn backend_name(&self, id: u32) -> Option<String> {
        let backend = self.mirror.tables().backends.get(&id)?;
        let (service, address, port) = entry::identity(backend);
        let services = &self.mirror.tables().services;
        let key = services.iter().find(|(key, entry)| entry.id == service && !key.is_vip_marker()).map(|(key, _)| key);
        let wanted = self.want.services();
        let backends = key.and_then(|key| wanted.get(key)).map(|service| service.backends.as_slice());
        let known = backends.unwrap_or_default().iter();
        let named = known.clone().find(|b| b.address == address && entry::own_port(b) == port);
        Some(named.map_or_else(|| entry::place(backend), |named| named.name.clone()))
    }
}

/// Why the packet's backend is what it is.
fn why(kind: Kind, steps: &abi::Explanation) -> String {
    let seen = |bit: u32| steps.seen & bit != 0;
    let slot = SlotWord(steps.slot_word);
    let entry = FlowWord(steps.entry_word);
    let text = if seen(explained::REPLY) {
        "it comes from a nat backend, so it is a reply to a client"
    } else if !seen(explained::SLOT) {
        "no service takes it"
    } else if !slot.tracked() {
        "the slot is not tracked: all its flows are its backend's, and the flow table is not looked at"
    } else if seen(explained::ENTRY) && !entry.is_buried() && !seen(explained::CHOICE) {
        match kind {
            _ if !seen(explained::BACKEND) => "the flow table has the flow, and its backend is gone",
            Kind::Syn => "the flow table has the flow and nobody has closed it, so a SYN goes where it is",
            Kind::Ack | Kind::Datagram => "the flow table has the flow",
        }
    } else if seen(explained::CHOICE) {
        match (seen(explained::ENTERED), seen(explained::REPLACED)) {
            _ if steps.chosen == NO_BACKEND => "a new flow, and no backend takes any",
            (true, _) => "a new flow: it gets an entry in the flow table",
            (_, true) => "a new flow in place of one that is over",
            _ => "a new flow for the slot's base, which needs no entry",
        }
    } else if !seen(explained::BACKEND) {
        "the flow has no entry, so it is the base's, and that is gone"
    } else if seen(explained::ENTERED) {
        "the flow has no entry, so it is the base's; it gets an entry before the base changes"
    } else {
        "the flow has no entry, so it is the base's"
    };
    text.to_owned()
}
