//! The mount calls that rustix and nix lack, one call each (mount_setattr(2), open_tree(2)).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MountPropagationFlags, MoveMountFlags, OpenTreeFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// Attributes that can be set on a mount (include/uapi/linux/mount.h).
pub mod attr {
    /// Read-only.
    pub const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
    /// Set-user-id and file capabilities are ignored.
    pub const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
    /// Device nodes cannot be opened.
    pub const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
    /// Nothing can be executed.
    pub const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;
    /// Reading does not change access times.
    pub const NOATIME: u64 = libc::MOUNT_ATTR_NOATIME;
    /// The bits that hold the access-time mode; must be in `clear` when one of them is set.
    pub const ATIME_MASK: u64 = libc::MOUNT_ATTR__ATIME;
    /// Owners are shifted by a user namespace; see [`super::set_attributes`].
    pub const IDMAP: u64 = libc::MOUNT_ATTR_IDMAP;
}

/// Clones the mount at `path` (with what is mounted below it, when `recursive`) as a detached tree.
pub fn clone_tree(path: impl AsRef<Path>, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(rustix::mount::open_tree(CWD, path.as_ref(), flags)?)
}

/// Clones the mount that `place` is open on, from there on (with what is mounted below it, when
/// `recursive`), as a detached tree.
///
/// # Errors
/// `INVAL` where what is mounted below it cannot be taken apart from it, since it has come from a mount
/// namespace of more privilege.
pub fn clone_at(place: impl AsFd, recursive: bool) -> rustix::io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(place, "", flags)
}

/// Attaches the detached `tree` over what `target` stands for.
pub fn attach_over(tree: impl AsFd, target: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(tree, "", target, "", flags)?)
}

/// Sets and clears mount attributes of the tree that `mount` stands for (mount_setattr(2)).
///
/// With [`attr::IDMAP`] in `set`, `user_namespace` says how owners are shifted; the mount must be
/// detached and the file system must support it.
pub fn set_attributes(
    mount: BorrowedFd<'_>,
    recursive: bool,
    set: u64,
    clear: u64,
    user_namespace: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: set,
        attr_clr: clear,
        propagation: 0,
        userns_fd: user_namespace.map_or(0, |fd| u64::from(fd.as_raw_fd().cast_unsigned())),
    };
    change(mount, recursive, &attributes)
}

/// Parts the tree that `mount` stands for from others: what is mounted there later does not come in.
pub fn set_private(mount: BorrowedFd<'_>, recursive: bool) -> io::Result<()> {
    let attributes =
        libc::mount_attr { attr_set: 0, attr_clr: 0, propagation: libc::MS_PRIVATE, userns_fd: 0 };
    change(mount, recursive, &attributes)
}

fn change(mount: BorrowedFd<'_>, recursive: bool, attributes: &libc::mount_attr) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a static empty C string, `attributes` lives across the call, and the size
    // passed is its size; the kernel only reads it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Opens the file at `path` for reading through a read-only clone of its mount, so that nobody who
/// gets at the descriptor (`/proc/PID/exe`, say) can write to the file.
pub fn read_only_file(path: impl AsRef<Path>) -> io::Result<OwnedFd> {
    let tree = clone_tree(std::fs::canonicalize(path)?, false)?;
    set_attributes(tree.as_fd(), false, attr::RDONLY, 0, None)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let through = format!("/proc/self/fd/{}", tree.as_raw_fd());
    Ok(rustix::fs::openat(CWD, through, flags, Mode::empty())?)
}

/// Runs `work` in a fresh thread that has entered the mount namespace `namespace`, with its root as
/// the root and working directory; a panic in it goes on in the caller. Descriptors that were opened
/// before stay what they are, detached trees among them.
///
/// # Errors
/// Where the namespace cannot be entered, which takes CAP_SYS_ADMIN and CAP_SYS_CHROOT.
pub fn within<R: Send>(
    namespace: BorrowedFd<'_>,
    work: impl FnOnce() -> R + Send,
) -> io::Result<R> {
    in_thread(|| {
        // SAFETY: only the thread's own root and working directory are parted from the others'.
        unsafe { unshare_unsafe(UnshareFlags::FS) }?;
        move_into_link_name_space(namespace, Some(LinkNameSpaceType::Mount))?;
        Ok(work())
    })?
}

/// Runs `work` in a fresh thread with a copy of the mounts that nobody else sees, and that goes with
/// the thread: to put trees together that are then cloned.
///
/// # Errors
/// Without CAP_SYS_ADMIN.
pub fn apart<R: Send>(work: impl FnOnce() -> R + Send) -> io::Result<R> {
    in_thread(|| {
        // SAFETY: the thread's own view of the mounts, its root and its working directory are parted
        // from the others'; descriptors stay shared.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private)?;
        Ok(work())
    })?
}

fn in_thread<R: Send>(work: impl FnOnce() -> R + Send) -> io::Result<R> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("mounts".into()).spawn_scoped(scope, work)?;
        match thread.join() {
            Ok(result) => Ok(result),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
