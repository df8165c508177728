//! Atomic read-modify-write instructions. The kernel has had them since 5.12; Rust's target has no names for them.

#[cfg(target_arch = "bpf")]
use core::arch::asm;

/// Replaces what `target` points to by `new` if it is `old`. Whether it was. Sequentially consistent.
///
/// # Safety
/// `target` points to an aligned word of a map value.
#[cfg(target_arch = "bpf")]
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
#[cfg(target_arch = "bpf")]
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

/// Sets `bits` of what `target` points to. What it was before.
///
/// # Safety
/// `target` points to an aligned word of a map value.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub unsafe fn fetch_or(target: *mut u64, bits: u64) -> u64 {
    let mut value = bits;
    // SAFETY: the instruction reads and writes that word alone.
    unsafe {
        asm!(
            "{value} = atomic_fetch_or((u64 *)({target} + 0), {value})",
            target = in(reg) target,
            value = inout(reg) value,
            options(nostack),
        );
    }
    value
}

/// The same pointer, so that what is read through it is read after `seen` was: processors that reorder loads don't where the
/// address of one depends on the other.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub fn after(pointer: *mut u64, seen: u64) -> *mut u64 {
    let mut pointer = pointer;
    // SAFETY: adds 0, and touches no memory.
    unsafe {
        asm!(
            "{seen} &= 0",
            "{pointer} += {seen}",
            seen = inout(reg) seen => _,
            pointer = inout(reg) pointer,
            options(nostack, nomem, pure),
        );
    }
    pointer
}

// The linter looks at the programs as if they were the host's.
#[cfg(not(target_arch = "bpf"))]
pub use host::{after, compare_and_swap, fetch_add, fetch_or};

#[cfg(not(target_arch = "bpf"))]
mod host {
    use core::sync::atomic::{AtomicU64, Ordering};

    pub unsafe fn compare_and_swap(target: *mut u64, old: u64, new: u64) -> bool {
        // SAFETY: the caller's promise.
        let target = unsafe { AtomicU64::from_ptr(target) };
        target.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    pub unsafe fn fetch_add(target: *mut u64, addend: u64) -> u64 {
        // SAFETY: the caller's promise.
        unsafe { AtomicU64::from_ptr(target) }.fetch_add(addend, Ordering::SeqCst)
    }

    pub fn after(pointer: *mut u64, _: u64) -> *mut u64 {
        pointer
    }

    pub unsafe fn fetch_or(target: *mut u64, bits: u64) -> u64 {
        // SAFETY: the caller's promise.
        unsafe { AtomicU64::from_ptr(target) }.fetch_or(bits, Ordering::SeqCst)
    }
}
