//! The packet generator: undoes what the last run did to the packet, makes the next one, and calls the program that is
//! measured.

use aya_ebpf::{
    bindings::xdp_action,
    macros::map,
    maps::{Array, ProgramArray},
    programs::XdpContext,
};

use crate::{
    packet::{locate, move_head},
    recipe::{FIELDS, FIRST_WORD, FRAME_LEN, Recipe},
};

/// The packets of the row.
#[map]
static RECIPE: Array<Recipe> = Array::with_max_entries(1, 0);

/// Position of the next packet; the host sets it back before each run.
#[map]
static POSITION: Array<u32> = Array::with_max_entries(1, 0);

/// The program that is measured.
#[map]
pub static MEASURED: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// The same, if it does not know fragments: an array holds programs of one kind.
#[map]
pub static MEASURED_LINEAR: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Makes the next packet and calls the program in `measured`. Returns only if there is none.
#[inline(always)]
pub fn generate(context: &XdpContext, measured: &ProgramArray) -> u32 {
    if write_next(context).is_some() {
        // SAFETY: nothing here is waiting to be dropped.
        unsafe { measured.tail_call(context, 0) };
    }
    xdp_action::XDP_ABORTED
}

/// Undoes what became of the packet and makes it the next one.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "an offset within a frame")]
pub fn write_next(context: &XdpContext) -> Option<()> {
    let recipe = RECIPE.get(0)?;
    let position = POSITION.get_ptr_mut(0)?;
    // SAFETY: runs are on one CPU, one after the other, and the host writes between them.
    let flow = unsafe {
        let now = *position;
        *position = now.wrapping_add(1);
        recipe.flows.at(now)
    };
    // Also by 0 bytes, so that every program is measured with the same.
    move_head(context, excess(context))?;

    let frame = locate::<[u8; FRAME_LEN]>(context, 0)?.cast::<u8>();
    // SAFETY: all of the frame lies within the packet, and the words are aligned, see `FIRST_WORD`.
    unsafe { write_template(frame, recipe) };

    let [client, port, server] = [flow.client, flow.port, flow.server].map(|field| u32::from(field.to_be()));
    let [ip_checksum, transport_checksum] = recipe.checksums(client, port, server);
    let fields: [u64; FIELDS] = [client, port, server, ip_checksum, transport_checksum].map(u64::from);
    for patch in &recipe.patches {
        let mut word = patch.word;
        for (field, unit) in fields.iter().zip(&patch.units) {
            word = word.wrapping_add(field.wrapping_mul(*unit));
        }
        // The mask is for the verifier, which has to see an upper bound.
        let place = locate::<u64>(context, patch.offset as usize & (FRAME_LEN - 1))?;
        // SAFETY: it lies within the packet, and is aligned as a word of the frame.
        unsafe { place.write_volatile(word) };
    }
    Some(())
}

/// By how many bytes the packet is longer than it should be.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "packets are shorter than a page")]
fn excess(context: &XdpContext) -> i32 {
    (context.data_end() - context.data()) as i32 - FRAME_LEN as i32
}

/// Writes the frame without its differing fields.
///
/// Volatile, so that each word stays one store: see `FIRST_WORD`.
///
/// # Safety
/// `frame` has [`FRAME_LEN`] bytes, and is two bytes beyond a multiple of eight.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "taken apart")]
#[expect(clippy::cast_ptr_alignment, reason = "promised by the caller")]
unsafe fn write_template(frame: *mut u8, recipe: &Recipe) {
    // SAFETY: these places lie within the frame and have the alignment of what is written there.
    unsafe {
        frame.cast::<u16>().write_volatile((recipe.head >> 16) as u16);
        frame.add(2).cast::<u32>().write_volatile((recipe.head >> 32) as u32);
        for (at, word) in recipe.words.iter().enumerate() {
            frame.add(FIRST_WORD + 8 * at).cast::<u64>().write_volatile(*word);
        }
        frame.add(FRAME_LEN - 2).cast::<u16>().write_volatile(recipe.tail as u16);
    }
}
