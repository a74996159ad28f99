//! The tracer of one server, and what it was told.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hyperspector_space::cgroup::Cgroups;
use hyperspector_spec::plan::PortspaceName;
use hyperspector_sys::channel::Channel;
use hyperspector_window::syscalls::tracer::{
    Config, ReaderStatus, Reply, Request, Started, Status, ask,
};
use rustix::time::ClockId;
use serde::{Deserialize, Serialize};

use super::scope::{Subject, now};
use crate::complaint::Complaint;
use crate::error::{Doing, Error, on};
use crate::layout::{Layout, private_dir};
use crate::process::{Process, ProcessId};
use crate::servers::Present;
use crate::space::listen;
use crate::status::TracerStatus;
use crate::{files, ids, workers};

/// How long after a start the next one is tried.
const PAUSE: Duration = Duration::from_millis(500);

/// How long one that is ready may take to begin.
const WORD: Duration = Duration::from_secs(5);

/// How often it is looked for processes that were started meanwhile.
const ROUNDS: u32 = 8;

/// What gives a tracer that is ready.
pub(super) type Spare<'a> = &'a mut dyn FnMut() -> Result<(Process, Channel), Error>;

/// What is written down of a tracer.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    process: ProcessId,
    subject: Subject,
}

/// The tracer of one server.
#[derive(Debug, Default)]
pub(crate) struct Tracer {
    worker: Option<Process>,
    /// What it was told of the server.
    subject: Option<Subject>,
    /// The portspaces that it was told of.
    places: BTreeSet<String>,
    restarts: u64,
    failure: Complaint,
    /// Before then, none is started.
    due: Option<Instant>,
    /// When one was seen last, in nanoseconds of CLOCK_MONOTONIC; 0 where another agent saw it.
    seen: Option<u64>,
    /// How it was when it was asked last.
    status: RefCell<Status>,
}

impl Tracer {
    /// Finds the tracer that an earlier agent has started.
    pub(crate) fn adopt(layout: &Layout, name: &str) -> Self {
        let record: Option<Record> = files::load(&layout.tracer(name).record());
        let seen = record.is_some().then_some(0);
        let living = record.and_then(|record| Some((record.process.open()?, record.subject)));
        let (worker, subject) = living.unzip();
        let tracer = Self { worker, subject, seen, ..Self::default() };
        tracer.ask_status(layout, name);
        let places = tracer.status.borrow().places.iter().cloned().collect();
        Self { places, ..tracer }
    }

    /// Which process the tracer is.
    pub(crate) fn worker(&self) -> Option<ProcessId> {
        self.worker.as_ref().map(|worker| worker.id)
    }

    /// Whether there is one.
    pub(super) fn is_alive(&self) -> bool {
        self.worker.as_ref().is_some_and(Process::is_alive)
    }

    /// Has it trace the server as that is now, for these portspaces. Where the server is not there, it
    /// stays as it is: it may come back as it was.
    pub(super) fn follow(
        &mut self,
        layout: &Layout,
        name: &str,
        found: Option<(Subject, &Present)>,
        places: &[&PortspaceName],
        spare: Spare<'_>,
    ) {
        let result = self.ensure(layout, name, found, places, spare);
        if let Some(failure) = self.failure.note(result.err().map(|error| error.to_string())) {
            eprintln!("{failure}");
        }
    }

    fn ensure(
        &mut self,
        layout: &Layout,
        name: &str,
        found: Option<(Subject, &Present)>,
        places: &[&PortspaceName],
        spare: Spare<'_>,
    ) -> Result<(), Error> {
        let (subject, present) = found.unzip();
        let members = || -> Vec<u32> {
            let all = present.map(Present::members).unwrap_or_default();
            all.into_iter().map(i32::cast_unsigned).collect()
        };
        self.ensure_worker(layout, name, subject, &members, spare)?;
        self.tell_places(layout, name, places)
    }

    /// Traces a server space from before its command's start.
    pub(super) fn trace_first(
        &mut self,
        layout: &Layout,
        name: &str,
        init: ProcessId,
        spare: Spare<'_>,
    ) -> Result<(), Error> {
        let members = || vec![init.pid.cast_unsigned()];
        // Nothing of it was missed: it begins now.
        self.subject = None;
        self.ensure_worker(layout, name, Some(Subject::of_init(init)), &members, spare)
    }

