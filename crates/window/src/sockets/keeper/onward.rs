//! Connections to a server's own receiver that are being made, each by a process of its own: the path to
//! the receiver may lead to a file system that answers nobody, and who waits there can do nothing else.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use hyperspector_sys::channel::Channel;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::connect::connect_as;
use super::serve::PATIENCE;
use crate::sockets::SocketKind;
use crate::sockets::batch::Sender;
use crate::sockets::message::{SourceId, Upstream};

/// How long making a connection may take. A writer whose connection takes longer sees its end.
const LONGEST: Duration = Duration::from_secs(5);

/// A connection that is being made.
pub(super) struct Onward {
    pub(super) source: SourceId,
    pub(super) sender: Sender,
    /// The writer's.
    pub(super) connection: OwnedFd,
    answer: Channel,
    process: Process,
    since: Instant,
}

/// The process that makes it. Dropping it does not end it.
pub(super) struct Process {
    pub(super) source: SourceId,
    pid: Pid,
}

impl Onward {
    /// Begins to connect the writer at the other end of `connection` to the receiver.
    pub(super) fn begin(
        source: SourceId,
        (sender, connection): (Sender, OwnedFd),
        upstream: &Upstream,
        kind: SocketKind,
    ) -> io::Result<Self> {
        let (answer, theirs) = Channel::pair()?;
        // SAFETY: the keeper has one thread, so the child is a whole copy.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // Whatever becomes of the keeper, it does not stay.
            // SAFETY: alarm takes an integer; the signal's default is to end the process.
            unsafe { libc::alarm(2 * LONGEST.as_secs() as u32) };
            keep_only([connection.as_raw_fd(), theirs.as_fd().as_raw_fd()]);
            if let Ok(onward) = connect_as(sender, &connection, upstream, kind) {
                let _ = theirs.send(&(), &[onward.as_fd()]);
            }
            // SAFETY: _exit ends the process without running anything of the parent's.
            unsafe { libc::_exit(0) }
        }
        let pid = if pid > 0 { Pid::from_raw(pid) } else { None };
        let process = Process { source, pid: pid.ok_or_else(io::Error::last_os_error)? };
        Ok(Self { source, sender, connection, answer, process, since: Instant::now() })
    }

    /// What tells that it is made, or cannot be.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.answer.as_fd()
    }

    /// Whether that is known, or has taken too long.
    pub(super) fn is_over(&self) -> bool {
        self.is_told() || self.since.elapsed() > LONGEST
    }

    fn is_told(&self) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(self.as_fd(), PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// The writer's connection and the one to the receiver, where there is one; and the process, which
    /// is about to end.
    pub(super) fn end(self) -> (Option<[OwnedFd; 2]>, Process) {
        let told = self.is_told().then(|| self.answer.receive_within::<()>(PATIENCE));
        let made = match told {
            Some(Ok(Some(((), fds)))) => fds.into_iter().next(),
            _ => None,
        };
        let _ = kill_process(self.process.pid, Signal::KILL);
        (made.map(|onward| [self.connection, onward]), self.process)
    }
}

impl Process {
    /// Whether it has ended. One that waits for a file system may take its time.
    pub(super) fn has_ended(&self) -> bool {
        !matches!(waitpid(Some(self.pid), WaitOptions::NOHANG), Ok(None))
    }
}

/// Closes all descriptors but the standard ones and these: a process that waits for a dead file system
/// for ever keeps nobody's connection open.
fn keep_only(mut kept: [i32; 2]) {
    kept.sort_unstable();
    let mut first = 3;
    for last in kept.map(i32::cast_unsigned) {
        if first < last {
            // SAFETY: close_range takes integers; nothing of this process uses what is closed.
            unsafe { libc::close_range(first, last - 1, 0) };
        }
        first = last + 1;
    }
    // SAFETY: as above.
    unsafe { libc::close_range(first, u32::MAX, 0) };
}
