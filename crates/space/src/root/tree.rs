//! A tree of the host as a set of cloned mounts: the mount that a path is on and the real file
//! systems below it, without the pseudo ones.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use hyperspector_sys::mount::{attach_over, attr, clone_at};
use hyperspector_sys::mountinfo::{self, Mounted};
use hyperspector_sys::path::{beneath, canonical, directory};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxFlags, openat2, statx};

use super::{Failed, Shift, Step, attach};

/// Detached clones of a tree's mounts, the topmost first.
pub(crate) struct Tree {
    /// Where it is on the host, without links.
    pub(crate) source: PathBuf,
    parts: Vec<Part>,
    /// Mounts that are not shown, with the reason.
    left_out: Vec<String>,
}

struct Part {
    /// Where it belongs, from the tree's root.
    place: PathBuf,
    /// The kind of file system.
    kind: String,
    mount: OwnedFd,
}

/// Clones the tree below `source`, shifting owners. The file system that `source` is on is a must;
/// one mounted below it that cannot be shown is left out, since whoever may mount on the host could
/// otherwise keep every portspace from starting.
pub(crate) fn whole(source: &Path, shift: &Shift<'_>) -> Result<Tree, Failed> {
    let step = || format!("show {}", source.display());
    let source = canonical(source).step(step)?;
    let table = fs::read("/proc/self/mountinfo").step(|| "read the mount table".into())?;
    let kind = kind_of(&source, &table);
    let top = part(&source, None, PathBuf::new(), &kind, shift)
        .map_err(|cause| explain(cause, &kind))
        .step(step)?;
    let (mut parts, mut left_out) = (vec![top], Vec::new());
    let mut absent: Vec<PathBuf> = Vec::new();
    for Mounted { id, place: path, kind, .. } in below(&source, &table) {
        let place = path.strip_prefix(&source).unwrap_or(&path).to_owned();
        let shown = if let Some(reason) = mountinfo::refused(&kind) {
            Err(io::Error::other(reason))
        } else if let Some(above) = absent.iter().find(|above| path.starts_with(above)) {
            // There is no place to attach it at.
            Err(io::Error::other(format!("it is below {}", above.display())))
        } else {
            part(&path, Some(id), place, &kind, shift)
        };
        match shown {
            Ok(part) => parts.push(part),
            // A mount that another one covers cannot be reached by its path.
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
            Err(cause) => {
                let cause = explain(cause, &kind);
                left_out.push(format!("left out: {} ({kind}): {cause}", path.display()));
                absent.push(path);
            }
        }
    }
    Ok(Tree { source, parts, left_out })
}

/// Clones the mount at `path`, which holds no links, and which must be the mount `id` where that is
/// given: between reading the mount table and here, somebody may have put something else there.
fn part(
    path: &Path,
    id: Option<u64>,
    place: PathBuf,
    kind: &str,
    shift: &Shift<'_>,
) -> io::Result<Part> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let opened = openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
    if let Some(id) = id {
        let found = statx(&opened, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
        if found.stx_mnt_id != id {
            return Err(io::ErrorKind::NotFound.into());
        }
    }
    let mount = clone_at(&opened, false)?;
    shift.apply(mount.as_fd(), 0)?;
    Ok(Part { place, kind: kind.to_owned(), mount })
}

/// Says what would be right where the kernel cannot shift the owner of the file at `path`.
pub(crate) fn explain_at(cause: io::Error, path: &Path) -> io::Error {
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    explain(cause, &kind_of(path, &table))
}

/// Says what would be right where the kernel cannot shift owners.
fn explain(cause: io::Error, kind: &str) -> io::Error {
    if cause.raw_os_error() == Some(libc::EINVAL) {
        let text = format!(
            "the kernel cannot shift owners on {kind}; ids = \"host\" would show them unshifted"
        );
        return io::Error::new(io::ErrorKind::Unsupported, text);
    }
    cause
}

