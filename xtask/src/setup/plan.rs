//! From what a host lacks to what to do about it.

use super::{
    host::{Host, Program, System},
    step::Step,
};

/// LLVM's major version in bpf-linker as set-up builds it.
const LINKER_LLVM: u32 = 22;

/// What must be there for bpf-linker to be built.
pub const LLVM_FILES: [&str; 2] = ["/usr/lib/llvm-22/bin/llvm-config", "/usr/lib/llvm-22/include/llvm-c/Core.h"];

const COMPILER_PACKAGES: [&str; 3] = ["rustc-web", "libstd-rust-web-dev-bpf", "cargo-web"];
const LLVM_PACKAGES: [&str; 2] = ["llvm-22-dev", "libclang-22-dev"];

const BUILD_LINKER: &str = "LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker --version 0.13.0 --locked \
                            --no-default-features --features llvm-22";

/// The project's own build of bpf-linker, with the newest LLVM in it, which nightly needs.
const DOWNLOAD_LINKER: &str = "curl -fL https://github.com/aya-rs/bpf-linker/releases/latest/download/\
                               bpf-linker-$(uname -m)-unknown-linux-musl.tar.zst | tar -x --zstd -C ~/.cargo/bin";

/// What set-up does.
#[derive(Debug, PartialEq, Eq)]
pub enum Plan {
    /// All is there.
    Nothing,
    /// Set-up does these itself.
    Install(Vec<Step>),
    /// Set-up can't, and tells the user.
    Print {
        /// Why it can't.
        reason: String,
        steps: Vec<Step>,
        /// What has no command that is known to work.
        by_hand: Vec<String>,
    },
}

impl Plan {
    pub fn new(host: &Host) -> Self {
        if host.is_ready() {
            return Self::Nothing;
        }
        match &host.system {
            System::Debian12 => {
                let steps = debian(host);
                if host.root || steps.iter().all(|step| !step.root) {
                    return Self::Install(steps);
                }
                Self::Print { reason: "Set-up installs this only as root".to_owned(), steps, by_hand: Vec::new() }
            }
            System::Other { name, apt } => {
                let (steps, by_hand) = elsewhere(host, *apt);
                Self::Print {
                    reason: format!("Set-up installs by itself on Debian 12 only, not on {name}"),
                    steps,
                    by_hand,
                }
            }
        }
    }
}

/// Debian 12: everything from the distribution but bpf-linker, which is built against the distribution's LLVM.
fn debian(host: &Host) -> Vec<Step> {
    let lacks_linker = host.linker.is_err();
    let lacks_compiler = match &host.compiler {
        Err(_) => true,
        // The linker that is to be built could not read what this one writes.
        Ok(compiler) => lacks_linker && compiler.llvm > LINKER_LLVM,
    };

    let mut packages: Vec<&str> = missing(host).map(|program| program.package).collect();
    if lacks_compiler {
        packages.extend(COMPILER_PACKAGES);
    }
    if lacks_linker && !host.llvm_for_linker {
        packages.extend(LLVM_PACKAGES);
    }

    let mut steps = apt(&packages, host.lists_are_old);
    if lacks_compiler && host.rustup {
        steps.push(Step::user(
            "name the distribution's compiler weir-bpf in rustup",
            "rustup toolchain link weir-bpf /usr",
        ));
    }
    if lacks_linker {
        steps.push(Step::user("build bpf-linker 0.13.0 with cargo, a minute or two", BUILD_LINKER));
    }
    steps.extend(mount(host));
    steps
}

/// Other systems: nightly Rust and the released bpf-linker.
fn elsewhere(host: &Host, has_apt: bool) -> (Vec<Step>, Vec<String>) {
    let (mut steps, mut by_hand) = (Vec::new(), Vec::new());
    if has_apt {
        let packages: Vec<_> = missing(host).map(|program| program.package).collect();
        steps.extend(apt(&packages, host.lists_are_old));
    } else if missing(host).next().is_some() {
        let names: Vec<_> = missing(host).map(|program| program.name).collect();
        by_hand.push(format!("install these programs with the system's package manager: {}", names.join(" ")));
    }
    if host.compiler.is_err() {
        if host.rustup {
            let install = "rustup toolchain install nightly --profile minimal --component rust-src";
            steps.push(Step::user("install nightly Rust and the source of core", install));
        } else {
            by_hand.push("install rustup (https://rustup.rs), then run this again".to_owned());
        }
    }
    if host.linker.is_err() {
        steps.push(Step::user("install the released bpf-linker", DOWNLOAD_LINKER));
    }
    steps.extend(mount(host));
    (steps, by_hand)
}

/// Every program that is missing.
fn missing(host: &Host) -> impl Iterator<Item = &Program> {
    host.missing_programs.iter().chain(host.missing_peers.iter().flatten())
}

/// `--no-remove`, because some of Debian's packages conflict (rustc-web with rustc): what to give up is the user's choice.
fn apt(packages: &[&str], lists_are_old: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    if packages.is_empty() {
        return steps;
    }
    if lists_are_old {
        steps.push(Step::root("fetch the package lists", "apt-get update"));
    }
    let packages_and_count = match packages {
        [one] => format!("install the package {one}"),
        many => format!("install {} packages", many.len()),
    };
    let install = format!("apt-get install -y --no-install-recommends --no-remove {}", packages.join(" "));
    steps.push(Step::root(&packages_and_count, &install));
    // The lab starts its own, in namespaces.
    for service in ["nginx", "haproxy"].into_iter().filter(|service| packages.contains(service)) {
        steps.push(Step::root(
            &format!("keep {service} from starting as a service"),
            &format!("update-rc.d {service} disable && service {service} stop"),
        ));
    }
    steps
}

