//! Finds what compiles and links the eBPF object. Shared by this crate's build script and by `cargo xtask setup`, so
//! that both mean the same by "usable".

use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Names the rustup toolchain to use, whatever else there is.
pub const CHOICE: &str = "WEIR_BPF_TOOLCHAIN";

/// The rustup toolchain that set-up makes of the distribution's compiler.
pub const LINKED: &str = "weir-bpf";

/// Oldest usable compiler, as in the workspace's manifest.
const OLDEST: &str = env!("CARGO_PKG_RUST_VERSION");

/// A Rust toolchain that compiles for the eBPF target.
pub struct Toolchain {
    /// Name of the rustup toolchain; `None` is the one on `PATH`, without rustup.
    pub name: Option<String>,
    /// Where its `core` for the target comes from.
    pub core: Core,
    /// What it calls its version: `1.96.0`.
    release: String,
    /// Major version of its LLVM: a linker with an older one can't read what it writes.
    pub llvm: u32,
}

/// Where a toolchain's `core` for the eBPF target comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Core {
    /// Ready built, in its sysroot.
    Prebuilt,
    /// Component rust-src, built along with the object.
    Source,
}

impl Toolchain {
    /// The first usable toolchain for `target`: the one that [`CHOICE`] names, or else set-up's, nightly, or, where
    /// there is no rustup, the compiler on `PATH`.
    ///
    /// # Errors
    /// Why there is none, as a sentence without a full stop.
    pub fn find(target: &str) -> Result<Self, String> {
        if let Some(choice) = choice() {
            return Self::probe(Some(&choice), target).ok_or_else(|| {
                format!(
                    "{CHOICE} names `{choice}`, which is no Rust toolchain (at least {OLDEST}) with core for {target}"
                )
            });
        }
        let candidates: &[_] =
            if find_program("rustup").is_some() { &[Some(LINKED), Some("nightly")] } else { &[None] };
        candidates
            .iter()
            .find_map(|name| Self::probe(*name, target))
            .ok_or_else(|| format!("there is no Rust toolchain (at least {OLDEST}) with core for {target}"))
    }

    fn probe(name: Option<&str>, target: &str) -> Option<Self> {
        let sysroot = output(command(name, "rustc").args(["--print", "sysroot"]))?;
        let library = Path::new(sysroot.trim()).join("lib/rustlib");
        let core = if library.join(target).join("lib").is_dir() {
            Core::Prebuilt
        } else if library.join("src/rust/library/core").is_dir() {
            Core::Source
        } else {
            return None;
        };
        let version = output(command(name, "rustc").arg("-vV"))?;
        let release = field(&version, "release")?.to_owned();
        let llvm = major_minor(field(&version, "LLVM version")?)?.0;
        let usable = major_minor(&release)? >= major_minor(OLDEST)?;
        usable.then(|| Self { name: name.map(str::to_owned), core, release, llvm })
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rustc {} (LLVM {})", self.release, self.llvm)?;
        if let Some(name) = &self.name {
            write!(f, ", toolchain {name}")?;
        }
        match self.core {
            Core::Prebuilt => Ok(()),
            Core::Source => f.write_str(", core from source"),
        }
    }
}

/// What [`CHOICE`] says, if anything.
pub fn choice() -> Option<String> {
    env::var(CHOICE).ok().filter(|choice| !choice.is_empty())
}

/// The path of `bpf-linker`, if there is one.
pub fn bpf_linker() -> Option<PathBuf> {
    find_program("bpf-linker")
}

/// Where `cargo install` puts programs; not always on `PATH`.
pub fn cargo_bin() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    home.or_else(|| Some(env::home_dir()?.join(".cargo"))).map(|home| home.join("bin"))
}

/// The path of `program` in cargo's own directory or on `PATH`.
pub fn find_program(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    cargo_bin()
        .into_iter()
        .chain(env::split_paths(&path))
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

/// A command that runs `program` of the rustup toolchain `name`, or the one on `PATH`, without what the running cargo
/// and rustup have put into the environment.
pub fn command(name: Option<&str>, program: &str) -> Command {
    let mut command = match name {
        Some(name) => {
            let mut rustup = Command::new("rustup");
            rustup.args(["run", name, program]);
            rustup
        }
        None => Command::new(program),
    };
    for variable in ["CARGO", "RUSTC", "RUSTDOC", "RUSTC_WORKSPACE_WRAPPER", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(variable);
    }
    command
}

/// What `command` prints, if it runs and succeeds.
fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The value of `key` in the `key: value` lines of `rustc -vV`.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
}

/// The first two numbers of a version: (1, 96) of `1.96.0-nightly`.
fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split(['.', '-']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::{field, major_minor};

    #[test]
    fn versions_compare_as_numbers() {
        assert_eq!(major_minor("1.100.0-nightly"), Some((1, 100)));
        assert!(major_minor("1.100.0") > major_minor("1.95"));
        assert_eq!(major_minor("22.1.8"), Some((22, 1)));
        assert_eq!(major_minor("unknown"), None);
    }

    #[test]
    fn fields_are_read_from_rustc() {
        let text = "rustc 1.96.0 (ac68faa20 2026-05-25)\nbinary: rustc\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(field(text, "release"), Some("1.96.0"));
        assert_eq!(field(text, "LLVM version"), Some("22.1.8"));
        assert_eq!(field(text, "host"), None);
    }
}
