//! The file windows of portspaces: kept equal to what the servers themselves see, from before a
//! portspace's command first runs.
//!
//! The agent looks at what the kernel says of mounts, and opens no file of any server: the worker of
//! [`hyperspector_window::files`] does, in processes that end. When a server is found anew, or its
//! mount table or the portspace's is another than when its view was made, the view is made again.

mod print;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hyperspector_space::root::{BLANK, VIEWS};
use hyperspector_spec::plan::{Adoption, FileWindow, Ids, PortspacePlan, ServerKind};
use hyperspector_window::files::worker::{Answer, Request, Views as Kind};
use hyperspector_window::files::{Glance, Job, Told};

use crate::apply::Agent;
use crate::build::Portspace;
use crate::complaint::Complaint;
use crate::error::{Doing, Error};
use crate::helper::{self, Viewer};
use crate::layout::Layout;
use crate::process::Process;
use crate::servers::space::first_id;
use crate::servers::{Present, Servers};
use crate::space;
use crate::status::ViewStatus;
pub(crate) use print::Prints;

/// What a view is answered by.
type Reply = helper::Reply<Kind>;

/// How long views may take before a portspace's command runs without them.
pub(crate) const FIRST_PATIENCE: Duration = Duration::from_secs(12);
/// How often a view is looked at for what no mount table shows.
const GLANCE_PERIOD: Duration = Duration::from_millis(200);
/// How long to wait before a view is made again whose server keeps changing its mounts, for each
/// millisecond that making it took.
const MAKING_SHARE: u32 = 10;
/// The shortest and the longest pause before a view that could not be made is tried again.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];

/// The views of one portspace.
#[derive(Debug, Default)]
pub(crate) struct Views(Vec<View>);

/// What making views takes from around it.
pub(crate) struct Around<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) servers: &'a Servers,
    pub(crate) prints: &'a mut Prints,
    pub(crate) viewer: &'a mut Viewer,
    /// HyperSpector's own directories.
    pub(crate) own: Vec<PathBuf>,
}

/// A portspace whose views are made.
#[derive(Clone, Copy)]
struct Home<'a> {
    plan: &'a PortspacePlan,
    init: &'a Process,
}

#[derive(Debug)]
struct View {
    window: FileWindow,
    /// Whether its server is a directory, which can be exchanged for another one of the same name.
    is_directory: bool,
    /// What it was made from, and the portspace's mounts of it then.
    made: Option<(Basis, u64)>,
    /// How it is; the reason where it is empty.
    told: Result<Told, String>,
    complaint: Complaint,
    making: Option<Making>,
    glancing: Option<Reply>,
    glanced: Instant,
    /// Before then, it is not made again.
    due: Instant,
    /// The pause after the last failure.
    pause: Duration,
}

/// A view that is being made.
#[derive(Debug)]
struct Making {
    reply: Reply,
    from: Basis,
    since: Instant,
}

/// What a view is made from: the server, and HyperSpector's own directories, which must not show.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Basis {
    server: print::Print,
    own: Vec<PathBuf>,
}

impl Agent {
    /// Makes views again that are not what servers show any more.
    pub(crate) fn follow_views(&mut self) {
        let mut around = Around {
            layout: &self.layout,
            servers: &self.servers,
            prints: &mut self.prints,
            viewer: &mut self.viewer,
            own: space::hidden(&self.layout),
        };
        let all = self.hyperspectors.values_mut().flat_map(|one| one.portspaces.values_mut());
        for Portspace { record, init, views, .. } in all.filter(|one| one.init.is_alive()) {
            views.follow(Home { plan: &record.plan, init }, &mut around);
        }
    }
}

impl Views {
    /// Those of `plan`, not made yet, or made by another agent.
    pub(crate) fn new(plan: &PortspacePlan, servers: &Servers) -> Self {
        let view = |window: &FileWindow| View {
            window: window.clone(),
            is_directory: matches!(
                servers.kind(&window.server),
                Some(ServerKind::Adopted(Adoption::Directory(_)))
            ),
            made: None,
            told: Err("it was not made yet".to_owned()),
            complaint: Complaint::default(),
            making: None,
            glancing: None,
            glanced: Instant::now(),
            due: Instant::now(),
            pause: PAUSES[0],
        };
        Self(plan.windows.files.iter().map(view).collect())
    }