fn mount(host: &Host) -> Option<Step> {
    let mount = Step::root("mount the BPF file system, where Weir pins its programs", "mount -t bpf bpf /sys/fs/bpf");
    (!host.bpffs).then_some(mount)
}

#[cfg(test)]
mod tests {
    use super::{
        super::host::{Compiler, PEERS, PROGRAMS},
        *,
    };

    fn ready() -> Host {
        Host {
            root: true,
            system: System::Debian12,
            rustup: true,
            lists_are_old: false,
            compiler: Ok(Compiler { name: "rustc 1.96.0".to_owned(), llvm: 22 }),
            linker: Ok("0.13.0".to_owned()),
            llvm_for_linker: false,
            missing_programs: Vec::new(),
            missing_peers: Some(Vec::new()),
            bpffs: true,
        }
    }

    fn bare() -> Host {
        Host {
            lists_are_old: true,
            compiler: Err("none".to_owned()),
            linker: Err("not installed".to_owned()),
            missing_programs: PROGRAMS.to_vec(),
            missing_peers: Some(PEERS.to_vec()),
            bpffs: false,
            ..ready()
        }
    }

    fn commands(steps: &[Step]) -> Vec<&str> {
        steps.iter().map(|step| step.command.as_str()).collect()
    }

    fn installed(host: &Host) -> Vec<String> {
        match Plan::new(host) {
            Plan::Install(steps) => commands(&steps).into_iter().map(str::to_owned).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_ready_host_needs_nothing() {
        assert_eq!(Plan::new(&ready()), Plan::Nothing);
    }

    #[test]
    fn a_bare_debian_12_gets_everything_in_order() {
        assert_eq!(
            installed(&bare()),
            [
                "apt-get update",
                "apt-get install -y --no-install-recommends --no-remove iproute2 util-linux ethtool nginx curl wrk \
                 haproxy libnginx-mod-stream nftables rustc-web libstd-rust-web-dev-bpf cargo-web llvm-22-dev libclang-22-dev",
                "update-rc.d nginx disable && service nginx stop",
                "update-rc.d haproxy disable && service haproxy stop",
                "rustup toolchain link weir-bpf /usr",
                BUILD_LINKER,
                "mount -t bpf bpf /sys/fs/bpf",
            ]
        );
    }

    #[test]
    fn only_what_is_missing_is_installed() {
        let linker = Host { linker: Err(String::new()), llvm_for_linker: true, ..ready() };
        assert_eq!(installed(&linker), [BUILD_LINKER]);
        let without_rustup = Host { rustup: false, compiler: Err(String::new()), ..ready() };
        let install =
            "apt-get install -y --no-install-recommends --no-remove rustc-web libstd-rust-web-dev-bpf cargo-web";
        assert_eq!(installed(&without_rustup), [install]);
        let bpffs = Host { bpffs: false, ..ready() };
        assert_eq!(installed(&bpffs), ["mount -t bpf bpf /sys/fs/bpf"]);
    }

    #[test]
    fn other_balancers_are_installed_where_they_are_asked_for() {
        let bare = Host { missing_peers: None, ..bare() };
        assert!(installed(&bare).iter().all(|command| !command.contains("haproxy")));
        let lacking = Host { missing_peers: Some(vec![PEERS[2]]), ..ready() };
        assert_eq!(installed(&lacking), ["apt-get install -y --no-install-recommends --no-remove nftables"]);
        assert_eq!(Plan::new(&Host { missing_peers: None, ..ready() }), Plan::Nothing);
    }

    #[test]
    fn a_compiler_too_new_for_the_linker_to_be_built_is_replaced() {
        let newer = || Ok(Compiler { name: "nightly".to_owned(), llvm: 23 });
        let host = Host { compiler: newer(), linker: Err(String::new()), llvm_for_linker: true, ..ready() };
        assert!(installed(&host).iter().any(|command| command.contains("rustc-web")));
        let host = Host { compiler: newer(), bpffs: false, ..ready() };
        assert!(!installed(&host).iter().any(|command| command.contains("rustc-web")));
    }

    #[test]
    fn without_root_the_commands_are_printed_unless_none_needs_it() {
        let Plan::Print { steps, .. } = Plan::new(&Host { root: false, ..bare() }) else { panic!() };
        assert_eq!(steps, debian(&bare()));
        let linker = Host { root: false, linker: Err(String::new()), llvm_for_linker: true, ..ready() };
        assert_eq!(installed(&linker), [BUILD_LINKER]);
    }

    #[test]
    fn other_systems_get_commands_for_nightly_and_the_released_linker() {
        let fedora = System::Other { name: "Fedora".to_owned(), apt: false };
        let Plan::Print { reason, steps, by_hand } = Plan::new(&Host { system: fedora, ..bare() }) else { panic!() };
        assert!(reason.contains("Fedora"));
        assert_eq!(
            commands(&steps),
            [
                "rustup toolchain install nightly --profile minimal --component rust-src",
                DOWNLOAD_LINKER,
                "mount -t bpf bpf /sys/fs/bpf"
            ]
        );
        assert_eq!(
            by_hand,
            ["install these programs with the system's package manager: ip nsenter ethtool nginx curl wrk haproxy \
              /usr/lib/nginx/modules/ngx_stream_module.so nft"]
        );
    }
}
