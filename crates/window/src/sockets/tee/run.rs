//! The tee's rounds.

use std::collections::{HashMap, HashSet};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hyperspector_sys::channel::Channel;
use rustix::event::Timespec;
use rustix::event::epoll::{self, Event, EventData, EventFlags};

use super::intake::Intake;
use super::take::Flow;
use crate::sockets::message::{ReaderId, Source, SourceId, ToKeeper, ToTee};
use crate::sockets::reader::Reader;

/// How often is looked at what readers have taken, while that is not clear.
const CARE: Duration = Duration::from_millis(50);
/// How long a keeper may take to read what it is told.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// Events of one round.
const EVENTS: usize = 64;

/// Whose event it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
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

    pub(super) fn watch(&self, fd: impl AsFd, token: Token, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, token.into(), flags)?)
    }
}
