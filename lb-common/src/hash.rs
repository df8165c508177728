//! The flow hash.

#[inline(always)]
fn mix(x: u64, key: u64) -> u64 {
    let x = (x ^ key).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^ (x >> 32)
}

/// h
#[inline(always)]
pub fn flow_v4(seed: [u64; 2], s: [u8; 4], d: [u8; 4], sp: [u8; 2], dp: [u8; 2], p: u8) -> u64 {
    let a = u64::from(u32::from_ne_bytes(s)) << 32 | u64::from(u32::from_ne_bytes(d));
    let b = u64::from(u16::from_ne_bytes(sp)) << 24 | u64::from(u16::from_ne_bytes(dp)) << 8 | u64::from(p);
    mix(mix(mix(a, seed[0]) ^ b, seed[1]), 0)
}
/// h
#[inline(always)]
pub fn source_v4(seed: [u64; 2], s: [u8; 4]) -> u64 {
    mix(mix(u64::from(u32::from_ne_bytes(s)), seed[0]), seed[1])
}
/// h
#[inline(always)]
pub fn flow_v6(seed: [u64; 2], s: [u8; 16], d: [u8; 16], sp: [u8; 2], dp: [u8; 2], p: u8) -> u64 {
    let s: [u64; 2] = bytemuck::cast(s);
    let d: [u64; 2] = bytemuck::cast(d);
    let b = u64::from(u16::from_ne_bytes(sp)) << 24 | u64::from(u16::from_ne_bytes(dp)) << 8 | u64::from(p);
    mix(mix(mix(mix(mix(mix(s[0], seed[0]) ^ s[1], seed[1]) ^ d[0], seed[0]) ^ d[1], seed[1]) ^ b, seed[0]), 0)
}
/// h
#[inline(always)]
pub fn source_v6(seed: [u64; 2], s: [u8; 16]) -> u64 {
    let s: [u64; 2] = bytemuck::cast(s);
    mix(mix(mix(s[0], seed[0]) ^ s[1], seed[1]), 0)
}
/// s
#[inline(always)]
pub fn slot_of(hash: u64, count: u32) -> u32 {
    (((hash >> 32) * u64::from(count)) >> 32) as u32
}
