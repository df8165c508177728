//! The balancer's maps. Their names are what the controller finds them by; it sets their sizes at load.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_NOEXIST},
    helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns},
    macros::map,
    maps::{Array, DevMap, HashMap, LpmTrie, lpm_trie::Key},
    programs::XdpContext,
};
use lb_common::{
    abi::{
        BackendEntry, Egress, EndpointV4, EndpointV6, Explanation, FlowEntry, FlowKeyV4, FlowKeyV6, HANDSHAKES,
        Handshake, NO_BACKEND, NextHop, OuterV4, OuterV6, RING_ENTRIES, Reverse, Ring, ServiceEntry, Settings,
        SlotWord, WantedNeighbour, explained, fixed::FixedTable,
    },
    hash,
    reason::Reason,
    schedule,
    tables::{Step, Tables},
    tracking::FlowEvent,
};

use crate::{
    counters::Counters,
    endpoints::{find_reverse, find_service},
    flows::{self, KernelEntry, fetch_add},
    memory::Table,
};

/// What the controller loaded this program with; replaced before loading, constant to the verifier.
#[unsafe(no_mangle)]
static LOADED_SETTINGS: Settings = Settings {
    abi_version: 0,
    pad: 0,
    seed: [0; 2],
    outer_v4: OuterV4 { network: 0, host_mask: 0 },
    outer_v6: OuterV6 { network_high: 0, network_low: 0, host_mask: 0 },
};

/// The same, for the controllers to come: it describes the maps that it is pinned with.
#[map]
static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);

/// What may be in the maps below: bits of [`lb_common::abi::kinds`].
static KINDS: Table<u64, { FixedTable::Kinds as u32 }> = Table::new();

#[map]
static VIPS_V4: HashMap<[u8; 4], u8> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);
#[map]
static VIPS_V6: HashMap<[u8; 16], u8> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);

#[map]
static SLOTS: Array<SlotWord> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The slots' places, see [`lb_common::abi::steady`].
static STEADY: Table<u64, { FixedTable::Steady as u32 }> = Table::new();

// Mapped memory starts on a page, so that each 32-byte entry is half a cache line.
pub static BACKENDS: Table<BackendEntry, { FixedTable::Backends as u32 }> = Table::new();

/// What schedulers other than the slots draw from, by service id.
#[map]
static RINGS: Array<Ring> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// How often each service was drawn from in turn.
#[map]
static TURNS: Array<u64> = Array::with_max_entries(1, 0);

/// Live entries of the flow tables, by backend id.
#[map]
static FLOW_COUNTS: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Handshakes under way, where they are timed.
#[map]
static HANDSHAKES_OPEN: Array<Handshake> = Array::with_max_entries(HANDSHAKES, 0);

#[map]
static ROUTES_V4: LpmTrie<[u8; 4], NextHop> = LpmTrie::with_max_entries(1, 0);
#[map]
static ROUTES_V6: LpmTrie<[u8; 16], NextHop> = LpmTrie::with_max_entries(1, 0);

static EGRESSES: Table<Egress, { FixedTable::Egresses as u32 }> = Table::new();
#[map]
static DEVICES: DevMap = DevMap::with_max_entries(1, 0);

/// Clients on connected networks whose MAC address is needed; small, filled here and emptied by the controller.
#[map]
static WANTED_NEIGHBOURS: HashMap<WantedNeighbour, u8> = HashMap::with_max_entries(256, 0);

/// Sends the packet out of the device at egress `index`.
#[inline(always)]
pub fn redirect(index: u16) -> Result<u32, u32> {
    DEVICES.redirect(u32::from(index), 0)
}

/// Not 0 in the copy that only explains: it changes no counter and no flow, and says what it saw. Replaced before loading,
/// constant to the verifier, which removes what is not reached.
#[unsafe(no_mangle)]
static EXPLAINING: u32 = 0;

/// What the explaining copy saw last.
#[map]
static EXPLANATION: Array<Explanation> = Array::with_max_entries(1, 0);

/// Whether this is the explaining copy.
#[inline(always)]
pub fn explaining() -> bool {
    // SAFETY: reads a static of the program; volatile, since the loader replaces the value that the compiler sees.
    unsafe { core::ptr::read_volatile(&raw const EXPLAINING) != 0 }
}

/// Adds to the explanation.
#[inline(always)]
pub fn explain(add: impl FnOnce(&mut Explanation)) {
    if let Some(explanation) = EXPLANATION.get_ptr_mut(0) {
        // SAFETY: the pointer is to a whole element, and the explaining copy runs for one packet at a time.
        add(unsafe { &mut *explanation });
    }
}

#[inline(always)]
fn explain_reason(reason: Reason) {
    if explaining() {
        explain(|explanation| explanation.reason = reason as u32);
    }
}

