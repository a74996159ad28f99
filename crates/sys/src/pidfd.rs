//! Other processes by descriptor: what rustix lacks of pidfd_open(2), and their memory
//! (process_vm_readv(2)).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// `PIDFD_THREAD` (include/uapi/linux/pidfd.h): the descriptor stands for one thread.
const PIDFD_THREAD: libc::c_uint = libc::O_EXCL.cast_unsigned();

/// When the process `pid` was started, in clock ticks since boot (proc_pid_stat(5), field 22); `None`
/// where there is none. Tells a process from a later one of the same number.
pub fn start_time(pid: u32) -> io::Result<Option<u64>> {
    let text = match std::fs::read(format!("/proc/{pid}/stat")) {
        Err(e) if is_gone(&e) => return Ok(None),
        other => other?,
    };
    Ok(start_time_in(&String::from_utf8_lossy(&text)))
}

/// Opened before it ended, or after.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// The start time in the text of a `/proc/PID/stat`.
pub fn start_time_in(stat: &str) -> Option<u64> {
    // The second field is the program's name, in brackets, and may hold anything.
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Waits until the process behind `pidfd` has ended, `limit` at most. Returns whether it has.
///
/// # Errors
/// As poll(2).
pub fn has_ended_within(pidfd: BorrowedFd<'_>, limit: Duration) -> io::Result<bool> {
    let end = Instant::now() + limit;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap_or_default();
        match poll(&mut [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)], Some(&left)) {
            Err(Errno::INTR) => {}
            other => return Ok(other? > 0),
        }
    }
}

/// A descriptor for the thread `tid` (pidfd_open(2) with `PIDFD_THREAD`, Linux 6.9).
///
/// # Errors
/// `EINVAL` where the kernel does not know the flag, `ESRCH` where there is no such thread.
pub fn open_thread(tid: u32) -> io::Result<OwnedFd> {
    open(tid, PIDFD_THREAD)
}

/// A descriptor for the process `pid` (pidfd_open(2)).
///
/// # Errors
/// `EINVAL` or `ENOENT` where `pid` is a thread that does not lead its process.
pub fn open_process(pid: u32) -> io::Result<OwnedFd> {
    open(pid, 0)
}

fn open(pid: u32, flags: libc::c_uint) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, flags) };
    owned(fd)
}

/// A duplicate, close-on-exec, of descriptor `fd` of the process behind `pidfd` (pidfd_getfd(2)).
///
/// # Errors
/// `EBADF` where it has no such descriptor, `EPERM` without the right to trace it.
pub fn duplicate(pidfd: BorrowedFd<'_>, fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_getfd takes three integers, and makes a descriptor of our own.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) };
    owned(fd)
}

/// Copies `into.len()` bytes from `address` in the memory of `pid` (process_vm_readv(2)).
///
/// # Errors
/// `EFAULT` where not all of it is readable, `EPERM` without the right to trace the process.
pub fn read_memory(pid: u32, address: u64, into: &mut [u8]) -> io::Result<()> {
    let fault = || io::Error::from_raw_os_error(libc::EFAULT);
    if into.is_empty() {
        return Ok(());
    }
    let start = usize::try_from(address).map_err(|_| fault())?;
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
    let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    let remote =
        libc::iovec { iov_base: std::ptr::without_provenance_mut(start), iov_len: into.len() };
    // SAFETY: `local` describes `into`, which is ours alone and lives across the call; `remote` is
    // an address in the other process, which the kernel checks.
    let got = unsafe { libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0) };
    match usize::try_from(got) {
        Ok(got) if got == into.len() => Ok(()),
        Ok(_) => Err(fault()),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Owns the descriptor that a system call returned.
fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    match RawFd::try_from(result) {
        // SAFETY: the kernel has just made this descriptor, and nothing else owns it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn own_memory_can_be_read_and_a_wild_address_faults() {
        let secret = *b"over there";
        let mut copy = [0_u8; 10];
        let address = secret.as_ptr().addr() as u64;
        read_memory(std::process::id(), address, &mut copy).unwrap();
        assert_eq!(copy, secret);
        let wild = read_memory(std::process::id(), 0x10, &mut copy).unwrap_err();
        assert_eq!(wild.raw_os_error(), Some(libc::EFAULT));
        let kernel = read_memory(std::process::id(), u64::MAX - 4, &mut copy).unwrap_err();
        assert_eq!(kernel.raw_os_error(), Some(libc::EFAULT));
    }

    #[test]
    fn a_descriptor_can_be_duplicated_through_a_pidfd() {
        let process = open_process(std::process::id()).unwrap();
        let file = tempfile::tempfile().unwrap();
        let copy = duplicate(process.as_fd(), file.as_raw_fd()).unwrap();
        assert_ne!(copy.as_raw_fd(), file.as_raw_fd());
        let bad = duplicate(process.as_fd(), -1).unwrap_err();
        assert_eq!(bad.raw_os_error(), Some(libc::EBADF));
    }
}
