//! The agent's side of making a space.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use hyperspector_sys::channel::Channel;
use hyperspector_sys::worker;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::builder;
use crate::config::{Enforced, FromBuilder, SpaceConfig, ToBuilder};

/// How long the rest of a message may take whose beginning is there.
const REST: Duration = Duration::from_secs(1);

/// Why a space was not made.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// A step of the builder failed.
    #[error("{step}: {cause}")]
    Step {
        /// The step, with its object.
        step: String,
        /// Why.
        cause: String,
    },
    /// The builder could not be started or talked to.
    #[error("{0}")]
    Builder(&'static str, #[source] io::Error),
}

/// A space that is built and waits for [`Launched::go`].
#[derive(Debug)]
pub struct Launched {
    /// Its init, as the host sees it.
    pub init: i32,
    /// A descriptor of init, which never stands for another process.
    pub pidfd: OwnedFd,
    /// Its user namespace.
    pub users: OwnedFd,
    /// The seccomp listener, where its rules notify.
    pub listener: Option<OwnedFd>,
    /// What was enforced.
    pub enforced: Enforced,
    agent: Channel,
}

/// A space that is being built, by a process that may wait for a file system of the host: whoever has
/// started it does something else meanwhile. Dropping it ends what there is of the space.
#[derive(Debug)]
pub struct Building {
    agent: Channel,
    child: Child,
    held: Held,
}

/// The processes of a space that is being built, which end with it.
#[derive(Debug, Default)]
struct Held {
    builder: Option<OwnedFd>,
    init: Option<(i32, OwnedFd)>,
}

/// What has become of a space that is being built.
#[derive(Debug)]
pub enum Progress {
    /// It is not done yet.
    Building(Building),
    /// It is built.
    Built(Launched),
}

/// Begins to build a space. `place` is called with the builder's process id before anything else
/// happens, to put it into its cgroup. The descriptors are those of [`crate::config::Fds`].
///
/// # Errors
/// Nothing of the space is left when it fails.
pub fn start(
    config: &SpaceConfig,
    fds: &[BorrowedFd<'_>],
    place: impl FnOnce(i32) -> io::Result<()>,
) -> Result<Building, LaunchError> {
    let failed = |what| move |error| LaunchError::Builder(what, error);
    let (child, agent) = worker::spawn(builder::KIND, config, fds, Stdio::null())
        .map_err(failed("start the builder"))?;
    let pid = child.id().cast_signed();
    let builder = open(pid).map_err(failed("open the builder"))?;
    let held = Held { builder: Some(builder), init: None };
    let placed = place(pid).and_then(|()| agent.send(&ToBuilder::Placed, &[]));
    placed.map_err(failed("put the builder into its cgroup"))?;
    Ok(Building { agent, child, held })
}

impl Building {
    /// Whether there is something to go on with within `limit`.
    pub fn is_ready_within(&self, limit: Duration) -> bool {
        let limit = Timespec::try_from(limit).unwrap_or_default();
        poll(&mut [PollFd::new(self.agent.stream(), PollFlags::IN)], Some(&limit))
            .is_ok_and(|ready| ready > 0)
    }

    /// Goes on with what its builder says next; see [`Self::is_ready_within`].
    ///
    /// # Errors
    /// Where the space cannot be built. What there is of it is killed then.
    pub fn go_on(mut self) -> Result<Progress, LaunchError> {
        match (receive(&self.agent)?, self.held.init.take()) {
            (Some((FromBuilder::Forked { pid }, _)), None) => {
                let opened =
                    open(pid).map_err(|e| LaunchError::Builder("open the space's init", e));
                // The builder's work is done, and init's begins.
                self.held = Held { builder: None, init: Some((pid, opened?)) };
                Ok(Progress::Building(self))
            }
            (Some((FromBuilder::Ready(enforced), fds)), Some(init)) => {
                // It has ended by now.
                let _ = self.child.try_wait();
                self.built(enforced, fds, init)
            }
            (Some(_), init) => {
                self.held.init = init;
                Err(unexpected("the builder spoke out of turn"))
            }
            (None, None) => {
                let ended = self.child.wait();
                let how = ended.map_or_else(|e| e, |status| io::Error::other(status.to_string()));
                Err(LaunchError::Builder("the builder ended without a word", how))
            }
            (None, _) => Err(unexpected("init ended without a word")),
        }
    }

    fn built(
        mut self,
        enforced: Enforced,
        mut fds: Vec<OwnedFd>,
        (pid, pidfd): (i32, OwnedFd),
    ) -> Result<Progress, LaunchError> {
        let users = File::open(format!("/proc/{pid}/ns/user"));
        let users = match users {
            Ok(users) => users.into(),
            Err(error) => {
                self.held.init = Some((pid, pidfd));
                return Err(LaunchError::Builder("open the user namespace", error));
            }
        };
        let Self { agent, .. } = self;
        let listener = fds.pop();
        Ok(Progress::Built(Launched { init: pid, users, listener, enforced, agent, pidfd }))
    }

    /// Waits until the space is built.
    ///
    /// # Errors
    /// Where it cannot be built, or not within `limit`. What there is of it is killed then.
    pub fn finish(mut self, limit: Duration) -> Result<Launched, LaunchError> {
        let end = Instant::now() + limit;
        while self.is_ready_within(end.saturating_duration_since(Instant::now())) {
            match self.go_on()? {
                Progress::Building(building) => self = building,
                Progress::Built(launched) => return Ok(launched),
            }
        }
        Err(LaunchError::Builder("hear from the builder", io::ErrorKind::TimedOut.into()))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let init = self.init.take().map(|(_, init)| init);
        for process in self.builder.take().into_iter().chain(init) {
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
    }
}

impl Launched {
    /// Lets the command run.
    pub fn go(&self) -> Result<(), LaunchError> {
        self.agent
            .send(&ToBuilder::Go, &[])
            .map_err(|error| LaunchError::Builder("let the command run", error))
    }

    /// Ends a space whose command has not run.
    pub fn abandon(&self) {
        let _ = pidfd_send_signal(self.pidfd.as_fd(), Signal::KILL);
    }
}

/// The next message; `None` where there will be none.
fn receive(agent: &Channel) -> Result<Option<(FromBuilder, Vec<OwnedFd>)>, LaunchError> {
    match agent.receive_within(REST) {
        Ok(Some((FromBuilder::Failed { step, cause }, _))) => {
            Err(LaunchError::Step { step, cause })
        }
        Ok(message) => Ok(message),
        Err(error) => Err(LaunchError::Builder("hear from the builder", error)),
    }
}

fn open(pid: i32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidData)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

fn unexpected(what: &'static str) -> LaunchError {
    LaunchError::Builder(what, io::ErrorKind::UnexpectedEof.into())
}
