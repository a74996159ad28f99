//! The kernel's WireGuard, by generic netlink (include/uapi/linux/wireguard.h).
//!
//! Everything works on the device of the given name in the calling thread's network namespace.

mod message;
mod socket;

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyperspector_sys::netlink::{Connection, End, Kind};

use crate::keys::SecretKey;
use crate::peer::Peer;
use crate::status::Status;
use message::Change;
use socket::Generic;

/// How long a session lasts at most (the protocol's REJECT_AFTER_TIME). A peer that agreed on one
/// since is where the kernel knows it to be.
const SESSION: Duration = Duration::from_secs(180);

/// Why the kernel's WireGuard did not do something.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A link could not be made or removed.
    #[error(transparent)]
    Link(#[from] hyperspector_sys::netlink::Error),
    /// The device could not be configured or read.
    #[error("{operation} the kernel's WireGuard {interface}: {source}")]
    Device {
        /// `configure`, `read`.
        operation: &'static str,
        /// Its name.
        interface: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Whether this kernel has WireGuard (as a module or built in): a device is made, and removed.
pub fn is_available() -> Result<bool, KernelError> {
    let name = crate::backend::temporary_name().map_err(|e| failed("probe for", "device", e))?;
    let mut links = Connection::open()?;
    match links.create(Kind::Wireguard, &End::named(&name)) {
        Ok(()) => links.delete(&name).map(|()| true).map_err(KernelError::from),
        Err(error) if error.is_unsupported() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Makes a device and configures it. Where that fails, nothing is left behind.
pub fn create(
    name: &str,
    key: &SecretKey,
    port: u16,
    mtu: u32,
    peers: &[Peer],
) -> Result<(), KernelError> {
    let mut links = Connection::open()?;
    let end = End { mtu: Some(mtu), ..End::named(name) };
    links.create(Kind::Wireguard, &end)?;
    let configured = configure(name, key, port, peers);
    if configured.is_err() {
        let _ = links.delete(name);
    }
    configured
}

fn configure(name: &str, key: &SecretKey, port: u16, peers: &[Peer]) -> Result<(), KernelError> {
    let mut generic = open(name, "configure")?;
    generic.set(message::device(name, key, port)).map_err(|e| failed("configure", name, e))?;
    let peers = message::each_key(&message::Device::default(), peers);
    let changes: Vec<_> = peers.iter().map(|p| Change::Set(p, p.endpoint)).collect();
    apply(&mut generic, name, &changes)
}

/// Replaces the list of peers: who stays as he was is not touched, whoever is not in the list is
/// removed with his session.
///
/// The endpoint of a peer with a session stays where the kernel last heard it.
pub fn set_peers(name: &str, peers: &[Peer]) -> Result<(), KernelError> {
    let mut generic = open(name, "configure")?;
    let device = generic.get(name).map_err(|e| failed("read", name, e))?;
    let peers = message::each_key(&device, peers);
    apply(&mut generic, name, &message::difference(&device, &peers, since_epoch(), SESSION))
}

/// Gives it another key, where it has not got it: there is one at a time. Peers agree on new sessions
/// with it at once, and what is sent waits for those.
pub fn set_key(name: &str, key: &SecretKey) -> Result<(), KernelError> {
    let mut generic = open(name, "configure")?;
    let device = generic.get(name).map_err(|e| failed("read", name, e))?;
    if message::has_key(&device, key) {
        return Ok(());
    }
    generic.set(message::key(name, key)).map_err(|e| failed("configure", name, e))
}

fn apply(generic: &mut Generic, name: &str, changes: &[Change<'_>]) -> Result<(), KernelError> {
    for request in message::peers(name, changes) {
        generic.set(request).map_err(|e| failed("configure", name, e))?;
    }
    Ok(())
}

/// Its state.
pub fn status(name: &str) -> Result<Status, KernelError> {
    let mut generic = open(name, "read")?;
    let device = generic.get(name).map_err(|e| failed("read", name, e))?;
    Ok(device.status(since_epoch(), SESSION))
}

/// Removes it; not an error where it is gone.
pub fn remove(name: &str) -> Result<(), KernelError> {
    match Connection::open()?.delete(name) {
        Err(error) if error.is_not_found() => Ok(()),
        other => Ok(other?),
    }
}

fn open(name: &str, operation: &'static str) -> Result<Generic, KernelError> {
    Generic::open().map_err(|e| failed(operation, name, e))
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn failed(operation: &'static str, interface: &str, source: io::Error) -> KernelError {
    KernelError::Device { operation, interface: interface.to_owned(), source }
}
