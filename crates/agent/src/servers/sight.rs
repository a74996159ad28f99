//! Through which process a server's files are seen, and whether that shows what root has made.
//!
//! Whoever is not root can make a user namespace and in it a mount namespace, mount what he likes
//! there, and change root. A leader that has done so would choose what its watchers see. So it is
//! followed only where its mount namespace belongs to the agent's own user namespace, or, for a
//! container, to the one in which its runtime has made its PID namespace: a process can neither leave
//! that nor make it another's. Else another process of the server is looked for that has the root
//! which the server had, and is where it was; then the agent itself, where that was the host's root.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hyperspector_sys::mountinfo::{self, Mounted};
use hyperspector_sys::userns::{self, Namespace};
use hyperspector_window::files::Trust;

use super::members;
use crate::process::ProcessId;

/// The most processes that are asked whether they see what the leader saw.
const MOST: usize = 4096;
/// The most of them whose mounts are read for that.
const MOST_ROOTS: usize = 64;
/// The longest mount table that is read, in bytes.
const LONGEST_TABLE: u64 = 4 << 20;
/// How long it lasts at least until a server whose leader is not followed is looked at again.
const PAUSE: Duration = Duration::from_secs(1);
/// For each millisecond that looking took, how many pass before the next time.
const LOOKING_SHARE: u32 = 20;

/// What has a root: the file system, and the directory in it.
type Root = (String, PathBuf);

/// How a server's files are seen.
#[derive(Debug)]
pub(super) struct Sight {
    /// The user namespaces that its mount namespaces may belong to; `None` where it is not asked.
    owners: Option<Vec<Namespace>>,
    /// Its leader's root, as long as that was followed.
    root: Option<Root>,
    /// The mount namespace that its leader was in then.
    mounts: Option<PathBuf>,
    /// What the leader was like when it was judged last.
    judged: Option<Links>,
    due: Instant,
    /// Through which process; `None` where nothing can be shown.
    pub(super) by: Option<Seer>,
    /// Why its leader is not followed, and what shows instead.
    pub(super) distrust: Option<String>,
}

/// A process through which files are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seer {
    pub(crate) id: ProcessId,
    pub(super) trust: Option<Trust>,
}

/// What a process's files depend on: its mount namespace, its user namespace, its root.
type Links = [Option<PathBuf>; 3];

fn links(pid: i32) -> Links {
    ["ns/mnt", "ns/user", "root"].map(|name| fs::read_link(format!("/proc/{pid}/{name}")).ok())
}

impl Sight {
    /// Of a process of our own making, or ourselves.
    pub(super) fn own(leader: ProcessId) -> Self {
        Self {
            owners: None,
            root: None,
            mounts: None,
            judged: None,
            due: Instant::now(),
            by: Some(Seer { id: leader, trust: None }),
            distrust: None,
        }
    }

    /// Of a server of others, found just now. `is_container`: its runtime may have made it in a user
    /// namespace.
    pub(super) fn of(
        leader: ProcessId,
        is_container: bool,
        members: impl Fn() -> BTreeSet<i32>,
    ) -> Result<Self, String> {
        let text = |error: io::Error| hyperspector_sys::errno::text(&error);
        let mut owners = vec![Namespace::own_users().map_err(text)?];
        if is_container {
            owners.push(made_in(leader.pid).map_err(text)?);
        }
        let mut sight = Self { owners: Some(owners), ..Self::own(leader) };
        sight.follow(leader, members);
        Ok(sight)
    }

    /// Looks again whether the leader is to be followed, and through whom it is seen.
    pub(super) fn follow(&mut self, leader: ProcessId, members: impl Fn() -> BTreeSet<i32>) {
        let Some(owners) = self.owners.clone() else { return };
        let now = links(leader.pid);
        let start = Instant::now();
        let is_settled = self.distrust.is_none() || start < self.due;
        if self.judged.as_ref() == Some(&now) && is_settled {
            return;
        }
        match judge(leader.pid, &owners) {
            // It has just ended.
            Err(_) => return,
            Ok(Ok(trust)) => {
                self.by = Some(Seer { id: leader, trust: Some(trust) });
                (self.root, self.mounts) = (root(leader.pid), now[0].clone());
                self.distrust = None;
            }
            Ok(Err(what)) => self.look_elsewhere(leader, &owners, what, members),
        }
        self.judged = Some(now);
        self.due = start + PAUSE.max(start.elapsed().saturating_mul(LOOKING_SHARE));
    }

