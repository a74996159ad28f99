//! Having a journal's worker watch what makes up a server's tree now.
//!
//! A short-lived process does it: it enters the server's mount namespace and root, copies the
//! namespace for itself, clones the mounts that hold real files, comes back, marks their file systems
//! in the journal's group, and hands them over. What it compares with is what the journal's worker
//! says it has, so it does not matter who did what before. It is root, and reads the kernel's mount
//! table, nothing of the server's.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use hyperspector_sys::channel;
use hyperspector_sys::mountinfo::Mounted;
use hyperspector_sys::{errno, worker};
use rustix::fs::{AtFlags, StatxFlags, statx};
use serde::{Deserialize, Serialize};

use super::overlay::{self, Layers, Opened};
use super::{Place, Reply, Request, Role, fanotify};
use crate::files::Located;
use crate::files::choice::{self, Own};
pub use crate::tree::Source;

mod clones;

use clones::{Cloned, Part, cloned};

/// The worker's name for [`worker::spawn`].
pub const KIND: &str = "journal-mounts";
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
