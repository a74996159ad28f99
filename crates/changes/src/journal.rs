//! The writer's side of a journal.

use std::collections::{BTreeMap, HashMap};
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, unlinkat};
use serde::{Deserialize, Serialize};

use crate::record::{self, Kinds, Subject};
use crate::state::{self, State};

/// How much a journal may take.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Limits {
    /// How many subjects it knows at most; with one more it forgets all, and says so by a gap.
    pub entries: usize,
    /// The same for their length together, in bytes.
    pub bytes: usize,
    /// The size of a segment, in bytes. On disk there may be twice what is known and this.
    pub segment: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 200_000, bytes: 32 << 20, segment: 4 << 20 }
    }
}

/// How big a journal is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// How many subjects it knows.
    pub entries: usize,
    /// What it takes on disk, in bytes.
    pub bytes: usize,
    /// The greatest sequence number so far.
    pub head: u64,
    /// How many gaps there were.
    pub gaps: u64,
}

/// What is known of each subject.
#[derive(Debug, Default)]
struct Index {
    numbers: HashMap<Rc<[u8]>, u64>,
    entries: BTreeMap<u64, (Kinds, Rc<[u8]>)>,
    bytes: usize,
}

/// What one record takes beside its subject, at most.
const AROUND: usize = 30;

impl Index {
    fn put(&mut self, number: u64, kinds: Kinds, subject: Vec<u8>) -> (Kinds, Rc<[u8]>) {
        let older = self.numbers.get(&subject[..]).and_then(|number| self.entries.remove(number));
        let (kinds, subject) = match older {
            // Who has not seen the older record learns from this one all that happened.
            Some((before, subject)) => (before | kinds, subject),
            None => {
                self.bytes += subject.len() + AROUND;
                (kinds, Rc::from(subject))
            }
        };
        self.numbers.insert(subject.clone(), number);
        self.entries.insert(number, (kinds, subject.clone()));
        (kinds, subject)
    }
}

/// A journal that this process writes.
#[derive(Debug)]
pub struct Journal {
    directory: OwnedFd,
    state: State,
    state_file: OwnedFd,
    limits: Limits,
    index: Index,
    /// The last gap, which comes before everything in the index.
    gap: Option<(u64, String)>,
    segment: File,
    /// Bytes in the segment that is written, and in all of them.
    written: usize,
    total: usize,
    /// The next segment's number.
    next: u64,
    gaps: u64,
}

impl Journal {
    /// Begins a new journal in `directory`, `id`, in place of any other that is there.
    pub fn begin(
        directory: OwnedFd,
        id: String,
        began: String,
        limits: Limits,
    ) -> io::Result<Self> {
        let segment = open_segment(&directory, &id, 0)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let state_file = openat(&directory, state::NAME, flags, READABLE)?;
        let state = State { id, began, failing: None, beat: state::uptime(), head: 0 };
        state.write(state_file.as_fd())?;
        let mut journal = Self {
            directory,
            state,
            state_file,
            limits,
            index: Index::default(),
            gap: None,
            segment,
            written: 0,
            total: 0,
            next: 1,
            gaps: 0,
        };
        journal.remove_others(0)?;
        Ok(journal)
    }

    /// How big it is.
    pub fn size(&self) -> Size {
        let (entries, bytes) = (self.index.entries.len(), self.total);
        Size { entries, bytes, head: self.state.head, gaps: self.gaps }
    }

    /// Adds changes, in order.
    ///
    /// # Errors
    /// Where not even the state can be written. Where the changes cannot be, the journal says so to its
    /// readers there, and goes on with a gap as soon as it can.
    pub fn add(&mut self, changes: impl IntoIterator<Item = (Subject, Kinds)>) -> io::Result<()> {
        let mut bytes = Vec::new();
        for (subject, kinds) in changes {
            let subject = subject.encode();
            if subject.len() + AROUND > record::LONGEST {
                return self.gap("a path was longer than a journal can hold");
            }
            self.state.head += 1;
            let (kinds, subject) = self.index.put(self.state.head, kinds, subject);
            record::write(&mut bytes, self.state.head, kinds, &subject);
        }
        if self.index.entries.len() > self.limits.entries || self.index.bytes > self.limits.bytes {
            return self.gap("more paths changed than a journal holds");
        }
        if self.state.failing.is_none() && self.append(&bytes).is_ok() {
            return self.beat();
        }
        self.gap("the journal could not be written")
    }

