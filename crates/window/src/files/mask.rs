//! Hiding in a view: an empty directory over a directory, an empty file over a file.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use hyperspector_sys::mount::{attach_over, clone_at};
use hyperspector_sys::path::beneath;
use rustix::fs::{AtFlags, FileType, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

/// What lies over hidden paths: attached somewhere in the calling process's mount namespace.
pub(super) struct Blank {
    pub(super) directory: OwnedFd,
    pub(super) file: OwnedFd,
}

/// What became of hiding a path.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Hidden {
    /// It does not show.
    Done,
    /// There is nothing there.
    Absent,
    /// A link is on the way: the server may have made it, to hide something else.
    Link,
}

impl Blank {
    /// Hides `path` below `view`.
    pub(super) fn hide(&self, view: BorrowedFd<'_>, path: &Path) -> io::Result<Hidden> {
        for _ in 0..MOST_UNNAMED {
            let target = match beneath(view, path) {
                Err(error) => return absent(error),
                Ok(target) => target,
            };
            let is_dir = is_directory(target.as_fd())?;
            let blank = clone_at(if is_dir { &self.directory } else { &self.file }, false)?;
            match attach_over(blank.as_fd(), target.as_fd()) {
                // Nothing can be mounted on what has no name any more.
                Err(error) if error.kind() == io::ErrorKind::NotFound => take_off(&target)?,
                attached => return attached.map(|()| Hidden::Done),
            }
        }
        Err(io::Error::other(format!("/{} cannot be hidden", path.display())))
    }
}

/// How many mounts without a name are taken off one path.
const MOST_UNNAMED: usize = 1024;

/// Unmounts what is mounted at `target`, in this process's own mount namespace.
fn take_off(target: &OwnedFd) -> io::Result<()> {
    let path = format!("/proc/self/fd/{}", target.as_raw_fd());
    match unmount(path, UnmountFlags::DETACH) {
        // Its name goes just now.
        Err(Errno::INVAL) => Ok(()),
        done => Ok(done?),
    }
}

/// Whether it is a directory, without asking whoever serves the file system.
fn is_directory(file: BorrowedFd<'_>) -> io::Result<bool> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let found = statx(file, "", flags, StatxFlags::TYPE)?;
    Ok(FileType::from_raw_mode(u32::from(found.stx_mode)).is_dir())
}

fn absent(error: io::Error) -> io::Result<Hidden> {
    match Errno::from_io_error(&error) {
        Some(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => Ok(Hidden::Absent),
        Some(Errno::LOOP) => Ok(Hidden::Link),
        _ => Err(error),
    }
}
