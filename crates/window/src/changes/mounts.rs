//! Having a journal's worker watch what makes up a server's tree now.
//!
//! A short-lived process does it: it enters the server's mount namespace and root, copies the
//! namespace for itself, clones the mounts that hold real files, comes back, marks their file systems
//! in the journal's group, and hands them over. What it compares with is what the journal's worker
//! says it has, so it does not matter who did what before. It is root, and reads the kernel's mount
//! table, nothing of the server's.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use hyperspector_sys::channel;
use hyperspector_sys::mount::clone_at;
use hyperspector_sys::mountinfo::{self, Mounted};
use hyperspector_sys::path::directory;
use hyperspector_sys::{errno, worker};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags, openat, openat2, statx,
};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};

use super::overlay::{self, Layers, Opened};
use super::{Place, Reply, Request, Role, fanotify};
use crate::files::Located;
use crate::files::choice::{self, Own};
pub use crate::tree::Source;
use crate::tree::{enter_copy, table};

/// The worker's name for [`worker::spawn`].
pub const KIND: &str = "journal-mounts";
/// The most mounts that are watched.
const MOST: usize = 256;
/// The most mounts that a server may have for those that cannot be taken apart to be cloned as they
/// are.
const MOST_COPIED: usize = 8192;
/// The directory of what lies over hidden paths in a space.
const BLANKS: &str = ".masked";
/// How long the journal's worker may take for an answer.
const ANSWER: Duration = Duration::from_secs(2);
/// How many mounts are handed over at once.
const AT_ONCE: usize = 8;

/// What is to be watched.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// The socket of the journal's worker.
    pub journal: PathBuf,
    /// The server; `None` while it is down.
    pub source: Option<Source>,
    /// The overlays of the server's tree, where we have made them.
    pub overlays: Vec<Layers>,
    /// What is never told of.
    pub hidden: Hidden,
}

/// What is never told of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hidden {
    /// Paths as the server sees them.
    pub masks: Vec<PathBuf>,
    /// HyperSpector's own directories.
    pub own: Vec<Located>,
}

impl Hidden {
    /// The masks and `own`, as the server sees them.
    fn paths(&self, own: Vec<PathBuf>) -> Vec<Vec<u8>> {
        let all = self.masks.iter().cloned().chain(own);
        all.map(|path| path.into_os_string().into_vec()).collect()
    }

    /// What of HyperSpector's own shows in a mount, where `tree` is what is shown of its namespace.
    fn own_in(&self, mounted: &Mounted, tree: &Path) -> Vec<PathBuf> {
        let below = match choice::own(&mounted.device, &mounted.root, &self.own) {
            Own::All => vec![PathBuf::new()],
            Own::Below(paths) => paths,
        };
        let paths = below.iter().map(|path| choice::joined(&mounted.place, path));
        let seen = |path: PathBuf| match path.strip_prefix(tree) {
            Ok(below) => Some(Path::new("/").join(below)),
            Err(_) => tree.starts_with(&path).then(|| PathBuf::from("/")),
        };
        paths.filter_map(seen).collect()
    }
}

/// How it went. Beside it come the upper layers, each as a detached tree.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Told {
    /// It is watched. Where the upper layers belong, from the server's root.
    Done(Vec<PathBuf>),
    /// It could not be done.
    Failed(String),
}

/// The worker.
pub fn worker_main() -> ExitCode {
    let Ok((job, _, channel)) = worker::receive::<Job>() else { return ExitCode::FAILURE };
    match run(&job) {
        Ok(uppers) => {
            let places = uppers.iter().map(|(place, _)| place.clone()).collect();
            let fds: Vec<_> = uppers.iter().map(|(_, fd)| fd.as_fd()).collect();
            let _ = channel.send(&Told::Done(places), &fds);
            // The descriptors have to have arrived.
            let _ = channel.receive_within::<()>(ANSWER);
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = channel.send(&Told::Failed(error.to_string()), &[]);
            ExitCode::FAILURE
        }
    }
}

/// A part of the server's tree.
struct Part {
    place: Place,
    /// A real file system, open at its root; or why it cannot be watched.
    root: Result<OwnedFd, String>,
}

fn run(job: &Job) -> io::Result<Vec<(PathBuf, OwnedFd)>> {
    let cloned = job.source.as_ref().map(|source| cloned(job, source)).transpose();
    let own = cloned.as_ref().ok().and_then(Option::as_ref).map(|cloned| cloned.own.clone());
    ask(job, &Request::Hidden(job.hidden.paths(own.unwrap_or_default())), &[])?;
    let Cloned { mut parts, overlay, .. } = cloned?.unwrap_or_default();
    let known;
    let layers = match &overlay {
        Some(mounted) => {
            known = overlay::layers_of(mounted);
            known.as_slice()
        }
        None => &job.overlays,
    };
    let mut uppers = Vec::new();
    let mut redirects = false;
    for layers in layers {
        let opened = overlay::open(layers);
        redirects |= layers.redirects || opened.as_ref().is_ok_and(|opened| opened.below.is_none());
        uppers.extend(take(layers, opened, &mut parts)?);
    }
    hand_over(job, parts, redirects)?;
    Ok(uppers)
}

