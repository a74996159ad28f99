//! One reader: what it asks for, and what waits for it.

use std::io;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use hyperspector_syscalls::filter::{CallSet, LEAST_QUEUE, Matcher, Request};
use hyperspector_syscalls::stream::{Known, Offer, Queue, Sent};

use super::message::ReaderStatus;
use super::socket::{self, Line};

/// How long a reader may take to say what it wants.
const DEADLINE: Duration = Duration::from_secs(2);

/// How many bytes wait for a reader that does not say how many; and for one that wants many.
const QUEUE: usize = 4 << 20;

/// How many bytes of buffers a reader gets that does not say how many.
const DATA: u32 = 256;

/// A connection of a portspace.
pub(super) struct Reader {
    pub(super) place: String,
    pub(super) stream: UnixStream,
    pid: i32,
    state: State,
}

enum State {
    /// It has said so much of what it wants.
    Asking(Vec<u8>, Instant),
    Reading(Box<Reading>),
}

/// One that gets records.
struct Reading {
    matcher: Matcher,
    sent: Sent,
    queue: Queue,
    most: usize,
    data: u32,
    records: u64,
}

/// What has become of a request.
pub(super) enum Asked {
    /// Nothing yet.
    Nothing,
    /// It is one.
    Request(Box<Request>),
    /// It is none, for this reason.
    Refused(String),
    /// The connection has ended.
    Gone,
}

impl Reader {
    /// A connection that was just accepted.
    pub(super) fn new(place: String, stream: UnixStream) -> Self {
        let pid = socket::peer(&stream);
        let state = State::Asking(Vec::new(), Instant::now() + DEADLINE);
        Self { place, stream, pid, state }
    }

    /// Until when it has to have said what it wants; `None` where it has.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Asking(_, until) => Some(until),
            State::Reading(_) => None,
        }
    }

    /// Takes what it says.
    pub(super) fn hear(&mut self) -> Asked {
        let State::Asking(line, until) = &mut self.state else { return Asked::Nothing };
        match socket::read_line(&self.stream, line) {
            Line::Gone => Asked::Gone,
            Line::Part if *until < Instant::now() => {
                Asked::Refused(format!("no line came within {} seconds", DEADLINE.as_secs()))
            }
            Line::Part => Asked::Nothing,
            // Refused as such.
            Line::Long => parse(line),
            Line::Whole if line.iter().all(u8::is_ascii_whitespace) => {
                Asked::Request(Box::default())
            }
            Line::Whole => parse(line),
        }
    }

    /// Has it get what it asks for, from `first` on, where all queues of its portspace may hold `left`
    /// bytes more.
    ///
    /// # Errors
    /// Why it is refused.
    pub(super) fn begin(&mut self, request: &Request, left: usize) -> Result<usize, String> {
        let matcher = request.filter.check().map_err(|refused| refused.to_string())?;
        let least = LEAST_QUEUE as usize;
        let wanted = request.queue.map_or(QUEUE, |bytes| bytes as usize);
        let most = wanted.max(least).min(left);
        if most < least {
            return Err("the other readers of this portspace use all the memory that it has".into());
        }
        let reading = Reading {
            matcher,
            sent: Sent::default(),
            queue: Queue::new(most),
            most,
            data: request.data.unwrap_or(DATA),
            records: 0,
        };
        self.state = State::Reading(Box::new(reading));
        Ok(most)
    }

    /// How many bytes may wait for it.
    pub(super) fn queue(&self) -> usize {
        self.reading().map_or(0, |reading| reading.most)
    }

    fn reading(&self) -> Option<&Reading> {
        match &self.state {
            State::Reading(reading) => Some(reading),
            State::Asking(..) => None,
        }
    }

    /// Which calls it wants, up to how many bytes of data, and whether only those that failed; `None`
    /// where it has not said.
    pub(super) fn wanted(&self) -> Option<(&CallSet, u32, bool)> {
        let reading = self.reading()?;
        Some((reading.matcher.calls(), reading.data, reading.matcher.is_failed_only()))
    }

    /// What it wants; `None` where it has not said.
    pub(super) fn matcher(&self) -> Option<&Matcher> {
        Some(&self.reading()?.matcher)
    }

    /// Adds what is for it, wherever it is in what it gets.
    pub(super) fn tell(&mut self, now: u64, record: &[u8]) {
        if let State::Reading(reading) = &mut self.state {
            reading.queue.push(now, &[record]);
        }
    }

    /// Offers it a record.
    pub(super) fn offer(&mut self, now: u64, offer: &Offer<'_>, known: &Known) {
        let State::Reading(reading) = &mut self.state else { return };
        let Reading { matcher, sent, queue, records, .. } = &mut **reading;
        offer.to(matcher, sent, known, |together| {
            let is_taken = queue.push(now, together);
            *records += u64::from(is_taken);
            is_taken
        });
    }

    /// Whether something waits for it.
    pub(super) fn is_behind(&self) -> bool {
        self.reading().is_some_and(|reading| !reading.queue.is_empty())
    }

    /// Writes what it takes.
    ///
    /// # Errors
    /// Where it is gone.
    pub(super) fn write(&mut self, now: u64) -> io::Result<()> {
        let State::Reading(reading) = &mut self.state else { return Ok(()) };
        reading.queue.tell(now);
        while !reading.queue.is_empty() {
            match socket::write(&self.stream, reading.queue.front())? {
                0 => break,
                count => reading.queue.written(count),
            }
        }
        Ok(())
    }

    /// How it is; `None` where it has not said what it wants.
    pub(super) fn status(&self) -> Option<ReaderStatus> {
        let reading = self.reading()?;
        Some(ReaderStatus {
            portspace: self.place.clone(),
            pid: self.pid,
            sent: reading.records,
            missed: reading.queue.total_missed(),
            waiting: reading.queue.len(),
            queue: reading.most,
        })
    }
}

fn parse(line: &[u8]) -> Asked {
    match Request::parse(line) {
        Ok(request) => Asked::Request(Box::new(request)),
        Err(refused) => Asked::Refused(refused.to_string()),
    }
}