macro_rules! loaded {
    ($field:ident) => {
        // SAFETY: reads a static of the program; volatile, since the loader replaces the value that the compiler sees.
        unsafe { core::ptr::read_volatile(&raw const LOADED_SETTINGS.$field) }
    };
}

/// What a service's scheduler draws from its ring.
///
/// A global function to the verifier, which looks through its loops once, and not once for every way that leads here.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weir_draw(service: u32, choice: u32, length: u32) -> u32 {
    schedule::draw(&KernelTables(None), service, choice, length)
}

/// A key on the stack, which the verifier lets be written in aligned words only. The compiler, which knows that the kernel
/// reads and writes packets and maps unaligned, takes care of that only where the type says so.
#[repr(align(8))]
struct Aligned<K>(K);

impl<K> Aligned<K> {
    #[inline(always)]
    const fn key(&self) -> &K {
        &self.0
    }
}

/// The key of a route, with its address aligned.
#[repr(C, align(8))]
struct RouteKey<A> {
    pad: u32,
    key: Key<A>,
}

impl<A> RouteKey<A> {
    #[inline(always)]
    const fn new(bits: u32, address: A) -> Self {
        Self { pad: 0, key: Key::new(bits, address) }
    }
}

/// The maps, as the packet path sees them for one packet.
pub struct KernelTables<'a>(
    /// The packet's context, where there is a packet.
    pub Option<&'a XdpContext>,
);

/// Counts, unless this is the copy that only explains.
#[inline(always)]
fn count(add: impl FnOnce(Counters)) {
    if !explaining()
        && let Some(counters) = Counters::of_this_cpu()
    {
        add(counters);
    }
}

