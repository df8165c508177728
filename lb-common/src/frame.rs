//! Access to the bytes of a packet, with one implementation in the kernel and one on the host.

use bytemuck::Pod;

use crate::reason::Reason;

/// A frame from its Ethernet header on.
///
/// Pointers into the packet die when its head moves; [`grow`](Frame::grow) and [`shrink`](Frame::shrink) take
/// `&mut self`, so the borrow checker sees to that. `T` must have alignment 1 (byte arrays): packets are not aligned.
pub trait Frame {
    /// The `T` that starts `offset` bytes into the frame, if all of it is there.
    fn at<T: Pod>(&self, offset: usize) -> Option<&T>;

    /// Like [`at`](Frame::at), for writing.
    fn at_mut<T: Pod>(&mut self, offset: usize) -> Option<&mut T>;

    /// Whether the frame has at least `bytes` bytes, including what lies beyond the directly accessible part.
    fn holds(&self, bytes: usize) -> bool;

    /// Adds `bytes` undefined bytes in front.
    ///
    /// # Errors
    /// [`NoRoom`] if there is no headroom left; the frame is then as it was.
    fn grow(&mut self, bytes: u8) -> Result<(), NoRoom>;

    /// Removes `bytes` from the front.
    ///
    /// # Errors
    /// [`NoRoom`] if less than an Ethernet header would stay; the frame is then as it was.
    fn shrink(&mut self, bytes: u8) -> Result<(), NoRoom>;

    /// Cuts the end off, so that `bytes` bytes stay.
    ///
    /// # Errors
    /// [`NoRoom`] if the frame has fewer; it is then as it was.
    fn truncate(&mut self, bytes: u8) -> Result<(), NoRoom>;

    /// Does rare `work` on the frame. In the kernel in a function of its own, so that the common packet does not pay for it
    /// in registers and stack.
    #[inline(always)]
    fn apart(&mut self, work: impl FnOnce(&mut Self) -> Reason) -> Reason {
        work(self)
    }
}

/// The head or the end of a frame can't be moved there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;
