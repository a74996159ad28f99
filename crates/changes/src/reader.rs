//! The reader's side of a journal.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use crate::mark::Mark;
use crate::record::{self, Kinds, Record, Subject, Word};
use crate::state::State;

/// The file that names the places whose changes cannot be watched: `PATH`, a newline, the reason, a NUL.
pub const UNWATCHED: &str = "unwatched";

/// How much is read at most, in bytes: more than any journal takes.
const MOST: u64 = 512 << 20;
/// How often a journal is read again that is compacted meanwhile.
const TRIES: usize = 50;

/// A journal as it was at one moment.
#[derive(Clone, Debug)]
pub struct Journal {
    state: State,
    /// What changed, each with its last number.
    changed: HashMap<Subject, (u64, Kinds)>,
    gap: Option<(u64, String)>,
    head: u64,
    unwatched: Vec<(Vec<u8>, String)>,
}

/// What a journal answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Not known; the reason.
    All(String),
    /// This, in the order in which it changed.
    Changed(Vec<(Subject, Kinds)>),
}

impl Journal {
    /// Reads the journal in `directory`.
    ///
    /// # Errors
    /// `NotFound` where none has begun; what is in the way else.
    pub fn read(directory: &Path) -> io::Result<Self> {
        for _ in 0..TRIES {
            let state = State::read(directory)?;
            let segments = match open_all(directory, &state.id)? {
                Some(segments) => segments,
                None if state.failing.is_some() => Vec::new(),
                None => continue,
            };
            let journal = Self::gather(state, segments, directory)?;
            if State::read(directory)?.id == journal.state.id {
                return Ok(journal);
            }
        }
        Err(io::Error::other("the journal changes faster than it can be read"))
    }

    fn gather(state: State, segments: Vec<File>, directory: &Path) -> io::Result<Self> {
        let unwatched = unwatched(directory)?;
        let head = state.failing.as_ref().map_or(0, |_| state.head);
        let mut journal = Self { state, changed: HashMap::new(), gap: None, head, unwatched };
        let mut left = MOST;
        for segment in segments {
            let mut bytes = Vec::new();
            segment.take(left).read_to_end(&mut bytes)?;
            left -= bytes.len() as u64;
            if left == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "it is larger than it may be",
                ));
            }
            for record in record::parse(&bytes) {
                journal.take(record.ok_or_else(|| {
                    io::Error::new(io::ErrorKind::InvalidData, "something in it is no record")
                })?);
            }
        }
        Ok(journal)
    }

    fn take(&mut self, Record { number, word }: Record) {
        self.head = self.head.max(number);
        match word {
            Word::Gap(reason) => {
                if self.gap.as_ref().is_none_or(|(last, _)| *last < number) {
                    self.gap = Some((number, reason));
                }
            }
            Word::Changed(kinds, subject) => {
                let entry = self.changed.entry(subject).or_insert((number, kinds));
                // In a newer one's kinds are the older ones'.
                if entry.0 < number {
                    *entry = (number, kinds);
                }
            }
        }
    }

    /// Where it is now: who reads what changed, scans that, and sets this mark, misses nothing.
    pub fn mark(&self) -> Mark {
        Mark { journal: self.state.id.clone(), number: self.head }
    }

    /// How many subjects it knows.
    pub fn entries(&self) -> usize {
        self.changed.len()
    }

    /// What has changed since `mark`.
    pub fn since(&self, mark: Option<&Mark>) -> Answer {
        if let Some(reason) = self.unknown_since(mark) {
            return Answer::All(reason);
        }
        let number = mark.map_or(0, |mark| mark.number);
        let mut changed: Vec<_> =
            self.changed.iter().filter(|(_, (last, _))| *last > number).collect();
        changed.sort_unstable_by_key(|(_, (last, _))| *last);
        let blind =
            self.unwatched.iter().map(|(path, _)| (Subject::Tree(path.clone()), Kinds::MOUNTED));
        let changed = changed.into_iter().map(|(subject, (_, kinds))| (subject.clone(), *kinds));
        Answer::Changed(changed.chain(blind).collect())
    }

    /// Why it does not know what has changed since `mark`.
    fn unknown_since(&self, mark: Option<&Mark>) -> Option<String> {
        if let Some(failing) = &self.state.failing {
            return Some(format!("the journal cannot be written: {failing}"));
        }
        if let Some(seconds) = self.state.is_stale() {
            return Some(format!("nobody has kept the journal for {seconds} s"));
        }
        let Some(mark) = mark else {
            return Some("no scan has been completed yet".to_owned());
        };
        if mark.journal != self.state.id || mark.number > self.head {
            return Some(format!("the journal began anew: {}", self.state.began));
        }
        let (number, reason) = self.gap.as_ref()?;
        (*number > mark.number).then(|| reason.clone())
    }
}

/// Opens all segments of the journal `id`; `None` where they changed meanwhile: what compaction writes
/// is there before what it removes goes, but a directory is not listed in one moment.
fn open_all(directory: &Path, id: &str) -> io::Result<Option<Vec<File>>> {
    let names = segments(directory, id)?;
    let mut files = Vec::new();
    for name in &names {
        match File::open(directory.join(name)) {
            Ok(file) => files.push(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok((!names.is_empty() && segments(directory, id)? == names).then_some(files))
}

/// The names of the segments of the journal `id`, in order.
fn segments(directory: &Path, id: &str) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let Ok(name) = entry?.file_name().into_string() else { continue };
        if name.starts_with(&format!("{id}-")) && name.ends_with(".seg") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// The places whose changes cannot be watched, with the reason.
fn unwatched(directory: &Path) -> io::Result<Vec<(Vec<u8>, String)>> {
    let bytes = match fs::read(directory.join(UNWATCHED)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    let entries = bytes.split(|byte| *byte == 0).filter(|entry| !entry.is_empty());
    Ok(entries
        .map(|entry| {
            // A reason holds no newline; a path may.
            let end = entry.iter().rposition(|byte| *byte == b'\n').unwrap_or(entry.len());
            let reason = String::from_utf8_lossy(entry.get(end + 1..).unwrap_or_default());
            (entry[..end].to_vec(), reason.into_owned())
        })
        .collect())
}
