//! The flow hash: from a packet's addresses and ports to 64 bits.
//!
//! The high 32 bits choose the slot ([`slot_of`]); the low 32 bits are entropy for outer headers, so that receivers
//! spread a backend's flows over their queues. Both halves must therefore be good, and independent of each other.
//!
//! Two steps:
//!
//! 1. NH compresses the input to 64 bits: each pair of 32-bit words is added to a pair of key words and multiplied, and
//!    the products are summed. Two different inputs collide for a fraction of at most 2^-32 of all keys, whoever chose
//!    the inputs: without the seed nobody can aim flows at one slot by arithmetic. The multiplications do not wait for
//!    each other.
//! 2. A bijective mixer spreads every bit of that over all 64.
//!
//! An IPv4 flow costs four multiplications, an IPv6 flow ten.
//!
//! # Measured (`tests/hash.rs` prints it)
//! - Avalanche: over random and over sequential flows, each input bit flips each output bit with a probability of
//!   0.5 +- 0.016, which is what 25,000 samples of a perfect hash show over as many pairs of bits.
//! - Sequential ports, neighbouring addresses and /64s fill slots as chance would: chi-square within 2 standard
//!   deviations. So do the pair (high half, low half) and the pair of slots under two seeds, within 2.6.
//!
//! # Sources
//! - NH: Black, Halevi, Krawczyk, Krovetz, Rogaway, "UMAC: Fast and Secure Message Authentication", CRYPTO '99,
//!   section 4. Its bound holds for independent key words; those beyond the seed's four are derived here.
//! - The mixer: Evensen, "Stronger, better, morer, Moremur", 2019.

use crate::abi::{EndpointV4, EndpointV6};

/// Hash of an IPv4 flow. Addresses and ports as they are in the packet.
#[inline(always)]
#[must_use]
pub fn flow_v4(
    seed: [u64; 2],
    source: [u8; 4],
    destination: [u8; 4],
    source_port: [u8; 2],
    destination_port: [u8; 2],
    protocol: u32,
) -> u64 {
    let keys = keys(seed);
    let addresses = pair(u32::from_le_bytes(source), ports(source_port, destination_port));
    let rest = pair(u32::from_le_bytes(destination), protocol);
    mix(product(addresses, keys[0]).wrapping_add(product(rest, keys[1])))
}

/// Hash of an IPv6 flow. Addresses and ports as they are in the packet.
#[inline(always)]
#[must_use]
pub fn flow_v6(
    seed: [u64; 2],
    source: [u8; 16],
    destination: [u8; 16],
    source_port: [u8; 2],
    destination_port: [u8; 2],
    protocol: u32,
) -> u64 {
    let keys = keys(seed);
    let more = more_keys(keys);
    let rest = pair(ports(source_port, destination_port), protocol);
    let sum = product_v6(source, keys)
        .wrapping_add(product_v6(destination, [more[0], more[1]]))
        .wrapping_add(product(rest, more[2]));
    mix(sum)
}

/// Hash of an IPv4 source address alone, for services that keep a client on one backend.
#[inline(always)]
#[must_use]
pub fn source_v4(seed: [u64; 2], source: [u8; 4]) -> u64 {
    let [key, offset] = keys(seed);
    mix(product(pair(u32::from_le_bytes(source), 0), key).wrapping_add(offset))
}

/// Hash of an IPv6 source address alone; see [`source_v4`].
#[inline(always)]
#[must_use]
pub fn source_v6(seed: [u64; 2], source: [u8; 16]) -> u64 {
    mix(product_v6(source, keys(seed)))
}

/// Hash of an IPv4 endpoint, for [`crate::index`]: every endpoint has another.
#[inline(always)]
#[must_use]
pub fn endpoint_v4(seed: [u64; 2], endpoint: &EndpointV4) -> u64 {
    mix(u64::from_le(bytemuck::cast(*endpoint)) ^ keys(seed)[0])
}

/// Hash of an IPv6 endpoint, for [`crate::index`].
#[inline(always)]
#[must_use]
pub fn endpoint_v6(seed: [u64; 2], endpoint: &EndpointV6) -> u64 {
    let rest = u32::from_le_bytes([endpoint.port[0], endpoint.port[1], endpoint.protocol, endpoint.pad]);
    mix(product_v6(endpoint.address, keys(seed)).wrapping_add(u64::from(rest) << 32))
}

/// The slot, 0 to `count - 1`, of a hash: its high 32 bits scaled to `count`. 0 if `count` is 0.
///
/// Source: Lemire, "Fast Random Integer Generation in an Interval", 2019, section 3: a multiplication and a shift in
/// place of a division.
#[inline(always)]
#[must_use]
pub const fn slot_of(hash: u64, count: u32) -> u32 {
    (((hash >> 32) * count as u64) >> 32) as u32
}

/// Key words of NH for four words of input. The constants (digits of pi) keep the keys of seeds like `[0, 1]` apart.
#[inline(always)]
const fn keys(seed: [u64; 2]) -> [u64; 2] {
    [seed[0] ^ 0x243f_6a88_85a3_08d3, seed[1] ^ 0x1319_8a2e_0370_7344]
}

/// Key words for six more words of input, from both keys. The odd multipliers are further digits of pi.
#[inline(always)]
const fn more_keys([a, b]: [u64; 2]) -> [u64; 3] {
    [
        (a ^ b.rotate_left(17)).wrapping_mul(0xa409_3822_299f_31d1),
        (a ^ b.rotate_left(32)).wrapping_mul(0x082e_fa98_ec4e_6c89),
        (a ^ b.rotate_left(47)).wrapping_mul(0x4528_21e6_38d0_1377),
    ]
}

#[inline(always)]
fn ports(source: [u8; 2], destination: [u8; 2]) -> u32 {
    u32::from_le_bytes([source[0], source[1], destination[0], destination[1]])
}

#[inline(always)]
fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

/// NH of one pair of words.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "taken apart into halves")]
fn product(words: u64, key: u64) -> u64 {
    let low = (words as u32).wrapping_add(key as u32);
    let high = ((words >> 32) as u32).wrapping_add((key >> 32) as u32);
    u64::from(low) * u64::from(high)
}

/// NH of the two pairs of words in an IPv6 address.
#[inline(always)]
fn product_v6(address: [u8; 16], keys: [u64; 2]) -> u64 {
    let [high, low]: [[u8; 8]; 2] = bytemuck::cast(address);
    product(u64::from_le_bytes(high), keys[0]).wrapping_add(product(u64::from_le_bytes(low), keys[1]))
}

/// Moremur: a bijection in which every input bit flips every output bit with probability one half.
#[inline(always)]
pub(crate) const fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 27)).wrapping_mul(0x3c79_ac49_2ba7_b653);
    let x = (x ^ (x >> 33)).wrapping_mul(0x1c69_b3f7_4ac4_ae35);
    x ^ (x >> 27)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_cover_the_range_and_nothing_else() {
        assert_eq!(slot_of(0, 65_537), 0);
        assert_eq!(slot_of(u64::MAX, 65_537), 65_536);
        assert_eq!(slot_of(u64::from(u32::MAX), 65_537), 0, "the low half must not count");
        assert_eq!(slot_of(1 << 63, 100), 50);
        assert_eq!(slot_of(u64::MAX, u32::MAX), u32::MAX - 1);
        assert_eq!(slot_of(u64::MAX, 0), 0);
    }
}
