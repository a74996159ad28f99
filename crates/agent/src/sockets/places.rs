//! Which socket is at a path of a server: the server's own receiver's, which is observed, or ours.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hyperspector_window::sockets::place::{self, FileId, Found};
use hyperspector_window::sockets::{Process, SocketKind, Source, Upstream, observe};
use serde::{Deserialize, Serialize};

use super::source_name;
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
    pub(super) problems: BTreeMap<PathBuf, String>,
    /// Before then, a receiver that was not found is not looked for again: that takes time.
    pub(super) due: BTreeMap<PathBuf, Instant>,
    /// Paths at which the last receiver was the server's own.
    pub(super) had_receiver: BTreeSet<PathBuf>,
    /// Since when a path is nobody's.
    pub(super) vacant: BTreeMap<PathBuf, Instant>,
}

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
        Self { by: present.leader.id, tree: &present.tree, members, is_new: false }
    }

    /// The process through whose root it is looked at; the agent's own root outlives the agent.
    fn by(&self) -> Option<ProcessId> {
        (self.by.pid.cast_unsigned() != std::process::id()).then_some(self.by)
    }

    fn root(&self) -> std::io::Result<OwnedFd> {
        place::root_of(self.by().map(|by| by.pid.cast_unsigned()), self.tree)
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
    /// Looks who has the socket at `path`, and takes what the tee is to read. `None` where the tee
    /// has it (`is_open`), or nothing can be had.
    pub(super) fn follow(
        &mut self,
        seat: &Seat<'_>,
        path: &Path,
        kind: SocketKind,
        is_open: bool,
    ) -> Option<News> {
        let result = self.look(seat, path, kind, is_open);
        match result {
            Ok(new) => {
                if new.is_some() {
                    self.problems.remove(path);
                }
                new
            }
            Err(problem) => {
                if self.problems.get(path) != Some(&problem) {
                    eprintln!("read {}: {problem}", path.display());
                    self.problems.insert(path.to_owned(), problem);
                }
                None
            }
        }
    }

    fn look(
        &mut self,
        seat: &Seat<'_>,
        path: &Path,
        kind: SocketKind,
        is_open: bool,
    ) -> Result<Option<News>, String> {
        let text = |error: std::io::Error| hyperspector_sys::errno::text(&error);
        let root = seat.root().map_err(text)?;
        let found = place::look(root.as_fd(), path).map_err(text)?;
        let before = self.done.get(path).filter(|_| is_open).cloned();
        if let Some(Place::Between { file, real, .. }) = &before
            && matches!(found, Found::Connections(id) if id == *file)
        {
            if matches!(place::look(root.as_fd(), real), Ok(Found::Connections(_))) {
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
            Found::Connections(_) => self.interpose(seat, &root, path).map(Some),
            Found::Other => Err("something else than a socket is there".to_owned()),
            Found::Nothing | Found::Dead(_) => {
                if matches!(self.done.get(path), Some(Place::Between { .. })) {
                    // Ours is dead and the receiver's is beside it: nobody holds ours any more.
                    self.leave(path);
                    return Ok(Some(News::Gone));
                }
                let since = *self.vacant.entry(path.to_owned()).or_insert_with(Instant::now);
                let waits = self.had_receiver.contains(path) && since.elapsed() < GRACE;
                if waits && !seat.is_new {
                    return Ok(None);
                }
                self.place(seat, &root, path, kind).map(Some)
            }
        }
    }

    fn observe(&mut self, seat: &Seat<'_>, path: &Path, number: u32) -> Result<News, String> {
        self.vacant.remove(path);
        if self.due.get(path).is_some_and(|due| *due > Instant::now()) {
            return Err(self.problems.get(path).cloned().unwrap_or_default());
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

    fn place(
        &mut self,
        seat: &Seat<'_>,
        root: &OwnedFd,
        path: &Path,
        kind: SocketKind,
    ) -> Result<News, String> {
        let text = |error: std::io::Error| hyperspector_sys::errno::text(&error);
        let (socket, file) = place::bind(root.as_fd(), path, kind).map_err(text)?;
        self.vacant.remove(path);
        let own = Place::Own { file, by: seat.by(), tree: seat.tree.to_owned() };
        self.done.insert(path.to_owned(), own);
        self.had_receiver.remove(path);
        Ok(News::Source(source(path, kind, false), socket))
    }

    fn interpose(&mut self, seat: &Seat<'_>, root: &OwnedFd, path: &Path) -> Result<News, String> {
        self.vacant.remove(path);
        // What an earlier receiver has left beside it.
        if let Some(place) = self.done.remove(path) {
            place.undo(path);
        }
        let text = |error: std::io::Error| hyperspector_sys::errno::text(&error);
        let ours = place::interpose(root.as_fd(), path).map_err(text)?;
        let (by, tree) = (seat.by(), seat.tree.to_owned());
        let process = by.map(|by| Process { pid: by.pid.cast_unsigned(), start: by.start });
        let upstream = Upstream { process, tree: tree.clone(), path: ours.real.clone() };
        let between = Place::Between { file: ours.file, real: ours.real, by, tree };
        self.done.insert(path.to_owned(), between);
        self.had_receiver.insert(path.to_owned());
        let source = source(path, ours.kind, false);
        Ok(News::Source(Source { upstream: Some(upstream), ..source }, ours.socket))
    }

    /// Leaves a path as it was.
    pub(super) fn leave(&mut self, path: &Path) {
        self.problems.remove(path);
        self.vacant.remove(path);
        if let Some(place) = self.done.remove(path) {
            place.undo(path);
        }
    }
}

impl Place {
    /// Takes our socket away, or the observer off the receiver's. What is not there any more is fine.
    pub(super) fn undo(&self, path: &Path) {
        match self {
            Self::Own { file, by, tree } => {
                let Some(root) = root(*by, tree) else { return };
                let removed = place::remove(root.as_fd(), path, *file);
                if let Err(error) = removed {
                    eprintln!("remove our socket {}: {error}", path.display());
                }
            }
            Self::Between { file, by, tree, .. } => {
                let Some(root) = root(*by, tree) else { return };
                let restored = place::restore(root.as_fd(), path, *file);
                if let Err(error) = restored {
                    eprintln!("put {} back: {error}", path.display());
                }
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
            }
        }
    }
}

/// The tree of a server. What shares the host's tree has it there after its end too.
fn root(by: Option<ProcessId>, tree: &Path) -> Option<OwnedFd> {
    // Held while its root is opened: its number is not another's.
    let process = by.and_then(ProcessId::open);
    place::root_of(process.as_ref().map(|process| process.id.pid.cast_unsigned()), tree).ok()
}

fn source(path: &Path, kind: SocketKind, observed: bool) -> Source {
    Source { name: source_name(path), kind, observed, shift: 0, upstream: None }
}

/// All processes of the host.
fn everybody() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}
