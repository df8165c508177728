use std::collections::BTreeSet;

use bytemuck::Zeroable as _;
use lb_common::{
    abi::{choice, flow_flags, service_flags},
    hash::{flow_v4, flow_v6, slot_of, source_v4, source_v6},
    settling::{Keep, end_of},
};
use proptest::{collection::vec, prelude::*, sample::Index};

use super::*;
use crate::tables::{Dataplane as _, fake::FakeDataplane};

const NOW: u32 = 1000;
const IDLE: u32 = 500;
const SEED: [u64; 2] = [7, 9];
/// Slots of each service.
const SLOTS: u32 = 5;
/// Backends with an entry; flows name one more.
const BACKENDS: u32 = 4;

/// A flow from client `client` to the port 80 + `port` of one VIP.
fn key(v6: bool, client: u8, port: u8, protocol: u8) -> FlowKey {
    let (source_port, destination_port) = ([10, client], [0, 80 + port]);
    if v6 {
        let address = |last| std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last).octets();
        let (source, destination) = (address(client.into()), address(0xffff));
        FlowKey::V6(FlowKeyV6 { source, destination, source_port, destination_port, protocol: protocol.into() })
    } else {
        let (source, destination) = ([203, 0, 113, client], [192, 0, 2, 1]);
        FlowKey::V4(FlowKeyV4 { source, destination, source_port, destination_port, protocol: protocol.into() })
    }
}

fn entry(backend: u32, flags: u8, seen: u32, opened: u32) -> FlowEntry {
    FlowEntry { word: FlowWord::new(backend, flags, seen), opened }
}

/// A kernel with these flows, and services at the destinations of these flows. The slots hold `words` in turn.
fn world(
    services: &[(FlowKey, bool, u32, u32)],
    words: &[SlotWord],
    flows: &[(FlowKey, FlowEntry)],
) -> (FakeDataplane, Surroundings) {
    let kernel = FakeDataplane::default();
    let mut around = Surroundings { backends: (1..=BACKENDS).collect(), seed: SEED, ..Surroundings::default() };
    for (number, &(key, every_port, flags, choice)) in (0..).zip(services) {
        let destination = key.destination();
        let endpoint = Endpoint { port: if every_port { 0 } else { destination.port }, ..destination };
        let (first_slot, slot_count) = (number * SLOTS, SLOTS);
        let service = Service { id: number, first_slot, slot_count, flags, choice, ..Service::zeroed() };
        around.services.insert(endpoint, (service, IDLE));
    }
    let slots = 0..SLOTS * u32::try_from(services.len()).unwrap();
    kernel.kernel().slots = slots.zip(words.iter().copied().cycle()).collect();
    kernel.kernel().flows = flows.iter().copied().collect();
    (kernel, around)
}

fn swept(kernel: &FakeDataplane, around: &Surroundings) -> Census {
    let census = sweep(&mut *kernel.flow_table().unwrap(), around, NOW).unwrap();
    Census { took: Duration::ZERO, ..census }
}

/// The slot of a flow and the end of its entry, found by looking at everything.
fn judge(
    kernel: &FakeDataplane,
    around: &Surroundings,
    key: &FlowKey,
    entry: &FlowEntry,
) -> (Option<u32>, Option<End>) {
    let destination = key.destination();
    let at = |port: u16| {
        let mut all = around.services.iter();
        all.find(|(at, _)| (at.address, at.port, at.protocol) == (destination.address, port, destination.protocol))
    };
    let service = at(destination.port).or_else(|| at(0)).map(|(_, (service, _))| service);
    let slot = service.map(|service| {
        let hash = match (*key, service.flags) {
            (FlowKey::V4(k), 0) => {
                flow_v4(SEED, k.source, k.destination, k.source_port, k.destination_port, k.protocol)
            }
            (FlowKey::V6(k), 0) => {
                flow_v6(SEED, k.source, k.destination, k.source_port, k.destination_port, k.protocol)
            }
            (FlowKey::V4(k), _) => source_v4(SEED, k.source),
            (FlowKey::V6(k), _) => source_v6(SEED, k.source),
        };
        service.first_slot + slot_of(hash, service.slot_count)
    });
    let keep = Keep {
        slot: slot.map(|slot| kernel.kernel().slots[&slot]),
        backend_exists: (1..=BACKENDS).contains(&entry.word.backend()),
        is_tcp: key.destination().protocol == 6,
        track_every_flow: service.is_some_and(|service| service.choice != choice::SLOT),
        idle: IDLE,
    };
    (slot, end_of(entry, &keep, NOW))
}

