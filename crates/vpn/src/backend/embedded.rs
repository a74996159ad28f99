//! The embedded WireGuard as a process: started, asked, ended.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use hyperspector_sys::netlink::Connection;
use hyperspector_sys::pidfd::{has_ended_within, start_time};
use hyperspector_sys::{netns, worker};
use rustix::process::{Signal, pidfd_send_signal};

use super::{Error, Handle, MOST_QUEUES, Running, Start, step};
use crate::control::{self, Reply, Request};
use crate::device::{self, Ready};
use crate::tun;

/// How long a worker may take to start.
const START: Duration = Duration::from_secs(10);

/// How long a worker may take to end when it was asked to.
const STOP: Duration = Duration::from_secs(2);

/// How long one may take to end when it was killed.
const KILL: Duration = Duration::from_secs(5);

/// Starts it. Where that fails, nothing is left behind.
pub(super) fn start(
    wanted: &Start<'_>,
    interface: String,
    place: impl FnOnce(u32) -> io::Result<()>,
) -> Result<Running, Error> {
    let queues = wanted.queues.clamp(1, MOST_QUEUES);
    let (tuns, offload) =
        tun::create(&interface, wanted.offload, queues).map_err(step("make a TUN device"))?;
    let mut links = Connection::open()?;
    links.set_mtu(&interface, wanted.mtu)?;
    let index = links.link(&interface)?.index;
    let port = wanted.listen_port;
    let udps = device::bind_several(port, queues)
        .map_err(|e| step(&format!("bind UDP port {port}"))(e))?;
    let scout = device::bind_scout().map_err(step("bind a UDP port"))?;
    let listener = listen(wanted.control)
        .map_err(|e| step(&format!("listen at {}", wanted.control.display()))(e))?;
    let config = device::Config {
        name: wanted.name.to_owned(),
        key: wanted.key.clone(),
        peers: wanted.peers.to_vec(),
        offload,
        queues,
        mtu: wanted.mtu,
        uid: wanted.uid,
        gid: wanted.gid,
    };
    let operators = wanted.operators.map(listen_for_operators).transpose();
    let operators = operators.map_err(step("listen for wg")).inspect_err(|_| {
        let _ = fs::remove_file(wanted.control);
    })?;
    let mut fds: Vec<_> = tuns.iter().chain(&udps).map(AsFd::as_fd).collect();
    fds.extend([scout.as_fd(), listener.as_fd()]);
    fds.extend(operators.as_ref().map(AsFd::as_fd));
    let started = spawn(&config, &fds, place);
    let (child, started) = started.inspect_err(|_| {
        for path in [Some(wanted.control), wanted.operators].into_iter().flatten() {
            let _ = fs::remove_file(path);
        }
    })?;
    let handle = Handle::Embedded {
        control: wanted.control.to_owned(),
        operators: wanted.operators.map(Path::to_owned),
        pid: child.id(),
        started,
    };
    Ok(Running { handle, interface, index, child: Some(child) })
}

/// Starts the worker and waits until it runs; returns it with its start time.
fn spawn(
    config: &device::Config,
    fds: &[std::os::fd::BorrowedFd<'_>],
    place: impl FnOnce(u32) -> io::Result<()>,
) -> Result<(Child, u64), Error> {
    let spawned = worker::spawn_placed(device::KIND, config, fds, Stdio::inherit(), place);
    let (mut child, channel) = spawned.map_err(step("start the VPN's process"))?;
    let answer = channel
        .stream()
        .set_read_timeout(Some(START))
        .and_then(|()| channel.receive::<Ready>())
        .map_err(step("wait for the VPN's process"));
    let result = match answer {
        Ok(Some((Ready::Running(_), _))) => start_time(child.id())
            .and_then(|time| time.ok_or_else(|| io::ErrorKind::NotFound.into()))
            .map_err(step("look at the VPN's process")),
        Ok(Some((Ready::Failed(why), _))) => Err(Error::Worker(why)),
        Ok(None) => Err(Error::Worker("ended without a word".into())),
        Err(error) => Err(error),
    };
    match result {
        Ok(started) => Ok((child, started)),
        Err(error) => {
            // One that has said why ends by itself.
            if !matches!(error, Error::Worker(_)) {
                let _ = child.kill();
            }
            let _ = child.wait();
            Err(error)
        }
    }
}

/// An answer to what it was told to do.
pub(super) fn done(reply: Reply) -> Result<(), Error> {
    match reply {
        Reply::Done => Ok(()),
        Reply::Refused(why) => Err(Error::Worker(why)),
        Reply::Status(_) => Err(Error::Worker("answered something else".into())),
    }
}

/// Ends its process: asks, then kills.
pub(super) fn stop_process(handle: &Handle, control: &Path) -> io::Result<()> {
    let Some(process) = handle.process()? else { return Ok(()) };
    let asked = control::ask(control, &Request::Stop).is_ok();
    if asked && has_ended_within(process.as_fd(), STOP)? {
        return Ok(());
    }
    match pidfd_send_signal(&process, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => return Err(error.into()),
    }
    if has_ended_within(process.as_fd(), KILL)? {
        Ok(())
    } else {
        Err(io::ErrorKind::TimedOut.into())
    }
}

/// Asks it.
pub(super) fn ask(control: &Path, request: &Request) -> Result<Reply, Error> {
    control::ask(control, request).map_err(step("ask the VPN's process"))
}

/// Listens at `path`, in place of a socket that nobody answers at any more.
fn listen(path: &Path) -> io::Result<UnixListener> {
    if UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "a VPN answers there already"));
    }
    netns::listen(path)
}

/// As [`listen`], where `wg` looks, in a folder that is root's alone.
fn listen_for_operators(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        match fs::DirBuilder::new().mode(0o700).create(folder) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
    }
    let listener = listen(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Removes a socket, where it is there.
pub(super) fn remove_socket(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
