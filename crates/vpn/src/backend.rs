//! One front for both WireGuards: start, change, ask, stop.
//!
//! A VPN is started in the host's network namespace, where its UDP socket stays; its interface is
//! moved into the hub by the caller. What is needed to find it again later is a [`Handle`], which
//! can be stored.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Child;

use hyperspector_spec::plan::VpnBackend;
use hyperspector_sys::netlink::Connection;
use hyperspector_sys::netns;
use hyperspector_sys::pidfd::start_time;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::control::{Reply, Request};
use crate::kernel::{self, KernelError};
use crate::keys::SecretKey;
use crate::peer::Peer;
use crate::status::{Backend, Status};

mod embedded;

use embedded::{ask, done, remove_socket, stop_process};

/// The folder in which `wg` looks for WireGuards that are processes: `NAME.sock`, for the interface
/// that it shall call NAME.
pub const UAPI: &str = "/var/run/wireguard";

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The spec wants the kernel's, and there is none.
    #[error("this kernel has no WireGuard; vpn = \"auto\" or \"embedded\" works without")]
    NoKernel,
    /// The kernel's failed.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A link failed.
    #[error(transparent)]
    Link(#[from] hyperspector_sys::netlink::Error),
    /// A step of starting, or talking to, the embedded one failed.
    #[error("{step}: {source}")]
    Step {
        /// `bind UDP port 51820`, say.
        step: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The worker said why it does not run, or will not do it.
    #[error("the VPN's process: {0}")]
    Worker(String),
}

/// What to start.
#[derive(Debug)]
pub struct Start<'a> {
    /// The HyperSpector's name, for messages.
    pub name: &'a str,
    /// Which implementation is wanted.
    pub backend: VpnBackend,
    /// This host's key.
    pub key: &'a SecretKey,
    /// The UDP port in the host's network.
    pub listen_port: u16,
    /// The greatest packet inside the VPN, in bytes.
    pub mtu: u32,
    /// The peers to begin with.
    pub peers: &'a [Peer],
    /// Where the embedded one's control socket will be; its folder must be root's alone.
    pub control: &'a Path,
    /// Where `wg` looks for the embedded one, if it shall find it: see [`UAPI`].
    pub operators: Option<&'a Path>,
    /// The user that the embedded one becomes; no other process should have it.
    pub uid: u32,
    /// The group that it becomes.
    pub gid: u32,
    /// Whether the embedded one may take many packets as one, where the kernel can.
    pub offload: bool,
    /// The queues of the embedded one, each with a thread either way: see [`queues`].
    pub queues: usize,
}

/// The most queues: their descriptors are handed over in one message.
const MOST_QUEUES: usize = 6;

/// How many queues suit this machine: each keeps two processors busy.
pub fn queues() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    (processors / 2).clamp(1, MOST_QUEUES)
}

/// A VPN that was just started.
#[derive(Debug)]
pub struct Running {
    /// How to find it again.
    pub handle: Handle,
    /// Its interface, still in the calling thread's network namespace, down and without an address.
    pub interface: String,
    /// The interface's index there.
    pub index: u32,
    /// The embedded one's process, to be waited for.
    pub child: Option<Child>,
}

/// How to find a VPN, also from another process than the one that started it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Handle {
    /// The kernel's.
    Kernel {
        /// The network namespace that its interface is in; `None` for the caller's.
        namespace: Option<PathBuf>,
        /// Its interface's name there.
        interface: String,
    },
    /// The embedded one.
    Embedded {
        /// Its control socket.
        control: PathBuf,
        /// The socket for operators, where there is one.
        #[serde(default)]
        operators: Option<PathBuf>,
        /// Its process.
        pid: u32,
        /// When that process was started, in the kernel's clock ticks: tells it from a later one of
        /// the same number.
        started: u64,
    },
}

impl Handle {
    /// Notes that the interface was moved to the namespace at `namespace` and is called `interface`
    /// there.
    pub fn moved(&mut self, to: &Path, name: &str) {
        if let Self::Kernel { namespace, interface } = self {
            *namespace = Some(to.to_owned());
            name.clone_into(interface);
        }
    }

    /// Which implementation it is.
    pub fn backend(&self) -> Backend {
        match self {
            Self::Kernel { .. } => Backend::Kernel,
            Self::Embedded { .. } => Backend::Embedded,
        }
    }

