//! The worker that attaches views: one for each agent, which does every job in a process of its own
//! that ends with it.
//!
//! It is root of the host with four capabilities, since nothing less enters mount namespaces; it
//! reads no file of any server, executes nothing, and has a root of its own with nothing in it. It
//! ends when the agent does: what it has attached stays, and the next one finds it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::time::Instant;

use libc as l;
use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount,
};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{CapabilitySet, UnshareFlags, unshare_unsafe};
use seccompiler::SeccompAction;
use serde::{Deserialize, Serialize};

use super::stage::{BLANK_DIRECTORY, BLANK_FILE, PLACE};
use super::sync::{self, Glance, Job, Spaces, Told};
use crate::jobs::{self, Kind};
use crate::packets::confine::expect_refused;
use crate::packets::rules::{Action, Rule, filter};

/// The worker that makes views.
#[derive(Debug)]
pub struct Views;

impl Kind for Views {
    const NAME: &'static str = "views";
    const WHAT: &'static str = "the worker that makes views";
    type Request = Request;
    type Answer = Answer;
}

/// How many seconds a job may take.
const PATIENCE: u32 = 10;

/// What the worker is asked. The first descriptor that comes along is a socket for the answer, the
/// second the portspace's mount namespace; with a job, the third is the user namespace by which
/// owners are shifted, where they are to be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Make a view as it should be.
    View(Box<Job>),
    /// Say whether a view has to be made again, which its mount tables do not show.
    Look(Box<Glance>),
}

/// What it answers on the socket that came with the request. No answer, and the socket's end, means
/// that it took too long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// How the view is; the reason where it shows nothing since it cannot be made. And how long it
    /// took, in milliseconds.
    View(Result<Told, String>, u64),
    /// Whether it has to be made again.
    Look(bool),
}

const KEPT: CapabilitySet = CapabilitySet::SYS_ADMIN
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::DAC_READ_SEARCH);

/// What it never calls, whatever happens to it.
const REFUSED: &[(&str, &[i64])] = &[
    ("nothing is executed", &[l::SYS_execve, l::SYS_execveat]),
    ("it speaks to nobody", &[l::SYS_socket, l::SYS_connect, l::SYS_bind]),
    ("no process is touched", &[l::SYS_ptrace, l::SYS_process_vm_writev, l::SYS_pidfd_getfd]),
    (
        "the kernel stays as it is",
        &[l::SYS_bpf, l::SYS_init_module, l::SYS_finit_module, l::SYS_kexec_load, l::SYS_mknodat],
    ),
];

/// The worker (`hyperspector __worker views`).
pub fn worker_main() -> ExitCode {
    jobs::serve::<Views>(confine, serve)
}

fn serve(request: &Request, mut job: jobs::Job) {
    job.end_after(PATIENCE);
    let mut fds = std::mem::take(&mut job.fds).into_iter();
    let Some(mounts) = fds.next() else { return };
    let answer = match request {
        Request::View(wanted) => {
            let spaces = Spaces { mounts, users: fds.next() };
            let start = Instant::now();
            let told = sync::run(wanted, &spaces);
            let took = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
            Answer::View(told.map_err(|error| hyperspector_sys::errno::text(&error)), took)
        }
        // Where it cannot be seen, the job that comes of it tells why.
        Request::Look(glance) => Answer::Look(sync::look(glance, mounts.as_fd()).unwrap_or(true)),
    };
    let _ = job.answer(&answer, &[]);
}

/// Gives up what is not needed, for good.
fn confine() -> io::Result<()> {
    root_of_its_own()?;
    let files = Some(8192);
    setrlimit(Resource::Nofile, Rlimit { current: files, maximum: files })?;
    jobs::keep(KEPT, CapabilitySet::SYS_MODULE)?;
    refuse()
}

fn refuse() -> io::Result<()> {
    let rules: Vec<Rule> = REFUSED
        .iter()
        .flat_map(|(reason, calls)| {
            calls.iter().map(|&call| Rule { call, when: &[], action: Action::Ask, reason })
        })
        .collect();
    let rules: Vec<&Rule> = rules.iter().collect();
    let errno = SeccompAction::Errno(l::EPERM.cast_unsigned());
    let program = filter(&rules, SeccompAction::Allow, errno).map_err(io::Error::other)?;
    seccompiler::apply_filter(&program).map_err(io::Error::other)?;
    // SAFETY: execve with null pointers cannot succeed.
    let executed = unsafe { l::syscall(l::SYS_execve, 0, 0, 0) };
    let error = io::Error::last_os_error().raw_os_error();
    expect_refused(executed < 0 && error == Some(l::EPERM))
}

/// Makes a root with a procfs and the places where views are put together, and lets go of the host's.
fn root_of_its_own() -> io::Result<()> {
    // SAFETY: the process has one thread.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let root = new("tmpfs", &[("mode", "0700"), ("size", "64k"), ("nr_inodes", "16")])?;
    attach(root.as_fd(), "/")?;
    rustix::process::fchdir(&root)?;
    for place in [PLACE, BLANK_DIRECTORY, "/proc"] {
        std::fs::create_dir(place.trim_start_matches('/'))?;
    }
    std::fs::File::create(BLANK_FILE.trim_start_matches('/'))?;
    attach(new("proc", &[])?.as_fd(), "proc")?;
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    Ok(rustix::process::chdir("/")?)
}

fn attach(mount: BorrowedFd<'_>, place: &str) -> io::Result<()> {
    Ok(move_mount(mount, "", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

fn new(kind: &str, options: &[(&str, &str)]) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (name, value) in options {
        fsconfig_set_string(context.as_fd(), *name, *value)?;
    }
    fsconfig_create(context.as_fd())?;
    let locked = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, locked)?)
}
