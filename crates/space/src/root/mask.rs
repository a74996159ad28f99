//! Hiding: an empty directory over a directory, an empty file over a file, both read-only.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use hyperspector_sys::mount::{attr, clone_tree, set_attributes};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, openat2};

use super::{Failed, Step, attach_over, pseudo};
use crate::config::Bind;

/// What lies over hidden paths.
pub(crate) struct Blank {
    place: PathBuf,
}

/// Where what lies over hidden paths is, from a space's root: an empty `directory` and an empty
/// `file`, in a file system of ours. It stays, for what is hidden later.
pub const BLANK: &str = "sys/.masked";

impl Blank {
    /// Makes the empty file and directory below `root`.
    pub(crate) fn prepare(root: &Path) -> Result<Self, Failed> {
        let blank = Self::at(root);
        let step = || "make what lies over hidden paths".to_owned();
        fs::create_dir(&blank.place).step(step)?;
        fs::create_dir(blank.place.join("directory")).step(step)?;
        fs::write(blank.place.join("file"), "").step(step)?;
        Ok(blank)
    }

    /// Finds them again.
    pub(crate) fn at(root: &Path) -> Self {
        Self { place: root.join(BLANK) }
    }

    /// Hides `paths`, absolute as seen from `root`; what is not there needs no hiding.
    pub(crate) fn hide(&self, root: &Path, paths: &[PathBuf]) -> Result<(), Failed> {
        for path in paths {
            let step = || format!("hide {}", path.display());
            match found(root, path) {
                Ok(target) => self.cover(&target).step(step)?,
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(error).step(step),
            }
        }
        Ok(())
    }

    fn cover(&self, target: &OwnedFd) -> io::Result<()> {
        let is_dir = FileType::from_raw_mode(rustix::fs::fstat(target)?.st_mode).is_dir();
        let blank = self.place.join(if is_dir { "directory" } else { "file" });
        let blank = clone_tree(blank, false)?;
        let set = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;
        set_attributes(blank.as_fd(), false, set, 0, None)?;
        attach_over(blank.as_fd(), target.as_fd())
    }
}

/// Hides those of `masks` below which something is mounted: an empty directory of its own lies over
/// each, in which there can be places to mount at. Returns where they are, to be made read-only.
pub(crate) fn above(
    root: &Path,
    masks: &[PathBuf],
    mounts: &[Bind],
) -> Result<Vec<PathBuf>, Failed> {
    let mut places = Vec::new();
    for path in masks.iter().filter(|path| has_below(path, mounts)) {
        let step = || format!("hide {}", path.display());
        let target = match found(root, path) {
            Err(error) if is_absent(&error) => continue,
            other => other.step(step)?,
        };
        let place = fs::read_link(format!("/proc/self/fd/{}", target.as_raw_fd())).step(step)?;
        pseudo::small_tmpfs(&place, "0755")?;
        places.push(place);
    }
    Ok(places)
}

/// The other masks.
pub(crate) fn not_above(masks: &[PathBuf], mounts: &[Bind]) -> Vec<PathBuf> {
    masks.iter().filter(|path| !has_below(path, mounts)).cloned().collect()
}

fn has_below(mask: &Path, mounts: &[Bind]) -> bool {
    mounts.iter().any(|bind| bind.to != *mask && bind.to.starts_with(mask))
}

/// What is at `path` seen from `root`, links followed as they would be from there.
pub(crate) fn found(root: &Path, path: &Path) -> io::Result<OwnedFd> {
    let directory = rustix::fs::openat(CWD, root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let below = path.strip_prefix("/").unwrap_or(path);
    let path = if below.as_os_str().is_empty() { Path::new(".") } else { below };
    resolved(&directory, path, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
}

/// What is at `path` in `directory`, where no link is on the way (`ELOOP` else).
pub(crate) fn without_links(directory: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    resolved(directory, path, ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS)
}

/// Opens `path`; the kernel wants another try when somebody renames something meanwhile (openat2(2)).
fn resolved(directory: &OwnedFd, path: &Path, resolve: ResolveFlags) -> io::Result<OwnedFd> {
    for _ in 0..MOST_TRIES {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        match openat2(directory, path, flags, Mode::empty(), resolve) {
            Err(rustix::io::Errno::AGAIN) => {}
            other => return Ok(other?),
        }
    }
    Err(rustix::io::Errno::AGAIN.into())
}

/// How often a path is looked up while others rename.
const MOST_TRIES: usize = 10_000;

pub(crate) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// A place to mount at `path` seen from `root`: what is there, or a new empty file or directory,
/// made without leaving the root whatever links lie on the way.
pub(crate) fn place(root: &Path, path: &Path, is_dir: bool) -> io::Result<OwnedFd> {
    let mut current = found(root, Path::new("/"))?;
    let names: Vec<&OsStr> = path
        .components()
        .filter_map(|part| if let Component::Normal(name) = part { Some(name) } else { None })
        .collect();
    let mut so_far = PathBuf::from("/");
    for (index, name) in names.iter().enumerate() {
        so_far.push(name);
        let next = match found(root, &so_far) {
            Err(error) if is_absent(&error) => {
                let last = index + 1 == names.len();
                make(&current, name, is_dir || !last)?;
                found(root, &so_far)?
            }
            other => other?,
        };
        current = next;
    }
    Ok(current)
}

/// A directory of the root itself to mount on. Whatever else is there goes: the space's own upper
/// layer may hold a link that leads out of the root.
pub(crate) fn top_level(root: &Path, name: &str) -> io::Result<PathBuf> {
    let place = root.join(name);
    match fs::symlink_metadata(&place) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => {
            fs::remove_file(&place)?;
            fs::create_dir(&place)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::create_dir(&place)?,
        Err(error) => return Err(error),
    }
    Ok(place)
}

/// Makes an empty file or directory, with the owner of the directory it is in.
fn make(directory: &OwnedFd, name: &OsStr, is_dir: bool) -> io::Result<()> {
    if is_dir {
        rustix::fs::mkdirat(directory, name, Mode::from_raw_mode(0o755))?;
    } else {
        // A link that leads nowhere (/etc/resolv.conf often is one) would be in the way.
        let _ = rustix::fs::unlinkat(directory, name, AtFlags::empty());
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(0o644))?;
    }
    let owner = rustix::fs::fstat(directory)?;
    let (uid, gid) =
        (rustix::fs::Uid::from_raw(owner.st_uid), rustix::fs::Gid::from_raw(owner.st_gid));
    Ok(rustix::fs::chownat(directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}
