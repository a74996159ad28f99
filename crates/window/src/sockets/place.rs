//! The socket at a server's path: who has it, and a socket of ours where nobody has.
//!
//! The server's tree may be an attacker's: nothing outside of it is ever reached, and nothing but
//! sockets that nobody has open is replaced. Where a server shares the host's tree, one of its users
//! could put a link where the socket is to be, so that another program's socket is read or replaced:
//! links lead somewhere only where they are root's, or whose the tree is.

mod diag;
pub mod paths;
mod take;
pub mod worker;

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Stat, Uid, chmod,
    chownat, fstat, openat, openat2, readlinkat, renameat_with, unlinkat,
};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind as bind_socket, connect, listen,
    socket_with, sockopt,
};
use serde::{Deserialize, Serialize};

use super::SocketKind;
pub use take::take;

/// How many connections may wait until they are accepted.
const BACKLOG: i32 = 1024;
/// How many links are followed one after the other.
const MOST_LINKS: usize = 8;

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

pub(super) fn open(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
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
    resolved(root, path).map(|(directory, name, _)| (directory, name))
}

/// As [`parent`], with the path that the two are.
fn resolved(root: BorrowedFd<'_>, path: &Path) -> io::Result<(OwnedFd, PathBuf, PathBuf)> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidInput, "the path names no file");
    let path = without_links(root, path)?;
    let (directory, name) = path.parent().zip(path.file_name()).ok_or_else(invalid)?;
    let opened = open(root, directory, OFlags::PATH | OFlags::DIRECTORY)?;
    let name = PathBuf::from(name);
    Ok((opened, name, path))
}

/// A path that leads through a descriptor.
fn through(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// The directory `tree` of a process's root, or of our own, to be looked at and not to be kept.
///
/// # Errors
/// As open(2).
pub fn root_of(pid: Option<u32>, tree: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let path = pid.map_or("/".into(), |pid| format!("/proc/{pid}/root"));
    let root = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    root_within(root, tree)
}

/// The directory `tree` in `root`.
pub(super) fn root_within(root: OwnedFd, tree: &Path) -> io::Result<OwnedFd> {
    Ok(open(root.as_fd(), tree, OFlags::PATH | OFlags::DIRECTORY)?)
}

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

/// Gives a socket an owner and a mode.
fn look_like(file: &OwnedFd, (user, group): (u32, u32), mode: u32) -> io::Result<()> {
    let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
    chownat(file, "", Some(user), Some(group), AtFlags::EMPTY_PATH)?;
    Ok(chmod(through(file), Mode::from_raw_mode(mode & 0o777))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
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
    fn what_is_renamed_over_a_socket_of_ours_is_not_taken_for_it() {
        let (home, root) = root();
        let [path, other] = ["log", "other"].map(|name| home.path().join(name));
        let place = |path: &Path| open(root.as_fd(), path, OFlags::PATH).unwrap();
        let socket: OwnedFd = UnixDatagram::bind(&path).unwrap().into();
        assert!(is_bound_to(&socket, &place(Path::new(LOG))).unwrap());
        let _other = UnixDatagram::bind(&other).unwrap();
        fs::rename(&other, &path).unwrap();
        assert!(!is_bound_to(&socket, &place(Path::new(LOG))).unwrap());
    }

    #[test]
    fn a_race_for_the_path_changes_no_file_of_others() {
        let (home, root) = root();
        let [path, other] = ["log", "other"].map(|name| home.path().join(name));
        let is_over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let racer = scope.spawn(|| {
                let mut changed = 0;
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    drop(UnixDatagram::bind(&other).unwrap());
                    fs::set_permissions(&other, fs::Permissions::from_mode(0o600)).unwrap();
                    let file = open(root.as_fd(), Path::new("/other"), OFlags::PATH).unwrap();
                    fs::rename(&other, &path).unwrap();
                    std::thread::yield_now();
                    changed += u32::from(fstat(&file).unwrap().st_mode & 0o777 != 0o600);
                    let _ = fs::remove_file(&path);
                }
                changed
            });
            for _ in 0..2000 {
                let _ = bind(root.as_fd(), Path::new(LOG), SocketKind::Dgram);
            }
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
            assert_eq!(racer.join().unwrap(), 0, "files of others were opened for everybody");
        });
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
    fn ours_is_exchanged_for_the_receiver_s_and_back() {
        let (home, root) = root();
        let path = home.path().join("log");
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        let receiver = UnixListener::bind(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o620)).unwrap();
        let real = inode(&path);
        let ours = interpose(root.as_fd(), Path::new(LOG)).unwrap();
        assert_eq!((ours.kind, inode(&path)), (SocketKind::Stream, ours.file.inode));
        assert_eq!(ours.real, Path::new("/.log.hyperspector"));
        assert_eq!(inode(&home.path().join(".log.hyperspector")), real);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o620);
        restore(root.as_fd(), Path::new(LOG), ours.file).unwrap();
        restore(root.as_fd(), Path::new(LOG), ours.file).unwrap();
        assert_eq!(inode(&path), real);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
        // A receiver that restarts meanwhile takes its path itself.
        let ours = interpose(root.as_fd(), Path::new(LOG)).unwrap();
        drop(receiver);
        fs::remove_file(&path).unwrap();
        let _next = UnixListener::bind(&path).unwrap();
        let real = inode(&path);
        restore(root.as_fd(), Path::new(LOG), ours.file).unwrap();
        assert_eq!((inode(&path), fs::read_dir(home.path()).unwrap().count()), (real, 1));
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