    /// A descriptor for the embedded one's process, readable when it has ended; `None` where it has
    /// ended and was waited for, or where there is none.
    pub fn process(&self) -> io::Result<Option<OwnedFd>> {
        let Self::Embedded { pid, started, .. } = self else { return Ok(None) };
        let Some(number) = i32::try_from(*pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        let process = match pidfd_open(number, PidfdFlags::empty()) {
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            other => other?,
        };
        // In this order: with the descriptor open the number cannot come to mean another.
        Ok((start_time(*pid)? == Some(*started)).then_some(process))
    }
}

/// Starts a VPN in the calling thread's network namespace.
///
/// Where it fails, nothing is left behind.
pub fn start(wanted: &Start<'_>) -> Result<Running, Error> {
    start_placed(wanted, |_| Ok(()))
}

/// Like [`start`]; `place` is called with the process id of the embedded one before it has its
/// configuration, to put it where it will be found whatever becomes of the caller.
pub fn start_placed(
    wanted: &Start<'_>,
    place: impl FnOnce(u32) -> io::Result<()>,
) -> Result<Running, Error> {
    let kernel = match wanted.backend {
        VpnBackend::Embedded => false,
        VpnBackend::Auto => kernel::is_available()?,
        VpnBackend::Kernel if kernel::is_available()? => true,
        VpnBackend::Kernel => return Err(Error::NoKernel),
    };
    let interface = temporary_name().map_err(step("name the interface"))?;
    if kernel { start_kernel(wanted, interface) } else { embedded::start(wanted, interface, place) }
}

fn start_kernel(wanted: &Start<'_>, interface: String) -> Result<Running, Error> {
    let Start { key, listen_port, mtu, peers, .. } = *wanted;
    kernel::create(&interface, key, listen_port, mtu, peers)?;
    let index = Connection::open()?.link(&interface)?.index;
    let handle = Handle::Kernel { namespace: None, interface: interface.clone() };
    Ok(Running { handle, interface, index, child: None })
}

/// Replaces the list of peers: who stays keeps its session, whoever is not in it is cut off.
pub fn set_peers(handle: &Handle, peers: Vec<Peer>) -> Result<(), Error> {
    match handle {
        Handle::Kernel { namespace, interface } => {
            within(namespace.as_deref(), || kernel::set_peers(interface, &peers))
        }
        Handle::Embedded { control, .. } => done(ask(control, &Request::SetPeers(peers))?),
    }
}

/// Makes these this host's keys, the one in use first. Peers that know it by one that stays keep
/// their sessions in the embedded one; the kernel's takes the first alone.
pub fn set_keys(handle: &Handle, keys: Vec<SecretKey>) -> Result<(), Error> {
    match handle {
        Handle::Kernel { namespace, interface } => {
            let Some(key) = keys.first() else { return Ok(()) };
            within(namespace.as_deref(), || kernel::set_key(interface, key))
        }
        Handle::Embedded { control, .. } => done(ask(control, &Request::SetKeys(keys))?),
    }
}

/// Its state.
pub fn status(handle: &Handle) -> Result<Status, Error> {
    match handle {
        Handle::Kernel { namespace, interface } => {
            within(namespace.as_deref(), || kernel::status(interface))
        }
        Handle::Embedded { control, .. } => match ask(control, &Request::Status)? {
            Reply::Status(status) => Ok(*status),
            Reply::Refused(why) => Err(Error::Worker(why)),
            Reply::Done => Err(Error::Worker("answered something else".into())),
        },
    }
}

/// Ends it: asks, then kills. The interface goes with it, and so does the control socket. Not an
/// error where it has ended by itself.
///
/// A child of the caller's stays a zombie until the caller waits for it.
pub fn stop(handle: &Handle) -> Result<(), Error> {
    match handle {
        Handle::Kernel { namespace, interface } => {
            if namespace.as_ref().is_some_and(|path| !path.exists()) {
                return Ok(());
            }
            within(namespace.as_deref(), || kernel::remove(interface))
        }
        Handle::Embedded { control, operators, .. } => {
            stop_process(handle, control).map_err(step("stop the VPN's process"))?;
            let mut sockets = [Some(control), operators.as_ref()].into_iter().flatten();
            let removed = sockets.try_for_each(|path| remove_socket(path));
            removed.map_err(step("remove the VPN's sockets"))
        }
    }
}

/// Runs `work` in the network namespace at `path`.
fn within<T: Send>(
    path: Option<&Path>,
    work: impl FnOnce() -> Result<T, KernelError> + Send,
) -> Result<T, Error> {
    let Some(path) = path else { return Ok(work()?) };
    let enter = || step("enter the hub's network namespace");
    let namespace = netns::open(path).map_err(enter())?;
    Ok(netns::within(namespace.as_fd(), work).map_err(enter())??)
}

/// A name for an interface that is soon moved away and renamed: one that nobody else has.
pub(crate) fn temporary_name() -> io::Result<String> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(format!("hsv{:08x}", u32::from_ne_bytes(bytes)))
}

fn step(step: &str) -> impl FnOnce(io::Error) -> Error {
    let step = step.to_owned();
    move |source| Error::Step { step, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_a_later_one_of_the_same_number() {
        let pid = std::process::id();
        let started = start_time(pid).unwrap().unwrap();
        let control = PathBuf::new();
        let own = Handle::Embedded { control: control.clone(), operators: None, pid, started };
        assert!(own.process().unwrap().is_some());
        let other = Handle::Embedded { control, operators: None, pid, started: started + 1 };
        assert!(other.process().unwrap().is_none());
    }

    #[test]
    fn handles_can_be_stored() {
        let mut handle = Handle::Kernel { namespace: None, interface: "hsv1".into() };
        handle.moved(Path::new("/run/hub"), "vpn0");
        let json = serde_json::to_string(&handle).unwrap();
        assert_eq!(json, r#"{"kernel":{"namespace":"/run/hub","interface":"vpn0"}}"#);
        assert_eq!(serde_json::from_str::<Handle>(&json).unwrap(), handle);
    }

    #[test]
    fn temporary_names_fit() {
        assert!(temporary_name().unwrap().len() <= 15);
    }
}
