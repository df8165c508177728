//! Internet checksums.

use crate::wire::Ipv4;

/// diff
#[derive(Clone, Copy, Debug)]
pub struct Difference(u64);

impl Difference {
    /// none
    pub const NONE: Self = Self(0);

    /// replace
    #[must_use]
    #[inline(always)]
    pub fn replace<const N: usize>(self, old: [u8; N], new: [u8; N]) -> Self {
        let mut sum = self.0;
        let mut i = 0;
        while i + 1 < N {
            sum += u64::from(!u16::from_ne_bytes([old[i], old[i + 1]]));
            sum += u64::from(u16::from_ne_bytes([new[i], new[i + 1]]));
            i += 2;
        }
        Self(sum)
    }

    /// apply
    #[must_use]
    #[inline(always)]
    pub fn apply(self, checksum: [u8; 2]) -> [u8; 2] {
        let sum = self.0 + u64::from(!u16::from_ne_bytes(checksum));
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        (!(sum as u16)).to_ne_bytes()
    }

    /// apply
    #[must_use]
    #[inline(always)]
    pub fn apply_udp(self, checksum: [u8; 2]) -> [u8; 2] {
        if checksum == [0; 2] {
            return checksum;
        }
        match self.apply(checksum) {
            [0, 0] => [0xff, 0xff],
            c => c,
        }
    }
}

/// header
#[must_use]
#[inline(always)]
pub fn ipv4_header(header: &Ipv4) -> [u8; 2] {
    Difference::NONE.replace([0; 20], bytemuck::cast::<Ipv4, [u8; 20]>(*header)).apply([0xff, 0xff])
}
