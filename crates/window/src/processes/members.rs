//! The processes of a server that has no PID namespace of its own: its directories alone, out of a
//! procfs of the host, on a tmpfs.
//!
//! Each is a mount of one process's directory. That stays with the process: when it ends, opening
//! anything there fails with `ESRCH`, and a later process of the same number is another directory.
//! [`Members::follow`] brings the view up to date.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use hyperspector_sys::mount::{
    apart, attach_over, attr, clone_at, clone_tree, set_attributes, within,
};
use hyperspector_sys::pidfd;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, mkdirat, renameat, symlinkat, unlinkat};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, fsconfig_create, fsmount, fsopen};

use super::procfs::{LOCKED, SHOWN, Stage, tmpfs};
use super::view;

/// The most processes that show; the lowest numbers win.
pub const MOST: usize = 4096;

/// Processes by number, with the time at which each started (clock ticks since boot).
pub type Processes = BTreeMap<u32, u64>;

/// The view of one portspace on one server's processes.
#[derive(Debug)]
pub struct Members {
    /// The tmpfs, by a mount that can be written to and is attached nowhere.
    tmpfs: OwnedFd,
    shown: Processes,
}

impl Members {
    /// Makes an empty view, shows it in the portspace whose mount namespace is `mounts`, in place of
    /// what was there, and gives back what it takes to bring it up to date.
    ///
    /// # Errors
    /// Where it cannot be made or attached.
    pub fn show(mounts: BorrowedFd<'_>, server: &str) -> io::Result<Self> {
        let (tmpfs, tree) = apart(put_together)??;
        view::show(mounts, server, tree.as_fd())?;
        Ok(Self { tmpfs, shown: Processes::new() })
    }

    /// Shows the processes `now` and no others. Returns how many do not show since they are too many.
    ///
    /// # Errors
    /// Where a mount cannot be made; those that could be made are kept.
    pub fn follow(
        &mut self,
        mounts: BorrowedFd<'_>,
        server: &str,
        now: &Processes,
    ) -> io::Result<usize> {
        let wanted: Processes = now.iter().take(MOST).map(|(pid, start)| (*pid, *start)).collect();
        let without = |all: &Processes, known: &Processes| -> Processes {
            let is_new = |pid: &u32, start: &u64| known.get(pid) != Some(start);
            all.clone().into_iter().filter(|(pid, start)| is_new(pid, start)).collect()
        };
        let gone = without(&self.shown, &wanted);
        let new = without(&wanted, &self.shown);
        if !gone.is_empty() || !new.is_empty() {
            self.change(mounts, &view::processes_of(server), &gone, &new)?;
        }
        Ok(now.len().saturating_sub(MOST))
    }

    fn change(
        &mut self,
        mounts: BorrowedFd<'_>,
        place: &Path,
        gone: &Processes,
        new: &Processes,
    ) -> io::Result<()> {
        let trees = if new.is_empty() { Vec::new() } else { apart(|| directories(new))?? };
        let Self { tmpfs, shown } = self;
        within(mounts, || {
            for pid in gone.keys() {
                view::unmount_all(&place.join(pid.to_string()))?;
                unlinkat(&*tmpfs, pid.to_string(), AtFlags::REMOVEDIR)?;
                shown.remove(pid);
            }
            for (pid, start, tree) in &trees {
                let name = pid.to_string();
                mkdirat(&*tmpfs, &name, Mode::from_raw_mode(0o555))?;
                // Noted before it is mounted: a place without a mount is taken away like any other.
                shown.insert(*pid, *start);
                attach_over(tree.as_fd(), view::found(&place.join(&name))?.as_fd())?;
            }
            point(tmpfs, shown.keys().next().copied())
        })?
    }
}

