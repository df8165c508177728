//! What the generator makes packets from. Compiled into the eBPF programs and, as it is, into the host's side, so that
//! both mean the same packet by the same position.

use bytemuck::{Pod, Zeroable};

/// Length of every packet, bytes; all of it is written anew for each packet.
pub const FRAME_LEN: usize = 128;

/// Bytes in front of the frame when a run begins.
///
/// With two of them the IP header, which follows 14 bytes of Ethernet, starts at a multiple of eight. Every field of IP
/// and above is then aligned, as drivers on machines without unaligned access have it.
pub const FRONT: usize = 2;

/// Where the first 64-bit word of a frame starts. With [`FRONT`] it is aligned, and no header field that programs read
/// lies in two words: a read that takes from two stores waits until both have left the store buffer, which a
/// packet from a network card never makes anybody do.
pub const FIRST_WORD: usize = 6;

/// 64-bit words of a frame, from [`FIRST_WORD`] on; two bytes are left over at the end.
pub const WORDS: usize = 15;

/// Words that differ from packet to packet: at most as many as hold addresses, ports and checksums.
pub const PATCHES: usize = 4;

/// Flows that differ in their port alone; those beyond differ in the client's address too.
const PORTS_BITS: u32 = 8;

/// Identification of the fixed encapsulation of IPv4: what the host's packet library writes there.
pub const OUTER_ID: u16 = 0x1d1d;
/// MAC addresses of the fixed encapsulation: destination and source.
pub const OUTER_MACS: [[u8; 6]; 2] = [[0x02, 0, 0, 0, 0, 0xfe], [0x02, 0, 0, 0, 0, 0x01]];
/// Source and destination of the fixed encapsulation of IPv4.
pub const OUTER_V4: [[u8; 4]; 2] = [[198, 51, 100, 1], [198, 51, 100, 2]];
/// Source and destination of the fixed encapsulation of IPv6.
pub const OUTER_V6: [[u8; 16]; 2] = [
    [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
    [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2],
];

/// Everything that the generator knows of the packets of a row. 64-bit words are little-endian, as they lie in the frame.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Recipe {
    /// The frame's first six bytes, after two bytes of nothing.
    pub head: u64,
    /// The frame from [`FIRST_WORD`] on, with 0 in every field that differs from packet to packet.
    pub words: [u64; WORDS],
    /// The frame's last two bytes, before six bytes of nothing.
    pub tail: u64,
    /// The words with such fields; one that is not needed repeats another.
    pub patches: [Patch; PATCHES],
    /// Sum of the IPv4 header (RFC 1071, not complemented) but for those fields.
    pub ip_sum: u32,
    /// The same of the transport header, its pseudo-header and its payload.
    pub transport_sum: u32,
    /// What stands in place of a transport checksum of 0, which means "none" in UDP: 0 itself or 0xffff, the same number.
    pub transport_zero: u32,
    /// Which clients and servers.
    pub flows: Flows,
}

/// A word that differs from packet to packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Patch {
    /// Where it starts, in bytes from the frame's start.
    pub offset: u64,
    /// What it holds beside the fields.
    pub word: u64,
    /// What each field is multiplied by to stand in its place, 0 if that is not in this word: client, port, server,
    /// IPv4 checksum, transport checksum.
    pub units: [u64; FIELDS],
}

/// Fields that differ from packet to packet.
pub const FIELDS: usize = 5;

/// The flows of a row.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Flows {
    /// Number of flows, as a power of two; at most 24, beyond which clients repeat.
    pub bits: u32,
    /// Last 16 bits of the first client's address.
    pub first_client: u32,
    /// First port of clients.
    pub first_port: u32,
    /// Last 16 bits of the first server's address.
    pub first_server: u32,
    /// Number of servers, at most 65,536: flows are spread evenly over them.
    pub servers: u32,
}

/// What distinguishes a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Flow {
    /// Last 16 bits of the client's address.
    pub client: u16,
    /// The client's port.
    pub port: u16,
    /// Last 16 bits of the server's address.
    pub server: u16,
}

impl Flows {
    /// The flow of the packet at `position`. Any 2^bits packets in a row, from a multiple of that on, are of all flows.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "addresses wrap within 16 bits")]
    pub const fn at(&self, position: u32) -> Flow {
        let flow = scramble(position, self.bits);
        let server = (flow as u64 * self.servers as u64).wrapping_shr(self.bits) as u32;
        Flow {
            client: self.first_client.wrapping_add(flow >> PORTS_BITS) as u16,
            port: self.first_port.wrapping_add(flow & ((1 << PORTS_BITS) - 1)) as u16,
            server: self.first_server.wrapping_add(server) as u16,
        }
    }
}

/// Puts the numbers below 2^bits into an order that no prefetcher knows: a bijection of the low `bits` bits, at most 31,
/// of `position`. Each of its steps can be undone.
#[inline(always)]
#[must_use]
pub const fn scramble(position: u32, bits: u32) -> u32 {
    let mask = 1_u32.wrapping_shl(bits).wrapping_sub(1);
    let half = bits.wrapping_add(1) >> 1;
    let x = position & mask;
    let x = (x ^ x.wrapping_shr(half)).wrapping_mul(0x9e37_79b1) & mask;
    let x = (x ^ x.wrapping_shr(half)).wrapping_mul(0x85eb_ca6b) & mask;
    x ^ x.wrapping_shr(half)
}

impl Recipe {
    /// The IPv4 header's checksum and the transport header's, in packet order, in packets whose differing fields are
    /// `client`, `port` and `server`, in packet order too.
    #[inline(always)]
    #[must_use]
    pub const fn checksums(&self, client: u32, port: u32, server: u32) -> [u32; 2] {
        let transport = match checksum(self.transport_sum + client + port + server) {
            0 => self.transport_zero,
            checksum => checksum,
        };
        [checksum(self.ip_sum + client + server), transport]
    }
}

/// A checksum from a sum of 16-bit words (RFC 1071).
#[inline(always)]
#[must_use]
pub const fn checksum(sum: u32) -> u32 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !sum & 0xffff
}

const _: () = {
    assert!(FIRST_WORD + WORDS * 8 + 2 == FRAME_LEN);
    assert!((FRONT + FIRST_WORD).is_multiple_of(8));
};
