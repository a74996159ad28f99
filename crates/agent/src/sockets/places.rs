//! Which socket is at a path of a server: the server's own receiver's, which is observed, or ours.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hyperspector_window::sockets::place::worker::{Job, Request};
use hyperspector_window::sockets::place::{self, FileId, Found};
use hyperspector_window::sockets::{Process, SocketKind, Source, Upstream, observe};
use serde::{Deserialize, Serialize};

use super::source_name;
use crate::complaint::Complaint;
use crate::process::ProcessId;
use crate::servers::Present;

/// How long a path must be nobody's before a socket of ours is put there: a receiver that restarts
/// has it back sooner.
const GRACE: Duration = Duration::from_secs(3);

/// For each part of the time that looking for a receiver took, how many pass before the next time.
const LOOKING_SHARE: u32 = 20;

/// What is done with the socket at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Place {
    /// It is ours.
    Own {
        /// The socket's file.
        file: FileId,
        /// A process through whose root it can be reached; `None` for our own.
        by: Option<ProcessId>,
        /// The server's directory there.
        tree: PathBuf,
    },
    /// It is ours, and the receiver's of the server is beside it.
    Between {
        /// Our socket's file.
        file: FileId,
        /// The receiver's socket.
        real: PathBuf,
        /// A process through whose root they can be reached; `None` for our own.
        by: Option<ProcessId>,
        /// The server's directory there.
        tree: PathBuf,
    },
    /// It is a receiver's of the server, and observed.
    Observed {
        /// The socket's number.
        socket: u32,
        /// The processes that may have it open.
        by: Vec<u32>,
    },
}

/// The paths of one server.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// What was done.
    pub(super) done: BTreeMap<PathBuf, Place>,
    /// Why it could not be done.
    pub(super) problems: BTreeMap<PathBuf, Complaint>,
    /// Before then, a receiver that was not found is not looked for again: that takes time.
    pub(super) due: BTreeMap<PathBuf, Instant>,
    /// Paths at which the last receiver was the server's own.
    pub(super) had_receiver: BTreeSet<PathBuf>,
    /// Since when a path is nobody's.
    pub(super) vacant: BTreeMap<PathBuf, Instant>,
    /// What is to be done in servers' trees, in this order.
    pub(super) errands: VecDeque<Errand>,
}

/// Something that is to be done in a server's tree, as it is seen through a process.
#[derive(Clone, Debug)]
pub(super) struct Errand {
    /// `None` for our own root.
    pub(super) by: Option<ProcessId>,
    /// The server's directory there.
    pub(super) tree: PathBuf,
    pub(super) job: Job,
}

impl Errand {
    /// What the worker is asked.
    pub(super) fn request(&self) -> Request {
        Request { process: self.by.map(process), tree: self.tree.clone(), job: self.job.clone() }
    }

    /// Whether it takes away what we have made.
    pub(super) fn is_undoing(&self) -> bool {
        matches!(self.job, Job::Remove(..) | Job::Restore(..))
    }

    /// The paths that it is about.
    pub(super) fn paths(&self) -> &[PathBuf] {
        match &self.job {
            Job::Look(paths) => paths,
            Job::Bind(path, _) | Job::Interpose(path) => std::slice::from_ref(path),
            Job::Remove(path, _) | Job::Restore(path, _) => std::slice::from_ref(path),
            Job::PidFile(path) => std::slice::from_ref(path),
            Job::Owners(paths) => paths,
        }
    }
}

fn process(id: ProcessId) -> Process {
    Process { pid: id.pid.cast_unsigned(), start: id.start }
}

/// What was found, by path.
pub(super) type Seen = BTreeMap<PathBuf, Result<Found, String>>;

/// Where a server is looked at.
pub(super) struct Seat<'a> {
    pub(super) by: ProcessId,
    pub(super) tree: &'a Path,
    /// Its processes.
    pub(super) members: &'a dyn Fn() -> Vec<u32>,
    /// Nobody of the server runs yet.
    pub(super) is_new: bool,
}

impl<'a> Seat<'a> {
    pub(super) fn of(present: &'a Present, members: &'a dyn Fn() -> Vec<u32>) -> Self {
        let by = present.seer().unwrap_or(present.leader.id);
        Self { by, tree: &present.tree, members, is_new: false }
    }

