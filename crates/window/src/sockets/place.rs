//! The socket at a server's path: who has it, and a socket of ours where nobody has.
//!
//! The server's tree may be an attacker's: nothing outside of it is ever reached, and nothing but
//! sockets that nobody has open is replaced. Where a server shares the host's tree, one of its users
//! could put a link where the socket is to be, so that another program's socket is read or replaced:
//! links lead somewhere only where they are root's, or whose the tree is.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use hyperspector_sys::pidfd;
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, chmod, chownat, fstat, openat,
    openat2, readlinkat, unlinkat,
};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind as bind_socket, connect, listen,
    netlink, socket_with, sockopt,
};
use serde::{Deserialize, Serialize};

use super::SocketKind;
use crate::packets::netlink::{Socket, attributes, word};

/// How many connections may wait until they are accepted.
const BACKLOG: i32 = 1024;
/// How long a socket is looked for among the descriptors of a server.
const PATIENCE: Duration = Duration::from_millis(200);
/// How many links are followed one after the other.
const MOST_LINKS: usize = 8;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `UDIAG_SHOW_PEER` (include/uapi/linux/unix_diag.h).
const SHOW_PEER: u32 = 4;
const UNIX_DIAG_PEER: u16 = 2;

/// Which file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileId {
    device: u64,
    inode: u64,
}

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing at all.
    Nothing,
    /// A socket that nobody has open.
    Dead(FileId),
    /// A datagram socket that somebody has open: its number, as in `socket:[NUMBER]`.
    Datagrams(FileId, u32),
    /// A socket that takes connections.
    Connections(FileId),
    /// Something else, which is not touched.
    Other,
}

/// Looks at `path` in the tree `root`. Neither a message nor a connection is made for that.
///
/// # Errors
/// As openat2(2) and connect(2), but for what [`Found`] says.
pub fn look(root: BorrowedFd<'_>, path: &Path) -> io::Result<Found> {
    let file = match open(root, path, OFlags::PATH) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Found::Nothing),
        Err(error) => return Err(error.into()),
    };
    let found = fstat(&file)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::Socket {
        return Ok(Found::Other);
    }
    let id = FileId { device: found.st_dev, inode: found.st_ino };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    match connect(&probe, &SocketAddrUnix::new(through(&file))?) {
        Ok(()) => peer(&probe).map(|number| Found::Datagrams(id, number)),
        Err(Errno::CONNREFUSED) => Ok(Found::Dead(id)),
        Err(Errno::PROTOTYPE) => Ok(Found::Connections(id)),
        // Somebody has it open, and it takes from another one alone.
        Err(Errno::PERM) => Ok(Found::Other),
        Err(error) => Err(error.into()),
    }
}

