//! The tee of one server: its keeper, and what that was told.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hyperspector_sys::netns;
use hyperspector_window::sockets::keeper::{self, Config};
use hyperspector_window::sockets::place::worker::{Answer, Places as Kind};
use hyperspector_window::sockets::{self, Reply, Request, Started, Status};
use serde::{Deserialize, Serialize};

use super::places::{Errand, News, Place, Places, Seat};
use super::{Wanted, source_name};
use crate::complaint::Complaint;
use crate::error::{Doing, Error, all_or_first, on};
use crate::helper::{Errands, Reply as Replied};
use crate::layout::{Layout, TeeDir, private_dir};
use crate::process::{Process, ProcessId};
use crate::servers::Present;
use crate::space::listen;
use crate::status::TeeStatus;
use crate::{files, ids, workers};

/// What an errand is answered by.
type Answering = Replied<Kind>;

/// How often is looked who has a socket.
const LOOK: Duration = Duration::from_millis(500);
/// How long a server's file system may take to answer before the agent goes on with something else,
/// once; until it has answered again, it is not waited for at all.
const QUICK: Duration = Duration::from_millis(100);
/// How long a server space's command waits for its sockets.
const FIRST: Duration = Duration::from_secs(2);
/// How long after a look that had no answer the next is tried.
const REST: Duration = Duration::from_secs(10);
/// How long anything may take there before it is given up.
const LONGEST: Duration = Duration::from_secs(60);
/// How long a keeper that has not answered in time is not asked again.
const SILENCE: Duration = Duration::from_secs(10);
/// How long after a failure a keeper is started again.
const PAUSE: Duration = Duration::from_secs(1);

/// What is written down of a tee.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Record {
    keeper: Option<ProcessId>,
    places: BTreeMap<PathBuf, Place>,
}

/// The tee of one server.
#[derive(Debug, Default)]
pub(crate) struct Tee {
    keeper: Option<Process>,
    places: Places,
    /// Sources that the keeper has open.
    open: BTreeSet<String>,
    /// What it was told of readers.
    told: BTreeMap<String, (sockets::Reader, Option<ProcessId>)>,
    restarts: u64,
    failure: Complaint,
    /// Before then, no keeper is started.
    due: Option<Instant>,
    /// When the paths were looked at last, and through which process.
    looked: Option<(Instant, ProcessId)>,
    /// What is being done in the server's tree, and since when.
    errand: Option<(Errand, Answering, Instant)>,
    /// The server's tree did not answer in time the last time.
    is_slow: bool,
    /// Before then, a keeper that did not answer in time is not asked again.
    silent: Cell<Option<Instant>>,
    /// How it was when it was asked last.
    status: RefCell<Option<Status>>,
}

impl Tee {
    /// Finds the tee that an earlier agent has started. A tee that has lost its keeper gets another
    /// at once.
    pub(crate) fn adopt(layout: &Layout, name: &str) -> Self {
        let record: Record = files::load(&layout.tee(name).record()).unwrap_or_default();
        let mut tee = Self {
            keeper: record.keeper.and_then(ProcessId::open),
            places: Places { done: record.places, ..Places::default() },
            ..Self::default()
        };
        let started = match tee.keeper {
            Some(_) => tee.recall(layout, name),
            None => tee.start(layout, name),
        };
        if let Err(error) = started {
            eprintln!("{error}");
        }
        tee
    }

    /// Which process the keeper is.
    pub(crate) fn keeper(&self) -> Option<ProcessId> {
        self.keeper.as_ref().map(|keeper| keeper.id)
    }

    /// Makes everything as it is wanted.
    pub(crate) fn follow(
        &mut self,
        layout: &Layout,
        name: &str,
        wanted: &Wanted,
        present: Option<&Present>,
        errands: &mut Errands,
    ) {
        let result = self.ensure_keeper(layout, name).and_then(|()| {
            let patience = if self.is_slow { Duration::ZERO } else { QUICK };
            if let Some(present) = present {
                let members = || {
                    let all = present.members().into_iter();
                    all.map(i32::cast_unsigned).collect()
                };
                let seat = Seat::of(present, &members);
                self.look(layout, name, (wanted, &seat), errands, patience)?;
            }
            self.leave_unwanted(layout, name, wanted)?;
            self.settle(layout, errands, patience)?;
            self.tell_readers(layout, name, wanted)
        });
        self.noted(result);
    }

