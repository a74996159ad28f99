//! Putting a view together where nobody sees it: in a mount namespace of the process's own.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use hyperspector_sys::mount::{attach_over, clone_at};
use hyperspector_sys::mountinfo::{self, Mounted};
use hyperspector_sys::path::{beneath, directory};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, move_mount};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::choice::{self, Located, Own};
use super::mask::{Blank, Hidden};
use super::source::Clones;
use crate::tree::table;

/// Where the view is put together, from the worker's own root; and what lies over hidden paths.
pub(super) const PLACE: &str = "/stage";
pub(super) const BLANK_DIRECTORY: &str = "/blank";
pub(super) const BLANK_FILE: &str = "/blank.file";

/// How often it is tried to cover what is never shown, while the server moves directories about.
const COVERING: usize = 5;

/// A view that is put together.
pub(super) struct Stage {
    view: OwnedFd,
    blank: Blank,
    /// For people: what is not shown or not hidden, and why.
    pub(super) notes: Vec<String>,
    /// Paths that were to be hidden and were not found.
    pub(super) absent: Vec<PathBuf>,
    /// Whether something changed while it was put together, so that it should be tried again.
    pub(super) is_unsettled: bool,
}

impl Stage {
    /// Puts clones together, in a copy of the worker's own mount namespace that goes with this
    /// process. `blank` is what lies over hidden paths, attached nowhere.
    pub(super) fn assemble(
        clones: &Clones,
        blank: &Blank,
        proc: BorrowedFd<'_>,
    ) -> io::Result<Self> {
        // SAFETY: the process has one thread.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
        let blank = Blank {
            directory: placed(blank.directory.as_fd(), BLANK_DIRECTORY)?,
            file: placed(blank.file.as_fd(), BLANK_FILE)?,
        };
        let view = placed(clones.top.mount.as_fd(), PLACE)?;
        let notes = clones.left_out.clone();
        let mut stage = Self { view, blank, notes, absent: Vec::new(), is_unsettled: false };
        if clones.top.whole {
            stage.cover_refused(proc)?;
        }
        for part in &clones.below {
            let attached = beneath(stage.view.as_fd(), &part.place)
                .and_then(|target| attach_over(part.mount.as_fd(), target.as_fd()));
            // What was there when it was cloned is something else by now.
            stage.is_unsettled |= attached.is_err();
            if part.whole {
                // At once: the next one may lie over it.
                stage.cover_refused(proc)?;
            }
        }
        Ok(stage)
    }

    /// Covers what is never shown and has come along with other mounts, as the kernel's own table has
    /// it here.
    ///
    /// # Errors
    /// Where something of that stays uncovered, so that the view must not be shown.
    fn cover_refused(&mut self, proc: BorrowedFd<'_>) -> io::Result<()> {
        for _ in 0..COVERING {
            let mounts = mounts(proc, Path::new(PLACE))?;
            let open = uncovered(&mounts);
            if open.is_empty() {
                return Ok(());
            }
            for mounted in open {
                self.blank.hide(self.view.as_fd(), &mounted.place)?;
            }
        }
        self.is_unsettled = true;
        Err(io::Error::other("what must not be shown cannot be covered"))
    }

    /// Hides HyperSpector's own directories, wherever they show.
    pub(super) fn hide_own(&mut self, hidden: &[Located], proc: BorrowedFd<'_>) -> io::Result<()> {
        for mounted in mounts(proc, Path::new(PLACE))? {
            let paths = match choice::own(&mounted.device, &mounted.root, hidden) {
                Own::All => vec![PathBuf::new()],
                Own::Below(paths) => paths,
            };
            for path in paths {
                self.blank.hide(self.view.as_fd(), &choice::joined(&mounted.place, &path))?;
            }
        }
        Ok(())
    }

    /// Hides `paths` of the view.
    pub(super) fn hide(&mut self, paths: &[PathBuf]) -> io::Result<()> {
        for path in paths {
            let hidden = self.blank.hide(self.view.as_fd(), path)?;
            if hidden == Hidden::Link {
                self.notes.push(format!("not hidden: {} leads over a link", path.display()));
            }
            if hidden != Hidden::Done {
                self.absent.push(path.clone());
            }
        }
        Ok(())
    }

