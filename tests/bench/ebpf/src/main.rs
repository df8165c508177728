//! eBPF programs that measure others: a packet generator, the floors that the balancer is compared with, and both ends
//! of a wire.
#![no_std]
#![no_main]
#![allow(clippy::inline_always, reason = "in the kernel a call costs registers, stack and verifier precision")]
#![expect(missing_docs, reason = "the macro that makes the entry points makes functions without")]
#![expect(clippy::needless_pass_by_value, reason = "the macro calls entry points with a context by value")]

mod floors;
mod generator;
mod packet;
mod recipe;
mod wire;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};

use crate::generator::{MEASURED, MEASURED_LINEAR, generate};

/// Generator in front of programs that know fragments.
#[xdp(frags)]
pub fn generator(context: XdpContext) -> u32 {
    generate(&context, &MEASURED)
}

/// Generator in front of programs that don't.
#[xdp]
pub fn generator_linear(context: XdpContext) -> u32 {
    generate(&context, &MEASURED_LINEAR)
}

/// Does nothing.
#[xdp(frags)]
pub fn transmit(_context: XdpContext) -> u32 {
    xdp_action::XDP_TX
}

/// See [`floors::mac_swap`].
#[xdp(frags)]
pub fn mac_swap(context: XdpContext) -> u32 {
    floors::mac_swap(&context).unwrap_or(xdp_action::XDP_ABORTED)
}

/// See [`floors::parse`].
#[xdp(frags)]
pub fn parse(context: XdpContext) -> u32 {
    floors::parse(&context).unwrap_or(xdp_action::XDP_ABORTED)
}

/// See [`floors::encapsulate`].
#[xdp(frags)]
pub fn encapsulate(context: XdpContext) -> u32 {
    floors::encapsulate(&context).unwrap_or(xdp_action::XDP_ABORTED)
}

/// See [`wire::send`].
#[xdp(frags)]
pub fn send(context: XdpContext) -> u32 {
    wire::send(&context).unwrap_or(xdp_action::XDP_ABORTED)
}

/// See [`wire::count`].
#[xdp(frags)]
pub fn count(context: XdpContext) -> u32 {
    wire::count(&context).unwrap_or(xdp_action::XDP_ABORTED)
}

/// Drops everything.
#[xdp(frags)]
pub fn discard(_context: XdpContext) -> u32 {
    xdp_action::XDP_DROP
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier rejects loops without end: a reachable panic makes the object unloadable, which the tests see.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