/// What a server's tree is made of.
#[derive(Default)]
struct Cloned {
    parts: Vec<Part>,
    /// The overlay that its root is on, where that is to be found.
    overlay: Option<Mounted>,
    /// What of it is HyperSpector's own, as the server sees it.
    own: Vec<PathBuf>,
}

/// Clones the mounts of the server's tree, and comes back.
///
/// Which directories an overlay has is told as its mounter wrote it, and that they are directories of the
/// host only where the host has mounted it: root of a user namespace, or of a container that may mount,
/// can have an overlay of its own as root, with names that mean others' directories on the host. So it
/// has to be among the host's mounts, as runtimes leave it there. The clones keep it from being
/// exchanged for another of the same number meanwhile.
fn cloned(job: &Job, source: &Source) -> io::Result<Cloned> {
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

/// Adds the sides of an overlay to the parts.
fn take(
    layers: &Layers,
    opened: io::Result<Opened>,
    parts: &mut Vec<Part>,
) -> io::Result<Option<(PathBuf, OwnedFd)>> {
    let path = layers.place.as_os_str().as_bytes().to_vec();
    let mut add = |role, root: Result<OwnedFd, String>| -> io::Result<()> {
        let key = root.as_ref().map_or_else(|_| Ok(String::new()), |root| key(root.as_fd()))?;
        parts.push(Part { place: Place { path: path.clone(), role, key }, root });
        Ok(())
    };
    match opened {
        Ok(opened) => {
            add(Role::Upper, Ok(opened.root))?;
            if let Some(below) = opened.below {
                add(Role::Below, Ok(below))?;
            }
            Ok(Some((layers.place.clone(), opened.upper)))
        }
        Err(error) => {
            add(Role::Tree, Err(format!("its upper layer: {}", errno::text(&error))))?;
            Ok(None)
        }
    }
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

/// Tells which directory something is open on.
fn key(root: BorrowedFd<'_>) -> io::Result<String> {
    let found = statx(root, "", AtFlags::EMPTY_PATH, StatxFlags::INO)?;
    Ok(format!("{}:{} {}", found.stx_dev_major, found.stx_dev_minor, found.stx_ino))
}

/// Marks what is new, and tells the journal's worker what has come and gone.
fn hand_over(job: &Job, parts: Vec<Part>, redirects: bool) -> io::Result<()> {
    let (reply, _) = ask(job, &Request::Status, &[])?;
    let Reply::Status(status) = reply else { return Err(unexpected(reply)) };
    let (_, mut fds) = ask(job, &Request::Group, &[])?;
    let group = fds.pop().ok_or_else(|| io::Error::other("no group came"))?;
    let (mut unwatched, mut new, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
    for Part { place, root } in parts {
        let marked = root.and_then(|root| {
            // What is there already was marked when it came.
            let is_new = !status.places.contains(&place);
            if is_new && matches!(place.role, Role::Tree | Role::Upper) {
                fanotify::mark(group.as_fd(), root.as_fd()).map_err(|error| why(&error))?;
            }
            Ok((root, is_new))
        });
        match marked {
            Ok((root, is_new)) => {
                wanted.push(place.clone());
                new.extend(is_new.then_some((place, root)));
            }
            Err(why) => unwatched.push((place.path, why)),
        }
    }
    let gone: Vec<Place> =
        status.places.iter().filter(|place| !wanted.contains(place)).cloned().collect();
    if !gone.is_empty() {
        done(job, &Request::Remove(gone), &[])?;
    }
    for chunk in new.chunks(AT_ONCE) {
        let fds: Vec<_> = chunk.iter().map(|(_, root)| root.as_fd()).collect();
        let places = chunk.iter().map(|(place, _)| place.clone()).collect();
        let (reply, _) = ask(job, &Request::Add(places), &fds)?;
        if let Reply::Failed(_) = reply {
            // Which of them it is, they are told one by one.
            for (place, root) in chunk {
                let added = ask(job, &Request::Add(vec![place.clone()]), &[root.as_fd()])?;
                if let Reply::Failed(why) = added.0 {
                    unwatched.push((place.path.clone(), why));
                }
            }
        }
    }
    done(job, &Request::Redirects(redirects), &[])?;
    done(job, &Request::Unwatched(unwatched), &[])
}

/// Why a file system cannot be watched.
fn why(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EXDEV) => {
            "it is a subvolume: the kernel can watch whole file systems alone".into()
        }
        Some(libc::ENODEV | libc::EOPNOTSUPP) => {
            "the kernel cannot tell its files apart by handles".into()
        }
        _ => format!("it cannot be watched: {}", errno::text(error)),
    }
}

fn done(job: &Job, request: &Request, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    match ask(job, request, fds)?.0 {
        Reply::Done => Ok(()),
        other => Err(unexpected(other)),
    }
}

fn ask(job: &Job, request: &Request, fds: &[BorrowedFd<'_>]) -> io::Result<(Reply, Vec<OwnedFd>)> {
    channel::ask(&job.journal, request, fds, ANSWER)
}

fn unexpected(reply: Reply) -> io::Error {
    match reply {
        Reply::Failed(why) => io::Error::other(why),
        other => io::Error::other(format!("the journal answers {other:?}")),
    }
}

/// A path from bytes of the kernel's.
pub(super) fn path(bytes: &[u8]) -> PathBuf {
    std::ffi::OsString::from_vec(bytes.to_vec()).into()
}
