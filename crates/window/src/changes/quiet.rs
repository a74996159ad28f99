//! Files that are written to again and again.
//!
//! Each write to a watched file is an event, which costs the writer about a microsecond. When it is
//! known that a file changes, further writes tell nothing new. So the kernel is asked to ignore those
//! to a file that was written to often, for one period; at its end the file is recorded as modified
//! once more, since it may have been, and then its writes are told again.
//!
//! Whatever else happens to such a file is told as ever. When it gets another name its writes are told
//! again at once, before that name is recorded: a reader that knows the new name misses nothing.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use libc as l;

use super::fanotify::{self, Event};
use super::handle::Handle;
use super::places::Places;

/// How long a file's writes are ignored at most, and how long they are counted.
const PERIOD: Duration = Duration::from_secs(1);
/// So many writes that were told of in a period are often.
const OFTEN: u32 = 16;
/// How many files' writes are counted, and are ignored, at once.
const MOST: usize = 1024;

/// A file, by its file system and handle.
type Key = (u64, Handle);

/// What is ignored now, and what was counted.
#[derive(Debug)]
pub(super) struct Quiet {
    counts: HashMap<Key, u32>,
    /// The last event of each file whose writes are ignored.
    ignored: HashMap<Key, Event>,
    since: Instant,
}

impl Default for Quiet {
    fn default() -> Self {
        Self { counts: HashMap::new(), ignored: HashMap::new(), since: Instant::now() }
    }
}

impl Quiet {
    /// Takes note of an event that is about to be recorded. Returns what is to be recorded before it.
    pub(super) fn note(
        &mut self,
        group: impl AsFd,
        event: &Event,
        places: &Places,
    ) -> io::Result<Vec<Event>> {
        let Some(target) = &event.target else { return Ok(Vec::new()) };
        if event.is_any(l::FAN_ONDIR) {
            return Ok(Vec::new());
        }
        let key = (event.fsid, target.clone());
        if event.is_any(l::FAN_CREATE | l::FAN_MOVED_FROM | l::FAN_MOVED_TO | l::FAN_DELETE) {
            let is_ignored = self.ignored.contains_key(&key);
            return if is_ignored { self.end(group) } else { Ok(Vec::new()) };
        }
        if event.is_any(l::FAN_MODIFY) && event.place.is_some() && self.is_often(&key) {
            self.ignore(group, key, event, places);
        }
        Ok(Vec::new())
    }

    fn is_often(&mut self, key: &Key) -> bool {
        if self.since.elapsed() >= PERIOD && self.ignored.is_empty() {
            self.counts.clear();
            self.since = Instant::now();
        }
        if self.counts.len() >= MOST && !self.counts.contains_key(key) {
            return false;
        }
        let count = self.counts.entry(key.clone()).or_default();
        *count += 1;
        *count == OFTEN
    }

    /// Has a file's writes ignored, where that can be: else they are told of, which is slower and no
    /// less true.
    fn ignore(&mut self, group: impl AsFd, key: Key, event: &Event, places: &Places) {
        let Some(held) = places.any(key.0) else { return };
        let Ok(file) = key.1.open(&held.root) else { return };
        if fanotify::ignore_writes(group.as_fd(), places.descriptors(), file.as_fd()).is_ok() {
            let told = Event { mask: l::FAN_MODIFY, ..event.clone() };
            self.ignored.insert(key, told);
        }
    }

    /// How long until [`Self::end`] is due.
    pub(super) fn due(&self) -> Option<Duration> {
        let left = || PERIOD.saturating_sub(self.since.elapsed());
        (!self.ignored.is_empty()).then(left)
    }

    /// Has all writes told of again. Returns what is to be recorded: what may have changed unseen.
    pub(super) fn end(&mut self, group: impl AsFd) -> io::Result<Vec<Event>> {
        fanotify::ignore_nothing(group.as_fd())?;
        self.counts.clear();
        self.since = Instant::now();
        Ok(self.ignored.drain().map(|(_, event)| event).collect())
    }
}
