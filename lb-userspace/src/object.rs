//! The eBPF object that this binary carries.

/// ELF object with Weir's programs and maps, built from lb-ebpf by the build script; aligned as ELF readers need it.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/weir-ebpf"));
