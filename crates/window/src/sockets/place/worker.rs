//! The worker that looks at the places of servers' sockets, and changes them: one for each agent, which
//! does every job in a process of its own.
//!
//! A path in a server's tree can lead into a file system that answers nobody (a dead NFS server, a
//! program of the server's own behind FUSE). A process that waits there holds up no other; one that only
//! looks is ended after [`PATIENCE`]. One that changes something is not, so that nothing is left
//! half done: it ends when it is answered, or with the agent's cgroup.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use hyperspector_sys::capabilities::limit_bounding_set;
use hyperspector_sys::channel::Channel;
use hyperspector_sys::{errno, pidfd, worker};
use libc as l;
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{CapabilitiesSecureBits, set_capabilities_secure_bits, set_no_new_privs};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use serde::{Deserialize, Serialize};

use super::{FileId, Found};
use crate::sockets::{Process, SocketKind};

/// The worker's name for [`worker::spawn`].
pub const KIND: &str = "places";

/// How many seconds looking may take.
const PATIENCE: u32 = 10;

/// What it is asked. The descriptor that comes along is a socket for the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// A process through whose root the tree is seen; `None` for our own root.
    pub process: Option<Process>,
    /// The server's directory there.
    pub tree: PathBuf,
    /// What is to be done in it.
    pub job: Job,
}

/// What is done in a server's tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Job {
    /// [`super::look`] at each path.
    Look(Vec<PathBuf>),
    /// [`super::bind`]
    Bind(PathBuf, SocketKind),
    /// [`super::interpose`]
    Interpose(PathBuf),
    /// [`super::remove`]
    Remove(PathBuf, FileId),
    /// [`super::restore`]
    Restore(PathBuf, FileId),
}

/// What it answers on the socket that came with the request. No answer, and the socket's end, means
/// that it took too long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// What is at each path, or why that cannot be known.
    Looked(Vec<Result<Found, String>>),
    /// A socket of ours is there. The socket comes along.
    Made {
        /// Its file.
        file: FileId,
        /// Its kind.
        kind: SocketKind,
        /// The path of the receiver's socket, where ours was exchanged for that.
        real: Option<PathBuf>,
    },
    /// It is done.
    Done,
    /// It cannot be done.
    Failed(String),
}

/// What the worker says first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Started {
    /// It takes requests.
    Ready,
    /// It could not start.
    Failed(String),
}

/// To see through others' roots, and to make sockets of others' in others' directories.
const KEPT: CapabilitySet = CapabilitySet::SYS_PTRACE
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::CHOWN)
    .union(CapabilitySet::FOWNER);

/// The worker (`hyperspector __worker places`).
pub fn worker_main() -> ExitCode {
    let Ok(((), _, agent)) = worker::receive::<()>() else {
        return ExitCode::FAILURE;
    };
    let confined = confine();
    let word = match &confined {
        Ok(()) => Started::Ready,
        Err(error) => Started::Failed(error.to_string()),
    };
    if agent.send(&word, &[]).is_err() || confined.is_err() {
        return ExitCode::FAILURE;
    }
    while let Ok(Some((request, fds))) = agent.receive::<Request>() {
        serve(&request, fds);
    }
    ExitCode::SUCCESS
}

/// Does a request in a process of its own. Without an answer, the agent sees that it failed.
fn serve(request: &Request, fds: Vec<OwnedFd>) {
    // SAFETY: the process has one thread, so the child is a whole copy.
    if unsafe { l::fork() } == 0 {
        if matches!(request.job, Job::Look(_)) {
            // SAFETY: alarm takes an integer; the signal's default is to end the process.
            unsafe { l::alarm(PATIENCE) };
        }
        if let Some(reply) = fds.into_iter().next() {
            let (answer, socket) =
                run(request).unwrap_or_else(|error| (Answer::Failed(errno::text(&error)), None));
            let fds: Vec<_> = socket.iter().map(AsFd::as_fd).collect();
            let sent = Channel::new(UnixStream::from(reply)).send(&answer, &fds);
            if sent.is_err() {
                // Nobody waits any more, so that nobody would take it away.
                let _ = undo(request, answer);
            }
        }
        // SAFETY: _exit ends the process without running anything of the parent's.
        unsafe { l::_exit(0) }
    }
}

/// Does what is asked.
fn run(request: &Request) -> io::Result<(Answer, Option<OwnedFd>)> {
    let root = root(request)?;
    let root = root.as_fd();
    Ok(match &request.job {
        Job::Look(paths) => {
            let look = |path: &PathBuf| super::look(root, path).map_err(|e| errno::text(&e));
            (Answer::Looked(paths.iter().map(look).collect()), None)
        }
        Job::Bind(path, kind) => {
            let (socket, file) = super::bind(root, path, *kind)?;
            (Answer::Made { file, kind: *kind, real: None }, Some(socket))
        }
        Job::Interpose(path) => {
            let made = super::interpose(root, path)?;
            let real = Some(made.real);
            (Answer::Made { file: made.file, kind: made.kind, real }, Some(made.socket))
        }
        Job::Remove(path, file) => (done(super::remove(root, path, *file))?, None),
        Job::Restore(path, file) => (done(super::restore(root, path, *file))?, None),
    })
}

/// What is not there any more is fine.
fn done(result: io::Result<()>) -> io::Result<Answer> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Answer::Done),
        other => other.map(|()| Answer::Done),
    }
}

/// The server's tree. One that shares the host's has what we have made there after its end too.
fn root(request: &Request) -> io::Result<OwnedFd> {
    let undoes = matches!(request.job, Job::Remove(..) | Job::Restore(..));
    let Some(process) = request.process else { return super::root_of(None, &request.tree) };
    let root = super::root_of(Some(process.pid), &request.tree);
    // Asked after opening: the number was not another process's yet.
    match pidfd::start_time(process.pid)? {
        Some(start) if start == process.start => root,
        _ if undoes => super::root_of(None, &request.tree),
        _ => Err(io::Error::new(io::ErrorKind::NotFound, "it has just ended")),
    }
}

/// Takes away what was made.
fn undo(request: &Request, answer: Answer) -> io::Result<()> {
    let Answer::Made { file, .. } = answer else { return Ok(()) };
    let job = match request.job.clone() {
        Job::Bind(path, _) => Job::Remove(path, file),
        Job::Interpose(path) => Job::Restore(path, file),
        _ => return Ok(()),
    };
    run(&Request { job, ..request.clone() }).map(drop)
}

/// Gives up what is not needed, for good.
fn confine() -> io::Result<()> {
    // SAFETY: SIG_IGN is a valid disposition: children that have ended are not waited for.
    unsafe { l::signal(l::SIGCHLD, l::SIG_IGN) };
    let none = Some(0);
    setrlimit(Resource::Core, Rlimit { current: none, maximum: none })?;
    set_capabilities_secure_bits(
        CapabilitiesSecureBits::NO_ROOT | CapabilitiesSecureBits::NO_ROOT_LOCKED,
    )?;
    limit_bounding_set(CapabilitySet::empty())?;
    set_capabilities(None, sets(KEPT))?;
    set_no_new_privs(true)?;
    if set_capabilities(None, sets(KEPT | CapabilitySet::SYS_ADMIN)).is_ok()
        || capabilities(None)?.permitted != KEPT
    {
        return Err(io::Error::other("a dropped capability could be regained"));
    }
    Ok(())
}

fn sets(kept: CapabilitySet) -> CapabilitySets {
    CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() }
}
