//! Both ends of a wire: what sends frames into it, and what counts those that arrive.

use aya_ebpf::{
    bindings::xdp_action,
    macros::map,
    maps::{DevMap, PerCpuArray},
    programs::XdpContext,
};
use bytemuck::{Pod, Zeroable};

use crate::{generator::write_next, packet::locate};

/// Set in the first word of a MAC address that is not one device's.
const MULTICAST: u16 = 1;

/// The device that frames are sent out by.
#[map]
static WIRE: DevMap = DevMap::with_max_entries(1, 0);

/// What has arrived, by the last byte of the destination's MAC address.
#[map]
static ARRIVED: PerCpuArray<Arrived> = PerCpuArray::with_max_entries(256, 0);

/// Frames that have arrived at one address.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Arrived {
    frames: u64,
    bytes: u64,
}

/// Makes the next packet and sends it into the wire.
#[inline(always)]
pub fn send(context: &XdpContext) -> Option<u32> {
    write_next(context)?;
    WIRE.redirect(0, 0).ok()
}

/// Counts a frame, and drops it. What is for many is of the kernel, which looks for its neighbours, and passes.
#[inline(always)]
pub fn count(context: &XdpContext) -> Option<u32> {
    // SAFETY: it lies within the packet and is aligned, as frames are.
    let [first, _, last] = unsafe { *locate::<[u16; 3]>(context, 0)? };
    if first & MULTICAST != 0 {
        return Some(xdp_action::XDP_PASS);
    }
    let arrived = ARRIVED.get_ptr_mut(u32::from(last >> 8))?;
    // SAFETY: it is this CPU's own, and nothing interrupts a program that counts.
    unsafe {
        (*arrived).frames += 1;
        (*arrived).bytes += (context.data_end() - context.data()) as u64;
    }
    Some(xdp_action::XDP_DROP)
}
