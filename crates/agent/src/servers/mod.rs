//! The servers of this host: which processes each is made of now, found again when it restarts.
//!
//! Nothing of a server that is not ours is changed, asked or held up: it is found by reading cgroups,
//! `/proc` and the files that container runtimes keep. No mount namespace or root of a server is kept
//! open, since that would keep its file systems in use after its end.

mod cgroups;
mod containers;
mod members;
mod pid_file;
mod present;
mod sight;
pub(crate) mod space;
mod units;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use hyperspector_spec::plan::{Adoption, ServerKind, ServerPlan};
use hyperspector_window::files::Source;

use crate::helper::Errands;
use crate::layout::Layout;
use crate::process::{Process, ProcessId};
use crate::status::{ServerSpaceStatus, ServerStatus};
pub(crate) use cgroups::Group;
pub(crate) use present::{Present, Processes};
pub(crate) use space::ServerSpace;

/// For each millisecond that looking for a server took, how many pass before it is looked for again.
const LOOKING_SHARE: u32 = 20;

/// The servers of this host, by name.
#[derive(Debug, Default)]
pub(crate) struct Servers(BTreeMap<String, Server>);

/// Which process is the init of the server space of that name, where it runs.
pub(crate) type Inits<'a> = &'a dyn Fn(&str) -> Option<ProcessId>;

/// A server.
#[derive(Debug)]
pub(crate) struct Server {
    kind: ServerKind,
    found: Result<Present, String>,
    generation: u64,
    pid_file: pid_file::Asked,
    /// Before then, it is not looked for again.
    due: Instant,
}

impl Servers {
    /// Takes over what is wanted: servers that are another kind than before are looked for anew.
    pub(crate) fn want(&mut self, plans: &[ServerPlan]) {
        let mut before = std::mem::take(&mut self.0);
        for plan in plans {
            let same = before.remove(&plan.name).filter(|server| server.kind.is_like(&plan.kind));
            let server = same.unwrap_or_else(|| Server::new(plan.kind.clone()));
            self.0.insert(plan.name.clone(), server);
        }
    }

    /// Looks for those that are not there, or not any more.
    pub(crate) fn follow(&mut self, layout: &Layout, errands: &mut Errands, inits: Inits<'_>) {
        for (name, server) in &mut self.0 {
            server.follow(name, (layout, &mut *errands), inits);
        }
    }

    /// Whether one is being looked for in a file that has not been read yet.
    pub(crate) fn are_looked_for(&self) -> bool {
        self.0.values().any(|server| server.found.is_err() && server.pid_file.is_under_way())
    }

    /// How the server of that name comes to run.
    pub(crate) fn kind(&self, name: &str) -> Option<&ServerKind> {
        self.0.get(name).map(|server| &server.kind)
    }

    /// The server of that name, where it is there.
    pub(crate) fn present(&self, name: &str) -> Option<&Present> {
        self.0.get(name)?.found.as_ref().ok()
    }

    /// What the files of the server of that name are taken from, where something of them shows.
    pub(crate) fn source(&self, name: &str) -> Option<Source> {
        self.present(name)?.source()
    }

    /// Why the server of that name is not there; `None` where it is.
    pub(crate) fn absence(&self, name: &str) -> Option<&str> {
        match self.0.get(name) {
            Some(server) => server.found.as_ref().err().map(String::as_str),
            None => Some("the plan does not name it"),
        }
    }

    /// Those of others that are not there, each with the reason.
    pub(crate) fn absent(&self) -> impl Iterator<Item = (&str, &str)> {
        let adopted = self.0.iter().filter(|(_, one)| matches!(one.kind, ServerKind::Adopted(_)));
        adopted.filter_map(|(name, one)| Some((name.as_str(), one.found.as_ref().err()?.as_str())))
    }

    /// How they are; `space` says how a server space of that name is.
    pub(crate) fn status(
        &self,
        space: impl Fn(&str) -> Option<ServerSpaceStatus>,
    ) -> Vec<ServerStatus> {
        let with_space = |(name, server): (&String, &Server)| ServerStatus {
            space: space(name),
            ..server.status(name)
        };
        self.0.iter().map(with_space).collect()
    }
}

/// Whether two kinds are found in the same way.
trait Alike {
    fn is_like(&self, other: &Self) -> bool;
}

impl Alike for ServerKind {
    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Adopted(one), Self::Adopted(other)) => one == other,
            (Self::Space(_), Self::Space(_)) => true,
            _ => false,
        }
    }
}

/// What looking for a server has found.
pub(crate) struct Found {
    leader: ProcessId,
    tree: PathBuf,
    processes: Processes,
    group: Option<Group>,
}

impl Server {
    fn new(kind: ServerKind) -> Self {
        let found = Err("it was not looked for yet".to_owned());
        let pid_file = pid_file::Asked::default();
        Self { kind, found, generation: 0, pid_file, due: Instant::now() }
    }

