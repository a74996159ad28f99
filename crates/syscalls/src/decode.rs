//! Joining records to calls.
//!
//! A [`Decoder`] gets records in their order and gives an [`Event`] for each that tells something by
//! itself. What records before have told (who a thread is, what a file is called) it remembers, in
//! bounded memory: what a server makes it forget is left out of later events, and nothing else.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::memory::Remembered;
use crate::named::Named;
use crate::numbers::Abi;
use crate::record::{self, Head, Malformed, Part, Record, item_mark, mark};
use crate::table::{self, Syscall};

/// How many threads are remembered, and their processes' descriptors.
const THREADS: usize = 65_536;
/// How many bytes of files' names are remembered.
const NAMES: usize = 64 << 20;
/// How many bytes of entries that wait for their calls' ends are remembered.
const ENTRIES: usize = 16 << 20;
/// How many bytes of a process's title are remembered.
const TITLE: usize = 256;
/// How many descriptors of one process are remembered.
const DESCRIPTORS: usize = 4096;

/// What has happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A call.
    Call(Box<Call>),
    /// A thread has ended.
    End {
        /// When, in nanoseconds of CLOCK_MONOTONIC.
        time: u64,
        /// The process.
        pid: u32,
        /// The thread.
        tid: u32,
        /// The two in the server's own PID namespace; 0 where that is not known, or there is none.
        own: [u32; 2],
        /// How: as wait(2) tells it, where that is known.
        status: Option<u32>,
    },
    /// Records were lost.
    Lost {
        /// When that was told.
        time: u64,
        /// On which processor.
        cpu: u32,
        /// How many.
        count: u64,
    },
    /// This reader was too slow, and has missed records.
    Missed {
        /// When that was told.
        time: u64,
        /// How many.
        count: u64,
    },
    /// There was no tracer for a while.
    Gap {
        /// Until when.
        time: u64,
        /// Since when; 0 where that is not known.
        since: u64,
    },
}

/// Who a thread is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Who {
    /// The parent process.
    pub parent: u32,
    /// User ids: real, effective, saved, of files.
    pub uid: [u32; 4],
    /// Group ids, likewise.
    pub gid: [u32; 4],
    /// The user that logged in; `u32::MAX` for nobody.
    pub login: u32,
    /// The audit session; `u32::MAX` for none.
    pub session: u32,
    /// What it calls itself.
    pub comm: Vec<u8>,
    /// Its program's file.
    pub program: Option<Arc<Named>>,
    /// Process and thread in the server's own PID namespace; 0 where there is none.
    pub own: [u32; 2],
}

/// The thread by the server's own number, where it has one: `/.serverproc/NAME` has the same.
pub(crate) fn shown(tid: u32, own: [u32; 2]) -> u32 {
    if own[1] == 0 { tid } else { own[1] }
}

/// A piece of data of a call; see [`record::Item`].
#[derive(Clone, Copy, Debug)]
pub struct Datum {
    /// Which argument; 6 for what belongs to the call as a whole.
    pub arg: u8,
    /// What of it.
    pub part: Part,
    /// See [`item_mark`].
    pub marks: u8,
    /// Which element of a vector.
    pub index: u8,
    start: usize,
    length: usize,
}

/// A file that a call refers to.
#[derive(Clone, Debug)]
pub struct FileOf {
    /// Which argument; 6 for the result.
    pub arg: u8,
    /// Which element of what the argument points at.
    pub index: u8,
    /// Whether that was after the call.
    pub is_after: bool,
    /// The file.
    pub file: Arc<Named>,
}

/// Descriptors of a process, as calls have told of them.
type Descriptors = BTreeMap<i32, Arc<Named>>;

/// A call that has ended, or never will.
#[derive(Clone, Debug)]
pub struct Call {
    /// By which convention it came.
    pub abi: Abi,
    /// Its number in that.
    pub number: u32,
    /// What it is; nothing for a number that no table has.
    pub syscall: Option<&'static Syscall>,
    /// When it began, in nanoseconds of CLOCK_MONOTONIC.
    pub time: u64,
    /// How long it took, in nanoseconds.
    pub duration: u64,
    /// Its result; a negated errno where it failed.
    pub result: i64,
    /// Its arguments as numbers.
    pub args: [u64; 6],
    /// See [`mark`].
    pub marks: u16,
    /// The process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// Who it is.
    pub who: Arc<Who>,
    /// The working directory, for calls with paths.
    pub cwd: Option<Arc<Named>>,
    /// The files that its descriptors stand for.
    pub files: Vec<FileOf>,
    /// The process's arguments, each with a zero after it, as far as they are known.
    pub title: Option<Arc<[u8]>>,
    pub(crate) descriptors: Arc<Descriptors>,
    data: Vec<u8>,
    items: Vec<Datum>,
}

