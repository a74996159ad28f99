//! The changes window: a journal of what changes in a server's tree, kept by a worker of its own.
//!
//! The worker (one for each server that is watched) reads fanotify(7) events of whole file systems,
//! finds out where the server sees what they name, and writes that to a journal
//! ([`hyperspector_changes`]), which portspaces read as plain files.
//!
//! # What it may
//! Only who has CAP_SYS_ADMIN can mark a file system, and marking is all that takes it. So the worker
//! makes its group while it still may, and is then another user with one capability,
//! CAP_DAC_READ_SEARCH, for open_by_handle_at(2); the agent, which reads nothing, takes a copy of the
//! group ([`Request::Group`]), marks what is to be watched, and hands over the mounts to find paths
//! in, now and whenever the server mounts something ([`Request::Add`]). The worker's root directory is
//! its journal's; it may open files elsewhere as mere places (O_PATH), and directories to read names,
//! but no file's content.
//!
//! # What is true of the journal
//! - What changed before the worker began is not known: a journal begins anew with each worker.
//! - The kernel's queue may overflow, and then what was lost is not known: a gap. The queue belongs to
//!   this worker alone, and it looks at each event for a moment only.
//! - A directory that is renamed stands for all that is below it, under its old path and its new one:
//!   paths of earlier events may have been told by either.
//! - A file with several names is told of by its inode too, since the name that it was changed by may
//!   be one outside of the tree, or removed before anybody could look.
//! - A file that is written to often is told of once a second, while that goes on and once after it.
//! - A write through a shared mapping is told of when the mapping and the descriptor are gone: the
//!   kernel does not tell earlier.

mod deleted;
pub mod fanotify;
mod handle;
mod keep;
pub mod mounts;
mod names;
pub mod overlay;
mod places;
mod quiet;
pub mod view;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::process::ExitCode;

use hyperspector_changes::journal::{Journal, Limits, Size};
use hyperspector_sys::worker;
pub use hyperspector_sys::worker::Started;
use libc as l;
use rustix::fs::OFlags;
use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

use crate::packets::confine::{self, only};
use crate::packets::rules::{Cond, Rule, Test};
use keep::Keeper;
use places::Places;
pub use places::{Place, Role};

/// What the worker is told at its start. Beside it come a listening Unix stream socket, on which the
/// agent asks, and the journal's directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    /// The user and group that it becomes; the directory is given to them.
    pub uid: u32,
    /// See `uid`.
    pub gid: u32,
    /// The journal's id: never used before.
    pub id: String,
    /// Why the journal begins.
    pub began: String,
    /// How much it may take.
    pub limits: Limits,
}

/// What the agent may ask.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// The fanotify group, to mark file systems with. Answered with [`Reply::Group`] and a descriptor.
    Group,
    /// These are in the server's tree from now on; a descriptor for each, open on the mount's root.
    /// What changes in them is to be marked before.
    Add(Vec<Place>),
    /// These are not any more.
    Remove(Vec<Place>),
    /// These cannot be watched, with the reason: whoever reads the journal has to scan them. It takes
    /// the place of an earlier list.
    Unwatched(Vec<(Vec<u8>, String)>),
    /// Whether an overlay of the server may rename directories without copying them (redirect_dir).
    Redirects(bool),
    /// These are never told of from now on, as the server sees them.
    Hidden(Vec<Vec<u8>>),
    /// What is the state?
    Status,
}

/// The answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Reply {
    /// The group comes beside this message.
    Group,
    /// It is done.
    Done,
    /// It cannot be done.
    Failed(String),
    /// The state.
    Status(Status),
}

/// The worker's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The journal.
    pub size: Size,
    /// The places that it knows.
    pub places: Vec<Place>,
    /// Those that cannot be watched, with the reason.
    pub unwatched: Vec<(Vec<u8>, String)>,
    /// How many events it has looked at.
    pub events: u64,
    /// How often the queue overflowed.
    pub overflows: u64,
    /// Why the last gap came.
    pub last_gap: Option<String>,
}

