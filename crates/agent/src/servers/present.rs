//! A server that is there: through which process it is seen, and which processes are its own.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use super::{Found, Group, Process, members};

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
}

impl Present {
    pub(super) fn new(leader: Process, found: Found, generation: u64) -> Self {
        let Found { tree, processes, group, .. } = found;
        Self { leader, tree, processes, group, generation }
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
        match self.processes {
            Processes::None => BTreeSet::new(),
            Processes::All => members::all(),
            Processes::Group => self.group.as_ref().map(Group::processes).unwrap_or_default(),
            Processes::Namespace => members::of_namespace_like(self.leader.id.pid),
            Processes::Descendants => members::descendants(self.leader.id.pid),
        }
    }
}