/// Counts all that is in the kernel's flow tables.
fn count(kernel: &FakeDataplane, around: &Surroundings) -> Census {
    let mut census = Census::default();
    let flows = kernel.kernel().flows.clone();
    for (key, entry) in flows {
        census.entries += 1;
        census.entries_v6 += u64::from(matches!(key, FlowKey::V6(_)));
        census.occupied.extend(judge(kernel, around, &key, &entry).0);
        let flows = census.backends.entry(entry.word.backend()).or_default();
        flows.entries += 1;
        if entry.word.flags() & (flow_flags::FIN | flow_flags::RESET) == 0 {
            flows.live += 1;
            flows.oldest = [flows.oldest, Some(entry.opened)].into_iter().flatten().min();
        }
    }
    census
}

fn any_key() -> impl Strategy<Value = FlowKey> {
    (any::<bool>(), 0u8..40, 0u8..3, any::<bool>())
        .prop_map(|(v6, client, port, tcp)| key(v6, client, port, if tcp { 6 } else { 17 }))
}

fn any_entry() -> impl Strategy<Value = FlowEntry> {
    let flags = prop::sample::select(vec![0, 1, 1, 1, 3, 7, 9, 0x81]);
    (1..=BACKENDS + 1, flags, 400..NOW + 2, 0..NOW)
        .prop_map(|(backend, flags, seen, opened)| entry(backend, flags, seen, opened))
}

fn any_service() -> impl Strategy<Value = (FlowKey, bool, u32, u32)> {
    let flags = prop::sample::select(vec![0, service_flags::HASH_SOURCE]);
    let choices = prop::sample::select(vec![choice::SLOT, choice::SLOT, choice::TURN]);
    (any_key(), any::<bool>(), flags, choices)
}

fn any_word() -> impl Strategy<Value = SlotWord> {
    (0..=BACKENDS, 0..=BACKENDS, prop::bool::weighted(0.8))
        .prop_map(|(current, base, tracked)| SlotWord::new(current, base, tracked))
}

proptest! {
    #[test]
    fn a_sweep_deletes_what_is_over_and_counts_what_is_left(
        services in vec(any_service(), 0..4), words in vec(any_word(), 1..8),
        flows in vec((any_key(), any_entry()), 0..60),
    ) {
        let (kernel, around) = world(&services, &words, &flows);
        let before = kernel.kernel().flows.clone();
        let mut ended = BTreeMap::<End, u64>::new();
        let mut left = before.clone();
        for (key, entry) in &before {
            if let Some(end) = judge(&kernel, &around, key, entry).1 {
                *ended.entry(end).or_default() += 1;
                left.remove(key);
            }
        }
        let census = swept(&kernel, &around);
        prop_assert_eq!(&kernel.kernel().flows, &left);
        prop_assert_eq!(census, Census { ended, ..count(&kernel, &around) });
    }

    #[test]
    fn a_flow_that_speaks_keeps_its_entry_and_its_place_in_the_count(
        services in vec(any_service(), 0..4), words in vec(any_word(), 1..8),
        flows in vec((any_key(), any_entry()), 1..60), speaking in vec(any::<Index>(), 0..20),
    ) {
        let (kernel, around) = world(&services, &words, &flows);
        let speaking: BTreeSet<_> = speaking.iter().map(|index| index.get(&flows).0).collect();
        kernel.kernel().speaking.clone_from(&speaking);
        let before = kernel.kernel().flows.clone();
        let census = swept(&kernel, &around);

        let after = kernel.kernel().flows.clone();
        for (key, entry) in &before {
            let stays = speaking.contains(key) || judge(&kernel, &around, key, entry).1.is_none();
            prop_assert_eq!(after.contains_key(key), stays, "{:?}", key);
        }
        let left = count(&kernel, &around);
        prop_assert_eq!(census.entries + census.ended.values().sum::<u64>(), before.len() as u64);
        prop_assert!(census.occupied.is_superset(&left.occupied));
        for (backend, flows) in &left.backends {
            let counted = census.backends[backend];
            prop_assert!(counted.entries >= flows.entries && counted.live >= flows.live, "backend {}", backend);
            prop_assert!(flows.oldest.is_none() || counted.oldest <= flows.oldest);
        }
    }
}

#[test]
fn an_exact_port_comes_before_every_port() {
    let flow = key(false, 1, 0, protocol::TCP);
    // Redundant in the one service, not in the other.
    let words = [SlotWord::steady(1), SlotWord::new(2, 1, true)];
    let words: Vec<_> = words.into_iter().flat_map(|word| [word; SLOTS as usize]).collect();
    for (exact, every, deleted) in [(0, 1, true), (1, 0, false)] {
        let mut services = [(flow, false, 0, choice::SLOT), (flow, true, 0, choice::SLOT)];
        if exact == 1 {
            services.swap(0, 1);
        }
        let (kernel, around) = world(&services, &words, &[(flow, entry(1, flow_flags::ESTABLISHED, NOW, 1))]);
        assert_eq!(swept(&kernel, &around).entries, u64::from(!deleted), "exact {exact}, every {every}");
    }
}

#[test]
fn nothing_is_an_empty_census() {
    let (kernel, around) = world(&[], &[SlotWord::steady(1)], &[]);
    assert_eq!(swept(&kernel, &around), Census::default());
}
