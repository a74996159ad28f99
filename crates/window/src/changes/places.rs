//! From a file handle to the paths at which the server sees the file.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags, fstatfs, openat, readlinkat, statx};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::handle::{Handle, is_gone};

/// A mount in the server's tree.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// Where it is, as the server sees it; `/` is its root.
    pub path: Vec<u8>,
    /// What it is.
    pub role: Role,
    /// Which mount it is: with another one at the same place, this is another.
    #[serde(default)]
    pub key: String,
}

/// What a [`Place`] is to the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// What changes in it is recorded.
    Tree,
    /// The upper layer of an overlay that is mounted there: what changes in it is found by who looks.
    Upper,
    /// The tree below that layer.
    Below,
    /// The overlay itself.
    Whole,
}

/// A place that is held.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) place: Place,
    /// The mount's root, opened.
    pub(super) root: OwnedFd,
    fsid: u64,
    /// The root's handle, where it is a file and no directory.
    file: Option<Handle>,
}

/// The path of a directory in one of the places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct At {
    pub(super) role: Role,
    pub(super) path: Vec<u8>,
    /// Whether it is a directory above the one that was meant, whose own path cannot be told.
    pub(super) is_above: bool,
}

/// All places, and the paths of directories that were asked for.
#[derive(Debug)]
pub(super) struct Places {
    held: Vec<Held>,
    /// What is never told of, as the server sees it.
    hidden: Vec<Vec<u8>>,
    /// `/proc/self/fd`.
    descriptors: OwnedFd,
    known: HashMap<(u64, Handle), Rc<[At]>>,
}

/// How many directories' paths are remembered.
const REMEMBERED: usize = 1 << 16;

/// How a file is opened whose metadata alone is wanted.
pub(super) const PLACE: OFlags = OFlags::PATH.union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);
/// How a directory is opened whose path is too long to be told.
pub(super) const PARENT: OFlags = OFlags::PATH.union(OFlags::CLOEXEC).union(OFlags::DIRECTORY);

impl Places {
    pub(super) fn new() -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let descriptors = rustix::fs::open("/proc/self/fd", flags, Mode::empty())?;
        Ok(Self { held: Vec::new(), hidden: Vec::new(), descriptors, known: HashMap::new() })
    }

    /// Adds a place; `root` is the mount's root, opened for reading.
    ///
    /// # Errors
    /// Where files there cannot be told apart by handles.
    pub(super) fn add(&mut self, place: Place, root: OwnedFd) -> io::Result<()> {
        let fsid = fsid(&root)?;
        let mut file = None;
        if matches!(place.role, Role::Tree | Role::Upper) {
            let handle = Handle::of(root.as_fd())?;
            handle.open(&root)?;
            let found = statx(&root, "", AtFlags::EMPTY_PATH, StatxFlags::TYPE)?;
            let is_directory =
                FileType::from_raw_mode(found.stx_mode.into()) == FileType::Directory;
            file = (!is_directory).then_some(handle);
        }
        self.remove(&place);
        self.held.push(Held { place, root, fsid, file });
        Ok(())
    }

    /// Lets go of a place. Returns whether it was there.
    pub(super) fn remove(&mut self, place: &Place) -> bool {
        let before = self.held.len();
        self.held.retain(|held| held.place != *place);
        self.forget();
        self.held.len() != before
    }

    /// Has these paths never be told of.
    pub(super) fn hide(&mut self, hidden: Vec<Vec<u8>>) {
        self.hidden = hidden;
        self.forget();
    }

    /// Forgets what directories are called, since one was renamed or removed.
    pub(super) fn forget(&mut self) {
        self.known.clear();
    }

    pub(super) fn held(&self) -> &[Held] {
        &self.held
    }

    /// Whether the path is one that is never told of.
    pub(super) fn is_hidden(&self, path: &[u8]) -> bool {
        self.hidden.iter().any(|hidden| {
            path.strip_prefix(&hidden[..]).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
        })
    }

    /// Where the directory `handle` is; nowhere when it is gone, or outside of every place.
    pub(super) fn directory(&mut self, fsid: u64, handle: &Handle) -> io::Result<Rc<[At]>> {
        let key = (fsid, handle.clone());
        if let Some(known) = self.known.get(&key) {
            return Ok(known.clone());
        }
        let mut found = Vec::new();
        for held in self.held.iter().filter(|held| held.watches(fsid) && held.file.is_none()) {
            found.extend(self.locate(held, handle)?);
        }
        found.retain(|at| at.role == Role::Upper || !self.is_hidden(&at.path));
        let found: Rc<[At]> = found.into();
        if self.known.len() >= REMEMBERED {
            self.forget();
        }
        self.known.insert(key, found.clone());
        Ok(found)
    }

    /// Where a directory is in one place.
    fn locate(&self, held: &Held, handle: &Handle) -> io::Result<Option<At>> {
        let mut directory = match handle.open(&held.root) {
            Err(error) if is_gone(&error) => return Ok(None),
            other => other?,
        };
        if link_count(&directory)? == 0 {
            return Ok(None);
        }
        let mut is_above = false;
        loop {
            // Fails where it is not below the mount's root: the path would be another one's.
            let parent = match openat(&directory, "..", PARENT, Mode::empty()) {
                Err(Errno::NOENT) => return Ok(None),
                other => other?,
            };
            match self.path_of(&directory) {
                Ok(path) => {
                    let path = below(&held.place.path, &path);
                    return Ok(Some(At { role: held.place.role, path, is_above }));
                }
                Err(Errno::NAMETOOLONG) => (directory, is_above) = (parent, true),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The path of what is open, in its mount.
    fn path_of(&self, fd: &OwnedFd) -> rustix::io::Result<Vec<u8>> {
        let name = fd.as_raw_fd().to_string();
        Ok(readlinkat(&self.descriptors, name, Vec::new())?.into_bytes())
    }

    /// The places that are the single file `handle`.
    pub(super) fn files<'a>(
        &'a self,
        fsid: u64,
        handle: &'a Handle,
    ) -> impl Iterator<Item = &'a [u8]> {
        let all = self.held.iter().filter(move |held| held.watches(fsid));
        all.filter(move |held| held.file.as_ref() == Some(handle)).map(|held| &held.place.path[..])
    }

    /// This process's descriptors, as a directory.
    pub(super) fn descriptors(&self) -> BorrowedFd<'_> {
        self.descriptors.as_fd()
    }

    /// A directory of this file system that is mounted.
    pub(super) fn any(&self, fsid: u64) -> Option<&Held> {
        self.held.iter().find(|held| held.watches(fsid) && held.file.is_none())
    }

    /// A directory of this file system that is mounted and whose changes are recorded.
    pub(super) fn any_tree(&self, fsid: u64) -> Option<&Held> {
        let mut trees = self.held.iter().filter(|held| held.place.role == Role::Tree);
        trees.find(|held| held.watches(fsid) && held.file.is_none())
    }

    /// The one path of a file that has one name, in every place; nothing where the kernel does not
    /// know it just now.
    pub(super) fn only_name(&self, fsid: u64, handle: &Handle, inode: u64) -> Vec<Vec<u8>> {
        let trees = self.held.iter().filter(|held| held.place.role == Role::Tree);
        trees
            .filter(|held| held.watches(fsid) && held.file.is_none())
            .filter_map(|held| {
                let path = self.path_of(&handle.open(&held.root).ok()?).ok()?;
                let relative = path.strip_prefix(b"/").filter(|path| !path.is_empty())?;
                let again = openat(&held.root, relative, PLACE, Mode::empty()).ok()?;
                let found = statx(&again, "", AtFlags::EMPTY_PATH, StatxFlags::INO).ok()?;
                (found.stx_ino == inode).then(|| below(&held.place.path, &path))
            })
            .collect()
    }
}

