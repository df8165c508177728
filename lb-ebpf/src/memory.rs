//! Tables at fixed addresses, see [`lb_common::abi::fixed`].

#[cfg(target_arch = "bpf")]
use core::arch::asm;
use core::{marker::PhantomData, ptr};

use lb_common::abi::fixed::{self, FixedTable};

/// Elements of each table, by its number; replaced before loading, constant to the verifier.
#[unsafe(no_mangle)]
static FIXED_LENGTHS: [u32; fixed::COUNT] = [0; fixed::COUNT];

/// The table with this number, of elements `T`.
pub struct Table<T, const NUMBER: u32>(PhantomData<T>);

impl<T: 'static, const NUMBER: u32> Table<T, NUMBER> {
    /// The table.
    pub const fn new() -> Self {
        const { assert!(size_of::<T>() == FixedTable::ALL[NUMBER as usize].element() as usize, "elements of another size") };
        Self(PhantomData)
    }

    /// Number of elements.
    #[inline(always)]
    #[expect(clippy::unused_self, reason = "it is named by the table")]
    pub fn len(&self) -> u32 {
        // SAFETY: reads an element of a static of the program; volatile, since the loader replaces the value that the compiler sees.
        unsafe { ptr::read_volatile((&raw const FIXED_LENGTHS).cast::<u32>().add(NUMBER as usize)) }
    }

    /// The element at `index`.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "addresses have 64 bits")]
    pub fn get(&self, index: u32) -> Option<&'static T> {
        let index = whole(index.into());
        // SAFETY: the table has so many elements and is never freed while the program runs, and any bytes are an element; the
        // verifier sees to it.
        (index < self.len().into()).then(|| unsafe { &*address::<NUMBER>().cast::<T>().add(index as usize) })
    }
}

/// Where the table with this number is, or the map. The program as it is compiled loads its mark.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub fn address<const NUMBER: u32>() -> *const u8 {
    let address: *const u8;
    // SAFETY: the instruction sets that register alone.
    unsafe {
        asm!(
            "{address} = {mark} ll",
            address = out(reg) address,
            mark = const FixedTable::mark(NUMBER),
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    address
}

/// `index`, in the one register that the compiler compares and adds. It would compare the low half of another one, whose
/// bounds tell the verifier nothing of this one's.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub fn whole(mut index: u64) -> u64 {
    // SAFETY: the instruction changes nothing. One there must be: without any, two lines of the source are at one instruction,
    // which the kernel refuses.
    unsafe { asm!("{index} = {index}", index = inout(reg) index, options(pure, nomem, nostack, preserves_flags)) };
    index
}

// The linter looks at the programs as if they were the host's.
#[cfg(not(target_arch = "bpf"))]
pub fn address<const NUMBER: u32>() -> *const u8 {
    ptr::null()
}

#[cfg(not(target_arch = "bpf"))]
pub fn whole(index: u64) -> u64 {
    index
}
