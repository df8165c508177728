//! Findings about the host as a whole.

use crate::doctor::{
    facts::{BpfFeature, Btf, Host},
    report::Finding,
};

/// Capability numbers (`linux/capability.h`).
mod capability {
    pub(super) const NET_ADMIN: u64 = 1 << 12;
    pub(super) const SYS_ADMIN: u64 = 1 << 21;
    pub(super) const PERFMON: u64 = 1 << 38;
    pub(super) const BPF: u64 = 1 << 39;
}

/// The kernel that Weir's tests run on.
const TESTED_KERNEL: (u32, u32) = (6, 18);
/// XDP programs became links (`bpf_link`).
const XDP_LINK_KERNEL: (u32, u32) = (5, 9);
/// BPF memory is accounted by cgroup instead of by `RLIMIT_MEMLOCK`.
const CGROUP_ACCOUNTING_KERNEL: (u32, u32) = (5, 11);
/// Share of the neighbour table, in percent, from which on it is about to overflow.
const NEIGHBOURS_FULL: usize = 80;

pub(super) fn findings(host: &Host) -> Vec<Finding> {
    let version = host.kernel_release.as_deref().and_then(version);
    let mut findings = vec![
        kernel(host.kernel_release.as_deref(), version),
        privileges(host.capabilities),
        bpf_features(&host.bpf),
        xdp_links(host.btf, version),
        btf(host.btf),
        bpffs(host.bpffs),
        jit(host.jit),
    ];
    findings.extend(jit_hardening(host.jit_harden));
    findings.extend(bpf_statistics(host.bpf_stats));
    findings.extend(locked_memory(host.locked_memory, version));
    for (family, table) in ["IPv4", "IPv6"].into_iter().zip(host.neighbours) {
        findings.extend(table.map(|(known, most)| neighbours(family, known, most)));
    }
    findings
}

/// Major and minor number of a kernel release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn kernel(release: Option<&str>, version: Option<(u32, u32)>) -> Finding {
    const CHECK: &str = "kernel";
    let (major, minor) = TESTED_KERNEL;
    match release {
        Some(release) if version == Some(TESTED_KERNEL) => Finding::ok(CHECK, release),
        Some(release) => Finding::ok(CHECK, format!("{release} (Weir is tested on {major}.{minor})")),
        None => Finding::warn(CHECK, "version unknown", "mount /proc"),
    }
}

fn privileges(capabilities: Option<u64>) -> Finding {
    const CHECK: &str = "privileges";
    let Some(held) = capabilities else {
        return Finding::warn(CHECK, "capabilities unknown", "mount /proc");
    };
    let lacks = |capability| held & capability == 0;
    let lacks_bpf = |capability| lacks(capability) && lacks(capability::SYS_ADMIN);
    let missing: Vec<_> = [
        ("CAP_BPF", lacks_bpf(capability::BPF)),
        ("CAP_NET_ADMIN", lacks(capability::NET_ADMIN)),
        ("CAP_PERFMON", lacks_bpf(capability::PERFMON)),
    ]
    .into_iter()
    .filter_map(|(name, missing)| missing.then_some(name))
    .collect();
    if missing.is_empty() {
        return Finding::ok(CHECK, "CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON");
    }
    Finding::fail(
        CHECK,
        format!("missing {}", missing.join(", ")),
        "run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON",
    )
}

fn bpf_features(features: &[BpfFeature]) -> Finding {
    const CHECK: &str = "BPF features";
    let missing: Vec<_> =
        features.iter().filter(|feature| feature.supported == Ok(false)).map(|feature| feature.name).collect();
    if !missing.is_empty() {
        return Finding::fail(CHECK, format!("missing {}", missing.join(", ")), "use a newer kernel");
    }
    match features.iter().find_map(|feature| Some((feature.name, feature.supported.as_ref().err()?))) {
        Some((name, error)) => Finding::warn(
            CHECK,
            format!("can't try {name}: {error}"),
            "run weir doctor with the privileges that weir run is to have",
        ),
        None => Finding::ok(CHECK, "every program type, map type and helper that Weir needs"),
    }
}

fn xdp_links(btf: Btf, version: Option<(u32, u32)>) -> Finding {
    const CHECK: &str = "XDP links";
    let (major, minor) = XDP_LINK_KERNEL;
    let supported = match btf {
        Btf::Present { xdp_link } => Some(xdp_link),
        Btf::Absent => version.map(|version| version >= XDP_LINK_KERNEL),
    };
    match supported {
        Some(true) => Finding::ok(CHECK, "the data plane can outlive the daemon"),
        Some(false) => {
            Finding::fail(CHECK, "not in this kernel", format!("use a newer kernel, {major}.{minor} at least"))
        }
        None => Finding::warn(CHECK, "unknown", format!("make sure that the kernel is {major}.{minor} or newer")),
    }
}

fn btf(btf: Btf) -> Finding {
    const CHECK: &str = "BTF";
    match btf {
        Btf::Present { .. } => Finding::ok(CHECK, "the kernel describes its types"),
        Btf::Absent => Finding::warn(
            CHECK,
            "no /sys/kernel/btf/vmlinux",
            "mount /sys, or use a kernel built with CONFIG_DEBUG_INFO_BTF: tools see more with it",
        ),
    }
}

