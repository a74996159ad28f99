//! The journals of what changes on servers: a worker for each server whose changes somebody watches,
//! kept at what makes up the server's tree, and shown in the portspaces that watch.

mod show;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use hyperspector_changes::journal::Limits;
use hyperspector_changes::state;
use hyperspector_spec::plan::{HostPlan, Root, ServerKind, ServerPlan};
use hyperspector_sys::channel::Channel;
use hyperspector_sys::{channel, worker};
use hyperspector_window::changes::mounts::{self, Hidden, Job, Source, Told};
use hyperspector_window::changes::overlay::Layers;
use hyperspector_window::changes::{Config, Reply, Request};

use crate::complaint::Complaint;
use crate::error::{Doing, Error, all_or_first, on};
use crate::ids::Register;
use crate::layout::{JournalDir, Layout, private_dir};
use crate::process::{Process, ProcessId};
use crate::servers::Servers;
use crate::status::ChangesStatus;
use crate::{files, helper, space, workers};

/// How often a server's mounts are looked at.
const LOOK_PERIOD: Duration = Duration::from_secs(1);
/// How long the process that hands over a server's mounts may take.
const HAND_OVER: Duration = Duration::from_secs(10);
/// How long an answer that has begun may take to end.
const REST: Duration = Duration::from_millis(200);
/// How long between two attempts at what fails.
const PAUSE: Duration = Duration::from_secs(2);
/// How long the worker may take for an answer.
const ANSWER: Duration = Duration::from_secs(1);
/// The longest mount table that is looked at, in bytes.
const LONGEST_TABLE: u64 = 4 << 20;

/// All journals of this host, by server.
#[derive(Debug, Default)]
pub(crate) struct Journals {
    all: BTreeMap<String, Journal>,
    shown: show::Shown,
}

#[derive(Debug)]
struct Journal {
    process: Option<Process>,
    /// What its worker was told last of the server's tree.
    told: Option<Tree>,
    /// The process that tells it of another one.
    handing: Option<HandOver>,
    /// The upper layers, with their places in the tree; changes go by the number.
    uppers: Vec<(PathBuf, OwnedFd)>,
    uppers_number: u64,
    looked: Instant,
    /// Before then, what failed is not tried again.
    due: Instant,
    failure: Complaint,
}

/// A process that goes through a server's tree, which can take as long as the server's file systems
/// like: nobody waits for it. It ends with this.
#[derive(Debug)]
struct HandOver {
    child: Child,
    channel: Channel,
    tree: Tree,
    since: Instant,
}

/// What a server's tree is made of, as far as the agent looks.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tree {
    source: Option<Source>,
    /// A digest of the mount table.
    table: u64,
    /// Whether its mounts are the host's own.
    is_of_host: bool,
    /// What is not told of.
    hidden: Hidden,
}

/// The servers whose changes a plan has watched.
pub(crate) fn watched(plan: &HostPlan) -> Vec<&ServerPlan> {
    let portspaces = plan.hyperspectors.iter().flat_map(|one| &one.portspaces);
    let names: Vec<&String> = portspaces.flat_map(|one| &one.windows.changes).collect();
    plan.servers.iter().filter(|server| names.contains(&&server.name)).collect()
}

impl Journals {
    /// Finds the workers that an earlier agent has started.
    pub(crate) fn adopt(layout: &Layout) -> Self {
        let mut all = BTreeMap::new();
        for name in crate::teardown::names(&layout.journals()) {
            let record = files::load::<ProcessId>(&layout.journal(&name).record());
            all.insert(name, Journal::new(record.and_then(ProcessId::open)));
        }
        Self { all, shown: show::Shown::default() }
    }

    /// The process ids of the workers.
    pub(crate) fn pids(&self) -> impl Iterator<Item = i32> {
        self.all.values().filter_map(|one| Some(one.process.as_ref()?.id.pid))
    }

    /// Ends the journals that a plan does not want any more, and begins those that are new.
    pub(crate) fn want(&mut self, layout: &Layout, servers: &Servers, plan: &HostPlan) {
        let wanted = watched(plan);
        let is_wanted = |name: &String| wanted.iter().any(|server| server.name == *name);
        let unwanted: Vec<String> =
            self.all.keys().filter(|name| !is_wanted(name)).cloned().collect();
        for name in unwanted {
            self.all.remove(&name);
            if let Err(error) = remove(layout, &name).and_then(|()| forget(layout, &name)) {
                eprintln!("end the journal of {name}: {error}");
            }
        }
        self.keep(layout, servers, plan);
    }

    /// Takes in what has been handed over, and says whether all has been.
    pub(crate) fn have_followed(&mut self) -> bool {
        for (name, journal) in &mut self.all {
            let taken = journal.take(name);
            journal.noted(name, taken);
        }
        self.all.values().all(|journal| journal.handing.is_none())
    }

    /// Starts workers again that have ended, and has them follow what their servers mount.
    pub(crate) fn keep(&mut self, layout: &Layout, servers: &Servers, plan: &HostPlan) {
        for server in watched(plan) {
            let journal = self.all.entry(server.name.clone()).or_insert_with(|| Journal::new(None));
            let kept = journal.keep(layout, servers, server);
            journal.noted(&server.name, kept);
        }
    }

