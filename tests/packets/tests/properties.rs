//! Valid packets of every mode, family and shape: what comes out is what the oracle says, and flows stay together.

#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy's allowance covers test functions alone")]

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::LazyLock,
};

use lb_common::reason::Reason;
use proptest::{collection, prelude::*, sample};
use weir_packets::{
    build::{Mac, Packet, TcpFlags, Transport},
    fixtures::{
        Family,
        world::{CLIENTS, SOURCE_HASH, world},
    },
    host::Host,
    oracle,
    world::{Backend, Hop, Mode, Protocol, Service, World, in_turn},
};

const INGRESS: u32 = 10;
const OTHER: u32 = 11;
const DAEMON_PORTS: std::ops::Range<u16> = 1..1024;

/// Packets for the VIPs, of every shape.
fn packets() -> impl Strategy<Value = Packet> {
    let client = (any::<u32>(), any::<u128>(), any::<u16>());
    let shape = (collection::vec(any::<u8>(), 0..1600), 0..40_usize, any::<u8>(), 0..=255_u8, 0..0x10_0000_u32);
    let options = (0..=10_usize, 0..=10_usize, any::<[bool; 4]>());
    (sample::select(services()), client, DAEMON_PORTS, shape, options).prop_map(
        |(service, (v4, v6, port), any_port, (payload, padding, tos, ttl, label), (ip, tcp, [syn, ack, fin, rst]))| {
            let client: IpAddr =
                if service.vip.is_ipv4() { Ipv4Addr::from(v4).into() } else { Ipv6Addr::from(v6).into() };
            let to = SocketAddr::new(service.vip, if service.port == 0 { any_port } else { service.port });
            let transport = match service.protocol {
                Protocol::Tcp => Transport::Tcp(TcpFlags { syn, ack, fin, rst }, vec![1; 4 * tcp]),
                Protocol::Udp => Transport::Udp,
            };
            let packet = Packet::between(SocketAddr::new(client, port), to, transport).payload(&payload);
            let packet = packet.padding(padding).tos(tos).ttl(ttl);
            if service.vip.is_ipv4() { packet.options(&vec![1; 4 * ip]) } else { packet.flow_label(label) }
        },
    )
}

/// Replies of NAT backends to clients everywhere.
fn replies() -> impl Strategy<Value = Packet> {
    let client = (99..107_u8, any::<u8>(), any::<u16>());
    let shape = (collection::vec(any::<u8>(), 0..1600), 0..40_usize, any::<u8>(), 0..=255_u8);
    let nat = services().into_iter().filter(|service| service.mode == Mode::Nat && !service.backends.is_empty());
    (sample::select(nat.collect::<Vec<_>>()), any::<sample::Index>(), client, DAEMON_PORTS, shape).prop_map(
        |(service, backend, (network, number, port), any_port, (payload, padding, tos, ttl))| {
            let backend = backend.get(&service.backends);
            let family = if service.vip.is_ipv4() { Family::V4 } else { Family::V6 };
            let client = family.endpoint(&family.client_address(network, number), port).parse().unwrap();
            let from = SocketAddr::new(
                backend.address,
                match service.port_of(backend) {
                    0 => any_port,
                    port => port,
                },
            );
            let transport = match service.protocol {
                Protocol::Tcp => Transport::Tcp(TcpFlags { ack: true, ..TcpFlags::default() }, Vec::new()),
                Protocol::Udp => Transport::Udp,
            };
            Packet::between(from, client, transport).payload(&payload).padding(padding).tos(tos).ttl(ttl)
        },
    )
}

fn services() -> Vec<Service> {
    world(INGRESS, OTHER).services
}

/// The fixtures' world, and the packet path in it.
static RIG: LazyLock<(World, Host)> = LazyLock::new(|| {
    let world = world(INGRESS, OTHER);
    let host = Host::new(&world);
    (world, host)
});

