use std::collections::BTreeMap;

use bytemuck::Zeroable as _;
use lb_common::abi::{self, Backend, Egress, NextHop, Service, Settings, SlotWord, mode, protocol};

use super::*;
use crate::tables::Endpoint;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

/// Two services on one backend each (`l2` TCP, `nat` UDP), with the way back of the second.
fn tables() -> Tables {
    let [web, dns, way_back] =
        [("192.0.2.1", 443, protocol::TCP), ("192.0.2.2", 0, protocol::UDP), ("10.0.0.8", 53, 17)]
            .map(|(address, port, protocol)| Endpoint { address: address.parse().unwrap(), port, protocol });
    let service = |id| Service { id, first_slot: id * 100, slot_count: 7, ..Service::zeroed() };
    let backend = |service, mode, last| {
        let mut address = [0; 16];
        address[..4].copy_from_slice(&[10, 0, 0, last]);
        let next_hop = NextHop::new(MAC, 1);
        Backend { address, next_hop, service, mode, family: abi::family::V4, ..Backend::zeroed() }
    };
    Tables {
        services: BTreeMap::from([
            (web, service(1)),
            (dns, service(2)),
            (Endpoint::vip_marker(web.address), service(1)),
        ]),
        slots: BTreeMap::from([1, 2].map(|id| (id * 100, vec![SlotWord::steady(id); 7]))),
        rings: BTreeMap::new(),
        backends: BTreeMap::from([(1, backend(1, mode::L2, 7)), (2, backend(2, mode::NAT, 8))]),
        reverse: BTreeMap::from([(way_back, abi::Reverse { service: 2, backend: 2, ..abi::Reverse::zeroed() })]),
        routes: BTreeMap::from([("0.0.0.0/0".parse().unwrap(), NextHop::new(MAC, 1))]),
        egresses: BTreeMap::from([(1, Egress { ifindex: 5, mtu: 1500, mac: MAC, pad: [0; 2] })]),
    }
}

/// The interface index of the only device.
const DEVICE: u32 = 5;

fn fault(program: impl Fn(Answer) -> Answer) -> Option<String> {
    let tables = tables();
    let host = Host::new(&tables, Settings::zeroed(), DEVICE);
    let answer = |frame: &[u8]| {
        let Answer { action, bytes } = program(host.answer(frame));
        Ok((action, bytes))
    };
    let probes = packets::probes(&tables, 0).unwrap();
    first_fault(&probes, &host, answer).unwrap().map(|fault| fault.to_string())
}

#[test]
fn there_are_packets_for_every_service_and_way_back() {
    let tables = tables();
    let host = Host::new(&tables, Settings::zeroed(), DEVICE);
    let probes = packets::probes(&tables, 0).unwrap();
    let answers: Vec<_> = probes.iter().map(|probe| (probe, host.answer(&probe.frame))).collect();
    assert_eq!(answers.len(), 8 + 8 + 1 + 1);
    let (stranger, rest) = answers.split_last().unwrap();
    assert_eq!(stranger.1.name(), "pass");
    assert_eq!(stranger.1.bytes, stranger.0.frame);
    for (probe, answer) in rest {
        assert_eq!((answer.name().as_str(), &answer.bytes[..6]), ("transmit", &MAC[..]), "{probe:?}");
    }
    let ip = |answer: &Answer, at: usize| <[u8; 4]>::try_from(&answer.bytes[at..at + 4]).unwrap();
    assert_eq!(ip(&rest[0].1, 30), [192, 0, 2, 1], "l2 leaves the destination");
    assert_eq!(ip(&rest[8].1, 30), [10, 0, 0, 8], "nat does not");
    assert_eq!(ip(&rest[16].1, 26), [0, 0, 0, 0], "a reply comes from the way back's address");
}

#[test]
fn a_program_that_does_right_passes() {
    assert_eq!(fault(|answer| answer), None);
    // What is dropped is nobody's: its bytes don't matter.
    assert_eq!(Answer::new(1, vec![1]), Answer::new(1, vec![2]));
}

#[test]
fn a_program_that_does_wrong_is_found_out() {
    let passes = fault(|answer| Answer { action: 2, ..answer }).unwrap();
    assert!(
        passes.contains("198.51.100.77:40000 to 192.0.2.1:443 gets the answer pass, expected transmit"),
        "{passes}"
    );
    let strange = fault(|answer| Answer { action: 77, ..answer }).unwrap();
    assert!(strange.contains("77, which is none of Weir's"), "{strange}");
    let flipped = fault(|mut answer| {
        answer.bytes[33] ^= 1;
        answer
    });
    assert!(flipped.unwrap().contains("rewritten wrongly from byte 33 on"));
    let cut = fault(|mut answer| {
        answer.bytes.pop();
        answer
    });
    assert!(cut.unwrap().contains("bytes long, expected"));
}

#[test]
fn of_many_services_some_are_tested() {
    let mut tables = tables();
    let service = tables.services.values().next().copied().unwrap();
    for port in 1000..3000 {
        let key = Endpoint { address: "192.0.2.9".parse().unwrap(), port, protocol: protocol::TCP };
        tables.services.insert(key, service);
    }
    let probes = packets::probes(&tables, 0).unwrap();
    assert!((1000..=256 * 8 + 2).contains(&probes.len()), "{}", probes.len());
}