impl Tables for KernelTables<'_> {
    type Entry<'a>
        = KernelEntry
    where
        Self: 'a;
    type Service = &'static ServiceEntry;
    type Backend = &'static BackendEntry;

    #[inline(always)]
    fn seed(&self) -> [u64; 2] {
        loaded!(seed)
    }

    #[inline(always)]
    fn outer_v4(&self) -> OuterV4 {
        loaded!(outer_v4)
    }

    #[inline(always)]
    fn outer_v6(&self) -> OuterV6 {
        loaded!(outer_v6)
    }

    #[inline(always)]
    fn ingress_ifindex(&self) -> u32 {
        // SAFETY: the context is the kernel's own.
        self.0.map_or(0, |context| unsafe { (*context.ctx).ingress_ifindex })
    }

    #[inline(always)]
    fn kinds(&self) -> u64 {
        KINDS.get(0).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn service_v4(&self, key: &EndpointV4) -> Option<Self::Service> {
        find_service(hash::endpoint_v4(self.seed(), key), |entry| entry.is_at_v4(key))
    }

    #[inline(always)]
    fn service_v6(&self, key: &EndpointV6) -> Option<Self::Service> {
        find_service(hash::endpoint_v6(self.seed(), key), |entry| entry.is_at_v6(key))
    }

    #[inline(always)]
    fn is_vip_v4(&self, address: [u8; 4]) -> bool {
        VIPS_V4.get_ptr(Aligned(address).key()).is_some()
    }

    #[inline(always)]
    fn is_vip_v6(&self, address: [u8; 16]) -> bool {
        VIPS_V6.get_ptr(Aligned(address).key()).is_some()
    }

    #[inline(always)]
    fn steady(&self, entry: &ServiceEntry, offset: u32) -> u32 {
        // What is explained is the slot.
        if explaining() {
            return NO_BACKEND;
        }
        let place = entry.steady.place(entry.service.first_slot, offset);
        STEADY.get(place.element()).map_or(NO_BACKEND, |word| entry.steady.backend(place, *word))
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<SlotWord> {
        SLOTS.get(index).copied()
    }

    #[inline(always)]
    fn backend(&self, id: u32) -> Option<Self::Backend> {
        BACKENDS.get(id)
    }

    #[inline(always)]
    fn flow_v4(&self, key: &FlowKeyV4, hash: u32) -> Option<KernelEntry> {
        flows::find_v4(key, hash)
    }

    #[inline(always)]
    fn flow_v6(&self, key: &FlowKeyV6, hash: u32) -> Option<KernelEntry> {
        flows::find_v6(key, hash)
    }

    #[inline(always)]
    fn insert_flow_v4(&self, key: &FlowKeyV4, hash: u32, entry: &FlowEntry) -> bool {
        flows::insert_v4(key, hash, entry)
    }

    #[inline(always)]
    fn insert_flow_v6(&self, key: &FlowKeyV6, hash: u32, entry: &FlowEntry) -> bool {
        flows::insert_v6(key, hash, entry)
    }

    #[inline(always)]
    fn live_flows(&self, backend: u32) -> u64 {
        FLOW_COUNTS.get(backend).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn count_live(&self, backend: u32, more: bool) {
        if !explaining() {
            fetch_add(&FLOW_COUNTS, backend, if more { 1 } else { u64::MAX });
        }
    }

    #[inline(always)]
    fn count_event(&self, event: FlowEvent) {
        count(|counters| counters.count_event(event));
    }

    #[inline(always)]
    fn ring(&self, service: u32, place: u32) -> u32 {
        // The verifier understands a mask, and loses track of a comparison.
        let place = (place & (RING_ENTRIES - 1)) as usize;
        RINGS.get(service).and_then(|ring| ring.backends.get(place)).copied().unwrap_or(NO_BACKEND)
    }

    #[inline(always)]
    fn draw(&self, service: u32, choice: u32, length: u32) -> u32 {
        weir_draw(service, choice, length)
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "its low bits count up as well")]
    fn turn(&self, service: u32) -> u32 {
        fetch_add(&TURNS, service, u64::from(!explaining())) as u32
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: the helper takes nothing.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "seconds since boot fit for 136 years")]
    fn now(&self) -> u32 {
        // SAFETY: the helper takes nothing.
        (unsafe { bpf_ktime_get_coarse_ns() } / 1_000_000_000) as u32
    }

    #[inline(always)]
    fn now_nanoseconds(&self) -> u64 {
        // SAFETY: the helper takes nothing.
        unsafe { bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn handshake(&self, place: u32) -> Option<Handshake> {
        HANDSHAKES_OPEN.get(place).copied()
    }

    #[inline(always)]
    fn set_handshake(&self, place: u32, handshake: Handshake) {
        if let Some(slot) = HANDSHAKES_OPEN.get_ptr_mut(place).filter(|_| !explaining()) {
            // SAFETY: the pointer is to a whole element. Another CPU may write to it at the same time: what is mixed of two
            // handshakes has the flow of one and the time of another within the same instant.
            unsafe { slot.write(handshake) }
        }
    }

    #[inline(always)]
    fn count_handshake(&self, backend: u32, nanoseconds: u64) {
        count(|counters| counters.count_handshake(backend, nanoseconds));
    }

    #[inline(always)]
    fn reverse_v4(&self, key: &EndpointV4) -> Option<Reverse> {
        find_reverse(hash::endpoint_v4(self.seed(), key), |backend, service| backend.is_behind_v4(key, service))
    }

    #[inline(always)]
    fn reverse_v6(&self, key: &EndpointV6) -> Option<Reverse> {
        find_reverse(hash::endpoint_v6(self.seed(), key), |backend, service| backend.is_behind_v6(key, service))
    }

    #[inline(always)]
    fn route_v4(&self, address: [u8; 4]) -> Option<NextHop> {
        ROUTES_V4.get(&RouteKey::new(32, address).key).copied()
    }

    #[inline(always)]
    fn route_v6(&self, address: [u8; 16]) -> Option<NextHop> {
        ROUTES_V6.get(&RouteKey::new(128, address).key).copied()
    }

    #[inline(always)]
    fn egress(&self, index: u16) -> Option<Egress> {
        EGRESSES.get(u32::from(index)).copied()
    }

    #[inline(always)]
    fn want_neighbour(&self, address: [u8; 16], family: u8) {
        if explaining() {
            return;
        }
        // A full map is no loss: the controller empties it several times a second, and clients send again.
        let _ = WANTED_NEIGHBOURS.insert(Aligned(WantedNeighbour { address, family }).key(), 0, u64::from(BPF_NOEXIST));
    }

    #[inline(always)]
    fn count_reason(&self, reason: Reason) {
        explain_reason(reason);
        count(|counters| counters.count_reason(reason));
    }

    #[inline(always)]
    fn count_forwarded(&self, reason: Reason, service: u32, backend: u32, bytes: u32, opens: bool) {
        explain_reason(reason);
        count(|counters| {
            counters.count_reason(reason);
            counters.count_forwarded(service, backend, bytes, opens);
        });
    }

    #[inline(always)]
    fn count_replied(&self, reason: Reason, service: u32, backend: u32, bytes: u32) {
        explain_reason(reason);
        count(|counters| {
            counters.count_reason(reason);
            counters.count_replied(service, backend, bytes);
        });
    }

    #[inline(always)]
    fn note(&self, step: Step) {
        if explaining() {
            explain(|explanation| match step {
                Step::Slot { service, index, word } => {
                    (explanation.service, explanation.slot, explanation.slot_word) = (service, index, word.0);
                    explanation.seen |= explained::SLOT;
                }
                Step::Choice(backend) => {
                    explanation.chosen = backend;
                    explanation.seen |= explained::CHOICE;
                }
                Step::Backend(backend) => {
                    explanation.backend = backend;
                    explanation.seen |= explained::BACKEND;
                }
                Step::Reply(backend) => {
                    explanation.backend = backend;
                    explanation.seen |= explained::BACKEND | explained::REPLY;
                }
            });
        }
    }
}
