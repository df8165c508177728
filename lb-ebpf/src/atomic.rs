//! Atomic read-modify-write instructions. The kernel has had them since 5.12; Rust's target has no names for them.

use core::arch::asm;

/// Replaces what `target` points to by `new` if it is `old`. Whether it was. Sequentially consistent.
///
/// # Safety
/// `target` points to an aligned word of a map value.
#[inline(always)]
pub unsafe fn compare_and_swap(target: *mut u64, old: u64, new: u64) -> bool {
    let found: u64;
    // SAFETY: the instruction reads and writes that word alone.
    unsafe {
        asm!(
            "r0 = cmpxchg_64({target} + 0, r0, {new})",
            target = in(reg) target,
            new = in(reg) new,
            inout("r0") old => found,
            options(nostack),
        );
    }
    found == old
}

/// Adds `addend` to what `target` points to, which overflows silently. What it was before.
///
/// # Safety
/// `target` points to an aligned word of a map value.
#[inline(always)]
pub unsafe fn fetch_add(target: *mut u64, addend: u64) -> u64 {
    let mut value = addend;
    // SAFETY: the instruction reads and writes that word alone.
    unsafe {
        asm!(
            "{value} = atomic_fetch_add((u64 *)({target} + 0), {value})",
            target = in(reg) target,
            value = inout(reg) value,
            options(nostack),
        );
    }
    value
}