    fn follow(&mut self, name: &str, worker: (&Layout, &mut Errands), inits: Inits<'_>) {
        if let Ok(present) = &mut self.found
            && present.is_there()
        {
            if let Some(what) = present.look() {
                eprintln!("{name}: {what}");
            }
            return;
        }
        let start = Instant::now();
        // An answer that is to come costs nothing to look for.
        if self.found.is_err() && start < self.due && !self.pid_file.is_asked() {
            return;
        }
        self.found = self.look(name, worker, inits).and_then(|found| self.present(found));
        if let Some(why) = self.found.as_ref().ok().and_then(Present::distrust) {
            eprintln!("{name}: {why}");
        }
        self.due = Instant::now() + start.elapsed().saturating_mul(LOOKING_SHARE);
    }

    fn present(&mut self, found: Found) -> Result<Present, String> {
        let leader = found.leader.open().ok_or("it has just ended")?;
        let others = match &self.kind {
            ServerKind::Adopted(Adoption::Base | Adoption::Directory(_)) => None,
            ServerKind::Adopted(adoption) => Some(adoption),
            ServerKind::Space(_) => None,
        };
        let present = Present::new(leader, found, others, self.generation + 1)?;
        self.generation += 1;
        Ok(present)
    }

    fn status(&self, name: &str) -> ServerStatus {
        let present = self.found.as_ref().ok();
        let group = present.and_then(|present| present.group.as_ref());
        ServerStatus {
            name: name.to_owned(),
            kind: described(&self.kind),
            pid: present.filter(|one| one.has_processes()).map(|present| present.leader.id.pid),
            cgroup: group.map(|group| group.path.clone()),
            starts: self.generation,
            reason: self.found.as_ref().err().cloned(),
            distrust: present.and_then(Present::distrust).map(str::to_owned),
            facts_pid: None,
            tee: None,
            tracer: None,
            space: None,
            changes: None,
        }
    }

    fn look(
        &mut self,
        name: &str,
        worker: (&Layout, &mut Errands),
        inits: Inits<'_>,
    ) -> Result<Found, String> {
        let adoption = match &self.kind {
            ServerKind::Adopted(adoption) => adoption,
            ServerKind::Space(_) => {
                let init = inits(name).ok_or("its server space does not run")?;
                return Ok(Found::led_by(init));
            }
        };
        match adoption {
            Adoption::Base => Found::here(PathBuf::from("/"), Processes::All),
            Adoption::Directory(path) => Found::here(path.clone(), Processes::None),
            Adoption::Cgroup(path) => Found::in_group(Group::find(path)?),
            Adoption::Unit(name) => units::find(name),
            Adoption::Container(name) => containers::find(name),
            Adoption::PidFile(path) => self.pid_file.find(path, worker),
        }
    }
}

/// What a server is, for people.
pub(crate) fn described(kind: &ServerKind) -> String {
    match kind {
        ServerKind::Space(_) => "a server space".to_owned(),
        ServerKind::Adopted(Adoption::Base) => "the base system".to_owned(),
        ServerKind::Adopted(Adoption::Directory(path)) => path.display().to_string(),
        ServerKind::Adopted(Adoption::Unit(name)) => format!("unit {name}"),
        ServerKind::Adopted(Adoption::Container(name)) => format!("container {name}"),
        ServerKind::Adopted(Adoption::Cgroup(path)) => format!("cgroup {}", path.display()),
        ServerKind::Adopted(Adoption::PidFile(path)) => format!("pid file {}", path.display()),
    }
}

/// The agent itself, through whose mount namespace the base system is seen.
fn own() -> Result<ProcessId, String> {
    ProcessId::of(std::process::id().cast_signed()).map_err(|error| error.to_string())
}

impl Found {
    /// What is seen from the agent's own place.
    fn here(tree: PathBuf, processes: Processes) -> Result<Self, String> {
        Ok(Self { leader: own()?, tree, processes, group: None })
    }

    /// A server whose first process is `leader`.
    fn led_by(leader: ProcessId) -> Self {
        let group = Group::of(leader.pid);
        let tree = PathBuf::from("/");
        Self { leader, tree, processes: Processes::of(leader.pid, group.is_some()), group }
    }

    /// A server that is a cgroup.
    fn in_group(group: Group) -> Result<Self, String> {
        let leader = members::leader(&group.processes()).ok_or("it has no process")?;
        Ok(Self::in_group_of(group, leader))
    }

    /// A server that is a cgroup, led by one of its processes.
    fn in_group_of(group: Group, leader: ProcessId) -> Self {
        let processes = Processes::of(leader.pid, true);
        Self { leader, tree: PathBuf::from("/"), processes, group: Some(group) }
    }

    /// A server of which a process is known, and which has a cgroup where that process leads one.
    fn led_by_alone(leader: ProcessId) -> Self {
        let is_its = |group: &Group| members::leader(&group.processes()) == Some(leader);
        match Group::of(leader.pid).filter(is_its) {
            Some(group) => Self::in_group_of(group, leader),
            None => {
                let processes = Processes::of(leader.pid, false);
                Self { leader, tree: PathBuf::from("/"), processes, group: None }
            }
        }
    }
}
