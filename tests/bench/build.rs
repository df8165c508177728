//! Builds the eBPF programs that measure and leaves them in `OUT_DIR/weir-bench-ebpf`, where `src/generator.rs` embeds
//! them.

use std::process::ExitCode;

use crate::object::Object;

#[path = "../../lb-userspace/build/object.rs"]
mod object;
#[path = "../../lb-userspace/build/toolchain.rs"]
mod toolchain;

const OBJECT: Object = Object {
    package: "weir-bench-ebpf",
    binary: "weir-bench-ebpf",
    sources: &["tests/bench/ebpf", "tests/bench/build.rs"],
    workspace: "../..",
};

fn main() -> ExitCode {
    object::build(&OBJECT)
}
