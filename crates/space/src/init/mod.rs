//! PID 1 of a space: starts the command, starts it again as the spec says, reaps, forwards signals,
//! keeps what is printed, runs commands for the operator.
//!
//! One thread, one loop over a handful of descriptors. It holds nothing that the space's own
//! processes could not have: two log files, a report file, a listening socket.

pub mod child;
mod companions;
mod execs;
pub mod log;
pub mod report;
pub mod schedule;
pub mod signals;
mod stragglers;
pub mod users;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{WaitOptions, wait};

use self::child::{Start, Streams, start};
use self::companions::Companions;
use self::execs::Execs;
use self::log::Log;
use self::report::Reporter;
use self::schedule::{Next, Schedule};
use crate::config::SpaceConfig;
use crate::control::{End, State};

/// How often leftovers of a run are looked for while it is being cleared away.
const CLEARING_STEP: Duration = Duration::from_millis(50);

/// What init works with.
pub struct Resources {
    /// Where requests come in.
    pub control: UnixListener,
    /// The two log files.
    pub logs: [OwnedFd; 2],
    /// The report file.
    pub report: OwnedFd,
}

/// What the command is up to.
enum Phase {
    /// It is to be started at this time; `None` for never.
    Due(Option<Instant>),
    /// It runs.
    Running { pid: i32, since: Instant },
    /// It has ended, and its leftovers are being ended too, until the deadline.
    Clearing { deadline: Instant, next: Next },
    /// The space is to end at this time.
    Leaving(Instant),
    /// The space was asked to end; whatever is left at the deadline is killed.
    Stopping(Instant),
}

/// Runs the space until it ends.
pub fn run(config: &SpaceConfig, resources: Resources) -> io::Result<ExitCode> {
    let signals = signals::take()?;
    resources.control.set_nonblocking(true)?;
    let mut init = Init {
        config,
        log: Log::new(resources.logs, config.log_size)?,
        reporter: Reporter::new(resources.report),
        schedule: Schedule::default(),
        phase: Phase::Due(Some(Instant::now())),
        execs: Execs::default(),
        companions: Companions::new(&config.companions),
    };
    loop {
        if init.advance() {
            return Ok(ExitCode::SUCCESS);
        }
        init.wait(&signals, &resources.control)?;
    }
}

struct Init<'a> {
    config: &'a SpaceConfig,
    log: Log,
    reporter: Reporter,
    schedule: Schedule,
    phase: Phase,
    execs: Execs,
    companions: Companions,
}

