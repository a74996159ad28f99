//! Network namespaces: made, kept at a path, entered by a thread of their own (network_namespaces(7)).
//!
//! No function here changes the caller's own network namespace: whatever has to happen inside
//! another one happens in a short-lived thread.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::OnceLock;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

/// The magic number of the file system that namespace files live on (include/uapi/linux/magic.h).
const NSFS_MAGIC: libc::c_long = 0x6e73_6673;

/// Which namespace a descriptor stands for; equal identities are the same namespace for as long as
/// one of the descriptors is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// The device of the namespace file system.
    pub device: u64,
    /// The namespace's inode there: the number in `net:[NUMBER]`.
    pub inode: u64,
}

/// Makes a network namespace that lives as long as the descriptor does.
pub fn new() -> io::Result<OwnedFd> {
    in_thread(|| {
        // SAFETY: only CLONE_NEWNET is passed: descriptors stay shared, and the thread that gets
        // the new namespace ends with this closure.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
        current()
    })?
}

/// Makes a network namespace and keeps it at `path`: a regular file made there, under a bind mount
/// of the namespace.
pub fn create(path: impl AsRef<Path>) -> io::Result<OwnedFd> {
    let namespace = new()?;
    let path = path.as_ref();
    OpenOptions::new().write(true).create_new(true).mode(0o444).open(path)?;
    let through = format!("/proc/self/fd/{}", namespace.as_raw_fd());
    if let Err(error) = rustix::mount::mount_bind(through, path) {
        let _ = std::fs::remove_file(path);
        return Err(error.into());
    }
    Ok(namespace)
}

/// Listens at `path`, in place of a socket that nobody answers at any more, for the owner alone.
///
/// The socket belongs to a network namespace that nothing else is in: `/proc/net/unix` lists the
/// paths of a namespace's sockets for everybody in it, and nobody on the host shall find this one.
/// Connecting by path works from every namespace.
pub fn listen(path: impl AsRef<Path>) -> io::Result<UnixListener> {
    let path = path.as_ref();
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = within(nowhere()?, || UnixListener::bind(path))??;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Connects to the socket at `path`, for long: the other end of a connection is listed with the
/// listener's path where the connecting socket belongs, and nobody on the host shall find this one
/// either (see [`listen`]).
pub fn connect(path: impl AsRef<Path>) -> io::Result<UnixStream> {
    let path = path.as_ref();
    within(nowhere()?, || UnixStream::connect(path))?
}

/// A network namespace that nothing but sockets is in.
fn nowhere() -> io::Result<BorrowedFd<'static>> {
    static NOWHERE: OnceLock<OwnedFd> = OnceLock::new();
    if let Some(namespace) = NOWHERE.get() {
        return Ok(namespace.as_fd());
    }
    let made = new()?;
    Ok(NOWHERE.get_or_init(|| made).as_fd())
}

/// Opens the network namespace at `path`; an error where there is something else.
pub fn open(path: impl AsRef<Path>) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let opened = rustix::fs::openat(CWD, path.as_ref(), flags, Mode::empty())?;
    check(opened.as_fd())?;
    Ok(opened)
}

/// The network namespace of the calling thread.
pub fn current() -> io::Result<OwnedFd> {
    open("/proc/thread-self/ns/net")
}

/// The network namespace of a process.
pub fn of_process(pid: u32) -> io::Result<OwnedFd> {
    open(format!("/proc/{pid}/ns/net"))
}

