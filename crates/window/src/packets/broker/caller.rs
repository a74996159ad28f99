//! The world behind the broker's logic: callers, and the sockets that they get.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use hyperspector_sys::channel::Channel;
use hyperspector_sys::pidfd;
use hyperspector_sys::seccomp_notify::{Listener, Notification};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::sockopt;

use super::answers::{Edge, Socket};
use crate::packets::diag::{Diag, Live};
use crate::packets::guard::{self, Kind};
use crate::packets::option;

/// How long the guard may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the broker holds besides its listeners.
#[derive(Debug)]
pub(super) struct Outside {
    /// The root of a procfs of the portspace's processes.
    pub(super) procfs: OwnedFd,
    diag: Diag,
    guard: Option<Channel>,
}

impl Outside {
    pub(super) fn new(procfs: OwnedFd, diag: Diag) -> Self {
        Self { procfs, diag, guard: None }
    }

    /// Uses this connection to the guard from now on.
    pub(super) fn set_guard(&mut self, guard: Option<Channel>) {
        let limited = guard.filter(|guard| {
            let stream = guard.stream();
            stream.set_read_timeout(Some(PATIENCE)).is_ok()
                && stream.set_write_timeout(Some(PATIENCE)).is_ok()
        });
        self.guard = limited;
    }

    /// The connection to the guard.
    pub(super) fn guard(&self) -> Option<&Channel> {
        self.guard.as_ref()
    }

    /// The packet sockets of the host's network namespace.
    pub(super) fn live(&mut self) -> io::Result<Vec<Live>> {
        self.diag.sockets()
    }

    fn create(&mut self, kind: Kind) -> Result<OwnedFd, Errno> {
        let guard = self.guard.as_ref().ok_or(Errno::NETDOWN)?;
        match ask(guard, kind) {
            Ok(answer) => answer,
            // Whatever came late would be taken for the next answer.
            Err(_) => {
                self.guard = None;
                Err(Errno::NETDOWN)
            }
        }
    }
}

fn ask(guard: &Channel, kind: Kind) -> io::Result<Result<OwnedFd, Errno>> {
    let unexpected = || io::Error::from(io::ErrorKind::InvalidData);
    guard.send(&guard::Request::Open { kind }, &[])?;
    let (reply, fds) = guard.receive()?.ok_or_else(unexpected)?;
    match (reply, <[OwnedFd; 1]>::try_from(fds)) {
        (guard::Reply::Opened, Ok([socket])) => Ok(Ok(socket)),
        (guard::Reply::Refused(errno), _) => Ok(Err(Errno::from_raw_os_error(errno))),
        _ => Err(unexpected()),
    }
}

/// One caller, for the time of one call.
pub(super) struct Caller<'a> {
    pub(super) outside: &'a mut Outside,
    pub(super) listener: &'a Listener,
    pub(super) notification: Notification,
    /// Made when first needed.
    process: Option<OwnedFd>,
}

impl<'a> Caller<'a> {
    pub(super) fn new(
        outside: &'a mut Outside,
        listener: &'a Listener,
        notification: Notification,
    ) -> Self {
        Self { outside, listener, notification, process: None }
    }

    /// That what was just looked at by thread id was the caller's.
    pub(super) fn still_there(&self) -> Result<(), Errno> {
        let there = self.listener.is_waiting(self.notification.id);
        if there { Ok(()) } else { Err(Errno::SRCH) }
    }

    fn open(&self) -> Result<OwnedFd, Errno> {
        let tid = self.notification.tid;
        match pidfd::open_thread(tid).map_err(errno) {
            // The kernel is older than descriptors for threads.
            Err(Errno::INVAL) => {
                let leader = status_field(&self.status()?, "Tgid:").ok_or(Errno::SRCH)?;
                pidfd::open_process(leader).map_err(errno)
            }
            other => other,
        }
    }

    /// The text of the caller's `/proc/TID/status`.
    pub(super) fn status(&self) -> Result<String, Errno> {
        let path = format!("{}/status", self.notification.tid);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.outside.procfs, path, flags, Mode::empty())?;
        let text = read_small(&file)?;
        self.still_there()?;
        String::from_utf8(text).map_err(|_| Errno::INVAL)
    }

    /// A directory of the caller: `root` or `cwd`.
    pub(super) fn directory(&self, name: &str) -> Result<OwnedFd, Errno> {
        let path = format!("{}/{name}", self.notification.tid);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(&self.outside.procfs, path, flags, Mode::empty())?;
        self.still_there()?;
        Ok(directory)
    }
}

impl Edge for Caller<'_> {
    type Socket = OwnedFd;

    fn read(&mut self, address: u64, into: &mut [u8]) -> Result<(), Errno> {
        pidfd::read_memory(self.notification.tid, address, into).map_err(errno)?;
        self.still_there()
    }

    fn duplicate(&mut self, fd: i32) -> Result<OwnedFd, Errno> {
        if self.process.is_none() {
            let process = self.open()?;
            self.still_there()?;
            self.process = Some(process);
        }
        let process = self.process.as_ref().ok_or(Errno::SRCH)?;
        pidfd::duplicate(process.as_fd(), fd).map_err(errno)
    }

    fn create(&mut self, kind: Kind) -> Result<OwnedFd, Errno> {
        self.outside.create(kind)
    }

    fn live(&mut self) -> Result<Vec<Live>, Errno> {
        self.outside.live().map_err(errno)
    }
}

impl Socket for OwnedFd {
    fn domain(&self) -> Result<i32, Errno> {
        Ok(option::get(self.as_fd(), libc::SOL_SOCKET, libc::SO_DOMAIN)?.cast_signed())
    }

    fn cookie(&self) -> Result<u64, Errno> {
        sockopt::socket_cookie(self)
    }

    fn bind(&self, address: &[u8]) -> Result<(), Errno> {
        option::bind(self.as_fd(), address)
    }

    fn set(&self, name: i32, value: &[u8]) -> Result<(), Errno> {
        option::set(self.as_fd(), libc::SOL_PACKET, name, value)
    }

    fn group(&self) -> Result<u16, Errno> {
        let value = option::get(self.as_fd(), libc::SOL_PACKET, libc::PACKET_FANOUT)?;
        u16::try_from(value & 0xffff).map_err(|_| Errno::INVAL)
    }

    fn set_nonblocking(&self) -> Result<(), Errno> {
        rustix::fs::fcntl_setfl(self, rustix::fs::fcntl_getfl(self)? | OFlags::NONBLOCK)
    }
}

/// The first number after `name` in the text of a `status` file (proc_pid_status(5)).
pub(super) fn status_field(status: &str, name: &str) -> Option<u32> {
    let rest = status.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// Reads a file of procfs, 64 KiB at most.
fn read_small(file: &OwnedFd) -> Result<Vec<u8>, Errno> {
    let mut text = vec![0; 64 << 10];
    let mut length = 0;
    while length < text.len() {
        match rustix::io::read(file, &mut text[length..])? {
            0 => break,
            got => length += got,
        }
    }
    text.truncate(length);
    Ok(text)
}

/// The errno in an error; `EIO` if there is none.
pub(super) fn errno(error: io::Error) -> Errno {
    Errno::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO))
}

/// The path of our own descriptor, below our procfs.
pub(super) fn own_descriptor(fd: &OwnedFd) -> String {
    format!("self/fd/{}", fd.as_raw_fd())
}
