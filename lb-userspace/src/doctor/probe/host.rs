//! The host as a whole.

use std::{fs, thread};

use aya::{
    maps::MapType,
    programs::{ProgramType, loaded_programs},
    sys::{BpfHelper, is_helper_supported, is_map_supported, is_program_supported},
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage, neighbour::NeighbourMessage};

use super::read_value;
use crate::{
    dataplane::has_fixed_tables,
    doctor::{
        facts::{BpfFeature, Btf, Host},
        netlink::Client,
    },
};

const BTF_PATH: &str = "/sys/kernel/btf/vmlinux";
const BPFFS_PATH: &str = "/sys/fs/bpf";
/// The kernel's structure behind a `bpf_link` for XDP, in the NUL-separated strings of its type information.
const XDP_LINK_TYPE: &[u8] = b"\0bpf_xdp_link\0";

/// Helpers that the packet path calls.
const HELPERS: [(&str, BpfHelper); 3] = [
    ("helper xdp_adjust_head", BpfHelper::BPF_FUNC_xdp_adjust_head),
    ("helper redirect_map", BpfHelper::BPF_FUNC_redirect_map),
    // Came with programs that take frames of more than one page.
    ("helper xdp_get_buff_len", BpfHelper::BPF_FUNC_xdp_get_buff_len),
];

/// Map types that it uses.
const MAPS: [(&str, MapType); 5] = [
    ("map type hash", MapType::Hash),
    ("map type array", MapType::Array),
    ("map type percpu_array", MapType::PerCpuArray),
    ("map type lpm_trie", MapType::LpmTrie),
    ("map type devmap", MapType::DevMap),
];

pub(super) fn host() -> Host {
    Host {
        kernel_release: read_value("/proc/sys/kernel/osrelease"),
        capabilities: fs::read_to_string("/proc/self/status").ok().and_then(|status| effective_capabilities(&status)),
        btf: btf(),
        bpf: bpf_features(),
        jit: read_value("/proc/sys/net/core/bpf_jit_enable").or_else(jit_of_loaded_programs),
        jit_harden: read_value("/proc/sys/net/core/bpf_jit_harden"),
        bpf_stats: read_value("/proc/sys/kernel/bpf_stats_enabled"),
        bpffs: fs::read_to_string("/proc/self/mounts").ok().map(|mounts| bpffs_is_mounted(&mounts)),
        locked_memory: fs::read_to_string("/proc/self/limits").ok().and_then(|limits| locked_memory(&limits)),
        cpus: thread::available_parallelism().ok().map(usize::from),
        neighbours: [("ipv4", AddressFamily::Inet), ("ipv6", AddressFamily::Inet6)]
            .map(|(directory, family)| neighbour_table(directory, family)),
    }
}

fn effective_capabilities(status: &str) -> Option<u64> {
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

fn btf() -> Btf {
    match fs::read(BTF_PATH) {
        Ok(types) => {
            Btf::Present { xdp_link: types.windows(XDP_LINK_TYPE.len()).any(|window| window == XDP_LINK_TYPE) }
        }
        Err(_) => Btf::Absent,
    }
}

/// Tries each feature with a tiny program or map that is gone again at once.
fn bpf_features() -> Vec<BpfFeature> {
    let feature = |name, supported| BpfFeature { name, supported };
    let mut features =
        vec![feature("program type xdp", is_program_supported(ProgramType::Xdp).map_err(|error| chain(&error)))];
    features.extend(
        HELPERS
            .map(|(name, id)| feature(name, is_helper_supported(ProgramType::Xdp, id).map_err(|error| chain(&error)))),
    );
    features.push(feature("array values beyond 4 MiB", has_fixed_tables().map_err(|error| chain(&error))));
    features.extend(MAPS.map(|(name, kind)| feature(name, is_map_supported(kind).map_err(|error| chain(&error)))));
    features
}

/// Whether programs that are loaded were compiled: tells in namespaces, where the setting is not to be seen.
fn jit_of_loaded_programs() -> Option<u32> {
    loaded_programs().filter_map(Result::ok).map(|program| u32::from(program.size_jitted() > 0)).max()
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn bpffs_is_mounted(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next() == Some(BPFFS_PATH) && fields.next() == Some("bpf")
    })
}

fn locked_memory(limits: &str) -> Option<u64> {
    let soft = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"))?.split_whitespace().next()?;
    if soft == "unlimited" { Some(u64::MAX) } else { soft.parse().ok() }
}

/// Neighbours of a family, and the most that the kernel keeps.
fn neighbour_table(directory: &str, family: AddressFamily) -> Option<(usize, usize)> {
    let most = read_value(format!("/proc/sys/net/{directory}/neigh/default/gc_thresh3"))?;
    let mut question = NeighbourMessage::default();
    question.header.family = family;
    let answers = Client::route().ok()?.dump(RouteNetlinkMessage::GetNeighbour(question)).ok()?;
    Some((answers.len(), most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read_as_they_are() {
        let status = "Name:\tweir\nCapInh:\t0000000000000000\nCapEff:\t000001ffffffffff\n";
        assert_eq!(effective_capabilities(status), Some(0x1ff_ffff_ffff));
        assert_eq!(effective_capabilities("Name:\tweir\n"), None);

        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max locked memory         8388608              8388608              bytes\n";
        assert_eq!(locked_memory(limits), Some(8_388_608));
        assert_eq!(locked_memory(&limits.replace("8388608 ", "unlimited ")), Some(u64::MAX));
        assert_eq!(locked_memory(""), None);

        assert!(bpffs_is_mounted("proc /proc proc rw 0 0\nbpf /sys/fs/bpf bpf rw,nosuid,mode=700 0 0\n"));
        assert!(!bpffs_is_mounted("bpf /run/bpf bpf rw 0 0\ntmpfs /sys/fs/bpf tmpfs rw 0 0\n"));
    }
}
