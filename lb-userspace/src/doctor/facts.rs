//! What was found on a host. `None` is always "could not be found out".

use std::collections::BTreeSet;

/// Everything the findings are made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The host as a whole.
    pub host: Host,
    /// The interfaces asked for, by name; `None` where there is no such interface. An error is why the kernel would not
    /// list them.
    pub interfaces: Result<Vec<(String, Option<Interface>)>, String>,
}

/// The host as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// As `uname -r` prints it.
    pub kernel_release: Option<String>,
    /// Effective capabilities, as a mask of `1 << CAP_...`.
    pub capabilities: Option<u64>,
    /// What the kernel's own type information says.
    pub btf: Btf,
    /// The program type, map types and helpers that the packet path needs, each tried.
    pub bpf: Vec<BpfFeature>,
    /// `net.core.bpf_jit_enable`, or whether loaded programs were compiled.
    pub jit: Option<u32>,
    /// `net.core.bpf_jit_harden`.
    pub jit_harden: Option<u32>,
    /// `kernel.bpf_stats_enabled`.
    pub bpf_stats: Option<u32>,
    /// Whether a BPF file system is mounted at `/sys/fs/bpf`.
    pub bpffs: Option<bool>,
    /// Soft limit of locked memory, bytes; `u64::MAX` is unlimited.
    pub locked_memory: Option<u64>,
    /// CPUs that this process may use.
    pub cpus: Option<usize>,
    /// IP neighbours known, and the largest number the kernel keeps (`gc_thresh3`): IPv4, then IPv6.
    pub neighbours: [Option<(usize, usize)>; 2],
}

/// What the kernel's type information (`/sys/kernel/btf/vmlinux`) says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Btf {
    /// The kernel has none, or it can't be read.
    #[default]
    Absent,
    /// It is there.
    Present {
        /// The kernel knows `bpf_link` for XDP.
        xdp_link: bool,
    },
}

/// One thing that the packet path needs from the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BpfFeature {
    /// What it is called.
    pub name: &'static str,
    /// Whether the kernel has it; an error is why that could not be tried.
    pub supported: Result<bool, String>,
}

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Whether its frames have Ethernet headers.
    pub ethernet: bool,
    /// The kind of a virtual interface (`veth`, `vlan`, `bond`, ...).
    pub kind: Option<String>,
    /// The driver of its device.
    pub driver: Option<String>,
    /// Whether frames can pass.
    pub state: LinkState,
    /// Largest IP packet, bytes.
    pub mtu: u32,
    /// It is a port of this interface (bond, bridge, ...), by name.
    pub master: Option<String>,
    /// VLAN interfaces lie on top of it.
    pub has_vlans: bool,
    /// Receive queues in use.
    pub queues: Option<u32>,
    /// The kernel's word on XDP: a mask of [`xdp_feature`].
    pub xdp_features: Option<u64>,
    /// Offloads that are on.
    pub offloads: Option<Offloads>,
    /// XDP programs on it.
    pub programs: Vec<Program>,
    /// The other end, of a veth.
    pub peer: Option<Peer>,
    /// `net.ipv6.conf.INTERFACE.disable_ipv6`.
    pub ipv6_disabled: Option<bool>,
}

/// Whether an interface can pass frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkState {
    /// Administratively down.
    #[default]
    Down,
    /// Up, with nothing at the other end.
    NoCarrier,
    /// Up and running.
    Up,
}

/// Offloads of an interface, by the kernel's names (`rx-lro`, ...).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Those that are on.
    pub active: BTreeSet<String>,
    /// Those that can be switched.
    pub changeable: BTreeSet<String>,
}

/// An XDP program that is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Where in the receive path.
    pub mode: ProgramMode,
    /// The kernel's id of the program.
    pub id: u32,
    /// Its name.
    pub name: Option<String>,
}

/// Where an XDP program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgramMode {
    /// In the driver.
    Native,
    /// In the kernel's generic hook.
    Generic,
    /// On the card.
    Hardware,
}

/// The other end of a veth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// In this network namespace.
    Here {
        /// Its name.
        name: String,
        /// Its offloads.
        offloads: Option<Offloads>,
    },
    /// In another network namespace.
    Elsewhere,
}

/// Bits of [`Interface::xdp_features`] (`enum netdev_xdp_act`).
pub mod xdp_feature {
    /// The driver runs XDP programs: pass, drop, abort, send back.
    pub const BASIC: u64 = 1;
    /// The driver can redirect received frames to other interfaces.
    pub const REDIRECT: u64 = 1 << 1;
    /// Other interfaces can redirect frames to this one. Many drivers say so only while a program is attached.
    pub const NDO_XMIT: u64 = 1 << 2;
    /// Zero-copy `AF_XDP`.
    pub const XSK_ZEROCOPY: u64 = 1 << 3;
    /// Programs can run on the card.
    pub const HW_OFFLOAD: u64 = 1 << 4;
    /// Frames may be larger than a page.
    pub const RX_SG: u64 = 1 << 5;
    /// Redirected frames may be larger than a page.
    pub const NDO_XMIT_SG: u64 = 1 << 6;
}
