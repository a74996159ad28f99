//! The socket at a server's path: who has it, and a socket of ours where nobody has.
//!
//! The server's tree may be an attacker's: nothing outside of it is ever reached, and nothing but
//! sockets that nobody has open is replaced. Where a server shares the host's tree, one of its users
//! could put a link where the socket is to be, so that another program's socket is read or replaced:
//! links lead somewhere only where they are root's, or whose the tree is.

mod diag;
mod interpose;
pub mod paths;
mod take;
mod tree;
pub mod worker;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid, chmod, chownat, fstat, openat2,
    unlinkat,
};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind as bind_socket, connect, listen,
    socket_with, sockopt,
};
use serde::{Deserialize, Serialize};

use super::SocketKind;
pub use interpose::{Interposed, interpose, restore};
pub use take::take;
pub use tree::root_of;
pub(super) use tree::{open, root_within};
use tree::{parent, through};

/// How many connections may wait until they are accepted.
const BACKLOG: i32 = 1024;

/// Which file it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    pub(super) fn of(file: &Stat) -> Self {
        Self { device: file.st_dev, inode: file.st_ino }
    }
}

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    let id = FileId::of(&found);
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

/// The number of the socket that `probe`, which is one of our network, is connected to.
pub(super) fn peer(probe: &OwnedFd) -> io::Result<u32> {
    let told = diag::of(number_of(probe)?)?;
    told.peer.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the socket was just closed"))
}

/// The number of a socket of ours.
fn number_of(socket: &OwnedFd) -> io::Result<u32> {
    u32::try_from(fstat(socket)?.st_ino).map_err(io::Error::other)
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
    let bound = bind_in(&directory, &name, kind)?;
    let owner = fstat(&directory)?;
    look_like(&bound.file, (owner.st_uid, owner.st_gid), 0o666)?;
    Ok((bound.socket, bound.id))
}

/// A socket of ours at its place.
struct Bound {
    socket: OwnedFd,
    /// Its file, as a place (`O_PATH`).
    file: OwnedFd,
    id: FileId,
}

/// Binds a socket at `name` in `directory`.
fn bind_in(directory: &OwnedFd, name: &Path, kind: SocketKind) -> io::Result<Bound> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, kind.number(), flags, None)?;
    bind_socket(&socket, &SocketAddrUnix::new(through(directory).join(name))?)?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat2(directory, name, flags, Mode::empty(), resolve)?;
    if !is_bound_to(&socket, &file)? {
        let text = "another socket was put in the place of ours just now";
        return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
    }
    if kind == SocketKind::Dgram {
        sockopt::set_socket_passcred(&socket, true)?;
    } else {
        listen(&socket, BACKLOG)?;
    }
    let id = FileId::of(&fstat(&file)?);
    Ok(Bound { socket, file, id })
}

/// Whether `file` is the one that `socket` is bound to: whoever may write to the directory can rename
/// something else over it between two calls. The kernel tells 32 bits of the file's number.
fn is_bound_to(socket: &OwnedFd, file: &OwnedFd) -> io::Result<bool> {
    let found = fstat(file)?;
    let is_socket = FileType::from_raw_mode(found.st_mode) == FileType::Socket;
    let number = u32::try_from(found.st_ino & u64::from(u32::MAX)).ok();
    Ok(is_socket && diag::of(number_of(socket)?)?.file == number)
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

/// Gives a socket an owner and a mode.
fn look_like(file: &OwnedFd, (user, group): (u32, u32), mode: u32) -> io::Result<()> {
    let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
    chownat(file, "", Some(user), Some(group), AtFlags::EMPTY_PATH)?;
    Ok(chmod(through(file), Mode::from_raw_mode(mode & 0o777))?)
}

#[cfg(test)]
mod tests;
