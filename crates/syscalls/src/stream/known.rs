//! What records have told so far: for filters, and for readers that come later.
//!
//! The tracer's programs say once who a thread is and what a file is called. A reader that came after
//! that, or wants few calls, is told by the side of the first call of its own that needs it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::filter::Matcher;
use crate::memory::Remembered;
use crate::named::Named;
use crate::record::{self, Call, Head, Malformed, Part, Record, mark};

/// How many threads are remembered.
const THREADS: usize = 65_536;
/// How many bytes of records of files, and of entries that wait for their calls' ends.
const FILES: usize = 64 << 20;
const ENTRIES: usize = 16 << 20;
/// How many files and threads a reader can have been told of, until it is told again.
const TOLD: usize = 65_536;
/// How many records go with one call at most: two for each of its descriptors, and a few.
const TOGETHER: usize = 256;

#[derive(Clone, Debug)]
struct Thread {
    /// Goes up with every record, so that one that replaces another is told again.
    version: u64,
    users: [u32; 2],
    program: u64,
    bytes: Arc<[u8]>,
}

/// What records have told.
#[derive(Debug)]
pub struct Known {
    threads: Remembered<u32, Thread>,
    files: Remembered<u64, Arc<[u8]>>,
    entries: Remembered<u32, Arc<[u8]>>,
    version: u64,
}

/// A record that readers may want, with what came before it.
#[derive(Debug)]
pub struct Offer<'a> {
    head: Head,
    kind: What<'a>,
    bytes: &'a [u8],
    entry: Option<Arc<[u8]>>,
    /// The files that it refers to, and the thread that makes it.
    files: Vec<(u64, Arc<[u8]>)>,
    thread: Option<Thread>,
    /// A thread that this record is the first of, and its parent.
    child: Option<(u32, u32)>,
}

#[derive(Debug)]
enum What<'a> {
    Call(Call<'a>),
    Task,
    End,
    /// It is for everybody.
    Notice,
}

/// What one reader has been told.
#[derive(Debug, Default)]
pub struct Sent {
    threads: HashMap<u32, u64>,
    files: HashSet<u64>,
}

impl Default for Known {
    fn default() -> Self {
        Self::new()
    }
}

impl Known {
    /// Nothing yet.
    pub fn new() -> Self {
        Self {
            threads: Remembered::new(THREADS),
            files: Remembered::new(FILES),
            entries: Remembered::new(ENTRIES),
            version: 0,
        }
    }

    /// Takes the record that `bytes` begin with; gives it on where readers may want it. Offer it to
    /// all of them before the next one is taken.
    ///
    /// # Errors
    /// Where the bytes begin with no record.
    pub fn take<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<Offer<'a>>, Malformed> {
        let (record, length) = record::read(bytes)?;
        let bytes = bytes.get(..length).unwrap_or_default();
        Ok(match record {
            Record::Call(head, call) => Some(self.call(head, call, bytes)),
            Record::Entry(head, _) => {
                self.entries.insert(head.tid, bytes.into(), length + 64);
                None
            }
            Record::Task(head, task) => {
                self.version += 1;
                let thread = Thread {
                    version: self.version,
                    users: [task.uid[0], task.uid[1]],
                    program: task.program,
                    bytes: bytes.into(),
                };
                self.threads.insert(head.tid, thread, 1);
                Some(Offer {
                    child: Some((head.pid, task.parent)),
                    ..offer(head, What::Task, bytes)
                })
            }
            Record::File(_, file) => {
                self.files.insert(file.id, bytes.into(), length + 64);
                None
            }
            Record::End(head, _) => {
                let thread = self.threads.get(&head.tid);
                self.threads.remove(&head.tid);
                self.entries.remove(&head.tid);
                Some(Offer { thread, ..offer(head, What::End, bytes) })
            }
            Record::Start(head, _)
            | Record::Lost(head, _)
            | Record::Missed(head, _)
            | Record::Gap(head, _)
            | Record::Refused(head, _) => Some(offer(head, What::Notice, bytes)),
        })
    }

    fn call<'a>(&mut self, head: Head, call: Call<'a>, bytes: &'a [u8]) -> Offer<'a> {
        let entry = self.entries.remove(&head.tid).filter(|entry| belongs(entry, &head));
        let thread = self.threads.get(&head.tid);
        let of_entry = entry.as_deref().and_then(entry_of);
        let items = of_entry.iter().flat_map(Call::items).chain(call.items());
        let is_file = |part| matches!(part, Part::File | Part::WorkingDirectory | Part::Program);
        let mut ids: Vec<u64> = items
            .filter(|item| is_file(item.part))
            .filter_map(|item| item.bytes.try_into().ok().map(u64::from_ne_bytes))
            .chain(thread.as_ref().map(|thread| thread.program))
            .collect();
        ids.sort_unstable();
        ids.dedup();
        ids.truncate(TOGETHER);
        let files = ids.into_iter().filter_map(|id| Some((id, self.files.get(&id)?))).collect();
        Offer { entry, files, thread, ..offer(head, What::Call(call), bytes) }
    }

    /// What a file is called.
    pub(crate) fn name(&self, id: u64) -> Option<Arc<Named>> {
        let bytes = self.files.peek(&id)?;
        let Ok((Record::File(_, file), _)) = record::read(bytes) else { return None };
        Some(Arc::new(Named::new(&file)))
    }

    /// The real and the effective user of a thread.
    pub(crate) fn users(&self, tid: u32) -> Option<[u32; 2]> {
        self.threads.peek(&tid).map(|thread| thread.users)
    }
}

