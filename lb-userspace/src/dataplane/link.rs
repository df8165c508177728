//! Detaching pinned links, for which aya has no function.

use std::{
    ffi::{CString, c_long},
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use libc::c_uint;

/// Commands of the bpf system call, `enum bpf_cmd` in linux/bpf.h.
const BPF_OBJ_GET: c_uint = 7;
const BPF_LINK_DETACH: c_uint = 34;

/// What `BPF_OBJ_GET` reads of `union bpf_attr`.
#[repr(C)]
struct ObjGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// What `BPF_LINK_DETACH` reads of `union bpf_attr`.
#[repr(C)]
struct LinkDetach {
    link_fd: RawFd,
}

/// Detaches the link that is pinned at `pin`, which stays as the pin of a link that does nothing. When this returns the
/// kernel has detached it.
///
/// # Errors
/// There is no link, or the kernel (before 5.9) can't.
pub(super) fn detach(pin: &Path) -> io::Result<()> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let get = ObjGet { pathname: path.as_ptr().addr() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: the fields are the command's, and `path` outlives the call.
    let fd = unsafe { bpf(BPF_OBJ_GET, &get) }?;
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor, for this call alone.
    let link = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: the field is the command's.
    unsafe { bpf(BPF_LINK_DETACH, &LinkDetach { link_fd: link.as_raw_fd() }) }.map(drop)
}

/// The bpf system call.
///
/// # Safety
/// `attributes` must be what `command` reads of `union bpf_attr`, and what it points to must be valid.
pub(super) unsafe fn bpf<T>(command: c_uint, attributes: &T) -> io::Result<c_long> {
    let attributes: *const T = attributes;
    // SAFETY: the kernel reads as many bytes as it is told, which are all there; the caller answers for their meaning.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}
