//! System calls by number, with arguments that keep what they point to alive: an attempt is then
//! one line, and no C library stands between it and the kernel.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// One argument of a system call.
pub(super) enum Arg<'a> {
    /// An integer, a descriptor, or a null pointer.
    Number(u64),
    /// Memory that the kernel reads.
    Read(&'a [u8]),
    /// Memory that the kernel writes.
    Write(&'a mut [u8]),
}

/// A null pointer, or a zero.
pub(super) const NULL: u64 = 0;

impl Arg<'_> {
    fn raw(&mut self) -> u64 {
        match self {
            Arg::Number(number) => *number,
            Arg::Read(bytes) => bytes.as_ptr().addr() as u64,
            Arg::Write(bytes) => bytes.as_mut_ptr().addr() as u64,
        }
    }
}

impl From<i32> for Arg<'_> {
    fn from(number: i32) -> Self {
        Self::from(i64::from(number))
    }
}

impl From<i64> for Arg<'_> {
    fn from(number: i64) -> Self {
        Arg::Number(number.cast_unsigned())
    }
}

impl From<u32> for Arg<'_> {
    fn from(number: u32) -> Self {
        Arg::Number(number.into())
    }
}

impl From<u64> for Arg<'_> {
    fn from(number: u64) -> Self {
        Arg::Number(number)
    }
}

impl From<usize> for Arg<'_> {
    fn from(number: usize) -> Self {
        Arg::Number(number as u64)
    }
}

impl<'a> From<&'a CStr> for Arg<'a> {
    fn from(text: &'a CStr) -> Self {
        Arg::Read(text.to_bytes_with_nul())
    }
}

impl<'a> From<&'a CString> for Arg<'a> {
    fn from(text: &'a CString) -> Self {
        Arg::Read(text.as_bytes_with_nul())
    }
}

impl<'a> From<&'a [u8]> for Arg<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Arg::Read(bytes)
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Arg<'a> {
    fn from(bytes: &'a [u8; N]) -> Self {
        Arg::Read(bytes)
    }
}

impl<'a> From<&'a mut [u8]> for Arg<'a> {
    fn from(bytes: &'a mut [u8]) -> Self {
        Arg::Write(bytes)
    }
}

impl<'a, const N: usize> From<&'a mut [u8; N]> for Arg<'a> {
    fn from(bytes: &'a mut [u8; N]) -> Self {
        Arg::Write(bytes)
    }
}

impl From<&OwnedFd> for Arg<'_> {
    fn from(fd: &OwnedFd) -> Self {
        Self::from(fd.as_raw_fd())
    }
}

/// Makes the system call `number` (syscall(2)).
pub(super) fn call<const N: usize>(number: i64, mut args: [Arg<'_>; N]) -> io::Result<i64> {
    let mut raw = [0_u64; 6];
    for (slot, arg) in raw.iter_mut().zip(&mut args) {
        *slot = arg.raw();
    }
    // SAFETY: every pointer among the arguments comes from a slice that is borrowed, mutably where
    // the kernel writes, until after the call, and the callers pass the sizes that belong to them.
    // Calls that change memory maps are not made through here.
    let result = unsafe { libc::syscall(number, raw[0], raw[1], raw[2], raw[3], raw[4], raw[5]) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// `sys!(number, argument…)`: [`call`] with each argument converted.
macro_rules! sys {
    ($number:expr $(, $arg:expr)* $(,)?) => {
        $crate::attacker::call::call($number, [$($crate::attacker::call::Arg::from($arg)),*])
    };
}
pub(super) use sys;

/// Owns the descriptor that a successful system call returned.
pub(super) fn own(result: io::Result<i64>) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(result?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us, and nothing else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A structure of the kernel's interface as the bytes that a system call reads.
pub(super) fn bytes<T: Copy>(value: &T) -> &[u8] {
    // SAFETY: the reference is valid for the size of `T`, and the kernel's structures that are
    // passed here were zeroed first or have no padding.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// A structure of the kernel's interface as the bytes that a system call writes.
pub(super) fn bytes_mut<T: Copy>(value: &mut T) -> &mut [u8] {
    // SAFETY: the reference is valid and unique for the size of `T`; the types passed here are made
    // of integers, for which any bytes are valid.
    unsafe { std::slice::from_raw_parts_mut(std::ptr::from_mut(value).cast(), size_of::<T>()) }
}

/// A structure of the kernel's interface with all bytes zero.
pub(super) fn zeroed<T: Copy>() -> T {
    // SAFETY: used only with C structures made of integers and null pointers, for which zero bytes
    // are a valid value.
    unsafe { std::mem::zeroed() }
}

/// The path or name as a C string; what follows a NUL byte is cut off.
pub(super) fn c(text: impl AsRef<[u8]>) -> CString {
    let text = text.as_ref();
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    CString::new(&text[..end]).unwrap_or_default()
}

/// Opens a path without the C library's or Rust's changes to the flags (open(2)).
pub(super) fn open(path: &CStr, flags: i32) -> io::Result<OwnedFd> {
    own(sys!(libc::SYS_openat, libc::AT_FDCWD, path, flags | libc::O_CLOEXEC, 0o600))
}
