//! A tree of the host as a set of cloned mounts: the mount that a path is on and the real file
//! systems below it, without the pseudo ones.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use hyperspector_sys::mount::{attr, clone_tree};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

use super::{Failed, Shift, Step, attach, attach_over};

/// File systems that hold no files of a server but the kernel's own data, or another machine's
/// state (filesystems(5)).
const PSEUDO: &[&str] = &[
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "nsfs",
    "proc",
    "pstore",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "sysfs",
    "tracefs",
];

/// Detached clones of a tree's mounts, the topmost first.
pub(crate) struct Tree(Vec<Part>);

struct Part {
    /// Where it belongs, from the tree's root.
    place: PathBuf,
    /// The kind of file system.
    kind: String,
    mount: OwnedFd,
}

/// Clones the tree below `source`, shifting owners.
pub(crate) fn whole(source: &Path, shift: &Shift<'_>) -> Result<Tree, Failed> {
    let step = || format!("show {}", source.display());
    let source = fs::canonicalize(source).step(step)?;
    let table =
        fs::read_to_string("/proc/self/mountinfo").step(|| "read the mount table".into())?;
    let mut parts = vec![part(&source, Path::new(""), kind_of(&source, &table), shift)?];
    for (path, kind) in below(&source, &table) {
        let place = path.strip_prefix(&source).unwrap_or(&path).to_owned();
        match part(&path, &place, kind, shift) {
            Ok(part) => parts.push(part),
            // A mount that another one covers cannot be reached by its path, and is not seen by
            // the server either.
            Err(failed) if failed.cause.kind() == io::ErrorKind::NotFound => {}
            Err(failed) => return Err(failed),
        }
    }
    Ok(Tree(parts))
}

fn part(path: &Path, place: &Path, kind: String, shift: &Shift<'_>) -> Result<Part, Failed> {
    let step = || format!("show {} ({kind})", path.display());
    let mount = clone_tree(path, false).step(step)?;
    shift.apply(mount.as_fd(), 0).map_err(|cause| explain(cause, &kind)).step(step)?;
    Ok(Part { place: place.to_owned(), kind, mount })
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
        self.0.iter().map(|part| format!("/{} ({})", part.place.display(), part.kind)).collect()
    }

    /// Attaches all of it at `place` as a file window: read-only, no set-user-id, no devices,
    /// nothing executed, no access times written.
    pub(crate) fn attach_as_view(&self, place: &Path) -> Result<(), Failed> {
        let set = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;
        self.attach(place, set)
    }

    /// Attaches all of it at `place` with the attributes `set`.
    pub(crate) fn attach(&self, place: &Path, set: u64) -> Result<(), Failed> {
        for part in &self.0 {
            let step = || format!("attach /{}", part.place.display());
            let (set, clear) = (set | attr::NOATIME, attr::ATIME_MASK);
            hyperspector_sys::mount::set_attributes(part.mount.as_fd(), false, set, clear, None)
                .step(step)?;
            if part.place.as_os_str().is_empty() {
                attach(part.mount.as_fd(), place).step(step)?;
            } else {
                let target = beneath(place, &part.place).step(step)?;
                attach_over(part.mount.as_fd(), target.as_fd()).step(step)?;
            }
        }
        Ok(())
    }

    /// The places of the mounts below the topmost one, from the tree's root.
    pub(crate) fn places(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().skip(1).map(|part| part.place.as_path())
    }
}

/// Opens `path` beneath `root` without following links, which a server could have made.
pub(crate) fn beneath(root: &Path, path: &Path) -> io::Result<OwnedFd> {
    let directory = rustix::fs::openat(CWD, root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    Ok(openat2(directory, path.strip_prefix("/").unwrap_or(path), flags, Mode::empty(), resolve)?)
}

/// The mounts below `source` that hold real files: path and kind, parents before children.
fn below(source: &Path, table: &str) -> Vec<(PathBuf, String)> {
    let mut pseudo: Vec<PathBuf> = Vec::new();
    let mut real = Vec::new();
    for (path, kind) in entries(table) {
        if path == source || !path.starts_with(source) {
            continue;
        }
        // What is mounted below a pseudo file system (/dev/shm, /sys/fs/cgroup) belongs to it.
        if PSEUDO.contains(&kind) || pseudo.iter().any(|above| path.starts_with(above)) {
            pseudo.push(path);
        } else {
            real.push((path, kind.to_owned()));
        }
    }
    real.sort();
    real.dedup_by(|a, b| a.0 == b.0);
    real
}

/// The kind of file system that `path` is on.
fn kind_of(path: &Path, table: &str) -> String {
    entries(table)
        .filter(|(mount, _)| path.starts_with(mount))
        .max_by_key(|(mount, _)| mount.as_os_str().len())
        .map_or_else(|| "unknown".to_owned(), |(_, kind)| kind.to_owned())
}

/// Mount points and kinds, from the text of mountinfo (proc_pid_mountinfo(5)).
fn entries(table: &str) -> impl Iterator<Item = (PathBuf, &str)> {
    table.lines().filter_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        let path = mount.split(' ').nth(4)?;
        Some((unescape(path), source.split(' ').next()?))
    })
}

/// Undoes mountinfo's octal escapes.
fn unescape(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|_| first == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(octal.unwrap_or(first));
        rest = if octal.is_some() { &tail[3..] } else { tail };
    }
    std::ffi::OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
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
        let paths: Vec<_> = found.iter().map(|(path, _)| path.to_str().unwrap()).collect();
        assert_eq!(paths, ["/run", "/srv/my data"]);
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
