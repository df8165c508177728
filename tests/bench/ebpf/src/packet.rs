//! Bounds-checked access to the packet behind an XDP context, in aligned words.

use aya_ebpf::{helpers::generated::bpf_xdp_adjust_head, programs::XdpContext};

/// Address of the `T` that starts `offset` bytes into the packet, if all of it is there.
///
/// It is aligned for `T` where the frame came with [`FRONT`](crate::recipe::FRONT) bytes in front and `offset` fits.
#[inline(always)]
pub fn locate<T>(context: &XdpContext, offset: usize) -> Option<*mut T> {
    let context = context.ctx;
    // Volatile, so that no check is left out as known: the verifier does not know.
    // SAFETY: the context is the kernel's own.
    let (data, end) = unsafe {
        (
            (&raw const (*context).data).read_volatile() as usize,
            (&raw const (*context).data_end).read_volatile() as usize,
        )
    };
    let start = data + offset;
    if start + size_of::<T>() > end {
        return None;
    }
    Some(start as *mut T)
}

/// Moves the packet's start by `bytes`: negative numbers make it longer.
#[inline(always)]
pub fn move_head(context: &XdpContext, bytes: i32) -> Option<()> {
    // SAFETY: the context is the kernel's own; the helper checks the distance, and addresses are located anew.
    (unsafe { bpf_xdp_adjust_head(context.ctx, bytes) } == 0).then_some(())
}
