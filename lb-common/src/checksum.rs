//! Internet checksums: incremental updates (RFC 1624) and the full checksum of an IPv4 header (RFC 1071).
//!
//! A rewrite collects what it changes in a [`Difference`] and applies that to every checksum that covers the change:
//!
//! ```
//! use lb_common::checksum::Difference;
//!
//! let difference = Difference::NONE.replace([192, 0, 2, 1], [10, 0, 0, 7]).replace([0, 80], [31, 144]);
//! let tcp_checksum = difference.apply([0x1c, 0x46]);
//! # assert_eq!(tcp_checksum, [0xb5, 0x00]);
//! ```
//!
//! Words are added in the machine's own byte order: a one's complement sum comes out the same in either, only
//! byte-swapped (RFC 1071, section 2 (B)), so that no byte is swapped anywhere. And since 2^16 = 1 modulo 65,535, four
//! bytes are added at once and folded at the end.

use crate::wire::Ipv4;

/// What a packet's checksums must absorb: the differences between old and new values of the fields they cover.
///
/// Fields must start at an even offset of the checksummed data, as every address and port of IPv4, IPv6, TCP and UDP
/// does. Room is for 2^13 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Difference(u64);

impl Difference {
    /// Nothing is replaced.
    pub const NONE: Self = Self(0);

    /// Adds the replacement of a field's `old` value by `new`.
    #[inline(always)]
    pub fn replace<F: Field>(self, old: F, new: F) -> Self {
        Self(self.0 + old.complement_sum() + new.sum())
    }

    /// The value that a checksum field holding `checksum` must get. For IPv4 headers, TCP and ICMP.
    ///
    /// Source: RFC 1624, equation 3: `HC' = ~(~HC + ~m + m')`.
    #[inline(always)]
    #[must_use]
    pub fn apply(self, checksum: [u8; 2]) -> [u8; 2] {
        finish(self.0 + checksum.complement_sum())
    }

    /// Like [`Difference::apply`], for UDP: 0 means that the sender computed no checksum and stays 0; a computed 0 is
    /// written as 0xffff.
    ///
    /// Source: RFC 768; over IPv6 only tunnels may send 0 (RFC 6935), and it stays 0 too.
    #[inline(always)]
    #[must_use]
    pub fn apply_udp(self, checksum: [u8; 2]) -> [u8; 2] {
        if checksum == [0, 0] {
            return checksum;
        }
        match self.apply(checksum) {
            [0, 0] => [0xff, 0xff],
            updated => updated,
        }
    }
}

/// Checksum of an IPv4 header whose checksum field is 0.
///
/// Of a header that holds its checksum the result is 0 if the checksum is right.
///
/// Source: RFC 1071, section 1; RFC 791, section 3.1.
#[inline(always)]
#[must_use]
pub fn ipv4_header(header: &Ipv4) -> [u8; 2] {
    let words: [[u8; 4]; 5] = bytemuck::cast(*header);
    finish(words[0].sum() + words[1].sum() + words[2].sum() + words[3].sum() + words[4].sum())
}

/// A packet field that checksums cover: a whole number of 16-bit words, in network order.
pub trait Field: Copy + sealed::Sealed {
    /// Sum of the words; congruent modulo 65,535, not folded.
    #[doc(hidden)]
    fn sum(self) -> u64;

    /// Sum of the words' complements; congruent modulo 65,535, not folded.
    #[doc(hidden)]
    fn complement_sum(self) -> u64;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for [u8; 2] {}
    impl Sealed for [u8; 4] {}
    impl Sealed for [u8; 16] {}
}

impl Field for [u8; 2] {
    #[inline(always)]
    fn sum(self) -> u64 {
        u64::from(u16::from_ne_bytes(self))
    }

    #[inline(always)]
    fn complement_sum(self) -> u64 {
        u64::from(!u16::from_ne_bytes(self))
    }
}

impl Field for [u8; 4] {
    #[inline(always)]
    fn sum(self) -> u64 {
        u64::from(u32::from_ne_bytes(self))
    }

