//! Weir's eBPF programs: entry points, bounds-checked frame access, maps and helpers.
//!
//! Nothing that could live in lb-common is here.
#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![allow(clippy::inline_always, reason = "in the kernel a call costs registers, stack and verifier precision")]
#![expect(missing_docs, reason = "the macro that makes the entry points makes functions without")]
#![expect(clippy::needless_pass_by_value, reason = "the macro calls entry points with a context by value")]

mod atomic;
mod counters;
mod decap;
mod endpoints;
mod flows;
mod frame;
mod memory;
mod tables;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use lb_common::pipeline::{self, Action};

use crate::{
    decap::KernelSources,
    frame::XdpFrame,
    tables::{KernelTables, redirect},
};

/// The balancer.
#[xdp(frags)]
#[inline(always)]
pub fn weir(context: XdpContext) -> u32 {
    let verdict = pipeline::process(&mut XdpFrame::new(&context), &KernelTables(Some(&context)));
    action(verdict.action)
}

/// The far end of the balancer's tunnels, for backends.
#[xdp(frags)]
pub fn weir_decap(context: XdpContext) -> u32 {
    let verdict = lb_common::decap::process(&mut XdpFrame::new(&context), &KernelSources);
    decap::count(verdict.reason);
    action(verdict.action)
}

/// The kernel's number of `action`.
#[inline(always)]
fn action(action: Action) -> u32 {
    match action {
        Action::Pass => xdp_action::XDP_PASS,
        Action::Drop => xdp_action::XDP_DROP,
        Action::Transmit => xdp_action::XDP_TX,
        // No device at that index is a drop: the packet has been rewritten.
        Action::Redirect(index) => redirect(index).unwrap_or(xdp_action::XDP_DROP),
    }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier rejects loops without end: a reachable panic makes the object unloadable, which the tests see.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
