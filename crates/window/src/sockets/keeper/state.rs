//! What a keeper knows of sources, connections and readers.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::connect::{connect_to, find, root_of};
use crate::sockets::batch::Sender;
use crate::sockets::memory::Memory;
use crate::sockets::message::{Reader, ReaderStatus, Seat, Source, SourceId, Target};
use crate::sockets::place::{self, FileId};
use crate::sockets::{SocketKind, ring};

pub(super) struct SourceState {
    pub(super) source: Source,
    pub(super) fd: Option<OwnedFd>,
    pub(super) refused: u64,
}

pub(super) struct Flow {
    pub(super) source: SourceId,
    pub(super) sender: Sender,
    /// Its connection; and, where it goes on to a receiver, what a relay takes.
    pub(super) fds: Vec<OwnedFd>,
}

pub(super) struct ReaderState {
    pub(super) setup: Reader,
    pub(super) source: SourceId,
    /// Where it listens; `None` after a take-over, until the agent says it again.
    pub(super) seat: Option<Seat>,
    pub(super) ring: OwnedFd,
    pub(super) counts: Memory,
    pub(super) links: HashMap<u32, (OwnedFd, Target)>,
    pub(super) wanted: Vec<u32>,
    pub(super) problem: Option<String>,
}

impl SourceState {
    pub(super) fn kind(&self) -> SocketKind {
        self.source.kind
    }

    /// Whether it is a socket that takes connections.
    pub(super) fn is_listening(&self) -> bool {
        !self.source.observed && self.source.kind != SocketKind::Dgram
    }
}

impl ReaderState {
    pub(super) fn new(
        setup: Reader,
        source: SourceId,
        seat: Option<Seat>,
        ring: OwnedFd,
    ) -> io::Result<Self> {
        let counts = Memory::map(&ring)?;
        let (links, wanted, problem) = Default::default();
        Ok(Self { setup, source, seat, ring, counts, links, wanted, problem })
    }

    /// Where it listens.
    fn seat(&self) -> io::Result<Seat> {
        self.seat.ok_or_else(|| io::Error::other("its portspace does not run"))
    }

    /// The file of its socket, as it is now.
    fn find(&self) -> io::Result<(OwnedFd, FileId)> {
        let root = root_of(self.seat()?.process)?;
        find(root.as_fd(), &self.setup.to)
    }

    /// A new connection to it.
    pub(super) fn reach(&self, kind: SocketKind) -> io::Result<(OwnedFd, Target)> {
        let queue = self.seat()?.queue;
        let (path, file) = self.find()?;
        let link = connect_to(&path, kind)?;
        // The file alone does not tell: one that is removed leaves its numbers to the next.
        let is_dgram = kind == SocketKind::Dgram;
        let socket = is_dgram.then(|| place::peer(&link)).transpose()?;
        Ok((link, Target { file, socket, queue }))
    }

    /// Whether the datagram socket `target` is at its path, and open; `None` where that cannot be told
    /// now. One that was removed from there counts as closed.
    pub(super) fn is_open(&self, target: Target) -> Option<bool> {
        match self.reach(SocketKind::Dgram) {
            Ok((_, found)) => Some((found.file, found.socket) == (target.file, target.socket)),
            Err(error) => is_absence(&error).then_some(false),
        }
    }

    /// The flows whose datagram links lead to a socket that another has taken the place of.
    pub(super) fn moved(&self) -> Vec<u32> {
        let Ok((_, now)) = self.find() else { return Vec::new() };
        let others = self.links.iter().filter(|(_, (_, target))| target.file != now);
        let others: Vec<u32> = others.map(|(flow, _)| *flow).collect();
        let is_open = !others.is_empty() && self.reach(SocketKind::Dgram).is_ok();
        if is_open { others } else { Vec::new() }
    }

    pub(super) fn status(&self) -> ReaderStatus {
        let counts = ring::counts(&self.counts);
        ReaderStatus {
            name: self.setup.name.clone(),
            accepted: counts.accepted,
            delivered: counts.delivered,
            lost: counts.lost,
            waiting: counts.waiting_bytes,
            problem: self.problem.clone(),
        }
    }
}

/// Whether a socket that could not be reached is not there, and not just out of our reach.
fn is_absence(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, InvalidInput, NotADirectory, NotFound};
    let kinds = [ConnectionRefused, InvalidInput, NotADirectory, NotFound];
    let is_other = matches!(error.raw_os_error(), Some(libc::EPROTOTYPE | libc::ELOOP));
    is_other || kinds.contains(&error.kind())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sockets::memory;
    use crate::sockets::message::Process;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn a_socket_is_told_from_the_next_one_with_the_same_file_number() {
        let home = tempfile::tempdir().unwrap();
        let to = home.path().join("log");
        let pid = std::process::id();
        let start = hyperspector_sys::pidfd::start_time(pid).unwrap().unwrap();
        let seat = Some(Seat { process: Process { pid, start }, queue: 10 });
        let (name, source, queue) = ("reader".into(), "source".into(), ring::SMALLEST);
        let setup = Reader { name, source, to: to.clone(), queue, senders: false };
        let memory = memory::create("ring", ring::size(queue)).unwrap();
        let mut reader = ReaderState::new(setup, 1, seat, memory).unwrap();
        let first = UnixDatagram::bind(&to).unwrap();
        let (_link, target) = reader.reach(SocketKind::Dgram).unwrap();
        assert_eq!(reader.is_open(target), Some(true));
        drop(first);
        assert_eq!(reader.is_open(target), Some(false));
        std::fs::remove_file(&to).unwrap();
        assert_eq!(reader.is_open(target), Some(false));
        let _next = UnixDatagram::bind(&to).unwrap();
        let (_link, next) = reader.reach(SocketKind::Dgram).unwrap();
        assert_ne!(next.socket, target.socket);
        let forged = Target { file: next.file, ..target };
        assert_eq!((reader.is_open(forged), reader.is_open(next)), (Some(false), Some(true)));
        // Who does not know where to look cannot tell.
        reader.seat = None;
        assert_eq!(reader.is_open(next), None);
    }
}
