//! Connecting to a reader, in a root directory that may be an attacker's.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2};
use rustix::net::{
    AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, connect, shutdown, socket_with, sockopt,
};
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::sockets::batch::Sender;
use crate::sockets::message::{Process, Upstream};
use crate::sockets::place::{self, FileId};
use crate::sockets::{LARGEST_MESSAGE, SocketKind};

/// Opens the root directory of a process. It is not kept, since that would keep the file systems of
/// a portspace in use after its end.
///
/// # Errors
/// `NotFound` where the process has ended.
pub(super) fn root_of(process: Process) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, format!("/proc/{}/root", process.pid), flags, Mode::empty())?;
    // Asked after opening: the number was not another process's yet.
    match hyperspector_sys::pidfd::start_time(process.pid)? {
        Some(start) if start == process.start => Ok(root),
        _ => Err(io::Error::new(io::ErrorKind::NotFound, "its portspace has ended")),
    }
}

/// Finds the socket at `to` in `root`. Links are not followed, so that nobody in there can lead us
/// into a view of a server.
///
/// # Errors
/// As openat2(2); `InvalidInput` where it is no socket.
pub(super) fn find(root: BorrowedFd<'_>, to: &Path) -> io::Result<(OwnedFd, FileId)> {
    let refused = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    let plain = to.strip_prefix("/").unwrap_or(to);
    if plain.components().any(|part| !matches!(part, Component::Normal(_))) {
        return refused("the path is not a plain one");
    }
    let first = plain.components().next().map(|part| part.as_os_str().as_encoded_bytes());
    if first.is_some_and(|first| first.starts_with(b".")) {
        return refused("the path is in a window");
    }
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = openat2(root, plain, flags, Mode::empty(), resolve)?;
    let found = fstat(&file)?;
    match FileType::from_raw_mode(found.st_mode) {
        FileType::Socket => Ok((file, FileId::of(&found))),
        _ => refused("it is not a socket"),
    }
}

/// A new connection to the socket `file`, on which nothing can be received. It never waits.
///
/// # Errors
/// As connect(2): `ConnectionRefused` where nobody has the socket open, `WouldBlock` where its
/// queue is full, `EPROTOTYPE` where it is of another kind.
pub(super) fn connect_to(file: &OwnedFd, kind: SocketKind) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, kind.number(), flags, None)?;
    if kind != SocketKind::Stream {
        // Beyond the host's limit, which is for those who have a reason to be limited.
        sockopt::set_socket_send_buffer_size_force(&socket, 2 * LARGEST_MESSAGE)?;
    }
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    if kind != SocketKind::Dgram {
        shutdown(&socket, Shutdown::Read)?;
    }
    Ok(socket)
}

/// A connection to a server's own receiver, made with the user and groups of whoever has connected
/// to ours: neither the file's mode nor the receiver takes the writer for somebody else.
///
/// # Errors
/// As connect(2).
pub(super) fn connect_as(
    writer: Sender,
    connection: &OwnedFd,
    upstream: &Upstream,
    kind: SocketKind,
) -> io::Result<OwnedFd> {
    let root = match upstream.process {
        Some(process) => root_of(process)?,
        None => openat(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?,
    };
    let root = place::root_within(root, &upstream.tree)?;
    let file = place::open(root.as_fd(), &upstream.path, OFlags::PATH)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, kind.number(), flags, None)?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    let own = rustix::process::getgroups()?;
    let theirs = groups_of(connection)?;
    let (user, group) = (Uid::from_raw(writer.uid), Gid::from_raw(writer.gid));
    set_thread_groups(&theirs)?;
    let connected = set_thread_res_gid(Gid::ROOT, group, Gid::ROOT)
        .and_then(|()| set_thread_res_uid(Uid::ROOT, user, Uid::ROOT))
        .and_then(|()| connect(&socket, &address));
    set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
    set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    set_thread_groups(&own)?;
    connected?;
    Ok(socket)
}

/// The supplementary groups of whoever is at the other end (`SO_PEERGROUPS`).
fn groups_of(connection: &OwnedFd) -> io::Result<Vec<Gid>> {
    let mut groups = vec![0_u32; 65_536];
    let mut length = (groups.len() * size_of::<u32>()) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `groups`, which has that many, and the
    // length; both live across the call.
    let result = unsafe {
        libc::getsockopt(
            connection.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    groups.truncate(length as usize / size_of::<u32>());
    Ok(groups.into_iter().map(Gid::from_raw).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::net::{UnixDatagram, UnixListener};

    fn root() -> (tempfile::TempDir, OwnedFd) {
        let home = tempfile::tempdir().unwrap();
        let fd = File::open(home.path()).unwrap().into();
        (home, fd)
    }

    fn why(root: &OwnedFd, to: &str) -> String {
        let found = find(root.as_fd(), Path::new(to));
        let connected = found.and_then(|(file, _)| connect_to(&file, SocketKind::Dgram));
        connected.unwrap_err().to_string()
    }

    #[test]
    fn only_sockets_of_the_space_itself_are_connected_to() {
        let (outside, _) = root();
        let _outside = UnixDatagram::bind(outside.path().join("log")).unwrap();
        let (home, root) = root();
        let at = |name: &str| home.path().join(name);
        std::os::unix::fs::symlink(outside.path().join("log"), at("link")).unwrap();
        std::os::unix::fs::symlink(outside.path(), at("directory")).unwrap();
        std::fs::write(at("file"), "").unwrap();
        let _stream = UnixListener::bind(at("stream")).unwrap();
        drop(UnixDatagram::bind(at("left")).unwrap());
        std::fs::create_dir(at(".serverfs")).unwrap();
        let _window = UnixDatagram::bind(at(".serverfs/log")).unwrap();
        for (to, reason) in [
            ("/link", "not a socket"),
            ("/directory/log", "Too many levels"),
            ("/file", "not a socket"),
            ("/stream", "wrong type"),
            ("/left", "refused"),
            ("/none", "No such file"),
            ("/../log", "not a plain"),
            ("/.serverfs/log", "window"),
        ] {
            let found = why(&root, to);
            assert!(found.contains(reason), "{to}: {found}");
        }
    }

    #[test]
    fn a_socket_is_told_from_the_next_at_its_path() {
        let (home, root) = root();
        let path = home.path().join("log");
        let _first = UnixDatagram::bind(&path).unwrap();
        let (_file, target) = find(root.as_fd(), Path::new("/log")).unwrap();
        std::fs::remove_file(&path).unwrap();
        let _second = UnixDatagram::bind(&path).unwrap();
        let (_file, next) = find(root.as_fd(), Path::new("/log")).unwrap();
        assert_ne!(target, next);
    }

    #[test]
    fn a_process_that_has_ended_has_no_root() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let pid = child.id();
        let start = hyperspector_sys::pidfd::start_time(pid).unwrap().unwrap();
        assert!(root_of(Process { pid, start }).is_ok());
        assert!(root_of(Process { pid, start: start + 1 }).is_err());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(root_of(Process { pid, start }).is_err());
    }
}