    /// Begins to make all of them for the first time, in a portspace that is built and whose command does
    /// not run.
    pub(crate) fn begin(
        &mut self,
        plan: &PortspacePlan,
        init: &Process,
        around: &mut Around<'_>,
    ) -> Result<(), Error> {
        if self.0.is_empty() {
            return Ok(());
        }
        let viewer = around.viewer.start(around.layout);
        viewer.doing(|| format!("make the views of {}", plan.name))?;
        self.follow(Home { plan, init }, around);
        Ok(())
    }

    /// Whether none of them is being made, see [`Self::begin`]. What takes too long is taken in later: no
    /// server keeps an IDS from starting.
    pub(crate) fn are_made(&mut self, plan: &PortspacePlan, init: &Process) -> bool {
        for view in &mut self.0 {
            if view
                .making
                .as_ref()
                .is_some_and(|making| making.reply.is_there_within(Duration::ZERO))
            {
                view.take(Home { plan, init });
            }
        }
        self.0.iter().all(|view| view.making.is_none())
    }

    fn follow(&mut self, home: Home<'_>, around: &mut Around<'_>) {
        if self.0.is_empty() {
            return;
        }
        let tables = print::of_views(home.init.id.pid);
        for view in &mut self.0 {
            view.follow(home, &tables, around);
        }
    }

    /// How they are.
    pub(crate) fn status(&self, servers: &Servers) -> BTreeMap<String, ViewStatus> {
        let status = |view: &View| (view.window.server.clone(), view.status(servers));
        self.0.iter().map(status).collect()
    }
}

impl View {
    fn follow(&mut self, home: Home<'_>, tables: &print::Tables, around: &mut Around<'_>) {
        if let Some(making) = &self.making {
            if !making.reply.is_there_within(Duration::ZERO) {
                return;
            }
            self.take(home);
            return;
        }
        let now = Instant::now();
        self.take_glance(now);
        let server = around.prints.of(&self.window.server, around.servers);
        let from = Basis { server, own: around.own.clone() };
        let table = tables.of(&self.window.server);
        let is_changed = match &self.made {
            None => true,
            Some((made, mounts)) => {
                let is_other_server = !made.server.is_of_same(&from.server);
                // A server that is another one, or down, is not waited with.
                if is_other_server {
                    self.due = now;
                }
                is_other_server || *made != from || *mounts != table
            }
        };
        let is_failed = self.told.as_ref().map_or(true, |told| told.is_unsettled);
        let is_failed = is_failed && around.servers.present(&self.window.server).is_some();
        if (is_changed || is_failed) && self.due <= now {
            self.make(home, from, around);
        } else if !is_changed && self.glanced.elapsed() >= GLANCE_PERIOD {
            self.glance(home, around);
        }
    }

    /// Has the view made as it should be.
    fn make(&mut self, home: Home<'_>, from: Basis, around: &mut Around<'_>) {
        let asked = self.job(around).and_then(|job| {
            let fds = home.spaces()?;
            let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            around.viewer.ask(around.layout, &Request::View(Box::new(job)), &fds)
        });
        match asked {
            Ok(reply) => self.making = Some(Making { reply, from, since: Instant::now() }),
            Err(error) => {
                self.told = Err(error.to_string());
                self.postpone();
            }
        }
    }

    fn job(&self, around: &Around<'_>) -> Result<Job, Error> {
        let server = &self.window.server;
        Ok(Job {
            place: place(server),
            source: around.servers.source(server),
            mask: self.window.mask.clone(),
            first_id: self.first_id(around),
            hide: space::located(&around.own).doing(|| "find what must not show".into())?,
            blank: BLANK.into(),
        })
    }

    fn first_id(&self, around: &Around<'_>) -> Option<u32> {
        let server = &self.window.server;
        let Some(ServerKind::Space(plan)) = around.servers.kind(server) else { return None };
        first_id(&around.layout.server(server), plan)
    }