/// Runs `frame`, has the oracle judge it, and compares what was counted.
fn judged(world: &World, host: &Host, frame: &[u8]) -> Result<(), TestCaseError> {
    let run = host.run(INGRESS, frame);
    let fate = oracle::judge(world, INGRESS, frame, &run.outcome).map_err(TestCaseError::fail)?;
    prop_assert_eq!(run.counts, Vec::from_iter(fate.count));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn packets_for_a_vip_come_out_as_the_oracle_says(packet in packets()) {
        judged(&RIG.0, &RIG.1, &packet.bytes())?;
    }

    #[test]
    fn replies_come_out_as_the_oracle_says(packet in replies()) {
        judged(&RIG.0, &RIG.1, &packet.bytes())?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_seed_packets_come_out_as_the_oracle_says(packet in packets(), seed in any::<[u64; 2]>()) {
        let world = World { seed, ..world(INGRESS, OTHER) };
        judged(&world, &Host::new(&world), &packet.bytes())?;
    }
}

/// A client of its own for each number, and the flow's first and a later packet.
fn flow(service: &Service, number: u16) -> [Packet; 2] {
    let family = if service.vip.is_ipv4() { Family::V4 } else { Family::V6 };
    let [high, low] = number.to_be_bytes();
    let client = family.endpoint(&family.client_address(high, low), 1024 + number).parse().unwrap();
    let vip = SocketAddr::new(service.vip, service.port.max(1));
    let packet = |flags| {
        let transport = match service.protocol {
            Protocol::Tcp => Transport::Tcp(flags, Vec::new()),
            Protocol::Udp => Transport::Udp,
        };
        Packet::between(client, vip, transport)
    };
    let first = packet(TcpFlags { syn: true, ..TcpFlags::default() });
    let later = packet(TcpFlags { ack: true, ..TcpFlags::default() }).payload(b"later").ttl(9).tos(0x28);
    [first, later]
}

/// What a receiver's queue is chosen by: the source in the outer header, and its flow label.
fn entropy(frame: &[u8]) -> (IpAddr, u32) {
    if frame[14] >> 4 == 4 {
        let source: [u8; 4] = frame[26..30].try_into().unwrap();
        (source.into(), 0)
    } else {
        let source: [u8; 16] = frame[22..38].try_into().unwrap();
        let label = u32::from_be_bytes(frame[14..18].try_into().unwrap()) & 0xf_ffff;
        (source.into(), label)
    }
}

#[test]
fn packets_of_a_flow_have_one_backend_and_one_outer_header() {
    let (world, host) = &*RIG;
    let mut seen = BTreeSet::new();
    let served = world.services.iter().filter(|service| service.gone.is_none());
    for (service, number) in served.flat_map(|service| (0..500).map(move |number| (service, number))) {
        let [first, later] = flow(service, number).map(|packet| {
            let frame = packet.bytes();
            let outcome = host.run(INGRESS, &frame).outcome;
            let fate = oracle::judge(world, INGRESS, &frame, &outcome).unwrap();
            (fate, outcome.frame)
        });
        assert_eq!(first.0.backend, later.0.backend);
        if first.0.reason == Reason::ForwardedIpip {
            assert_eq!(entropy(&first.1), entropy(&later.1));
            seen.insert(entropy(&first.1));
        }
    }
    let (v4, v6): (Vec<_>, Vec<_>) = seen.into_iter().partition(|(source, _)| source.is_ipv4());
    let (sources, labels): (BTreeSet<_>, BTreeSet<_>) = v6.into_iter().unzip();
    assert!(v4.len() > 240, "only {} of 256 outer IPv4 sources are used", v4.len());
    assert!(sources.len() > 1000, "only {} outer IPv6 sources", sources.len());
    assert!(labels.len() > 1000, "only {} flow labels", labels.len());
}

#[test]
fn with_source_hashing_a_client_has_one_backend_for_all_its_flows() {
    let (world, host) = &*RIG;
    for family in Family::BOTH {
        let backends_of = |client: u8| -> BTreeSet<u32> {
            let from = |port| family.endpoint(&family.client_address(CLIENTS, client), port);
            let frames = (1..300).map(|port| Packet::syn(&from(port), &family.vip(SOURCE_HASH, 80)).bytes());
            frames
                .map(|frame| oracle::judge(world, INGRESS, &frame, &host.run(INGRESS, &frame).outcome).unwrap())
                .map(|fate| fate.backend.unwrap())
                .collect()
        };
        let clients: Vec<BTreeSet<u32>> = (0..100).map(backends_of).collect();
        assert!(clients.iter().all(|backends| backends.len() == 1), "a client's flows are spread: {clients:?}");
        assert_eq!(clients.into_iter().flatten().collect::<BTreeSet<_>>().len(), 5, "clients are not spread");
    }
}

/// With a backend for each slot, the backend tells the slot of every flow; flows then have to follow any other table.
#[test]
fn the_chosen_backend_follows_the_slot_table() {
    const FIRST_ID: u32 = 1000;
    let mut world = world(INGRESS, OTHER);
    let ids: Vec<u32> = (FIRST_ID..FIRST_ID + 251).collect();
    let address = world.services[0].backends[0].address;
    for service in &mut world.services {
        service.mode = Mode::L2;
        service.gone = None;
        service.backends = ids
            .iter()
            .map(|&id| Backend { id, address, port: 0, hop: Some(Hop { mac: mac_of(id), egress: 1 }) })
            .collect();
        service.slots.clone_from(&ids);
    }
    let slots: Vec<u32> = chosen(&world).into_iter().map(|id| id - FIRST_ID).collect();
    for table in [in_turn(&[1000, 1001, 1002], 251), in_turn(&[1250], 251), ids.iter().rev().copied().collect()] {
        for service in &mut world.services {
            service.slots.clone_from(&table);
        }
        let expected: Vec<u32> = slots.iter().map(|slot| table[*slot as usize]).collect();
        assert_eq!(chosen(&world), expected);
    }
}

/// A MAC address that tells the backend.
fn mac_of(id: u32) -> Mac {
    let [a, b, c, d] = id.to_be_bytes();
    [2, 0, a, b, c, d]
}

/// The backend of each of 500 flows of every service, in order.
fn chosen(world: &World) -> Vec<u32> {
    let host = Host::new(world);
    let flows = world.services.iter().flat_map(|service| (0..500).map(move |number| flow(service, number)));
    flows
        .map(|[first, _]| {
            let outcome = host.run(INGRESS, &first.bytes()).outcome;
            assert_eq!(outcome.reason, Some(Reason::ForwardedL2));
            u32::from_be_bytes(outcome.frame[2..6].try_into().unwrap())
        })
        .collect()
}
