//! The tee as its keeper sees it.

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use hyperspector_sys::channel::Channel;
use hyperspector_sys::worker;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use crate::sockets::memory::Memory;
use crate::sockets::message::ToTee;
use crate::sockets::tee::round;

/// How long a tee may take to read what it is told.
const PATIENCE: Duration = Duration::from_secs(2);
/// After this long in one round, a call that holds it up is broken.
const HELD_UP: Duration = Duration::from_millis(500);
/// After this long it is given up.
const STUCK: Duration = Duration::from_secs(5);

/// A tee that runs.
pub(super) struct Tee {
    child: Child,
    pub(super) channel: Channel,
    pub(super) started: Instant,
    /// Connections that it was given and has not confirmed.
    pub(super) unconfirmed: usize,
    /// The round that it was seen in, and since when.
    seen: Option<(u64, Instant)>,
    is_stuck: bool,
}

impl Tee {
    /// Starts a tee with `fds`: an empty directory, the intake's memory, the socket for a successor.
    pub(super) fn start(ids: (u32, u32), fds: &[BorrowedFd<'_>]) -> io::Result<Self> {
        let start = ToTee::Start { uid: ids.0, gid: ids.1 };
        let (child, channel) = worker::spawn("tee", &start, fds, Stdio::inherit())?;
        channel.stream().set_write_timeout(Some(PATIENCE))?;
        let started = Instant::now();
        Ok(Self { child, channel, started, unconfirmed: 0, seen: None, is_stuck: false })
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Looks whether it goes on: what holds it up is broken with a signal, and after some time it is
    /// killed.
    pub(super) fn watch(&mut self, intake: &Memory) {
        if self.is_stopped() {
            self.signal(Signal::CONT);
        }
        let now = Instant::now();
        let Some(round) = round(intake) else {
            self.seen = None;
            return;
        };
        match self.seen {
            Some((seen, since)) if seen == round => {
                let held_up = now.duration_since(since);
                if held_up > STUCK {
                    self.is_stuck = true;
                    self.signal(Signal::KILL);
                } else if held_up > HELD_UP {
                    self.signal(Signal::ALARM);
                }
            }
            _ => self.seen = Some((round, now)),
        }
    }

    /// Whether somebody has stopped it, which stops every writer.
    fn is_stopped(&self) -> bool {
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
        let pid = Pid::from_raw(self.child.id().cast_signed());
        let asked = pid.map(|pid| waitid(WaitId::Pid(pid), options));
        matches!(asked, Some(Ok(Some(status))) if status.stopped())
    }

    fn signal(&self, signal: Signal) {
        // Its number is its own as long as it was not waited for, which only `end` does.
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            let _ = kill_process(pid, signal);
        }
    }

    /// Kills it.
    pub(super) fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// How it has ended, where it has: one that has closed its channel is about to.
    fn own_end(&mut self) -> Option<ExitStatus> {
        for _ in 0..100 {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        None
    }

    /// Ends it. Returns whether it has come to an end of its own, or was stuck.
    pub(super) fn end(mut self) -> bool {
        let own = self.own_end();
        let is_stuck = self.is_stuck;
        self.kill();
        is_stuck || own.is_some_and(|status| status.signal() != Some(libc::SIGKILL))
    }
}