impl Call {
    /// Its name; `syscall_0x…` where it has none.
    pub fn name(&self) -> Cow<'static, str> {
        match self.abi.name(self.number) {
            Some(name) => Cow::Borrowed(name),
            None => Cow::Owned(format!("syscall_{:#x}", self.number)),
        }
    }

    /// Whether it never returned.
    pub fn is_unreturned(&self) -> bool {
        self.marks & mark::NO_RETURN != 0
    }

    /// Whether this is a child that returns from the call by which its parent made it.
    pub fn is_birth(&self) -> bool {
        self.marks & mark::UNDER_WAY != 0
            && self.result == 0
            && matches!(&*self.name(), "fork" | "vfork" | "clone" | "clone3")
    }

    /// Whether it failed, with which errno.
    pub fn error(&self) -> Option<u32> {
        let is_error = (-4095..0).contains(&self.result) && !self.is_unreturned();
        is_error.then(|| u32::try_from(-self.result).unwrap_or_default())
    }

    /// Its data.
    pub fn items(&self) -> &[Datum] {
        &self.items
    }

    /// The bytes of one of its data.
    pub fn bytes(&self, item: &Datum) -> &[u8] {
        self.data.get(item.start..item.start + item.length).unwrap_or_default()
    }

    /// What was read of an argument at its entry (or, where it could not be read then, later), or what
    /// the call has written there; the marks with it.
    pub fn data(&self, arg: u8, part: Part, is_out: bool) -> Option<(&[u8], u8)> {
        let is_it = |item: &&Datum| {
            item.arg == arg
                && item.part == part
                && (item.marks & item_mark::OUT != 0) == is_out
                && item.marks & item_mark::FAULT == 0
        };
        let item = self.items.iter().find(is_it)?;
        Some((self.bytes(item), item.marks))
    }

    /// The file that an argument's descriptor stands for.
    pub fn file(&self, arg: u8) -> Option<&Arc<Named>> {
        self.files.iter().find(|file| file.arg == arg).map(|file| &file.file)
    }

    /// The file that the descriptor `fd` stood for when it was last seen.
    pub(crate) fn file_of(&self, fd: i32) -> Option<&Arc<Named>> {
        self.descriptors.get(&fd)
    }

    fn add_items(&mut self, call: &record::Call<'_>) {
        for item in call.items() {
            let start = self.data.len();
            self.data.extend_from_slice(item.bytes);
            let (arg, part, marks, index) = (item.arg, item.part, item.marks, item.index);
            self.items.push(Datum { arg, part, marks, index, start, length: item.bytes.len() });
        }
    }
}

/// Joins records; see the module.
#[derive(Debug)]
pub struct Decoder {
    threads: Remembered<u32, Arc<Who>>,
    files: Remembered<u64, Arc<Named>>,
    entries: Remembered<u32, Vec<u8>>,
    descriptors: Remembered<u32, Arc<Descriptors>>,
    titles: Remembered<u32, Arc<[u8]>>,
    tracer: Option<u64>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// One that knows nothing yet.
    pub fn new() -> Self {
        Self {
            threads: Remembered::new(THREADS),
            files: Remembered::new(NAMES),
            entries: Remembered::new(ENTRIES),
            descriptors: Remembered::new(THREADS * 16),
            titles: Remembered::new(THREADS),
            tracer: None,
        }
    }

