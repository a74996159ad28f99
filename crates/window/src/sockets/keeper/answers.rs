//! What the agent asks of a keeper, and what a keeper takes over from an orphaned tee.

use std::io;
use std::os::fd::OwnedFd;

use hyperspector_sys::channel::Channel;

use super::process::Tee;
use super::serve::{FIRST_FLOW, Keeper, PATIENCE};
use super::state::{Flow, ReaderState, SourceState};
use crate::sockets::memory::{self, Memory};
use crate::sockets::message::{
    Reader, ReaderId, Reply, Request, Seat, Source, SourceId, SourceStatus, Status, ToKeeper, ToTee,
};
use crate::sockets::{ring, tee};

/// The most readers of a server.
const MOST_READERS: ReaderId = 256;

impl Keeper {
    /// Answers one request of the agent.
    pub(super) fn converse(&mut self) {
        let Ok((stream, _)) = self.control.accept() else { return };
        let channel = Channel::new(stream);
        let _ = channel.stream().set_write_timeout(Some(PATIENCE));
        let Ok(Some((request, fds))) = channel.receive_within::<Request>(PATIENCE) else { return };
        let reply = match self.answer(request, fds.into_iter().next()) {
            Ok(reply) => reply,
            Err(error) => Reply::Refused(error.to_string()),
        };
        let _ = channel.send(&reply, &[]);
    }

    fn answer(&mut self, request: Request, fd: Option<OwnedFd>) -> io::Result<Reply> {
        let missing = || io::Error::new(io::ErrorKind::InvalidInput, "a descriptor is missing");
        match request {
            Request::Source(source) => {
                self.set_source(source, fd.ok_or_else(missing)?)?;
                self.settle();
            }
            Request::NoSource(name) => self.remove_source(&name),
            Request::Reader(reader, seat) => {
                self.set_reader(reader, seat)?;
                self.settle();
            }
            Request::NoReader(name) => self.remove_reader(&name),
            Request::Status => return Ok(Reply::Status(self.status())),
            Request::Stop => self.is_ending = true,
        }
        Ok(Reply::Done)
    }

    fn source(&self, name: &str) -> Option<SourceId> {
        self.sources.iter().find(|(_, one)| one.source.name == name).map(|(id, _)| *id)
    }

    fn set_source(&mut self, source: Source, fd: OwnedFd) -> io::Result<()> {
        let known = self.source(&source.name);
        let is_free = |id: &SourceId| !self.sources.contains_key(id);
        let id = known.or_else(|| (0..tee::MOST_SOURCES).find(is_free));
        let id = id.ok_or_else(|| io::Error::other("there are too many sockets"))?;
        let is_alike = |old: &SourceState| old.source.kind == source.kind;
        if known.is_some() {
            self.forget_onward(id);
            self.tell(&ToTee::NoSource(id), &[]);
            if !self.sources.get(&id).is_some_and(is_alike) {
                // Readers are of their source's kind: they begin anew.
                self.lose_tee();
            }
        } else {
            tee::reset(&self.counts, id);
        }
        // A socket that is waited for must not be waited for twice.
        rustix::io::ioctl_fionbio(&fd, true).or_else(|error| match error {
            rustix::io::Errno::NOTTY => Ok(()),
            other => Err(other),
        })?;
        self.tell(&ToTee::Source(id, source.clone()), &[&fd]);
        let refused = self.sources.get(&id).map_or(0, |old| old.refused);
        self.sources.insert(id, SourceState { source, fd: Some(fd), refused });
        Ok(())
    }

    fn remove_source(&mut self, name: &str) {
        let Some(id) = self.source(name) else { return };
        self.forget_onward(id);
        self.tell(&ToTee::NoSource(id), &[]);
        let has_readers = self.readers.values().any(|reader| reader.source == id);
        if !has_readers {
            self.sources.remove(&id);
        } else if let Some(source) = self.sources.get_mut(&id) {
            source.fd = None;
        }
    }

    fn set_reader(&mut self, setup: Reader, seat: Option<Seat>) -> io::Result<()> {
        let known = self.readers.iter().find(|(_, one)| one.setup.name == setup.name);
        let known = known.map(|(id, _)| *id);
        if let Some(reader) = known.and_then(|id| self.readers.get_mut(&id))
            && reader.setup == setup
        {
            reader.seat = seat;
            return Ok(());
        }
        self.remove_reader(&setup.name);
        let source = self.source(&setup.source);
        let source = source.ok_or_else(|| io::Error::other("there is no such socket"))?;
        let id = (0..MOST_READERS).find(|id| !self.readers.contains_key(id));
        let id = id.ok_or_else(|| io::Error::other("there are too many readers"))?;
        let ring = memory::create("ring", ring::size(setup.queue))?;
        self.tell(&ToTee::Reader(id, source, setup.clone()), &[&ring]);
        let state = ReaderState::new(setup, source, seat, ring)?;
        self.readers.insert(id, state);
        Ok(())
    }

    fn remove_reader(&mut self, name: &str) {
        let known = self.readers.iter().find(|(_, one)| one.setup.name == name);
        let Some(id) = known.map(|(id, _)| *id) else { return };
        self.readers.remove(&id);
        self.tell(&ToTee::NoReader(id), &[]);
    }

    fn status(&self) -> Status {
        let sources = self.sources.iter().map(|(id, state)| SourceStatus {
            name: state.source.name.clone(),
            open: state.fd.is_some(),
            received: tee::count(&self.counts, *id, tee::Count::Received),
            cut: tee::count(&self.counts, *id, tee::Count::Cut),
            descriptors: tee::count(&self.counts, *id, tee::Count::Descriptors),
            missed: tee::count(&self.counts, *id, tee::Count::Missed),
            connections: self.flows.values().filter(|flow| flow.source == *id).count(),
            refused: state.refused,
        });
        Status {
            tee: self.tee.as_ref().map(Tee::id),
            restarts: self.restarts,
            sources: sources.collect(),
            readers: self.readers.values().map(ReaderState::status).collect(),
        }
    }

    /// Takes everything from a tee that has lost its keeper.
    pub(super) fn take_over(&mut self, orphan: &Channel) -> io::Result<()> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        loop {
            let message = orphan.receive_within::<ToTee>(PATIENCE)?;
            let (message, mut fds) = message.ok_or_else(invalid)?;
            if let ToTee::Flow(id, source, sender) = message {
                self.flows.insert(id, Flow { source, sender, fds });
                self.next_flow = self.next_flow.max(id.wrapping_add(1)).max(FIRST_FLOW);
                continue;
            }
            let fd = fds.pop();
            match (message, fd) {
                (ToTee::Start { .. }, Some(fd)) => {
                    self.counts = Memory::map(&fd)?;
                    self.intake = fd;
                }
                (ToTee::Source(id, source), fd) => {
                    self.sources.insert(id, SourceState { source, fd, refused: 0 });
                }
                (ToTee::Reader(id, source, setup), Some(ring)) => {
                    let state = ReaderState::new(setup, source, None, ring)?;
                    self.readers.insert(id, state);
                }
                (ToTee::Link(reader, flow, target), Some(fd)) => {
                    let reader = self.readers.get_mut(&reader).ok_or_else(invalid)?;
                    reader.links.insert(flow, (fd, target));
                }
                (ToTee::Go, _) => break,
                _ => return Err(invalid()),
            }
        }
        orphan.send(&ToKeeper::Ready, &[])?;
        // It ends, and only then another may work on the same memory.
        let _ = orphan.receive_within::<ToTee>(PATIENCE);
        Ok(())
    }
}
