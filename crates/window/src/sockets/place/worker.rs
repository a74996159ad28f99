//! The worker that looks at the places of servers' sockets, and changes them: one for each agent, which
//! does every job in a process of its own.
//!
//! A path in a server's tree can lead into a file system that answers nobody (a dead NFS server, a
//! program of the server's own behind FUSE). A process that waits there holds up no other; one that only
//! looks is ended after [`PATIENCE`]. One that changes something is not, so that nothing is left
//! half done: it ends when it is answered, or with the agent's cgroup.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;

use hyperspector_sys::{errno, pidfd};
use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

use super::paths::{Owned, PidFile};
use super::{FileId, Found};
use crate::jobs::{self, Kind};
use crate::sockets::{Process, SocketKind};

/// The worker that looks at paths and places sockets.
#[derive(Debug)]
pub struct Places;

impl Kind for Places {
    const NAME: &'static str = "places";
    const WHAT: &'static str = "the worker that looks at paths";
    type Request = Request;
    type Answer = Answer;
}

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
    /// [`PidFile::read`], in our own root.
    PidFile(PathBuf),
    /// [`Owned::of`] each path, in our own root.
    Owners(Vec<PathBuf>),
}

impl Job {
    /// Whether it changes nothing.
    fn looks(&self) -> bool {
        matches!(self, Self::Look(_) | Self::PidFile(_) | Self::Owners(_))
    }
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
    /// What a pid file holds.
    PidFile(PidFile),
    /// Whose each path is, or why that cannot be known.
    Owners(Vec<Result<Owned, String>>),
    /// It is done.
    Done,
    /// It cannot be done.
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
    jobs::serve::<Places>(|| jobs::keep(KEPT, CapabilitySet::SYS_ADMIN), serve)
}

fn serve(request: &Request, job: jobs::Job) {
    if request.job.looks() {
        job.end_after(PATIENCE);
    }
    let (answer, socket) =
        run(request).unwrap_or_else(|error| (Answer::Failed(errno::text(&error)), None));
    let fds: Vec<_> = socket.iter().map(AsFd::as_fd).collect();
    if job.answer(&answer, &fds).is_err() {
        // Nobody waits any more, so that nobody would take it away.
        let _ = undo(request, answer);
    }
}

/// Does what is asked.
fn run(request: &Request) -> io::Result<(Answer, Option<OwnedFd>)> {
    let text = |error| errno::text(&error);
    match &request.job {
        Job::PidFile(path) => return Ok((Answer::PidFile(PidFile::read(path)?), None)),
        Job::Owners(paths) => {
            let owners = paths.iter().map(|path| Owned::of(path).map_err(text));
            return Ok((Answer::Owners(owners.collect()), None));
        }
        _ => {}
    }
    let root = root(request)?;
    let root = root.as_fd();
    Ok(match &request.job {
        Job::Look(paths) => {
            let look = |path: &PathBuf| super::look(root, path).map_err(text);
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
        Job::PidFile(_) | Job::Owners(_) => (Answer::Done, None),
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