impl Held {
    fn watches(&self, fsid: u64) -> bool {
        self.fsid == fsid && matches!(self.place.role, Role::Tree | Role::Upper)
    }
}

/// `path`, which begins with a slash, below the mount at `place`.
fn below(place: &[u8], path: &[u8]) -> Vec<u8> {
    let place = place.strip_suffix(b"/").unwrap_or(place);
    let path = path.strip_suffix(b"/").unwrap_or(path);
    let whole = [place, path].concat();
    if whole.is_empty() { b"/".to_vec() } else { whole }
}

/// The path of `name` in the directory `path`; the directory's own for `.`.
pub(super) fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if name == b"." {
        return path.to_vec();
    }
    [path.strip_suffix(b"/").unwrap_or(path), b"/", name].concat()
}

fn link_count(fd: &OwnedFd) -> io::Result<u32> {
    Ok(statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::NLINK)?.stx_nlink)
}

/// The file system's number, as events have it.
fn fsid(fd: &OwnedFd) -> io::Result<u64> {
    let found = fstatfs(fd)?;
    // SAFETY: fsid_t is two ints, eight bytes without padding.
    Ok(u64::from_ne_bytes(unsafe {
        std::mem::transmute::<rustix::fs::Fsid, [u8; 8]>(found.f_fsid)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_put_together() {
        assert_eq!(below(b"/", b"/"), b"/");
        assert_eq!(below(b"/", b"/a"), b"/a");
        assert_eq!(below(b"/srv", b"/"), b"/srv");
        assert_eq!(below(b"/srv", b"/a/b"), b"/srv/a/b");
        assert_eq!(join(b"/", b"x"), b"/x");
        assert_eq!(join(b"/a", b"."), b"/a");
    }

    #[test]
    fn hidden_is_what_is_below_a_hidden_path() {
        let mut places = Places::new().unwrap();
        places.hide(vec![b"/var/lib/hyperspector".to_vec()]);
        assert!(places.is_hidden(b"/var/lib/hyperspector"));
        assert!(places.is_hidden(b"/var/lib/hyperspector/x"));
        assert!(!places.is_hidden(b"/var/lib/hyperspectors"));
    }
}