    /// How the journal of a server is, where there is one.
    pub(crate) fn status(&self, layout: &Layout, server: &str) -> Option<ChangesStatus> {
        Some(self.all.get(server)?.status(&layout.journal(server)))
    }
}

impl Journal {
    fn new(process: Option<Process>) -> Self {
        let now = Instant::now();
        Self {
            process,
            told: None,
            handing: None,
            uppers: Vec::new(),
            uppers_number: 0,
            looked: now.checked_sub(LOOK_PERIOD).unwrap_or(now),
            due: now,
            failure: Complaint::default(),
        }
    }

    fn keep(
        &mut self,
        layout: &Layout,
        servers: &Servers,
        server: &ServerPlan,
    ) -> Result<(), Error> {
        if self.due > Instant::now() {
            return Ok(());
        }
        self.take(&server.name)?;
        if self.process.as_ref().is_none_or(|process| !process.is_alive()) {
            (self.told, self.handing) = (None, None);
            self.process = Some(start(layout, &server.name)?);
        }
        let source = servers.source(&server.name);
        if self.handing.as_ref().is_some_and(|handing| handing.tree.source != source) {
            self.handing = None;
        }
        if self.handing.is_some() {
            return Ok(());
        }
        let is_other = self.told.as_ref().is_none_or(|told| told.source != source);
        if !is_other && self.looked.elapsed() < LOOK_PERIOD {
            return Ok(());
        }
        self.looked = Instant::now();
        let tree = Tree::of(layout, server, source, self.told.as_ref())?;
        if self.told.as_ref() == Some(&tree) {
            self.failure.note(None);
        } else {
            self.handing = Some(HandOver::start(layout, server, tree)?);
        }
        Ok(())
    }

    /// Takes in what the process that tells the worker of another tree has come to, where it is done.
    fn take(&mut self, server: &str) -> Result<(), Error> {
        let is_over = |one: &mut HandOver| {
            one.is_there_within(Duration::ZERO) || one.since.elapsed() >= HAND_OVER
        };
        let Some(mut handing) = self.handing.take_if(is_over) else { return Ok(()) };
        self.uppers = handing.take(server)?;
        self.uppers_number += 1;
        self.told = Some(handing.tree.clone());
        self.failure.note(None);
        Ok(())
    }

    /// Tells a failure, and has what failed wait a little.
    fn noted(&mut self, server: &str, result: Result<(), Error>) {
        if let Err(error) = result {
            if let Some(text) = self.failure.note(Some(error.to_string())) {
                eprintln!("keep the journal of {server}: {text}");
            }
            self.due = Instant::now() + PAUSE;
        }
    }

    fn status(&self, dir: &JournalDir) -> ChangesStatus {
        let mut status = ChangesStatus {
            pid: self.process.as_ref().filter(|one| one.is_alive()).map(|one| one.id.pid),
            failure: self.failure.now().map(str::to_owned),
            ..ChangesStatus::default()
        };
        if let Ok((Reply::Status(found), _)) =
            channel::ask::<Reply>(&dir.socket(), &Request::Status, &[], ANSWER)
        {
            let readable = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
            status.entries = found.size.entries;
            status.bytes = found.size.bytes;
            status.head = found.size.head;
            status.gaps = found.size.gaps;
            status.last_gap = found.last_gap;
            status.events = found.events;
            status.overflows = found.overflows;
            let unwatched = found.unwatched.iter();
            status.unwatched =
                unwatched.map(|(path, why)| format!("{}: {why}", readable(path))).collect();
        }
        status
    }
}

impl Tree {
    fn of(
        layout: &Layout,
        server: &ServerPlan,
        source: Option<Source>,
        before: Option<&Self>,
    ) -> Result<Self, Error> {
        let hidden = hidden(layout, server)?;
        Ok(match (&source, before) {
            // What it shares with the host stays there while it is down, and is changed by others.
            (None, Some(before)) if before.is_of_host => Self { hidden, ..before.clone() },
            (None, _) => Self { source, table: 0, is_of_host: false, hidden },
            (Some(Source { pid, .. }), _) => {
                let mounts = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
                let pid = pid.to_string();
                let is_of_host = mounts(&pid).is_some_and(|own| Some(own) == mounts("self"));
                Self { table: table_of(&pid), is_of_host, source, hidden }
            }
        })
    }
}