/// Has `self` lead to the process `first`, as in a procfs of a namespace it leads to the first one.
fn point(tmpfs: &OwnedFd, first: Option<u32>) -> io::Result<()> {
    const NEW: &str = ".new";
    for (name, rest) in [("self", ""), ("thread-self", "/task/")] {
        let Some(pid) = first.map(|pid| pid.to_string()) else {
            let _ = unlinkat(tmpfs, name, AtFlags::empty());
            continue;
        };
        let target = if rest.is_empty() { pid } else { format!("{pid}{rest}{pid}") };
        let _ = unlinkat(tmpfs, NEW, AtFlags::empty());
        symlinkat(target, tmpfs, NEW)?;
        renameat(tmpfs, NEW, tmpfs, name)?;
    }
    Ok(())
}

/// The tmpfs with the machine-wide files: by a mount that can be written to, and as a read-only tree.
fn put_together() -> io::Result<(OwnedFd, OwnedFd)> {
    let stage = Stage::make()?;
    stage.attach(tmpfs("1m", &(MOST + 64).to_string())?.as_fd(), "tree")?;
    let top = stage.path("tree");
    let writable = clone_tree(&top, false)?;
    // Over the empty directory: a procfs to take from.
    stage.attach(procfs()?.as_fd(), "blank")?;
    for name in SHOWN {
        show(&stage.path("blank").join(name), &top.join(name))?;
    }
    for (name, target) in [("net", "self/net"), ("mounts", "self/mounts")] {
        symlink(target, top.join(name))?;
    }
    let tree = clone_tree(&top, true)?;
    set_attributes(tree.as_fd(), false, attr::RDONLY, 0, None)?;
    Ok((writable, tree))
}

fn show(from: &Path, to: &Path) -> io::Result<()> {
    let is_dir = match fs::symlink_metadata(from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?.is_dir(),
    };
    if is_dir {
        fs::create_dir(to)?
    } else {
        fs::write(to, "")?
    }
    super::procfs::attach(clone_tree(from, false)?.as_fd(), to)
}

/// A procfs of this process's own PID namespace, detached.
pub(crate) fn procfs() -> io::Result<OwnedFd> {
    let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, LOCKED)?)
}

/// The directories of those processes that are still there, each as a detached tree.
fn directories(processes: &Processes) -> io::Result<Vec<(u32, u64, OwnedFd)>> {
    let stage = Stage::make()?;
    stage.attach(procfs()?.as_fd(), "tree")?;
    let top = stage.path("tree");
    let mut found = Vec::new();
    for (pid, start) in processes {
        if let Some(tree) = directory(&top, *pid, *start)? {
            found.push((*pid, *start, tree));
        }
    }
    Ok(found)
}

fn directory(top: &Path, pid: u32, start: u64) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = match rustix::fs::openat(CWD, top.join(pid.to_string()), flags, Mode::empty()) {
        Err(Errno::NOENT | Errno::SRCH) => return Ok(None),
        other => other?,
    };
    // Asked of what was opened: the number may be another process's meanwhile.
    if started(directory.as_fd()) != Some(start) {
        return Ok(None);
    }
    Ok(Some(clone_at(&directory, false)?))
}

/// When the process of this directory started; `None` where it has ended.
fn started(directory: BorrowedFd<'_>) -> Option<u64> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let stat = rustix::fs::openat(directory, "stat", flags, Mode::empty()).ok()?;
    let mut text = Vec::new();
    fs::File::from(stat).take(4096).read_to_end(&mut text).ok()?;
    pidfd::start_time_in(&String::from_utf8_lossy(&text))
}

/// The processes in the cgroup `directory` of a v2 or named v1 hierarchy, and in those below it.
pub fn of_cgroup(directory: &Path) -> io::Result<Processes> {
    let mut found = Processes::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for pid in listed(&directory.join("cgroup.procs"))? {
            if let Some(start) = pidfd::start_time(pid)? {
                found.insert(pid, start);
            }
        }
        directories.extend(below(&directory)?);
    }
    Ok(found)
}

/// The numbers in a `cgroup.procs`; none where the group is gone.
fn listed(path: &Path) -> io::Result<Vec<u32>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.lines().filter_map(|line| line.parse().ok()).collect()),
        Err(error) if is_gone(&error) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn below(directory: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(directory) {
        Ok(entries) => Ok(entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path())
            .collect()),
        Err(error) if is_gone(&error) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}
