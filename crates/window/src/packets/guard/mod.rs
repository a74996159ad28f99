//! The guard: keeps the transmit guard on every interface of the host, and makes the packet sockets
//! that are handed to portspaces. One for each agent, in the host's network namespace.
//!
//! # What it guarantees
//! A socket that it makes carries [`super::MARK`], which its holder cannot change. A packet with
//! that mark is dropped on the egress of every interface (tcx, or clsact on kernels before 6.6),
//! ahead of the host's own programs, and counted. No socket is made before every interface is
//! guarded, nor while one is known that is not.
//!
//! An interface that appears later is guarded at once, where that can be had: by an nf_tables chain on
//! the egress of all devices, which the kernel hangs onto a new one before it can be up
//! ([`NewInterfaces::AtOnce`]). It also stops what goes round the queueing (PACKET_QDISC_BYPASS). It
//! needs Linux 6.17, and, unless [`Choice::Always`] is asked for, an nft on the host that can read such
//! a chain: with one that cannot, `nft list ruleset` would never end. With it, no frame left in 10 of
//! 10 runs of a test (`an_interface_is_guarded_from_its_first_moment`) in which one left in 10 of 10
//! without; `tests/egress` stops this process meanwhile, and still none leaves.
//!
//! Elsewhere an interface is guarded when the kernel tells of it ([`Status::not_at_once`] says why).
//! One that is made and then brought up, as configuration tools do it, and as happens to all that move
//! between network namespaces, is guarded before it is up. One that is up from the moment that it
//! exists (one request of rtnetlink, which only some types take) is open until then: in 100 tries on a
//! machine of two processors, against a sender that knew the index and never paused, about half carried
//! packets, for 0.1 ms in the median and 1.8 ms at most, 108 packets at most; of 100 that were made
//! and then brought up none did. `tests/packets` (`reaction`) measures both. This thread runs at
//! real-time priority for that reason. Where the kernel has BPF LSM switched on, sending is refused
//! at the socket as well, and there is no such moment ([`Status::send_denied`]; 0 of 50 on Linux 6.12).
//!
//! Pins keep the guard in place when this process dies, and so does the table of the chain, though
//! anybody with CAP_NET_ADMIN can then remove it (`nft flush ruleset`), which a living guard does not
//! let happen. Without the chain, interfaces that appear while there is no guard are guarded when the
//! next one starts, so the agent starts it again at once.
//!
//! # What it does not do
//! It reads no packet and no memory of a portspace. After its start it has CAP_NET_RAW (packet
//! sockets), CAP_NET_ADMIN (attaching, SO_MARK) and CAP_BPF (the bpf call, where unprivileged BPF
//! is off), the pin directory as its root directory, and a list of system calls.

mod clsact;
mod egress;
mod factory;
mod links;
mod transmit;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Barrier, Mutex, MutexGuard, PoisonError};

use hyperspector_sys::worker;
pub use hyperspector_sys::worker::Started;
use libc as l;
use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

use super::confine;
use super::rules::{Cond, Rule, Test};
pub use egress::{Choice, NewInterfaces};
pub use transmit::How;

/// What the guard is told at its start. Beside it comes one descriptor: the listening Unix stream
/// socket on which brokers and the agent connect.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    /// A directory on a bpffs, for the guard alone: where the attachments are pinned, by interface
    /// index.
    pub pin_dir: PathBuf,
    /// The user and group that it becomes; the directory is given to them.
    pub uid: u32,
    /// See `uid`.
    pub gid: u32,
    /// Use clsact even where the kernel has tcx.
    pub force_clsact: bool,
}

/// A [`Config`] with what else may be chosen; a configuration alone does too.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Start {
    /// The rest.
    #[serde(flatten)]
    pub config: Config,
    /// Whether to guard new interfaces at once.
    #[serde(default)]
    pub new_interfaces: Choice,
}

/// What a connection may ask.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Make a packet socket. Answered with [`Reply::Opened`] and the descriptor.
    Open {
        /// Its type.
        kind: Kind,
    },
    /// What is the state?
    Status,
}

/// The type of a packet socket (packet(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// With the link-layer header.
    Raw,
    /// Without.
    Dgram,
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Reply {
    /// The socket comes beside this message: marked, of protocol 0, bound to nothing.
    Opened,
    /// No socket, with the errno.
    Refused(i32),
    /// The state.
    Status(Status),
}

