//! A row's packets: as an independent library builds them, and as the generator is told to.

use std::net::{IpAddr, SocketAddr};

use weir_packets::{
    build::{Packet, TcpFlags, Transport},
    fixtures::Family,
    world::Mode,
};

use super::{
    rows::{Kind, Row},
    world::{self, BACKEND_PORT, PORT},
};
use crate::recipe::{FIELDS, FIRST_WORD, FRAME_LEN, Flow, Flows, OUTER_V4, OUTER_V6, PATCHES, Patch, Recipe, WORDS};

/// Bytes of an Ethernet header.
const ETHERNET_LEN: usize = 14;

/// First port of clients.
const FIRST_PORT: u16 = 1024;

/// The address after the VIPs' network that non-VIP packets are sent to: beyond any service.
const NOBODY: u32 = 0xff00;

/// The flows of `row`.
#[must_use]
pub fn flows(row: &Row) -> Flows {
    let size = row.setting.size;
    let (first_server, servers) = match row.kind {
        Kind::Ack | Kind::Syn | Kind::Udp => (1, u32::from(size.services)),
        Kind::Reply => (1, u32::from(size.services) * u32::from(size.backends)),
        Kind::Foreign => (NOBODY, 1),
    };
    Flows { bits: row.flow_bits, first_client: 1, first_port: FIRST_PORT.into(), first_server, servers }
}

/// The packet of `flow`, [`FRAME_LEN`] bytes long.
#[must_use]
pub fn frame(row: &Row, flow: Flow) -> Vec<u8> {
    let family = row.setting.family;
    let endpoint = |network, number: u16, port| SocketAddr::new(world::address(network, number.into()), port);
    let client = endpoint(world::clients(family), flow.client, flow.port);
    let (source, destination) = match row.kind {
        Kind::Reply => (endpoint(world::backends(family), flow.server, BACKEND_PORT), client),
        Kind::Ack | Kind::Syn | Kind::Udp | Kind::Foreign => (client, endpoint(world::vips(family), flow.server, PORT)),
    };
    let flags = match row.kind {
        Kind::Syn => TcpFlags { syn: true, ..TcpFlags::default() },
        _ => TcpFlags { ack: true, ..TcpFlags::default() },
    };
    let transport = match row.kind {
        Kind::Udp => Transport::Udp,
        _ => Transport::Tcp(flags, Vec::new()),
    };
    Packet::between(source, destination, transport).ip_length(FRAME_LEN - ETHERNET_LEN).bytes()
}

/// What the floor "parse + fixed encapsulation" makes of `frame`, a packet of `row`.
#[must_use]
pub fn encapsulated(row: &Row, frame: &[u8]) -> Vec<u8> {
    let (outer, protocol): ([IpAddr; 2], _) = match row.setting.family {
        Family::V4 => (OUTER_V4.map(IpAddr::from), 4),
        Family::V6 => (OUTER_V6.map(IpAddr::from), 41),
    };
    let [source, destination] = outer.map(|address| address.to_string());
    Packet::other(&source, &destination, Transport::Other(protocol)).payload(&frame[ETHERNET_LEN..]).bytes()
}

/// What the floor "MAC swap" makes of `frame`.
#[must_use]
pub fn mac_swapped(frame: &[u8]) -> Vec<u8> {
    [&frame[6..12], &frame[..6], &frame[12..]].concat()
}

/// Where the fields are that differ from packet to packet.
struct Places {
    client: usize,
    port: usize,
    server: usize,
    /// Of the IPv4 header's checksum.
    ip_checksum: Option<usize>,
    transport_checksum: usize,
}

impl Places {
    fn of(row: &Row) -> Self {
        let (addresses, address_len) = match row.setting.family {
            Family::V4 => (ETHERNET_LEN + 12, 4),
            Family::V6 => (ETHERNET_LEN + 8, 16),
        };
        // The last two bytes of each address; ports follow.
        let (source, destination) = (addresses + address_len - 2, addresses + 2 * address_len - 2);
        let transport = destination + 2;
        let (client, server, port) = match row.kind {
            Kind::Reply => (destination, source, transport + 2),
            Kind::Ack | Kind::Syn | Kind::Udp | Kind::Foreign => (source, destination, transport),
        };
        Self {
            client,
            port,
            server,
            ip_checksum: (row.setting.family == Family::V4).then_some(ETHERNET_LEN + 10),
            transport_checksum: transport + if row.kind == Kind::Udp { 6 } else { 16 },
        }
    }

    /// In the order of [`Patch::units`].
    const fn fields(&self) -> [Option<usize>; FIELDS] {
        [Some(self.client), Some(self.port), Some(self.server), self.ip_checksum, Some(self.transport_checksum)]
    }
}