    /// Puts sockets in their places in a server space whose command does not run yet.
    pub(crate) fn place_first(
        &mut self,
        layout: &Layout,
        name: &str,
        wanted: &Wanted,
        init: i32,
        errands: &mut Errands,
    ) {
        let result = self.ensure_keeper(layout, name).and_then(|()| {
            let by = ProcessId::of(init).doing(|| format!("look at the init of {name}"))?;
            let members = Vec::new;
            let seat = Seat { by, tree: Path::new("/"), members: &members, is_new: true };
            self.look(layout, name, (wanted, &seat), errands, FIRST)?;
            self.tell_readers(layout, name, wanted)
        });
        self.noted(result);
    }

    /// Tells a failure once.
    fn noted(&mut self, result: Result<(), Error>) {
        if let Some(failure) = self.failure.note(result.err().map(|error| error.to_string())) {
            eprintln!("{failure}");
        }
    }

    fn ensure_keeper(&mut self, layout: &Layout, name: &str) -> Result<(), Error> {
        if self.keeper.as_ref().is_some_and(Process::is_alive) {
            return Ok(());
        }
        if self.due.is_some_and(|due| due > Instant::now()) {
            return Err(Error::new(format!("start the tee of {name}"), "it has just failed"));
        }
        self.due = Some(Instant::now() + PAUSE);
        if self.keeper.take().is_some() {
            eprintln!("the keeper of {name}'s tee is gone; starting another");
            self.restarts += 1;
        }
        self.start(layout, name)
    }

    /// Starts a keeper, which takes over from a tee that has lost its own.
    fn start(&mut self, layout: &Layout, name: &str) -> Result<(), Error> {
        let doing = || format!("start the tee of {name}");
        let dir = layout.tee(name);
        private_dir(&dir.0).doing(on("make", &dir.0))?;
        let orphan = netns::connect(dir.successor()).ok();
        let control = listen(&dir.control())?;
        let successor = listen(&dir.successor())?;
        let user = user(layout, name)?;
        let config = Config { uid: user, gid: user };
        let mut fds = vec![control.as_fd(), successor.as_fd()];
        fds.extend(orphan.as_ref().map(AsFd::as_fd));
        let process = workers::start(layout, "keeper", &config, &fds, |word| match word {
            Started::Ready => Ok(()),
            Started::Failed(why) => Err(why),
        })
        .map_err(|why| Error::new(doing(), why))?;
        self.keeper = Some(process);
        self.told.clear();
        self.save(layout, name)?;
        self.recall(layout, name)
    }

    /// Asks the keeper which sources it has.
    fn recall(&mut self, layout: &Layout, name: &str) -> Result<(), Error> {
        let asked = keeper::ask(&layout.tee(name).control(), &Request::Status, &[]);
        let status = asked.doing(|| format!("ask the tee of {name}"))?;
        let Reply::Status(status) = status else { return Ok(()) };
        let open = status.sources.iter().filter(|source| source.open);
        self.open = open.map(|source| source.name.clone()).collect();
        // Readers that nobody wants any more are found by their names.
        let told = status.readers.iter().map(|reader| {
            let nothing = sockets::Reader {
                name: reader.name.clone(),
                source: String::new(),
                to: PathBuf::new(),
                queue: 0,
                senders: false,
            };
            (reader.name.clone(), (nothing, None))
        });
        self.told = told.collect();
        Ok(())
    }

    fn save(&self, layout: &Layout, name: &str) -> Result<(), Error> {
        let record = Record { keeper: self.keeper(), places: self.places.done.clone() };
        let path = layout.tee(name).record();
        files::save(&path, &record).doing(on("write", &path))
    }

