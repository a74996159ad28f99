//! A procfs of a server's PID namespace as a detached tree of mounts, read-only, with a list of what
//! shows beside processes.
//!
//! A procfs belongs to the PID namespace of whoever asks for it. Linux 6.17 takes the namespace as
//! an option; before, a process has to be in it, if only for one system call. So this is done by a
//! short-lived worker: the process that enters the namespace holds no descriptor that leads
//! anywhere, cannot be traced, and is gone before anything is mounted.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use hyperspector_sys::channel::Channel;
use hyperspector_sys::mount::{attr, clone_tree, set_attributes};
use hyperspector_sys::{mount, worker};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};
use rustix::process::{WaitOptions, waitpid};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};

/// The worker's name for [`worker::spawn`].
pub const KIND: &str = "procfs";

/// What shows of the procfs's top beside processes, none of which can be made to act by reading:
/// what `ps`, `top` and their like ask about the machine.
pub const SHOWN: &[&str] = &[
    "cgroups",
    "cmdline",
    "cpuinfo",
    "devices",
    "filesystems",
    "loadavg",
    "meminfo",
    "pressure",
    "stat",
    "swaps",
    "uptime",
    "version",
    "vmstat",
];

/// Links at the procfs's top, and where they lead: to the namespace's first process. The kernel's own
/// lead to the reader's process, or nowhere where it is not in the namespace, which programs take for
/// a procfs that is not mounted. `net` and `mounts` lead on by these.
const LINKS: [(&str, &str); 2] = [("self", "1"), ("thread-self", "1/task/1")];

/// How long a worker may take.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) const LOCKED: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY
    .union(MountAttrFlags::MOUNT_ATTR_NOSUID)
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// What the worker is told. The PID namespace comes as descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Enter the namespace even where the kernel takes it as an option.
    pub enter: bool,
}

/// What the worker answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Made {
    /// The tree comes as descriptor.
    Tree,
    /// It could not be made.
    Failed(String),
}

/// Has a worker make a procfs of `namespace`, and returns it as a detached tree. `place` is told the
/// worker's process id before it does anything.
///
/// # Errors
/// What the worker could not do.
pub fn make(
    namespace: BorrowedFd<'_>,
    start: Start,
    place: impl FnOnce(u32) -> io::Result<()>,
) -> io::Result<OwnedFd> {
    let (mut child, channel) =
        worker::spawn_placed(KIND, &start, &[namespace], Stdio::inherit(), place)?;
    let answer = channel.receive_within(PATIENCE);
    let _ = child.kill();
    let _ = child.wait();
    match answer? {
        Some((Made::Tree, mut fds)) => fds.pop().ok_or_else(|| io::Error::other("no tree came")),
        Some((Made::Failed(why), _)) => Err(io::Error::other(why)),
        None => Err(io::Error::other("the worker ended without a word")),
    }
}

/// The worker (`hyperspector __worker procfs`).
pub fn worker_main() -> ExitCode {
    let Ok((start, fds, channel)) = worker::receive::<Start>() else {
        return ExitCode::FAILURE;
    };
    let made = tree(start, fds);
    let told = match &made {
        Ok(tree) => channel.send(&Made::Tree, &[tree.as_fd()]),
        Err(error) => channel.send(&Made::Failed(error.to_string()), &[]),
    };
    wait_for_the_end(&channel);
    if made.is_ok() && told.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The tree's mounts are clones: they need nothing of this process, but the descriptor has to have
/// arrived.
fn wait_for_the_end(channel: &Channel) {
    let _ = channel.receive_within::<()>(PATIENCE);
}

fn tree(start: Start, fds: Vec<OwnedFd>) -> io::Result<OwnedFd> {
    let [namespace]: [OwnedFd; 1] =
        fds.try_into().map_err(|_| io::Error::other("no PID namespace came"))?;
    undumpable()?;
    let context = context(namespace, start.enter)?;
    mount::apart(|| {
        fsconfig_create(&context)?;
        let procfs = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, LOCKED)?;
        let stage = Stage::make()?;
        stage.attach(procfs.as_fd(), "tree")?;
        stage.cover_all_but_shown()?;
        LINKS.into_iter().try_for_each(|(name, target)| stage.redirect(name, target))?;
        clone_tree(stage.path("tree"), true)
    })?
}

