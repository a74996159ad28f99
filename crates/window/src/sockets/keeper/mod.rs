//! The keeper: holds the descriptors of a server's tee, and does for it what takes a privilege.
//!
//! It accepts the connections of writers, connects to readers, starts the tee, and starts it again
//! with the same descriptors when it dies. It reads no byte of any message: what it reads are typed
//! frames of the agent and of the tee. It lives in an empty network namespace, where the sockets
//! that it makes belong too, so that they lead nowhere by a name that is not a path.

mod answers;
mod connect;
mod onward;
mod process;
mod serve;
mod state;
mod writers;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use hyperspector_sys::capabilities::limit_bounding_set;
use hyperspector_sys::channel::{self, Channel};
use hyperspector_sys::worker;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use rustix::process::{Resource, Rlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, UnshareFlags, set_capabilities, unshare_unsafe,
};
use serde::{Deserialize, Serialize};

use super::memory;
use super::message::{Reply, Request, Started};
use super::tee::SIZE;

/// How long a keeper may take to answer.
const ANSWER: Duration = Duration::from_secs(2);

/// How many descriptors a keeper, and a tee, may have.
const DESCRIPTORS: u64 = 16_384;

/// What a keeper keeps: making the tee's user, directory and lack of rights (SETUID, SETGID,
/// SETPCAP, SYS_CHROOT), ending it (KILL), finding and connecting to sockets in the roots of others
/// (SYS_PTRACE, DAC_OVERRIDE), and making room in a socket for the largest message (NET_ADMIN).
const KEPT: CapabilitySet = CapabilitySet::SETUID
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::NET_ADMIN);

/// What a keeper is told at its start. The descriptors beside it: the control socket, on which it
/// answers the agent; the socket on which its tee waits for the next keeper; and, where there is a
/// tee that has lost its keeper, a connection to that one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    /// The user that the tee becomes: one of its own.
    pub uid: u32,
    /// The group that the tee becomes.
    pub gid: u32,
}

/// Asks the keeper whose control socket is at `path`; gives up on one that does not answer in time.
///
/// # Errors
/// What is in the way; `Other` with the keeper's reason where it refuses.
pub fn ask(path: &Path, request: &Request, fds: &[&OwnedFd]) -> io::Result<Reply> {
    let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
    match channel::ask(path, request, &fds, ANSWER)? {
        (Reply::Refused(why), _) => Err(io::Error::other(why)),
        (reply, _) => Ok(reply),
    }
}

/// The worker `keeper`.
pub fn worker_main() -> ExitCode {
    let (config, fds, channel) = match worker::receive::<Config>() {
        Ok(received) => received,
        Err(error) => {
            eprintln!("keeper: {error}");
            return ExitCode::FAILURE;
        }
    };
    let keeper = match begin(config, fds) {
        Ok(keeper) => keeper,
        Err(error) => {
            let _ = channel.send(&Started::Failed(error.to_string()), &[]);
            return ExitCode::FAILURE;
        }
    };
    if channel.send(&Started::Ready, &[]).is_err() {
        return ExitCode::FAILURE;
    }
    drop(channel);
    match keeper.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("keeper: {error}");
            ExitCode::FAILURE
        }
    }
}

fn begin(config: Config, fds: Vec<OwnedFd>) -> io::Result<serve::Keeper> {
    let missing = || io::Error::new(io::ErrorKind::InvalidInput, "descriptors are missing");
    let mut fds = fds.into_iter();
    let (Some(control), Some(successor)) = (fds.next(), fds.next()) else {
        return Err(missing());
    };
    let orphan = fds.next().map(|fd| Channel::new(UnixStream::from(fd)));
    let limit = Rlimit { current: Some(DESCRIPTORS), maximum: Some(DESCRIPTORS) };
    rustix::process::setrlimit(Resource::Nofile, limit)?;
    // SAFETY: unsharing the network namespace touches neither memory nor descriptors.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
    let root = empty_directory()?;
    let memory = memory::create("intake", SIZE)?;
    // The program is opened now, which takes a privilege.
    worker::prepare()?;
    limit_bounding_set(KEPT)?;
    let inheritable = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: KEPT, permitted: KEPT, inheritable })?;
    let control = UnixListener::from(control);
    let mut keeper =
        serve::Keeper::new((config.uid, config.gid), control, successor, root, memory)?;
    if let Some(orphan) = orphan
        && let Err(error) = keeper.take_over(&orphan)
    {
        eprintln!("keeper: take over from a tee without a keeper: {error}");
    }
    keeper.start_tee()?;
    Ok(keeper)
}

/// A directory that is empty and cannot be written to, on no path.
fn empty_directory() -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mount = rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(&mount, ".", flags, Mode::empty())?)
}