    #[inline(always)]
    fn complement_sum(self) -> u64 {
        u64::from(!u32::from_ne_bytes(self))
    }
}

impl Field for [u8; 16] {
    #[inline(always)]
    fn sum(self) -> u64 {
        let [a, b]: [[u8; 8]; 2] = bytemuck::cast(self);
        sum_of_halves(u64::from_ne_bytes(a)) + sum_of_halves(u64::from_ne_bytes(b))
    }

    #[inline(always)]
    fn complement_sum(self) -> u64 {
        let [a, b]: [[u8; 8]; 2] = bytemuck::cast(self);
        sum_of_halves(!u64::from_ne_bytes(a)) + sum_of_halves(!u64::from_ne_bytes(b))
    }
}

/// Sum of the two 32-bit words of `words`.
#[inline(always)]
const fn sum_of_halves(words: u64) -> u64 {
    (words >> 32) + (words & 0xffff_ffff)
}

/// Folds a sum below 2^48 to 16 bits, carries included, and complements it.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the last fold leaves at most 0xffff")]
fn finish(sum: u64) -> [u8; 2] {
    let sum = (sum >> 32) + (sum & 0xffff_ffff); // < 2^32 + 2^16
    let sum = (sum >> 16) + (sum & 0xffff); // < 2^17 - 1
    let sum = (sum >> 16) + (sum & 0xffff); // < 2^16
    (!(sum as u16)).to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_1624_section_4_example() {
        let difference = Difference::NONE.replace([0x55, 0x55], [0x32, 0x85]);
        assert_eq!(difference.apply([0xdd, 0x2f]), [0x00, 0x00]);
    }

    #[test]
    fn rfc_1071_section_3_example() {
        // The words 0001 f203 f4f5 f6f7 sum to ddf2.
        let sum = [0x00, 0x01, 0xf2, 0x03].sum() + [0xf4, 0xf5, 0xf6, 0xf7].sum();
        assert_eq!(finish(sum), (!0xddf2_u16).to_be_bytes());
    }

    #[test]
    fn known_ipv4_header() {
        // A TCP SYN's header; 0xb1e6 is its checksum.
        let mut header = Ipv4 {
            version_ihl: 0x45,
            tos: 0,
            total_length: [0x00, 0x3c],
            id: [0x1c, 0x46],
            fragment: [0x40, 0x00],
            ttl: 64,
            protocol: 6,
            checksum: [0, 0],
            source: [172, 16, 10, 99],
            destination: [172, 16, 10, 12],
        };
        assert_eq!(ipv4_header(&header), [0xb1, 0xe6]);
        header.checksum = [0xb1, 0xe6];
        assert_eq!(ipv4_header(&header), [0, 0]);
    }

    #[test]
    fn every_carry_is_folded() {
        assert_eq!(finish((1 << 48) - 1), [0, 0]);
        assert_eq!(finish(0xffff_ffff_fffe), 1_u16.to_ne_bytes());
        assert_eq!(finish(0xffff_0000_ffff), [0, 0], "no carry in the first fold, one in the second");
        assert_eq!(finish(0x1_ffff), 0xfffe_u16.to_ne_bytes());
        assert_eq!(finish(0), [0xff, 0xff]);
    }

    #[test]
    fn nothing_replaced_changes_nothing() {
        for checksum in 0..=u16::MAX {
            assert_eq!(Difference::NONE.apply(checksum.to_be_bytes()), checksum.to_be_bytes());
        }
    }

    #[test]
    fn udp_zero_is_no_checksum_and_is_never_computed() {
        let difference = Difference::NONE.replace([0x55, 0x55], [0x32, 0x85]);
        assert_eq!(difference.apply_udp([0, 0]), [0, 0]);
        assert_eq!(difference.apply_udp([0xdd, 0x2f]), [0xff, 0xff]);
        assert_eq!(difference.apply_udp([0xdd, 0x2e]), difference.apply([0xdd, 0x2e]));
    }
}
