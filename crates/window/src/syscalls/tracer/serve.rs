//! The tracer's rounds: records out of the ring, to readers that want them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use hyperspector_sys::channel::Channel;
use hyperspector_syscalls::filter::{CallSet, Matcher, Request as Wanted};
use hyperspector_syscalls::record::{Start, machine};
use hyperspector_syscalls::stream::{self, Known};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::time::{ClockId, clock_gettime};

use super::message::{Config, Reply, Request, Status};
use super::reader::{Asked, Reader};
use super::socket;
use super::{MOST_QUEUES, MOST_READERS, PLACES, QUEUES, READERS, RING};
use crate::syscalls::{Calls, Only, Reader as Ring, Settings, Tracer};

/// How many records are taken before anything else is looked at.
const TURN: usize = 8192;
/// How long a record waits at most; after a round in which many came, and else.
const SOON: Duration = Duration::from_millis(5);
const LATER: Duration = Duration::from_millis(25);
/// How many records in a round are many.
const MANY: usize = 1000;
/// How often the clock is looked at.
const CLOCK: Duration = Duration::from_secs(1);
/// How far it must have been set to be told, in nanoseconds.
const SET: u64 = 1_000_000;
/// How many connections a portspace can make in a second.
const CONNECTIONS: u32 = 100;
/// How long half a request of the agent's may take.
const PATIENCE: Duration = Duration::from_millis(500);
/// For how long readers that come are told of a time without a tracer: longer than they take to come
/// again.
const GAP_TOLD: Duration = Duration::from_secs(60);

/// Where the readers of a portspace connect.
struct Place {
    listener: UnixListener,
    /// How many have, since when.
    accepted: u32,
    since: Instant,
}

impl Place {
    /// Whether it is listened to: one that made too many connections just now is not.
    fn is_open(&mut self) -> bool {
        if self.since.elapsed() > Duration::from_secs(1) {
            (self.accepted, self.since) = (0, Instant::now());
        }
        self.accepted < CONNECTIONS
    }
}

/// All that is not the kernel's.
pub(super) struct Hub {
    server: String,
    known: Known,
    readers: Vec<Reader>,
    places: BTreeMap<String, Place>,
    status: Status,
    /// Nanoseconds of CLOCK_MONOTONIC, as of this round.
    now: u64,
    epoch: i64,
    id: u64,
    /// What readers are told that come soon.
    gap: Option<(Vec<u8>, Instant)>,
}

/// Goes on for ever; returns what is in the way.
pub(super) fn serve(
    hub: &RefCell<Hub>,
    ring: &Ring<'_>,
    mut tracer: Tracer,
    control: &UnixListener,
) -> io::Result<()> {
    tracer.set(&hub.borrow().settings());
    let (mut taken, mut clock) = (0, Instant::now());
    loop {
        let events = wait(&mut hub.borrow_mut(), ring, control, taken)?;
        hub.borrow_mut().now = monotonic();
        taken = ring.take(TURN)?;
        let mut hub = hub.borrow_mut();
        let mut is_changed = hub.hear(&events);
        is_changed |= hub.flush();
        hub.accept(&events);
        if events.asked {
            hub.answer(control, &mut tracer);
        }
        if is_changed {
            tracer.set(&hub.settings());
        }
        if clock.elapsed() > CLOCK {
            clock = Instant::now();
            hub.look_at_clock();
        }
    }
}

/// What has happened.
#[derive(Default)]
struct Events {
    asked: bool,
    places: Vec<String>,
    /// By their places in the list.
    readers: Vec<usize>,
    /// Those of them that are gone.
    gone: Vec<usize>,
}

fn wait(
    hub: &mut Hub,
    ring: &Ring<'_>,
    control: &UnixListener,
    taken: usize,
) -> io::Result<Events> {
    let open: Vec<String> = hub
        .places
        .iter_mut()
        .filter_map(|(name, place)| place.is_open().then(|| name.clone()))
        .collect();
    let timeout = match taken {
        TURN.. => Some(Duration::ZERO),
        MANY.. => Some(SOON),
        _ if !hub.readers.is_empty() => Some(LATER),
        // Somebody who was not listened to may be waiting.
        _ if open.len() < hub.places.len() => Some(CLOCK),
        _ => None,
    };
    let timeout = timeout.and_then(|limit| Timespec::try_from(limit).ok());
    let ring = ring.fd();
    let mut fds = vec![PollFd::from_borrowed_fd(control.as_fd(), PollFlags::IN)];
    let listeners = open.iter().filter_map(|name| hub.places.get(name));
    fds.extend(listeners.map(|place| PollFd::new(&place.listener, PollFlags::IN)));
    fds.extend(hub.readers.iter().map(|reader| {
        let asks = reader.deadline().is_some();
        let out = if reader.is_behind() { PollFlags::OUT } else { PollFlags::empty() };
        PollFd::new(&reader.stream, if asks { PollFlags::IN } else { out })
    }));
    fds.push(PollFd::from_borrowed_fd(ring, PollFlags::IN));
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) => {}
        Err(rustix::io::Errno::INTR) => return Ok(Events::default()),
        Err(error) => return Err(error.into()),
    }
    let mut happened = fds.iter().map(PollFd::revents);
    let asked = happened.next().is_some_and(|flags| !flags.is_empty());
    let places: Vec<PollFlags> = happened.by_ref().take(open.len()).collect();
    let places = open.into_iter().zip(places).filter(|(_, flags)| !flags.is_empty());
    let mut events =
        Events { asked, places: places.map(|(name, _)| name).collect(), ..Events::default() };
    for (at, flags) in happened.take(hub.readers.len()).enumerate() {
        let is_reading = hub.readers.get(at).is_some_and(|reader| reader.deadline().is_none());
        if is_reading && flags.intersects(PollFlags::HUP | PollFlags::ERR) {
            events.gone.push(at);
        } else if !flags.is_empty() {
            events.readers.push(at);
        }
    }
    Ok(events)
}