    /// Forgets everything: what changed up to now is not known, for this reason.
    pub fn gap(&mut self, reason: &str) -> io::Result<()> {
        self.state.head += 1;
        self.gaps += 1;
        self.index = Index::default();
        self.gap = Some((self.state.head, reason.to_owned()));
        if let Err(error) = self.compact() {
            // Told first: the state needs no room on the disk.
            self.state.failing = Some(error.to_string());
            self.state.write(self.state_file.as_fd())?;
            // Nobody goes by the segments any more, and what they take may be what is missing.
            self.remove_others(u64::MAX)?;
            return self.beat();
        }
        self.state.failing = None;
        self.beat()
    }

    /// Says that the journal is being kept; tries again to write where that failed.
    pub fn beat(&mut self) -> io::Result<()> {
        if self.state.failing.is_some() && self.compact().is_ok() {
            self.state.failing = None;
        }
        self.state.beat = state::uptime();
        self.state.write(self.state_file.as_fd())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.segment.write_all(bytes)?;
        self.written += bytes.len();
        self.total += bytes.len();
        if self.written < self.limits.segment {
            return Ok(());
        }
        if self.total > 2 * self.index.bytes + self.limits.segment {
            return self.compact();
        }
        self.segment = self.new_segment()?;
        self.written = 0;
        Ok(())
    }

    fn new_segment(&mut self) -> io::Result<File> {
        let segment = open_segment(&self.directory, &self.state.id, self.next)?;
        self.next += 1;
        Ok(segment)
    }

    /// Writes all that is known to a new segment, and removes the others.
    fn compact(&mut self) -> io::Result<()> {
        let number = self.next;
        let mut segment = self.new_segment()?;
        match self.write_known(&mut segment) {
            Ok(total) => (self.segment, self.total) = (segment, total),
            Err(error) => {
                let name = segment_name(&self.state.id, number);
                unlinkat(&self.directory, name, AtFlags::empty())?;
                return Err(error);
            }
        }
        // What comes next goes on in this segment where there is room.
        self.written = self.total.min(self.limits.segment - 1);
        self.remove_others(number)
    }

    /// Writes all that is known. Returns how many bytes that is.
    fn write_known(&self, segment: &mut File) -> io::Result<usize> {
        let (mut bytes, mut total) = (Vec::new(), 0);
        if let Some((number, reason)) = &self.gap {
            record::write_gap(&mut bytes, *number, reason);
        }
        for (number, (kinds, subject)) in &self.index.entries {
            record::write(&mut bytes, *number, *kinds, subject);
            if bytes.len() > 1 << 16 {
                total += bytes.len();
                segment.write_all(&bytes)?;
                bytes.clear();
            }
        }
        segment.write_all(&bytes)?;
        Ok(total + bytes.len())
    }

    /// Removes every segment but the one with this number, those of earlier journals too.
    fn remove_others(&mut self, number: u64) -> io::Result<()> {
        let kept = segment_name(&self.state.id, number);
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.directory)? {
            let entry = entry?;
            if is_segment(entry.file_name()) && entry.file_name().to_bytes() != kept.as_bytes() {
                names.push(entry.file_name().to_owned());
            }
        }
        for name in names {
            unlinkat(&self.directory, name, AtFlags::empty())?;
        }
        Ok(())
    }
}

/// Everybody who gets to see the directory may read it.
const READABLE: Mode = Mode::from_raw_mode(0o644);

/// The name of a segment.
pub(crate) fn segment_name(id: &str, number: u64) -> String {
    format!("{id}-{number:020}.seg")
}

fn is_segment(name: &CStr) -> bool {
    name.to_bytes().ends_with(b".seg")
}

fn open_segment(directory: &OwnedFd, id: &str, number: u64) -> io::Result<File> {
    let flags = OFlags::WRONLY
        | OFlags::CREATE
        | OFlags::TRUNC
        | OFlags::APPEND
        | OFlags::CLOEXEC
        | OFlags::NOFOLLOW;
    Ok(openat(directory, segment_name(id, number), flags, READABLE)?.into())
}