/// Binds a socket of ours at `path` in the tree `root`, for everybody there, in the place of one that
/// nobody has open.
///
/// # Errors
/// `AddrInUse` where something else is there; as bind(2) else.
pub fn bind(root: BorrowedFd<'_>, path: &Path, kind: SocketKind) -> io::Result<(OwnedFd, FileId)> {
    let (directory, name) = parent(root, path)?;
    if let Found::Dead(_) = look(root, path)? {
        unlinkat(&directory, &name, AtFlags::empty())?;
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, kind.number(), flags, None)?;
    bind_socket(&socket, &SocketAddrUnix::new(through(&directory).join(&name))?)?;
    let file = open(directory.as_fd(), &name, OFlags::PATH | OFlags::NOFOLLOW)?;
    let found = fstat(&file)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::Socket {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    let owner = fstat(&directory)?;
    let (user, group) = (Uid::from_raw(owner.st_uid), Gid::from_raw(owner.st_gid));
    chownat(&file, "", Some(user), Some(group), AtFlags::EMPTY_PATH)?;
    chmod(through(&file), Mode::from_raw_mode(0o666))?;
    if kind == SocketKind::Dgram {
        sockopt::set_socket_passcred(&socket, true)?;
    } else {
        listen(&socket, BACKLOG)?;
    }
    Ok((socket, FileId { device: found.st_dev, inode: found.st_ino }))
}

/// Removes the socket `id` from `path` in the tree `root`; fine where it is not there.
///
/// # Errors
/// As unlinkat(2).
pub fn remove(root: BorrowedFd<'_>, path: &Path, id: FileId) -> io::Result<()> {
    let is_there = match look(root, path)? {
        Found::Dead(found) | Found::Datagrams(found, _) | Found::Connections(found) => found == id,
        Found::Nothing | Found::Other => false,
    };
    if !is_there {
        return Ok(());
    }
    let (directory, name) = parent(root, path)?;
    Ok(unlinkat(&directory, &name, AtFlags::empty())?)
}

/// A descriptor of ours for the socket `number`, which one of `processes` has open. A server may have
/// as many descriptors open as it likes: they are looked at for [`PATIENCE`].
///
/// # Errors
/// `NotFound` where none of them has, `TimedOut` where they have too many.
pub fn take(processes: impl IntoIterator<Item = u32>, number: u32) -> io::Result<OwnedFd> {
    let (wanted, end) = (PathBuf::from(format!("socket:[{number}]")), Instant::now() + PATIENCE);
    for pid in processes {
        let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        let is_it = |entry: &fs::DirEntry| fs::read_link(entry.path()).is_ok_and(|to| to == wanted);
        let mut due = entries.flatten().take_while(|_| Instant::now() < end);
        let found = due.find(is_it);
        if Instant::now() >= end {
            let text = "the server has so many descriptors open that it was not found in time";
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        let Some(entry) = found else { continue };
        let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let process = pidfd::open_process(pid)?;
        let socket = pidfd::duplicate(process.as_fd(), fd)?;
        // Asked of what was taken: the number may have come to mean another.
        if fstat(&socket)?.st_ino == u64::from(number) {
            return Ok(socket);
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "no process of the server has its socket open"))
}

/// The number of the socket that `probe` is connected to.
fn peer(probe: &OwnedFd) -> io::Result<u32> {
    let own = fstat(probe)?.st_ino;
    let mut request = [0; 24];
    request[0] = u8::try_from(libc::AF_UNIX).unwrap_or_default();
    request[4..8].fill(0xff);
    request[12..16].copy_from_slice(&SHOW_PEER.to_ne_bytes());
    let mut peer = None;
    let mut diag = Socket::open(Some(netlink::SOCK_DIAG), 0)?;
    diag.dump(SOCK_DIAG_BY_FAMILY, &request, |message| {
        if word(message.body, 4).map(u64::from) != Some(own) {
            return;
        }
        let attributes = attributes(message.body.get(16..).unwrap_or_default());
        peer = peer.or(attributes
            .filter(|(kind, _)| *kind == UNIX_DIAG_PEER)
            .find_map(|(_, value)| word(value, 0)));
    })?;
    peer.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the socket was just closed"))
}

fn open(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    let flags = flags | OFlags::CLOEXEC;
    match openat2(root, path, flags, Mode::empty(), resolve) {
        Err(Errno::LOOP) => {
            let plain = without_links(root, path)?;
            openat2(root, &plain, flags, Mode::empty(), resolve)
        }
        other => other,
    }
}

/// Where `path` leads over links that are root's or the tree's owner's; `ELOOP` where one is
/// somebody else's, or there are too many. What is not there may be the last part alone.
fn without_links(root: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<PathBuf> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let trusted = [0, fstat(root)?.st_uid];
    let mut due: VecDeque<OsString> = parts(path);
    let (mut plain, mut links) = (PathBuf::from("/"), 0);
    while let Some(part) = due.pop_front() {
        if part == ".." {
            plain.pop();
            continue;
        }
        let next = plain.join(&part);
        // As a file in its directory: of a path that ends in a link, NO_SYMLINKS opens nothing.
        let directory = openat2(root, &plain, flags | OFlags::DIRECTORY, Mode::empty(), resolve)?;
        let file = match openat(&directory, &part, flags, Mode::empty()) {
            Err(Errno::NOENT) if due.is_empty() => return Ok(next),
            other => other?,
        };
        let found = fstat(&file)?;
        if FileType::from_raw_mode(found.st_mode) != FileType::Symlink {
            plain = next;
            continue;
        }
        links += 1;
        if links > MOST_LINKS || !trusted.contains(&found.st_uid) {
            return Err(Errno::LOOP);
        }
        let target = readlinkat(&file, "", Vec::new())?;
        let target = Path::new(OsStr::from_bytes(target.as_bytes()));
        if target.is_absolute() {
            plain = PathBuf::from("/");
        }
        for part in parts(target).into_iter().rev() {
            due.push_front(part);
        }
    }
    Ok(plain)
}

fn parts(path: &Path) -> VecDeque<OsString> {
    let parts = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    parts.collect()
}

/// The directory of `path`, and the name in it, where links lead: also one that leads to nothing yet.
fn parent(root: BorrowedFd<'_>, path: &Path) -> io::Result<(OwnedFd, PathBuf)> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidInput, "the path names no file");
    let path = without_links(root, path)?;
    let (directory, name) = path.parent().zip(path.file_name()).ok_or_else(invalid)?;
    let opened = open(root, directory, OFlags::PATH | OFlags::DIRECTORY)?;
    Ok((opened, PathBuf::from(name)))
}

/// A path that leads through a descriptor.
fn through(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// The directory `tree` of a process's root, to be looked at and not to be kept.
///
/// # Errors
/// As open(2).
pub fn root_of(pid: u32, tree: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, format!("/proc/{pid}/root"), flags, Mode::empty())?;
    Ok(open(root.as_fd(), tree, flags)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::{UnixDatagram, UnixListener};

    fn root() -> (tempfile::TempDir, OwnedFd) {
        let home = tempfile::tempdir().unwrap();
        let fd = fs::File::open(home.path()).unwrap().into();
        (home, fd)
    }

    const LOG: &str = "/log";

    #[test]
    fn what_is_at_a_path_is_told_apart() {
        let (home, root) = root();
        let path = home.path().join("log");
        let find = || look(root.as_fd(), Path::new(LOG)).unwrap();
        assert_eq!(find(), Found::Nothing);
        fs::write(&path, "").unwrap();
        assert_eq!(find(), Found::Other);
        fs::remove_file(&path).unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        assert!(matches!(find(), Found::Connections(_)));
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err());
        drop(listener);
        assert!(matches!(find(), Found::Dead(_)));
        fs::remove_file(&path).unwrap();
        let socket = UnixDatagram::bind(&path).unwrap();
        let number = u32::try_from(fstat(&socket).unwrap().st_ino).unwrap();
        assert!(matches!(find(), Found::Datagrams(_, found) if found == number));
        let taken = take([std::process::id()], number).unwrap();
        assert_eq!(fstat(&taken).unwrap().st_ino, fstat(&socket).unwrap().st_ino);
        assert!(take([std::process::id()], 1).is_err());
    }

    #[test]
    fn a_socket_is_placed_where_nobody_has_one() {
        let (home, root) = root();
        let path = home.path().join("log");
        let place = || bind(root.as_fd(), Path::new(LOG), SocketKind::Dgram);
        drop(UnixDatagram::bind(&path).unwrap());
        let (socket, id) = place().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
        UnixDatagram::unbound().unwrap().send_to(b"x", &path).unwrap();
        assert_eq!(place().unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(socket);
        remove(root.as_fd(), Path::new(LOG), id).unwrap();
        remove(root.as_fd(), Path::new(LOG), id).unwrap();
        fs::write(&path, "").unwrap();
        assert!(place().is_err() && path.exists());
    }

    #[test]
    fn a_link_to_nothing_yet_is_followed() {
        let (home, root) = root();
        fs::create_dir(home.path().join("run")).unwrap();
        std::os::unix::fs::symlink("/run/log.socket", home.path().join("log")).unwrap();
        let (_socket, id) = bind(root.as_fd(), Path::new(LOG), SocketKind::Stream).unwrap();
        assert!(home.path().join("run/log.socket").exists());
        assert_eq!(look(root.as_fd(), Path::new(LOG)).unwrap(), Found::Connections(id));
        remove(root.as_fd(), Path::new(LOG), id).unwrap();
        assert!(!home.path().join("run/log.socket").exists());
    }

    #[test]
    fn links_of_others_are_not_followed() {
        let (home, root) = root();
        fs::create_dir(home.path().join("app")).unwrap();
        let link = home.path().join("app/log");
        std::os::unix::fs::symlink("/other", &link).unwrap();
        let path = Path::new("/app/log");
        // SAFETY: geteuid takes nothing and cannot fail.
        if unsafe { libc::geteuid() } == 0 {
            std::os::unix::fs::lchown(&link, Some(65534), Some(65534)).unwrap();
            let refused = Some(libc::ELOOP);
            assert_eq!(look(root.as_fd(), path).unwrap_err().raw_os_error(), refused);
            let placed = bind(root.as_fd(), path, SocketKind::Dgram);
            assert_eq!(placed.unwrap_err().raw_os_error(), refused);
            assert!(!home.path().join("other").exists());
            std::os::unix::fs::lchown(&link, Some(0), Some(0)).unwrap();
        }
        bind(root.as_fd(), path, SocketKind::Dgram).unwrap();
        assert!(home.path().join("other").exists());
    }

    #[test]
    fn links_lead_nowhere_outside() {
        let (outside, _) = root();
        let (home, root) = root();
        std::os::unix::fs::symlink(outside.path(), home.path().join("run")).unwrap();
        let path = Path::new("/run/log");
        assert!(bind(root.as_fd(), path, SocketKind::Dgram).is_err());
        assert_eq!(look(root.as_fd(), path).unwrap(), Found::Nothing);
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}
