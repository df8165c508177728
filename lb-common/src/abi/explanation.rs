//! What the explaining copy of the program tells.

use bytemuck::{Pod, Zeroable};

/// What the program saw on a packet's way, in its explaining copy: the one element of an array.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Explanation {
    /// The slot's word.
    pub slot_word: u64,
    /// The word of the flow's entry as it was found.
    pub entry_word: u64,
    /// Bits of [`explained`]: what of this was reached.
    pub seen: u32,
    /// Id of the service.
    pub service: u32,
    /// Index of the slot in the slot array.
    pub slot: u32,
    /// When the flow was opened or learnt, seconds of the monotonic clock.
    pub opened: u32,
    /// Who would take a new flow.
    pub chosen: u32,
    /// The backend that the packet goes to or, as a reply, comes from.
    pub backend: u32,
    /// Number of the [`crate::reason::Reason`].
    pub reason: u32,
    /// Always 0.
    pub pad: u32,
}

/// Bits of [`Explanation::seen`].
pub mod explained {
    /// A service, and the flow's slot.
    pub const SLOT: u32 = 1;
    /// The flow's entry.
    pub const ENTRY: u32 = 1 << 1;
    /// A new flow's backend was chosen.
    pub const CHOICE: u32 = 1 << 2;
    /// The flow would be entered.
    pub const ENTERED: u32 = 1 << 3;
    /// The entry would be deleted, or taken by the new flow.
    pub const REPLACED: u32 = 1 << 4;
    /// A backend.
    pub const BACKEND: u32 = 1 << 5;
    /// A reply of a `nat` backend, rather than a client's packet.
    pub const REPLY: u32 = 1 << 6;
}

const _: () = assert!(size_of::<Explanation>() == 48);