impl Tree {
    /// Which file systems it is made of, for people.
    pub(crate) fn describe(&self) -> Vec<String> {
        let shown =
            self.parts.iter().map(|part| format!("/{} ({})", part.place.display(), part.kind));
        shown.chain(self.left_out.iter().cloned()).collect()
    }

    /// Attaches all of it at `place` with the attributes `set`.
    pub(crate) fn attach(&self, place: &Path, set: u64) -> Result<(), Failed> {
        for part in &self.parts {
            let step = || format!("attach /{}", part.place.display());
            let (set, clear) = (set | attr::NOATIME, attr::ATIME_MASK);
            hyperspector_sys::mount::set_attributes(part.mount.as_fd(), false, set, clear, None)
                .step(step)?;
            if part.place.as_os_str().is_empty() {
                attach(part.mount.as_fd(), place).step(step)?;
            } else {
                let target =
                    directory(place).and_then(|top| beneath(top, &part.place)).step(step)?;
                attach_over(part.mount.as_fd(), target.as_fd()).step(step)?;
            }
        }
        Ok(())
    }

    /// The clones, each with its place from the tree's root; the topmost first.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (&Path, BorrowedFd<'_>)> {
        self.parts.iter().map(|part| (part.place.as_path(), part.mount.as_fd()))
    }

    /// The places and kinds of the mounts below the topmost one, from the tree's root.
    pub(crate) fn places(&self) -> impl Iterator<Item = (&Path, &str)> {
        self.parts.iter().skip(1).map(|part| (part.place.as_path(), part.kind.as_str()))
    }
}

/// The mounts below `source`, parents before children: at each place the last, which is seen there.
/// What is mounted below a pseudo file system (/dev/shm, /sys/fs/cgroup) belongs to it.
fn below(source: &Path, table: &[u8]) -> Vec<Mounted> {
    let mut real: BTreeMap<PathBuf, Mounted> = BTreeMap::new();
    let mut pseudo: BTreeSet<PathBuf> = BTreeSet::new();
    for mounted in mountinfo::mounts(table) {
        if mounted.place == source || !mounted.place.starts_with(source) {
            continue;
        }
        let is_below_pseudo = mounted.place.ancestors().any(|above| pseudo.contains(above));
        if mountinfo::is_pseudo(&mounted.kind) || is_below_pseudo {
            pseudo.insert(mounted.place);
        } else {
            real.insert(mounted.place.clone(), mounted);
        }
    }
    real.into_values().collect()
}

/// The kind of file system that `path` is on.
fn kind_of(path: &Path, table: &[u8]) -> String {
    mountinfo::mounts(table)
        .filter(|mounted| path.starts_with(&mounted.place))
        .max_by_key(|mounted| mounted.place.as_os_str().len())
        .map_or_else(|| "unknown".to_owned(), |mounted| mounted.kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
22 27 0:21 / /proc rw - proc proc rw
24 27 0:6 / /dev rw - devtmpfs devtmpfs rw
25 24 0:23 / /dev/shm rw - tmpfs tmpfs rw
27 1 254:0 / / rw - ext4 /dev/vda rw
28 27 0:7 / /run rw - tmpfs tmpfs rw
29 27 254:1 / /srv/my\\040data rw - xfs /dev/vdb rw
";

    #[test]
    fn pseudo_file_systems_and_what_is_below_them_are_left_out() {
        let found = below(Path::new("/"), TABLE);
        let paths: Vec<_> = found.iter().map(|one| (one.id, one.place.to_str().unwrap())).collect();
        assert_eq!(paths, [(28, "/run"), (29, "/srv/my data")]);
    }

    #[test]
    fn only_what_is_below_the_source_is_taken() {
        assert_eq!(below(Path::new("/srv"), TABLE).len(), 1);
        assert!(below(Path::new("/sr"), TABLE).is_empty());
    }

    #[test]
    fn the_kind_is_that_of_the_longest_mount_point() {
        assert_eq!(kind_of(Path::new("/srv/my data/x"), TABLE), "xfs");
        assert_eq!(kind_of(Path::new("/srv"), TABLE), "ext4");
    }
}
