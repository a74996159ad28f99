//! A server's own tree, entered as the server has it: where views and journals of changes begin.
//!
//! Whoever is not root on the host can make a mount namespace in a user namespace of his own, and
//! mount there what he likes. So it is said beforehand whose namespace a server's has to be, and it
//! is looked at again here, with the namespace open.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use hyperspector_sys::path::directory;
use hyperspector_sys::userns::{self, Namespace};
use rustix::fs::{Mode, OFlags, openat};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use serde::{Deserialize, Serialize};

/// The longest mount table that is read, in bytes; what comes after is as if it were not there.
pub(crate) const LONGEST_TABLE: u64 = 4 << 20;

/// How many seconds copying a mount namespace may take.
const PATIENCE: u32 = 10;

/// Whose tree it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// A process that sees it, in the PID namespace of the worker.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub start: u64,
    /// The directory that is shown, as that process sees it.
    pub tree: PathBuf,
    /// Under which conditions; `None` for processes that cannot do anything about what they see.
    pub trust: Option<Trust>,
}

/// When what a process sees is what root, or its container's runtime, has made for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// The user namespace that its mount namespace belongs to.
    pub owner: Namespace,
    /// The user namespace that it is in itself, so that its root is what it was given; `None` where
    /// it is seen from the root of its mount namespace instead.
    pub users: Option<Namespace>,
}

/// A server's namespaces and root, open.
struct Place {
    mounts: File,
    owner: File,
    /// `None` for the root of the mount namespace.
    root: Option<OwnedFd>,
}

impl Place {
    fn open(source: &Source) -> io::Result<Self> {
        let mounts = userns::open(source.pid, "mnt")?;
        let root = directory(format!("/proc/{}/root", source.pid))?;
        // Asked after opening the root: nobody ever comes back to a user namespace above his own.
        let users = Namespace::of(&userns::open(source.pid, "user")?)?;
        let start = hyperspector_sys::pidfd::start_time(source.pid.cast_unsigned())?;
        if start != Some(source.start) {
            return Err(io::Error::other("it has just ended"));
        }
        let owner = userns::owner(&mounts)?;
        let Some(trust) = source.trust else {
            return Ok(Self { mounts, owner, root: Some(root) });
        };
        let is_other = |wanted: Namespace| wanted != users;
        if Namespace::of(&owner)? != trust.owner || trust.users.is_some_and(is_other) {
            return Err(io::Error::other("it has just made a namespace of its own"));
        }
        Ok(Self { mounts, owner, root: trust.users.map(|_| root) })
    }

    /// Enters the mount namespace, with the server's root as working directory.
    fn enter(&self) -> io::Result<()> {
        move_into_link_name_space(self.mounts.as_fd(), Some(LinkNameSpaceType::Mount))?;
        match &self.root {
            Some(root) => Ok(rustix::process::fchdir(root)?),
            None => Ok(rustix::process::chdir("/")?),
        }
    }
}

/// Enters the server's mount namespace itself, with its root as our own.
pub(crate) fn enter(source: &Source) -> io::Result<()> {
    Place::open(source)?.enter()?;
    Ok(rustix::process::chroot(".")?)
}

/// Enters a copy of the server's mount namespace, with its root as our own: in the copy, nothing is
/// mounted or unmounted but by us, and nothing forbids to clone but that the server itself could not
/// take apart what has come from a namespace of more privilege. Root of a user namespace can forbid
/// that its mounts be copied there (`user.max_mnt_namespaces`): then nothing can be taken apart.
///
/// The calling process has one thread, and the host's procfs at `/proc`.
pub(crate) fn enter_copy(source: &Source) -> io::Result<()> {
    let place = Place::open(source)?;
    if Namespace::of(&place.owner)? == Namespace::own_users()? {
        place.enter()?;
        copy()?;
    } else if let Ok((mounts, root)) = copied_by_its_own(&place) {
        move_into_link_name_space(mounts.as_fd(), Some(LinkNameSpaceType::Mount))?;
        rustix::process::fchdir(&root)?;
    } else {
        place.enter()?;
        copy()?;
    }
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    Ok(rustix::process::chroot(".")?)
}

/// Copies the mount namespace; the copy takes the working directory along.
fn copy() -> io::Result<()> {
    // SAFETY: the process has one thread.
    Ok(unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?)
}

/// Has a mount namespace copied by a process in the user namespace that it belongs to: a copy of ours
/// would be of more privilege, and everything in it locked. Returns the copy and the root there.
fn copied_by_its_own(place: &Place) -> io::Result<(File, OwnedFd)> {
    let (ready, done) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let (until, hold) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // SAFETY: the process has one thread, so the child is a whole copy.
    let child = unsafe { libc::fork() };
    if child == 0 {
        drop((ready, hold));
        copy_and_wait(place, done, until);
    }
    if child < 0 {
        return Err(io::Error::last_os_error());
    }
    drop((done, until));
    let mut said = Vec::new();
    let opened = File::from(ready).take(4).read_to_end(&mut said).and_then(|_| match said[..] {
        [0, 0, 0, 0] => Ok((userns::open(child, "mnt")?, directory(format!("/proc/{child}/cwd"))?)),
        [a, b, c, d] => Err(io::Error::from_raw_os_error(i32::from_ne_bytes([a, b, c, d]))),
        _ => Err(io::Error::other("its mounts could not be copied")),
    });
    drop(hold);
    // SAFETY: waitpid takes integers and a null pointer; the child is ours, and ends now.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    opened
}

/// In the child: copies, says so, and stays until nobody holds the other end of `until`.
fn copy_and_wait(place: &Place, done: OwnedFd, until: OwnedFd) -> ! {
    // SAFETY: alarm takes an integer; the signal's default is to end the process.
    unsafe { libc::alarm(PATIENCE) };
    // Nobody in the other user namespace can trace us then.
    // SAFETY: PR_SET_DUMPABLE takes an integer.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0) };
    let copied = place
        .enter()
        .and_then(|()| {
            let users = Some(LinkNameSpaceType::User);
            Ok(move_into_link_name_space(place.owner.as_fd(), users)?)
        })
        .and_then(|()| copy());
    let said = copied.map_or_else(|error| error.raw_os_error().unwrap_or(libc::EIO), |()| 0);
    let _ = rustix::io::write(&done, &said.to_ne_bytes());
    drop(done);
    let _ = File::from(until).read(&mut [0]);
    // SAFETY: _exit ends the process without running anything of the parent's.
    unsafe { libc::_exit(0) }
}

/// Reads the calling process's mount table, where `proc` is the host's procfs.
pub(crate) fn table(proc: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = openat(proc, "self/mountinfo", flags, Mode::empty())?;
    let mut text = Vec::new();
    File::from(file).take(LONGEST_TABLE).read_to_end(&mut text)?;
    Ok(text)
}
