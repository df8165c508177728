//! The bpf system call, for the commands that aya has no functions for, and one more to wait for programs by.
//!
//! Names and layouts are those of `union bpf_attr` in linux/bpf.h, each structure as far as the command reads it.

use std::{
    ffi::{CString, c_long},
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use libc::c_uint;

const BPF_MAP_CREATE: c_uint = 0;
const BPF_MAP_LOOKUP_ELEM: c_uint = 1;
const BPF_OBJ_GET: c_uint = 7;
const BPF_LINK_DETACH: c_uint = 34;

#[repr(C)]
struct ObjGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

#[repr(C)]
struct LinkDetach {
    link_fd: RawFd,
}

#[repr(C)]
struct LookUp {
    map_fd: RawFd,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; 16],
}

/// Makes an array of `values` values of `size` bytes that can be mapped into memory.
///
/// # Errors
/// There is no memory, or the kernel (before 6.0) makes no value beyond 4 MiB.
pub(super) fn create_mapped_array(name: &str, size: u32, values: u32) -> io::Result<OwnedFd> {
    const BPF_MAP_TYPE_ARRAY: u32 = 2;
    const BPF_F_MMAPABLE: u32 = 1 << 10;
    // Ends with a zero.
    let mut map_name = [0; 16];
    for (to, from) in map_name.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    let mut create = MapCreate {
        map_type: BPF_MAP_TYPE_ARRAY,
        key_size: 4,
        value_size: size,
        max_entries: values,
        map_flags: BPF_F_MMAPABLE,
        inner_map_fd: 0,
        numa_node: 0,
        map_name,
    };
    // SAFETY: the fields are the command's.
    unsafe { make(BPF_MAP_CREATE, &mut create) }
}

/// Detaches the link that is pinned at `pin`, which stays as the pin of a link that does nothing. When this returns the
/// kernel has detached it.
///
/// # Errors
/// There is no link, or the kernel (before 5.9) can't.
pub(super) fn detach(pin: &Path) -> io::Result<()> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut get = ObjGet { pathname: path.as_ptr().addr() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: the fields are the command's, and `path` outlives the call.
    let link = unsafe { make(BPF_OBJ_GET, &mut get) }?;
    // SAFETY: the field is the command's.
    unsafe { bpf(BPF_LINK_DETACH, &mut LinkDetach { link_fd: link.as_raw_fd() }) }.map(drop)
}

/// Copies the element at `index` of an array into `value`.
///
/// # Safety
/// `map` is an array, and `value` has room for its elements, rounded up to 8 bytes.
///
/// # Errors
/// There is no such element.
pub(super) unsafe fn look_up(map: BorrowedFd<'_>, index: u32, value: &mut [u8]) -> io::Result<()> {
    let (key, value) = (address(&index), value.as_mut_ptr().addr() as u64);
    let mut look_up = LookUp { map_fd: map.as_raw_fd(), pad: 0, key, value, flags: 0 };
    // SAFETY: the fields are the command's; an array's key has four bytes, and the caller answers for `value`.
    unsafe { bpf(BPF_MAP_LOOKUP_ELEM, &mut look_up) }.map(drop)
}

/// Returns when every run of a program that had begun has ended.
///
/// Programs run within the kernel's RCU read sections, and `membarrier` waits for these to end. A kernel that can't (one with
/// `nohz_full`, for one) is given a hundred milliseconds: a run takes microseconds. With one CPU it does not wait, and need
/// not: whoever calls it runs there, and no program is in the middle of a run.
pub(super) fn wait_for_programs() {
    // SAFETY: the command takes nothing and changes no memory.
    let answer = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if answer < 0 {
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

fn address<T>(value: &T) -> u64 {
    (&raw const *value).addr() as u64
}

/// The bpf system call, with a command that makes a file descriptor.
///
/// # Safety
/// As for [`bpf`], and `command` is one that does.
unsafe fn make<T>(command: c_uint, attributes: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise.
    let fd = unsafe { bpf(command, attributes) }?;
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor, for this call alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The bpf system call.
///
/// # Safety
/// `attributes` must be what `command` reads and writes of `union bpf_attr`, and what it points to must be valid.
unsafe fn bpf<T>(command: c_uint, attributes: &mut T) -> io::Result<c_long> {
    let attributes: *mut T = attributes;
    // SAFETY: the kernel reads and writes as many bytes as it is told, which are all there; the caller answers for their
    // meaning.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}
