//! Taking clones of a server's mounts, from inside a copy of its mount namespace.
//!
//! All paths here are the server's to make. They are opened by openat2(2) alone, component by
//! component from the server's root, without following any link, and for nothing but their place.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hyperspector_sys::mount::{attr, clone_at, set_attributes, set_private};
use hyperspector_sys::mountinfo::{self, Mounted};
use hyperspector_sys::path::canonical;
use hyperspector_sys::path::{beneath, directory};
use rustix::fs::{AtFlags, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use super::choice::{self, Candidates, Unnamed};
use crate::tree::{self, Source, table};

/// The most mounts that come along with one that cannot be taken apart.
const MOST_COPIED: usize = 8 * choice::MOST_MOUNTS;

/// How long it may take to take away what would come along and is too much.
const TRIMMING: Duration = Duration::from_secs(4);

/// What every mount of a view is.
const LOCKED: u64 = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;

/// Clones of a server's mounts.
pub(super) struct Clones {
    /// The mount that the top of the tree is on.
    pub(super) top: Part,
    /// The others, parents before children.
    pub(super) below: Vec<Part>,
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
    /// Whether something that is mounted below it came along.
    pub(super) whole: bool,
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
    tree::enter_copy(source)?;
    let tree = canonical(&source.tree)?;
    let mounts: Vec<Mounted> = mountinfo::mounts(&table(proc)?).collect();
    let unnamed = choice::unnamed(&mounts);
    let found = choice::candidates(&tree, mounts.into_iter());
    let mut taker = Taker { root: directory("/")?, tree, users, proc, unnamed, whole: Vec::new() };
    let opened = beneath(taker.root.as_fd(), &taker.tree)?;
    let top = taker.clone(opened, Path::new(""))?;
    let mut left = Left::default();
    let mut below = taker.below(&found, &mut left);
    if found.beyond > 0 {
        left.out.push(format!("left out: {} mounts more than are looked at", found.beyond));
    }
    let whole = taker.take_whole(&mut left)?;
    let (mut tops, whole): (Vec<_>, Vec<_>) =
        top.into_iter().chain(whole).partition(|part| part.place.as_os_str().is_empty());
    let top = tops.pop().ok_or_else(|| io::Error::other("its top cannot be cloned"))?;
    below.extend(whole);
    below.sort_by(|one, other| one.place.cmp(&other.place));
    Ok(Clones { top, below, pseudo: left.pseudo, left_out: left.out })
}

/// Opens the top of the tree that `source` shows, as a place. Afterwards the process is in the
/// server's mount namespace, with its root.
pub(super) fn top(source: &Source) -> io::Result<OwnedFd> {
    tree::enter(source)?;
    beneath(directory("/")?.as_fd(), &canonical(&source.tree)?)
}

/// What is not shown.
#[derive(Default)]
struct Left {
    /// Mounts that hold the kernel's own data.
    pseudo: Vec<String>,
    /// Others, with the reason.
    out: Vec<String>,
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
    proc: BorrowedFd<'a>,
    unnamed: Unnamed,
    /// What cannot be cloned without what is mounted below it, with its place.
    whole: Vec<(PathBuf, OwnedFd)>,
}

impl Taker<'_> {
    /// Clones what is mounted below the top, but for what cannot be taken apart.
    fn below(&mut self, found: &Candidates, left: &mut Left) -> Vec<Part> {
        let (mut below, mut absent): (Vec<Part>, Vec<&Path>) = (Vec::new(), Vec::new());
        for (place, mounts) in &found.places {
            // There is no place to attach it at, and the way to it may lead through what is refused.
            if absent.iter().any(|above| place.starts_with(above)) {
                continue;
            }
            match self.visible(place, mounts) {
                // Without one, it is cloned later, or something that is mounted further up covers it,
                // and the server does not see it either.
                Ok(part) => below.extend(part),
                Err(Refused { kind, cause }) => {
                    let what = format!("/{} ({kind})", place.display());
                    match cause {
                        _ if mountinfo::is_pseudo(&kind) => left.pseudo.push(what),
                        cause => left.out.push(format!("left out: {what}: {cause}")),
                    }
                    absent.push(place);
                }
            }
        }
        below
    }

    /// Clones the one of `mounts` that is seen at `place`, if any is.
    fn visible(&mut self, place: &Path, mounts: &[Mounted]) -> Result<Option<Part>, Refused> {
        if let [.., last] = mounts
            && mounts.iter().all(|mounted| mountinfo::refused(&mounted.kind).is_some())
        {
            return refuse(last).map(|()| None);
        }
        let doing = |cause: io::Error| {
            let kind = mounts.last().map(|mounted| mounted.kind.clone());
            Refused { kind: kind.unwrap_or_default(), cause: hyperspector_sys::errno::text(&cause) }
        };
        let path = choice::joined(&self.tree, place);
        if self.unnamed.places.contains(&path) {
            return Ok(None);
        }
        let opened = match beneath(self.root.as_fd(), &path) {
            // A directory above is covered by another mount.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(doing)?,
        };
        let id = mount_id(&opened).map_err(doing)?;
        let Some(mounted) = mounts.iter().find(|mounted| mounted.id == id) else { return Ok(None) };
        refuse(mounted)?;
        self.clone(opened, place).map_err(doing)
    }

    /// Clones the mount at `opened` without what is mounted below it. Where the kernel does not let
    /// that be taken apart, or something has to come along, it is kept for later.
    fn clone(&mut self, opened: OwnedFd, place: &Path) -> io::Result<Option<Part>> {
        if self.unnamed.holders.contains(&mount_id(&opened)?) {
            self.whole.push((place.to_owned(), opened));
            return Ok(None);
        }
        match clone_at(&opened, false) {
            Err(Errno::INVAL) => {
                self.whole.push((place.to_owned(), opened));
                Ok(None)
            }
            mount => self.part(mount?, place, false).map(Some),
        }
    }

    /// Clones what cannot be taken apart, with as little of what is mounted below as can be: the rest
    /// has been cloned by itself. The innermost first, since that may take away from those above.
    fn take_whole(&mut self, left: &mut Left) -> io::Result<Vec<Part>> {
        let mut parts = Vec::new();
        for (place, opened) in std::mem::take(&mut self.whole).into_iter().rev() {
            let taken = self
                .trim(&choice::joined(&self.tree, &place))
                .and_then(|()| self.part(clone_at(&opened, true)?, &place, true));
            match taken {
                Ok(part) => parts.push(part),
                Err(error) if place.as_os_str().is_empty() => return Err(error),
                Err(error) => left.out.push(format!("left out: /{}: {error}", place.display())),
            }
        }
        Ok(parts)
    }

    /// Takes away, in the copy, what is mounted below `path` and can be taken off.
    ///
    /// # Errors
    /// Where too much remains to be cloned along.
    fn trim(&self, path: &Path) -> io::Result<()> {
        let deadline = Instant::now() + TRIMMING;
        loop {
            let table = table(self.proc)?;
            let below: Vec<Mounted> = mountinfo::mounts(&table)
                .filter(|mounted| mounted.place != path && mounted.place.starts_with(path))
                .filter(|mounted| !self.unnamed.places.contains(&mounted.place))
                .collect();
            let is_changed = Instant::now() < deadline && take_off(&below, deadline);
            let is_all = (table.len() as u64) < tree::LONGEST_TABLE;
            match is_changed {
                true => {}
                false if is_all && below.len() <= MOST_COPIED => return Ok(()),
                false => return Err(io::Error::other("too much is mounted below it")),
            }
        }
    }

    /// Makes a clone what a part of a view is.
    fn part(&self, mount: OwnedFd, place: &Path, whole: bool) -> io::Result<Part> {
        set_private(mount.as_fd(), whole)?;
        lock(mount.as_fd(), whole)?;
        let shifted = match self.users {
            // With what came along, where that can be.
            Some(users) => {
                whole && is_shifted(mount.as_fd(), true, users)?
                    || is_shifted(mount.as_fd(), false, users)?
            }
            None => true,
        };
        Ok(Part { place: place.to_owned(), mount, shifted, whole })
    }
}

/// Unmounts what can be, each with what is below it. Whether anything could.
fn take_off(mounts: &[Mounted], deadline: Instant) -> bool {
    let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
    let (mut is_any, mut refused): (bool, Vec<&Path>) = (false, Vec::new());
    for mounted in mounts.iter().take_while(|_| Instant::now() < deadline) {
        // The way would lead through a file system of somebody who need not answer.
        if refused.iter().any(|above| mounted.place.starts_with(above)) {
            continue;
        }
        if unmount(&mounted.place, flags).is_ok() {
            is_any = true;
        } else if mountinfo::refused(&mounted.kind).is_some() {
            refused.push(&mounted.place);
        }
    }
    is_any
}

/// The number of the mount that a file is on.
fn mount_id(file: &OwnedFd) -> io::Result<u64> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    Ok(statx(file, "", flags, StatxFlags::MNT_ID)?.stx_mnt_id)
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
fn is_shifted(mount: BorrowedFd<'_>, whole: bool, users: BorrowedFd<'_>) -> io::Result<bool> {
    match set_attributes(mount, whole, attr::IDMAP, 0, Some(users)) {
        Ok(()) => Ok(true),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::INVAL | Errno::PERM) => Ok(false),
            _ => Err(error),
        },
    }
}
