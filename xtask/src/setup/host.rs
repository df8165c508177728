//! What this host has and lacks.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};

use super::toolchain::{self, Toolchain};

/// What the object is compiled for on little-endian hosts, which are all that set-up knows how to equip.
const TARGET: &str = "bpfel-unknown-none";

/// Programs that the lab runs, with the Debian package of each.
pub const PROGRAMS: [Program; 6] = [
    Program { name: "ip", package: "iproute2" },
    Program { name: "nsenter", package: "util-linux" },
    Program { name: "ethtool", package: "ethtool" },
    Program { name: "nginx", package: "nginx" },
    Program { name: "curl", package: "curl" },
    Program { name: "wrk", package: "wrk" },
];

/// What `bench peers` measures beside Weir, and what its test needs.
pub const PEERS: [Program; 3] = [
    Program { name: "haproxy", package: "haproxy" },
    Program { name: "/usr/lib/nginx/modules/ngx_stream_module.so", package: "libnginx-mod-stream" },
    Program { name: "nft", package: "nftables" },
];

/// What the host is to be able to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Building and showing Weir: demo and lab.
    Show,
    /// That, every test, and every measurement.
    Everything,
}

/// A program, by its name or path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    pub name: &'static str,
    /// The Debian package that has it.
    pub package: &'static str,
}

/// A host, as far as set-up is concerned.
#[expect(clippy::struct_excessive_bools, reason = "facts that are independent of each other")]
pub struct Host {
    /// Whether this is the superuser.
    pub root: bool,
    pub system: System,
    pub rustup: bool,
    /// Whether apt knows no packages, or has not asked for news since yesterday.
    pub lists_are_old: bool,
    /// What compiles the eBPF object, or why nothing does.
    pub compiler: Result<Compiler, String>,
    /// Version of bpf-linker, or why there is none.
    pub linker: Result<String, String>,
    /// Whether bpf-linker could be built: LLVM's headers and libraries are there.
    pub llvm_for_linker: bool,
    /// Those of [`PROGRAMS`] that are not installed.
    pub missing_programs: Vec<Program>,
    /// Those of [`PEERS`], if they are asked for.
    pub missing_peers: Option<Vec<Program>>,
    /// Whether the BPF file system, where running programs are pinned, is mounted.
    pub bpffs: bool,
}

/// The operating system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum System {
    /// The one that set-up can equip by itself.
    Debian12,
    /// Another one, by its own name; whether it has apt.
    Other { name: String, apt: bool },
}

/// A compiler for the eBPF target.
pub struct Compiler {
    /// What to call it.
    pub name: String,
    /// Major version of its LLVM.
    pub llvm: u32,
}

/// One line of the report.
pub struct Row {
    pub name: &'static str,
    /// What was found, or what is lacking.
    pub state: Result<String, String>,
}

impl Host {
    pub fn probe(scope: Scope) -> Result<Self> {
        let compiler = Toolchain::find(TARGET);
        if let (Err(reason), Some(_)) = (&compiler, toolchain::choice()) {
            bail!("{reason}");
        }
        Ok(Self {
            root: is_root()?,
            system: System::probe(),
            rustup: toolchain::find_program("rustup").is_some(),
            lists_are_old: lists_are_old(Path::new("/var/lib/apt/lists")),
            compiler: compiler.map(|found| Compiler { name: found.to_string(), llvm: found.llvm }),
            linker: linker(),
            llvm_for_linker: super::plan::LLVM_FILES.iter().all(|file| Path::new(file).exists()),
            missing_programs: missing(&PROGRAMS),
            missing_peers: (scope == Scope::Everything).then(|| missing(&PEERS)),
            bpffs: fs::read_to_string("/proc/mounts").is_ok_and(|mounts| bpffs_is_mounted(&mounts)),
        })
    }

    /// Whether nothing is missing.
    pub fn is_ready(&self) -> bool {
        self.rows().iter().all(|row| row.state.is_ok())
    }

