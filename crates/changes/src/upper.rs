//! What changed in the upper layer of an overlay, found by comparing it with how it was.
//!
//! The layer holds just what differs from the tree below it, so looking at all of it costs in proportion
//! to that. Whatever is written to a file gives it a new change time, which nobody but who sets the
//! machine's clock can choose.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, StatxFlags, statx};
use serde::{Deserialize, Serialize};

use crate::record::Kinds;
use crate::walk;

/// An upper layer at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Every path in it.
    #[serde(with = "entries")]
    files: BTreeMap<Vec<u8>, Stamp>,
    /// What is in the tree below the layer and does not show through it.
    #[serde(with = "paths")]
    deleted: BTreeSet<Vec<u8>>,
    /// Directories in which something cannot be looked into: below a path that is too long, say.
    #[serde(default, with = "paths")]
    unread: BTreeSet<Vec<u8>>,
}

/// What tells that a file is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    /// The inode's number.
    i: u64,
    /// The time of its last change, seconds and nanoseconds.
    s: i64,
    n: u32,
    /// What it is.
    k: Kind,
}

impl Stamp {
    fn of(found: &rustix::fs::Statx) -> Self {
        let (k, time) = (Kind::of(found), found.stx_ctime);
        match k {
            // The kernel has many of them be one file, whose number of names changes.
            Kind::Whiteout => Self { i: 0, s: 0, n: 0, k },
            _ => Self { i: found.stx_ino, s: time.tv_sec, n: time.tv_nsec, k },
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    #[serde(rename = "d")]
    Directory,
    /// A deleted path, as overlayfs has it: a character device 0, 0.
    #[serde(rename = "w")]
    Whiteout,
    #[serde(rename = "o")]
    Other,
}

impl Kind {
    fn of(found: &rustix::fs::Statx) -> Self {
        match FileType::from_raw_mode(found.stx_mode.into()) {
            FileType::Directory => Self::Directory,
            FileType::CharacterDevice if (found.stx_rdev_major, found.stx_rdev_minor) == (0, 0) => {
                Self::Whiteout
            }
            _ => Self::Other,
        }
    }
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) path: Vec<u8>,
    pub(crate) kinds: Kinds,
    /// A directory that was not there: what was below it in the tree under the layer may be elsewhere.
    pub(crate) is_new_directory: bool,
}

impl Snapshot {
    /// Looks at upper layers, each with the path of its overlay, and the list of deleted paths.
    pub fn take(layers: &[(Vec<u8>, PathBuf)], deleted: Option<&Path>) -> io::Result<Self> {
        let mut taken = Self::default();
        for (place, root) in layers {
            taken.look(place, root)?;
        }
        taken.deleted = deleted.map(read_deleted).transpose()?.unwrap_or_default();
        Ok(taken)
    }

    /// Directories below which anything may have changed.
    pub(crate) fn unread(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.unread.iter()
    }

    /// Looks at the layer at `root`, of the overlay at `place`.
    fn look(&mut self, place: &[u8], root: &Path) -> io::Result<()> {
        let above = place.strip_suffix(b"/").unwrap_or(place);
        let unread = walk::walk(root, b"/", |found| {
            let wanted = StatxFlags::INO | StatxFlags::CTIME | StatxFlags::TYPE;
            match statx(found.directory, found.name, AtFlags::SYMLINK_NOFOLLOW, wanted) {
                Ok(now) => {
                    self.files.insert([above, &found.path].concat(), Stamp::of(&now));
                    Ok(())
                }
                Err(rustix::io::Errno::NOENT) => Ok(()),
                Err(error) => Err(error.into()),
            }
        })?;
        // The one that it is in could be opened, so whoever scans can name that.
        self.unread.extend(unread.iter().map(|path| [above, walk::parent(path)].concat()));
        Ok(())
    }

    /// What differs from `before`.
    pub(crate) fn since(&self, before: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut change = |path: &[u8], kinds, is_new_directory| {
            changes.push(Change { path: path.to_vec(), kinds, is_new_directory });
        };
        for (path, now) in &self.files {
            match before.files.get(path) {
                Some(then) if then == now => {}
                _ if now.k == Kind::Whiteout => change(path, Kinds::DELETED, false),
                Some(then) if then.i == now.i => change(path, Kinds::MODIFIED, false),
                _ => change(path, Kinds::CREATED, now.k == Kind::Directory),
            }
        }
        let gone = before.files.keys().filter(|path| !self.files.contains_key(*path));
        // What is not deleted any more has come back, and is the same as before or in the layer.
        let deleted = self.deleted.symmetric_difference(&before.deleted);
        for path in gone.chain(deleted) {
            change(path, Kinds::DELETED, false);
        }
        changes
    }
}

fn read_deleted(path: &Path) -> io::Result<BTreeSet<Vec<u8>>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    let paths = bytes.split(|byte| *byte == 0).filter(|path| !path.is_empty());
    Ok(paths.map(<[u8]>::to_vec).collect())
}

