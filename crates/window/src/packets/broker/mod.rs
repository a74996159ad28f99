//! The broker: answers a portspace's packet-socket calls, and its connections to Unix sockets.
//! One for each portspace that has a packet window or a Unix guard.
//!
//! # Where it stands
//! In the host's network namespace (to ask which packet sockets exist), in the portspace's user
//! namespace (so that its rights reach the portspace's processes and nothing else), with an own
//! procfs as its root directory that shows the portspace's processes and itself alone, and a list
//! of system calls. It keeps CAP_SYS_PTRACE there (reading arguments, duplicating descriptors) and,
//! to do as a caller would with a path, CAP_SYS_CHROOT, CAP_SETUID, CAP_SETGID, CAP_DAC_OVERRIDE
//! and CAP_DAC_READ_SEARCH: none of them reaches further than CAP_SYS_PTRACE does, which can
//! take over every process of the portspace. Yama's `ptrace_scope` 3 makes all this impossible.
//!
//! # What is certain
//! A call on a packet socket is never let go on in the kernel with the caller's memory or
//! descriptor, which could change after the look: it is made here, on a duplicate, with a copy of
//! the arguments. `bind` is made here for every family, since what looks like a Unix socket when
//! asked about could be a packet socket a moment later. Calls with an address too short for a packet
//! socket never come here.
//!
//! # Where a program can tell the difference
//! A Unix socket that is bound or connected by path is handled in the caller's root and working
//! directory, with its users, groups, umask and capabilities, but not under its own Landlock
//! rules; and whoever is connected to sees the broker's process id in SO_PEERCRED, as 0. A broken
//! connection to the guard makes new packet sockets fail with `ENETDOWN`; old ones go on.

mod address;
mod answers;
mod caller;
mod context;
mod fanout;
mod ring;
mod serve;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::process::ExitCode;

use hyperspector_sys::channel::Channel;
use hyperspector_sys::seccomp_notify::Listener;
use hyperspector_sys::worker;
pub use hyperspector_sys::worker::Started;
use libc as l;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use rustix::thread::{CapabilitySet, LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};

use super::confine::{self, only};
use super::diag::Diag;
use super::rules::{Cond, Rule, Test};

/// What a broker is told at its start. The descriptors beside it, in this order: the control
/// socket (a listening Unix stream socket, for the agent), the portspace's user namespace, the
/// connection to the guard where `guard` says so, then the seccomp listeners.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    /// What the portspace may do.
    pub policy: Policy,
    /// Whether a connection to the guard comes with this.
    pub guard: bool,
    /// The user and group to become, by their numbers inside the user namespace. Best one that
    /// nothing in the portspace uses.
    pub uid: u32,
    /// See `uid`.
    pub gid: u32,
    /// What the broker before knew ([`Status::known`]); empty for a new portspace.
    pub known: Known,
}

/// What a portspace may do with packet sockets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// The watched interfaces: name, and index on the host. None: no packet sockets at all.
    pub interfaces: Vec<(String, u32)>,
    /// Whether it watches every interface, so that sockets may be bound to none (`tcpdump -i any`).
    pub any: bool,
    /// How much memory all its receive rings may take together, in bytes.
    pub ring_limit: u64,
    /// How many packet sockets it may have at once.
    pub socket_limit: usize,
    /// A directory of ours, by device and inode, whose sockets it may connect to although it sees that
    /// read-only, as it does windows.
    #[serde(default)]
    pub offered: Option<(u64, u64)>,
}

/// What a broker learns and the next one needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// The portspace's packet sockets: `SO_COOKIE`, and the protocol given to `socket`.
    pub sockets: Vec<(u64, u16)>,
    /// Its fanout groups: its own id, and the host's.
    pub groups: Vec<(u16, u16)>,
}

/// What the agent may ask on the control socket.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Request {
    /// What is the state?
    Status,
    /// Use the connection beside this message to reach the guard from now on.
    Guard,
    /// Serve the seccomp listener beside this message too.
    Listener,
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Reply {
    /// The state.
    Status(Status),
    /// Done.
    Done,
    /// Not done, for this reason.
    Refused(String),
}

/// A broker's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Whether the guard can be reached.
    pub guard: bool,
    /// Seccomp listeners that are served.
    pub listeners: usize,
    /// Packet sockets that exist.
    pub sockets: usize,
    /// Memory of their receive rings in bytes.
    pub ring: u64,
    /// Calls that were done or let through.
    pub answered: u64,
    /// Calls that failed.
    pub refused: u64,
    /// Times that a stranger was seen in a fanout group of this portspace: must be 0.
    pub violations: u64,
    /// For the next broker.
    pub known: Known,
}

