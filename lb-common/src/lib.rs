//! Weir's data-plane logic and the types that the kernel side and the controller share.
//!
//! Everything here compiles for `bpfel-unknown-none` and for the host, so the code that is unit-, property- and
//! fuzz-tested on the host is the code that runs in the kernel. It has no helper calls, no maps and no allocation.
#![no_std]
#![forbid(unsafe_code)]
#![allow(clippy::inline_always, reason = "in the kernel a call costs registers, stack and verifier precision")]

pub mod abi;
pub mod checksum;
pub mod decap;
mod encap;
pub mod fill;
mod flow;
pub mod flow_table;
pub mod frame;
mod handshake;
pub mod hash;
pub mod index;
mod ip;
mod nat;
pub mod pipeline;
pub mod reason;
mod reset;
pub mod schedule;
pub mod settling;
pub mod tables;
pub mod tracking;
pub mod wire;
