//! What records have told so far: for filters, and for readers that come later.
//!
//! The tracer's programs say once who a thread is and what a file is called. A reader that came after
//! that, or wants few calls, is told by the side of the first call of its own that needs it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::filter::Matcher;
use crate::memory::{Numbers, Remembered};
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
    who: Who,
    program: u64,
    bytes: Arc<[u8]>,
}

/// What filters ask of a thread.
#[derive(Clone, Copy, Debug)]
struct Who {
    /// The real and the effective user.
    users: [u32; 2],
    /// The process and the thread in the server's own PID namespace; 0 where there is none.
    own: [u32; 2],
}

impl Who {
    /// The numbers by which the server knows whom a record is of.
    fn own(self, head: &Head) -> [u32; 2] {
        Some(self.own).filter(|own| own[0] != 0).unwrap_or([head.pid, head.tid])
    }
}

/// What records have told.
#[derive(Debug)]
pub struct Known {
    threads: Remembered<u32, Thread>,
    files: Remembered<u64, Arc<[u8]>>,
    entries: Remembered<u32, Arc<[u8]>>,
    version: u64,
    /// The files that the record taken last refers to, of those that are known.
    ids: Vec<u64>,
}

/// A record that readers may want, with what came before it.
#[derive(Debug)]
pub struct Offer<'a> {
    head: Head,
    kind: What<'a>,
    bytes: &'a [u8],
    entry: Option<Arc<[u8]>>,
    /// The version of the thread that makes it, and who it is.
    thread: Option<(u64, Who)>,
    /// A thread that this record is the first of, and its parent.
    child: Option<(u32, u32)>,
}

#[derive(Debug)]
enum What<'a> {
    Call(Call<'a>),
    Task,
    End,
    Lost(u64),
    /// It is for everybody, as a loss is.
    Notice,
}

/// What one reader has been told.
#[derive(Debug, Default)]
pub struct Sent {
    threads: HashMap<u32, u64, Numbers>,
    files: HashSet<u64, Numbers>,
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
            ids: Vec::new(),
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
        self.ids.clear();
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
                    who: Who { users: [task.uid[0], task.uid[1]], own: task.own },
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
                let thread = self.threads.remove(&head.tid);
                let thread = thread.map(|thread| (thread.version, thread.who));
                self.entries.remove(&head.tid);
                Some(Offer { thread, ..offer(head, What::End, bytes) })
            }
            Record::Lost(head, count) => Some(offer(head, What::Lost(count), bytes)),
            Record::Start(head, _)
            | Record::Missed(head, _)
            | Record::Gap(head, _)
            | Record::Refused(head, _) => Some(offer(head, What::Notice, bytes)),
        })
    }

    fn call<'a>(&mut self, head: Head, call: Call<'a>, bytes: &'a [u8]) -> Offer<'a> {
        let entry = (head.marks & mark::HAS_ENTRY != 0)
            .then(|| self.entries.remove(&head.tid))
            .flatten()
            .filter(|entry| belongs(entry, &head));
        if self.threads.touch(&head.tid) {
            self.ids.extend(self.threads.peek(&head.tid).map(|thread| thread.program));
        }
        let thread = self.threads.peek(&head.tid).map(|thread| (thread.version, thread.who));
        let of_entry = entry.as_deref().and_then(entry_of);
        let items = of_entry.iter().flat_map(Call::items).chain(call.items());
        let is_file = |part| matches!(part, Part::File | Part::WorkingDirectory | Part::Program);
        let of_items = items
            .filter(|item| is_file(item.part))
            .filter_map(|item| item.bytes.try_into().ok().map(u64::from_ne_bytes));
        self.ids.extend(of_items);
        self.ids.sort_unstable();
        self.ids.dedup();
        self.ids.truncate(TOGETHER);
        self.ids.retain(|id| self.files.touch(id));
        Offer { entry, thread, ..offer(head, What::Call(call), bytes) }
    }

    /// What a file is called.
    pub(crate) fn name(&self, id: u64) -> Option<Arc<Named>> {
        let bytes = self.files.peek(&id)?;
        let Ok((Record::File(_, file), _)) = record::read(bytes) else { return None };
        Some(Arc::new(Named::new(&file)))
    }

    /// The real and the effective user of a thread.
    pub(crate) fn users(&self, tid: u32) -> Option<[u32; 2]> {
        self.threads.peek(&tid).map(|thread| thread.who.users)
    }

    /// The process and the thread that a record is of, by the server's own numbers; `None` where the
    /// thread is not known any more.
    pub(crate) fn own(&self, head: &Head) -> Option<[u32; 2]> {
        self.threads.peek(&head.tid).map(|thread| thread.who.own(head))
    }
}

fn offer<'a>(head: Head, kind: What<'a>, bytes: &'a [u8]) -> Offer<'a> {
    Offer { head, kind, bytes, entry: None, thread: None, child: None }
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
    matches!(record::read(entry), Ok((Record::Entry(before, _), _)) if is_it(before))
}

impl Offer<'_> {
    /// Whether it is a call.
    pub fn is_call(&self) -> bool {
        matches!(self.kind, What::Call(_))
    }

    /// How many records the kernel lost, and on which processor, where that is what it tells.
    pub fn loss(&self) -> Option<(u32, u64)> {
        match self.kind {
            What::Lost(count) => Some((self.head.tid, count)),
            _ => None,
        }
    }

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
            let own = known.threads.peek(&parent).map_or(0, |thread| thread.who.own[0]);
            matcher.heed(child, parent, if own == 0 { parent } else { own });
        }
        let is_wanted = self.is_wanted(matcher, known);
        if is_wanted {
            self.send(sent, known, push);
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
            What::Notice | What::Lost(_) => true,
            What::Task => false,
            What::End => {
                let who = self.thread.map(|(_, who)| who);
                matcher.is_of_process(&self.head, who.map(|who| who.own(&self.head)))
                    && matcher.is_of_user(who.map(|who| who.users))
            }
            What::Call(call) => {
                let entry = self.entry.as_deref().and_then(entry_of);
                matcher.matches(&self.head, call, entry.as_ref(), known)
            }
        }
    }

    fn send(&self, sent: &mut Sent, known: &Known, push: impl FnOnce(&[&[u8]]) -> bool) {
        let tid = self.head.tid;
        let untold = |(version, _): &(u64, _)| sent.threads.get(&tid) != Some(version);
        let thread = self.thread.filter(|thread| self.is_call() && untold(thread));
        let has_all = known.ids.iter().all(|id| sent.files.contains(id));
        if has_all && thread.is_none() && self.entry.is_none() {
            push(&[self.bytes]);
            return;
        }
        let files = known.ids.iter().filter(|id| !sent.files.contains(id));
        let files = files.filter_map(|id| known.files.peek(id).map(|bytes| &**bytes));
        let of_thread = thread.and_then(|_| known.threads.peek(&tid)).map(|thread| &*thread.bytes);
        let together: Vec<&[u8]> =
            files.chain(of_thread).chain(self.entry.as_deref()).chain([self.bytes]).collect();
        if !push(&together) {
            return;
        }
        sent.files.extend(&known.ids);
        if let Some((version, _)) = thread {
            sent.threads.insert(tid, version);
        }
        if sent.files.len() > TOLD || sent.threads.len() > TOLD {
            *sent = Sent::default();
        }
    }
}