/// What went wrong at the start.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the broker's configuration came with too few descriptors: {0} is missing")]
    Missing(&'static str),
    #[error("ask the kernel for packet sockets (CONFIG_PACKET_DIAG): {0}")]
    Diag(#[source] io::Error),
    #[error("make a procfs of the portspace's processes: {0}")]
    Procfs(#[source] io::Error),
    #[error("enter the portspace's user namespace: {0}")]
    UserNamespace(#[source] io::Error),
    #[error("drop privileges: {0}")]
    Confine(#[source] io::Error),
}

/// A broker as a worker process (`hyperspector __worker broker`).
pub fn worker_main() -> ExitCode {
    worker::serve("broker", start, |mut broker| format!("wait for calls: {}", broker.serve()))
}

/// Opens what is needed, and confines itself.
fn start(config: Config, fds: Vec<OwnedFd>) -> Result<serve::Broker, Error> {
    let mut fds = fds.into_iter();
    let control = fds.next().map(UnixListener::from).ok_or(Error::Missing("the control socket"))?;
    let user_namespace = fds.next().ok_or(Error::Missing("the user namespace"))?;
    let guard = match config.guard {
        true => {
            let stream = fds.next().ok_or(Error::Missing("the connection to the guard"))?;
            Some(Channel::new(stream.into()))
        }
        false => None,
    };
    let diag = Diag::open().map_err(Error::Diag)?;
    let procfs = own_procfs().map_err(Error::Procfs)?;
    move_into_link_name_space(user_namespace.as_fd(), Some(LinkNameSpaceType::User))
        .map_err(|e| Error::UserNamespace(e.into()))?;
    drop(user_namespace);
    let procfs = enter(procfs).map_err(Error::Procfs)?;
    confine::drop_to(config.uid, config.gid, KEPT).map_err(Error::Confine)?;
    context::prepare_interrupt().map_err(Error::Confine)?;
    confine::allow_only(CALLS, &conditional()).map_err(Error::Confine)?;
    check_files().map_err(Error::Confine)?;
    let mut outside = caller::Outside::new(procfs, diag);
    outside.set_guard(guard);
    let answers = answers::Answers::new(config.policy, config.known);
    let mut broker = serve::Broker::new(answers, outside, control);
    fds.for_each(|fd| broker.add_listener(Listener::new(fd)));
    Ok(broker)
}

/// A procfs, mounted nowhere, that shows processes alone, and those alone that its reader may
/// trace (proc(5), `hidepid=ptraceable` and `subset=pid`; Linux 5.8).
fn own_procfs() -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(&context, "hidepid", "ptraceable")?;
    rustix::mount::fsconfig_set_string(&context, "subset", "pid")?;
    rustix::mount::fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// Makes the procfs the root directory, and returns it as a directory to look up from.
fn enter(procfs: OwnedFd) -> io::Result<OwnedFd> {
    rustix::process::fchdir(&procfs)?;
    rustix::process::chroot(".")?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(&procfs, ".", flags, Mode::empty())?)
}

/// Tries to reach the host's files and processes.
fn check_files() -> io::Result<()> {
    for path in ["/etc", "/1", "/sys", "/../etc", "/self/cwd/../etc"] {
        if rustix::fs::openat(rustix::fs::CWD, path, OFlags::PATH, Mode::empty()).is_ok() {
            return Err(io::Error::other(format!("{path} of the host could be reached")));
        }
    }
    Ok(())
}

/// See the module's documentation.
const KEPT: CapabilitySet = CapabilitySet::SYS_PTRACE
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH);

const CALLS: &[confine::Group] = &[
    (
        "look at a caller and do what it asked for",
        &[
            l::SYS_pidfd_open,
            l::SYS_pidfd_getfd,
            l::SYS_process_vm_readv,
            l::SYS_bind,
            l::SYS_connect,
        ],
    ),
    (
        "do as a caller would, in a thread of its own",
        &[
            l::SYS_chroot,
            l::SYS_fchdir,
            l::SYS_umask,
            l::SYS_setresuid,
            l::SYS_setresgid,
            l::SYS_setgroups,
            l::SYS_capset,
            l::SYS_fstat,
            l::SYS_fstatfs,
            l::SYS_set_robust_list,
            l::SYS_rseq,
            l::SYS_sched_getaffinity,
        ],
    ),
];

const fn arg(arg: u8, mask: i32, value: i32) -> Cond {
    let (mask, value) = (mask.cast_unsigned(), value.cast_unsigned());
    Cond { arg, test: Test::Masked { mask, value } }
}

const fn ioctl(command: l::Ioctl) -> [Cond; 1] {
    // Only the low half counts, in the kernel too.
    #[allow(clippy::cast_possible_truncation)]
    [Cond { arg: 1, test: Test::Is(command as u32) }]
}

const CALLS_IF: &[Rule] = &[
    only(l::SYS_ioctl, &ioctl(l::SECCOMP_IOCTL_NOTIF_RECV), "take a call"),
    only(l::SYS_ioctl, &ioctl(l::SECCOMP_IOCTL_NOTIF_SEND), "answer it"),
    only(l::SYS_ioctl, &ioctl(l::SECCOMP_IOCTL_NOTIF_ID_VALID), "is the caller there?"),
    only(l::SYS_ioctl, &ioctl(l::SECCOMP_IOCTL_NOTIF_ADDFD), "answer with a descriptor"),
    only(l::SYS_ioctl, &ioctl(l::SECCOMP_IOCTL_NOTIF_SET_FLAGS), "for a new listener"),
    only(
        l::SYS_openat,
        &[arg(2, l::O_ACCMODE | l::O_CREAT | l::O_TRUNC, l::O_RDONLY)],
        "a caller's state, its root, and the socket that it names",
    ),
    only(l::SYS_unshare, &[arg(0, -1, l::CLONE_FS)], "a thread's own root directory"),
    only(
        l::SYS_clone,
        &[arg(0, l::CLONE_VM | l::CLONE_THREAD, l::CLONE_VM | l::CLONE_THREAD)],
        "threads",
    ),
];

/// [`CALLS_IF`], and what depends on the process id.
fn conditional() -> Vec<Rule> {
    let own = Box::new([Cond { arg: 0, test: Test::Is(std::process::id()) }]);
    let interrupt = only(l::SYS_tgkill, Box::leak(own), "interrupt a thread of its own");
    CALLS_IF.iter().copied().chain([interrupt]).collect()
}