/// How the generator makes the packets of `row`.
#[must_use]
pub fn recipe(row: &Row) -> Recipe {
    let places = Places::of(row);
    // Checksums of a packet whose fields are 0 are sums of all that does not differ.
    let mut frame = frame(row, Flow { client: 0, port: 0, server: 0 });
    let mut take = |place: usize| {
        let taken = u16::from_le_bytes([frame[place], frame[place + 1]]);
        frame[place..place + 2].fill(0);
        u32::from(!taken)
    };
    let ip_sum = places.ip_checksum.map_or(0, &mut take);
    let transport_sum = take(places.transport_checksum);

    let (head, rest) = frame.split_at(FIRST_WORD);
    let (words, tail) = rest.split_at(8 * WORDS);
    let words: [u64; WORDS] = std::array::from_fn(|at| word(&words[8 * at..][..8]));
    Recipe {
        head: word(head) << 16,
        words,
        tail: word(tail),
        patches: patches(&places.fields(), &words),
        ip_sum,
        transport_sum,
        transport_zero: if row.kind == Kind::Udp { 0xffff } else { 0 },
        flows: flows(row),
    }
}

/// The words that `fields` are in, each once; the last one repeated if there are fewer.
fn patches(fields: &[Option<usize>; FIELDS], words: &[u64; WORDS]) -> [Patch; PATCHES] {
    let mut patches: Vec<Patch> = Vec::new();
    for (at, place) in fields.iter().enumerate() {
        let Some(place) = place else { continue };
        let (index, within) = ((place - FIRST_WORD) / 8, (place - FIRST_WORD) % 8);
        let offset = (FIRST_WORD + 8 * index) as u64;
        let known = patches.iter().position(|patch| patch.offset == offset).unwrap_or_else(|| {
            patches.push(Patch { offset, word: words[index], ..Patch::default() });
            patches.len() - 1
        });
        patches[known].units[at] = 1 << (8 * within);
    }
    std::array::from_fn(|at| patches[at.min(patches.len() - 1)])
}

/// At most eight bytes as a little-endian number.
fn word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

/// Whether `row` can be made: backends and services have to fit into the last 16 bits of an address.
#[must_use]
pub fn fits(row: &Row) -> bool {
    let flows = flows(row);
    let highest = flows.first_server + flows.servers - 1;
    u16::try_from(highest).is_ok() && (row.kind != Kind::Reply || row.setting.mode == Mode::Nat)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::{packet::rows, recipe::scramble};

    #[test]
    fn scrambling_is_a_bijection_at_every_size() {
        for bits in 0..=20 {
            let numbers: BTreeSet<u32> = (0..1 << bits).map(|position| scramble(position, bits)).collect();
            assert_eq!(numbers.len(), 1 << bits, "{bits} bits");
            assert_eq!(numbers.last(), Some(&((1 << bits) - 1)), "{bits} bits");
        }
    }

    #[test]
    fn scrambling_leaves_no_step_for_a_prefetcher() {
        let mut steps = BTreeMap::new();
        for position in 0..1 << 16 {
            let step = scramble(position + 1, 16).wrapping_sub(scramble(position, 16));
            *steps.entry(step).or_insert(0) += 1;
        }
        let most = steps.values().max().unwrap();
        assert!(*most < 1 << 12, "one step is taken {most} times of 65,536");
    }

    #[test]
    fn flows_are_all_different_and_spread_over_all_servers() {
        for row in rows::all() {
            let flows = flows(&row);
            let all: BTreeSet<Flow> = (0..1 << row.flow_bits).map(|position| flows.at(position)).collect();
            assert_eq!(all.len(), 1 << row.flow_bits, "{row}");
            let servers: BTreeSet<u16> = all.iter().map(|flow| flow.server).collect();
            assert_eq!(servers.len(), (flows.servers as usize).min(1 << row.flow_bits), "{row}");
            assert_eq!(servers.first().map(|first| u32::from(*first)), Some(flows.first_server), "{row}");
        }
    }

    #[test]
    fn every_row_fits() {
        for row in rows::all() {
            assert!(fits(&row), "{row}");
            assert_eq!(frame(&row, flows(&row).at(0)).len(), FRAME_LEN, "{row}");
        }
    }

    /// The kernel's generator is compared with the library's packets in each run; this is about the recipe alone.
    #[test]
    fn a_recipe_makes_what_the_packet_library_makes() {
        for row in rows::all() {
            let recipe = recipe(&row);
            for position in [0, 1, 77, 1 << 15] {
                let flow = recipe.flows.at(position);
                assert_eq!(cook(&recipe, flow), frame(&row, flow), "{row} at {position}");
            }
        }
    }

    fn cook(recipe: &Recipe, flow: Flow) -> Vec<u8> {
        let [client, port, server] = [flow.client, flow.port, flow.server].map(|field| u32::from(field.to_be()));
        let [ip_checksum, transport_checksum] = recipe.checksums(client, port, server);
        let mut bytes = recipe.head.to_le_bytes()[2..].to_vec();
        bytes.extend(recipe.words.iter().flat_map(|word| word.to_le_bytes()));
        bytes.extend(&recipe.tail.to_le_bytes()[..2]);
        for patch in &recipe.patches {
            let fields = [client, port, server, ip_checksum, transport_checksum];
            let units = fields.iter().zip(patch.units);
            let word = units.fold(patch.word, |word, (field, unit)| word + u64::from(*field) * unit);
            let offset = usize::try_from(patch.offset).unwrap();
            bytes[offset..offset + 8].copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}
