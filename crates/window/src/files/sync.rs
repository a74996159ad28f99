//! One change of one view: what is wanted, and how it went.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use hyperspector_sys::mount::{attr, clone_at, set_attributes};
use hyperspector_sys::mountinfo::{self, Mounted};
use hyperspector_sys::path::{beneath, directory};
use rustix::fs::{AtFlags, StatxFlags, statx};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};

use super::choice::{self, Located};
use super::mask::Blank;
use super::source::{self, Clones, Part, clones};
use super::stage::{Stage, mounts};
use crate::swap::Spot;
use crate::tree::Source;

/// The most lines that are told of a view.
const MOST_LINES: usize = 64;

/// A view as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Where it is in the portspace, from its root: a directory that is there.
    pub place: PathBuf,
    /// What it shows; `None` while the server is down.
    pub source: Option<Source>,
    /// Paths that are hidden, absolute as the server sees them.
    pub mask: Vec<PathBuf>,
    /// HyperSpector's own directories.
    pub hide: Vec<Located>,
    /// The first of the ids that the server's own files have on the host and that the portspace
    /// knows by the same numbers: those of a server space.
    pub first_id: Option<u32>,
    /// Where in the portspace an empty directory `directory` and an empty file `file` are, to lie
    /// over hidden paths.
    pub blank: PathBuf,
}

/// What of a view can change without a mount table showing it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Glance {
    /// Where the view is, from the portspace's root.
    pub place: PathBuf,
    /// Paths that are to be hidden and were not there, absolute as the server sees them.
    pub absent: Vec<PathBuf>,
    /// Where it is to be looked whether the directory that is shown is another one by now.
    pub source: Option<Source>,
}

/// The descriptors that come with a [`Job`].
pub(super) struct Spaces {
    /// The portspace's mount namespace.
    pub(super) mounts: OwnedFd,
    /// The user namespace by which owners are shifted, where they are to be.
    pub(super) users: Option<OwnedFd>,
}

/// How a view is now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The file systems that it is made of, each with its place.
    pub shown: Vec<String>,
    /// What the server has mounted of the kernel's own data, which is left out.
    pub pseudo: Vec<String>,
    /// What is not shown, not hidden, or shown otherwise than it should be, with the reason.
    pub notes: Vec<String>,
    /// Paths that are to be hidden and are not there, or lie behind a link.
    pub absent: Vec<PathBuf>,
    /// Whether the server changed things meanwhile, so that it has to be looked at again.
    pub is_unsettled: bool,
}

/// Does a job, in a process that has one thread and ends afterwards, and whose root is the worker's.
///
/// # Errors
/// Where the view cannot be made as it should be: it shows nothing then.
pub(super) fn run(job: &Job, spaces: &Spaces) -> io::Result<Told> {
    let here = Here::find()?;
    here.enter(spaces.mounts.as_fd())?;
    let place = Path::new("/").join(&job.place);
    let spot = Spot::find(&place)?;
    let blank = blanks(&job.blank)?;
    let actual = mounts(here.proc.as_fd(), &place)?;
    let unnamed = unnamed(&actual, &place);
    let assembled = job.source.as_ref().map(|source| assemble(job, source, spaces, &blank, &here));
    let (wanted, told) = match assembled {
        Some(Ok(view)) if choice::are_alike(&view.mounts, &actual) && view.unnamed == unnamed => {
            return Ok(view.told(job.first_id));
        }
        Some(Ok(view)) => (Some(view.stage.tree()?), Ok(view.told(job.first_id))),
        Some(Err(error)) => (None, Err(error)),
        None => (None, Ok(Told::default())),
    };
    if wanted.is_some() || !actual.is_empty() {
        exchange(spot, wanted, spaces, &here)?;
    }
    told
}

/// Shows `wanted`, or nothing, at `spot`.
fn exchange(spot: Spot, wanted: Option<OwnedFd>, spaces: &Spaces, here: &Here) -> io::Result<()> {
    here.enter(here.mounts.as_fd())?;
    spot.make()?;
    if let Some(wanted) = wanted {
        here.enter(spaces.mounts.as_fd())?;
        spot.attach(wanted.as_fd())?;
        here.enter(here.mounts.as_fd())?;
    }
    spot.exchange()
}

/// The process's own place.
struct Here {
    mounts: File,
    proc: OwnedFd,
}

impl Here {
    fn find() -> io::Result<Self> {
        Ok(Self { mounts: File::open("/proc/self/ns/mnt")?, proc: directory("/proc")? })
    }

    fn enter(&self, mounts: BorrowedFd<'_>) -> io::Result<()> {
        Ok(move_into_link_name_space(mounts, Some(LinkNameSpaceType::Mount))?)
    }
}

/// A view as it should be.
struct View {
    clones: Clones,
    stage: Stage,
    /// What it is made of, hidden paths included.
    mounts: Vec<Mounted>,
    unnamed: BTreeMap<PathBuf, Identity>,
}

