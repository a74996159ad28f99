//! What a keeper does all the time.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use hyperspector_sys::channel::Channel;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::onward::{self, Onward};
use super::process::Tee;
use super::state::{Flow, ReaderState, SourceState};
use crate::sockets::memory::Memory;
use crate::sockets::message::{ReaderId, SourceId, Target, ToKeeper, ToTee};
use crate::sockets::{SocketKind, tee};

/// How often is tried again to reach a reader.
const RETRY: Duration = Duration::from_millis(100);
/// How often everything is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How long the agent may take for a request, and a tee for a word.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// A tee that lived no longer than this died soon.
const SOON: Duration = Duration::from_secs(1);
/// The pause before a tee is started again that died soon: writers wait meanwhile, so it is short.
const PAUSE: Duration = Duration::from_millis(100);
/// After so many tees in a row that died soon, the batch that they began with is given up.
const POISON: u32 = 10;
/// The most connections of writers, for each source.
pub(super) const MOST_FLOWS: usize = 1024;
/// Connections that the tee was given and has not confirmed: more would fill its channel.
const MOST_UNCONFIRMED: usize = 64;
/// The first number of a connection; those below are sources'.
pub(super) const FIRST_FLOW: u32 = 1 << 16;

pub(super) struct Keeper {
    pub(super) ids: (u32, u32),
    pub(super) control: UnixListener,
    pub(super) successor: OwnedFd,
    pub(super) root: OwnedFd,
    pub(super) intake: OwnedFd,
    pub(super) counts: Memory,
    pub(super) tee: Option<Tee>,
    pub(super) restarts: u64,
    /// Tees in a row that died soon.
    pub(super) died_soon: u32,
    /// When the next attempt to start a tee is due.
    pub(super) due: Instant,
    pub(super) sources: BTreeMap<SourceId, SourceState>,
    pub(super) readers: BTreeMap<ReaderId, ReaderState>,
    pub(super) flows: HashMap<u32, Flow>,
    pub(super) next_flow: u32,
    /// Connections to receivers that are being made, and what has made such and may not have ended.
    pub(super) onward: Vec<Onward>,
    pub(super) ending: Vec<onward::Process>,
    pub(super) is_ending: bool,
    /// The tee has said that it heard everything.
    pub(super) said: bool,
}

/// What can be read.
enum Ready {
    Control,
    OfTee,
    Source(SourceId),
    Onward,
}

impl Keeper {
    pub(super) fn new(
        ids: (u32, u32),
        control: UnixListener,
        successor: OwnedFd,
        root: OwnedFd,
        intake: OwnedFd,
    ) -> io::Result<Self> {
        let counts = Memory::map(&intake)?;
        Ok(Self {
            ids,
            control,
            successor,
            root,
            intake,
            counts,
            tee: None,
            restarts: 0,
            died_soon: 0,
            due: Instant::now(),
            sources: BTreeMap::new(),
            readers: BTreeMap::new(),
            flows: HashMap::new(),
            next_flow: FIRST_FLOW,
            onward: Vec::new(),
            ending: Vec::new(),
            is_ending: false,
            said: false,
        })
    }

