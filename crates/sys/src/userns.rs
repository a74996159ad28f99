//! Which user namespace another namespace belongs to (ioctl_nsfs(2)), and telling namespaces apart.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd};
use std::os::unix::fs::MetadataExt;

use serde::{Deserialize, Serialize};

/// Which namespace it is, among those that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Namespace {
    device: u64,
    inode: u64,
}

impl Namespace {
    /// The one that a descriptor stands for.
    pub fn of(file: &File) -> io::Result<Self> {
        let found = file.metadata()?;
        Ok(Self { device: found.dev(), inode: found.ino() })
    }

    /// The user namespace of the calling process.
    pub fn own_users() -> io::Result<Self> {
        Self::of(&File::open("/proc/self/ns/user")?)
    }
}

/// Opens the namespace `kind` (a name below `/proc/PID/ns`) of a process.
pub fn open(pid: i32, kind: &str) -> io::Result<File> {
    File::open(format!("/proc/{pid}/ns/{kind}"))
}

/// Opens the user namespace that a namespace belongs to (`NS_GET_USERNS`).
///
/// # Errors
/// `EPERM` where that is not the caller's own or one below it.
pub fn owner(namespace: impl AsFd) -> io::Result<File> {
    // SAFETY: the request takes no argument and returns a new descriptor, or -1.
    let fd = unsafe { libc::ioctl(namespace.as_fd().as_raw_fd(), libc::NS_GET_USERNS) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just opened it for us.
    Ok(unsafe { File::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_mounts_belong_to_some_user_namespace() {
        let pid = std::process::id().cast_signed();
        match owner(open(pid, "mnt").unwrap()) {
            Ok(owner) => assert!(Namespace::of(&owner).is_ok()),
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EPERM)),
        }
        assert_ne!(
            Namespace::own_users().unwrap(),
            Namespace::of(&open(pid, "mnt").unwrap()).unwrap()
        );
    }
}
