//! Walking a tree that somebody else changes meanwhile, without following a link.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, ResolveFlags, openat, openat2};

/// How many entries are looked at in one walk at most.
const MOST: usize = 5_000_000;
/// How many bytes their paths have together at most.
const MOST_BYTES: usize = 1 << 30;

/// An entry of a directory.
pub(crate) struct Found<'a> {
    /// Where it is, from the tree's root: `/a/b`.
    pub(crate) path: Vec<u8>,
    /// The directory that it is in.
    pub(crate) directory: &'a OwnedFd,
    /// Its name there.
    pub(crate) name: &'a CStr,
    /// What the directory says that it is.
    pub(crate) kind: FileType,
    /// Its inode's number, as the directory says.
    pub(crate) inode: u64,
}

/// Looks at everything below `start`, a path from `root`. What goes away meanwhile is passed over.
/// Returns the directories that could not be looked into.
///
/// # Errors
/// Where `root` cannot be opened, `visit` fails, or the tree is larger than can be walked.
pub(crate) fn walk(
    root: &Path,
    start: &[u8],
    mut visit: impl FnMut(&Found<'_>) -> io::Result<()>,
) -> io::Result<Vec<Vec<u8>>> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let root = openat(CWD, root, flags, Mode::empty())?;
    let (mut due, mut unread) = (vec![start.to_vec()], Vec::new());
    let (mut seen, mut bytes) = (0_usize, 0_usize);
    while let Some(path) = due.pop() {
        let directory = match open_below(&root, &path) {
            Ok(directory) => directory,
            Err(error) if is_gone(error) => continue,
            Err(_) => {
                unread.push(path);
                continue;
            }
        };
        let mut entries = Dir::read_from(&directory)?;
        while let Some(entry) = entries.read() {
            let Ok(entry) = entry else {
                unread.push(path.clone());
                break;
            };
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let below = join(&path, name.to_bytes());
            (seen, bytes) = (seen + 1, bytes + below.len());
            if seen > MOST || bytes > MOST_BYTES {
                return Err(io::Error::other("there are more files than can be looked at"));
            }
            let (kind, inode) = (entry.file_type(), entry.ino());
            let found = Found { path: below, directory: &directory, name, kind, inode };
            visit(&found)?;
            if kind == FileType::Directory {
                due.push(found.path);
            }
        }
    }
    Ok(unread)
}

/// Opens the directory at `path` below `root`.
fn open_below(root: &OwnedFd, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    for _ in 0..100 {
        match openat2(root, relative(path), flags, Mode::empty(), resolve) {
            Err(rustix::io::Errno::AGAIN) => {}
            other => return other,
        }
    }
    Err(rustix::io::Errno::AGAIN)
}

fn is_gone(error: rustix::io::Errno) -> bool {
    use rustix::io::Errno;
    matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE)
}

/// `path` as seen from the root's own directory.
pub(crate) fn relative(path: &[u8]) -> &[u8] {
    match path.strip_prefix(b"/").unwrap_or(path) {
        b"" => b".",
        below => below,
    }
}

/// The directory that `path` is in; the root's own is itself.
pub(crate) fn parent(path: &[u8]) -> &[u8] {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(end) if end > 0 => &path[..end],
        _ => b"/",
    }
}

/// The path of `name` in the directory `path`.
pub(crate) fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    let path = path.strip_suffix(b"/").unwrap_or(path);
    [path, b"/", name].concat()
}
