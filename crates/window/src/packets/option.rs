//! Socket options by number, of sockets that nothing in rustix speaks for.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// Sets an option (setsockopt(2)).
pub(super) fn set(
    socket: BorrowedFd<'_>,
    level: i32,
    name: i32,
    value: &[u8],
) -> Result<(), Errno> {
    let length = libc::socklen_t::try_from(value.len()).map_err(|_| Errno::INVAL)?;
    // SAFETY: `value` lives across the call, which reads `length` bytes of it. Options that hold
    // pointers are never set through this function.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), length) };
    if result == 0 { Ok(()) } else { Err(last()) }
}

/// Reads an option of four bytes (getsockopt(2)).
pub(super) fn get(socket: BorrowedFd<'_>, level: i32, name: i32) -> Result<u32, Errno> {
    let mut value = [0_u8; 4];
    let mut length: libc::socklen_t = 4;
    // SAFETY: `value` and `length` live across the call, and `length` is the size of `value`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            value.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(u32::from_ne_bytes(value)) } else { Err(last()) }
}

/// Binds a socket to an address given as bytes (bind(2)).
pub(super) fn bind(socket: BorrowedFd<'_>, address: &[u8]) -> Result<(), Errno> {
    let length = libc::socklen_t::try_from(address.len()).map_err(|_| Errno::INVAL)?;
    // SAFETY: `address` lives across the call, which reads `length` bytes of it.
    let result = unsafe { libc::bind(socket.as_raw_fd(), address.as_ptr().cast(), length) };
    if result == 0 { Ok(()) } else { Err(last()) }
}

/// Connects a socket to an address given as bytes (connect(2)).
pub(super) fn connect(socket: BorrowedFd<'_>, address: &[u8]) -> Result<(), Errno> {
    let length = libc::socklen_t::try_from(address.len()).map_err(|_| Errno::INVAL)?;
    // SAFETY: `address` lives across the call, which reads `length` bytes of it.
    let result = unsafe { libc::connect(socket.as_raw_fd(), address.as_ptr().cast(), length) };
    if result == 0 { Ok(()) } else { Err(last()) }
}

fn last() -> Errno {
    let errno = std::io::Error::last_os_error().raw_os_error();
    Errno::from_raw_os_error(errno.unwrap_or(libc::EIO))
}
