//! Checks that the packets of a row did what they should: a figure of packets that were dropped is no figure.

use std::{collections::BTreeMap, fmt};

use anyhow::{bail, ensure};
use lb_common::{abi::Traffic, reason::Reason};
use weir::tables::Counters;
use weir_packets::{
    oracle::{self, Action, Outcome},
    world::World,
};

use super::{
    balancer::Balancer,
    frames,
    generator::Floor,
    measure::WEIR,
    rows::{Kind, Row},
    world::INGRESS,
};
use crate::recipe::FRAME_LEN;

/// Packets of each row and program that are looked at one by one.
const SAMPLES: u32 = 16;

/// A program that is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// A floor.
    Floor(Floor),
    /// The balancer.
    Weir,
    /// Another one, by its place among the others, and its pin.
    External(usize, String),
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Floor(floor) => f.write_str(floor.name()),
            Self::Weir => f.write_str(WEIR),
            Self::External(_, pin) => f.write_str(pin),
        }
    }
}

impl Program {
    /// The verdict that it has to give for packets of `row`.
    #[must_use]
    pub const fn action(&self, row: &Row) -> Action {
        match self {
            Self::Floor(_) => Action::Transmit,
            Self::Weir | Self::External(..) => row.expected.action,
        }
    }
}

/// Positions of the packets to look at: spread over all flows.
pub fn sample() -> impl Iterator<Item = u32> {
    (0..SAMPLES).map(|number| number.wrapping_mul(0x9e37_79b1))
}

/// Checks what `program` made of the packet at `position`: `action`, and the frame `after`.
///
/// # Errors
/// What is wrong with it.
pub fn packet(
    row: &Row,
    world: &World,
    program: &Program,
    position: u32,
    action: Action,
    after: Vec<u8>,
) -> anyhow::Result<()> {
    let expected = program.action(row);
    ensure!(action == expected, "{action:?} in place of {expected:?}");
    let frame = frames::frame(row, frames::flows(row).at(position));
    let right = match program {
        Program::Floor(Floor::Transmit | Floor::Parse) => frame,
        Program::Floor(Floor::MacSwap) => frames::mac_swapped(&frame),
        Program::Floor(Floor::Encapsulate) => frames::encapsulated(row, &frame),
        Program::Weir => {
            let outcome = Outcome { action, egress: None, reason: None, frame: after };
            let fate = oracle::judge(world, INGRESS, &frame, &outcome).map_err(anyhow::Error::msg)?;
            let (found, expected) = (fate.reason.name(), row.expected.reason.name());
            ensure!(found == expected, "{found} in place of {expected}");
            return Ok(());
        }
        // What else it should do is not known.
        Program::External(..) => return Ok(()),
    };
    ensure!(after.len() == right.len(), "{} bytes came out in place of {}", after.len(), right.len());
    let differing = after.iter().zip(&right).position(|(found, right)| found != right);
    match differing {
        Some(at) => bail!("byte {at} came out as {:#04x} in place of {:#04x}", after[at], right[at]),
        None => Ok(()),
    }
}

/// Checks that the balancer has counted, since `before`, every one of the `packets` first packets `runs` times, for the
/// right reason, service and backend.
///
/// # Errors
/// What was counted in place of that.
pub fn counters(row: &Row, balancer: &Balancer, before: &Counters, packets: u32, runs: u32) -> anyhow::Result<()> {
    let after = balancer.counters()?;
    let total = u64::from(packets) * u64::from(runs);
    let counted: BTreeMap<&str, u64> = Reason::ALL
        .iter()
        .zip(after.reasons.iter().zip(&before.reasons))
        .map(|(reason, (after, before))| (reason.name(), after - before))
        .filter(|(_, count)| *count > 0)
        .collect();
    let expected = BTreeMap::from([(row.expected.reason.name(), total)]);
    ensure!(counted == expected, "counted {counted:?} in place of {expected:?}");

    let services = difference(&before.services, &after.services);
    let backends = difference(&before.backends, &after.backends);
    let by_service = balancer.by_service(&backends);
    let expected = traffic(row, packets, runs);
    if row.kind == Kind::Reply {
        compare("backend", &backends, &expected)?;
    } else {
        compare("service", &services, &expected)?;
    }
    compare("service's backends", &by_service, &services)?;
    let retired = balancer.retired.iter().filter_map(|id| Some((*id, *backends.get(id)?))).collect();
    compare("retired backend", &retired, &BTreeMap::new())
}