    fn ensure_worker(
        &mut self,
        layout: &Layout,
        name: &str,
        subject: Option<Subject>,
        members: &dyn Fn() -> Vec<u32>,
        spare: Spare<'_>,
    ) -> Result<(), Error> {
        if self.worker.as_ref().is_some_and(Process::is_alive) {
            self.seen = Some(now(ClockId::Monotonic));
            return self.tell_subject(layout, name, subject, members);
        }
        if self.worker.take().is_some() {
            eprintln!("the tracer of {name} is gone; starting another");
            self.restarts += 1;
        }
        self.places.clear();
        let Some(subject) = subject.or_else(|| self.subject.clone()) else { return Ok(()) };
        if self.due.is_some_and(|due| due > Instant::now()) {
            return Err(Error::new(format!("start the tracer of {name}"), "it has just ended"));
        }
        let (process, channel) = spare()?;
        self.due = Some(Instant::now() + PAUSE);
        self.start(layout, name, subject, members, (process, channel))
    }

    fn start(
        &mut self,
        layout: &Layout,
        name: &str,
        subject: Subject,
        members: &dyn Fn() -> Vec<u32>,
        (process, channel): (Process, Channel),
    ) -> Result<(), Error> {
        let dir = layout.tracer(name);
        private_dir(&dir.empty()).doing(on("make", &dir.empty()))?;
        let user = user(layout, name)?;
        let config = Config {
            server: name.to_owned(),
            scope: subject.scope(),
            processes: if subject.is_by_process() { members() } else { Vec::new() },
            since: self.seen,
            uid: user,
            gid: user,
        };
        let control = listen(&dir.control())?;
        let empty = File::open(dir.empty()).doing(on("open", &dir.empty()))?;
        let fds = [control.as_fd(), empty.as_fd()];
        let doing = || format!("start the tracer of {name}");
        let word = channel.send(&config, &fds).and_then(|()| channel.receive_within(WORD));
        let why = match word.doing(doing)? {
            Some((Started::Ready, _)) => None,
            Some((Started::Failed(why), _)) => Some(why),
            None => Some("it ended without a word".to_owned()),
        };
        if let Some(why) = why {
            process.kill();
            return Err(Error::new(doing(), why));
        }
        self.seen = Some(now(ClockId::Monotonic));
        let id = process.id;
        self.worker = Some(process);
        self.save(layout, name, id, subject.clone())?;
        tell_the_rest(layout, name, &subject, config.processes, members)
    }

    /// Written down before anything else: the next agent finds it.
    fn save(
        &mut self,
        layout: &Layout,
        name: &str,
        process: ProcessId,
        subject: Subject,
    ) -> Result<(), Error> {
        let path = layout.tracer(name).record();
        self.subject = Some(subject.clone());
        files::save(&path, &Record { process, subject }).doing(on("write", &path))
    }

    fn tell_subject(
        &mut self,
        layout: &Layout,
        name: &str,
        subject: Option<Subject>,
        members: &dyn Fn() -> Vec<u32>,
    ) -> Result<(), Error> {
        let Some(subject) = subject.filter(|subject| self.subject.as_ref() != Some(subject)) else {
            return Ok(());
        };
        let processes = if subject.is_by_process() { members() } else { Vec::new() };
        let since = self.subject.as_ref().and_then(|before| subject.unseen_since(before));
        tell(layout, name, &subject, processes.clone(), since)?;
        if let Some(process) = self.worker() {
            self.save(layout, name, process, subject.clone())?;
        }
        tell_the_rest(layout, name, &subject, processes, members)
    }

    /// Gives it the sockets of portspaces that are new, and takes away others.
    fn tell_places(
        &mut self,
        layout: &Layout,
        name: &str,
        wanted: &[&PortspaceName],
    ) -> Result<(), Error> {
        if self.worker.is_none() {
            return Ok(());
        }
        let control = layout.tracer(name).control();
        let names: BTreeSet<String> = wanted.iter().map(ToString::to_string).collect();
        let gone: Vec<String> = self.places.difference(&names).cloned().collect();
        for place in gone {
            ask(&control, &Request::NoPlace(place.clone()), &[])
                .doing(|| format!("end what {place} reads of {name}"))?;
            self.places.remove(&place);
        }
        for place in wanted {
            let text = place.to_string();
            if self.places.contains(&text) {
                continue;
            }
            let socket = socket(layout, place, name)?;
            let listener = listen(&socket)?;
            let open = fs::Permissions::from_mode(0o666);
            fs::set_permissions(&socket, open).doing(on("open up", &socket))?;
            ask(&control, &Request::Place(text.clone()), &[listener.as_fd()])
                .doing(|| format!("have {text} read the system calls of {name}"))?;
            self.places.insert(text);
        }
        Ok(())
    }

