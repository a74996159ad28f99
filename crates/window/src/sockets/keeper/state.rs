//! What a keeper knows of sources, connections and readers.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::connect::{Target, connect_to, find, root_of};
use crate::sockets::batch::Sender;
use crate::sockets::memory::Memory;
use crate::sockets::message::{Reader, ReaderStatus, Seat, Source, SourceId};
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
    /// With how many datagrams each holds.
    pub(super) links: HashMap<u32, (OwnedFd, u32)>,
    /// What the links of a datagram reader lead to.
    pub(super) target: Option<Target>,
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
        let (links, target, wanted, problem) = Default::default();
        Ok(Self { setup, source, seat, ring, counts, links, target, wanted, problem })
    }

    /// Its socket, as it is now.
    pub(super) fn find(&self) -> io::Result<(OwnedFd, Target)> {
        let absent = || io::Error::other("its portspace does not run");
        let root = root_of(self.seat.ok_or_else(absent)?.process)?;
        find(root.as_fd(), &self.setup.to)
    }

    /// A new connection to it.
    pub(super) fn reach(&self, kind: SocketKind) -> io::Result<(OwnedFd, Target)> {
        let (file, target) = self.find()?;
        Ok((connect_to(&file, kind)?, target))
    }

    /// Whether the socket that its links lead to is at its path, and open. One that was removed from
    /// there counts as closed.
    pub(super) fn is_open(&self) -> bool {
        self.reach(SocketKind::Dgram).is_ok_and(|(_, found)| Some(found) == self.target)
    }

    /// Whether another socket has taken the place of the one that its links lead to.
    pub(super) fn has_moved(&self) -> bool {
        let found = self.target.and_then(|target| Some((target, self.find().ok()?.1)));
        found.is_some_and(|(target, now)| target != now) && self.reach(SocketKind::Dgram).is_ok()
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
