//! What a server's tree is made of, as clones of its mounts.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use hyperspector_sys::mount::clone_at;
use hyperspector_sys::mountinfo::{self, Mounted};
use hyperspector_sys::path::directory;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags, openat, openat2, statx,
};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::super::{Place, Role};
use super::{Job, Source};
use crate::tree::{enter_copy, table};

/// The most mounts that are watched.
const MOST: usize = 256;
/// The most mounts that a server may have for those that cannot be taken apart to be cloned as they
/// are.
const MOST_COPIED: usize = 8192;
/// The directory of what lies over hidden paths in a space.
const BLANKS: &str = ".masked";

/// A part of the server's tree.
pub(super) struct Part {
    pub(super) place: Place,
    /// A real file system, open at its root; or why it cannot be watched.
    pub(super) root: Result<OwnedFd, String>,
}

/// What a server's tree is made of.
#[derive(Default)]
pub(super) struct Cloned {
    pub(super) parts: Vec<Part>,
    /// The overlay that its root is on, where that is to be found.
    pub(super) overlay: Option<Mounted>,
    /// What of it is HyperSpector's own, as the server sees it.
    pub(super) own: Vec<PathBuf>,
}

/// Clones the mounts of the server's tree, and comes back.
///
/// Which directories an overlay has is told as its mounter wrote it, and that they are directories of the
/// host only where the host has mounted it: root of a user namespace, or of a container that may mount,
/// can have an overlay of its own as root, with names that mean others' directories on the host. So it
/// has to be among the host's mounts, as runtimes leave it there. The clones keep it from being
/// exchanged for another of the same number meanwhile.
pub(super) fn cloned(job: &Job, source: &Source) -> io::Result<Cloned> {
    let own = File::open("/proc/self/ns/mnt")?;
    let proc = directory("/proc")?;
    let mut cloned = clones(source, proc.as_fd(), job)?;
    move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::Mount))?;
    let table = table(proc.as_fd())?;
    let is_of_host = |mounted: &mut Mounted| {
        let mut ours = mountinfo::mounts(&table);
        mounted.root == Path::new("/") && ours.any(|one| one.device == mounted.device)
    };
    if cloned.overlay.take_if(|mounted| !is_of_host(mounted)).is_some() {
        cloned.parts.retain(|part| part.place.role != Role::Whole);
        let why = "its root is an overlay that was not mounted by the host";
        cloned.parts.push(refused(Path::new("/"), Role::Tree, why));
    }
    Ok(cloned)
}

/// Clones them. Afterwards the process is in a copy of the server's mount namespace.
fn clones(source: &Source, proc: BorrowedFd<'_>, job: &Job) -> io::Result<Cloned> {
    let find_overlay = job.overlays.is_empty();
    enter_copy(source)?;
    let tree = fs::canonicalize(&source.tree)?;
    let table = table(proc)?;
    let root = directory("/")?;
    let whole = mountinfo::mounts(&table).nth(MOST_COPIED).is_none();
    let Cloned { mut parts, mut overlay, mut own } = Cloned::default();
    let mut left_out: Vec<PathBuf> = Vec::new();
    for mounted in mountinfo::mounts(&table) {
        let (place, at) = match placed(&mounted, &tree) {
            Some(placed) => placed,
            None => continue,
        };
        // What is mounted below the kernel's own belongs to that (/dev/shm, /sys/fs/cgroup).
        if left_out.iter().any(|above| at.starts_with(above)) {
            continue;
        }
        if !find_overlay && is_of_space(&mounted, &place) {
            continue;
        }
        own.extend(job.hidden.own_in(&mounted, &tree));
        let Some(opened) = visible(root.as_fd(), &at, mounted.id)? else { continue };
        if mounted.kind == "overlay" && (place == Path::new("/") || !find_overlay) {
            let part = part(&place, Role::Whole, &opened, proc, &mounted, whole)?;
            parts.extend(part);
            overlay = find_overlay.then_some(mounted);
            continue;
        }
        let role = Role::Tree;
        let part = match unwatchable(&mounted.kind) {
            Watch::No => {
                left_out.push(at);
                continue;
            }
            Watch::Cannot(why) => Some(refused(&place, role, why)),
            Watch::Can => part(&place, role, &opened, proc, &mounted, whole)?,
        };
        parts.extend(part);
        if parts.len() > MOST {
            let why = format!("more than {MOST} file systems are mounted");
            parts.push(refused(Path::new("/"), role, &why));
            break;
        }
    }
    Ok(Cloned { parts, overlay, own })
}