/// Nobody in the namespace may trace the process that enters it.
fn undumpable() -> io::Result<()> {
    // SAFETY: PR_SET_DUMPABLE takes an integer.
    match unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A procfs of the PID namespace `namespace`, not yet made.
fn context(namespace: OwnedFd, enter: bool) -> io::Result<OwnedFd> {
    if !enter {
        let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let path = format!("/proc/self/fd/{}", namespace.as_raw_fd());
        match fsconfig_set_string(&context, "pidns", path) {
            Ok(()) => return Ok(context),
            Err(Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    entering(namespace)
}

/// As [`context`], by a process that enters the namespace for it. That process shares this one's
/// table of descriptors, and has nothing else to do.
fn entering(namespace: OwnedFd) -> io::Result<OwnedFd> {
    let kind = Some(LinkNameSpaceType::ProcessID);
    let own = fs::File::open("/proc/self/ns/pid")?;
    move_into_link_name_space(namespace.as_fd(), kind)?;
    drop(namespace);
    let opened = clone_to_open()?;
    // A process whose children go elsewhere cannot have threads.
    move_into_link_name_space(own.as_fd(), kind)?;
    Ok(opened)
}

fn clone_to_open() -> io::Result<OwnedFd> {
    let flags = libc::CLONE_FILES | libc::SIGCHLD;
    // SAFETY: without CLONE_VM the child is a whole copy of this process, which has one thread; all
    // pointers are null.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    match pid {
        0 => open_and_exit(),
        1.. => opened_by(pid),
        _ => Err(io::Error::last_os_error()),
    }
}

/// In the child: opens the context, and exits with its number, or with 0.
fn open_and_exit() -> ! {
    // SAFETY: fsopen reads a static C string and takes an integer.
    let fd = unsafe { libc::syscall(libc::SYS_fsopen, c"proc".as_ptr(), 1) };
    let code = libc::c_int::try_from(fd).ok().filter(|fd| (1..256).contains(fd)).unwrap_or(0);
    // SAFETY: ends this process at once, without running anything of the parent's.
    unsafe { libc::_exit(code) }
}

fn opened_by(pid: libc::c_long) -> io::Result<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap_or(0));
    let status = waitpid(pid, WaitOptions::empty())?.and_then(|(_, status)| status.exit_status());
    match status.and_then(|code| RawFd::try_from(code).ok()).filter(|fd| *fd > 0) {
        // SAFETY: the child has just opened it in the table that was shared, and is gone.
        Some(fd) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        None => Err(io::Error::other("no procfs could be opened in the PID namespace")),
    }
}

/// A file system of ours to put trees together on, in a mount namespace that nobody else sees.
pub(crate) struct Stage;

impl Stage {
    /// Where it is: a directory that every system has.
    const PLACE: &str = "/proc";

    /// Mounts it, with an empty file and an empty directory to cover things with.
    pub(crate) fn make() -> io::Result<Self> {
        let tmpfs = tmpfs("64k", "64")?;
        attach(tmpfs.as_fd(), Path::new(Self::PLACE))?;
        let stage = Self;
        for name in ["tree", "blank"] {
            fs::create_dir(stage.path(name))?;
        }
        fs::write(stage.path("empty"), "")?;
        Ok(stage)
    }

    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        Path::new(Self::PLACE).join(name)
    }

    pub(crate) fn attach(&self, tree: BorrowedFd<'_>, name: &str) -> io::Result<()> {
        attach(tree, &self.path(name))
    }

    /// Covers what is at the top of the procfs and neither listed nor a process.
    fn cover_all_but_shown(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.path("tree"))? {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            if !is_process(&name) && !SHOWN.contains(&name.as_ref()) {
                self.cover(&name)?;
            }
        }
        Ok(())
    }

    fn cover(&self, name: &str) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let place = self.path("tree").join(name);
        let target = match rustix::fs::openat(CWD, place, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(()),
            other => other?,
        };
        let blank = match FileType::from_raw_mode(rustix::fs::fstat(&target)?.st_mode) {
            // It leads to a process, see [`LINKS`].
            FileType::Symlink => return Ok(()),
            FileType::Directory => "blank",
            _ => "empty",
        };
        let blank = clone_tree(self.path(blank), false)?;
        attach_locked(blank.as_fd(), target.as_fd())
    }

    /// Has the link `name` of the procfs lead to `to`, by another link that is mounted over it.
    fn redirect(&self, name: &str, to: &str) -> io::Result<()> {
        let link = self.path(name);
        std::os::unix::fs::symlink(to, &link)?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
        let link = open_tree(CWD, &link, flags)?;
        let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let target = rustix::fs::openat(CWD, self.path("tree").join(name), flags, Mode::empty())?;
        attach_locked(link.as_fd(), target.as_fd())
    }
}

/// Whether an entry of a procfs's top is a process.
pub(crate) fn is_process(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_digit())
}

/// A detached tmpfs of at most `size` and `inodes`, for directory entries of ours.
pub(crate) fn tmpfs(size: &str, inodes: &str) -> io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (name, value) in [("mode", "0755"), ("size", size), ("nr_inodes", inodes)] {
        fsconfig_set_string(&context, name, value)?;
    }
    fsconfig_create(&context)?;
    let attributes = LOCKED.difference(MountAttrFlags::MOUNT_ATTR_RDONLY);
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// Attaches a detached tree over `target`, with every attribute that takes something away.
fn attach_locked(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let set = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;
    set_attributes(tree, false, set, 0, None)?;
    mount::attach_over(tree, target)
}

/// Attaches a detached tree at `place`.
pub(crate) fn attach(tree: BorrowedFd<'_>, place: &Path) -> io::Result<()> {
    Ok(move_mount(tree, "", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_shown_acts_or_leads_on() {
        for name in ["sys", "sysrq-trigger", "kcore", "kmsg", "keys", "timer_list", "net", "self"] {
            assert!(!SHOWN.contains(&name), "{name}");
        }
        assert!(is_process("1") && !is_process("1a") && !is_process("self"));
    }
}
