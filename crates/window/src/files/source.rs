//! Taking clones of a server's mounts, from inside a copy of its mount namespace.
//!
//! All paths here are the server's to make. They are opened by openat2(2) alone, component by
//! component from the server's root, without following any link, and for nothing but their place.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use hyperspector_sys::mount::{attr, set_attributes};
use hyperspector_sys::mountinfo::{self, Mounted};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxFlags, openat2, statx};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, OpenTreeFlags, mount_change, open_tree};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use super::choice::{self, Candidates};
use super::sync::Source;

/// The longest mount table that is read, in bytes; what comes after is as if it were not there.
const LONGEST_TABLE: u64 = 4 << 20;

/// `NS_GET_USERNS` (include/uapi/linux/nsfs.h).
const NS_GET_USERNS: libc::Ioctl = 0xb701;

/// The most mounts that come along with others that cannot be taken apart.
const MOST_COPIED: usize = 8 * choice::MOST_MOUNTS;

/// What every mount of a view is.
const LOCKED: u64 = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;

/// Clones of a server's mounts.
pub(super) struct Clones {
    /// The mount that the top of the tree is on.
    pub(super) top: Part,
    /// The others, parents before children.
    pub(super) below: Vec<Part>,
    /// Where something is left out.
    pub(super) holes: Vec<PathBuf>,
    /// Mounts that hold the kernel's own data.
    pub(super) pseudo: Vec<String>,
    /// Mounts that are not shown, with the reason.
    pub(super) left_out: Vec<String>,
}

/// A clone, attached nowhere yet.
pub(super) struct Part {
    /// Where it belongs, from the top.
    pub(super) place: PathBuf,
    pub(super) mount: OwnedFd,
    /// Whether its owners are shifted.
    pub(super) shifted: bool,
    /// Whether what is mounted below it came along, since it cannot be taken apart.
    pub(super) whole: bool,
}

/// Opens `path` below `directory` as a place, without following links.
pub(super) fn beneath(directory: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    let path = path.strip_prefix("/").unwrap_or(path);
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    Ok(openat2(directory, path, flags, Mode::empty(), resolve)?)
}

/// Opens a directory as a place.
pub(super) fn directory(path: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

/// Reads the calling process's mount table, where `proc` is the host's procfs.
pub(super) fn table(proc: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(proc, "self/mountinfo", flags, Mode::empty())?;
    let mut text = Vec::new();
    File::from(file).take(LONGEST_TABLE).read_to_end(&mut text)?;
    Ok(text)
}

/// Clones what `source` shows. `users` says how owners are shifted. `proc` is the host's procfs.
///
/// Afterwards the process is somewhere in a copy of the server's mount namespace, with the server's
/// root as its own.
pub(super) fn clones(
    source: &Source,
    users: Option<BorrowedFd<'_>>,
    proc: BorrowedFd<'_>,
) -> io::Result<Clones> {
    let is_ours = enter(source)?;
    if is_ours {
        copy()?;
    } else {
        // A copy would be of more privilege than it, and everything in it locked.
        rustix::process::chroot(".")?;
    }
    let tree = canonical(&source.tree)?;
    let table = table(proc)?;
    let root = directory("/")?;
    let found = choice::candidates(&tree, mountinfo::mounts(&table));
    let mut taker = Taker { root, tree, users, apart: found.beyond == 0, copied: 0 };
    let opened = beneath(taker.root.as_fd(), &taker.tree)?;
    let top = taker.clone(&opened, PathBuf::new(), &found)?;
    let (below, holes, pseudo, left_out) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut clones = Clones { top, below, holes, pseudo, left_out };
    clones.take(&mut taker, &found);
    if found.beyond > 0 {
        clones.left_out.push(format!("left out: {} mounts more than are looked at", found.beyond));
    }
    Ok(clones)
}

/// Opens the top of the tree that `source` shows, as a place. Afterwards the process is in the
/// server's mount namespace, with its root.
pub(super) fn tree(source: &Source) -> io::Result<OwnedFd> {
    enter(source)?;
    rustix::process::chroot(".")?;
    beneath(directory("/")?.as_fd(), &canonical(&source.tree)?)
}

/// Enters the mount namespace of the server, with its root as working directory. Returns whether the
/// namespace belongs to our own user namespace.
fn enter(source: &Source) -> io::Result<bool> {
    let namespace = File::open(format!("/proc/{}/ns/mnt", source.pid))?;
    let root = directory(&format!("/proc/{}/root", source.pid))?;
    let start = hyperspector_sys::pidfd::start_time(source.pid.cast_unsigned())?;
    if start != Some(source.start) {
        return Err(io::Error::other("it has just ended"));
    }
    let is_ours = owner(namespace.as_fd())? == identity(&File::open("/proc/self/ns/user")?)?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))?;
    rustix::process::fchdir(&root)?;
    Ok(is_ours)
}

/// Which user namespace a namespace belongs to (ioctl_nsfs(2)).
fn owner(namespace: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    // SAFETY: the request takes no argument and returns a new descriptor, or -1.
    let fd = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_USERNS) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just opened it for us.
    identity(&unsafe { File::from_raw_fd(fd) })
}

fn identity(file: &File) -> io::Result<(u64, u64)> {
    let found = file.metadata()?;
    Ok((found.dev(), found.ino()))
}

/// Copies the mount namespace: in the copy, nothing is mounted or unmounted but by us, and nothing
/// forbids to clone. The copy takes the working directory along, which becomes the root.
fn copy() -> io::Result<()> {
    // SAFETY: the process has one thread.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    Ok(rustix::process::chroot(".")?)
}

