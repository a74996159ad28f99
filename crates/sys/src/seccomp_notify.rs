//! Answering another process's system calls: seccomp user notification
//! (seccomp_unotify(2)).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// What a filter returns to have the listener asked (include/uapi/linux/seccomp.h).
pub const RET_USER_NOTIF: u32 = libc::SECCOMP_RET_USER_NOTIF;

/// The flag of `SECCOMP_IOCTL_NOTIF_SET_FLAGS` that wakes the listener on the caller's processor
/// (Linux 6.6).
const SYNC_WAKE_UP: u64 = 1;

/// The receiving end of a filter's notifications.
#[derive(Debug)]
pub struct Listener(OwnedFd);

/// A system call that waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Names it in the answer.
    pub id: u64,
    /// The calling thread, as the receiver's PID namespace sees it; 0 where it does not.
    pub tid: u32,
    /// The system call's number.
    pub call: i64,
    /// Its arguments.
    pub args: [u64; 6],
}

/// The answer to a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It returns this.
    Value(i64),
    /// It fails with this errno.
    Errno(i32),
    /// The kernel goes on with it. Whatever its pointers and descriptors refer to may have changed
    /// since it was looked at: only the arguments themselves are certain.
    Continue,
}

impl Listener {
    /// Wraps a listener that was passed on.
    pub fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Asks for direct wake-ups, which halve the time of an answer; kernels that do not know them
    /// are none the worse.
    pub fn wake_in_step(&self) {
        // SAFETY: NOTIF_SET_FLAGS takes the flags by value.
        unsafe {
            libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, SYNC_WAKE_UP)
        };
    }

    /// Takes the next notification; waits for one if there is none.
    ///
    /// # Errors
    /// `ENOENT` where the caller was killed meanwhile: not a failure, there is nobody to answer.
    pub fn receive(&self) -> io::Result<Notification> {
        let mut raw = libc::seccomp_notif {
            id: 0,
            pid: 0,
            flags: 0,
            data: libc::seccomp_data { nr: 0, arch: 0, instruction_pointer: 0, args: [0; 6] },
        };
        let fd = self.0.as_raw_fd();
        // SAFETY: `raw` is a zeroed seccomp_notif, as NOTIF_RECV wants, and lives across the call.
        check(unsafe { libc::ioctl(fd, libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut raw) })?;
        let call = i64::from(raw.data.nr);
        Ok(Notification { id: raw.id, tid: raw.pid, call, args: raw.data.args })
    }

    /// Whether the caller is still there and waiting. To be asked after opening anything by its
    /// thread id, which could have been given to somebody else meanwhile.
    pub fn is_waiting(&self, id: u64) -> bool {
        // SAFETY: NOTIF_ID_VALID reads one u64, which lives across the call.
        unsafe {
            libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw const id) == 0
        }
    }

    /// Answers.
    ///
    /// # Errors
    /// `ENOENT` where the caller is gone.
    pub fn reply(&self, id: u64, reply: Reply) -> io::Result<()> {
        let continued = u32::try_from(libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE).unwrap_or_default();
        let (val, error, flags) = match reply {
            Reply::Value(value) => (value, 0, 0),
            Reply::Errno(errno) => (0, -errno, 0),
            Reply::Continue => (0, 0, continued),
        };
        let mut raw = libc::seccomp_notif_resp { id, val, error, flags };
        let fd = self.0.as_raw_fd();
        // SAFETY: `raw` is a whole seccomp_notif_resp and lives across the call.
        check(unsafe { libc::ioctl(fd, libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut raw) })
    }

    /// Gives the caller a duplicate of `fd` and answers with its number, in one step (Linux 5.14).
    ///
    /// # Errors
    /// `ENOENT` where the caller is gone; `EMFILE` where it may have no more descriptors: it still
    /// waits for an answer then.
    pub fn reply_with_fd(&self, id: u64, fd: BorrowedFd<'_>, cloexec: bool) -> io::Result<()> {
        let raw = libc::seccomp_notif_addfd {
            id,
            flags: u32::try_from(libc::SECCOMP_ADDFD_FLAG_SEND).unwrap_or_default(),
            srcfd: fd.as_raw_fd().cast_unsigned(),
            newfd: 0,
            newfd_flags: if cloexec { libc::O_CLOEXEC.cast_unsigned() } else { 0 },
        };
        let listener = self.0.as_raw_fd();
        // SAFETY: `raw` is a whole seccomp_notif_addfd and lives across the call; `fd` is open.
        check(unsafe { libc::ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_ADDFD, &raw const raw) })
    }

    /// A second handle on the same listener.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Turns every return of `from` in a compiled filter into "ask the listener", which the compiler
/// has no word for.
pub fn ask_instead_of(from: u32, program: &mut [seccompiler::sock_filter]) {
    const RET_K: u16 = 0x06;
    for instruction in program.iter_mut().filter(|i| i.code == RET_K && i.k == from) {
        instruction.k = RET_USER_NOTIF;
    }
}

/// Installs a filter that asks, on the calling thread, and returns its listener. The thread must
/// have no_new_privs set or CAP_SYS_ADMIN in its user namespace.
///
/// Once a call has been received by the listener, only a fatal signal interrupts it, where the
/// kernel can do that (Linux 5.19): otherwise a call that was half answered could be made twice.
///
/// # Errors
/// `EBUSY` where a filter of this thread already has a listener: there can be one.
pub fn install(program: &[seccompiler::sock_filter]) -> io::Result<Listener> {
    let mut filter: Vec<_> = program
        .iter()
        .map(|i| libc::sock_filter { code: i.code, jt: i.jt, jf: i.jf, k: i.k })
        .collect();
    let length = u16::try_from(filter.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "filter too long"))?;
    let program = libc::sock_fprog { len: length, filter: filter.as_mut_ptr() };
    let listening = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    let fd = set_filter(listening | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, &program)
        .or_else(|error| match error.raw_os_error() {
            Some(libc::EINVAL) => set_filter(listening, &program),
            _ => Err(error),
        })?;
    Ok(Listener(fd))
}

fn set_filter(flags: libc::c_ulong, program: &libc::sock_fprog) -> io::Result<OwnedFd> {
    let mode = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: `program` points at as many instructions as it says, and both live across the call,
    // which copies them.
    let fd = unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const *program) };
    match RawFd::try_from(fd) {
        // SAFETY: with NEW_LISTENER the call returns a new descriptor that nothing else owns.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
