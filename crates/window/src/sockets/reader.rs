//! One reader: its ring, its links, and what goes from the one into the others.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use super::SocketKind;
use super::batch::{MESSAGES, Sender};
use super::link::{Link, Watch};
use super::message::{Reader as Setup, ReaderId, SourceId, Target, ToKeeper};
use super::ring::{Kind, Offered, Record, Ring};

/// How many batches are sent in a row before others have their turn.
const BATCHES: usize = 8;

/// How often a reader may close a writer's connection at once, while it reads others, before what
/// this writer sends counts as lost.
const REFUSALS: u8 = 3;

/// How long a reader that has many datagrams to take is left alone.
const PAUSE: Duration = Duration::from_micros(300);

/// So few links are looked at in each round.
const FEW_LINKS: usize = 16;

/// After a loss in a stream, how many bytes without the end of a line are left out before all is
/// passed on as it comes.
const LONGEST_LINE: usize = 64 << 10;

/// How far a stream has come.
#[derive(Clone, Copy, Debug, Default)]
struct Stream {
    /// Who writes was said.
    introduced: bool,
    /// What was passed on ends within a line.
    is_within: bool,
    /// Something was lost, and the next line has not begun; so much was left out.
    left_out: Option<usize>,
}

/// A reader of a source.
pub(super) struct Reader {
    pub(super) id: ReaderId,
    pub(super) source: SourceId,
    pub(super) setup: Setup,
    pub(super) kind: SocketKind,
    /// Told from the source: what its ids are shifted by.
    pub(super) shift: u32,
    pub(super) memory: OwnedFd,
    ring: Ring,
    links: HashMap<u32, Link>,
    /// Links that the keeper was asked for.
    wanted: HashSet<u32>,
    streams: HashMap<u32, Stream>,
    refusals: HashMap<u32, u8>,
    /// Ends of connections that found no room in the ring.
    ends: Vec<u32>,
    /// The link that is first in line has no room.
    blocked: bool,
    /// When it is tried again, where there will be no news.
    due: Option<Instant>,
    /// What the keeper is to be told.
    pub(super) out: Vec<ToKeeper>,
}

impl Reader {
    pub(super) fn open(
        id: ReaderId,
        source: (SourceId, SocketKind, u32),
        setup: Setup,
        memory: OwnedFd,
    ) -> io::Result<Self> {
        Ok(Self {
            id,
            source: source.0,
            kind: source.1,
            shift: source.2,
            setup,
            ring: Ring::open(&memory)?,
            memory,
            links: HashMap::new(),
            wanted: HashSet::new(),
            streams: HashMap::new(),
            refusals: HashMap::new(),
            ends: Vec::new(),
            blocked: false,
            due: None,
            out: Vec::new(),
        })
    }

    /// The links, for another keeper.
    pub(super) fn links(&self) -> impl Iterator<Item = (u32, &Link)> {
        self.links.iter().map(|(flow, link)| (*flow, link))
    }

    /// Puts a message of `flow` into the ring.
    pub(super) fn offer(&mut self, number: u64, flow: u32, sender: Option<Sender>, bytes: &[u8]) {
        if self.kind == SocketKind::Stream {
            return self.offer_stream(number, flow, sender, bytes);
        }
        let mut lines = Vec::new();
        if self.ring.untold() > 0 {
            lines.push(loss(self.ring.untold(), "messages"));
        }
        if self.setup.senders {
            lines.push(introduction("the next message", sender, self.shift));
        }
        self.ring.offer(number, flow, &lines, (Kind::Message, bytes), 1);
    }

    fn offer_stream(&mut self, number: u64, flow: u32, sender: Option<Sender>, bytes: &[u8]) {
        let mut stream = self.streams.get(&flow).copied().unwrap_or_default();
        let bytes = self.after_gap(&mut stream, bytes);
        if !bytes.is_empty() {
            let mut lines = Vec::new();
            if self.ring.untold() > 0 {
                let mut line = if stream.is_within { b"\n".to_vec() } else { Vec::new() };
                line.extend(loss(self.ring.untold(), "bytes"));
                line.push(b'\n');
                lines.push(line);
            }
            if self.setup.senders && !stream.introduced {
                let mut line = introduction("this connection", sender, self.shift);
                line.push(b'\n');
                lines.push(line);
            }
            let offered =
                self.ring.offer(number, flow, &lines, (Kind::Message, bytes), bytes.len() as u64);
            match offered {
                Offered::Lost => stream.left_out = Some(0),
                Offered::Accepted | Offered::Known => {
                    stream.introduced = true;
                    stream.is_within = bytes.last().is_some_and(|last| !is_mark(*last));
                }
            }
        }
        self.streams.insert(flow, stream);
    }