/// `path` without links. A link of a user who is not root could lead anywhere the next time.
fn canonical(path: &Path) -> io::Result<PathBuf> {
    for above in path.ancestors() {
        let found = fs::symlink_metadata(above)?;
        if found.is_symlink() && found.uid() != 0 {
            let text = format!(
                "{} is a link that belongs to user {}; write where it leads",
                above.display(),
                found.uid()
            );
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
    }
    fs::canonicalize(path)
}

impl Clones {
    /// Whether some of it came along with the rest, and has to be covered where it is left out.
    pub(super) fn has_more(&self) -> bool {
        self.top.whole || self.below.iter().any(|part| part.whole)
    }

    /// Clones what is mounted below the top.
    fn take(&mut self, taker: &mut Taker<'_>, found: &Candidates) {
        let mut absent: Vec<&Path> = Vec::new();
        for (place, mounts) in &found.places {
            // There is no place to attach it at, and the way to it may lead through what is refused.
            if absent.iter().any(|above| place.starts_with(above)) {
                continue;
            }
            match taker.visible(place, mounts, found) {
                Ok(Some(part)) => self.below.push(part),
                // Something that is mounted further up covers it: the server does not see it either.
                Ok(None) => {}
                Err(Refused { kind, cause }) => {
                    let what = format!("/{} ({kind})", place.display());
                    match cause {
                        _ if mountinfo::is_pseudo(&kind) => self.pseudo.push(what),
                        cause => self.left_out.push(format!("left out: {what}: {cause}")),
                    }
                    self.holes.push(place.clone());
                    absent.push(place);
                }
            }
        }
    }
}

/// Why a mount is not shown.
struct Refused {
    kind: String,
    cause: String,
}

/// What clones, and how.
struct Taker<'a> {
    root: OwnedFd,
    tree: PathBuf,
    users: Option<BorrowedFd<'a>>,
    /// Whether all mounts are known, so that what comes along with others can be covered.
    apart: bool,
    /// How many mounts came along with others.
    copied: usize,
}

impl Taker<'_> {
    /// Clones the one of `mounts` that is seen at `place`, if any is.
    fn visible(
        &mut self,
        place: &Path,
        mounts: &[Mounted],
        found: &Candidates,
    ) -> Result<Option<Part>, Refused> {
        if let [.., last] = mounts
            && mounts.iter().all(|mounted| mountinfo::refused(&mounted.kind).is_some())
        {
            return refuse(last).map(|()| None);
        }
        let doing = |cause: io::Error| {
            let kind = mounts.last().map(|mounted| mounted.kind.clone());
            Refused { kind: kind.unwrap_or_default(), cause: hyperspector_sys::errno::text(&cause) }
        };
        let opened = match beneath(self.root.as_fd(), &choice::joined(&self.tree, place)) {
            // A directory above is covered by another mount.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(doing)?,
        };
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let about = statx(&opened, "", flags, StatxFlags::MNT_ID);
        let id = about.map_err(|error| doing(error.into()))?.stx_mnt_id;
        let Some(mounted) = mounts.iter().find(|mounted| mounted.id == id) else { return Ok(None) };
        refuse(mounted)?;
        self.clone(&opened, place.to_owned(), found).map(Some).map_err(doing)
    }

    /// Clones the mount at `opened`: without what is mounted below it, where the kernel lets that be
    /// taken apart.
    fn clone(&mut self, opened: &OwnedFd, place: PathBuf, found: &Candidates) -> io::Result<Part> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH;
        let (mount, whole) = match open_tree(opened, "", flags) {
            Err(Errno::INVAL) => {
                self.copied += found.places.keys().filter(|one| one.starts_with(&place)).count();
                if !self.apart || self.copied > MOST_COPIED {
                    return Err(io::Error::other(
                        "what is mounted below it cannot be taken off it",
                    ));
                }
                (open_tree(opened, "", flags | OpenTreeFlags::AT_RECURSIVE)?, true)
            }
            other => (other?, false),
        };
        lock(mount.as_fd(), whole)?;
        let shifted = match self.users {
            Some(users) => is_shifted(mount.as_fd(), users)?,
            None => true,
        };
        Ok(Part { place, mount, shifted, whole })
    }
}

fn refuse(mounted: &Mounted) -> Result<(), Refused> {
    match mountinfo::refused(&mounted.kind) {
        Some(cause) => Err(Refused { kind: mounted.kind.clone(), cause: cause.to_owned() }),
        None => Ok(()),
    }
}

/// Makes a clone what a part of a view is. In a mount namespace of less privilege, the way in which
/// access times are kept may be locked; read-only, nothing keeps any.
fn lock(mount: BorrowedFd<'_>, whole: bool) -> io::Result<()> {
    match set_attributes(mount, whole, LOCKED | attr::NOATIME, attr::ATIME_MASK, None) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            set_attributes(mount, whole, LOCKED, 0, None)
        }
        other => other,
    }
}

/// Shifts the owners on a clone; whether the kernel can do that there. It cannot on overlays, and
/// where the server's own mount is shifted already.
fn is_shifted(mount: BorrowedFd<'_>, users: BorrowedFd<'_>) -> io::Result<bool> {
    match set_attributes(mount, false, attr::IDMAP, 0, Some(users)) {
        Ok(()) => Ok(true),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::INVAL | Errno::PERM) => Ok(false),
            _ => Err(error),
        },
    }
}