/// Whether a mount is part of how a space of ours is made: what lies over hidden paths, and
/// directories that are mounted read-only and hold nothing of the server's.
fn is_of_space(mounted: &Mounted, place: &Path) -> bool {
    let is_blank = mounted.root.components().any(|part| part.as_os_str() == BLANKS);
    is_blank || ["/dev", "/sys"].iter().any(|own| place == Path::new(own))
}

/// Where a mount is in the tree, and which path of the server's root that is: for the one that holds
/// the tree's top, the top.
fn placed(mounted: &Mounted, tree: &Path) -> Option<(PathBuf, PathBuf)> {
    if let Ok(below) = mounted.place.strip_prefix(tree) {
        return Some((Path::new("/").join(below), mounted.place.clone()));
    }
    tree.starts_with(&mounted.place).then(|| (PathBuf::from("/"), tree.to_owned()))
}

/// What is seen at `path`, where that is of the mount `id`.
fn visible(root: BorrowedFd<'_>, path: &Path, id: u64) -> io::Result<Option<OwnedFd>> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    let below = path.strip_prefix("/").unwrap_or(path);
    let below = if below.as_os_str().is_empty() { Path::new(".") } else { below };
    let opened = match openat2(root, below, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
    {
        Ok(opened) => opened,
        // Something else covers it.
        Err(_) => return Ok(None),
    };
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let found = statx(&opened, "", flags, StatxFlags::MNT_ID)?;
    Ok((found.stx_mnt_id == id).then_some(opened))
}

enum Watch {
    Can,
    /// No part of any view.
    No,
    Cannot(&'static str),
}

/// File systems that others than this kernel write to.
const SHARED: &[&str] =
    &["9p", "afs", "ceph", "cifs", "gfs2", "lustre", "nfs", "nfs4", "ocfs2", "smb3", "virtiofs"];

fn unwatchable(kind: &str) -> Watch {
    if mountinfo::refused(kind).is_some() {
        Watch::No
    } else if SHARED.contains(&kind) {
        Watch::Cannot("others than this kernel write to it")
    } else if kind == "overlay" {
        Watch::Cannot("it is an overlay that is not the root")
    } else {
        Watch::Can
    }
}

fn refused(place: &Path, role: Role, why: &str) -> Part {
    let path = place.as_os_str().as_bytes().to_vec();
    Part { place: Place { path, role, key: String::new() }, root: Err(why.to_owned()) }
}

/// Clones the mount at `opened` and opens its root; nothing where that is neither a directory nor a
/// file.
fn part(
    place: &Path,
    role: Role,
    opened: &OwnedFd,
    proc: BorrowedFd<'_>,
    mounted: &Mounted,
    whole: bool,
) -> io::Result<Option<Part>> {
    let found =
        statx(opened, "", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE)?;
    let read = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let root = match FileType::from_raw_mode(found.stx_mode.into()) {
        FileType::Directory => clone(opened, whole)
            .and_then(|tree| openat(tree, ".", read | OFlags::DIRECTORY, Mode::empty())),
        FileType::RegularFile => clone(opened, whole).and_then(|tree| {
            openat(proc, format!("self/fd/{}", tree.as_raw_fd()), read, Mode::empty())
        }),
        _ => return Ok(None),
    };
    let root = match root {
        Ok(root) => root,
        Err(error) => {
            return Ok(Some(refused(place, Role::Tree, &format!("it cannot be opened: {error}"))));
        }
    };
    let path = place.as_os_str().as_bytes().to_vec();
    let key = format!("{} {}", mounted.device, mounted.root.display());
    Ok(Some(Part { place: Place { path, role, key }, root: Ok(root) }))
}

/// Clones the mount at `opened`: `whole`, with what is mounted below it, where the kernel does not let
/// that be taken apart. It goes again when the clone does, and leaves the root.
fn clone(opened: &OwnedFd, whole: bool) -> rustix::io::Result<OwnedFd> {
    match clone_at(opened, false) {
        Err(Errno::INVAL) if whole => clone_at(opened, true),
        other => other,
    }
}