/// The guard's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// How the program is attached.
    pub how: How,
    /// The guarded interfaces, by index.
    pub guarded: Vec<(u32, String)>,
    /// Interfaces that could not be guarded, with the reason. No socket is made while there are any.
    pub unguarded: Vec<(u32, String)>,
    /// How interfaces that appear later are guarded.
    pub new_interfaces: NewInterfaces,
    /// Why not at once.
    pub not_at_once: Option<String>,
    /// Whether sending is refused already at the socket (BPF LSM), so that not even an interface
    /// that has just appeared can be sent on.
    pub send_denied: bool,
    /// Packets that portspaces tried to send and that were dropped at an interface, since the pin
    /// directory was made.
    pub dropped: u64,
    /// Sockets made since the guard's start.
    pub sockets: u64,
    /// Rescans because the kernel's messages came too fast.
    pub rescans: u64,
}

/// What went wrong at the start.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("no listening socket came with the guard's configuration")]
    NoListener,
    #[error("prepare {0} for pins (it must be a directory on a bpffs): {1}")]
    PinDir(PathBuf, #[source] io::Error),
    #[error("load the transmit guard: {0}")]
    Load(#[source] libbpf_rs::Error),
    #[error("list the interfaces: {0}")]
    List(#[source] io::Error),
    #[error("attach the transmit guard to {0}")]
    Attach(String),
    #[error("drop privileges: {0}")]
    Confine(#[source] io::Error),
    #[error("start the thread that makes sockets: {0}")]
    Thread(#[source] io::Error),
}

/// The state that both threads see.
type Shared = Arc<Mutex<Status>>;

fn lock(shared: &Shared) -> MutexGuard<'_, Status> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Name of the pinned counter in the pin directory.
const COUNTER: &str = "dropped";

/// The guard as a worker process (`hyperspector __worker guard`).
pub fn worker_main() -> ExitCode {
    worker::serve("guard", start, |mut links| format!("follow the interfaces: {}", links.follow()))
}

/// Loads, attaches, confines, and starts answering.
fn start(wanted: Start, fds: Vec<OwnedFd>) -> Result<links::Links, Error> {
    let listener = fds.into_iter().next().map(UnixListener::from).ok_or(Error::NoListener)?;
    let printing = libbpf_rs::set_print(None);
    // Missing on many kernels, which is no fault.
    let send = transmit::load_send();
    libbpf_rs::set_print(printing);
    // Looks at what is out of reach afterwards.
    let possible = egress::check(wanted.new_interfaces);
    let config = &wanted.config;
    enter(config).map_err(|e| Error::PinDir(config.pin_dir.clone(), e))?;
    let program = transmit::Program::load(Some(COUNTER)).map_err(Error::Load)?;
    // From here on libbpf's errors say all that it would print.
    libbpf_rs::set_print(None);
    let denied = send.and_then(|object| transmit::deny_sending(&object));
    let shared = Shared::default();
    let egress = guard_at_once(&egress::table_name(&config.pin_dir), possible, &shared);
    let mut links = links::Links::open(program.clone(), shared.clone(), config.force_clsact)
        .map_err(Error::List)?;
    links.rescan().map_err(Error::List)?;
    lock(&shared).send_denied = denied.is_ok();
    if let Some((_, why)) = lock(&shared).unguarded.first() {
        return Err(Error::Attach(why.clone()));
    }
    // Only this thread is hurried: it decides how long a new interface stays open.
    hurry();
    confine::drop_to(config.uid, config.gid, KEPT).map_err(Error::Confine)?;
    let factory = factory::Factory::new(listener, shared.clone(), program, egress);
    let running = Arc::new(Barrier::new(2));
    let begun = running.clone();
    std::thread::Builder::new()
        .name("factory".into())
        .spawn(move || {
            begun.wait();
            factory.serve();
        })
        .map_err(Error::Thread)?;
    // The C library's calls at the start of a thread are not on the list.
    running.wait();
    confine::allow_only(CALLS, CALLS_IF).map_err(Error::Confine)?;
    Ok(links)
}

/// Has new interfaces guarded at once, where that is possible; the status says how it is.
fn guard_at_once(
    table: &str,
    possible: Result<(), String>,
    shared: &Shared,
) -> Option<egress::Egress> {
    let text = |error: io::Error| hyperspector_sys::errno::text(&error);
    let made = match possible {
        Ok(()) => egress::Egress::set_up(table).map_err(text),
        Err(why) => egress::forget(table).map_err(text).and(Err(why)),
    };
    let mut status = lock(shared);
    match made {
        Ok(egress) => {
            status.new_interfaces = NewInterfaces::AtOnce;
            Some(egress)
        }
        Err(why) => {
            eprintln!("guard: new interfaces are guarded after the kernel tells of them: {why}");
            status.not_at_once = Some(why);
            None
        }
    }
}

/// Makes the pin directory and makes it the root directory: no other path is ever used.
fn enter(config: &Config) -> io::Result<()> {
    // Reads a file that is out of reach afterwards, and remembers what it found.
    libbpf_rs::num_possible_cpus().map_err(io::Error::other)?;
    fs::create_dir_all(&config.pin_dir)?;
    if rustix::fs::statfs(&config.pin_dir)?.f_type != l::BPF_FS_MAGIC {
        return Err(io::Error::other("not on a bpffs"));
    }
    let owner = (rustix::fs::Uid::from_raw(config.uid), rustix::fs::Gid::from_raw(config.gid));
    rustix::fs::chown(&config.pin_dir, Some(owner.0), Some(owner.1))?;
    rustix::fs::chmod(&config.pin_dir, rustix::fs::Mode::RWXU)?;
    std::os::unix::fs::chroot(&config.pin_dir)?;
    std::env::set_current_dir("/")
}

/// Real-time priority for this thread, not for those that it starts. A wish: without it the guard
/// is merely slower to react on a busy machine.
fn hurry() {
    let parameter = l::sched_param { sched_priority: 1 };
    let policy = l::SCHED_FIFO | l::SCHED_RESET_ON_FORK;
    // SAFETY: `parameter` lives across the call; 0 is the calling thread.
    unsafe { l::sched_setscheduler(0, policy, &raw const parameter) };
}

/// Undoes what guards have left in `pin_dir`, and with it the transmit guard on every interface of
/// the current network namespace. To be called when no guard runs. An absent directory is no error.
///
/// # Errors
/// The first failure; the rest is removed all the same.
pub fn remove(pin_dir: &Path) -> io::Result<()> {
    // What is gone already would be complained of.
    let printing = libbpf_rs::set_print(None);
    let removed = remove_all(pin_dir);
    libbpf_rs::set_print(printing);
    removed
}

fn remove_all(pin_dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(pin_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    let mut result = Ok(());
    for entry in entries {
        let removed = entry.and_then(|entry| undo(&entry));
        result = result.and(removed);
    }
    result.and_then(|()| fs::remove_dir(pin_dir))
}

/// Undoes what an entry of the pin directory stands for.
fn undo(entry: &fs::DirEntry) -> io::Result<()> {
    let name = entry.file_name();
    if let Some(table) = egress::named(&name) {
        egress::remove(table)?;
    } else if let Some(trace) = clsact::Trace::named(&name) {
        trace.undo()?;
    } else {
        return fs::remove_file(entry.path());
    }
    fs::remove_dir(entry.path())
}

/// Attaches the transmit guard to the loopback interface of the current network namespace, pinned
/// nowhere, to find out whether that works.
pub(super) fn try_attach(how: How) -> io::Result<()> {
    let program = transmit::Program::load(None).map_err(io::Error::other)?;
    match how {
        How::Tcx if program.has_tcx()? => Ok(()),
        How::Tcx => Err(io::Error::from_raw_os_error(l::EINVAL)),
        How::Clsact => program.try_clsact(),
    }
}

/// See the module's documentation.
const KEPT: CapabilitySet =
    CapabilitySet::NET_RAW.union(CapabilitySet::NET_ADMIN).union(CapabilitySet::BPF);

const CALLS: &[confine::Group] = &[(
    "pins come and go with interfaces",
    &[
        #[cfg(target_arch = "x86_64")]
        l::SYS_unlink,
        #[cfg(target_arch = "x86_64")]
        l::SYS_mkdir,
        #[cfg(target_arch = "x86_64")]
        l::SYS_rmdir,
        l::SYS_unlinkat,
        l::SYS_mkdirat,
    ],
)];

const fn first(value: u32) -> [Cond; 1] {
    [Cond { arg: 0, test: Test::Is(value) }]
}

/// `enum bpf_cmd`.
const CALLS_IF: &[Rule] = &[
    confine::only(l::SYS_bpf, &first(1), "BPF_MAP_LOOKUP_ELEM: the counter"),
    confine::only(l::SYS_bpf, &first(6), "BPF_OBJ_PIN"),
    confine::only(l::SYS_bpf, &first(28), "BPF_LINK_CREATE"),
    confine::only(l::SYS_bpf, &first(15), "BPF_OBJ_GET_INFO_BY_FD: libbpf names the clsact filter"),
    confine::only(l::SYS_socket, &first(17), "AF_PACKET: what it is there for"),
    confine::only(l::SYS_socket, &first(16), "AF_NETLINK: libbpf speaks it to clsact"),
    confine::only(l::SYS_bind, &[], "as above"),
];
