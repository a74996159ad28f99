//! A server that is there: through which process it is seen, and which processes are its own.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use hyperspector_spec::plan::Adoption;
use hyperspector_window::files::Source;

use super::sight::{Seer, Sight};
use super::{Found, Group, Process, ProcessId, members};

/// A server that is there.
#[derive(Debug)]
pub(crate) struct Present {
    /// The process whose root and namespaces are the server's: the oldest of its own; the agent
    /// itself for the base system and for directories.
    pub(crate) leader: Process,
    /// The server's tree, as the leader sees it: `/`, but for directories.
    pub(crate) tree: PathBuf,
    /// Which processes are its own.
    pub(crate) processes: Processes,
    /// Its cgroup, where it has one of its own.
    pub(crate) group: Option<Group>,
    /// How its files are seen.
    sight: Sight,
    /// Goes up whenever it is found anew: with each restart.
    pub(crate) generation: u64,
}

/// Which processes are a server's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Processes {
    /// None: it is a directory.
    None,
    /// All of the host: it is the base system.
    All,
    /// Those of its leader's PID namespace, which is not the host's.
    Namespace,
    /// Those of its cgroup, in the host's PID namespace.
    Group,
    /// Its leader and what descends from it, in the host's PID namespace.
    Descendants,
}

impl Processes {
    /// Those of a server led by `leader`, which has a cgroup of its own or not.
    pub(super) fn of(leader: i32, has_group: bool) -> Self {
        let space = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let theirs = space(&leader.to_string());
        match has_group {
            _ if theirs.is_some() && theirs != space("self") => Self::Namespace,
            true => Self::Group,
            false => Self::Descendants,
        }
    }

    /// Their ids on the host, of a server led by `leader`.
    fn all(self, leader: i32, group: Option<&Group>) -> BTreeSet<i32> {
        match self {
            Self::None => BTreeSet::new(),
            Self::All => members::all(),
            Self::Group => group.map(Group::processes).unwrap_or_default(),
            Self::Namespace => members::of_namespace_like(leader),
            Self::Descendants => members::descendants(leader),
        }
    }
}

impl Present {
    /// What `found` is, held; `others` says whose it is, where that is not ours.
    pub(super) fn new(
        leader: Process,
        found: Found,
        others: Option<&Adoption>,
        generation: u64,
    ) -> Result<Self, String> {
        let Found { tree, processes, group, .. } = found;
        let id = leader.id;
        let sight = match others {
            None => Sight::own(id),
            Some(adoption) => {
                let is_container = matches!(adoption, Adoption::Container(_));
                Sight::of(id, is_container, || processes.all(id.pid, group.as_ref()))?
            }
        };
        Ok(Self { leader, tree, processes, group, sight, generation })
    }

    /// Looks again through whom its files are seen. Returns what is to be said of that, where it is
    /// another than before.
    pub(super) fn look(&mut self) -> Option<String> {
        let Self { leader, processes, group, sight, .. } = self;
        let before = sight.distrust.clone();
        sight.follow(leader.id, || processes.all(leader.id.pid, group.as_ref()));
        let changed = sight.distrust != before;
        changed.then(|| match &sight.distrust {
            Some(why) => why.clone(),
            None => "its files are shown as its leading process sees them again".to_owned(),
        })
    }

    /// Why its files are not shown as its leader sees them.
    pub(crate) fn distrust(&self) -> Option<&str> {
        self.sight.distrust.as_deref()
    }

    /// Through which process its files are seen; `None` where nobody of it is to be followed.
    pub(crate) fn seer(&self) -> Option<ProcessId> {
        Some(self.sight.by?.id)
    }

    /// What its files are taken from.
    pub(crate) fn source(&self) -> Option<Source> {
        let Seer { id, trust } = self.sight.by?;
        Some(Source { pid: id.pid, start: id.start, tree: self.tree.clone(), trust })
    }

    /// Whether the leader lives and is still where it was found.
    pub(super) fn is_there(&self) -> bool {
        let is_member = |group: &Group| group.holds(self.leader.id.pid);
        self.leader.is_alive() && self.group.as_ref().is_none_or(is_member)
    }

    /// Whether it is more than files.
    pub(crate) fn has_processes(&self) -> bool {
        self.processes != Processes::None
    }

    /// The leader's namespace of this kind: a name below `/proc/PID/ns`.
    ///
    /// Not to be kept open: it keeps the server's file systems in use.
    pub(crate) fn namespace(&self, kind: &str) -> io::Result<OwnedFd> {
        let opened = File::open(format!("/proc/{}/ns/{kind}", self.leader.id.pid))?;
        // Asked after opening: the number is not another process's yet.
        if self.leader.is_alive() { Ok(opened.into()) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    /// Its processes, by their ids on the host. None for a directory, all for the base system.
    pub(crate) fn members(&self) -> BTreeSet<i32> {
        self.processes.all(self.leader.id.pid, self.group.as_ref())
    }
}
