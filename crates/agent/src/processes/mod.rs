//! The processes windows: which portspace sees which server's processes, kept as the servers are.
//!
//! What a portspace has of a server is made anew when the server restarts, and is empty while it is
//! down. The facts worker of a server is one for all portspaces that see it.

mod facts;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use hyperspector_spec::plan::PortspacePlan;
use hyperspector_sys::pidfd;
use hyperspector_window::processes::members::{self, Members};
use hyperspector_window::processes::{procfs, view};
use serde::{Deserialize, Serialize};

use crate::apply::Agent;
use crate::build::Portspace;
use crate::complaint::Complaint;
use crate::error::{Doing, Error};
use crate::files;
use crate::layout::Layout;
use crate::making::Making;
use crate::process::{Process, ProcessId};
use crate::servers::{Present, Processes, Servers};
use crate::workers;
pub(crate) use facts::{Facts, remove};

/// How long after a failure it is tried again.
const PAUSE: Duration = Duration::from_secs(1);
/// How often it is made sure that no number has come to mean another process.
const START_TIMES: Duration = Duration::from_secs(5);
/// For each part of the time that looking for processes takes, how many pass before the next time.
const LOOKING_SHARE: u32 = 20;

/// What shows of a server's processes, as it is written down: made again, it would be the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shown {
    /// All of the host.
    All,
    /// Those of the PID namespace of this process.
    Namespace(ProcessId),
}

/// The processes windows of one portspace, by server.
#[derive(Debug, Default)]
pub(crate) struct Windows(BTreeMap<String, Window>);

/// A portspace's window on the processes of one server.
#[derive(Debug, Default)]
struct Window {
    shown: Option<Shown>,
    members: Option<Members>,
    /// How many processes are too many to show.
    left_out: usize,
    failure: Complaint,
    /// Before then, nothing is tried again.
    due: Option<Instant>,
}

impl Windows {
    /// Lays out the windows of a portspace that is built and does not run yet, and shows what is
    /// there.
    pub(crate) fn open(
        layout: &Layout,
        servers: &Servers,
        plan: &PortspacePlan,
        init: i32,
    ) -> Result<Self, Error> {
        let names = &plan.windows.processes;
        if names.is_empty() {
            return Ok(Self::default());
        }
        let doing = || format!("show {} the processes of {}", plan.name, names.join(", "));
        let mounts = mounts_of(init).doing(doing)?;
        view::lay_out(mounts.as_fd(), names).doing(doing)?;
        let mut windows = Self::default();
        for name in names {
            view::show_facts(mounts.as_fd(), name, &layout.facts(name).out()).doing(doing)?;
            let mut window = Window::default();
            let now = servers.present(name).map(|present| now(present, &BTreeMap::new()));
            window.follow(layout, init, name, servers.present(name), now.as_ref()).doing(doing)?;
            windows.0.insert(name.clone(), window);
        }
        Ok(windows)
    }

    /// Those of a portspace that an earlier agent has made.
    pub(crate) fn adopt(plan: &PortspacePlan, shown: &BTreeMap<String, Shown>) -> Self {
        let window = |name: &String| {
            let shown = shown.get(name).copied();
            (name.clone(), Window { shown, ..Window::default() })
        };
        Self(plan.windows.processes.iter().map(window).collect())
    }

    /// What shows, to be written down.
    pub(crate) fn shown(&self) -> BTreeMap<String, Shown> {
        self.0.iter().filter_map(|(name, window)| Some((name.clone(), window.shown?))).collect()
    }

    /// What is seen, for people.
    pub(crate) fn describe(
        &self,
        layout: &Layout,
        servers: &Servers,
        facts: &BTreeMap<String, Facts>,
    ) -> Vec<String> {
        let silence = |name: &String| facts.get(name)?.silence(layout, name);
        let describe =
            |(name, window): (&String, &Window)| window.describe(name, servers, silence(name));
        self.0.iter().map(describe).collect()
    }
}

impl Window {
    /// Shows what is there now, where that is not what shows.
    fn follow(
        &mut self,
        layout: &Layout,
        init: i32,
        name: &str,
        present: Option<&Present>,
        now: Option<&members::Processes>,
    ) -> io::Result<()> {
        let wanted = present.and_then(shown);
        if let (Some(_), None, Some(now)) = (present, wanted, now) {
            return self.follow_members(init, name, now);
        }
        if self.members.is_none() && self.shown == wanted {
            return Ok(());
        }
        let mounts = mounts_of(init)?;
        (self.shown, self.members, self.left_out) = (None, None, 0);
        match (present, wanted) {
            (Some(present), Some(_)) => {
                let namespace = present.namespace("pid")?;
                let start = procfs::Start::default();
                let tree = procfs::make(namespace.as_fd(), start, workers::place(layout))?;
                view::show(mounts.as_fd(), name, tree.as_fd())?;
            }
            _ => view::clear(mounts.as_fd(), name)?,
        }
        self.shown = wanted;
        Ok(())
    }

    /// Shows these processes one by one.
    fn follow_members(
        &mut self,
        init: i32,
        name: &str,
        now: &members::Processes,
    ) -> io::Result<()> {
        let mounts = mounts_of(init)?;
        self.shown = None;
        let members = match &mut self.members {
            Some(members) => members,
            None => self.members.insert(Members::show(mounts.as_fd(), name)?),
        };
        self.left_out = members.follow(mounts.as_fd(), name, now)?;
        Ok(())
    }

