//! The flow hash as a statistician sees it: avalanche, spread over slots, independence of seeds and halves. Every
//! measure is also shown to refuse a hash that is bad in its way.
//!
//! `cargo test -p lb-common --test hash -- --nocapture` prints the measured numbers.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use lb_common::hash::{flow_v4, flow_v6, slot_of, source_v4, source_v6};
use support::Random;

/// Seeds as clusters draw them and as people type them.
const SEEDS: [[u64; 2]; 5] =
    [[0, 0], [0, 1], [u64::MAX, u64::MAX], [0x0123_4567_89ab_cdef, 42], [0xd1b5_4a32_d192_ed03, 0x8cb9_2ba7_2f3d_8dd7]];

/// Slots of the chi-square tests: prime, and not near a power of two.
const SLOTS: u32 = 1021;

/// A hash of N input bytes under a seed.
type Hash<const N: usize> = fn([u64; 2], [u8; N]) -> u64;

/// Source, destination, source port, destination port, protocol.
fn v4(seed: [u64; 2], input: [u8; 13]) -> u64 {
    let (source, rest) = input.split_first_chunk().unwrap();
    let (destination, rest) = rest.split_first_chunk().unwrap();
    flow_v4(seed, *source, *destination, [rest[0], rest[1]], [rest[2], rest[3]], rest[4].into())
}

/// The same of IPv6.
fn v6(seed: [u64; 2], input: [u8; 37]) -> u64 {
    let (source, rest) = input.split_first_chunk().unwrap();
    let (destination, rest) = rest.split_first_chunk().unwrap();
    flow_v6(seed, *source, *destination, [rest[0], rest[1]], [rest[2], rest[3]], rest[4].into())
}

fn bytes<const N: usize>(random: &mut Random) -> [u8; N] {
    std::array::from_fn(|_| random.next().to_le_bytes()[7])
}

