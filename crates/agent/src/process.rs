//! Processes that outlive the agent: known by process id and start time, held by descriptor.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use hyperspector_sys::pidfd;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// Which process it is, for a file: a process id is given out again, with a start time it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// The process id on the host.
    pub pid: i32,
    /// When it started, in clock ticks since the machine did (proc_pid_stat(5)).
    pub start: u64,
}

impl ProcessId {
    /// Takes down which process `pid` is now.
    pub fn of(pid: i32) -> io::Result<Self> {
        Ok(Self { pid, start: start_time(pid)? })
    }

    /// Opens the process; `None` when it has ended.
    pub fn open(self) -> Option<Process> {
        let fd = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        // Asked after opening: the descriptor is of the process that had this start time.
        let process = Process { id: self, fd };
        (start_time(self.pid).ok()? == self.start && process.is_alive()).then_some(process)
    }
}

/// A process that is held, so that its id cannot come to mean another one.
#[derive(Debug)]
pub struct Process {
    /// Which one.
    pub id: ProcessId,
    fd: OwnedFd,
}

impl Process {
    /// Holds the process of `fd`, a pidfd of `pid`.
    pub fn new(pid: i32, fd: OwnedFd) -> io::Result<Self> {
        Ok(Self { id: ProcessId::of(pid)?, fd })
    }

    /// Whether it has not ended.
    pub fn is_alive(&self) -> bool {
        !self.has_ended_within(Duration::ZERO)
    }

    /// Waits until it has ended, at most this long. Returns whether it has.
    pub fn has_ended_within(&self, limit: Duration) -> bool {
        matches!(pidfd::has_ended_within(self.fd.as_fd(), limit), Ok(true))
    }

    /// Sends it a signal; fine when it has ended.
    pub fn signal(&self, signal: Signal) {
        let _ = pidfd_send_signal(&self.fd, signal);
    }

    /// Asks it to end, and kills it after `grace`.
    pub fn end(&self, grace: Duration) {
        self.signal(Signal::TERM);
        if !self.has_ended_within(grace) {
            self.kill();
        }
    }

    /// Kills it and waits until it is gone.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
        self.has_ended_within(Duration::from_secs(10));
    }
}

fn start_time(pid: i32) -> io::Result<u64> {
    let start = pidfd::start_time(pid.cast_unsigned())?;
    start.ok_or_else(|| io::ErrorKind::NotFound.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_again_and_another_start_time_is_another_process() {
        let own = ProcessId::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(own.open().is_some_and(|process| process.is_alive()));
        assert!(ProcessId { start: own.start + 1, ..own }.open().is_none());
    }

    #[test]
    fn an_ended_process_is_not_opened() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let id = ProcessId::of(i32::try_from(child.id()).unwrap()).unwrap();
        child.wait().unwrap();
        assert!(id.open().is_none());
    }
}
