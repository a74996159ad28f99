//! What the keeper tells the tee, and what the tee tells it.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::net::Shutdown;

use super::run::{Tee, Token};
use super::take::{Flow, Origin};
use crate::sockets::SocketKind;
use crate::sockets::batch::Sender;
use crate::sockets::link::Watch;
use crate::sockets::message::{
    Reader as Setup, ReaderId, Source, SourceId, Target, ToKeeper, ToTee,
};
use crate::sockets::observe::Observer;
use crate::sockets::reader::Reader;
use crate::sockets::relay::Relay;

/// How many batches are taken from a socket that is about to be closed: more than its queue holds.
const BATCHES_AT_THE_END: usize = 256;

impl Tee {
    /// Hears what the keeper says. Without one it goes on with what it has, until a successor comes.
    pub(super) fn hear(&mut self) -> io::Result<()> {
        let Some(keeper) = &self.keeper else { return Ok(()) };
        match keeper.receive::<ToTee>() {
            Ok(Some((message, fds))) => self.told(message, fds),
            Ok(None) | Err(_) => {
                self.lose_keeper();
                Ok(())
            }
        }
    }

    pub(super) fn lose_keeper(&mut self) {
        if let Some(keeper) = self.keeper.take() {
            let _ = epoll::delete(&self.epoll, &keeper);
        }
    }

    pub(super) fn told(&mut self, message: ToTee, fds: Vec<OwnedFd>) -> io::Result<()> {
        let mut fds = fds.into_iter();
        let mut next = || fds.next().ok_or(io::Error::from(io::ErrorKind::InvalidInput));
        match message {
            ToTee::Source(id, source) => self.open_source(id, source, next().ok()),
            ToTee::NoSource(id) => {
                self.close_source(id);
                Ok(())
            }
            ToTee::Reader(id, source, setup) => self.open_reader(id, source, setup, next()?),
            ToTee::NoReader(id) => {
                self.readers.remove(&id);
                Ok(())
            }
            ToTee::Flow(flow, source, sender) => {
                self.open_flow(flow, source, sender, fds.collect())
            }
            ToTee::Link(reader, flow, target) => self.open_link(reader, flow, target, next()?),
            ToTee::Say => {
                self.answer(&ToKeeper::Said);
                Ok(())
            }
            ToTee::Probed(reader, position, target, is_there) => {
                if let Some(reader) = self.readers.get_mut(&reader) {
                    reader.probed(position, target, is_there);
                }
                Ok(())
            }
            ToTee::Start { .. } | ToTee::Go => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// A source without a descriptor is one that is gone and still has readers.
    fn open_source(&mut self, id: SourceId, source: Source, fd: Option<OwnedFd>) -> io::Result<()> {
        let kind = source.kind;
        let Some(fd) = fd else {
            self.sources.insert(id, (source, None));
            return Ok(());
        };
        let from = if source.observed {
            Origin::Observer(Observer::open(fd)?)
        } else if kind == SocketKind::Dgram {
            Origin::Socket(fd)
        } else {
            self.sources.insert(id, (source, Some(fd)));
            return Ok(());
        };
        self.sources.insert(id, (source, None));
        let flow = u32::from(id);
        match &from {
            Origin::Socket(fd) => self.watch(fd, Token::Flow(flow), EventFlags::IN)?,
            Origin::Observer(observer) => {
                // Told when it is woken alone; what comes between is looked for.
                self.watch(observer, Token::Flow(flow), EventFlags::IN | EventFlags::ET)?;
                self.looking.insert(flow, Instant::now());
            }
            Origin::Relay(_) => {}
        }
        let flow_state = Flow { source: id, kind, from, sender: None, empty_words: 0 };
        self.flows.insert(flow, flow_state);
        Ok(())
    }

    /// What is still in the socket is taken; connections get an end.
    fn close_source(&mut self, id: SourceId) {
        let flow = u32::from(id);
        let most = BATCHES_AT_THE_END;
        let taken = (0..most).take_while(|_| self.take_batch(flow)).count();
        if taken == most {
            eprintln!("tee: a socket is closed while it is flooded");
        }
        self.forget(flow);
        if let Some((_, listener)) = self.sources.get_mut(&id) {
            *listener = None;
        }
        for flow in self.flows.values().filter(|flow| flow.source == id) {
            if let Origin::Socket(fd) | Origin::Relay(Relay { writer: fd, .. }) = &flow.from {
                let _ = rustix::net::shutdown(fd, Shutdown::Both);
            }
        }
    }

    fn open_reader(
        &mut self,
        id: ReaderId,
        source: SourceId,
        setup: Setup,
        memory: OwnedFd,
    ) -> io::Result<()> {
        let missing = || io::Error::other("a reader of nothing");
        let (found, _) = self.sources.get(&source).ok_or_else(missing)?;
        let source = (source, found.kind, found.shift);
        self.readers.insert(id, Reader::open(id, source, setup, memory)?);
        Ok(())
    }

    fn open_flow(
        &mut self,
        flow: u32,
        source: SourceId,
        sender: Sender,
        fds: Vec<OwnedFd>,
    ) -> io::Result<()> {
        let kind = self.sources.get(&source).map_or(SocketKind::Stream, |one| one.0.kind);
        let from = match <[OwnedFd; 4]>::try_from(fds) {
            Ok(fds) => {
                let relay = Relay::open(fds, kind)?;
                // Each change is told once: both sides may wait for long.
                let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
                self.watch(&relay.writer, Token::Flow(flow), flags)?;
                self.watch(&relay.receiver, Token::Flow(flow), flags)?;
                self.going_on.insert(flow);
                Origin::Relay(relay)
            }
            Err(fds) => {
                let fd = fds.into_iter().next().ok_or(io::ErrorKind::InvalidInput)?;
                self.watch(&fd, Token::Flow(flow), EventFlags::IN)?;
                Origin::Socket(fd)
            }
        };
        self.flows.insert(flow, Flow { source, kind, from, sender: Some(sender), empty_words: 0 });
        self.answer(&ToKeeper::Took(flow));
        Ok(())
    }

    fn open_link(
        &mut self,
        id: ReaderId,
        flow: u32,
        target: Target,
        fd: OwnedFd,
    ) -> io::Result<()> {
        if let Some(reader) = self.readers.get_mut(&id) {
            let data = EventData::from(Token::Link(id, flow)).u64();
            let watch = Watch::begin(&self.epoll, &fd, reader.kind, data)?;
            reader.take_link(flow, fd, target, Some(watch));
        }
        Ok(())
    }

    /// Tells the keeper. One that cannot be told is gone, and its successor starts with what is there.
    pub(super) fn answer(&mut self, message: &ToKeeper) {
        if let Some(keeper) = &self.keeper
            && keeper.send(message, &[]).is_err()
        {
            self.lose_keeper();
        }
    }

    /// Tells the keeper what readers need.
    pub(super) fn tell(&mut self) {
        let all = self.readers.values_mut().flat_map(|reader| std::mem::take(&mut reader.out));
        for message in all.collect::<Vec<_>>() {
            self.answer(&message);
        }
    }
}
