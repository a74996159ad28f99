//! The tee's rounds.

use std::collections::{HashMap, HashSet};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hyperspector_sys::channel::Channel;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::Shutdown;

use super::intake::{Count, Intake};
use crate::sockets::SocketKind;
use crate::sockets::batch::Sender;
use crate::sockets::link::Watch;
use crate::sockets::message::{Reader as Setup, ReaderId, Source, SourceId, ToKeeper, ToTee};
use crate::sockets::observe::{AGAIN, Observed, Observer, Taken};
use crate::sockets::reader::Reader;
use crate::sockets::relay::{Relay, Turn};

/// How often is looked at what readers have taken, while that is not clear.
const CARE: Duration = Duration::from_millis(50);
/// How long a keeper may take to read what it is told.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// Events of one round.
const EVENTS: usize = 64;
/// How many batches are taken from a socket that is about to be closed: more than its queue holds.
const BATCHES_AT_THE_END: usize = 256;
/// How often a connection may say that it has something and have nothing.
const EMPTY_WORDS: u32 = 1000;

/// Whose event it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Keeper,
    Successor,
    Flow(u32),
    Link(ReaderId, u32),
}

impl From<Token> for EventData {
    fn from(token: Token) -> Self {
        Self::new_u64(match token {
            Token::Keeper => 0,
            Token::Successor => 1,
            Token::Flow(flow) => 1 << 32 | u64::from(flow),
            Token::Link(reader, flow) => 1 << 63 | u64::from(reader) << 32 | u64::from(flow),
        })
    }
}

impl Token {
    fn of(data: u64) -> Self {
        let flow = (data & 0xffff_ffff) as u32;
        match (data >> 63, data >> 32, flow) {
            (1, _, _) => Self::Link((data >> 32) as ReaderId, flow),
            (_, 1, _) => Self::Flow(flow),
            (_, _, 0) => Self::Keeper,
            _ => Self::Successor,
        }
    }
}

/// Where messages come from.
pub(super) enum Origin {
    Socket(OwnedFd),
    Observer(Observer),
    Relay(Relay),
}

/// A socket or a connection.
pub(super) struct Flow {
    pub(super) source: SourceId,
    pub(super) kind: SocketKind,
    pub(super) from: Origin,
    /// Who writes, where that is known for all that comes.
    pub(super) sender: Option<Sender>,
    pub(super) empty_words: u32,
}

pub(super) struct Tee {
    pub(super) keeper: Option<Channel>,
    pub(super) successor: UnixListener,
    pub(super) ids: (u32, u32),
    pub(super) memory: OwnedFd,
    pub(super) epoll: Rc<OwnedFd>,
    pub(super) intake: Intake,
    /// With the listening socket, which only the keeper uses.
    pub(super) sources: HashMap<SourceId, (Source, Option<OwnedFd>)>,
    pub(super) flows: HashMap<u32, Flow>,
    pub(super) readers: HashMap<ReaderId, Reader>,
    /// Relays and observers that had their turn and could go on.
    pub(super) going_on: HashSet<u32>,
    /// Observers that are looked at without being woken, until then at least.
    pub(super) looking: HashMap<u32, Instant>,
}

/// Takes what the keeper has, says that it is ready, and goes on until it has handed over.
pub(super) fn run(
    keeper: Channel,
    memory: OwnedFd,
    successor: UnixListener,
    ids: (u32, u32),
) -> io::Result<()> {
    let epoll = Rc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?);
    let intake = Intake::open(&memory)?;
    let (sources, flows, readers, going_on, looking) = Default::default();
    let mut tee = Tee {
        keeper: None,
        successor,
        ids,
        memory,
        epoll,
        intake,
        sources,
        flows,
        readers,
        going_on,
        looking,
    };
    keeper.stream().set_write_timeout(Some(PATIENCE))?;
    loop {
        let Some((message, fds)) = keeper.receive::<ToTee>()? else { return Ok(()) };
        if matches!(message, ToTee::Go) {
            break;
        }
        tee.told(message, fds)?;
    }
    tee.finish_batch();
    keeper.send(&ToKeeper::Ready, &[])?;
    tee.watch(&keeper, Token::Keeper, EventFlags::IN)?;
    tee.watch(&tee.successor, Token::Successor, EventFlags::IN)?;
    tee.keeper = Some(keeper);
    tee.rounds()
}

impl Tee {
    fn rounds(&mut self) -> io::Result<()> {
        let mut cared = Instant::now();
        loop {
            let events = self.wait()?;
            for (token, flags) in events {
                if self.event(token, flags)? {
                    return Ok(());
                }
            }
            for flow in std::mem::take(&mut self.going_on) {
                self.take(flow);
            }
            self.look();
            for reader in self.readers.values_mut() {
                reader.deliver();
            }
            if cared.elapsed() >= CARE {
                cared = Instant::now();
                for reader in self.readers.values_mut() {
                    reader.care(|| self.intake.number());
                }
            }
            self.tell();
        }
    }