/// Puts a view together. Afterwards the process is where that is.
fn assemble(
    job: &Job,
    source: &Source,
    spaces: &Spaces,
    blank: &Blank,
    here: &Here,
) -> io::Result<View> {
    here.enter(here.mounts.as_fd())?;
    let users = spaces.users.as_ref().map(AsFd::as_fd);
    let clones = clones(source, users, here.proc.as_fd())?;
    here.enter(here.mounts.as_fd())?;
    let mut stage = Stage::assemble(&clones, blank, here.proc.as_fd())?;
    stage.hide_own(&job.hide, here.proc.as_fd())?;
    stage.hide(&job.mask)?;
    let place = Path::new(super::stage::PLACE);
    let mounts = mounts(here.proc.as_fd(), place)?;
    let unnamed = unnamed(&mounts, place);
    let top = mounts.iter().find(|mounted| mounted.place.as_os_str().is_empty());
    match top.and_then(|top| Some((top, mountinfo::refused(&top.kind)?))) {
        Some((top, reason)) => Err(io::Error::other(format!("it is on {}: {reason}", top.kind))),
        None => Ok(View { clones, stage, mounts, unnamed }),
    }
}

/// Which files show at the places below `top` where those without a name are mounted.
fn unnamed(mounts: &[Mounted], top: &Path) -> BTreeMap<PathBuf, Identity> {
    let found = |mounted: &Mounted| {
        let file = beneath(directory("/").ok()?, &choice::joined(top, &mounted.place)).ok()?;
        Some((mounted.place.clone(), identity(file.as_fd()).ok()?))
    };
    mounts.iter().filter(|mounted| choice::is_unnamed(mounted)).filter_map(found).collect()
}

/// What lies over hidden paths.
fn blanks(place: &Path) -> io::Result<Blank> {
    let root = directory("/")?;
    let blank = |name: &str| -> io::Result<OwnedFd> {
        let clone = clone_at(beneath(&root, &place.join(name))?, false)?;
        let set = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;
        set_attributes(clone.as_fd(), false, set, 0, None)?;
        Ok(clone)
    };
    Ok(Blank { directory: blank("directory")?, file: blank("file")? })
}

impl View {
    fn told(self, first_id: Option<u32>) -> Told {
        let kind = |place: &Path| {
            let on = self.mounts.iter().find(|mounted| mounted.place == place);
            on.map_or("", |mounted| mounted.kind.as_str())
        };
        let parts = || std::iter::once(&self.clones.top).chain(&self.clones.below);
        let describe = |part: &Part| format!("/{} ({})", part.place.display(), kind(&part.place));
        let unshifted = parts().filter(|part| !part.shifted);
        let unshifted = unshifted.map(|part| match first_id {
            Some(first) => {
                format!("owners on {} are the server's ids, from {first}", describe(part))
            }
            None => format!(
                "the kernel cannot shift owners on {}: what only root may read there cannot be \
                 read; ids = \"host\" would show it",
                describe(part)
            ),
        });
        Told {
            shown: bounded(parts().map(describe)),
            pseudo: bounded(self.clones.pseudo.iter().cloned()),
            notes: bounded(self.stage.notes.iter().cloned().chain(unshifted)),
            absent: self.stage.absent,
            is_unsettled: self.stage.is_unsettled,
        }
    }
}

/// The first lines, and how many more there are.
fn bounded(lines: impl Iterator<Item = String>) -> Vec<String> {
    let mut lines: Vec<String> = lines.collect();
    if lines.len() > MOST_LINES {
        let more = lines.len() - MOST_LINES;
        lines.truncate(MOST_LINES);
        lines.push(format!("and {more} more"));
    }
    lines
}

/// Whether what `glance` is about is not as it was any more.
pub(super) fn look(glance: &Glance, mounts: BorrowedFd<'_>) -> io::Result<bool> {
    let here = Here::find()?;
    here.enter(mounts)?;
    let place = Path::new("/").join(&glance.place);
    let root = directory("/")?;
    let view = beneath(root.as_fd(), &place)?;
    if glance.absent.iter().any(|path| beneath(view.as_fd(), path).is_ok()) {
        return Ok(true);
    }
    let Some(source) = &glance.source else { return Ok(false) };
    let shown = identity(view.as_fd())?;
    here.enter(here.mounts.as_fd())?;
    Ok(identity(source::top(source)?.as_fd())? != shown)
}

/// A file: its file system's numbers, and its own.
type Identity = (u32, u32, u64);

/// Which file it is, without asking whoever serves the file system.
fn identity(file: BorrowedFd<'_>) -> io::Result<Identity> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let found = statx(file, "", flags, StatxFlags::INO)?;
    Ok((found.stx_dev_major, found.stx_dev_minor, found.stx_ino))
}