/// What went wrong at the start.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("a descriptor is missing in the journal's configuration")]
    Descriptors,
    #[error("make a fanotify group (Linux 5.17 is needed): {0}")]
    Group(#[source] io::Error),
    #[error("enter the journal's directory: {0}")]
    Enter(#[source] io::Error),
    #[error("drop privileges: {0}")]
    Confine(#[source] io::Error),
    #[error("begin the journal: {0}")]
    Begin(#[source] io::Error),
}

/// The worker (`hyperspector __worker journal`).
pub fn worker_main() -> ExitCode {
    worker::serve("journal", start, |mut keeper: Keeper| keeper.keep().to_string())
}

fn start(config: Config, fds: Vec<OwnedFd>) -> Result<Keeper, Error> {
    let mut fds = fds.into_iter();
    let listener = fds.next().map(UnixListener::from).ok_or(Error::Descriptors)?;
    let directory = fds.next().ok_or(Error::Descriptors)?;
    let group = fanotify::group().map_err(Error::Group)?;
    let places = Places::new().map_err(Error::Enter)?;
    enter(&directory, &config).map_err(Error::Enter)?;
    confine::drop_to(config.uid, config.gid, KEPT).map_err(Error::Confine)?;
    let again = directory.try_clone().map_err(Error::Enter)?;
    confine::allow_only(CALLS, &rules([&directory, &again])).map_err(Error::Confine)?;
    check_files().map_err(Error::Confine)?;
    let journal = Journal::begin(directory, config.id, config.began, config.limits);
    Ok(Keeper::new(group, listener, again, places, journal.map_err(Error::Begin)?))
}

/// Gives the journal's directory to its user and makes it the root directory.
fn enter(directory: &OwnedFd, config: &Config) -> io::Result<()> {
    let (uid, gid) = (rustix::fs::Uid::from_raw(config.uid), rustix::fs::Gid::from_raw(config.gid));
    for name in keep::left_behind(directory)? {
        rustix::fs::chownat(
            directory,
            name,
            Some(uid),
            Some(gid),
            rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
        )?;
    }
    rustix::fs::fchown(directory, Some(uid), Some(gid))?;
    rustix::process::fchdir(directory)?;
    rustix::process::chroot(".")?;
    // It writes there and nowhere else; this much in one file is more than any journal has.
    let most = rustix::process::Rlimit { current: Some(1 << 30), maximum: Some(1 << 30) };
    Ok(rustix::process::setrlimit(rustix::process::Resource::Fsize, most)?)
}

/// Tries what the seccomp filter refuses: to read a file.
fn check_files() -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(rustix::fs::CWD, ".", flags, rustix::fs::Mode::empty());
    match opened {
        Err(rustix::io::Errno::NOSYS) => Ok(()),
        _ => Err(io::Error::other("a file could be opened for reading")),
    }
}

/// See the module's documentation.
const KEPT: CapabilitySet = CapabilitySet::DAC_READ_SEARCH;

const CALLS: &[confine::Group] = &[
    (
        "find out where a file is",
        &[l::SYS_readlinkat, l::SYS_statx, l::SYS_fstatfs, l::SYS_name_to_handle_at],
    ),
    (
        "write the journal and read the names of its segments",
        &[
            l::SYS_pwrite64,
            l::SYS_getdents64,
            l::SYS_lseek,
            l::SYS_unlinkat,
            l::SYS_renameat,
            l::SYS_fstat,
            l::SYS_newfstatat,
        ],
    ),
];

/// O_LARGEFILE means nothing on 64-bit machines, and is set or not.
const fn flags_are(arg: u8, flags: OFlags) -> Cond {
    Cond { arg, test: Test::Masked { mask: !OFlags::LARGEFILE.bits(), value: flags.bits() } }
}

const fn is(arg: u8, value: u32) -> Cond {
    Cond { arg, test: Test::Is(value) }
}

const PLACE: &[Cond] = &[flags_are(2, places::PLACE)];
const PARENT: &[Cond] = &[flags_are(2, places::PARENT)];
const LIST: &[Cond] = &[flags_are(2, deleted::LIST)];
/// Which of a group's marks the worker may change: writes to single files that are ignored.
const IGNORE: &[Cond] = &[is(1, fanotify::IGNORE), is(2, l::FAN_MODIFY as u32)];
const IGNORE_NOTHING: &[Cond] = &[is(1, l::FAN_MARK_FLUSH)];
const BY_HANDLE: &[Cond] = &[flags_are(2, OFlags::PATH.union(OFlags::CLOEXEC))];

/// What may be opened: places, directories, and anything in the journal's own directory, which is the
/// root directory, so that no path leads out of it. Both descriptors stay open.
fn rules(own: [&OwnedFd; 2]) -> Vec<Rule> {
    let number = |fd: &OwnedFd| Test::Is(fd.as_raw_fd().cast_unsigned());
    let own = own
        .map(|fd| -> &'static [Cond] { Box::leak(Box::new([Cond { arg: 0, test: number(fd) }])) });
    vec![
        only(l::SYS_openat, own[0], "segments"),
        only(l::SYS_openat, own[1], "lists"),
        only(l::SYS_openat, PLACE, "a file as a place, to tell whether it is the same"),
        only(l::SYS_openat, PARENT, "the directory above, as a place"),
        only(l::SYS_openat, LIST, "a directory, for the names in it"),
        only(l::SYS_fanotify_mark, IGNORE, "writes to a file that is known to change"),
        only(l::SYS_fanotify_mark, IGNORE_NOTHING, "the end of that"),
        only(l::SYS_open_by_handle_at, BY_HANDLE, "what an event names, as a place"),
    ]
}
