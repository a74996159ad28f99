//! Which processes belong together, by what `/proc` says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use crate::process::ProcessId;

/// The most processes that are looked at to find a leader.
const MOST: usize = 4096;

/// How many clock ticks a second has, for what the kernel tells programs (USER_HZ).
const TICKS: u64 = 100;

/// What proc_pid_stat(5) says of a process.
pub(super) struct Stat {
    /// Its name, which it may choose.
    pub(super) name: String,
    state: String,
    pub(super) parent: i32,
    /// In clock ticks since boot.
    pub(super) start: u64,
}

/// Reads the state of a process; `None` where there is none.
pub(super) fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text);
    // The second field is the program's name, in brackets, and may hold anything.
    let (before, after) = text.rsplit_once(')')?;
    let name = before.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = after.split_ascii_whitespace().collect();
    Some(Stat {
        name,
        state: (*fields.first()?).to_owned(),
        parent: fields.get(1)?.parse().ok()?,
        start: fields.get(19)?.parse().ok()?,
    })
}

impl Stat {
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.state.as_str(), "Z" | "X" | "x")
    }

    /// For how long it has been there.
    pub(super) fn age(&self) -> Option<Duration> {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let now = Duration::try_from(now).ok()?;
        now.checked_sub(Duration::from_millis(self.start.saturating_mul(1000 / TICKS)))
    }
}

/// The real user of a process.
pub(super) fn user(pid: i32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    ids.split_whitespace().next()?.parse().ok()
}

/// The process that leads a group: the oldest of those that were not started by another of it.
pub(super) fn leader(group: &BTreeSet<i32>) -> Option<ProcessId> {
    let living = group.iter().take(MOST).filter_map(|&pid| Some((pid, stat(pid)?)));
    let outermost = living.filter(|(_, stat)| !stat.has_ended() && !group.contains(&stat.parent));
    let (pid, stat) = outermost.min_by_key(|(pid, stat)| (stat.start, *pid))?;
    Some(ProcessId { pid, start: stat.start })
}

/// All processes of the host.
pub(super) fn all() -> BTreeSet<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The processes in the PID namespace of `pid`; those in namespaces below it are not among them.
pub(super) fn of_namespace_like(pid: i32) -> BTreeSet<i32> {
    let space = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let Some(wanted) = space(pid) else { return BTreeSet::new() };
    all().into_iter().filter(|&pid| space(pid).as_ref() == Some(&wanted)).collect()
}

/// `pid` and what descends from it.
pub(super) fn descendants(pid: i32) -> BTreeSet<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for pid in all() {
        if let Some(stat) = stat(pid) {
            children.entry(stat.parent).or_default().push(pid);
        }
    }
    let (mut found, mut next) = (BTreeSet::new(), vec![pid]);
    while let Some(pid) = next.pop() {
        if found.insert(pid) {
            next.extend(children.remove(&pid).unwrap_or_default());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_descend_from_us_and_we_lead_them() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let (own, pid) = (std::process::id().cast_signed(), child.id().cast_signed());
        assert!(descendants(own).contains(&pid) && !descendants(pid).contains(&own));
        assert_eq!(leader(&[own, pid].into()).map(|leader| leader.pid), Some(own));
        child.kill().unwrap();
        while !stat(pid).unwrap().has_ended() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        // Nobody has asked yet how it has ended.
        assert_eq!(leader(&[pid].into()), None);
        child.wait().unwrap();
    }
}