    /// Has it looked who has the sockets, and gives the tee what it is to read. What is not done after
    /// `patience` goes on while the agent does something else.
    fn look(
        &mut self,
        layout: &Layout,
        name: &str,
        at: (&Wanted, &Seat<'_>),
        errands: &mut Errands,
        patience: Duration,
    ) -> Result<(), Error> {
        let end = Instant::now() + patience;
        self.drop_stale(at.1);
        if self.errand.is_none() && self.places.errands.is_empty() && self.is_due(at.0, at.1) {
            self.looked = Some((Instant::now(), at.1.by));
            self.places.ask(at.1, at.0.paths.keys().cloned());
        }
        while let Some((errand, reply)) = self.answered(layout, errands, end)? {
            self.take(layout, name, at, (errand, reply))?;
        }
        Ok(())
    }

    /// Gives up what is under way elsewhere, since a server that has started anew is looked at at once,
    /// and what is never done.
    fn drop_stale(&mut self, seat: &Seat<'_>) {
        let is_elsewhere = |errand: &Errand| !errand.is_undoing() && !seat.is_of(errand);
        self.places.errands.retain(|errand| !is_elsewhere(errand));
        let is_stale = |(errand, _, since): &mut (Errand, Answering, Instant)| {
            is_elsewhere(errand) || since.elapsed() > LONGEST
        };
        if self.errand.take_if(is_stale).is_some() {
            (self.looked, self.is_slow) = (None, false);
        }
    }

    /// Does what is left to be undone, also of a server that is not there any more.
    fn settle(
        &mut self,
        layout: &Layout,
        errands: &mut Errands,
        patience: Duration,
    ) -> Result<(), Error> {
        let end = Instant::now() + patience;
        let next = |tee: &Self| {
            let waiting = || tee.places.errands.front();
            tee.errand.as_ref().map(|(errand, ..)| errand).or_else(waiting).cloned()
        };
        while next(self).is_some_and(|errand| errand.is_undoing()) {
            let Some((errand, reply)) = self.answered(layout, errands, end)? else { break };
            self.is_slow = false;
            told_undone(&errand, reply);
        }
        Ok(())
    }

    fn is_due(&self, wanted: &Wanted, seat: &Seat<'_>) -> bool {
        let pause = if self.is_slow { REST } else { LOOK };
        let is_recent = |(at, by): (Instant, ProcessId)| at.elapsed() < pause && by == seat.by;
        let is_known = wanted.paths.keys().all(|path| self.open.contains(&source_name(path)));
        !(is_known || self.is_slow) || !self.looked.is_some_and(is_recent)
    }

    /// The next errand that is done, with its answer, if that comes in time.
    fn answered(
        &mut self,
        layout: &Layout,
        errands: &mut Errands,
        end: Instant,
    ) -> Result<Option<(Errand, Answering)>, Error> {
        if self.errand.is_none() {
            let Some(errand) = self.places.errands.pop_front() else { return Ok(None) };
            let reply = errands.ask(layout, &errand.request(), &[])?;
            self.errand = Some((errand, reply, Instant::now()));
        }
        let left = end.saturating_duration_since(Instant::now());
        let is_there = |one: &mut (Errand, Answering, Instant)| one.1.is_there_within(left);
        if let Some((errand, reply, _)) = self.errand.take_if(is_there) {
            return Ok(Some((errand, reply)));
        }
        self.is_slow = true;
        let late = self.errand.iter().filter(|(_, _, since)| since.elapsed() >= FIRST);
        for path in late.flat_map(|(errand, ..)| errand.paths()) {
            self.places.failed(path, "the server's file system does not answer".to_owned());
        }
        Ok(None)
    }

    /// Takes in what an errand has come to.
    fn take(
        &mut self,
        layout: &Layout,
        name: &str,
        (wanted, seat): (&Wanted, &Seat<'_>),
        (errand, reply): (Errand, Answering),
    ) -> Result<(), Error> {
        if errand.is_undoing() {
            told_undone(&errand, reply);
            return Ok(());
        }
        let Some((answer, fds)) = reply.take() else {
            for path in errand.paths() {
                self.places.failed(path, "the server's file system does not answer".to_owned());
            }
            return Ok(());
        };
        self.is_slow = false;
        match (answer, errand.paths()) {
            (Answer::Looked(found), paths) => {
                let seen = paths.iter().cloned().zip(found).collect();
                for (path, kind) in &wanted.paths {
                    let is_open = self.open.contains(&source_name(path));
                    let news = self.places.follow(seat, path, *kind, is_open, &seen);
                    self.pass_on(layout, name, wanted, path, news)?;
                }
            }
            (Answer::Made { file, kind, real }, [path]) => {
                let Some(socket) = fds.into_iter().next() else { return Ok(()) };
                let news = self.places.made(&errand, path, (file, kind, real), socket);
                self.pass_on(layout, name, wanted, path, Some(news))?;
            }
            (Answer::Failed(why), paths) => {
                paths.iter().for_each(|path| self.places.failed(path, why.clone()));
            }
            _ => {}
        }
        Ok(())
    }

    /// Tells the tee what is new at a path.
    fn pass_on(
        &mut self,
        layout: &Layout,
        name: &str,
        wanted: &Wanted,
        path: &Path,
        news: Option<News>,
    ) -> Result<(), Error> {
        let Some(news) = news else { return Ok(()) };
        // Written down before the tee has it: whatever comes, it is taken away at the end.
        self.save(layout, name)?;
        match news {
            News::Source(source, fd) => {
                let source = sockets::Source { shift: wanted.shift, ..source };
                let open = source.name.clone();
                self.tell(layout, name, &Request::Source(source), &[&fd])?;
                self.open.insert(open);
            }
            News::Gone => {
                let gone = source_name(path);
                self.tell(layout, name, &Request::NoSource(gone.clone()), &[])?;
                self.open.remove(&gone);
            }
        }
        Ok(())
    }

    fn leave_unwanted(
        &mut self,
        layout: &Layout,
        name: &str,
        wanted: &Wanted,
    ) -> Result<(), Error> {
        let names: BTreeSet<String> = wanted.paths.keys().map(|path| source_name(path)).collect();
        let gone: Vec<String> =
            self.told.keys().filter(|name| !wanted.readers.contains_key(*name)).cloned().collect();
        for reader in gone {
            self.tell(layout, name, &Request::NoReader(reader.clone()), &[])?;
            self.told.remove(&reader);
        }
        let gone: Vec<String> = self.open.difference(&names).cloned().collect();
        for source in gone {
            self.tell(layout, name, &Request::NoSource(source.clone()), &[])?;
            self.places.leave(Path::new(&source));
            self.open.remove(&source);
            self.save(layout, name)?;
        }
        Ok(())
    }

    fn tell_readers(&mut self, layout: &Layout, name: &str, wanted: &Wanted) -> Result<(), Error> {
        for (reader, (setup, init)) in &wanted.readers {
            let known = self.told.get(reader);
            let is_known = known.is_some_and(|known| (&known.0, known.1) == (setup, *init));
            if is_known || !self.open.contains(&setup.source) {
                continue;
            }
            let seat = init.map(seat);
            self.tell(layout, name, &Request::Reader(setup.clone(), seat), &[])?;
            self.told.insert(reader.clone(), (setup.clone(), *init));
        }
        Ok(())
    }

    fn tell(
        &self,
        layout: &Layout,
        name: &str,
        request: &Request,
        fds: &[&OwnedFd],
    ) -> Result<(), Error> {
        let asked = self.keeper_asked(layout, name, request, fds);
        asked.map(drop).doing(|| format!("tell the tee of {name}"))
    }

    /// Asks it how it is.
    pub(crate) fn ask(&self, layout: &Layout, name: &str) {
        let reply = self.keeper_asked(layout, name, &Request::Status, &[]);
        *self.status.borrow_mut() = match reply {
            Ok(Reply::Status(status)) => Some(status),
            _ => None,
        };
    }

    /// Asks the keeper, unless it was silent just now: one that connects to a receiver waits where the
    /// server's file system does.
    fn keeper_asked(
        &self,
        layout: &Layout,
        name: &str,
        request: &Request,
        fds: &[&OwnedFd],
    ) -> io::Result<Reply> {
        if self.silent.get().is_some_and(|until| until > Instant::now()) {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it did not answer just now"));
        }
        let asked = keeper::ask(&layout.tee(name).control(), request, fds);
        let is_late = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
        };
        let is_silent = asked.as_ref().is_err_and(is_late);
        self.silent.set(is_silent.then(|| Instant::now() + SILENCE));
        asked
    }

    /// How it was when it was asked last.
    pub(crate) fn status(&self) -> TeeStatus {
        let status = self.status.borrow().clone().unwrap_or_default();
        TeeStatus {
            keeper_pid: self.keeper().map(|keeper| keeper.pid),
            pid: status.tee,
            restarts: status.restarts + self.restarts,
            problem: self.failure.now().map(str::to_owned),
            sockets: status.sources,
        }
    }

    /// How a reader was then.
    pub(crate) fn reader(&self, name: &str) -> Option<sockets::ReaderStatus> {
        let status = self.status.borrow();
        status.as_ref()?.readers.iter().find(|reader| reader.name == name).cloned()
    }

    /// Why a socket cannot be read.
    pub(crate) fn problem(&self, path: &Path) -> Option<&str> {
        self.places.problem(path).or(self.failure.now())
    }
}

/// How many datagrams a socket holds where nobody has said otherwise.
const QUEUE: u32 = 10;

/// Where the readers of a portspace listen.
fn seat(init: ProcessId) -> sockets::Seat {
    let pid = init.pid.cast_unsigned();
    let queue = netns::of_process(pid)
        .and_then(|network| netns::read_sysctl(network.as_fd(), "net/unix/max_dgram_qlen"))
        .ok()
        .and_then(|text| text.trim().parse().ok());
    let process = sockets::Process { pid, start: init.start };
    sockets::Seat { process, queue: queue.unwrap_or(QUEUE) }
}

/// The user of a server's tee, who is nobody else.
fn user(layout: &Layout, name: &str) -> Result<u32, Error> {
    ids::held_by(&layout.state.join("portspaces/.agent/tees").join(name))
}

/// Ends a server's tee, and leaves its sockets as they were.
pub(crate) fn remove(layout: &Layout, name: &str) -> Result<(), Error> {
    let dir: TeeDir = layout.tee(name);
    let record: Record = files::load(&dir.record()).unwrap_or_default();
    let mut errors = Vec::new();
    errors.extend(undo(layout, &record.places).err());
    if let Some(keeper) = record.keeper.and_then(ProcessId::open) {
        let _ = keeper::ask(&dir.control(), &Request::Stop, &[]);
        if !keeper.has_ended_within(PAUSE) {
            keeper.kill();
        }
    }
    errors.extend(files::remove(&dir.0).doing(on("remove", &dir.0)).err());
    all_or_first(errors)
}

/// Tells why something was not undone. A server that is gone took its tree along.
fn told_undone(errand: &Errand, reply: Answering) {
    if let Some((Answer::Failed(why), _)) = reply.take() {
        for path in errand.paths() {
            eprintln!("leave {} as it was: {why}", path.display());
        }
    }
}

/// Leaves sockets as they were. What a server's file system does not answer in time is left.
fn undo(layout: &Layout, places: &BTreeMap<PathBuf, Place>) -> Result<(), Error> {
    let mut errands = Errands::default();
    let due: Vec<Errand> = places.iter().filter_map(|(path, place)| place.undo(path)).collect();
    let mut errors = Vec::new();
    for errand in due {
        let path = errand.paths().iter().map(|path| path.display().to_string()).collect::<String>();
        let doing = || format!("leave {path} as it was");
        match errands.ask(layout, &errand.request(), &[]) {
            Ok(reply) if !reply.is_there_within(FIRST) => {
                errors.push(Error::new(doing(), "the server's file system does not answer"));
            }
            Ok(reply) => told_undone(&errand, reply),
            Err(error) => errors.push(error),
        }
    }
    all_or_first(errors)
}