    /// Waits until there is something to do.
    fn wait(&mut self) -> io::Result<Vec<(Token, EventFlags)>> {
        let is_busy = !self.going_on.is_empty() || self.readers.values().any(Reader::is_busy);
        let timeout = if is_busy {
            Some(Duration::ZERO)
        } else {
            let care = self.readers.values().any(Reader::needs_care).then_some(CARE);
            let now = Instant::now();
            let due = self.readers.values().filter_map(Reader::due);
            let due = due.chain(self.looking.values().copied());
            due.map(|due| due.saturating_duration_since(now)).chain(care).min()
        };
        self.intake.at_work(timeout == Some(Duration::ZERO));
        let timeout = timeout.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
        let mut buffer = [MaybeUninit::<Event>::uninit(); EVENTS];
        let events = match epoll::wait(&self.epoll, &mut buffer, timeout.as_ref()) {
            Ok((events, _)) => {
                events.iter().map(|event| (Token::of({ event.data }.u64()), event.flags)).collect()
            }
            Err(rustix::io::Errno::INTR) => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        self.intake.at_work(true);
        Ok(events)
    }

    /// Returns whether it has handed over.
    fn event(&mut self, token: Token, _flags: EventFlags) -> io::Result<bool> {
        match token {
            Token::Keeper => self.hear()?,
            Token::Successor => return Ok(self.hand_over().unwrap_or(false)),
            Token::Flow(flow) => self.woken(flow),
            Token::Link(reader, flow) => {
                if let Some(reader) = self.readers.get_mut(&reader) {
                    reader.stir(flow);
                }
            }
        }
        Ok(false)
    }

    /// Hears what the keeper says. Without one it goes on with what it has, until a successor comes.
    fn hear(&mut self) -> io::Result<()> {
        let Some(keeper) = &self.keeper else { return Ok(()) };
        match keeper.receive::<ToTee>() {
            Ok(Some((message, fds))) => self.told(message, fds),
            Ok(None) | Err(_) => {
                self.lose_keeper();
                Ok(())
            }
        }
    }

    fn lose_keeper(&mut self) {
        if let Some(keeper) = self.keeper.take() {
            let _ = epoll::delete(&self.epoll, &keeper);
        }
    }

    fn told(&mut self, message: ToTee, fds: Vec<OwnedFd>) -> io::Result<()> {
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
            ToTee::Link(reader, flow, queue) => self.open_link(reader, flow, queue, next()?),
            ToTee::Say => {
                self.answer(&ToKeeper::Said);
                Ok(())
            }
            ToTee::Probed(reader, position, is_there) => {
                if let Some(reader) = self.readers.get_mut(&reader) {
                    reader.probed(position, is_there);
                }
                Ok(())
            }
            ToTee::Start { .. } | ToTee::Go => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn watch(&self, fd: impl AsFd, token: Token, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, token.into(), flags)?)
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

    fn open_link(&mut self, id: ReaderId, flow: u32, queue: u32, fd: OwnedFd) -> io::Result<()> {
        if let Some(reader) = self.readers.get_mut(&id) {
            let data = EventData::from(Token::Link(id, flow)).u64();
            let watch = Watch::begin(&self.epoll, &fd, reader.kind, data)?;
            reader.take_link(flow, fd, queue, Some(watch));
        }
        Ok(())
    }

    /// A flow has something. An observer that has woken us does not do so again soon.
    fn woken(&mut self, flow: u32) {
        if matches!(self.flows.get(&flow), Some(Flow { from: Origin::Observer(_), .. })) {
            self.looking.insert(flow, Instant::now() + AGAIN);
        }
        self.take(flow);
    }

    /// Takes one batch of a flow.
    fn take(&mut self, flow: u32) {
        self.take_batch(flow);
    }

    /// Takes one batch; returns whether there was one.
    fn take_batch(&mut self, id: u32) -> bool {
        let Some(flow) = self.flows.get_mut(&id) else { return false };
        match flow.from {
            Origin::Observer(_) => return self.take_observed(id),
            Origin::Relay(_) => return self.take_relayed(id),
            Origin::Socket(_) => {}
        }
        let Origin::Socket(socket) = &flow.from else { return false };
        let received = match self.intake.receive(id, socket.as_fd(), flow.kind) {
            Ok(received) => received,
            Err(error) if is_passing(&error) => {
                flow.empty_words += 1;
                if flow.empty_words > EMPTY_WORDS && flow.kind != SocketKind::Dgram {
                    self.end(id);
                }
                return false;
            }
            Err(_) => {
                if flow.kind != SocketKind::Dgram {
                    self.end(id);
                }
                return false;
            }
        };
        flow.empty_words = 0;
        self.pass_on(id, &received);
        !received.is_empty()
    }

    /// Puts a batch into the rings.
    fn pass_on(&mut self, id: u32, received: &[super::intake::Received]) {
        let Some(flow) = self.flows.get(&id) else { return self.intake.finish() };
        let (source, kind) = (flow.source, flow.kind);
        let mut has_ended = false;
        for message in received {
            if message.done.length == 0 && is_end(flow) {
                has_ended = true;
                break;
            }
            let sender = flow.sender.or(message.done.sender);
            let bytes = self.intake.bytes(message);
            self.intake.count(source, Count::Received, 1);
            self.intake.count(source, Count::Cut, u64::from(message.done.cut));
            let dropped = message.done.had_descriptors;
            self.intake.count(source, Count::Descriptors, u64::from(dropped));
            for reader in self.readers.values_mut().filter(|reader| reader.source == source) {
                reader.offer(message.number, id, sender, bytes);
            }
        }
        self.intake.finish();
        if has_ended && kind != SocketKind::Dgram {
            self.end(id);
        }
    }

    fn take_relayed(&mut self, id: u32) -> bool {
        let Some(Flow { source, sender, from: Origin::Relay(relay), .. }) = self.flows.get_mut(&id)
        else {
            return false;
        };
        let (source, sender) = (*source, *sender);
        let (intake, readers) = (&self.intake, &mut self.readers);
        let turn = relay.turn(|bytes| {
            intake.count(source, Count::Received, 1);
            let number = intake.number();
            for reader in readers.values_mut().filter(|reader| reader.source == source) {
                reader.offer(number, id, sender, bytes);
            }
        });
        match turn {
            Turn::Waits => false,
            Turn::GoesOn => self.going_on.insert(id),
            Turn::Ended => {
                self.end(id);
                false
            }
        }
    }

    /// Looks at the observers that need not wake us now. One that has had nothing for so long that it
    /// will wake us again is left alone.
    fn look(&mut self) {
        for (flow, until) in self.looking.clone() {
            let is_over = until <= Instant::now();
            if !self.take_batch(flow) && is_over {
                self.looking.remove(&flow);
            }
        }
    }

    /// Takes some of what was observed; returns whether there was anything.
    fn take_observed(&mut self, id: u32) -> bool {
        let Some(Flow { source, from: Origin::Observer(observer), .. }) = self.flows.get_mut(&id)
        else {
            return false;
        };
        let (source, intake, readers) = (*source, &self.intake, &mut self.readers);
        let taken = observer.take(|observed| {
            let Observed { bytes, sender, cut, descriptors, missed } = observed;
            intake.count(source, Count::Missed, missed);
            for reader in readers.values_mut().filter(|reader| reader.source == source) {
                reader.missed(missed);
                if let Some(bytes) = bytes {
                    reader.offer(intake.number(), id, Some(sender), bytes);
                }
            }
            if bytes.is_some() {
                intake.count(source, Count::Received, 1);
                intake.count(source, Count::Cut, u64::from(cut));
                intake.count(source, Count::Descriptors, u64::from(descriptors));
            }
        });
        match taken {
            Taken::Nothing => return false,
            Taken::All => {}
            Taken::Some => drop(self.going_on.insert(id)),
        }
        self.looking.insert(id, Instant::now() + AGAIN);
        true
    }

    /// Passes on what a tee before had received and not passed on.
    fn finish_batch(&mut self) {
        if let Some((flow, received)) = self.intake.unfinished() {
            self.pass_on(flow, &received);
        }
    }

    /// A writer has closed its connection.
    fn end(&mut self, id: u32) {
        let Some(flow) = self.forget(id) else { return };
        for reader in self.readers.values_mut().filter(|reader| reader.source == flow.source) {
            reader.end(self.intake.number(), id);
        }
        self.answer(&ToKeeper::Ended(id));
    }

    /// Closes a flow. The keeper has the same socket, so it has to be said that it is waited for no
    /// more.
    fn forget(&mut self, id: u32) -> Option<Flow> {
        let flow = self.flows.remove(&id)?;
        self.looking.remove(&id);
        let _ = match &flow.from {
            Origin::Socket(fd) => epoll::delete(&self.epoll, fd),
            Origin::Observer(observer) => epoll::delete(&self.epoll, observer),
            Origin::Relay(relay) => epoll::delete(&self.epoll, &relay.writer)
                .and(epoll::delete(&self.epoll, &relay.receiver)),
        };
        Some(flow)
    }

    /// Tells the keeper. One that cannot be told is gone, and its successor starts with what is there.
    fn answer(&mut self, message: &ToKeeper) {
        if let Some(keeper) = &self.keeper
            && keeper.send(message, &[]).is_err()
        {
            self.lose_keeper();
        }
    }

    /// Tells the keeper what readers need.
    fn tell(&mut self) {
        let all = self.readers.values_mut().flat_map(|reader| std::mem::take(&mut reader.out));
        for message in all.collect::<Vec<_>>() {
            self.answer(&message);
        }
    }
}

/// Whether nothing received means that nothing more will come. A sequence of packets may hold empty
/// ones.
fn is_end(flow: &Flow) -> bool {
    let Origin::Socket(socket) = &flow.from else { return false };
    match flow.kind {
        SocketKind::Stream => true,
        SocketKind::Dgram => false,
        SocketKind::Seqpacket => {
            let mut fds = [PollFd::new(socket, PollFlags::RDHUP)];
            poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
        || matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM))
}
