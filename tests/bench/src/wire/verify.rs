//! Checks that every frame is accounted for: a figure of frames that went elsewhere is no figure.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use weir::api::types::{ServiceStats, Stats, Traffic};
use weir_packets::{
    build::ROUTER_MAC,
    fixtures::Family,
    world::{Mode, Service},
};

use super::{config::backend_name, ends::Arrived};
use crate::{packet::rows::Row, recipe::FRAME_LEN};

/// Bytes of the IP packet in every frame.
const IP_LEN: u64 = FRAME_LEN as u64 - 14;

/// What a measurement has sent, and what became of it.
#[derive(Clone, Debug)]
pub struct Passage {
    /// Frames that were sent.
    pub sent: u64,
    /// Frames that the device at the inside end has received.
    pub received: u64,
    /// What the sink has counted, by the last byte of the destination's MAC address.
    pub arrived: Vec<Arrived>,
}

/// Where frames were lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// On their way to the program.
    pub before: u64,
    /// On their way from it.
    pub behind: u64,
}

impl Passage {
    /// Frames that have come to the sink.
    #[must_use]
    pub fn at_sink(&self) -> u64 {
        self.arrived.iter().map(|arrived| arrived.frames).sum()
    }

    /// Checks a passage by way of a program that drops.
    ///
    /// # Errors
    /// There were other frames than those that were sent, or some came through.
    pub fn through_drop(&self) -> Result<Lost> {
        ensure!(self.at_sink() == 0, "{} frames came through a program that drops", self.at_sink());
        Ok(Lost { before: self.lost_before()?, behind: 0 })
    }

    /// Checks a passage by way of a program that swaps MAC addresses.
    ///
    /// # Errors
    /// There were other frames than those that were sent.
    pub fn through_swap(&self) -> Result<Lost> {
        let [.., last] = ROUTER_MAC;
        let expected = BTreeMap::from([(last, self.received)]);
        Ok(Lost { before: self.lost_before()?, behind: self.lost_behind(&expected, FRAME_LEN as u64)? })
    }

    /// Checks a passage by way of Weir, which has counted `counted` meanwhile: that it has forwarded every frame that it
    /// received, for the reason that `row` expects, and that each backend's device got no other frames than those counted
    /// for it.
    ///
    /// # Errors
    /// What was not so.
    pub fn through_weir(&self, row: &Row, service: &Service, counted: &Counted) -> Result<Lost> {
        let expected = BTreeMap::from([(row.expected.reason.name().to_owned(), self.received)]);
        ensure!(counted.reasons == expected, "weir counted {:?} in place of {expected:?}", counted.reasons);
        let bytes = self.received * IP_LEN;
        let traffic = Traffic { packets: self.received, bytes, ..Traffic::default() };
        ensure!(counted.service == traffic, "weir counted {:?} in place of {traffic:?}", counted.service);

        let mut by_address = BTreeMap::new();
        for backend in &service.backends {
            let name = backend_name(backend);
            let traffic = counted.backends.get(&name).with_context(|| format!("weir has no counters of {name}"))?;
            let expected = Traffic { packets: traffic.packets, bytes: traffic.packets * IP_LEN, ..Traffic::default() };
            ensure!(*traffic == expected, "{name}: weir counted {traffic:?} in place of {expected:?}");
            // All flows of a row with a single one go to one backend; of many, every backend has some.
            ensure!(traffic.packets > 0 || row.flow_bits == 0, "{name}: no frames of {} flows", 1 << row.flow_bits);
            let [.., last] = backend.hop.with_context(|| format!("{name} has no MAC address"))?.mac;
            by_address.insert(last, traffic.packets);
        }
        let sum: u64 = by_address.values().sum();
        ensure!(sum == self.received, "weir counted {sum} packets for all backends in place of {}", self.received);
        Ok(Lost { before: self.lost_before()?, behind: self.lost_behind(&by_address, frame_len(row))? })
    }

    fn lost_before(&self) -> Result<u64> {
        let lost = self.sent.checked_sub(self.received);
        lost.with_context(|| format!("{} frames were received of {} that were sent", self.received, self.sent))
    }

    /// How many of the frames that were forwarded, by the last byte of their new address, have not come to the sink.
    fn lost_behind(&self, forwarded: &BTreeMap<u8, u64>, frame_len: u64) -> Result<u64> {
        let mut lost = 0;
        for (address, arrived) in (0_u8..).zip(&self.arrived) {
            let Arrived { frames, bytes } = *arrived;
            let forwarded = forwarded.get(&address).copied().unwrap_or_default();
            let missing = forwarded.checked_sub(frames);
            lost += missing.with_context(|| {
                format!("{frames} frames arrived at …:{address:02x} of {forwarded} that were sent there")
            })?;
            let expected = frames * frame_len;
            ensure!(bytes == expected, "{bytes} bytes arrived at …:{address:02x} in place of {expected}");
        }
        Ok(lost)
    }
}

/// Bytes of a frame of `row` that Weir has forwarded.
fn frame_len(row: &Row) -> u64 {
    let outer = match (row.setting.mode, row.setting.backend_family) {
        (Mode::L2 | Mode::Nat, _) => 0,
        (Mode::Ipip, Family::V4) => 20,
        (Mode::Ipip, Family::V6) => 40,
    };
    FRAME_LEN as u64 + outer
}

/// What Weir has counted between two moments.
#[derive(Clone, Debug, PartialEq)]
pub struct Counted {
    /// Packets by reason, without those that there were none for.
    pub reasons: BTreeMap<String, u64>,
    /// Of the service.
    pub service: Traffic,
    /// By backend's name.
    pub backends: BTreeMap<String, Traffic>,
}

impl Counted {
    /// From `before` to `after`, of a configuration with one service.
    ///
    /// # Errors
    /// It has none, or counters went back.
    pub fn between(before: &Stats, after: &Stats) -> Result<Self> {
        let (old, new) = (the_service(before)?, the_service(after)?);
        let mut reasons = BTreeMap::new();
        for (before, after) in before.reasons.iter().zip(&after.reasons) {
            let packets = since(before.packets, after.packets)?;
            if packets > 0 {
                reasons.insert(after.name.clone(), packets);
            }
        }
        let backends = old.backends.iter().zip(&new.backends);
        let backends =
            backends.map(|(before, after)| Ok((after.name.clone(), traffic_since(&before.traffic, &after.traffic)?)));
        Ok(Self {
            reasons,
            service: traffic_since(&old.traffic, &new.traffic)?,
            backends: backends.collect::<Result<_>>()?,
        })
    }
}

fn the_service(stats: &Stats) -> Result<&ServiceStats> {
    stats.services.first().context("weir has no service")
}

fn traffic_since(before: &Traffic, after: &Traffic) -> Result<Traffic> {
    Ok(Traffic {
        packets: since(before.packets, after.packets)?,
        bytes: since(before.bytes, after.bytes)?,
        connections: since(before.connections, after.connections)?,
        reply_packets: since(before.reply_packets, after.reply_packets)?,
        reply_bytes: since(before.reply_bytes, after.reply_bytes)?,
    })
}

fn since(before: u64, after: u64) -> Result<u64> {
    after.checked_sub(before).context("a counter of weir's went back")
}
