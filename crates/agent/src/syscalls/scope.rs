//! Whose calls a server's tracer records.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use hyperspector_space::cgroup::Cgroups;
use hyperspector_window::syscalls::Scope;
use serde::{Deserialize, Serialize};

use crate::layout::Layout;
use crate::process::ProcessId;
use crate::servers::{Group, Present, Processes};

/// What is traced: told again, it would be the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Subject {
    /// The process that leads the server.
    pub(super) leader: ProcessId,
    /// The cgroup that all of it is in; `None` where it is found by its processes.
    group: Option<u64>,
    /// One whose processes are not recorded.
    but: Option<u64>,
    /// The inode number of its PID namespace, where that is not the agent's.
    space: Option<u32>,
    /// A process that is not recorded.
    agent: Option<u32>,
}

/// The inode number of the initial PID namespace (PROC_PID_INIT_INO).
const INITIAL: u64 = 0xeffffffc;

/// Nanoseconds of a clock tick, for what the kernel tells programs (USER_HZ).
const TICK: u64 = 10_000_000;

impl Subject {
    /// Of a server that is there.
    ///
    /// # Errors
    /// Why it cannot be told from other processes.
    pub(super) fn of(
        layout: &Layout,
        cgroups: &Cgroups,
        present: &Present,
    ) -> Result<Self, String> {
        let leader = present.leader.id;
        if present.processes == Processes::All {
            let root = cgroups.v2_root().ok_or("there is no cgroup v2 hierarchy")?;
            let group = id(root).ok_or("the cgroup v2 hierarchy cannot be looked at")?;
            // Of this machine's agents, all.
            let own = layout.cgroup_base().parent().map(|own| root.join(own));
            let but = own.as_deref().and_then(id);
            // The agent leads the base system: another one makes no other server of it.
            let leader = ProcessId { pid: 0, start: 0 };
            // It need not be in a group of its own.
            let is_first = space("self") == Some(INITIAL);
            let agent = is_first.then(std::process::id);
            return Ok(Self { leader, group: Some(group), but, space: None, agent });
        }
        let group = present.group.as_ref().and_then(|group| id(group.v2.as_deref()?));
        Ok(Self { leader, group, but: None, space: own_space(leader.pid), agent: None })
    }

    /// Of a server space whose command does not run yet.
    pub(super) fn of_init(init: ProcessId) -> Self {
        let group = Group::of(init.pid).and_then(|group| id(group.v2.as_deref()?));
        Self { leader: init, group, but: None, space: own_space(init.pid), agent: None }
    }

    /// Whether it is told by processes, which are to be named.
    pub(super) fn is_by_process(&self) -> bool {
        self.group.is_none() && self.space.is_none()
    }

    /// As the tracer takes it.
    pub(super) fn scope(&self) -> Scope {
        Scope {
            groups: self.group.into_iter().collect(),
            but: self.but.into_iter().collect(),
            by_process: self.is_by_process(),
            space: self.space,
            by_space: self.group.is_none() && self.space.is_some(),
            agent: self.agent,
        }
    }

    /// Since when nothing of it was recorded where `before` was recorded until now, in nanoseconds of
    /// CLOCK_MONOTONIC; `None` where all of it was.
    pub(super) fn unseen_since(&self, before: &Self) -> Option<u64> {
        if self.group.is_some() && self.group == before.group {
            return None;
        }
        let slept = now(rustix::time::ClockId::Boottime)
            .saturating_sub(now(rustix::time::ClockId::Monotonic));
        Some(self.leader.start.saturating_mul(TICK).saturating_sub(slept))
    }
}

/// Nanoseconds of a clock.
pub(super) fn now(clock: rustix::time::ClockId) -> u64 {
    let time = rustix::time::clock_gettime(clock);
    (time.tv_sec * 1_000_000_000 + time.tv_nsec).cast_unsigned()
}

/// The PID namespace of a process, by its inode number.
fn space(pid: &str) -> Option<u64> {
    fs::metadata(format!("/proc/{pid}/ns/pid")).ok().map(|found| found.ino())
}

/// The same, where it is another than the agent's.
fn own_space(pid: i32) -> Option<u32> {
    let found = space(&pid.to_string()).filter(|found| Some(*found) != space("self"))?;
    u32::try_from(found).ok()
}

/// A cgroup's id is its directory's inode number.
fn id(directory: &Path) -> Option<u64> {
    fs::metadata(directory).ok().map(|found| found.ino())
}
