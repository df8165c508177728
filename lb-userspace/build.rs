//! Builds the eBPF object and leaves it in `OUT_DIR/weir-ebpf`, where `src/object.rs` embeds it. Does nothing without
//! cargo feature `object`.

use std::{env, process::ExitCode};

use crate::object::Object;

#[path = "build/object.rs"]
mod object;
#[path = "build/toolchain.rs"]
mod toolchain;

const OBJECT: Object = Object {
    package: "lb-ebpf",
    binary: "weir-ebpf",
    sources: &["lb-common", "lb-ebpf", "lb-userspace/build.rs"],
    workspace: "..",
};

fn main() -> ExitCode {
    if env::var_os("CARGO_FEATURE_OBJECT").is_none() {
        println!("cargo::rerun-if-changed=build.rs");
        return ExitCode::SUCCESS;
    }
    object::build(&OBJECT)
}
