//! From records to what is printed of them.

use std::io;
use std::time::{Duration, Instant};

use hyperspector_syscalls::decode::{Decoder, Event};
use hyperspector_syscalls::record::{self, Record};
use hyperspector_syscalls::summary::{Order, Summary};
use hyperspector_syscalls::text::{audit::Audit, json, strace};

use crate::output::Output;
use crate::zone;

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Strace,
    Json,
    Audit,
}

/// What is printed.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    pub form: Form,
    pub style: strace::Style,
    /// Each call.
    pub calls: bool,
    /// The table at the end.
    pub summary: Option<Order>,
    /// Ends of threads.
    pub ends: bool,
}

/// How often it is looked up how far local time is from UTC.
const ZONE: Duration = Duration::from_secs(60);

/// How long a tracer that is back may take to say itself since when there was none.
const GAP: Duration = Duration::from_millis(500);

/// Prints events.
pub struct Printer {
    choice: Choice,
    decoder: Decoder,
    audit: Audit,
    summary: Summary,
    output: Output,
    text: String,
    zone_read: Option<Instant>,
    /// The latest time that an event had.
    latest: u64,
    /// When the present stream began, and since when nothing was recorded before that, if it shall be told.
    begun: u64,
    gap: Option<u64>,
    back: Option<Instant>,
}

impl Printer {
    pub fn new(choice: Choice, output: Output) -> Self {
        Self {
            choice,
            decoder: Decoder::new(),
            audit: Audit { epoch: 0, serial: 1 },
            summary: Summary::default(),
            output,
            text: String::new(),
            zone_read: None,
            latest: 0,
            begun: 0,
            gap: None,
            back: None,
        }
    }

    fn tell_gap(&mut self) -> io::Result<()> {
        match self.gap.take_if(|_| self.begun != 0) {
            Some(since) => self.event(&Event::Gap { time: self.begun, since }),
            None => Ok(()),
        }
    }

    /// Sets what CLOCK_REALTIME was when CLOCK_MONOTONIC was 0.
    fn set_epoch(&mut self, epoch: i64) {
        if epoch != self.choice.style.epoch {
            // Whoever reads two files shall not find one serial twice: a server makes less than a
            // thousand million calls a second.
            self.audit.serial = self.audit.serial.max(epoch.unsigned_abs() / 1_000_000_000);
        }
        self.choice.style.epoch = epoch;
        self.audit.epoch = epoch;
    }

    /// The tracer is back; it has nothing of the time since then. Its START comes next.
    pub fn is_back(&mut self, since: u64) {
        self.gap = Some(since);
        self.begun = 0;
        self.back = Some(Instant::now());
    }

    /// Takes a record; gives the event that it was.
    pub fn take(&mut self, record: &[u8]) -> io::Result<Option<Event>> {
        match record::read(record) {
            Ok((Record::Start(head, start), _)) => {
                self.set_epoch(start.epoch);
                self.begun = head.time;
            }
            // The tracer says it itself.
            Ok((Record::Gap(..), _)) => self.gap = None,
            _ => self.tell_gap()?,
        }
        // Records of kinds that this version does not know are left out.
        let Ok(Some(event)) = self.decoder.feed(record) else { return Ok(None) };
        self.event(&event)?;
        Ok(Some(event))
    }

    /// Prints an event.
    pub fn event(&mut self, event: &Event) -> io::Result<()> {
        self.latest = time(event);
        if let (Event::Call(call), Some(_)) = (event, self.choice.summary) {
            self.summary.add(call);
        }
        let is_shown = match event {
            Event::Call(_) => self.choice.calls,
            Event::End { .. } => self.choice.calls && self.choice.ends,
            Event::Lost { .. } | Event::Missed { .. } | Event::Gap { .. } => true,
        };
        if !is_shown {
            return Ok(());
        }
        if let Some(count) = self.output.take_lost() {
            self.write(&Event::Missed { time: self.latest, count })?;
        }
        self.write(event)
    }

    fn write(&mut self, event: &Event) -> io::Result<()> {
        self.text.clear();
        match self.choice.form {
            Form::Strace => {
                self.read_zone();
                strace::write(&mut self.text, event, &self.choice.style);
            }
            Form::Json => json::write(&mut self.text, event, self.choice.style.epoch),
            Form::Audit => self.audit.write(&mut self.text, event),
        }
        if self.text.is_empty() { Ok(()) } else { self.output.add(&self.text) }
    }

    fn read_zone(&mut self) {
        if self.zone_read.is_none_or(|read| read.elapsed() > ZONE) {
            self.zone_read = Some(Instant::now());
            self.choice.style.zone = zone::seconds();
        }
    }

    /// Writes what has been gathered.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.back.is_some_and(|back| back.elapsed() > GAP) {
            self.back = None;
            self.tell_gap()?;
        }
        self.output.flush()
    }

    /// Ends: with the table where it is wanted. Gives how many lines nobody has read.
    pub fn end(mut self) -> io::Result<u64> {
        if let Some(count) = self.output.take_lost() {
            self.write(&Event::Missed { time: self.latest, count })?;
        }
        if let Some(order) = self.choice.summary {
            self.text.clear();
            self.summary.write_by(&mut self.text, order);
            self.output.add(&self.text)?;
        }
        self.output.flush()?;
        Ok(self.output.total_lost())
    }
}

fn time(event: &Event) -> u64 {
    match event {
        Event::Call(call) => call.time,
        Event::End { time, .. }
        | Event::Lost { time, .. }
        | Event::Missed { time, .. }
        | Event::Gap { time, .. } => *time,
    }
}
