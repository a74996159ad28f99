//! What a keeper knows of sources, connections and readers.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::connect::Target;
use crate::sockets::batch::Sender;
use crate::sockets::memory::Memory;
use crate::sockets::message::{Reader, ReaderStatus, Source, SourceId};
use crate::sockets::{SocketKind, ring};

pub(super) struct SourceState {
    pub(super) source: Source,
    pub(super) fd: Option<OwnedFd>,
    pub(super) refused: u64,
}

pub(super) struct Flow {
    pub(super) source: SourceId,
    pub(super) sender: Sender,
    pub(super) fd: OwnedFd,
}

pub(super) struct ReaderState {
    pub(super) setup: Reader,
    pub(super) source: SourceId,
    /// Its root directory; `None` after a take-over, until the agent says it again.
    pub(super) root: Option<OwnedFd>,
    pub(super) ring: OwnedFd,
    pub(super) counts: Memory,
    pub(super) links: HashMap<u32, OwnedFd>,
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
        root: Option<OwnedFd>,
        ring: OwnedFd,
    ) -> io::Result<Self> {
        let counts = Memory::map(&ring)?;
        let (links, target, wanted, problem) = Default::default();
        Ok(Self { setup, source, root, ring, counts, links, target, wanted, problem })
    }

    /// A new connection to it.
    pub(super) fn reach(&self, kind: SocketKind) -> io::Result<(OwnedFd, Target)> {
        let absent = || io::Error::other("its portspace is not known yet");
        let root = self.root.as_ref().ok_or_else(absent)?;
        let target = Target::find(root.as_fd(), &self.setup.to)?;
        Ok((target.connect(kind)?, target))
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