/// What one might write first: FNV-1a over the bytes. Its high bits see the last bytes hardly at all.
fn fnv<const N: usize>(seed: [u64; 2], input: [u8; N]) -> u64 {
    input.iter().fold(seed[0], |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The n-th flow of a few neighbouring clients that take one port after the other: what a balancer really sees.
fn sequential(n: u64) -> [u8; 13] {
    let port = u16::try_from(32_768 + n % 28_000).unwrap().to_be_bytes();
    let client = u8::try_from(n / 28_000 + 1).unwrap();
    [10, 0, 0, client, 192, 0, 2, 1, port[0], port[1], 1, 187, 6]
}

fn sequential_v6(n: u64) -> [u8; 37] {
    let [.., high, low] = n.to_be_bytes();
    ipv6_flow([high, low])
}

/// A flow to `2001:db8::1` from the address with these last two bytes beside it.
fn ipv6_flow(client: [u8; 2]) -> [u8; 37] {
    let mut input = [0; 37];
    input[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    input[14..20].copy_from_slice(&[client[0], client[1], 0x20, 0x01, 0x0d, 0xb8]);
    input[31..].copy_from_slice(&[1, 0x80, 0, 1, 187, 6]);
    input
}

/// The farthest that any (input bit, output bit) pair's flip probability is from one half.
fn worst_avalanche<const N: usize>(
    hash: Hash<N>,
    seed: [u64; 2],
    samples: u32,
    mut input: impl FnMut(u64) -> [u8; N],
) -> f64 {
    let mut flips = vec![[0_u32; 64]; N * 8];
    for n in 0..samples {
        let plain = input(u64::from(n));
        let hashed = hash(seed, plain);
        for (bit, flips) in flips.iter_mut().enumerate() {
            let mut flipped = plain;
            flipped[bit / 8] ^= 1 << (bit % 8);
            let difference = hashed ^ hash(seed, flipped);
            for (output, count) in flips.iter_mut().enumerate() {
                *count += u32::from(difference >> output & 1 == 1);
            }
        }
    }
    let distance = |&count: &u32| (f64::from(count) / f64::from(samples) - 0.5).abs();
    flips.as_flattened().iter().map(distance).fold(0.0, f64::max)
}

/// Chi-square of `samples` draws over `cells`, as standard deviations from its mean: within about 5 if uniform.
fn chi_square(cells: usize, samples: u32, mut draw: impl FnMut(u64) -> usize) -> f64 {
    let mut counts = vec![0_u32; cells];
    for n in 0..samples {
        counts[draw(u64::from(n))] += 1;
    }
    let cells = f64::from(u32::try_from(cells).unwrap());
    let expected = f64::from(samples) / cells;
    let sum: f64 = counts.iter().map(|&count| (f64::from(count) - expected).powi(2) / expected).sum();
    (sum - (cells - 1.0)) / (2.0 * (cells - 1.0)).sqrt()
}

fn slot(hash: u64) -> usize {
    slot_of(hash, SLOTS) as usize
}

/// The pair of the top 5 bits of both halves.
fn halves(hash: u64) -> usize {
    usize::try_from(hash >> 59 << 5 | hash >> 27 & 31).unwrap()
}

const SAMPLES: u32 = 25_000;

#[test]
fn every_input_bit_flips_every_output_bit_half_of_the_time() {
    for seed in [SEEDS[1], SEEDS[4]] {
        let mut random = Random(1);
        let v4_random = worst_avalanche(v4, seed, SAMPLES, |_| bytes(&mut random));
        let v4_sequential = worst_avalanche(v4, seed, SAMPLES, sequential);
        let v6_random = worst_avalanche(v6, seed, SAMPLES, |_| bytes(&mut random));
        let v6_sequential = worst_avalanche(v6, seed, SAMPLES, sequential_v6);
        let source = worst_avalanche(source_v4, seed, SAMPLES, |_| bytes(&mut random));
        let source_v6 = worst_avalanche(source_v6, seed, SAMPLES, |_| bytes(&mut random));
        println!(
            "avalanche, farthest from 0.5, seed {seed:x?}: flow_v4 {v4_random:.4} random {v4_sequential:.4} sequential, \
             flow_v6 {v6_random:.4} {v6_sequential:.4}, source_v4 {source:.4}, source_v6 {source_v6:.4}"
        );
        for worst in [v4_random, v4_sequential, v6_random, v6_sequential, source, source_v6] {
            assert!(worst < 0.02, "{worst} with seed {seed:x?}");
        }
    }
    assert!(worst_avalanche(fnv, SEEDS[4], SAMPLES, sequential) > 0.4, "the measure must see a weak hash");
}

#[test]
fn structured_flows_spread_evenly_over_slots() {
    for seed in SEEDS {
        let uniform = [
            ("sequential ports", chi_square(1021, 100_000, |n| slot(v4(seed, sequential(n))))),
            ("sequential IPv6 clients", chi_square(1021, 65_536, |n| slot(v6(seed, sequential_v6(n))))),
            ("every port from one client", chi_square(1021, 65_536, |n| slot(v4(seed, one_client(n))))),
            ("clients of one /12", chi_square(1021, 1 << 20, |n| slot(source_v4(seed, in_a_12(n))))),
            ("IPv6 /64s of one /48", chi_square(1021, 65_536, |n| slot(source_v6(seed, in_a_48(n))))),
        ];
        for (what, deviations) in uniform {
            println!("chi-square, seed {seed:x?}: {what}: {deviations:+.2} standard deviations");
            assert!(deviations.abs() < 5.0, "{what}: {deviations} with seed {seed:x?}");
        }
    }
    let weak = chi_square(1021, 65_536, |n| slot(fnv(SEEDS[4], one_client(n))));
    assert!(weak.abs() > 5.0, "the measure must see a weak hash");
}

/// So few inputs say little under one seed; over many the mean chi-square does.
#[test]
fn a_single_24_spreads_evenly_whatever_the_seed() {
    let mut random = Random(5);
    let mut mean = |hash: fn([u64; 2], [u8; 4]) -> u64| {
        let deviations = (0..500).map(|_| {
            let seed = [random.next(), random.next()];
            chi_square(13, 256, |n| slot_of(hash(seed, in_a_24(n)), 13) as usize)
        });
        deviations.sum::<f64>() / 500.0
    };
    let deviations = mean(source_v4);
    println!("chi-square, 500 seeds: clients of one /24: {deviations:+.3} standard deviations in the mean");
    assert!(deviations.abs() < 0.2);
    assert!(mean(fnv).abs() > 0.2, "the measure must see a weak hash");
}

fn one_client(n: u64) -> [u8; 13] {
    let [.., high, low] = n.to_be_bytes();
    [10, 1, 2, 3, 192, 0, 2, 1, high, low, 1, 187, 6]
}

fn in_a_24(n: u64) -> [u8; 4] {
    let [.., low] = n.to_be_bytes();
    [203, 0, 113, low]
}

fn in_a_12(n: u64) -> [u8; 4] {
    let [.., b, c, d] = n.to_be_bytes();
    [172, 16 + b, c, d]
}

fn in_a_48(n: u64) -> [u8; 16] {
    let [.., high, low] = n.to_be_bytes();
    [0x20, 1, 0xd, 0xb8, 0, 7, high, low, 0, 0, 0, 0, 0, 0, 0, 1]
}

#[test]
fn the_halves_are_independent() {
    for seed in SEEDS {
        let deviations = [
            chi_square(1024, 200_000, |n| halves(v4(seed, sequential(n)))),
            chi_square(1024, 65_536, |n| halves(v6(seed, sequential_v6(n)))),
            chi_square(1024, 1 << 20, |n| halves(source_v4(seed, in_a_12(n)))),
            chi_square(1024, 65_536, |n| halves(source_v6(seed, in_a_48(n)))),
        ];
        println!("independence of the halves, seed {seed:x?}: {deviations:+.2?} standard deviations");
        assert!(deviations.iter().all(|d| d.abs() < 5.0), "{deviations:?} with seed {seed:x?}");
    }
    let doubled = |n| v4(SEEDS[4], sequential(n)) >> 32;
    let weak = chi_square(1024, 200_000, |n| halves(doubled(n) << 32 | doubled(n)));
    assert!(weak > 5.0, "the measure must see equal halves");
}

#[test]
fn different_seeds_choose_unrelated_slots() {
    let pairs = (0..SEEDS.len()).flat_map(|a| (0..a).map(move |b| (SEEDS[a], SEEDS[b])));
    for (a, b) in pairs {
        let both = |x: u64, y: u64| slot_of(x, 31) as usize * 31 + slot_of(y, 31) as usize;
        let flows = chi_square(961, 200_000, |n| both(v4(a, sequential(n)), v4(b, sequential(n))));
        let flows_v6 = chi_square(961, 65_536, |n| both(v6(a, sequential_v6(n)), v6(b, sequential_v6(n))));
        let sources = chi_square(961, 1 << 20, |n| both(source_v4(a, in_a_12(n)), source_v4(b, in_a_12(n))));
        println!("seeds {a:x?}, {b:x?}: {flows:+.2} {flows_v6:+.2} {sources:+.2} standard deviations");
        for deviations in [flows, flows_v6, sources] {
            assert!(deviations.abs() < 5.0, "{deviations} between seeds {a:x?} and {b:x?}");
        }
    }
}

/// Two flows that collide under one seed and part under another can't be aimed. Changes that a multiplicative hash
/// without keys maps to predictable differences (high bits, and pairs of words that could cancel) must not collide.
#[test]
fn no_difference_collides_under_many_seeds() {
    let mut random = Random(7);
    let base: [u8; 37] = bytes(&mut random);
    for (first, second) in (0..37 * 8).flat_map(|a| (0..=a).map(move |b| (a, b))) {
        let mut other = base;
        other[first / 8] ^= 1 << (first % 8);
        if second != first {
            other[second / 8] ^= 1 << (second % 8);
        }
        for _ in 0..8 {
            let seed = [random.next(), random.next()];
            assert_ne!(v6(seed, base) >> 32, v6(seed, other) >> 32, "bits {first} and {second}");
        }
    }
}

/// Nodes of a cluster must agree, through releases too. The values are those of an independent implementation in
/// Python, written from the module's description.
#[test]
fn the_hash_never_changes() {
    let seed = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];
    assert_eq!(v4(seed, [10, 0, 0, 1, 192, 0, 2, 1, 0x80, 0, 1, 187, 6]), 0xffcb_75c8_8e9a_0123);
    assert_eq!(v6(seed, ipv6_flow([0, 1])), 0xc9c0_7621_e82d_4ff3);
    assert_eq!(source_v4(seed, [192, 0, 2, 1]), 0x4a24_b76c_ee47_d0d3);
    assert_eq!(source_v6(seed, in_a_48(1)), 0xc623_cff3_323b_8d47);
}