    /// Finds another process through which the files show as they did.
    fn look_elsewhere(
        &mut self,
        leader: ProcessId,
        owners: &[Namespace],
        what: &str,
        members: impl Fn() -> BTreeSet<i32>,
    ) {
        let wanted = self.root.clone().or_else(|| root(leader.pid));
        let others = members().into_iter().filter(|&pid| pid != leader.pid);
        self.by = self.other(others, owners, wanted.as_ref());
        let instead = match self.by {
            Some(seer) => format!("its files are shown as its process {} sees them", seer.id.pid),
            None => {
                self.by = host(wanted.as_ref());
                match self.by {
                    Some(_) => "its files are shown as the host has them".to_owned(),
                    None => "nothing of its files is shown".to_owned(),
                }
            }
        };
        self.distrust = Some(format!("its leading process {} {what}: {instead}", leader.pid));
    }

    /// The one of `others` that has the root `wanted`: one that is where the leader was, or the oldest.
    fn other(
        &self,
        others: impl Iterator<Item = i32>,
        owners: &[Namespace],
        wanted: Option<&Root>,
    ) -> Option<Seer> {
        let trusted = others.take(MOST).filter_map(|pid| {
            let stat = members::stat(pid).filter(|stat| !stat.has_ended())?;
            let trust = judge(pid, owners).ok()?.ok()?;
            let mounts = fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
            let id = ProcessId { pid, start: stat.start };
            Some((mounts != self.mounts, stat.start, Seer { id, trust: Some(trust) }))
        });
        let mut trusted: Vec<_> = trusted.collect();
        trusted.sort_by_key(|(is_elsewhere, start, seer)| (*is_elsewhere, *start, seer.id.pid));
        let mut seers = trusted.into_iter().take(MOST_ROOTS).map(|(_, _, seer)| seer);
        seers.find(|seer| wanted.is_some() && root(seer.id.pid).as_ref() == wanted)
    }
}

/// The agent itself, where its root is the one that is wanted.
fn host(wanted: Option<&Root>) -> Option<Seer> {
    let id = super::own().ok()?;
    let is_it = wanted.is_some() && root(id.pid).as_ref() == wanted;
    is_it.then_some(Seer { id, trust: None })
}

/// Under which conditions a process's files are to be seen through it; or what it has done that they
/// are not.
fn judge(pid: i32, owners: &[Namespace]) -> io::Result<Result<Trust, &'static str>> {
    let owner = Namespace::of(&userns::owner(userns::open(pid, "mnt")?)?)?;
    let users = Namespace::of(&userns::open(pid, "user")?)?;
    Ok(if !owners.contains(&owner) {
        Err("has mounts in a user namespace of its own")
    } else if owners.contains(&users) {
        Ok(Trust { owner, users: Some(users) })
    } else if fs::read_link(format!("/proc/{pid}/root"))? == Path::new("/") {
        Ok(Trust { owner, users: None })
    } else {
        Err("has changed its root in a user namespace of its own")
    })
}

/// The user namespace in which a container was made: that of its PID namespace, or where it shares
/// the host's, the one that its mounts are in as it is found.
fn made_in(leader: i32) -> io::Result<Namespace> {
    let processes = userns::open(leader, "pid")?;
    let own = userns::open(std::process::id().cast_signed(), "pid")?;
    let is_of_host = Namespace::of(&processes)? == Namespace::of(&own)?;
    let within = if is_of_host { userns::open(leader, "mnt")? } else { processes };
    Namespace::of(&userns::owner(within)?)
}

/// What a process has as its root, where that is a mount.
pub(super) fn root(pid: i32) -> Option<Root> {
    let mut table = Vec::new();
    let file = File::open(format!("/proc/{pid}/mountinfo")).ok()?;
    file.take(LONGEST_TABLE).read_to_end(&mut table).ok()?;
    let root = mountinfo::mounts(&table).filter(|mounted| mounted.place == Path::new("/")).last();
    root.map(|Mounted { device, root, .. }| (device, root))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_see_what_we_have_made_ourselves() {
        let own = std::process::id().cast_signed();
        let users = Namespace::own_users().unwrap();
        let trust = judge(own, &[users]);
        // In a user namespace, the machine's mounts are not ours to judge.
        if let Ok(trust) = trust {
            assert_eq!(trust, Ok(Trust { owner: users, users: Some(users) }));
            assert!(judge(own, &[]).unwrap().is_err());
        }
        let root = root(own);
        assert_eq!(host(root.as_ref()).map(|seer| seer.id.pid), root.map(|_| own));
        assert_eq!(host(None), None);
    }
}
