//! Which socket is at a path of a server: the server's own receiver's, which is observed, or ours.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hyperspector_window::sockets::place::{self, FileId, Found};
use hyperspector_window::sockets::{SocketKind, Source, observe};
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
        /// A process through whose root it can be reached.
        by: ProcessId,
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

    fn root(&self) -> std::io::Result<OwnedFd> {
        place::root_of(self.by.pid.cast_unsigned(), self.tree)
    }
}

/// A source that the tee is to have instead of the one before, with its descriptor.
pub(super) type New = (Source, OwnedFd);

impl Places {
    /// Looks who has the socket at `path`, and takes what the tee is to read. `None` where the tee
    /// has it (`is_open`), or nothing can be had.
    pub(super) fn follow(
        &mut self,
        seat: &Seat<'_>,
        path: &Path,
        kind: SocketKind,
        is_open: bool,
    ) -> Option<New> {
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
    ) -> Result<Option<New>, String> {
        let text = |error: std::io::Error| hyperspector_sys::errno::text(&error);
        let root = seat.root().map_err(text)?;
        let found = place::look(root.as_fd(), path).map_err(text)?;
        let before = self.done.get(path).filter(|_| is_open);
        let is_own = |id: FileId| matches!(before, Some(Place::Own { file, .. }) if *file == id);
        match found {
            Found::Datagrams(id, _) | Found::Connections(id) if is_own(id) => Ok(None),
            Found::Datagrams(_, number) => {
                if matches!(before, Some(Place::Observed { socket, .. }) if *socket == number) {
                    return Ok(None);
                }
                self.observe(seat, path, number).map(Some)
            }
            Found::Connections(_) => Err("the server has a receiver of its own there that takes \
                connections, which cannot be observed"
                .to_owned()),
            Found::Other => Err("something else than a socket is there".to_owned()),
            Found::Nothing | Found::Dead(_) => {
                let since = *self.vacant.entry(path.to_owned()).or_insert_with(Instant::now);
                let had_receiver = matches!(self.done.get(path), Some(Place::Observed { .. }));
                if had_receiver && !seat.is_new && since.elapsed() < GRACE {
                    return Ok(None);
                }
                self.place(seat, &root, path, kind).map(Some)
            }
        }
    }

    fn observe(&mut self, seat: &Seat<'_>, path: &Path, number: u32) -> Result<New, String> {
        self.vacant.remove(path);
        if self.due.get(path).is_some_and(|due| *due > Instant::now()) {
            return Err(self.problems.get(path).cloned().unwrap_or_default());
        }
        let start = Instant::now();
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
        Ok((source(path, SocketKind::Dgram, true), ring))
    }

    fn place(
        &mut self,
        seat: &Seat<'_>,
        root: &OwnedFd,
        path: &Path,
        kind: SocketKind,
    ) -> Result<New, String> {
        let text = |error: std::io::Error| hyperspector_sys::errno::text(&error);
        let (socket, file) = place::bind(root.as_fd(), path, kind).map_err(text)?;
        self.vacant.remove(path);
        let own = Place::Own { file, by: seat.by, tree: seat.tree.to_owned() };
        self.done.insert(path.to_owned(), own);
        Ok((source(path, kind, false), socket))
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
                // What shares the host's tree has it there after its end too.
                let through = by
                    .open()
                    .map_or_else(std::process::id, |process| process.id.pid.cast_unsigned());
                let root = place::root_of(through, tree);
                let removed = root.and_then(|root| place::remove(root.as_fd(), path, *file));
                if let Err(error) = removed
                    && by.open().is_some()
                {
                    eprintln!("remove our socket {}: {error}", path.display());
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

fn source(path: &Path, kind: SocketKind, observed: bool) -> Source {
    Source { name: source_name(path), kind, observed, shift: 0 }
}

/// All processes of the host.
fn everybody() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}