/// Undoes [`create`]; not an error where there is nothing at `path` (any more). The namespace itself
/// goes when its last process and descriptor do.
pub fn remove(path: impl AsRef<Path>) -> io::Result<()> {
    let path = path.as_ref();
    match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        // INVAL: the file is there, but nothing is mounted on it.
        Ok(()) | Err(Errno::NOENT | Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Runs `work` in a fresh thread that has entered `namespace`; a panic in it goes on in the caller.
///
/// Sockets opened in `work` belong to the namespace for good and may be returned.
pub fn within<R: Send>(
    namespace: BorrowedFd<'_>,
    work: impl FnOnce() -> R + Send,
) -> io::Result<R> {
    in_thread(|| {
        let kind = LinkNameSpaceType::Network;
        rustix::thread::move_into_link_name_space(namespace, Some(kind))?;
        Ok(work())
    })?
}

/// Sets a network sysctl inside `namespace`: `sysctl(fd, "net/ipv4/ip_forward", "1")`.
pub fn sysctl(namespace: BorrowedFd<'_>, name: &str, value: &str) -> io::Result<()> {
    sysctls(namespace, &[(name, value)])
}

/// Sets several network sysctls inside `namespace`; stops at the first that fails, and names it.
pub fn sysctls(namespace: BorrowedFd<'_>, settings: &[(&str, &str)]) -> io::Result<()> {
    // What /proc/sys/net shows is the network namespace of the task that looks.
    within(namespace, || settings.iter().try_for_each(|(name, value)| write_sysctl(name, value)))?
}

/// Reads a network sysctl inside `namespace`, without the trailing newline.
pub fn read_sysctl(namespace: BorrowedFd<'_>, name: &str) -> io::Result<String> {
    let path = sysctl_path(name)?;
    let text = within(namespace, || std::fs::read_to_string(path))??;
    Ok(text.trim_end().to_owned())
}

/// Which namespace this descriptor stands for.
pub fn identity(namespace: BorrowedFd<'_>) -> io::Result<Identity> {
    let stat = rustix::fs::fstat(namespace)?;
    Ok(Identity { device: stat.st_dev, inode: stat.st_ino })
}

/// Whether two descriptors stand for the same namespace.
pub fn is_same(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(identity(a)? == identity(b)?)
}

/// Runs `work` in a thread of its own and waits for it.
fn in_thread<R: Send>(work: impl FnOnce() -> R + Send) -> io::Result<R> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, work)?;
        match thread.join() {
            Ok(result) => Ok(result),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Fails unless `file` is a network namespace.
fn check(file: BorrowedFd<'_>) -> io::Result<()> {
    // The file system first: on any other file the ioctl number could mean something else.
    if rustix::fs::fstatfs(file)?.f_type == NSFS_MAGIC && kind(file)? == libc::CLONE_NEWNET {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "not a network namespace"))
}

/// The CLONE_NEW* constant of a namespace (ioctl_ns(2)).
fn kind(namespace: BorrowedFd<'_>) -> io::Result<libc::c_int> {
    // SAFETY: NS_GET_NSTYPE takes no argument and touches no memory of ours; the descriptor is
    // open and, by the caller's check, on the namespace file system.
    let kind = unsafe { libc::ioctl(namespace.as_raw_fd(), libc::NS_GET_NSTYPE) };
    if kind < 0 { Err(io::Error::last_os_error()) } else { Ok(kind) }
}

fn write_sysctl(name: &str, value: &str) -> io::Result<()> {
    let path = sysctl_path(name)?;
    let written = File::options()
        .write(true)
        .open(path)
        .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()));
    written.map_err(|e| {
        io::Error::new(e.kind(), format!("set {name} to {value}: {}", crate::errno::text(&e)))
    })
}

/// Where a sysctl is; only those below `net/` belong to a network namespace.
fn sysctl_path(name: &str) -> io::Result<String> {
    if name.starts_with("net/") && name.split('/').all(|part| !matches!(part, "" | "." | "..")) {
        return Ok(format!("/proc/sys/{name}"));
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name} is not a network sysctl")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_network_sysctls_have_a_path() {
        assert_eq!(sysctl_path("net/core/somaxconn").unwrap(), "/proc/sys/net/core/somaxconn");
        for name in ["kernel/core_pattern", "net/../kernel/core_pattern", "net//x", "/net/x", ""] {
            assert!(sysctl_path(name).is_err(), "{name}");
        }
    }

    #[test]
    fn other_files_are_not_network_namespaces() {
        for path in ["/proc/self/ns/mnt", "/proc/self/status", "/dev/null", "/"] {
            assert_eq!(open(path).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{path}");
        }
    }

    #[test]
    fn the_current_namespace_is_itself() {
        let (a, b) = (current().unwrap(), of_process(std::process::id()).unwrap());
        assert!(is_same(a.as_fd(), b.as_fd()).unwrap());
    }

    #[test]
    fn removing_what_is_not_there_is_fine() {
        let directory = tempfile::tempdir().unwrap();
        remove(directory.path().join("none")).unwrap();
    }
}
