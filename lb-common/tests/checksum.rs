//! Checksums against an independent implementation (etherparse): what an incremental update leaves in a packet is
//! what computing the whole checksum anew gives.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use etherparse::{IpNumber, Ipv4Header, TcpHeader, UdpHeader};
use lb_common::checksum::{Difference, Field, ipv4_header};
use proptest::prelude::*;

/// The part of a packet that a NAT rewrites.
#[derive(Clone, Copy, Debug)]
struct Ends<A> {
    source: A,
    destination: A,
    ports: [[u8; 2]; 2],
}

fn ends<A: Arbitrary + Copy>() -> impl Strategy<Value = Ends<A>> {
    any::<(A, A, [[u8; 2]; 2])>().prop_map(|(source, destination, ports)| Ends { source, destination, ports })
}

fn difference<A: Field>(old: Ends<A>, new: Ends<A>) -> Difference {
    Difference::NONE
        .replace(old.source, new.source)
        .replace(old.destination, new.destination)
        .replace(old.ports[0], new.ports[0])
        .replace(old.ports[1], new.ports[1])
}

/// A checksum's place in a packet's bytes, computed by etherparse for the given ends.
trait Oracle {
    fn tcp(&self, sequence: u32, payload: &[u8]) -> [u8; 2];
    fn udp(&self, payload: &[u8]) -> [u8; 2];
}

impl<A> Ends<A> {
    fn tcp_header(&self, sequence: u32) -> TcpHeader {
        let [source, destination] = self.ports.map(u16::from_be_bytes);
        TcpHeader::new(source, destination, sequence, 4096)
    }
}

impl Oracle for Ends<[u8; 4]> {
    fn tcp(&self, sequence: u32, payload: &[u8]) -> [u8; 2] {
        let header = self.tcp_header(sequence);
        header.calc_checksum_ipv4_raw(self.source, self.destination, payload).unwrap().to_be_bytes()
    }

    fn udp(&self, payload: &[u8]) -> [u8; 2] {
        let [source, destination] = self.ports.map(u16::from_be_bytes);
        let ip = Ipv4Header::new(0, 64, IpNumber::UDP, self.source, self.destination).unwrap();
        UdpHeader::with_ipv4_checksum(source, destination, &ip, payload).unwrap().checksum.to_be_bytes()
    }
}

impl Oracle for Ends<[u8; 16]> {
    fn tcp(&self, sequence: u32, payload: &[u8]) -> [u8; 2] {
        let header = self.tcp_header(sequence);
        header.calc_checksum_ipv6_raw(self.source, self.destination, payload).unwrap().to_be_bytes()
    }

    fn udp(&self, payload: &[u8]) -> [u8; 2] {
        let [source, destination] = self.ports.map(u16::from_be_bytes);
        let length = u16::try_from(8 + payload.len()).unwrap();
        let header = UdpHeader { source_port: source, destination_port: destination, length, checksum: 0 };
        header.calc_checksum_ipv6_raw(self.source, self.destination, payload).unwrap().to_be_bytes()
    }
}

fn check_rewrite<A: Field>(old: Ends<A>, new: Ends<A>, sequence: u32, payload: &[u8]) -> Result<(), TestCaseError>
where
    Ends<A>: Oracle,
{
    let difference = difference(old, new);
    prop_assert_eq!(difference.apply(old.tcp(sequence, payload)), new.tcp(sequence, payload));
    prop_assert_eq!(difference.apply_udp(old.udp(payload)), new.udp(payload));
    prop_assert_eq!(difference.apply_udp([0, 0]), [0, 0]);
    Ok(())
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..64)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4096) })]

    #[test]
    fn incremental_is_full_over_ipv4(old in ends::<[u8; 4]>(), new in ends(), sequence: u32, payload in payload()) {
        check_rewrite(old, new, sequence, &payload)?;
    }

    #[test]
    fn incremental_is_full_over_ipv6(old in ends::<[u8; 16]>(), new in ends(), sequence: u32, payload in payload()) {
        check_rewrite(old, new, sequence, &payload)?;
    }

    /// Any checksum field a 16-bit rewrite can meet, zeros in both representations among them.
    #[test]
    fn udp_is_never_sent_as_zero(checksum: [u8; 2], old: [u8; 2], new: [u8; 2]) {
        let updated = Difference::NONE.replace(old, new).apply_udp(checksum);
        prop_assert_eq!(updated == [0, 0], checksum == [0, 0]);
    }

    #[test]
    fn header_checksum_is_etherparses(
        source: [u8; 4], destination: [u8; 4], length in 20_u16.., identification: u16, ttl: u8, protocol: u8,
    ) {
        let mut header = Ipv4Header::new(0, ttl, IpNumber(protocol), source, destination).unwrap();
        header.total_len = length;
        header.identification = identification;
        let bytes: [u8; 20] = header.to_bytes().as_slice().try_into().unwrap();
        prop_assert_eq!(ipv4_header(bytemuck::from_bytes(&bytes)), header.calc_header_checksum().to_be_bytes());
    }

    /// What forwarding does to a header: the TTL falls, the destination changes.
    #[test]
    fn header_update_is_a_new_header(source: [u8; 4], old: [u8; 4], new: [u8; 4], ttl in 2_u8.., protocol: u8) {
        let before = Ipv4Header::new(100, ttl, IpNumber(protocol), source, old).unwrap().calc_header_checksum();
        let after = Ipv4Header::new(100, ttl - 1, IpNumber(protocol), source, new).unwrap().calc_header_checksum();
        let difference = Difference::NONE.replace([ttl, protocol], [ttl - 1, protocol]).replace(old, new);
        prop_assert_eq!(difference.apply(before.to_be_bytes()), after.to_be_bytes());
    }
}
