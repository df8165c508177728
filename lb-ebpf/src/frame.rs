//! Bounds-checked access to the packet behind an XDP context.

use aya_ebpf::{
    helpers::generated::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len},
    programs::XdpContext,
};
use bytemuck::Pod;
use lb_common::{
    frame::{Frame, NoRoom},
    reason::Reason,
    wire::ETHERNET_LEN,
};

/// The packet that a program run is about.
pub struct XdpFrame<'a> {
    context: &'a XdpContext,
}

impl<'a> XdpFrame<'a> {
    /// The packet of `context`.
    #[inline(always)]
    pub const fn new(context: &'a XdpContext) -> Self {
        Self { context }
    }

    /// Address of the `T` that starts `offset` bytes into the packet, if all of it is there.
    #[inline(always)]
    fn locate<T: Pod>(&self, offset: usize) -> Option<*mut T> {
        const { assert!(align_of::<T>() == 1, "packets are not aligned") };
        // A one-byte check becomes `start >= end`, from which the verifier learns nothing.
        const { assert!(size_of::<T>() >= 2, "the verifier does not understand bounds checks of one byte") };
        let (data, end) = self.bounds();
        let start = data + offset;
        if start + size_of::<T>() > end {
            return None;
        }
        Some(start as *mut T)
    }

    /// Where the packet's linear part begins and ends.
    ///
    /// Read anew each time: a compiler that knows that the bounds are those of an earlier check leaves out a check
    /// that follows from it, and the verifier, which does not see that, refuses the program.
    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        let context = self.context.ctx;
        // SAFETY: the context is the kernel's own.
        unsafe {
            (
                (&raw const (*context).data).read_volatile() as usize,
                (&raw const (*context).data_end).read_volatile() as usize,
            )
        }
    }

    #[inline(always)]
    fn move_head(&mut self, bytes: i32) -> Result<(), NoRoom> {
        // SAFETY: the context is the kernel's own; the helper checks the distance. Packet references can't outlive
        // this: they borrow the frame that is borrowed mutably here.
        match unsafe { bpf_xdp_adjust_head(self.context.ctx, bytes) } {
            0 => Ok(()),
            _ => Err(NoRoom),
        }
    }
}

impl Frame for XdpFrame<'_> {
    #[inline(always)]
    fn at<T: Pod>(&self, offset: usize) -> Option<&T> {
        // SAFETY: `locate` checked that the bytes lie between data and data_end; `T` is Pod with alignment 1.
        self.locate(offset).map(|pointer| unsafe { &*pointer })
    }

    #[inline(always)]
    fn at_mut<T: Pod>(&mut self, offset: usize) -> Option<&mut T> {
        // SAFETY: as in `at`; the frame is borrowed mutably, so nothing else refers to its bytes.
        self.locate(offset).map(|pointer| unsafe { &mut *pointer })
    }

    #[inline(always)]
    fn holds(&self, bytes: usize) -> bool {
        // The linear part answers for nearly every packet; the helper counts fragments (jumbo frames) too.
        self.context.data_end() - self.context.data() >= bytes
            // SAFETY: the context is the kernel's own.
            || unsafe { bpf_xdp_get_buff_len(self.context.ctx) } >= bytes as u64
    }

    #[inline(always)]
    fn grow(&mut self, bytes: u8) -> Result<(), NoRoom> {
        self.move_head(-i32::from(bytes))
    }

    #[inline(always)]
    fn shrink(&mut self, bytes: u8) -> Result<(), NoRoom> {
        if self.context.data_end() - self.context.data() < ETHERNET_LEN + usize::from(bytes) {
            return Err(NoRoom);
        }
        self.move_head(i32::from(bytes))
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "frames are shorter than 2^31 bytes")]
    fn truncate(&mut self, bytes: u8) -> Result<(), NoRoom> {
        // SAFETY: the context is the kernel's own.
        let length = unsafe { bpf_xdp_get_buff_len(self.context.ctx) };
        if length < u64::from(bytes) {
            return Err(NoRoom);
        }
        // SAFETY: as in `move_head`.
        match unsafe { bpf_xdp_adjust_tail(self.context.ctx, i32::from(bytes) - length as i32) } {
            0 => Ok(()),
            _ => Err(NoRoom),
        }
    }

    #[inline(always)]
    fn apart(&mut self, work: impl FnOnce(&mut Self) -> Reason) -> Reason {
        apart(self.context, work)
    }
}

#[inline(never)]
fn apart<'a>(context: &'a XdpContext, work: impl FnOnce(&mut XdpFrame<'a>) -> Reason) -> Reason {
    work(&mut XdpFrame::new(context))
}