    /// Takes in how the view was made.
    fn take(&mut self, home: Home<'_>) {
        let Some(making) = self.making.take() else { return };
        let (told, took) = match making.reply.take() {
            Some((Answer::View(told, took), _)) => (told, Duration::from_millis(took)),
            _ => (Err("it took too long to make".to_owned()), Duration::ZERO),
        };
        self.told = told;
        let server = &self.window.server;
        if let Some(reason) = self.complaint.note(self.told.as_ref().err().cloned()) {
            eprintln!("{}: the view of {server} is empty: {reason}", home.plan.name);
        }
        self.made = Some((making.from, print::of_views(home.init.id.pid).of(server)));
        self.glanced = Instant::now();
        if self.told.as_ref().is_ok_and(|told| !told.is_unsettled) {
            self.pause = PAUSES[0];
            self.due = Instant::now() + took.saturating_mul(MAKING_SHARE).min(PAUSES[1]);
        } else {
            self.postpone();
        }
    }

    fn postpone(&mut self) {
        self.due = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(PAUSES[1]);
    }

    /// Asks for what no mount table shows.
    fn glance(&mut self, home: Home<'_>, around: &mut Around<'_>) {
        let (Ok(told), None) = (&self.told, &self.glancing) else { return };
        let source = around.servers.source(&self.window.server);
        let glance = Glance {
            place: place(&self.window.server),
            absent: told.absent.clone(),
            source: source.filter(|_| self.is_directory),
        };
        if glance.absent.is_empty() && glance.source.is_none() {
            return;
        }
        let request = Request::Look(Box::new(glance));
        let asked =
            home.mounts().and_then(|fd| around.viewer.ask(around.layout, &request, &[fd.as_fd()]));
        self.glancing = asked.ok();
        self.glanced = Instant::now();
    }

    fn take_glance(&mut self, now: Instant) {
        let is_there = |reply: &mut Reply| reply.is_there_within(Duration::ZERO);
        let Some(reply) = self.glancing.take_if(is_there) else { return };
        if matches!(reply.take(), Some((Answer::Look(true), _))) {
            self.made = None;
            self.due = self.due.min(now);
        }
    }

    fn status(&self, servers: &Servers) -> ViewStatus {
        let present = servers.present(&self.window.server);
        let reason = match (&self.told, servers.absence(&self.window.server)) {
            (_, Some(why)) => Some(format!("it is down: {why}")),
            (Err(why), None) => Some(why.clone()),
            (Ok(_), None) if servers.source(&self.window.server).is_some() => None,
            (Ok(_), None) => present.and_then(Present::distrust).map(str::to_owned),
        };
        let mut told = self.told.clone().unwrap_or_default();
        if self.making.as_ref().is_some_and(|making| making.since.elapsed() > FIRST_PATIENCE) {
            told.notes
                .push("it is not followed: a file system of the server does not answer".into());
        }
        let Told { shown, pseudo, notes, .. } = told;
        let distrust = present.and_then(Present::distrust).filter(|_| reason.is_none());
        let notes = distrust.map(str::to_owned).into_iter().chain(notes).collect();
        ViewStatus { shown, pseudo, notes, empty: reason }
    }
}

impl Home<'_> {
    fn mounts(&self) -> Result<OwnedFd, Error> {
        self.namespace("mnt")
    }

    /// The descriptors that go with a job.
    fn spaces(&self) -> Result<Vec<OwnedFd>, Error> {
        let mut fds = vec![self.mounts()?];
        if self.plan.space.ids == Ids::Private {
            fds.push(self.namespace("user")?);
        }
        Ok(fds)
    }

    fn namespace(&self, kind: &str) -> Result<OwnedFd, Error> {
        let opened = File::open(format!("/proc/{}/ns/{kind}", self.init.id.pid));
        let opened = opened.doing(|| format!("enter {}", self.plan.name))?;
        if self.init.is_alive() {
            return Ok(opened.into());
        }
        Err(Error::new(format!("enter {}", self.plan.name), "its init has ended"))
    }
}

/// Where a server's view is, from the portspace's root.
fn place(server: &str) -> PathBuf {
    Path::new(VIEWS).join(server)
}