    /// The view as a detached tree.
    pub(super) fn tree(&self) -> io::Result<OwnedFd> {
        Ok(clone_at(&self.view, true)?)
    }
}

/// Those of a view's mounts that are never shown, and neither they nor what they are mounted on is
/// covered. The top has nothing that it could be covered on: it is looked at by itself.
fn uncovered(mounts: &[Mounted]) -> Vec<&Mounted> {
    let by_id: HashMap<u64, &Mounted> = mounts.iter().map(|one| (one.id, one)).collect();
    let covers = mounts.iter().filter_map(|one| {
        let below = by_id.get(&one.parent)?;
        (below.place == one.place).then_some(one.parent)
    });
    let covered: HashSet<u64> = covers.collect();
    let is_below_covered = |mounted: &Mounted| {
        // A table that the kernel has made has no loops; so many steps are enough for any.
        let above = std::iter::successors(Some(mounted), |one| by_id.get(&one.parent).copied());
        above
            .take(mounts.len())
            .any(|one| covered.contains(&one.id) && mountinfo::refused(&one.kind).is_some())
    };
    mounts
        .iter()
        .filter(|one| !one.place.as_os_str().is_empty())
        .filter(|one| mountinfo::refused(&one.kind).is_some() && !is_below_covered(one))
        .collect()
}

/// The mounts at and below `top` in the calling process's mount namespace, each with its place from
/// there; one that covers another comes after it. The kernel has them in the order in which they were
/// made (Linux 6.8), which is another where they were put together afterwards.
pub(super) fn mounts(proc: BorrowedFd<'_>, top: &Path) -> io::Result<Vec<Mounted>> {
    let table = table(proc)?;
    let below = |mut mounted: Mounted| {
        mounted.place = mounted.place.strip_prefix(top).ok()?.to_owned();
        Some(mounted)
    };
    let mut mounts: Vec<Mounted> = mountinfo::mounts(&table).filter_map(below).collect();
    let parents: HashMap<u64, u64> = mounts.iter().map(|one| (one.id, one.parent)).collect();
    let depth = |mounted: &Mounted| {
        let above = std::iter::successors(Some(mounted.id), |id| parents.get(id).copied());
        above.take(parents.len()).count()
    };
    mounts.sort_by_cached_key(depth);
    Ok(mounts)
}

/// Attaches a detached mount at a path of ours, and opens its root.
fn placed(mount: BorrowedFd<'_>, path: &str) -> io::Result<OwnedFd> {
    move_mount(mount, "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    beneath(directory("/")?.as_fd(), Path::new(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mounts with ids from 1: what each is mounted on, where, and its kind.
    fn uncovered_of(mounts: &[(u64, &str, &str)]) -> Vec<String> {
        let mounted = |(number, (parent, place, kind)): (u64, &(u64, &str, &str))| Mounted {
            id: number,
            parent: *parent,
            device: "0:1".into(),
            root: "/".into(),
            place: place.into(),
            kind: (*kind).into(),
            options: String::new(),
        };
        let all: Vec<Mounted> = (1..).zip(mounts).map(mounted).collect();
        uncovered(&all).iter().map(|one| one.place.display().to_string()).collect()
    }

    #[test]
    fn what_is_never_shown_is_covered_at_its_own_root() {
        let top = (0, "", "ext4");
        assert_eq!(uncovered_of(&[top, (1, "p", "proc"), (1, "s", "ext4")]), ["p"]);
        assert_eq!(uncovered_of(&[top, (1, "p", "proc"), (2, "p", "ext4")]), [""; 0]);
        // What is below goes with it; what lies elsewhere on it covers nothing.
        assert_eq!(
            uncovered_of(&[top, (1, "p", "proc"), (2, "p/b", "fuse"), (2, "p", "x")]),
            [""; 0]
        );
        assert_eq!(uncovered_of(&[top, (1, "p", "proc"), (2, "p/b", "ext4")]), ["p"]);
        // A way that is covered may be moved from under its cover.
        assert_eq!(uncovered_of(&[top, (1, "d", "tmpfs"), (1, "d/p", "proc")]), ["d/p"]);
    }
}