    /// Serves the agent and the tee until the agent says stop.
    pub(super) fn run(mut self) -> io::Result<()> {
        let (mut looked, mut tried) = (Instant::now(), Instant::now());
        while !self.is_ending {
            for ready in self.wait()? {
                match ready {
                    Ready::Control => self.converse(),
                    Ready::OfTee => self.hear(),
                    Ready::Source(id) => self.accept(id),
                    Ready::Onward => {}
                }
            }
            self.go_onward();
            if tried.elapsed() >= RETRY {
                tried = Instant::now();
                self.connect_all();
            }
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                self.look();
            }
            self.revive();
        }
        if let Some(tee) = self.tee.take() {
            tee.kill();
        }
        Ok(())
    }

    fn wait(&self) -> io::Result<Vec<Ready>> {
        let has_room = self.tee.as_ref().is_some_and(|tee| tee.unconfirmed < MOST_UNCONFIRMED);
        let mut waiting: Vec<(Ready, BorrowedFd<'_>)> =
            vec![(Ready::Control, self.control.as_fd())];
        waiting.extend(self.tee.as_ref().map(|tee| (Ready::OfTee, tee.channel.as_fd())));
        waiting.extend(self.onward.iter().map(|onward| (Ready::Onward, onward.as_fd())));
        let listeners = self.sources.iter().filter(|(_, source)| source.is_listening());
        for (id, source) in listeners.filter(|(id, _)| has_room && !self.is_crowded(**id)) {
            waiting.extend(source.fd.as_ref().map(|fd| (Ready::Source(*id), fd.as_fd())));
        }
        let mut fds: Vec<PollFd<'_>> =
            waiting.iter().map(|(_, fd)| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
        let is_waiting = self.readers.values().any(|reader| !reader.wanted.is_empty());
        let timeout = if is_waiting || self.tee.is_none() { RETRY } else { LOOK };
        let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let is_ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let both = waiting.into_iter().zip(is_ready);
        Ok(both.filter(|(_, is_ready)| *is_ready).map(|((ready, _), _)| ready).collect())
    }

    /// Starts a tee and tells it everything.
    pub(super) fn start_tee(&mut self) -> io::Result<()> {
        let fds = [self.root.as_fd(), self.intake.as_fd(), self.successor.as_fd()];
        let tee = Tee::start(self.ids, &fds)?;
        let told = self.tell_all(&tee.channel);
        let ready = told.and_then(|()| tee.channel.receive_within::<ToKeeper>(PATIENCE * 5));
        let refused = match ready {
            Ok(Some((ToKeeper::Ready, _))) => {
                self.tee = Some(tee);
                return Ok(());
            }
            Ok(Some((ToKeeper::Failed(why), _))) => io::Error::other(why),
            Ok(_) => io::Error::other("the tee ended without a word"),
            Err(error) => error,
        };
        tee.kill();
        Err(refused)
    }

    fn tell_all(&self, channel: &Channel) -> io::Result<()> {
        let send = |message: &ToTee, fd: &OwnedFd| channel.send(message, &[fd.as_fd()]);
        for (id, source) in &self.sources {
            let fds: Vec<_> = source.fd.iter().map(AsFd::as_fd).collect();
            channel.send(&ToTee::Source(*id, source.source.clone()), &fds)?;
        }
        for (id, reader) in &self.readers {
            send(&ToTee::Reader(*id, reader.source, reader.setup.clone()), &reader.ring)?;
        }
        for (id, reader) in &self.readers {
            for (flow, (fd, target)) in &reader.links {
                send(&ToTee::Link(*id, *flow, *target), fd)?;
            }
        }
        for (id, flow) in &self.flows {
            let fds: Vec<_> = flow.fds.iter().map(AsFd::as_fd).collect();
            channel.send(&ToTee::Flow(*id, flow.source, flow.sender), &fds)?;
        }
        channel.send(&ToTee::Go, &[])
    }

    /// Starts the tee again when it has died.
    fn revive(&mut self) {
        if self.tee.is_some() || self.due > Instant::now() {
            return;
        }
        self.restarts += 1;
        self.readers.values_mut().for_each(|reader| reader.wanted.clear());
        if self.died_soon >= POISON {
            eprintln!("keeper: one tee after the other dies; giving up what they began with");
            tee::give_up(&self.counts);
            self.died_soon = 0;
        }
        if let Err(error) = self.start_tee() {
            eprintln!("keeper: start the tee again: {error}");
            self.died_soon += 1;
            self.due = Instant::now() + PAUSE;
        }
    }

    pub(super) fn lose_tee(&mut self) {
        let Some(tee) = self.tee.take() else { return };
        let is_soon = tee.started.elapsed() < SOON;
        let is_its_own = tee.end();
        self.died_soon = if is_soon && is_its_own { self.died_soon + 1 } else { 0 };
        self.due = Instant::now() + if self.died_soon > 1 { PAUSE } else { Duration::ZERO };
    }

    /// Tells the tee something; one that does not listen is ended.
    pub(super) fn tell(&mut self, message: &ToTee, fds: &[&OwnedFd]) {
        let Some(tee) = &self.tee else { return };
        let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
        if tee.channel.send(message, &fds).is_err() {
            self.lose_tee();
        }
    }

    /// Hears the tee. One that says nonsense has been taken, and is ended.
    fn hear(&mut self) {
        let Some(tee) = &mut self.tee else { return };
        let message = match tee.channel.receive_within::<ToKeeper>(PATIENCE) {
            Ok(Some((message, _))) => message,
            _ => return self.lose_tee(),
        };
        match message {
            ToKeeper::Said => self.said = true,
            ToKeeper::Took(_) => tee.unconfirmed = tee.unconfirmed.saturating_sub(1),
            ToKeeper::Ended(flow) => drop(self.flows.remove(&flow)),
            ToKeeper::Want(reader, flow) => self.want(reader, flow),
            ToKeeper::Unlink(reader, flow) => {
                if let Some(reader) = self.readers.get_mut(&reader) {
                    reader.links.remove(&flow);
                    reader.wanted.retain(|wanted| *wanted != flow);
                }
            }
            ToKeeper::Probe(reader, position, target) => self.probe(reader, position, target),
            ToKeeper::Ready | ToKeeper::Failed(_) => self.lose_tee(),
        }
    }

    /// Waits until the tee has heard everything: what a writer sends after an answer to the agent goes
    /// to every reader that the agent has named before.
    pub(super) fn settle(&mut self) {
        self.said = false;
        self.tell(&ToTee::Say, &[]);
        let end = Instant::now() + PATIENCE;
        while self.tee.is_some() && !self.said && Instant::now() < end {
            self.hear();
        }
        if !self.said {
            self.lose_tee();
        }
    }

    fn want(&mut self, id: ReaderId, flow: u32) {
        let Some(reader) = self.readers.get_mut(&id) else { return };
        if reader.wanted.len() < MOST_FLOWS && !reader.wanted.contains(&flow) {
            reader.wanted.push(flow);
        }
        self.connect(id);
    }

    /// Whether the socket that a datagram reader's link leads to is still there.
    fn probe(&mut self, id: ReaderId, position: u64, target: Target) {
        if let Some(reader) = self.readers.get(&id)
            && let Some(is_open) = reader.is_open(target)
        {
            self.tell(&ToTee::Probed(id, position, target, is_open), &[]);
        }
    }

    fn connect_all(&mut self) {
        let waiting = self.readers.iter().filter(|(_, reader)| !reader.wanted.is_empty());
        let waiting: Vec<ReaderId> = waiting.map(|(id, _)| *id).collect();
        waiting.into_iter().for_each(|id| self.connect(id));
    }

    /// Makes the connections that a reader's flows wait for, as far as that goes.
    fn connect(&mut self, id: ReaderId) {
        while let Some(reader) = self.readers.get_mut(&id)
            && let Some(flow) = reader.wanted.first().copied()
        {
            let kind =
                self.sources.get(&reader.source).map_or(SocketKind::Dgram, SourceState::kind);
            match reader.reach(kind) {
                Ok((link, target)) => {
                    reader.wanted.remove(0);
                    reader.problem = None;
                    self.give_link(id, flow, link, target);
                }
                Err(error) => {
                    reader.problem = Some(hyperspector_sys::errno::text(&error));
                    return;
                }
            }
        }
    }

    fn give_link(&mut self, id: ReaderId, flow: u32, link: OwnedFd, target: Target) {
        let Some(reader) = self.readers.get_mut(&id) else { return };
        let copy = link.try_clone();
        reader.links.insert(flow, (link, target));
        match copy {
            Ok(copy) => self.tell(&ToTee::Link(id, flow, target), &[&copy]),
            Err(_) => self.lose_tee(),
        }
    }

    /// Looks at the tee, and whether other sockets have taken the place of datagram readers'.
    fn look(&mut self) {
        if let Some(tee) = &mut self.tee {
            tee.watch(&self.counts);
        }
        let mut moved = Vec::new();
        for (id, reader) in &self.readers {
            let is_dgram =
                self.sources.get(&reader.source).map(SourceState::kind) == Some(SocketKind::Dgram);
            if is_dgram && reader.wanted.is_empty() {
                moved.extend(reader.moved().into_iter().map(|flow| (*id, flow)));
            }
        }
        for (id, flow) in moved {
            self.want(id, flow);
        }
    }
}
