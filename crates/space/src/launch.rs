//! The agent's side of making a space.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Stdio;
use std::time::Duration;

use hyperspector_sys::channel::Channel;
use hyperspector_sys::worker;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::builder;
use crate::config::{Enforced, FromBuilder, SpaceConfig, ToBuilder};

/// How long the builder may take for all its stages.
const PATIENCE: Duration = Duration::from_secs(30);

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

/// Builds a space. `place` is called with the builder's process id before anything else happens, to
/// put it into its cgroup. The descriptors are those of [`crate::config::Fds`].
///
/// # Errors
/// Nothing of the space is left when it fails.
pub fn launch(
    config: &SpaceConfig,
    fds: &[BorrowedFd<'_>],
    place: impl FnOnce(i32) -> io::Result<()>,
) -> Result<Launched, LaunchError> {
    let failed = |what| move |error| LaunchError::Builder(what, error);
    let (mut child, agent) = worker::spawn(builder::KIND, config, fds, Stdio::null())
        .map_err(failed("start the builder"))?;
    let patience = agent.stream().set_read_timeout(Some(PATIENCE));
    let placed = patience
        .and_then(|()| place(child.id().cast_signed()))
        .and_then(|()| agent.send(&ToBuilder::Placed, &[]));
    if let Err(error) = placed {
        let _ = child.kill();
        let _ = child.wait();
        return Err(LaunchError::Builder("put the builder into its cgroup", error));
    }
    let forked = receive(&agent);
    if !matches!(forked, Ok(Some(_))) {
        let _ = child.kill();
    }
    let ended = child.wait();
    let pid = match forked? {
        Some((FromBuilder::Forked { pid }, _)) => pid,
        Some(_) => return Err(unexpected("the builder spoke out of turn")),
        None => {
            let how =
                ended.map_or_else(|error| error, |status| io::Error::other(status.to_string()));
            return Err(LaunchError::Builder("the builder ended without a word", how));
        }
    };
    let pidfd = Pid::from_raw(pid)
        .ok_or(io::ErrorKind::InvalidData.into())
        .and_then(|pid| Ok(pidfd_open(pid, PidfdFlags::empty())?))
        .map_err(failed("open the space's init"))?;
    let kill_on_failure = |error| {
        let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        error
    };
    let (enforced, mut fds) = match receive(&agent).map_err(kill_on_failure)? {
        Some((FromBuilder::Ready(enforced), fds)) => (enforced, fds),
        Some(_) => return Err(kill_on_failure(unexpected("init spoke out of turn"))),
        None => return Err(kill_on_failure(unexpected("init ended without a word"))),
    };
    let users = File::open(format!("/proc/{pid}/ns/user"))
        .map_err(failed("open the user namespace"))
        .map_err(kill_on_failure)?;
    Ok(Launched { init: pid, users: users.into(), listener: fds.pop(), enforced, agent, pidfd })
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
    match agent.receive() {
        Ok(Some((FromBuilder::Failed { step, cause }, _))) => {
            Err(LaunchError::Step { step, cause })
        }
        Ok(message) => Ok(message),
        Err(error) => Err(LaunchError::Builder("hear from the builder", error)),
    }
}

fn unexpected(what: &'static str) -> LaunchError {
    LaunchError::Builder(what, io::ErrorKind::UnexpectedEof.into())
}