impl Init<'_> {
    /// Does what is due. Returns whether the space has ended.
    fn advance(&mut self) -> bool {
        let now = Instant::now();
        if !matches!(self.phase, Phase::Leaving(_) | Phase::Stopping(_)) {
            self.companions.start_due(self.config, &mut self.log, now);
        }
        match self.phase {
            Phase::Due(Some(at)) if at <= now => self.start_command(),
            Phase::Clearing { deadline, next } => self.clear(deadline, next, now),
            Phase::Leaving(at) => return at <= now,
            Phase::Stopping(deadline) => {
                if deadline <= now {
                    signals::send_all(libc::SIGKILL);
                }
                return !stragglers::any();
            }
            Phase::Due(_) | Phase::Running { .. } => {}
        }
        false
    }

    fn start_command(&mut self) {
        let started = self.log.writer().map_err(|error| error.to_string()).and_then(|pipe| {
            start(Start {
                command: &self.config.command,
                environment: vec![&self.config.environment],
                user: &self.config.user,
                directory: &self.config.directory,
                streams: Streams::Logged(pipe),
            })
        });
        match started {
            Ok(child) => {
                let pid = child.id().cast_signed();
                self.reporter.running(pid);
                self.phase = Phase::Running { pid, since: Instant::now() };
            }
            Err(reason) => {
                self.log.note(&reason);
                let next = self.schedule.next(self.config.run, None, Duration::ZERO);
                self.follow(next, Some(reason));
            }
        }
    }

    /// The command has ended: its leftovers go, then comes what the schedule says.
    fn command_ended(&mut self, end: End, ran: Duration) {
        self.reporter.ended(end);
        if !matches!(self.config.run, hyperspector_spec::plan::Run::Every { .. }) {
            self.log.note(&format!("{} ended: {end}", self.config.command[0]));
        }
        let next = self.schedule.next(self.config.run, Some(end), ran);
        for pid in stragglers::of_the_command(&|pid| self.is_beside(pid)) {
            signals::send(pid, libc::SIGTERM);
        }
        let grace = Duration::from_secs(u64::from(self.config.stop_grace));
        self.phase = Phase::Clearing { deadline: Instant::now() + grace, next };
    }

    /// Whether a process is no part of the command.
    fn is_beside(&self, pid: i32) -> bool {
        self.execs.contains(pid) || self.companions.contains(pid)
    }

    fn clear(&mut self, deadline: Instant, next: Next, now: Instant) {
        let is_beside = |pid| self.is_beside(pid);
        let is_over = deadline <= now || stragglers::of_the_command(&is_beside).is_empty();
        if is_over && !stragglers::kill_stopped(&is_beside) {
            let reason = self.reporter.last_end().filter(|end| *end != End::Status(0));
            self.follow(next, reason.map(|end| format!("{}: {end}", self.config.command[0])));
        }
    }

    fn follow(&mut self, next: Next, reason: Option<String>) {
        let now = Instant::now();
        self.phase = match next {
            Next::After(pause, state) => {
                self.reporter.idle(state, reason, Some(pause));
                Phase::Due(Some(now + pause))
            }
            Next::Leave(pause) => {
                self.reporter.idle(State::Failed, reason, Some(pause));
                Phase::Leaving(now + pause)
            }
            Next::Stay(state) => {
                self.reporter.idle(state, reason, None);
                Phase::Due(None)
            }
        };
    }

    /// Waits for something to happen and takes it in.
    fn wait(&mut self, signals: &OwnedFd, control: &UnixListener) -> io::Result<()> {
        let timeout = self.timeout().and_then(|limit| Timespec::try_from(limit).ok());
        let (mut signalled, mut printed, mut asked) = (false, false, false);
        {
            let mut fds = [
                PollFd::new(signals, PollFlags::IN),
                PollFd::new(self.log.reader(), PollFlags::IN),
                PollFd::new(control, PollFlags::IN),
            ];
            match poll(&mut fds, timeout.as_ref()) {
                Ok(_) => {
                    signalled = !fds[0].revents().is_empty();
                    printed = !fds[1].revents().is_empty();
                    asked = !fds[2].revents().is_empty();
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if printed {
            self.log.pump();
        }
        if signalled {
            while let Some(signal) = signals::next(signals) {
                self.take_signal(signal);
            }
        }
        if asked && let Ok((stream, _)) = control.accept() {
            let main = if let Phase::Running { pid, .. } = self.phase { Some(pid) } else { None };
            self.execs.serve(stream, self.config, main);
        }
        Ok(())
    }

    /// How long nothing can become due.
    fn timeout(&self) -> Option<Duration> {
        let own = match self.phase {
            Phase::Due(at) => at.map(|at| at.saturating_duration_since(Instant::now())),
            Phase::Leaving(at) => Some(at.saturating_duration_since(Instant::now())),
            Phase::Clearing { .. } | Phase::Stopping(_) => Some(CLEARING_STEP),
            Phase::Running { .. } => None,
        };
        own.into_iter().chain(self.companions.timeout()).min()
    }

    fn take_signal(&mut self, signal: i32) {
        match signal {
            libc::SIGCHLD => self.reap(),
            libc::SIGTERM | libc::SIGINT => self.stop(),
            libc::SIGHUP | libc::SIGUSR1 | libc::SIGUSR2 => {
                if let Phase::Running { pid, .. } = self.phase {
                    signals::send(pid, signal);
                }
            }
            _ => {}
        }
    }

    fn stop(&mut self) {
        if matches!(self.phase, Phase::Stopping(_)) {
            return;
        }
        signals::send_all(libc::SIGTERM);
        let grace = Duration::from_secs(u64::from(self.config.stop_grace));
        self.phase = Phase::Stopping(Instant::now() + grace);
    }

    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get();
            let Some(end) = child::end(status) else { continue };
            match self.phase {
                Phase::Running { pid: main, since } if main == pid => {
                    // What it printed last comes before the note of its end.
                    self.log.pump();
                    self.command_ended(end, since.elapsed());
                }
                _ if self.companions.ended(pid) => {}
                _ => self.execs.ended(pid, end),
            }
        }
    }
}