/// A digest of a process's mount table.
fn table_of(process: &str) -> u64 {
    let mut text = Vec::new();
    if let Ok(file) = File::open(format!("/proc/{process}/mountinfo")) {
        let _ = file.take(LONGEST_TABLE).read_to_end(&mut text);
    }
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// What the journal does not tell of: masks, and HyperSpector's own.
fn hidden(layout: &Layout, server: &ServerPlan) -> Result<Hidden, Error> {
    let own = space::located(&space::hidden(layout));
    let own = own.doing(|| "find what must not be told of".to_owned())?;
    Ok(Hidden { masks: server.mask.clone(), own })
}

/// The overlays of a server space, as we have made them.
fn overlays(layout: &Layout, server: &ServerPlan) -> Vec<Layers> {
    let ServerKind::Space(plan) = &server.kind else { return Vec::new() };
    let layers = layout.server(&server.name).layers();
    let below = match &plan.space.root {
        Root::Base => PathBuf::from("/"),
        Root::Directory(path) => path.clone(),
    };
    let uppers = fs::read_dir(&layers).into_iter().flatten().flatten();
    let mut all: Vec<Layers> = uppers
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let place = match name.strip_prefix("upper") {
                Some("") => String::new(),
                Some(place) => place.strip_prefix('.')?.replace("%2f", "/").replace("%25", "%"),
                None => return None,
            };
            Some(Layers {
                below: vec![below.join(&place)],
                place: PathBuf::from("/").join(place),
                upper: entry.path(),
                redirects: false,
            })
        })
        .collect();
    all.sort_by(|a, b| a.place.cmp(&b.place));
    all
}

/// Starts a worker.
fn start(layout: &Layout, server: &str) -> Result<Process, Error> {
    let doing = || format!("start the journal of {server}");
    let dir = layout.journal(server);
    for path in [&dir.run, &dir.state] {
        private_dir(path).doing(on("make", path))?;
    }
    let began = began(&dir);
    let user = Register::default().range(&dir.state)?;
    let listener = space::listen(&dir.socket())?;
    let directory = File::open(&dir.state).doing(on("open", &dir.state))?;
    // Readable by all who are let in: nobody is on the host.
    rustix::fs::fchmod(&directory, rustix::fs::Mode::from_raw_mode(0o755)).doing(doing)?;
    let id = id().doing(doing)?;
    let config =
        Config { uid: user, gid: user, id, began: began.into(), limits: Limits::default() };
    let fds = [listener.as_fd(), directory.as_fd()];
    let process =
        workers::start(layout, "journal", &config, &fds).map_err(|why| Error::new(doing(), why))?;
    let saved = files::save(&dir.record(), &process.id);
    saved.doing(on("write", &dir.record())).inspect_err(|_| process.kill())?;
    Ok(process)
}

/// Why a journal begins.
fn began(dir: &JournalDir) -> &'static str {
    if dir.record().exists() {
        "its worker had ended"
    } else if dir.state.join(state::NAME).exists() {
        "HyperSpector or the machine was started again"
    } else {
        "it was not kept before"
    }
}

/// An id that no journal has had.
fn id() -> std::io::Result<String> {
    let mut bytes = [0_u8; 12];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

impl HandOver {
    /// Has the worker watch what makes up the server's tree.
    fn start(layout: &Layout, server: &ServerPlan, tree: Tree) -> Result<Self, Error> {
        let job = Job {
            journal: layout.journal(&server.name).socket(),
            source: tree.source.clone(),
            overlays: overlays(layout, server),
            hidden: tree.hidden.clone(),
        };
        let place = workers::place(layout);
        let (child, channel) =
            worker::spawn_placed(mounts::KIND, &job, &[], Stdio::inherit(), place)
                .doing(|| format!("have the changes of {} watched", server.name))?;
        Ok(Self { child, channel, tree, since: Instant::now() })
    }

    /// Whether it is done.
    fn is_there_within(&self, limit: Duration) -> bool {
        helper::is_there_within(&self.channel, limit)
    }

    /// The upper layers, with their places in the tree.
    fn take(&mut self, server: &str) -> Result<Vec<(PathBuf, OwnedFd)>, Error> {
        let doing = || format!("have the changes of {server} watched");
        if !self.is_there_within(Duration::ZERO) {
            return Err(Error::new(doing(), "a file system of the server does not answer"));
        }
        match self.channel.receive_within(REST).doing(doing)? {
            Some((Told::Done(places), fds)) => Ok(places.into_iter().zip(fds).collect()),
            Some((Told::Failed(why), _)) => Err(Error::new(doing(), why)),
            None => Err(Error::new(doing(), "the process that does it ended without a word")),
        }
    }
}

impl Drop for HandOver {
    /// Ends the process. The agent's supervisor takes in how it ended, whenever that is.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.try_wait();
    }
}

/// Ends the worker of a server's journal.
fn remove(layout: &Layout, server: &str) -> Result<(), Error> {
    let dir = layout.journal(server);
    workers::end(files::load(&dir.record()), &dir.run)
}

/// Removes what lasts of a server's journal.
fn forget(layout: &Layout, server: &str) -> Result<(), Error> {
    let path = layout.journal(server).state;
    files::remove(&path).doing(on("remove", &path))?;
    Register::default().release_below(&path)
}

/// Ends all workers.
pub(crate) fn remove_all(layout: &Layout) -> Result<(), Error> {
    let names = crate::teardown::names(&layout.journals());
    let errors = names.iter().filter_map(|name| remove(layout, name).err());
    let mut errors: Vec<Error> = errors.collect();
    let path = layout.journals();
    errors.extend(files::remove(&path).doing(on("remove", &path)).err());
    all_or_first(errors)
}