impl Hub {
    /// Nobody reads yet.
    pub(super) fn new(config: &Config) -> Self {
        let now = monotonic();
        // Another one starts at another time.
        let id = now ^ u64::from(std::process::id()).rotate_right(16);
        let gap = config.since.map(|since| (stream::gap(now, since), Instant::now()));
        Self {
            server: config.server.clone(),
            known: Known::new(),
            readers: Vec::new(),
            places: BTreeMap::new(),
            status: Status::default(),
            now,
            epoch: epoch(),
            id,
            gap,
        }
    }

    /// Takes a record of the kernel's.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        let Ok(Some(offer)) = self.known.take(bytes) else { return };
        self.status.recorded += u64::from(offer.is_call());
        if let Some((cpu, count)) = offer.loss() {
            *self.status.lost.entry(cpu).or_default() += count;
        }
        for reader in &mut self.readers {
            reader.offer(self.now, &offer, &self.known);
        }
    }

    /// What all readers want together.
    fn settings(&self) -> Settings {
        let wanted = || self.readers.iter().filter_map(Reader::wanted);
        let calls = wanted().fold(CallSet::NONE, |all, (calls, ..)| all.union(calls));
        Settings {
            native: Calls::of(calls.native),
            compat: Calls::of(calls.compat),
            string: 4096,
            buffer: wanted().map(|(_, data, _)| data).max().unwrap_or(0),
            files: true,
            wake: RING / 4,
            failed_only: wanted().all(|(.., is_failed_only)| is_failed_only),
            pids: self.only(Matcher::pids),
            uids: self.only(Matcher::uids),
        }
    }

    /// Whom all readers together want to know of, by one part of their filters.
    fn only<'a>(&'a self, part: impl Fn(&'a Matcher) -> Option<Vec<u32>>) -> Only {
        let parts: Option<Vec<_>> =
            self.readers.iter().filter_map(Reader::matcher).map(part).collect();
        Only::of(parts.into_iter().flatten().flatten())
    }

    /// Writes to all readers, and forgets those that are gone. Returns whether some are.
    fn flush(&mut self) -> bool {
        let (before, now) = (self.readers.len(), self.now);
        self.readers.retain_mut(|reader| reader.write(now).is_ok());
        self.readers.len() < before
    }

    /// Takes what readers say that have not said yet what they want. Returns whether what is wanted has
    /// changed.
    fn hear(&mut self, events: &Events) -> bool {
        let mut is_changed = false;
        let now = Instant::now();
        let mut gone = events.gone.clone();
        for at in 0..self.readers.len() {
            let Some(reader) = self.readers.get_mut(at) else { break };
            let is_due = reader.deadline().is_some_and(|until| until < now);
            if !is_due && !events.readers.contains(&at) {
                continue;
            }
            let refused = match reader.hear() {
                Asked::Nothing => continue,
                Asked::Gone => {
                    gone.push(at);
                    continue;
                }
                Asked::Refused(why) => why,
                Asked::Request(request) => match self.begin(at, &request) {
                    Ok(()) => {
                        is_changed = true;
                        continue;
                    }
                    Err(why) => why,
                },
            };
            if let Some(reader) = self.readers.get(at) {
                refuse(&reader.stream, self.now, &refused);
            }
            self.status.refused += 1;
            gone.push(at);
        }
        is_changed |= !events.gone.is_empty();
        gone.sort_unstable();
        for at in gone.into_iter().rev() {
            self.readers.remove(at);
        }
        is_changed
    }

    fn begin(&mut self, at: usize, request: &Wanted) -> Result<(), String> {
        let Some(reader) = self.readers.get(at) else { return Ok(()) };
        let others = self.readers.iter().filter(|other| other.place == reader.place);
        let queues: Vec<usize> = others.map(Reader::queue).filter(|queue| *queue > 0).collect();
        let (readers, share) = self.shares();
        // Whoever comes later gets something, too.
        let reserved = readers.saturating_sub(1 + queues.len()) * (QUEUES / READERS);
        let left = share.saturating_sub(queues.iter().sum::<usize>() + reserved);
        let gap = self.gap.take_if(|(_, since)| since.elapsed() > GAP_TOLD);
        drop(gap);
        let Some(reader) = self.readers.get_mut(at) else { return Ok(()) };
        let queue = reader.begin(request, left)?;
        let start = self.start(queue);
        let Some(reader) = self.readers.get_mut(at) else { return Ok(()) };
        reader.tell(self.now, &start);
        if let Some((gap, _)) = &self.gap {
            reader.tell(self.now, gap);
        }
        Ok(())
    }

    /// How many readers a portspace can have, and how many bytes may wait for them together.
    fn shares(&self) -> (usize, usize) {
        let places = self.places.len().max(1);
        ((READERS / places).min(MOST_READERS), (QUEUES / places).min(MOST_QUEUES))
    }

    fn start(&self, queue: usize) -> Vec<u8> {
        let start = Start {
            version: stream::VERSION,
            machine: machine::NATIVE,
            epoch: self.epoch,
            tracer: self.id,
            queue: u32::try_from(queue).unwrap_or(u32::MAX),
            server: self.server.as_bytes(),
        };
        stream::start(self.now, &start)
    }

    /// Takes connections.
    fn accept(&mut self, events: &Events) {
        let (share, _) = self.shares();
        for name in &events.places {
            let Some(place) = self.places.get_mut(name) else { continue };
            let Ok((stream, _)) = place.listener.accept() else { continue };
            place.accepted += 1;
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            let others = self.readers.iter().filter(|reader| reader.place == *name);
            if others.count() >= share {
                let why = format!("this portspace has {share} readers of this server already");
                refuse(&stream, self.now, &why);
                self.status.refused += 1;
                continue;
            }
            self.readers.push(Reader::new(name.clone(), stream));
        }
    }

    /// Tells readers when the clock has been set.
    fn look_at_clock(&mut self) {
        let epoch = epoch();
        if epoch.abs_diff(self.epoch) < SET {
            return;
        }
        self.epoch = epoch;
        for at in 0..self.readers.len() {
            let queue = self.readers.get(at).map_or(0, Reader::queue);
            let start = self.start(queue);
            if let Some(reader) = self.readers.get_mut(at) {
                reader.tell(self.now, &start);
            }
        }
    }

    /// Answers the agent.
    fn answer(&mut self, control: &UnixListener, tracer: &mut Tracer) {
        let Ok((stream, _)) = control.accept() else { return };
        let channel = Channel::new(stream);
        let heard = channel
            .stream()
            .set_nonblocking(false)
            .and_then(|()| channel.stream().set_write_timeout(Some(PATIENCE)))
            .and_then(|()| channel.receive_within::<Request>(PATIENCE));
        let Ok(Some((request, fds))) = heard else { return };
        let reply = match self.done(request, fds, tracer) {
            Ok(reply) => reply,
            Err(error) => Reply::Failed(error.to_string()),
        };
        // Whoever asked may be gone.
        let _ = channel.send(&reply, &[]);
    }

    fn done(
        &mut self,
        request: Request,
        fds: Vec<OwnedFd>,
        tracer: &mut Tracer,
    ) -> io::Result<Reply> {
        match request {
            Request::Scope { scope, processes, since } => {
                tracer.set_scope(&scope);
                for pid in processes {
                    tracer.add_process(pid).map_err(io::Error::other)?;
                }
                if let Some(since) = since {
                    self.now = monotonic();
                    let gap = stream::gap(self.now, since);
                    self.readers.iter_mut().for_each(|reader| reader.tell(self.now, &gap));
                }
            }
            Request::Place(name) => {
                let listener = fds.into_iter().next().ok_or(io::ErrorKind::InvalidInput)?;
                let listener = UnixListener::from(listener);
                listener.set_nonblocking(true)?;
                if self.places.len() >= PLACES && !self.places.contains_key(&name) {
                    return Err(io::Error::other(format!("{PLACES} portspaces watch it already")));
                }
                let place = Place { listener, accepted: 0, since: Instant::now() };
                self.places.insert(name, place);
            }
            Request::NoPlace(name) => {
                self.places.remove(&name);
                self.readers.retain(|reader| reader.place != name);
                tracer.set(&self.settings());
            }
            Request::Status => return Ok(Reply::Status(self.status())),
        }
        Ok(Reply::Done)
    }

    fn status(&self) -> Status {
        Status {
            places: self.places.keys().cloned().collect(),
            readers: self.readers.iter().filter_map(Reader::status).collect(),
            ..self.status.clone()
        }
    }
}

/// Says why, where the connection takes it at once, and ends it.
fn refuse(stream: &UnixStream, now: u64, why: &str) {
    let _ = socket::write(stream, &stream::refused(now, why));
    let _ = stream.shutdown(std::net::Shutdown::Write);
}

fn nanoseconds(clock: ClockId) -> i64 {
    let time = clock_gettime(clock);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

fn monotonic() -> u64 {
    nanoseconds(ClockId::Monotonic).cast_unsigned()
}

/// What CLOCK_REALTIME was when CLOCK_MONOTONIC was 0.
fn epoch() -> i64 {
    nanoseconds(ClockId::Realtime) - nanoseconds(ClockId::Monotonic)
}
