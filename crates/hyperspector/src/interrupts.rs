//! Ctrl-C and its like as something to wait for, instead of the end of the program.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// SIGINT, SIGTERM and SIGHUP, delivered to a descriptor (signalfd(2)).
#[derive(Debug)]
pub struct Interrupts(OwnedFd);

impl Interrupts {
    /// Takes the signals from here on.
    pub fn take() -> io::Result<Self> {
        Self::of(&[libc::SIGINT, libc::SIGTERM, libc::SIGHUP])
    }

    /// Takes `signals` from here on. Children that are started later inherit the mask.
    pub fn of(signals: &[i32]) -> io::Result<Self> {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigemptyset initialises what the pointer points to.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: just initialised.
        let mut set = unsafe { set.assume_init() };
        for signal in signals {
            // SAFETY: `set` is initialised and `signal` a number.
            unsafe { libc::sigaddset(&raw mut set, *signal) };
        }
        // SAFETY: `set` is only read; the old mask is not asked for.
        check(unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) })?;
        // SAFETY: `set` is only read; -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC) };
        check(fd)?;
        // SAFETY: the call succeeded, so `fd` is new and nobody else's.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Waits for one, at most this long. Returns whether one came.
    pub fn came_within(&self, limit: Duration) -> bool {
        let timeout = Timespec::try_from(limit).unwrap_or_default();
        poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&timeout))
            .is_ok_and(|ready| ready > 0)
    }

    /// Takes one, which is waited for.
    pub fn next(&self) -> Option<i32> {
        let mut buffer = [0_u8; size_of::<libc::signalfd_siginfo>()];
        // The number comes first (signalfd(2)).
        rustix::io::read(&self.0, &mut buffer).ok()?;
        let number = buffer.first_chunk::<4>()?;
        i32::try_from(u32::from_ne_bytes(*number)).ok()
    }
}

impl AsFd for Interrupts {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
