//! Putting a view together where nobody sees it: in a mount namespace of the process's own.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use hyperspector_sys::mountinfo::{self, Mounted};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::choice::{self, Located, Own};
use super::mask::{Blank, Hidden};
use super::source::{Clones, beneath, directory, table};

/// Where the view is put together, from the worker's own root; and what lies over hidden paths.
pub(super) const PLACE: &str = "/stage";
pub(super) const BLANK_DIRECTORY: &str = "/blank";
pub(super) const BLANK_FILE: &str = "/blank.file";

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
    pub(super) fn assemble(clones: &Clones, blank: &Blank) -> io::Result<Self> {
        // SAFETY: the process has one thread.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
        let blank = Blank {
            directory: placed(blank.directory.as_fd(), BLANK_DIRECTORY)?,
            file: placed(blank.file.as_fd(), BLANK_FILE)?,
        };
        let view = placed(clones.top.mount.as_fd(), PLACE)?;
        let notes = clones.left_out.clone();
        let mut stage = Self { view, blank, notes, absent: Vec::new(), is_unsettled: false };
        for part in &clones.below {
            let attached = beneath(stage.view.as_fd(), &part.place)
                .and_then(|target| attach_over(part.mount.as_fd(), target.as_fd()));
            // What was there when it was cloned is something else by now.
            stage.is_unsettled |= attached.is_err();
        }
        if clones.has_more() {
            for hole in &clones.holes {
                stage.blank.hide(stage.view.as_fd(), hole)?;
            }
        }
        Ok(stage)
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

    /// A clone of what is at `place`, with all that is mounted below it.
    pub(super) fn part(&self, place: &Path) -> io::Result<OwnedFd> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE
            | OpenTreeFlags::AT_EMPTY_PATH;
        Ok(open_tree(beneath(self.view.as_fd(), place)?, "", flags)?)
    }
}

/// The mounts at and below `top` in the calling process's mount namespace, each with its place from
/// there.
pub(super) fn mounts(proc: BorrowedFd<'_>, top: &Path) -> io::Result<Vec<Mounted>> {
    let table = table(proc)?;
    let below = |mut mounted: Mounted| {
        mounted.place = mounted.place.strip_prefix(top).ok()?.to_owned();
        Some(mounted)
    };
    Ok(mountinfo::mounts(&table).filter_map(below).collect())
}

/// Attaches a detached mount at a path of ours, and opens its root.
fn placed(mount: BorrowedFd<'_>, path: &str) -> io::Result<OwnedFd> {
    move_mount(mount, "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    beneath(directory("/")?.as_fd(), Path::new(path))
}

/// Attaches the detached mount `tree` over what `target` stands for.
pub(super) fn attach_over(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(tree, "", target, "", flags)?)
}

/// A clone of the mount at `place`.
pub(super) fn clone_at(place: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(open_tree(place, "", flags)?)
}