    /// What of `bytes` comes after a gap: all from the next line on, so that two halves of different
    /// messages are never joined.
    fn after_gap<'a>(&mut self, stream: &mut Stream, bytes: &'a [u8]) -> &'a [u8] {
        let Some(left_out) = stream.left_out else { return bytes };
        let line = bytes.iter().position(|byte| is_mark(*byte)).map(|mark| mark + 1);
        let cut = match line {
            Some(line) => line,
            None if left_out + bytes.len() > LONGEST_LINE => 0,
            None => {
                stream.left_out = Some(left_out + bytes.len());
                self.ring.lose(bytes.len() as u64);
                return &[];
            }
        };
        stream.left_out = None;
        self.ring.lose(cut as u64);
        &bytes[cut..]
    }

    /// Counts messages that were lost before they came here.
    pub(super) fn missed(&mut self, messages: u64) {
        self.ring.lose(messages);
    }

    /// Notes that a connection has ended.
    pub(super) fn end(&mut self, number: u64, flow: u32) {
        self.streams.remove(&flow);
        let end = (Kind::End, &[][..]);
        if self.ring.offer(number, flow, &[], end, 0) == Offered::Lost {
            self.ends.push(flow);
        }
    }

    /// Takes a connection that the keeper has made, or had before.
    pub(super) fn take_link(
        &mut self,
        flow: u32,
        fd: OwnedFd,
        target: Target,
        watch: Option<Watch>,
    ) {
        // Known before: what was sent on it and not taken may still wait in it.
        let is_old = !self.wanted.remove(&flow) && !self.links.contains_key(&flow);
        let (sent, offset) = (self.ring.sent(), self.ring.offset());
        let mut link = Link::new(fd, self.kind, target, watch);
        if is_old {
            link.sent = sent;
            let mut position = self.ring.tail();
            while position < sent
                && let Some(record) = self.ring.record(position)
            {
                if record.flow == flow && record.kind != Kind::Skip {
                    note(&mut link, position, &record);
                }
                position = record.next;
            }
            link.overflow();
            if self.ring.record(sent).is_some_and(|record| record.flow == flow) {
                link.offset = offset;
            }
        } else if self.links.contains_key(&flow) {
            self.drop_link(flow);
        }
        self.links.insert(flow, link);
        self.blocked = false;
    }

    /// Whether there is something to send and somewhere to send it.
    pub(super) fn is_busy(&self) -> bool {
        !self.blocked && self.ring.sent() < self.ring.head()
    }

    /// When to send again, where there will be no news of room.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether there is something to look after from time to time.
    pub(super) fn needs_care(&self) -> bool {
        self.blocked || !self.ends.is_empty() || self.links.values().any(Link::is_waiting)
    }

    /// A link may have room again, or has been closed.
    pub(super) fn stir(&mut self, flow: u32) {
        (self.blocked, self.due) = (false, None);
        if self.links.get(&flow).is_some_and(Link::is_closed) {
            self.lose_link(flow);
        }
    }

    /// Sends what can be sent.
    pub(super) fn deliver(&mut self) {
        if self.due.is_some_and(|due| due > Instant::now()) {
            return;
        }
        self.blocked &= self.due.take().is_none();
        for _ in 0..BATCHES {
            let position = self.ring.sent();
            let Some(record) = self.ring.record(position) else { break };
            let flow = record.flow;
            let is_refused = self.refusals.get(&flow).is_some_and(|count| *count >= REFUSALS);
            match record.kind {
                Kind::Skip => self.ring.go_to(record.next, 0),
                Kind::End => self.end_link(&record),
                Kind::Message | Kind::Line if is_refused => self.give_up(&record),
                Kind::Message | Kind::Line => {
                    if !self.send(position, record) {
                        break;
                    }
                }
            }
        }
        // With many links it is enough to do so from time to time.
        if self.links.len() <= FEW_LINKS || self.ring.is_filling() {
            self.settle();
        }
    }

    fn give_up(&mut self, record: &Record) {
        self.ring.lose(record.length as u64);
        self.ring.go_to(record.next, 0);
    }

    fn end_link(&mut self, record: &Record) {
        if let Some(link) = self.links.get_mut(&record.flow) {
            link.ended = true;
            link.sent = link.sent.max(record.next);
        }
        self.refusals.remove(&record.flow);
        self.ring.go_to(record.next, 0);
    }

    /// Sends the record at `position` and those of the same flow after it. Returns whether it is
    /// worth going on.
    fn send(&mut self, position: u64, first: Record) -> bool {
        let flow = first.flow;
        let Some(link) = self.links.get_mut(&flow) else {
            if self.wanted.insert(flow) {
                self.out.push(ToKeeper::Want(self.id, flow));
            }
            self.blocked = true;
            return false;
        };
        if position < link.sent {
            // It went before another link made the ring go back.
            self.ring.go_to(first.next, 0);
            return true;
        }
        let mut records = vec![first];
        while records.len() < MESSAGES
            && let Some(last) = records.last().map(|record| record.next)
            && let Some(next) = self.ring.record(last)
            && next.flow == flow
            && matches!(next.kind, Kind::Message | Kind::Line)
        {
            records.push(next);
        }
        let in_queue = if self.kind == SocketKind::Dgram { link.in_queue() } else { None };
        let before = link.waiting();
        self.ring.go_to(position, link.offset);
        match self.ring.send(link.as_fd(), &records, link.offset) {
            Ok((whole, offset)) => {
                let mut position = position;
                for record in &records[..whole] {
                    note(link, position, record);
                    position = record.next;
                }
                (link.sent, link.offset) = (position, offset);
                // The reader was there after what its queue held was asked.
                let mut taken = in_queue.map_or(0, |bytes| link.take_but(before, bytes));
                taken += link.overflow();
                self.ring.taken(0, taken);
                true
            }
            Err(error) => self.refused(flow, &first, &error),
        }
    }

    /// What becomes of a record that could not be sent. Returns whether it is worth going on.
    fn refused(&mut self, flow: u32, record: &Record, error: &io::Error) -> bool {
        match error.raw_os_error() {
            Some(libc::EINTR) => true,
            Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => {
                self.blocked = true;
                if self.links.get_mut(&flow).is_some_and(Link::is_full) {
                    self.due = Some(Instant::now() + PAUSE);
                }
                false
            }
            Some(libc::EMSGSIZE) => {
                self.ring.lose(1);
                self.ring.go_to(record.next, 0);
                true
            }
            _ => {
                self.lose_link(flow);
                true
            }
        }
    }

    /// A link has died: what the reader has not taken out of it is sent again on the next.
    fn lose_link(&mut self, flow: u32) {
        self.settle_link(flow);
        let Some(link) = self.links.get(&flow) else { return };
        let others_read = self.links.iter().any(|(other, link)| *other != flow && link.is_used);
        if !link.is_used && others_read && self.kind != SocketKind::Dgram {
            *self.refusals.entry(flow).or_default() += 1;
        }
        self.drop_link(flow);
        self.out.push(ToKeeper::Unlink(self.id, flow));
    }

    fn drop_link(&mut self, flow: u32) {
        let Some(link) = self.links.remove(&flow) else { return };
        let first = link.first().unwrap_or(u64::MAX).min(self.ring.sent());
        self.ring.go_to(first.max(self.ring.tail()), 0);
        self.blocked = false;
    }

    /// Looks what the readers have taken, and tries again what did not go.
    pub(super) fn care(&mut self, mut number: impl FnMut() -> u64) {
        self.blocked &= !self.wanted.is_empty();
        for flow in std::mem::take(&mut self.ends) {
            self.end(number(), flow);
        }
        let flows: Vec<u32> = self.links.keys().copied().collect();
        for flow in flows {
            self.settle_link(flow);
            let Some(link) = self.links.get(&flow) else { continue };
            if self.kind == SocketKind::Dgram {
                if let Some(last) = link.last().filter(|_| link.is_empty()) {
                    self.out.push(ToKeeper::Probe(self.id, last, link.target));
                }
            } else if link.ended && !link.is_waiting() {
                self.links.remove(&flow);
                self.out.push(ToKeeper::Unlink(self.id, flow));
            }
        }
        self.settle();
    }

    /// Takes the answer to a probe of `target`.
    pub(super) fn probed(&mut self, position: u64, target: Target, is_there: bool) {
        let flows: Vec<u32> = self.links.keys().copied().collect();
        for flow in flows {
            match self.links.get_mut(&flow) {
                Some(link) if link.target != target => {}
                Some(link) if is_there => {
                    let taken = link.take_up_to(position);
                    self.ring.taken(0, taken);
                }
                Some(_) => self.lose_link(flow),
                None => {}
            }
        }
        self.settle();
    }

    /// What the reader has taken out of a connection. Asked for in this order: a reader that was
    /// there after the queue was seen empty has taken all that was in it.
    fn settle_link(&mut self, flow: u32) {
        let Some(link) = self.links.get_mut(&flow) else { return };
        if self.kind == SocketKind::Dgram || !link.is_waiting() {
            return;
        }
        if link.is_empty() && !link.is_closed() || link.is_read_out() {
            let taken = link.take(link.waiting());
            self.ring.taken(0, taken);
        }
    }

    /// Makes room in the ring.
    fn settle(&mut self) {
        let firsts = self.links.values().filter_map(Link::first);
        let tail = firsts.min().unwrap_or(u64::MAX).min(self.ring.sent());
        self.ring.taken(tail, 0);
    }
}

fn note(link: &mut Link, position: u64, record: &Record) {
    link.note(position, record.length, u64::from(record.kind == Kind::Message));
}

/// Whether a byte ends a message in a stream: glibc ends them with a null, others with a new line.
fn is_mark(byte: u8) -> bool {
    byte == 0 || byte == b'\n'
}

/// Facility syslog, severity warning.
fn loss(amount: u64, what: &str) -> Vec<u8> {
    format!("<44>hyperspector: {amount} {what} lost here").into_bytes()
}

/// Facility syslog, severity informational.
fn introduction(what: &str, sender: Option<Sender>, shift: u32) -> Vec<u8> {
    let id = |id: u32| id.checked_sub(shift).filter(|id| *id < 65536).unwrap_or(id);
    let text = match sender {
        Some(Sender { pid, uid, gid }) => {
            format!("<46>hyperspector: {what} is from pid={pid} uid={} gid={}", id(uid), id(gid))
        }
        None => format!("<46>hyperspector: {what} is from nobody known"),
    };
    text.into_bytes()
}

#[cfg(test)]
mod tests;
