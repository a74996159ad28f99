//! Signals of init, taken as data from a descriptor (signalfd(2)) instead of handlers.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

/// Blocks all signals and returns a descriptor that delivers those that init acts on.
///
/// The kernel drops a signal from outside that PID 1 has no handler for, unless it is blocked
/// (pid_namespaces(7)); blocked, it waits for the descriptor.
pub fn take() -> io::Result<OwnedFd> {
    let set = full();
    // SAFETY: `set` is initialised and only read; the old mask is not asked for.
    check(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) })?;
    let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
    // SAFETY: `set` is initialised and only read; -1 asks for a new descriptor.
    let fd = unsafe { libc::signalfd(-1, &raw const set, flags) };
    check(fd)?;
    // SAFETY: the call succeeded, so `fd` is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The next signal that is waiting, if any.
pub fn next(from: &impl AsFd) -> Option<i32> {
    let mut buffer = [0_u8; size_of::<libc::signalfd_siginfo>()];
    let read = rustix::io::read(from, &mut buffer).ok()?;
    let number = buffer.get(..4).filter(|_| read == buffer.len())?;
    Some(i32::from_ne_bytes([number[0], number[1], number[2], number[3]]))
}

/// In a child: unblocks all signals; dispositions are reset by exec but for ignored ones.
pub fn reset() -> io::Result<()> {
    let set = empty();
    // SAFETY: SIG_DFL is a valid disposition for SIGPIPE, which the Rust runtime ignores.
    if unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `set` is initialised and only read; the old mask is not asked for.
    check(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) })
}

/// Sends `signal` to every process of this PID namespace but init.
pub fn send_all(signal: i32) {
    // SAFETY: kill takes integers; -1 stands for every process that the caller sees, itself left out.
    unsafe { libc::kill(-1, signal) };
}

/// Sends `signal` to the session that `leader` leads, or to it alone where it leads none.
pub fn send(leader: i32, signal: i32) {
    // SAFETY: kill takes integers; `leader` is a child that has not been waited for.
    unsafe { libc::kill(leader, signal) };
}

fn full() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigfillset initialises what the pointer points to, and cannot fail on a valid one.
    unsafe { libc::sigfillset(set.as_mut_ptr()) };
    // SAFETY: just initialised.
    unsafe { set.assume_init() }
}

fn empty() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises what the pointer points to, and cannot fail on a valid one.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: just initialised.
    unsafe { set.assume_init() }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
