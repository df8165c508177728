//! The balancer's maps. Their names are what the controller finds them by; it sets their sizes at load.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_NOEXIST},
    macros::map,
    maps::{Array, DevMap, HashMap, LpmTrie, PerCpuArray, lpm_trie::Key},
    programs::XdpContext,
};
use lb_common::{
    abi::{
        Backend, Egress, EndpointV4, EndpointV6, NextHop, OuterV4, OuterV6, REASON_COUNTERS, Reverse, Service,
        Settings, SlotWord, Traffic, WantedNeighbour,
    },
    pipeline::Tables,
    reason::Reason,
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

// Values of hash maps without preallocation are freed after a grace period, so a value that is removed while a packet
// reads it stays what it was.
#[map]
static SERVICES_V4: HashMap<EndpointV4, Service> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);
#[map]
static SERVICES_V6: HashMap<EndpointV6, Service> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);

#[map]
static SLOTS: Array<SlotWord> = Array::with_max_entries(1, BPF_F_MMAPABLE);

// Mapped memory starts on a page, so that each 64-byte entry is one cache line.
#[map]
static BACKENDS: Array<Backend> = Array::with_max_entries(1, BPF_F_MMAPABLE);

#[map]
static REVERSE_V4: HashMap<EndpointV4, Reverse> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);
#[map]
static REVERSE_V6: HashMap<EndpointV6, Reverse> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);

#[map]
static ROUTES_V4: LpmTrie<[u8; 4], NextHop> = LpmTrie::with_max_entries(1, 0);
#[map]
static ROUTES_V6: LpmTrie<[u8; 16], NextHop> = LpmTrie::with_max_entries(1, 0);

#[map]
static EGRESSES: Array<Egress> = Array::with_max_entries(1, 0);
#[map]
static DEVICES: DevMap = DevMap::with_max_entries(1, 0);

/// Clients on connected networks whose MAC address is needed; small, filled here and emptied by the controller.
#[map]
static WANTED_NEIGHBOURS: HashMap<WantedNeighbour, u8> = HashMap::with_max_entries(256, 0);

#[map]
static SERVICE_TRAFFIC: PerCpuArray<Traffic> = PerCpuArray::with_max_entries(1, 0);
#[map]
static BACKEND_TRAFFIC: PerCpuArray<Traffic> = PerCpuArray::with_max_entries(1, 0);

/// Packets by [`Reason`] number.
#[map]
static REASONS: PerCpuArray<u64> = PerCpuArray::with_max_entries(REASON_COUNTERS, 0);

/// Counts one packet for `reason`.
#[inline(always)]
pub fn count_reason(reason: Reason) {
    if let Some(counter) = REASONS.get_ptr_mut(reason as u32) {
        // SAFETY: the pointer is to this CPU's copy, and programs on one CPU don't interrupt each other.
        unsafe { *counter += 1 }
    }
}

/// Sends the packet out of the device at egress `index`.
#[inline(always)]
pub fn redirect(index: u16) -> Result<u32, u32> {
    DEVICES.redirect(u32::from(index), 0)
}

#[inline(always)]
fn with_traffic(map: &PerCpuArray<Traffic>, index: u32, count: impl FnOnce(&mut Traffic)) {
    if let Some(traffic) = map.get_ptr_mut(index) {
        // SAFETY: the pointer is to this CPU's copy, and programs on one CPU don't interrupt each other.
        count(unsafe { &mut *traffic });
    }
}

macro_rules! loaded {
    ($field:ident) => {
        // SAFETY: reads a static of the program; volatile, since the loader replaces the value that the compiler sees.
        unsafe { core::ptr::read_volatile(&raw const LOADED_SETTINGS.$field) }
    };
}

/// The maps, as the packet path sees them for one packet.
pub struct KernelTables<'a>(pub &'a XdpContext);

impl Tables for KernelTables<'_> {
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
        unsafe { (*self.0.ctx).ingress_ifindex }
    }

    #[inline(always)]
    fn service_v4(&self, key: &EndpointV4) -> Option<Service> {
        // SAFETY: see the map: values outlive the packet.
        unsafe { SERVICES_V4.get(key) }.copied()
    }

    #[inline(always)]
    fn service_v6(&self, key: &EndpointV6) -> Option<Service> {
        // SAFETY: see the map: values outlive the packet.
        unsafe { SERVICES_V6.get(key) }.copied()
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<SlotWord> {
        SLOTS.get(index).copied()
    }

    #[inline(always)]
    fn backend(&self, id: u32) -> Option<&Backend> {
        BACKENDS.get(id)
    }

    #[inline(always)]
    fn reverse_v4(&self, key: &EndpointV4) -> Option<Reverse> {
        // SAFETY: see the map: values outlive the packet.
        unsafe { REVERSE_V4.get(key) }.copied()
    }

    #[inline(always)]
    fn reverse_v6(&self, key: &EndpointV6) -> Option<Reverse> {
        // SAFETY: see the map: values outlive the packet.
        unsafe { REVERSE_V6.get(key) }.copied()
    }

    #[inline(always)]
    fn route_v4(&self, address: [u8; 4]) -> Option<NextHop> {
        ROUTES_V4.get(Key::new(32, address)).copied()
    }

    #[inline(always)]
    fn route_v6(&self, address: [u8; 16]) -> Option<NextHop> {
        ROUTES_V6.get(Key::new(128, address)).copied()
    }

    #[inline(always)]
    fn egress(&self, index: u16) -> Option<Egress> {
        EGRESSES.get(u32::from(index)).copied()
    }

    #[inline(always)]
    fn want_neighbour(&self, address: [u8; 16], family: u8) {
        // A full map is no loss: the controller empties it several times a second, and clients send again.
        let _ = WANTED_NEIGHBOURS.insert(WantedNeighbour { address, family }, 0, u64::from(BPF_NOEXIST));
    }

    #[inline(always)]
    fn count_forwarded(&self, service: u32, backend: u32, bytes: u32, opens: bool) {
        let count = |traffic: &mut Traffic| {
            traffic.packets += 1;
            traffic.bytes += u64::from(bytes);
            traffic.connections += u64::from(opens);
        };
        with_traffic(&SERVICE_TRAFFIC, service, count);
        with_traffic(&BACKEND_TRAFFIC, backend, count);
    }

    #[inline(always)]
    fn count_replied(&self, service: u32, backend: u32, bytes: u32) {
        let count = |traffic: &mut Traffic| {
            traffic.reply_packets += 1;
            traffic.reply_bytes += u64::from(bytes);
        };
        with_traffic(&SERVICE_TRAFFIC, service, count);
        with_traffic(&BACKEND_TRAFFIC, backend, count);
    }
}