/// Bytes as a string that JSON can hold: each byte is the character of its number.
fn to_text(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

fn to_bytes(text: &str) -> Option<Vec<u8>> {
    text.chars().map(|character| u8::try_from(u32::from(character)).ok()).collect()
}

mod entries {
    use super::{BTreeMap, Stamp, to_bytes, to_text};
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    pub(super) fn serialize<S: Serializer>(
        files: &BTreeMap<Vec<u8>, Stamp>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_map(files.iter().map(|(path, stamp)| (to_text(path), stamp)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<BTreeMap<Vec<u8>, Stamp>, D::Error> {
        let texts = BTreeMap::<String, Stamp>::deserialize(from)?;
        let read = |(text, stamp): (String, Stamp)| Some((to_bytes(&text)?, stamp));
        texts.into_iter().map(|one| read(one).ok_or_else(|| Error::custom("no path"))).collect()
    }
}

mod paths {
    use super::{BTreeSet, to_bytes, to_text};
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    pub(super) fn serialize<S: Serializer>(
        paths: &BTreeSet<Vec<u8>>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_seq(paths.iter().map(|path| to_text(path)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<BTreeSet<Vec<u8>>, D::Error> {
        let texts = Vec::<String>::deserialize(from)?;
        texts.iter().map(|text| to_bytes(text).ok_or_else(|| Error::custom("no path"))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn what_lies_too_deep_is_told_by_a_directory_above() {
        use rustix::fs::{Mode, OFlags, mkdirat, openat};
        let home = tempfile::tempdir().unwrap();
        let name = "d".repeat(250);
        let mut directory: std::os::fd::OwnedFd = fs::File::open(home.path()).unwrap().into();
        for _ in 0..20 {
            mkdirat(&directory, &name, Mode::RWXU).unwrap();
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            directory = openat(&directory, &name, flags, Mode::empty()).unwrap();
        }
        let layers = [(b"/".to_vec(), home.path().to_owned())];
        let taken = Snapshot::take(&layers, None).unwrap();
        let unread: Vec<_> = taken.unread().collect();
        assert_eq!(unread.len(), 1);
        assert!((3500..4096).contains(&unread[0].len()) && taken.files.contains_key(unread[0]));
    }

    #[test]
    fn only_what_changed_is_told_and_all_of_it() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("upper");
        fs::create_dir_all(root.join("etc/old")).unwrap();
        let layers = [(b"/".to_vec(), root.clone())];
        let take = |deleted| Snapshot::take(&layers, deleted);
        for name in ["etc/kept", "etc/written", "etc/old/x", "etc/gone"] {
            fs::write(root.join(name), "1").unwrap();
        }
        let odd = root.join(OsStr::from_bytes(b"odd\n\xff"));
        fs::write(&odd, "1").unwrap();
        let before = take(None).unwrap();
        let text = serde_json::to_string(&before).unwrap();
        let before: Snapshot = serde_json::from_str(&text).unwrap();
        assert!(take(None).unwrap().since(&before).is_empty());

        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::write(root.join("etc/written"), "2").unwrap();
        fs::write(&odd, "2").unwrap();
        fs::remove_file(root.join("etc/gone")).unwrap();
        fs::rename(root.join("etc/old"), root.join("etc/new")).unwrap();
        let deleted = home.path().join("deleted");
        fs::write(&deleted, b"/usr/bin/x\0").unwrap();
        let now = take(Some(deleted.as_path())).unwrap();
        let mut paths: Vec<_> = now.since(&before).into_iter().map(|one| one.path).collect();
        paths.sort();
        let expected: [&[u8]; 9] = [
            b"/etc",
            b"/etc/gone",
            b"/etc/new",
            b"/etc/new/x",
            b"/etc/old",
            b"/etc/old/x",
            b"/etc/written",
            b"/odd\n\xff",
            b"/usr/bin/x",
        ];
        assert_eq!(paths, expected);
    }
}
