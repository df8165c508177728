//! Builds an eBPF object with a cargo of its own. Shared by the build scripts of the packages that embed one. Why not by
//! aya-build: docs/adr/0001-build-script.md.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use crate::toolchain::{self, Core, Toolchain};

/// What every object is made with, relative to the workspace.
const COMMON: [&str; 3] = ["Cargo.toml", "Cargo.lock", "lb-userspace/build"];

/// An eBPF object to be built.
pub struct Object {
    /// Package that it is the binary of.
    pub package: &'static str,
    /// Name of the binary, and of the file in `OUT_DIR`.
    pub binary: &'static str,
    /// What it is made from, relative to the workspace.
    pub sources: &'static [&'static str],
    /// The workspace, relative to the package that embeds the object.
    pub workspace: &'static str,
}

enum Failure {
    /// Something that the host lacks, in one sentence.
    Missing(String),
    /// The eBPF build failed; the compiler's own words.
    Build(String),
}

/// Builds `object` and leaves it in `OUT_DIR`; what a build script's `main` returns.
pub fn build(object: &Object) -> ExitCode {
    match try_build(object) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Missing(sentence)) => {
            println!("cargo::error={sentence}");
            ExitCode::SUCCESS
        }
        Err(Failure::Build(output)) => {
            eprintln!("{output}");
            ExitCode::FAILURE
        }
    }
}

fn try_build(object: &Object) -> Result<(), Failure> {
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join(object.workspace);
    let out = PathBuf::from(variable("OUT_DIR")?);
    let target =
        if variable("CARGO_CFG_TARGET_ENDIAN")? == "big" { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };
    let target_dir = out.join("ebpf");

    let output = cargo(object.package, target)?
        .current_dir(&root)
        .arg("--target-dir")
        .arg(&target_dir)
        .output()
        .map_err(|error| Failure::Build(format!("can't run cargo for {}: {error}", object.package)))?;
    if !output.status.success() {
        return Err(Failure::Build(String::from_utf8_lossy(&output.stderr).into_owned()));
    }

    let built = target_dir.join(target).join("release").join(object.binary);
    fs::copy(&built, out.join(object.binary))
        .map_err(|error| Failure::Build(format!("can't copy {}: {error}", built.display())))?;
    watch(&root, object);
    Ok(())
}

/// The command that builds `package` for `target`, all but where to.
fn cargo(package: &str, target: &str) -> Result<Command, Failure> {
    let missing =
        |what| Failure::Missing(format!("{what}: `cargo xtask setup` installs what the eBPF object is built with"));
    let toolchain = Toolchain::find(target).map_err(missing)?;
    if toolchain::bpf_linker().is_none() {
        return Err(missing("bpf-linker is not installed".to_owned()));
    }

    let mut cargo = toolchain::command(toolchain.name.as_deref(), "cargo");
    cargo.args(["build", "--quiet", "--locked", "--release", "--package", package, "--target", target]);
    if toolchain.core == Core::Source {
        cargo.args(["-Z", "build-std=core"]);
    }
    // Replaces every other source of flags: those of the host's build must not reach the eBPF target. The kernel lets
    // packets and maps be accessed unaligned, so that reading an address is one instruction and not four and a puzzle.
    let flags = [
        &format!("--cfg=bpf_target_arch=\"{}\"", variable("CARGO_CFG_TARGET_ARCH")?),
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
        "-Ctarget-cpu=v3",
        "-Ctarget-feature=+allows-misaligned-mem-access",
    ]
    .join("\x1f");
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags);
    // aya-ebpf and Weir's programs use inline assembly, which is unstable for this target; this lets these crates have it
    // on a stable compiler, and changes nothing on nightly.
    cargo.env("RUSTC_BOOTSTRAP", "aya_ebpf,weir_ebpf");
    if let Some(bin) = toolchain::cargo_bin() {
        let path = env::var_os("PATH").unwrap_or_default();
        if let Ok(path) = env::join_paths(std::iter::once(bin).chain(env::split_paths(&path))) {
            cargo.env("PATH", path);
        }
    }
    Ok(cargo)
}

/// Tells cargo what to watch. Only after a success, so that a failure shows nothing else; cargo repeats those anyway.
fn watch(root: &Path, object: &Object) {
    println!("cargo::rerun-if-env-changed={}", toolchain::CHOICE);
    for source in COMMON.iter().chain(object.sources) {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
    }
}

/// A variable that cargo sets for every build script.
fn variable(name: &str) -> Result<String, Failure> {
    env::var(name).map_err(|error| Failure::Build(format!("{name}: {error}")))
}