    /// The process through whose root it is looked at; the agent's own root outlives the agent.
    fn by(&self) -> Option<ProcessId> {
        (self.by.pid.cast_unsigned() != std::process::id()).then_some(self.by)
    }

    fn errand(&self, job: Job) -> Errand {
        Errand { by: self.by(), tree: self.tree.to_owned(), job }
    }

    /// Whether an errand goes to what is seen from here.
    pub(super) fn is_of(&self, errand: &Errand) -> bool {
        errand.by == self.by() && errand.tree == self.tree
    }
}

/// What the tee is to be told.
pub(super) enum News {
    /// It has this source instead of the one before, with its descriptor.
    Source(Source, OwnedFd),
    /// The source is no more.
    Gone,
}

impl Places {
    /// Has `paths` looked at, and the receivers' sockets that are beside ours.
    pub(super) fn ask(&mut self, seat: &Seat<'_>, paths: impl Iterator<Item = PathBuf>) {
        let mut all: Vec<PathBuf> = paths.collect();
        let real = |path: &PathBuf| match self.done.get(path) {
            Some(Place::Between { real, .. }) => Some(real.clone()),
            _ => None,
        };
        let beside: Vec<PathBuf> = all.iter().filter_map(real).collect();
        all.extend(beside);
        self.errands.push_back(seat.errand(Job::Look(all)));
    }

    /// Goes by what was found at `path`, and takes what the tee is to read. `None` where the tee
    /// has it (`is_open`), something has to be done first, or nothing can be had.
    pub(super) fn follow(
        &mut self,
        seat: &Seat<'_>,
        path: &Path,
        kind: SocketKind,
        is_open: bool,
        seen: &Seen,
    ) -> Option<News> {
        let found = seen.get(path)?.clone();
        match found.and_then(|found| self.look(seat, path, kind, is_open, found, seen)) {
            Ok(new) => {
                if new.is_some() || is_open {
                    self.succeeded(path);
                }
                new
            }
            Err(problem) => {
                self.failed(path, problem);
                None
            }
        }
    }

    /// Tells once why a socket cannot be had.
    pub(super) fn failed(&mut self, path: &Path, problem: String) {
        let complaint = self.problems.entry(path.to_owned()).or_default();
        if let Some(problem) = complaint.note(Some(problem)) {
            eprintln!("read {}: {problem}", path.display());
        }
    }

    /// Why a socket cannot be had.
    pub(super) fn problem(&self, path: &Path) -> Option<&str> {
        self.problems.get(path).and_then(Complaint::now)
    }

    fn succeeded(&mut self, path: &Path) {
        if let Some(complaint) = self.problems.get_mut(path) {
            complaint.note(None);
        }
    }

    fn look(
        &mut self,
        seat: &Seat<'_>,
        path: &Path,
        kind: SocketKind,
        is_open: bool,
        found: Found,
        seen: &Seen,
    ) -> Result<Option<News>, String> {
        let before = self.done.get(path).filter(|_| is_open).cloned();
        if let Some(Place::Between { file, real, .. }) = &before
            && matches!(found, Found::Connections(id) if id == *file)
        {
            if matches!(seen.get(real), Some(Ok(Found::Connections(_)))) {
                return Ok(None);
            }
            // The receiver has ended: its socket refuses connections, as without us.
            self.leave(path);
            self.vacant.insert(path.to_owned(), Instant::now());
            return Ok(Some(News::Gone));
        }
        let is_own = |id: FileId| matches!(before, Some(Place::Own { file, .. }) if file == id);
        match found {
            Found::Datagrams(id, _) | Found::Connections(id) if is_own(id) => Ok(None),
            Found::Datagrams(_, number) => {
                if matches!(before, Some(Place::Observed { socket, .. }) if socket == number) {
                    return Ok(None);
                }
                self.observe(seat, path, number).map(Some)
            }
            Found::Connections(_) => {
                self.vacant.remove(path);
                // What an earlier receiver has left beside it goes first.
                self.undo(path);
                self.errands.push_back(seat.errand(Job::Interpose(path.to_owned())));
                Ok(None)
            }
            Found::Other => Err("something else than a socket is there".to_owned()),
            Found::Nothing | Found::Dead(_) => {
                if matches!(self.done.get(path), Some(Place::Between { .. })) {
                    // Ours is dead and the receiver's is beside it: nobody holds ours any more.
                    self.leave(path);
                    return Ok(Some(News::Gone));
                }
                let since = *self.vacant.entry(path.to_owned()).or_insert_with(Instant::now);
                let waits = self.had_receiver.contains(path) && since.elapsed() < GRACE;
                if !waits || seat.is_new {
                    self.errands.push_back(seat.errand(Job::Bind(path.to_owned(), kind)));
                }
                Ok(None)
            }
        }
    }

