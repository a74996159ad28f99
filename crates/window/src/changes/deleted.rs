//! The plain list of what an overlay's server has deleted: what is in the tree below its upper layer and
//! does not show.
//!
//! Told by comparing the two, and not from overlayfs's own marks: those of directories can be read by
//! CAP_SYS_ADMIN alone, and in layered images only the kernel knows how they add up. Something can
//! have been deleted only from a directory that the upper layer has too.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Dir, FileType, Mode, OFlags, openat};
use rustix::io::Errno;

use super::places::join;

/// How a directory is opened whose names are wanted.
pub(super) const LIST: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// How many paths are listed, and directories looked at, at most.
const MOST: usize = 200_000;

/// An overlay's three sides.
pub(super) struct Overlay<'a> {
    /// Where the server sees it.
    pub(super) path: &'a [u8],
    pub(super) upper: &'a OwnedFd,
    pub(super) below: &'a OwnedFd,
    pub(super) whole: &'a OwnedFd,
}

/// Lists what is deleted; `None` where that is more than can be listed.
pub(super) fn list(overlay: &Overlay<'_>) -> io::Result<Option<Vec<Vec<u8>>>> {
    let (mut deleted, mut looked) = (Vec::new(), 0);
    let mut due = vec![b".".to_vec()];
    while let Some(path) = due.pop() {
        looked += 1;
        let Some(above) = names(overlay.upper, &path)? else { continue };
        let Some(below) = names(overlay.below, &path)? else { continue };
        // Without it here, it is deleted itself, or a file by now.
        let Some(whole) = names(overlay.whole, &path)? else { continue };
        for (name, _) in below.difference_by_name(&whole) {
            deleted.push(join(&join(overlay.path, &path), name));
        }
        for (name, kind) in &above.0 {
            if *kind == FileType::Directory {
                due.push(if path == b"." { name.clone() } else { join(&path, name) });
            }
        }
        if deleted.len() > MOST || due.len() + looked > MOST {
            return Ok(None);
        }
    }
    deleted.sort();
    Ok(Some(deleted))
}

/// The names in a directory, with what the directory says that they are.
struct Names(Vec<(Vec<u8>, FileType)>);

impl Names {
    fn difference_by_name<'a>(
        &'a self,
        other: &Self,
    ) -> impl Iterator<Item = &'a (Vec<u8>, FileType)> {
        let there: BTreeSet<Vec<u8>> = other.0.iter().map(|(name, _)| name.clone()).collect();
        self.0.iter().filter(move |(name, _)| !there.contains(name))
    }
}

/// The names in the directory `path` of `root`; `None` where there is no such directory.
fn names(root: &OwnedFd, path: &[u8]) -> io::Result<Option<Names>> {
    let directory = match openat(root, path, LIST, Mode::empty()) {
        Ok(directory) => directory,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE | Errno::NAMETOOLONG) => {
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    let mut names = Vec::new();
    for entry in Dir::new(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push((name.to_vec(), entry.file_type()));
        }
    }
    Ok(Some(Names(names)))
}