/// What the servers of `row` should have counted: by backend id for replies, by service id otherwise.
fn traffic(row: &Row, packets: u32, runs: u32) -> BTreeMap<u32, Traffic> {
    let mut traffic: BTreeMap<u32, Traffic> = BTreeMap::new();
    if row.kind == Kind::Foreign {
        return traffic;
    }
    let flows = frames::flows(row);
    let (rounds, rest) = (packets >> flows.bits, packets & ((1 << flows.bits) - 1));
    for position in 0..1 << flows.bits {
        let sent = u64::from(rounds + u32::from(position < rest)) * u64::from(runs);
        let bytes = sent * (FRAME_LEN as u64 - 14);
        // VIPs and backends are numbered by their ids.
        let counted = traffic.entry(flows.at(position).server.into()).or_default();
        if row.kind == Kind::Reply {
            counted.reply_packets += sent;
            counted.reply_bytes += bytes;
        } else {
            counted.packets += sent;
            counted.bytes += bytes;
            counted.connections += if row.kind == Kind::Syn { sent } else { 0 };
        }
    }
    traffic
}

fn difference(before: &BTreeMap<u32, Traffic>, after: &BTreeMap<u32, Traffic>) -> BTreeMap<u32, Traffic> {
    let since = |(id, after): (&u32, &Traffic)| {
        let before = before.get(id).copied().unwrap_or_default();
        let traffic = Traffic {
            packets: after.packets - before.packets,
            bytes: after.bytes - before.bytes,
            connections: after.connections - before.connections,
            reply_packets: after.reply_packets - before.reply_packets,
            reply_bytes: after.reply_bytes - before.reply_bytes,
        };
        (*id, traffic)
    };
    after.iter().map(since).collect()
}

/// Checks that `counted` is `expected`, where what is not listed is 0.
fn compare(what: &str, counted: &BTreeMap<u32, Traffic>, expected: &BTreeMap<u32, Traffic>) -> anyhow::Result<()> {
    for id in counted.keys().chain(expected.keys()) {
        let of = |traffic: &BTreeMap<u32, Traffic>| traffic.get(id).copied().unwrap_or_default();
        let (counted, expected) = (of(counted), of(expected));
        ensure!(counted == expected, "{what} {id}: counted {counted:?} in place of {expected:?}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::rows;

    #[test]
    fn every_packet_is_expected_at_one_server() {
        for row in rows::all().iter().filter(|row| row.kind != Kind::Foreign) {
            // Neither a multiple of the flows nor a divisor.
            let traffic = traffic(row, 3_000, 2);
            let sent: u64 = traffic.values().map(|traffic| traffic.packets + traffic.reply_packets).sum();
            let bytes: u64 = traffic.values().map(|traffic| traffic.bytes + traffic.reply_bytes).sum();
            assert_eq!((sent, bytes), (6_000, 6_000 * 114), "{row}");
        }
    }

    #[test]
    fn counters_that_differ_are_told() {
        let some = |id, packets| BTreeMap::from([(id, Traffic { packets, ..Traffic::default() })]);
        assert!(compare("service", &some(1, 5), &some(1, 5)).is_ok());
        assert!(compare("service", &some(1, 0), &BTreeMap::new()).is_ok());
        for expected in [some(1, 4), some(2, 5), BTreeMap::new()] {
            assert!(compare("service", &some(1, 5), &expected).is_err(), "{expected:?}");
        }
        assert!(compare("service", &BTreeMap::new(), &some(1, 5)).is_err());
    }
}
