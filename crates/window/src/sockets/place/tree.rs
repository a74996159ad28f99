//! The way to a path in a tree that may be an attacker's.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2, readlinkat};
use rustix::io::Errno;

/// How many links are followed one after the other.
const MOST_LINKS: usize = 8;

pub(in crate::sockets) fn open(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    let flags = flags | OFlags::CLOEXEC;
    match openat2(root, path, flags, Mode::empty(), resolve) {
        Err(Errno::LOOP) => {
            let plain = without_links(root, path)?;
            openat2(root, &plain, flags, Mode::empty(), resolve)
        }
        other => other,
    }
}

/// Where `path` leads over links that are root's or the tree's owner's; `ELOOP` where one is
/// somebody else's, or there are too many. What is not there may be the last part alone.
fn without_links(root: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<PathBuf> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let trusted = [0, fstat(root)?.st_uid];
    let mut due: VecDeque<OsString> = parts(path);
    let (mut plain, mut links) = (PathBuf::from("/"), 0);
    while let Some(part) = due.pop_front() {
        if part == ".." {
            plain.pop();
            continue;
        }
        let next = plain.join(&part);
        // As a file in its directory: of a path that ends in a link, NO_SYMLINKS opens nothing.
        let directory = openat2(root, &plain, flags | OFlags::DIRECTORY, Mode::empty(), resolve)?;
        let file = match openat(&directory, &part, flags, Mode::empty()) {
            Err(Errno::NOENT) if due.is_empty() => return Ok(next),
            other => other?,
        };
        let found = fstat(&file)?;
        if FileType::from_raw_mode(found.st_mode) != FileType::Symlink {
            plain = next;
            continue;
        }
        links += 1;
        if links > MOST_LINKS || !trusted.contains(&found.st_uid) {
            return Err(Errno::LOOP);
        }
        let target = readlinkat(&file, "", Vec::new())?;
        let target = Path::new(OsStr::from_bytes(target.as_bytes()));
        if target.is_absolute() {
            plain = PathBuf::from("/");
        }
        for part in parts(target).into_iter().rev() {
            due.push_front(part);
        }
    }
    Ok(plain)
}

fn parts(path: &Path) -> VecDeque<OsString> {
    let parts = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    parts.collect()
}

/// The directory of `path`, and the name in it, where links lead: also one that leads to nothing yet.
pub(super) fn parent(root: BorrowedFd<'_>, path: &Path) -> io::Result<(OwnedFd, PathBuf)> {
    resolved(root, path).map(|(directory, name, _)| (directory, name))
}

/// As [`parent`], with the path that the two are.
pub(super) fn resolved(
    root: BorrowedFd<'_>,
    path: &Path,
) -> io::Result<(OwnedFd, PathBuf, PathBuf)> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidInput, "the path names no file");
    let path = without_links(root, path)?;
    let (directory, name) = path.parent().zip(path.file_name()).ok_or_else(invalid)?;
    let opened = open(root, directory, OFlags::PATH | OFlags::DIRECTORY)?;
    let name = PathBuf::from(name);
    Ok((opened, name, path))
}

/// A path that leads through a descriptor.
pub(super) fn through(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// The directory `tree` of a process's root, or of our own, to be looked at and not to be kept.
///
/// # Errors
/// As open(2).
pub fn root_of(pid: Option<u32>, tree: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let path = pid.map_or("/".into(), |pid| format!("/proc/{pid}/root"));
    let root = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    root_within(root, tree)
}

/// The directory `tree` in `root`.
pub(in crate::sockets) fn root_within(root: OwnedFd, tree: &Path) -> io::Result<OwnedFd> {
    Ok(open(root.as_fd(), tree, OFlags::PATH | OFlags::DIRECTORY)?)
}