    /// Asks how it is.
    pub(super) fn ask_status(&self, layout: &Layout, name: &str) {
        let asked = self.worker.as_ref().filter(|worker| worker.is_alive());
        let reply =
            asked.and_then(|_| ask(&layout.tracer(name).control(), &Request::Status, &[]).ok());
        *self.status.borrow_mut() = match reply {
            Some(Reply::Status(status)) => status,
            _ => Status::default(),
        };
    }

    /// How it was when it was asked last.
    pub(crate) fn status(&self, layout: &Layout, cgroups: &Cgroups) -> TracerStatus {
        let status = self.status.borrow().clone();
        let pid = self.worker().map(|worker| worker.pid);
        TracerStatus {
            pid,
            restarts: self.restarts,
            problem: self.failure.now().map(str::to_owned),
            recorded: status.recorded,
            lost: status.lost,
            refused: status.refused,
            memory_limit_bytes: pid
                .and_then(|pid| workers::memory_limit(cgroups, &layout.tracers_cgroup(), pid)),
            memory_bytes: pid.and_then(|pid| crate::collect::resident(pid.cast_unsigned())),
        }
    }

    /// The readers of a portspace, as they were then.
    pub(super) fn readers(&self, place: &str) -> Vec<ReaderStatus> {
        let status = self.status.borrow();
        status.readers.iter().filter(|reader| reader.portspace == place).cloned().collect()
    }

    /// Why nothing is recorded, where that is known.
    pub(super) fn problem(&self) -> Option<&str> {
        self.failure.now()
    }
}

/// Tells a tracer where its server is.
fn tell(
    layout: &Layout,
    name: &str,
    subject: &Subject,
    processes: Vec<u32>,
    since: Option<u64>,
) -> Result<(), Error> {
    let request = Request::Scope { scope: subject.scope(), processes, since };
    let told = ask(&layout.tracer(name).control(), &request, &[]);
    told.map(drop).doing(|| format!("tell the tracer of {name} where that is now"))
}

/// Tells it of processes that were started while it was told of the others: what those start from now
/// on, it finds itself.
fn tell_the_rest(
    layout: &Layout,
    name: &str,
    subject: &Subject,
    told: Vec<u32>,
    members: &dyn Fn() -> Vec<u32>,
) -> Result<(), Error> {
    let mut told: BTreeSet<u32> = told.into_iter().collect();
    for _ in 0..ROUNDS {
        let all = if subject.is_by_process() { members() } else { Vec::new() };
        let rest: Vec<u32> = all.into_iter().filter(|pid| told.insert(*pid)).collect();
        if rest.is_empty() {
            return Ok(());
        }
        tell(layout, name, subject, rest, None)?;
    }
    Ok(())
}

/// The socket at which a portspace reads of a server, in its directory, which is made.
fn socket(layout: &Layout, place: &PortspaceName, server: &str) -> Result<PathBuf, Error> {
    let directory = directory(layout, place)?;
    Ok(directory.join(server))
}

/// The directory that a portspace sees: always the same one, since it has it mounted.
pub(super) fn directory(layout: &Layout, place: &PortspaceName) -> Result<PathBuf, Error> {
    let directory = layout.trace_sockets(place);
    private_dir(&directory).doing(on("make", &directory))?;
    let readable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&directory, readable).doing(on("open up", &directory))?;
    Ok(directory)
}

/// The user of a server's tracer, who is nobody else.
fn user(layout: &Layout, name: &str) -> Result<u32, Error> {
    ids::held_by(&layout.state.join("portspaces/.agent/tracers").join(name))
}

/// Ends the tracer of a server.
pub(crate) fn remove(layout: &Layout, name: &str) -> Result<(), Error> {
    let dir = layout.tracer(name);
    let record: Option<Record> = files::load(&dir.record());
    workers::end(record.map(|record| record.process), &dir.0)
}
