//! A socket of ours in the place of one that takes connections, and back.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, OFlags, RenameFlags, fstat, renameat_with, unlinkat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::tree::{open, resolved, through};
use super::{Bound, FileId, Found, bind_in, look, look_like};
use crate::sockets::SocketKind;

/// Exchanges a socket of ours for that of the server's own receiver at `path`, which takes
/// connections; the receiver's is beside it from then on, under the name that is returned.
///
/// # Errors
/// As bind(2) and renameat2(2). Nothing has changed then.
pub fn interpose(root: BorrowedFd<'_>, path: &Path) -> io::Result<Interposed> {
    let (directory, name, path) = resolved(root, path)?;
    let beside = beside(&name);
    let real = open(directory.as_fd(), &name, OFlags::PATH | OFlags::NOFOLLOW)?;
    let (kind, looks) = (kind_of(&real)?, fstat(&real)?);
    if let Found::Dead(_) = look(directory.as_fd(), &beside)? {
        unlinkat(&directory, &beside, AtFlags::empty())?;
    }
    let Bound { socket, file: ours, id: file } = bind_in(&directory, &beside, kind)?;
    let exchanged = look_like(&ours, (looks.st_uid, looks.st_gid), looks.st_mode)
        .and_then(|()| Ok(renameat_with(&directory, &beside, &directory, &name, EXCHANGE)?));
    if let Err(error) = exchanged {
        unlinkat(&directory, &beside, AtFlags::empty())?;
        return Err(error);
    }
    Ok(Interposed { socket, file, kind, real: path.with_file_name(&beside) })
}

/// Puts the receiver's socket back to its path, in the place of ours, `file`; fine where it is not
/// beside it any more, since it has restarted.
///
/// # Errors
/// As renameat2(2) and unlinkat(2).
pub fn restore(root: BorrowedFd<'_>, path: &Path, file: FileId) -> io::Result<()> {
    let (directory, name, _) = resolved(root, path)?;
    let beside = beside(&name);
    let id = |name: &Path| match look(directory.as_fd(), name) {
        Ok(Found::Dead(id) | Found::Datagrams(id, _) | Found::Connections(id)) => Some(id),
        _ => None,
    };
    let is_ours = id(&name) == Some(file);
    match id(&beside) {
        Some(_) if is_ours => {
            renameat_with(&directory, &beside, &directory, &name, EXCHANGE)?;
            Ok(unlinkat(&directory, &beside, AtFlags::empty())?)
        }
        Some(_) => Ok(unlinkat(&directory, &beside, AtFlags::empty())?),
        None if is_ours => Ok(unlinkat(&directory, &name, AtFlags::empty())?),
        None => Ok(()),
    }
}

/// What [`interpose`] has made.
#[derive(Debug)]
pub struct Interposed {
    /// Our socket, which listens.
    pub socket: OwnedFd,
    /// Its file.
    pub file: FileId,
    /// The kind of both.
    pub kind: SocketKind,
    /// The path of the receiver's socket.
    pub real: PathBuf,
}

const EXCHANGE: RenameFlags = RenameFlags::EXCHANGE;

/// The name under which a receiver's socket stands beside ours.
fn beside(name: &Path) -> PathBuf {
    PathBuf::from(format!(".{}.hyperspector", name.display()))
}

/// The kind of a socket that takes connections. Where it takes sequences of packets, that makes a
/// connection, which is closed at once.
fn kind_of(file: &OwnedFd) -> io::Result<SocketKind> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    match connect(&probe, &SocketAddrUnix::new(through(file))?) {
        Ok(()) | Err(Errno::AGAIN) => Ok(SocketKind::Seqpacket),
        Err(Errno::PROTOTYPE) => Ok(SocketKind::Stream),
        Err(error) => Err(error.into()),
    }
}