    pub fn rows(&self) -> Vec<Row> {
        let names = |programs: &[Program]| programs.iter().map(|p| p.name).collect::<Vec<_>>().join(" ");
        let compiler = self.compiler.as_ref().map(|found| found.name.clone()).map_err(Clone::clone);
        let found = |all: &[Program], missing: &[Program]| {
            if missing.is_empty() { Ok(names(all)) } else { Err(names(missing)) }
        };
        let bpffs = if self.bpffs { Ok("mounted on /sys/fs/bpf") } else { Err("not mounted on /sys/fs/bpf") };
        let mut rows = vec![
            Row { name: "eBPF compiler", state: compiler },
            Row { name: "bpf-linker", state: self.linker.clone() },
            Row { name: "lab programs", state: found(&PROGRAMS, &self.missing_programs) },
            Row { name: "BPF file system", state: bpffs.map(str::to_owned).map_err(str::to_owned) },
        ];
        if let Some(missing) = &self.missing_peers {
            rows.push(Row { name: "other balancers", state: found(&PEERS, missing) });
        }
        rows
    }
}

impl System {
    fn probe() -> Self {
        Self::from_os_release(
            &fs::read_to_string("/etc/os-release").unwrap_or_default(),
            toolchain::find_program("apt-get").is_some(),
        )
    }

    /// Reads os-release(5).
    fn from_os_release(text: &str, apt: bool) -> Self {
        let field = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
                .map_or("", |value| value.trim_matches(['"', '\'']))
        };
        if (field("ID"), field("VERSION_ID")) == ("debian", "12") && apt {
            return Self::Debian12;
        }
        let name = [field("PRETTY_NAME"), field("ID"), "this system"].into_iter().find(|name| !name.is_empty());
        Self::Other { name: name.unwrap_or_default().to_owned(), apt }
    }
}

/// Those of `programs` that are not installed.
fn missing(programs: &[Program]) -> Vec<Program> {
    programs.iter().filter(|program| toolchain::find_program(program.name).is_none()).copied().collect()
}

/// Whether this process may do everything: /proc shows processes as their effective user's.
pub fn is_root() -> Result<bool> {
    Ok(fs::metadata("/proc/self").context("can't read /proc")?.uid() == 0)
}

/// bpf-linker's version; it must run, because its LLVM library may have gone.
fn linker() -> Result<String, String> {
    let path = toolchain::bpf_linker().ok_or("not installed")?;
    let output = Command::new(&path).arg("--version").stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => {
            let version = String::from_utf8_lossy(&output.stdout);
            let version = version.trim().trim_start_matches("bpf-linker ");
            Ok(format!("{version}, {}", path.display()))
        }
        _ => Err(format!("{} does not run", path.display())),
    }
}

fn bpffs_is_mounted(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        (fields.next(), fields.next()) == (Some("/sys/fs/bpf"), Some("bpf"))
    })
}

/// Whether nothing below `lists` was written within a day.
fn lists_are_old(lists: &Path) -> bool {
    let Ok(entries) = fs::read_dir(lists) else { return true };
    let entries: Vec<_> = entries.flatten().collect();
    let has_packages = entries.iter().any(|entry| entry.file_name().to_string_lossy().contains("_Packages"));
    let newest = entries.iter().filter_map(|entry| entry.metadata().ok()?.modified().ok()).max();
    let age = newest.and_then(|time| SystemTime::now().duration_since(time).ok()).unwrap_or_default();
    !has_packages || age > Duration::from_hours(24)
}

#[cfg(test)]
mod tests {
    use super::{System, bpffs_is_mounted};

    #[test]
    fn only_debian_12_is_debian_12() {
        let debian =
            "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\nID=debian\n";
        assert_eq!(System::from_os_release(debian, true), System::Debian12);
        let other = |name: &str, apt| System::Other { name: name.to_owned(), apt };
        let newer = debian.replace("12", "13");
        assert_eq!(System::from_os_release(&newer, true), other("Debian GNU/Linux 13 (bookworm)", true));
        let fedora = "ID=fedora\nVERSION_ID=12\n";
        assert_eq!(System::from_os_release(fedora, false), other("fedora", false));
        assert_eq!(System::from_os_release("", false), other("this system", false));
    }

    #[test]
    fn a_bpf_mount_is_recognised_by_place_and_type() {
        assert!(bpffs_is_mounted("sysfs /sys sysfs rw 0 0\nbpf /sys/fs/bpf bpf rw,relatime 0 0\n"));
        assert!(!bpffs_is_mounted("sysfs /sys sysfs rw 0 0\n/dev/sda /sys/fs/bpf ext4 rw 0 0\n"));
        assert!(!bpffs_is_mounted("bpf /run/bpf bpf rw 0 0\n"));
    }
}