fn offer<'a>(head: Head, kind: What<'a>, bytes: &'a [u8]) -> Offer<'a> {
    Offer { head, kind, bytes, entry: None, files: Vec::new(), thread: None, child: None }
}

fn entry_of(bytes: &[u8]) -> Option<Call<'_>> {
    match record::read(bytes) {
        Ok((Record::Entry(_, call), _)) => Some(call),
        _ => None,
    }
}

/// Whether an entry is that of the call with this head.
fn belongs(entry: &[u8], head: &Head) -> bool {
    let is_it = |before: Head| before.time == head.time;
    head.marks & mark::HAS_ENTRY != 0
        && matches!(record::read(entry), Ok((Record::Entry(before, _), _)) if is_it(before))
}

impl Offer<'_> {
    /// Offers it to a reader; `push` gets the records that are to be sent together, and says whether
    /// they were taken. Whether the reader wanted it.
    pub fn to(
        &self,
        matcher: &mut Matcher,
        sent: &mut Sent,
        known: &Known,
        push: impl FnOnce(&[&[u8]]) -> bool,
    ) -> bool {
        if let Some((child, parent)) = self.child {
            matcher.heed(child, parent);
        }
        let is_wanted = self.is_wanted(matcher, known);
        if is_wanted {
            self.send(sent, push);
        }
        if matches!(self.kind, What::End) {
            if self.head.pid == self.head.tid {
                matcher.forget(self.head.pid);
            }
            sent.threads.remove(&self.head.tid);
        }
        is_wanted
    }

    fn is_wanted(&self, matcher: &Matcher, known: &Known) -> bool {
        match &self.kind {
            What::Notice => true,
            What::Task => false,
            What::End => {
                let users = self.thread.as_ref().map(|thread| thread.users);
                matcher.is_of_process(&self.head) && matcher.is_of_user(users)
            }
            What::Call(call) => {
                let entry = self.entry.as_deref().and_then(entry_of);
                matcher.matches(&self.head, call, entry.as_ref(), known)
            }
        }
    }

    fn send(&self, sent: &mut Sent, push: impl FnOnce(&[&[u8]]) -> bool) {
        let is_call = matches!(self.kind, What::Call(_));
        let files = self.files.iter().filter(|(id, _)| !sent.files.contains(id));
        let mut together: Vec<&[u8]> = files.map(|(_, bytes)| &**bytes).collect();
        let has_told = |thread: &&Thread| sent.threads.get(&self.head.tid) == Some(&thread.version);
        let thread = self.thread.as_ref().filter(|thread| is_call && !has_told(thread));
        together.extend(thread.map(|thread| &*thread.bytes));
        together.extend(self.entry.as_deref());
        together.push(self.bytes);
        if !push(&together) {
            return;
        }
        sent.files.extend(self.files.iter().map(|(id, _)| *id));
        if let Some(thread) = thread {
            sent.threads.insert(self.head.tid, thread.version);
        }
        if sent.files.len() > TOLD || sent.threads.len() > TOLD {
            *sent = Sent::default();
        }
    }
}