    /// As [`Self::follow`], with a pause after a failure, which is told once.
    fn keep(
        &mut self,
        layout: &Layout,
        portspace: (&str, &Process),
        name: &str,
        present: Option<&Present>,
        now: Option<&members::Processes>,
    ) {
        if self.due.is_some_and(|due| due > Instant::now()) {
            return;
        }
        let (viewer, init) = portspace;
        let result = self.follow(layout, init.id.pid, name, present, now);
        self.due = result.is_err().then(|| Instant::now() + PAUSE);
        if let Some(why) = self.failure.note(result.err().map(|error| error.to_string())) {
            eprintln!("show {viewer} the processes of {name}: {why}");
        }
    }

    fn describe(&self, name: &str, servers: &Servers, silence: Option<Duration>) -> String {
        let mut words = vec![name.to_owned()];
        words.extend(servers.absence(name).map(|why| format!("(none: {why})")));
        words.extend(self.failure.now().map(|why| format!("(not shown: {why})")));
        if self.left_out > 0 {
            words.push(format!("({} too many to show)", self.left_out));
        }
        words.extend(silence.map(|age| {
            format!(
                "(facts are {} s old: a process or file of the server cannot be read)",
                age.as_secs()
            )
        }));
        words.join(" ")
    }
}

/// What is shown of a server that is there by one procfs; `None` where it is shown one by one, or
/// not at all.
fn shown(present: &Present) -> Option<Shown> {
    match present.processes {
        Processes::All => Some(Shown::All),
        Processes::Namespace => Some(Shown::Namespace(present.leader.id)),
        Processes::Group | Processes::Descendants | Processes::None => None,
    }
}

fn mounts_of(init: i32) -> io::Result<File> {
    File::open(format!("/proc/{init}/ns/mnt"))
}

/// The processes of a server that are shown one by one; those that are known already are taken to be
/// the same.
fn now(present: &Present, known: &members::Processes) -> members::Processes {
    if !matches!(present.processes, Processes::Group | Processes::Descendants) {
        return members::Processes::new();
    }
    let process = |pid: i32| {
        let pid = u32::try_from(pid).ok()?;
        let start = known.get(&pid).copied().map(Ok).or_else(|| pidfd::start_time(pid).transpose());
        Some((pid, start?.ok()?))
    };
    present.members().into_iter().filter_map(process).collect()
}

/// The processes of a server, as they were when they were looked for last.
#[derive(Debug, Default)]
pub(crate) struct Listed {
    processes: members::Processes,
    /// Before then, they are not looked for again.
    due: Option<Instant>,
    /// When all start times were asked for last.
    asked: Option<Instant>,
}

impl Listed {
    fn refresh(&mut self, present: &Present) {
        let start = Instant::now();
        if self.due.is_some_and(|due| due > start) {
            return;
        }
        let is_due = self.asked.is_none_or(|asked| asked.elapsed() > START_TIMES);
        let nothing = members::Processes::new();
        self.processes = now(present, if is_due { &nothing } else { &self.processes });
        if is_due {
            self.asked = Some(start);
        }
        self.due = Some(Instant::now() + start.elapsed().saturating_mul(LOOKING_SHARE));
    }
}

impl Agent {
    /// Starts what a portspace's windows on processes need.
    pub(crate) fn need_facts(&mut self, plan: &PortspacePlan) -> Result<(), Error> {
        for name in &plan.windows.processes {
            let facts = self.facts.entry(name.clone()).or_default();
            facts.ensure(&self.layout, name, self.servers.present(name))?;
        }
        Ok(())
    }

    /// Whether all of that is there.
    pub(crate) fn has_facts(&self, plan: &PortspacePlan) -> bool {
        plan.windows.processes.iter().all(|name| {
            self.facts.get(name).is_none_or(|facts| facts.are_there(&self.layout, name))
        })
    }

    /// Has every window on processes show what is there now.
    pub(crate) fn follow_processes(&mut self) {
        self.follow_facts();
        let Self { hyperspectors, servers, listed, layout, .. } = self;
        listed.retain(|name, _| self.facts.contains_key(name));
        let all = hyperspectors.values_mut().flat_map(|one| one.portspaces.values_mut());
        let mut fresh = BTreeSet::new();
        for portspace in all.filter(|one| one.init.is_alive()) {
            let Portspace { record, init, processes, .. } = portspace;
            let viewer = record.plan.name.to_string();
            for (name, window) in &mut processes.0 {
                let present = servers.present(name);
                let listed = listed.entry(name.clone()).or_default();
                if let Some(present) = present.filter(|_| fresh.insert(name.clone())) {
                    listed.refresh(present);
                }
                let now = present.map(|_| &listed.processes);
                window.keep(layout, (&viewer, init), name, present, now);
            }
            let shown = processes.shown();
            if record.processes != shown {
                record.processes = shown;
                let _ = files::save(&layout.portspace(&record.plan.name).record(), record);
            }
        }
    }

    /// Starts, replaces and ends facts workers.
    fn follow_facts(&mut self) {
        let living = self.hyperspectors.values().flat_map(|one| one.portspaces.values());
        let living = living.map(|portspace| &portspace.record.plan);
        let all = living.chain(self.making.values().filter_map(Making::portspace));
        let wanted: BTreeSet<&String> = all.flat_map(|plan| &plan.windows.processes).collect();
        let unwanted: Vec<String> =
            self.facts.keys().filter(|name| !wanted.contains(name)).cloned().collect();
        for name in &unwanted {
            self.facts.remove(name);
            if let Err(error) = remove(&self.layout, name) {
                eprintln!("{error}");
            }
        }
        for name in wanted {
            let facts = self.facts.entry(name.clone()).or_default();
            if let Err(error) = facts.ensure(&self.layout, name, self.servers.present(name)) {
                eprintln!("{error}");
            }
        }
    }
}
