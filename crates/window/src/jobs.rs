//! Workers that do each job in a process of its own: one that waits for a file system that answers
//! nobody holds up no other.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use hyperspector_sys::capabilities::limit_bounding_set;
use hyperspector_sys::channel::Channel;
use hyperspector_sys::worker;
pub use hyperspector_sys::worker::Started;
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, capabilities, set_capabilities,
    set_capabilities_secure_bits, set_no_new_privs,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A kind of worker.
pub trait Kind {
    /// Its name for [`worker::spawn`].
    const NAME: &'static str;
    /// What it does, for people: "the worker that makes views".
    const WHAT: &'static str;
    /// What it is asked. The first descriptor that comes along is a socket for the answer.
    type Request: Serialize + DeserializeOwned;
    /// What it answers there. No answer, and the socket's end, means that it took too long.
    type Answer: Serialize + DeserializeOwned;
}

/// A worker's life: it gives up what it does not need by `confine`, then has each request done by `job` in
/// a process of its own, until the agent ends.
pub(crate) fn serve<K: Kind>(
    confine: impl FnOnce() -> io::Result<()>,
    job: impl Fn(&K::Request, Job),
) -> ExitCode {
    let Ok(((), _, agent)) = worker::receive::<()>() else {
        return ExitCode::FAILURE;
    };
    // SAFETY: SIG_IGN is a valid disposition: children that have ended are not waited for.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    let confined = confine();
    let word = match &confined {
        Ok(()) => Started::Ready,
        Err(error) => Started::Failed(error.to_string()),
    };
    if agent.send(&word, &[]).is_err() || confined.is_err() {
        return ExitCode::FAILURE;
    }
    while let Ok(Some((request, fds))) = agent.receive::<K::Request>() {
        // SAFETY: the process has one thread, so the child is a whole copy.
        if unsafe { libc::fork() } == 0 {
            let mut fds = fds.into_iter();
            if let Some(reply) = fds.next() {
                job(
                    &request,
                    Job { reply: Channel::new(UnixStream::from(reply)), fds: fds.collect() },
                );
            }
            // SAFETY: _exit ends the process without running anything of the parent's.
            unsafe { libc::_exit(0) }
        }
    }
    ExitCode::SUCCESS
}

/// A job that is being done.
pub(crate) struct Job {
    reply: Channel,
    /// The descriptors that came along with the request.
    pub(crate) fds: Vec<OwnedFd>,
}

impl Job {
    /// Ends this process, without an answer, when it has taken so many seconds.
    pub(crate) fn end_after(&self, seconds: u32) {
        // SAFETY: alarm takes an integer; the signal's default is to end the process.
        unsafe { libc::alarm(seconds) };
    }

    /// Answers.
    pub(crate) fn answer(&self, answer: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.reply.send(answer, fds)
    }
}

/// Gives up all capabilities but `kept`, for good, and tries to get `lost` back, which must fail.
pub(crate) fn keep(kept: CapabilitySet, lost: CapabilitySet) -> io::Result<()> {
    let none = Some(0);
    setrlimit(Resource::Core, Rlimit { current: none, maximum: none })?;
    set_capabilities_secure_bits(
        CapabilitiesSecureBits::NO_ROOT | CapabilitiesSecureBits::NO_ROOT_LOCKED,
    )?;
    limit_bounding_set(CapabilitySet::empty())?;
    set_capabilities(None, sets(kept))?;
    set_no_new_privs(true)?;
    if set_capabilities(None, sets(kept | lost)).is_ok() || capabilities(None)?.permitted != kept {
        return Err(io::Error::other("a dropped capability could be regained"));
    }
    Ok(())
}

fn sets(kept: CapabilitySet) -> CapabilitySets {
    CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() }
}
