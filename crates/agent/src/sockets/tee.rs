//! The tee of one server: its keeper, and what that was told.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hyperspector_sys::netns;
use hyperspector_window::sockets::keeper::{self, Config};
use hyperspector_window::sockets::{self, Reply, Request, Started, Status};
use serde::{Deserialize, Serialize};

use super::places::{News, Place, Places, Seat};
use super::{Wanted, source_name};
use crate::error::{Doing, Error, all_or_first, on};
use crate::ids::Register;
use crate::layout::{Layout, TeeDir, private_dir};
use crate::process::{Process, ProcessId};
use crate::servers::Present;
use crate::space::listen;
use crate::status::TeeStatus;
use crate::{files, workers};

/// How often is looked who has a socket.
const LOOK: Duration = Duration::from_millis(500);
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
    failure: Option<String>,
    /// Before then, no keeper is started.
    due: Option<Instant>,
    /// When the paths were looked at last, and through which process.
    looked: Option<(Instant, ProcessId)>,
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
    ) {
        let result = self.ensure_keeper(layout, name).and_then(|()| {
            if let Some(present) = present {
                let members = || {
                    let all = present.members().into_iter();
                    all.map(i32::cast_unsigned).collect()
                };
                let seat = Seat::of(present, &members);
                self.look(layout, name, wanted, &seat)?;
            }
            self.leave_unwanted(layout, name, wanted)?;
            self.tell_readers(layout, name, wanted)
        });
        self.noted(result);
    }

    /// Puts sockets in their places in a server space whose command does not run yet.
    pub(crate) fn place_first(&mut self, layout: &Layout, name: &str, wanted: &Wanted, init: i32) {
        let result = self.ensure_keeper(layout, name).and_then(|()| {
            let by = ProcessId::of(init).doing(|| format!("look at the init of {name}"))?;
            let members = Vec::new;
            let seat = Seat { by, tree: Path::new("/"), members: &members, is_new: true };
            self.look(layout, name, wanted, &seat)?;
            self.tell_readers(layout, name, wanted)
        });
        self.noted(result);
    }

    /// Tells a failure once.
    fn noted(&mut self, result: Result<(), Error>) {
        let failure = result.err().map(|error| error.to_string());
        if let Some(failure) = failure.as_ref().filter(|_| self.failure != failure) {
            eprintln!("{failure}");
        }
        self.failure = failure;
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

    /// Looks who has the sockets, and gives the tee what it is to read.
    fn look(
        &mut self,
        layout: &Layout,
        name: &str,
        wanted: &Wanted,
        seat: &Seat<'_>,
    ) -> Result<(), Error> {
        let is_recent = |(at, by): (Instant, ProcessId)| at.elapsed() < LOOK && by == seat.by;
        let is_known = wanted.paths.keys().all(|path| self.open.contains(&source_name(path)));
        if is_known && self.looked.is_some_and(is_recent) {
            return Ok(());
        }
        self.looked = Some((Instant::now(), seat.by));
        for (path, kind) in &wanted.paths {
            let is_open = self.open.contains(&source_name(path));
            let news = self.places.follow(seat, path, *kind, is_open);
            // Written down before the tee has it: whatever comes, it is taken away at the end.
            if news.is_some() {
                self.save(layout, name)?;
            }
            let (source, fd) = match news {
                Some(News::Source(source, fd)) => (source, fd),
                Some(News::Gone) => {
                    let gone = source_name(path);
                    self.tell(layout, name, &Request::NoSource(gone.clone()), &[])?;
                    self.open.remove(&gone);
                    continue;
                }
                None => continue,
            };
            let source = sockets::Source { shift: wanted.shift, ..source };
            let open = source.name.clone();
            self.tell(layout, name, &Request::Source(source), &[&fd])?;
            self.open.insert(open);
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
        fds: &[&std::os::fd::OwnedFd],
    ) -> Result<(), Error> {
        let asked = keeper::ask(&layout.tee(name).control(), request, fds);
        asked.map(drop).doing(|| format!("tell the tee of {name}"))
    }

    /// Asks it how it is.
    pub(crate) fn ask(&self, layout: &Layout, name: &str) {
        let reply = keeper::ask(&layout.tee(name).control(), &Request::Status, &[]);
        *self.status.borrow_mut() = match reply {
            Ok(Reply::Status(status)) => Some(status),
            _ => None,
        };
    }

    /// How it was when it was asked last.
    pub(crate) fn status(&self) -> TeeStatus {
        let status = self.status.borrow().clone().unwrap_or_default();
        TeeStatus {
            keeper_pid: self.keeper().map(|keeper| keeper.pid),
            pid: status.tee,
            restarts: status.restarts + self.restarts,
            problem: self.failure.clone(),
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
        self.places.problems.get(path).or(self.failure.as_ref()).map(String::as_str)
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
    let holder = layout.state.join("portspaces/.agent/tees").join(name);
    private_dir(&holder).doing(on("make", &holder))?;
    Register::default().range(&holder)
}

/// Ends a server's tee, and leaves its sockets as they were.
pub(crate) fn remove(layout: &Layout, name: &str) -> Result<(), Error> {
    let dir: TeeDir = layout.tee(name);
    let record: Record = files::load(&dir.record()).unwrap_or_default();
    for (path, place) in &record.places {
        place.undo(path);
    }
    let mut errors = Vec::new();
    if let Some(keeper) = record.keeper.and_then(ProcessId::open) {
        let _ = keeper::ask(&dir.control(), &Request::Stop, &[]);
        if !keeper.has_ended_within(PAUSE) {
            keeper.kill();
        }
    }
    errors.extend(files::remove(&dir.0).doing(on("remove", &dir.0)).err());
    all_or_first(errors)
}
