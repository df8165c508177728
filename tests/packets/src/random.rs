//! Frames that nobody would send on purpose, the same ones for the same seed.

use fastrand::Rng;

/// Endless broken frames: mutations of `valid` frames, and noise that looks more or less like IP.
///
/// # Panics
/// If `valid` is empty.
pub fn frames(seed: u64, valid: Vec<Vec<u8>>) -> impl Iterator<Item = Vec<u8>> {
    assert!(!valid.is_empty(), "there is nothing to mutate");
    let mut rng = Rng::with_seed(seed);
    std::iter::repeat_with(move || match rng.u8(..8) {
        0 => noise(&mut rng),
        1 => ip_noise(&mut rng),
        2 => short_noise(&mut rng),
        _ => mutation(&mut rng, &valid),
    })
}

/// Random bytes of a random length, from nothing to more than an MTU.
fn noise(rng: &mut Rng) -> Vec<u8> {
    let length = rng.usize(..1600);
    bytes(rng, length)
}

/// Random bytes of the lengths at which headers are just there or just not: 14 to 64.
fn short_noise(rng: &mut Rng) -> Vec<u8> {
    let length = rng.usize(14..=64);
    let mut frame = bytes(rng, length);
    claim_ip(rng, &mut frame);
    frame
}

/// Random bytes behind a unicast Ethernet header and the first byte of an IP header.
fn ip_noise(rng: &mut Rng) -> Vec<u8> {
    let length = rng.usize(34..600);
    let mut frame = bytes(rng, length);
    claim_ip(rng, &mut frame);
    if frame[14] >> 4 == 4 && rng.bool() {
        // A sound length and no fragment, so that the transport header is looked at.
        let total = u16::try_from(length - 14).unwrap_or(u16::MAX).to_be_bytes();
        frame[16..18].copy_from_slice(&total);
        frame[20..22].copy_from_slice(&[0x40, 0]);
        frame[23] = if rng.bool() { 6 } else { 17 };
    }
    frame
}

fn claim_ip(rng: &mut Rng, frame: &mut [u8]) {
    let (ether_type, version) = if rng.bool() { ([0x08, 0x00], 4) } else { ([0x86, 0xdd], 6) };
    frame[0] &= !1;
    frame[12..14].copy_from_slice(&ether_type);
    if let Some(first) = frame.get_mut(14) {
        *first = version << 4 | if rng.u8(..4) == 0 { rng.u8(..16) } else { 5 };
    }
}

/// A valid frame after one to three accidents.
fn mutation(rng: &mut Rng, valid: &[Vec<u8>]) -> Vec<u8> {
    let mut frame = valid[rng.usize(..valid.len())].clone();
    for _ in 0..rng.u8(1..=3) {
        if !frame.is_empty() {
            accident(rng, &mut frame);
        }
    }
    frame
}

fn accident(rng: &mut Rng, frame: &mut Vec<u8>) {
    // Headers are where accidents matter: most of them happen there.
    let reach = if rng.u8(..4) == 0 { frame.len() } else { frame.len().min(80) };
    let at = rng.usize(..reach);
    match rng.u8(..6) {
        0 | 1 => frame[at] ^= 1 << rng.u8(..8),
        2 => frame[at] = rng.u8(..),
        3 => frame[at] = if rng.bool() { 0 } else { 0xff },
        4 => frame.truncate(at),
        _ => {
            let length = rng.usize(1..64);
            frame.extend(bytes(rng, length));
        }
    }
}

fn bytes(rng: &mut Rng, length: usize) -> Vec<u8> {
    std::iter::repeat_with(|| rng.u8(..)).take(length).collect()
}

#[cfg(test)]
mod tests {
    use super::frames;

    #[test]
    fn a_seed_gives_the_same_frames_every_time() {
        let some = |seed| frames(seed, vec![vec![0; 60]]).take(100).collect::<Vec<_>>();
        assert_eq!(some(1), some(1));
        assert_ne!(some(1), some(2));
    }
}