    /// Takes the record that `bytes` begin with.
    ///
    /// # Errors
    /// Where they begin with none.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Option<Event>, Malformed> {
        let (record, length) = record::read(bytes)?;
        Ok(match record {
            Record::Call(head, call) => Some(Event::Call(Box::new(self.call(&head, &call)?))),
            Record::Entry(head, _) => {
                let whole = bytes.get(..length).unwrap_or_default().to_vec();
                self.entries.insert(head.tid, whole, length + 64);
                None
            }
            Record::Task(head, task) => {
                self.remember(&head, &task);
                None
            }
            Record::File(_, file) => {
                let named = Named::new(&file);
                let weight = named.weight();
                self.files.insert(file.id, Arc::new(named), weight);
                None
            }
            Record::End(head, status) => Some(self.end(&head, status)),
            Record::Lost(head, count) => {
                Some(Event::Lost { time: head.time, cpu: head.tid, count })
            }
            Record::Start(_, start) => {
                if self.tracer != Some(start.tracer) {
                    // Another tracer knows files by other identities.
                    *self = Self { tracer: Some(start.tracer), ..Self::new() };
                }
                None
            }
            Record::Missed(head, count) => Some(Event::Missed { time: head.time, count }),
            Record::Gap(head, since) => Some(Event::Gap { time: head.time, since }),
            Record::Refused(..) => None,
        })
    }

    fn remember(&mut self, head: &Head, task: &record::Task<'_>) {
        let who = Who {
            parent: task.parent,
            uid: task.uid,
            gid: task.gid,
            login: task.login,
            session: task.session,
            comm: task.comm.to_vec(),
            program: self.files.get(&task.program),
            own: task.own,
        };
        self.threads.insert(head.tid, Arc::new(who), 1);
        if self.titles.get(&head.pid).is_none()
            && let Some(inherited) = self.titles.get(&task.parent)
        {
            self.titles.insert(head.pid, inherited, 1);
        }
        if self.descriptors.get(&head.pid).is_none()
            && let Some(inherited) = self.descriptors.get(&task.parent)
        {
            let weight = inherited.len() + 1;
            self.descriptors.insert(head.pid, inherited, weight);
        }
    }

    fn end(&mut self, head: &Head, status: Option<u32>) -> Event {
        let own = self.threads.get(&head.tid).map_or([0; 2], |who| who.own);
        self.threads.remove(&head.tid);
        self.entries.remove(&head.tid);
        if head.tid == head.pid {
            self.descriptors.remove(&head.pid);
            self.titles.remove(&head.pid);
        }
        Event::End { time: head.time, pid: head.pid, tid: head.tid, own, status }
    }

    fn call(&mut self, head: &Head, call: &record::Call<'_>) -> Result<Call, Malformed> {
        let abi = Abi::of_record(head.abi);
        let mut made = Call {
            abi,
            number: call.number,
            syscall: abi.name(call.number).and_then(|name| table::of(abi, name)),
            time: head.time,
            duration: call.duration,
            result: call.result,
            args: call.args,
            marks: head.marks,
            pid: head.pid,
            tid: head.tid,
            who: self.threads.get(&head.tid).unwrap_or_default(),
            cwd: None,
            files: Vec::new(),
            title: None,
            descriptors: Arc::default(),
            data: Vec::new(),
            items: Vec::new(),
        };
        let entry = self.entries.remove(&head.tid);
        if head.marks & mark::HAS_ENTRY != 0
            && let Some(entry) = entry
            && let (Record::Entry(before, data), _) = record::read(&entry)?
            && before.time == head.time
        {
            made.add_items(&data);
        }
        made.add_items(call);
        self.name_files(&mut made);
        made.title = self.title(&made);
        Ok(made)
    }

    /// The process's title: its arguments, which a call that executes a program has set.
    fn title(&mut self, call: &Call) -> Option<Arc<[u8]>> {
        if call.result == 0 && call.syscall.is_some_and(|call| call.name.starts_with("execve")) {
            let argv = if call.syscall.is_some_and(|call| call.name == "execve") { 1 } else { 2 };
            let words =
                call.items.iter().filter(|item| item.arg == argv && item.part == Part::Element);
            let mut title = Vec::new();
            for word in words.take_while(|word| word.marks & item_mark::FAULT == 0) {
                title.extend_from_slice(call.bytes(word));
                title.push(0);
            }
            title.pop();
            title.truncate(TITLE);
            if title.is_empty() {
                self.titles.remove(&call.pid);
            } else {
                self.titles.insert(call.pid, title.into(), 1);
            }
        }
        self.titles.get(&call.pid)
    }

    /// Finds what identities among the call's data stand for.
    fn name_files(&mut self, call: &mut Call) {
        let mut seen = Vec::new();
        for item in &call.items {
            let id = call.bytes(item).try_into().map(u64::from_ne_bytes);
            let (Part::File | Part::WorkingDirectory | Part::Program, Ok(id)) = (item.part, id)
            else {
                continue;
            };
            if let Some(file) = self.files.get(&id) {
                seen.push((*item, file));
            }
        }
        for (item, file) in seen {
            let is_after = item.marks & item_mark::OUT != 0;
            match item.part {
                Part::WorkingDirectory => call.cwd = Some(file),
                Part::Program => {
                    let who = Who { program: Some(file), ..Who::clone(&call.who) };
                    call.who = Arc::new(who);
                }
                _ => call.files.push(FileOf { arg: item.arg, index: item.index, is_after, file }),
            }
        }
        self.remember_descriptors(call);
    }

    /// Keeps what is known of the process's descriptors, for those inside of structures.
    fn remember_descriptors(&mut self, call: &mut Call) {
        let mut known = self.descriptors.get(&call.pid).unwrap_or_default();
        let told: Vec<_> =
            call.files.iter().filter_map(|of| Some((fd_of(call, of)?, of))).collect();
        let is_new = |(fd, of): &(i32, &FileOf)| {
            !known.get(fd).is_some_and(|before| Arc::ptr_eq(before, &of.file))
        };
        if told.iter().any(is_new) {
            let changed = Arc::make_mut(&mut known);
            for (fd, of) in told {
                changed.insert(fd, Arc::clone(&of.file));
            }
            while changed.len() > DESCRIPTORS {
                changed.pop_first();
            }
            let weight = known.len() + 1;
            self.descriptors.insert(call.pid, Arc::clone(&known), weight);
        }
        call.descriptors = known;
    }
}

/// The number of the descriptor that a file was told for.
fn fd_of(call: &Call, of: &FileOf) -> Option<i32> {
    let number = match call.args.get(usize::from(of.arg)) {
        None => call.result.cast_unsigned(),
        Some(_) if of.is_after => {
            let (bytes, _) = call.data(of.arg, Part::Bytes, true).unwrap_or_default();
            match bytes.chunks_exact(4).nth(of.index.into()) {
                Some(number) => u32::from_ne_bytes(number.try_into().ok()?).into(),
                None => *call.args.get(usize::from(of.arg))?,
            }
        }
        Some(arg) => *arg,
    };
    i32::try_from(number & 0xffff_ffff).ok()
}