    fn observe(&mut self, seat: &Seat<'_>, path: &Path, number: u32) -> Result<News, String> {
        self.vacant.remove(path);
        if self.due.get(path).is_some_and(|due| *due > Instant::now()) {
            return Err(self.problem(path).unwrap_or_default().to_owned());
        }
        let start = Instant::now();
        self.had_receiver.insert(path.to_owned());
        let mut by = (seat.members)();
        if by.is_empty() {
            by = everybody();
        }
        let text = |error: std::io::Error| hyperspector_sys::errno::text(&error);
        let taken = place::take(by.iter().copied(), number);
        let rest = start.elapsed().saturating_mul(LOOKING_SHARE);
        self.due.insert(path.to_owned(), Instant::now() + rest);
        let socket = taken.map_err(text)?;
        let ring = observe::attach(socket.as_fd()).map_err(|error| error.to_string())?;
        self.done.insert(path.to_owned(), Place::Observed { socket: number, by });
        Ok(News::Source(source(path, SocketKind::Dgram, true), ring))
    }

    /// A socket of ours was made at `path`, in the place of a receiver's where that is `real` now.
    pub(super) fn made(
        &mut self,
        errand: &Errand,
        path: &Path,
        (file, kind, real): (FileId, SocketKind, Option<PathBuf>),
        socket: OwnedFd,
    ) -> News {
        let Errand { by, tree, .. } = errand.clone();
        self.vacant.remove(path);
        self.succeeded(path);
        let source = source(path, kind, false);
        let Some(real) = real else {
            self.had_receiver.remove(path);
            self.done.insert(path.to_owned(), Place::Own { file, by, tree });
            return News::Source(source, socket);
        };
        self.had_receiver.insert(path.to_owned());
        let upstream =
            Upstream { process: by.map(process), tree: tree.clone(), path: real.clone() };
        self.done.insert(path.to_owned(), Place::Between { file, real, by, tree });
        News::Source(Source { upstream: Some(upstream), ..source }, socket)
    }

    /// Leaves a path as it was.
    pub(super) fn leave(&mut self, path: &Path) {
        self.problems.remove(path);
        self.vacant.remove(path);
        self.undo(path);
    }

    fn undo(&mut self, path: &Path) {
        let errand = self.done.remove(path).and_then(|place| place.undo(path));
        self.errands.extend(errand);
    }
}

impl Place {
    /// Takes the observer off the receiver's socket; what is not there any more is fine. Where there is
    /// a socket of ours, what has to be done in the server's tree.
    pub(super) fn undo(&self, path: &Path) -> Option<Errand> {
        let path = path.to_owned();
        match self {
            Self::Own { file, by, tree } => {
                let job = Job::Remove(path, *file);
                Some(Errand { by: *by, tree: tree.clone(), job })
            }
            Self::Between { file, by, tree, .. } => {
                let job = Job::Restore(path, *file);
                Some(Errand { by: *by, tree: tree.clone(), job })
            }
            Self::Observed { socket, by } => {
                // It may have been handed on since.
                let found = place::take(by.iter().copied(), *socket)
                    .or_else(|_| place::take(everybody(), *socket));
                if let Ok(socket) = found
                    && let Err(error) = observe::detach(socket.as_fd())
                {
                    eprintln!("take the observer off {}: {error}", path.display());
                }
                None
            }
        }
    }
}

fn source(path: &Path, kind: SocketKind, observed: bool) -> Source {
    Source { name: source_name(path), kind, observed, shift: 0, upstream: None }
}

/// All processes of the host.
fn everybody() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}
