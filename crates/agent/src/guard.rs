//! The guard that all packet windows share: started with the first of them, and again when it dies.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hyperspector_space::cgroup::Cgroup;
use hyperspector_sys::{channel, netns};
use hyperspector_window::packets::guard;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::error::{Doing, Error, all_or_first, on};
use crate::layout::{Layout, private_dir};
use crate::process::{Process, ProcessId};
use crate::status::GuardStatus;
use crate::{files, ids, space, workers};

/// How long it may take for an answer.
const ANSWER: Duration = Duration::from_secs(1);
/// How long between two attempts to start a guard that does not start.
const PAUSE: Duration = Duration::from_secs(1);

/// The guard of all packet windows.
#[derive(Debug)]
pub(crate) struct Guard {
    process: Process,
    socket: PathBuf,
    /// Counts the guards, so that brokers learn of a new one.
    pub(crate) generation: u64,
    /// When the next attempt to start it again is due.
    due: Option<Instant>,
}

impl Guard {
    /// Finds the guard that an earlier agent has started.
    pub(crate) fn adopt(layout: &Layout) -> Option<Self> {
        let process = files::load::<ProcessId>(&layout.guard())?.open()?;
        Some(Self { process, socket: layout.guard_socket(), generation: 0, due: None })
    }

    /// Starts the guard and waits until every interface is guarded.
    pub(crate) fn start(layout: &Layout) -> Result<Self, Error> {
        mount_bpf(&layout.bpf())?;
        let user = ids::held_by(&layout.state.join("portspaces/.agent/guard"))?;
        let listener = space::listen(&layout.guard_socket())?;
        let config = guard::Config {
            pin_dir: layout.bpf().join("guard"),
            uid: user,
            gid: user,
            force_clsact: false,
        };
        let start = guard::Start {
            config,
            new_interfaces: new_interfaces().doing(|| "start the guard".into())?,
        };
        let process = workers::start(layout, "guard", &start, &[listener.as_fd()])
            .map_err(|why| Error::new("start the guard of the packet windows", why))?;
        let saved = files::save(&layout.guard(), &process.id);
        saved.doing(on("write", &layout.guard())).inspect_err(|_| process.kill())?;
        Ok(Self { process, socket: layout.guard_socket(), generation: 0, due: None })
    }

    /// Which process it is.
    pub(crate) fn id(&self) -> ProcessId {
        self.process.id
    }

    /// Starts it again when it has died.
    pub(crate) fn revive(&mut self, layout: &Layout) -> Result<(), Error> {
        if self.process.is_alive() || self.due.is_some_and(|due| due > Instant::now()) {
            return Ok(());
        }
        self.due = Some(Instant::now() + PAUSE);
        eprintln!("the guard is gone; starting it again");
        let generation = self.generation + 1;
        *self = Self { generation, ..Self::start(layout)? };
        Ok(())
    }

    /// A connection for a broker.
    pub(crate) fn connect(&self) -> Result<UnixStream, Error> {
        netns::connect(&self.socket).doing(|| "reach the guard".into())
    }

    /// Ends the guard and takes what it guarded with off every interface.
    pub(crate) fn remove(layout: &Layout) -> Result<(), Error> {
        if let Some(process) = files::load::<ProcessId>(&layout.guard()).and_then(ProcessId::open) {
            process.kill();
        }
        let pins = layout.bpf().join("guard");
        let mut errors = Vec::new();
        errors.extend(guard::remove(&pins).doing(on("remove the guard's pins in", &pins)).err());
        errors.extend(unmount(&layout.bpf()).err());
        for path in [layout.guard(), layout.guard_socket()] {
            errors.extend(files::remove(&path).doing(on("remove", &path)).err());
        }
        all_or_first(errors)
    }

    /// How it is.
    pub(crate) fn status(&self) -> GuardStatus {
        let mut status =
            GuardStatus { pid: self.process.id.pid, interfaces: Vec::new(), dropped: 0 };
        let asked = channel::ask(&self.socket, &guard::Request::Status, &[], ANSWER);
        if let Ok((guard::Reply::Status(found), _)) = asked {
            status.interfaces = found.guarded.into_iter().map(|(_, name)| name).collect();
            status.dropped = found.dropped;
        }
        status
    }
}

/// What the variable HYPERSPECTOR_NEW_INTERFACES asks for: `always` guards them at once also where
/// the host's nft is too old for that (see [`guard::Choice`]).
fn new_interfaces() -> std::io::Result<guard::Choice> {
    match std::env::var("HYPERSPECTOR_NEW_INTERFACES").as_deref() {
        Err(_) | Ok("where-readable") => Ok(guard::Choice::WhereReadable),
        Ok("always") => Ok(guard::Choice::Always),
        Ok("never") => Ok(guard::Choice::Never),
        Ok(other) => Err(std::io::Error::other(format!(
            "HYPERSPECTOR_NEW_INTERFACES is {other}; where-readable, always or never would be right"
        ))),
    }
}

/// The directory of a cgroup that BPF programs are to be attached to, once they can be pinned.
pub(crate) fn guarded(
    layout: &Layout,
    cgroup: &Cgroup,
    doing: impl Fn() -> String,
) -> Result<File, Error> {
    mount_bpf(&layout.bpf())?;
    let directory = cgroup.v2_directory();
    let directory =
        directory.ok_or_else(|| Error::new(doing(), "there is no cgroup v2 hierarchy"))?;
    File::open(directory).doing(doing)
}

/// Mounts a BPF file system of our own, for root alone.
fn mount_bpf(path: &Path) -> Result<(), Error> {
    private_dir(path).doing(on("make", path))?;
    let found = rustix::fs::statfs(path).doing(on("look at", path))?;
    if found.f_type == libc::BPF_FS_MAGIC {
        return Ok(());
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("bpf", path, "bpf", flags, c"mode=0700").doing(on("mount bpf at", path))
}

fn unmount(path: &Path) -> Result<(), Error> {
    if !path.exists() {
        return Ok(());
    }
    while rustix::fs::statfs(path).is_ok_and(|found| found.f_type == libc::BPF_FS_MAGIC) {
        rustix::mount::unmount(path, UnmountFlags::DETACH).doing(on("unmount", path))?;
    }
    fs::remove_dir(path).doing(on("remove", path))
}