fn bpffs(mounted: Option<bool>) -> Finding {
    const CHECK: &str = "bpffs";
    const MOUNT: &str = "mount -t bpf bpf /sys/fs/bpf";
    match mounted {
        Some(true) => Finding::ok(CHECK, "mounted at /sys/fs/bpf"),
        Some(false) => Finding::fail(CHECK, "not mounted at /sys/fs/bpf", MOUNT),
        None => Finding::warn(CHECK, "unknown", format!("if it is not mounted: {MOUNT}")),
    }
}

fn jit(enabled: Option<u32>) -> Finding {
    const CHECK: &str = "JIT";
    match enabled {
        Some(0) => Finding::warn(
            CHECK,
            "off: programs are interpreted, several times slower",
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
        Some(1) => Finding::ok(CHECK, "on"),
        Some(_) => Finding::warn(CHECK, "on, writing debug output to the log", "sysctl -w net.core.bpf_jit_enable=1"),
        None => Finding::warn(
            CHECK,
            "unknown: net.core.bpf_jit_enable is not to be seen from here",
            "check it on the host, outside of containers and network namespaces",
        ),
    }
}

/// Constants are only blinded for everybody, root's programs included, at 2.
fn jit_hardening(level: Option<u32>) -> Option<Finding> {
    const CHECK: &str = "JIT hardening";
    Some(match level? {
        0 | 1 => Finding::ok(CHECK, "does not slow privileged programs"),
        level => Finding::warn(
            CHECK,
            format!("net.core.bpf_jit_harden is {level}: slower programs"),
            "sysctl -w net.core.bpf_jit_harden=1",
        ),
    })
}

fn bpf_statistics(enabled: Option<u32>) -> Option<Finding> {
    const CHECK: &str = "BPF statistics";
    Some(match enabled? {
        0 => Finding::ok(CHECK, "off"),
        _ => Finding::warn(CHECK, "on: about 20 ns more for every packet", "sysctl -w kernel.bpf_stats_enabled=0"),
    })
}

/// Of interest on old kernels only.
fn locked_memory(limit: Option<u64>, version: Option<(u32, u32)>) -> Option<Finding> {
    const CHECK: &str = "locked memory";
    if version? >= CGROUP_ACCOUNTING_KERNEL {
        return None;
    }
    Some(match limit? {
        u64::MAX => Finding::ok(CHECK, "unlimited"),
        bytes => Finding::warn(
            CHECK,
            format!("limited to {} KiB, which this kernel's BPF maps count against", bytes / 1024),
            "ulimit -l unlimited, or LimitMEMLOCK=infinity in the systemd unit",
        ),
    })
}

fn neighbours(family: &'static str, known: usize, most: usize) -> Finding {
    let check = if family == "IPv4" { "IPv4 neighbours" } else { "IPv6 neighbours" };
    let found = format!("{known} of at most {most}");
    if known.saturating_mul(100) < most.saturating_mul(NEIGHBOURS_FULL) {
        return Finding::ok(check, found);
    }
    let directory = family.to_lowercase();
    let advice = format!("sysctl -w net.{directory}.neigh.default.gc_thresh3={}", most.saturating_mul(4));
    Finding::warn(check, format!("{found}: beyond, next hops can't be resolved"), advice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::report::Level::{self, Fail, Ok as Fine, Warn};

    /// A host on which everything is as it should be.
    fn good() -> Host {
        Host {
            kernel_release: Some("6.18.4-cloud".into()),
            capabilities: Some(u64::MAX),
            btf: Btf::Present { xdp_link: true },
            bpf: vec![BpfFeature { name: "map type hash", supported: Ok(true) }],
            jit: Some(1),
            jit_harden: Some(0),
            bpf_stats: Some(0),
            bpffs: Some(true),
            locked_memory: Some(8 << 20),
            cpus: Some(4),
            neighbours: [Some((10, 1024)), Some((2, 1024))],
        }
    }

    /// Level and text of one check after `change`.
    fn after(change: impl FnOnce(&mut Host), check: &str) -> Option<(Level, String)> {
        let mut host = good();
        change(&mut host);
        let mut found = findings(&host).into_iter().filter(|finding| finding.check == check);
        let finding = found.next()?;
        assert_eq!(found.next(), None, "{check} twice");
        assert_eq!(finding.advice.is_some(), finding.level != Fine, "{finding:?}");
        Some((finding.level, finding.found))
    }

    fn level(change: impl FnOnce(&mut Host), check: &str) -> Option<Level> {
        after(change, check).map(|(level, _)| level)
    }

    #[test]
    fn a_good_host_is_fine() {
        assert_eq!(findings(&good()).iter().find(|finding| finding.level != Fine), None);
    }

    #[test]
    fn a_host_that_tells_nothing_has_no_failures() {
        assert!(findings(&Host::default()).iter().all(|finding| finding.level != Fail));
    }

    #[test]
    fn the_kernel_is_named_beside_what_was_tested() {
        let named = |release: &str| after(|host| host.kernel_release = Some(release.into()), "kernel").unwrap();
        assert_eq!(named("6.18.4-cloud"), (Fine, "6.18.4-cloud".into()));
        assert_eq!(named("6.12.1"), (Fine, "6.12.1 (Weir is tested on 6.18)".into()));
        assert_eq!(named("strange"), (Fine, "strange (Weir is tested on 6.18)".into()));
        assert_eq!(level(|host| host.kernel_release = None, "kernel"), Some(Warn));
        assert_eq!(version("5.9-rc1"), Some((5, 9)));
        assert_eq!(version("five"), None);
    }

    #[test]
    fn every_capability_is_needed_and_sys_admin_stands_for_two() {
        use capability::{BPF, NET_ADMIN, PERFMON, SYS_ADMIN};
        let with = |held| after(|host| host.capabilities = Some(held), "privileges").unwrap();
        assert_eq!(with(BPF | NET_ADMIN | PERFMON).0, Fine);
        assert_eq!(with(SYS_ADMIN | NET_ADMIN).0, Fine);
        assert_eq!(with(SYS_ADMIN), (Fail, "missing CAP_NET_ADMIN".into()));
        assert_eq!(with(NET_ADMIN | PERFMON), (Fail, "missing CAP_BPF".into()));
        assert_eq!(with(NET_ADMIN | BPF), (Fail, "missing CAP_PERFMON".into()));
        assert_eq!(with(0), (Fail, "missing CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON".into()));
        assert_eq!(level(|host| host.capabilities = None, "privileges"), Some(Warn));
    }

    #[test]
    fn a_missing_bpf_feature_fails_and_an_untried_one_warns() {
        let add = |supported| move |host: &mut Host| host.bpf.push(BpfFeature { name: "map type devmap", supported });
        assert_eq!(after(add(Ok(false)), "BPF features"), Some((Fail, "missing map type devmap".into())));
        let untried = after(add(Err("EPERM".into())), "BPF features");
        assert_eq!(untried, Some((Warn, "can't try map type devmap: EPERM".into())));
    }

    #[test]
    fn xdp_links_are_known_by_type_information_or_else_by_version() {
        let set = |btf, release: Option<&'static str>| {
            move |host: &mut Host| {
                host.btf = btf;
                host.kernel_release = release.map(str::to_owned);
            }
        };
        let lies = Some("5.4.0");
        assert_eq!(level(set(Btf::Present { xdp_link: true }, lies), "XDP links"), Some(Fine));
        assert_eq!(level(set(Btf::Present { xdp_link: false }, Some("6.1.0")), "XDP links"), Some(Fail));
        assert_eq!(level(set(Btf::Absent, Some("5.9.0")), "XDP links"), Some(Fine));
        assert_eq!(level(set(Btf::Absent, Some("5.8.18")), "XDP links"), Some(Fail));
        assert_eq!(level(set(Btf::Absent, None), "XDP links"), Some(Warn));
        assert_eq!(level(set(Btf::Absent, None), "BTF"), Some(Warn));
    }

    #[test]
    fn bpffs_must_be_mounted() {
        assert_eq!(level(|host| host.bpffs = Some(false), "bpffs"), Some(Fail));
        assert_eq!(level(|host| host.bpffs = None, "bpffs"), Some(Warn));
    }

    #[test]
    fn what_slows_programs_warns() {
        assert_eq!(level(|host| host.jit = Some(0), "JIT"), Some(Warn));
        assert_eq!(level(|host| host.jit = Some(2), "JIT"), Some(Warn));
        assert_eq!(level(|host| host.jit = None, "JIT"), Some(Warn));
        assert_eq!(level(|host| host.jit_harden = Some(1), "JIT hardening"), Some(Fine));
        assert_eq!(level(|host| host.jit_harden = Some(2), "JIT hardening"), Some(Warn));
        assert_eq!(level(|host| host.jit_harden = None, "JIT hardening"), None);
        assert_eq!(level(|host| host.bpf_stats = Some(1), "BPF statistics"), Some(Warn));
        assert_eq!(level(|host| host.bpf_stats = None, "BPF statistics"), None);
    }

    #[test]
    fn locked_memory_matters_before_5_11_only() {
        let with = |release: &str, limit| {
            let release = release.to_owned();
            level(
                move |host| {
                    host.kernel_release = Some(release);
                    host.locked_memory = limit;
                },
                "locked memory",
            )
        };
        assert_eq!(with("5.11.0", Some(65536)), None);
        assert_eq!(with("5.10.200", Some(65536)), Some(Warn));
        assert_eq!(with("5.10.200", Some(u64::MAX)), Some(Fine));
        assert_eq!(with("5.10.200", None), None);
    }

    #[test]
    fn a_neighbour_table_that_is_nearly_full_warns() {
        let with = |known| level(|host| host.neighbours[1] = Some((known, 1000)), "IPv6 neighbours");
        assert_eq!((with(799), with(800), with(1000)), (Some(Fine), Some(Warn), Some(Warn)));
        assert_eq!(level(|host| host.neighbours[0] = None, "IPv4 neighbours"), None);
    }
}
