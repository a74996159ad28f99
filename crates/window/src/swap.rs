//! Exchanging what is mounted at a directory of ours in a portspace, as a whole and at once.
//!
//! When a tree is unmounted while somebody is in it, the kernel parts it: each mount goes from the one
//! that it is on, covers of hidden paths too, and whoever stays sees what they covered. A tree whose
//! mount point is *removed* stays as it is for those who are in it (`UMOUNT_CONNECTED` in
//! fs/namespace.c). So the new tree is mounted on another directory, the two exchange their names, and
//! the old one's directory is removed. The kernel lets that be done from a mount namespace in which
//! nothing is mounted on either (Linux 3.18).

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use hyperspector_sys::mount::{attach_over, attr, clone_at, set_attributes, within};
use hyperspector_sys::path::{beneath, directory};
use rustix::fs::{AtFlags, Mode, RenameFlags, mkdirat, renameat_with, unlinkat};
use rustix::io::Errno;

/// A directory of a file system of ours on which something is mounted in a portspace.
pub(crate) struct Spot {
    /// The directory that it is in, by a mount that can be written to and is attached nowhere.
    parent: OwnedFd,
    above: PathBuf,
    name: OsString,
    /// The name of the one beside it.
    beside: OsString,
}

impl Spot {
    /// Finds the directory at `place`, from the root of the portspace in whose mount namespace the
    /// caller is.
    pub(crate) fn find(place: &Path) -> io::Result<Self> {
        let (Some(above), Some(name)) = (place.parent(), place.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let parent = clone_at(beneath(directory("/")?, above)?, false)?;
        set_attributes(parent.as_fd(), false, 0, attr::RDONLY, None)?;
        let mut beside = OsString::from(".");
        beside.push(name);
        beside.push(".next");
        Ok(Self { parent, above: above.to_owned(), name: name.to_owned(), beside })
    }

    /// Makes the other directory, outside of the portspace.
    pub(crate) fn make(&self) -> io::Result<()> {
        // One that was left by a process that was ended, with all that is mounted there.
        match self.remove() {
            Err(Errno::NOENT) | Ok(()) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(mkdirat(&self.parent, &self.beside, Mode::from_raw_mode(0o755))?)
    }

    /// Attaches the detached `tree` there, in the portspace's mount namespace.
    pub(crate) fn attach(&self, tree: BorrowedFd<'_>) -> io::Result<()> {
        let target = beneath(directory("/")?, &self.above.join(&self.beside))?;
        attach_over(tree, target)
    }

    /// Exchanges the two, outside of the portspace, and takes away what was there.
    pub(crate) fn exchange(self) -> io::Result<()> {
        let flags = RenameFlags::EXCHANGE;
        renameat_with(&self.parent, &self.beside, &self.parent, &self.name, flags)?;
        Ok(self.remove()?)
    }

    fn remove(&self) -> rustix::io::Result<()> {
        unlinkat(&self.parent, &self.beside, AtFlags::REMOVEDIR)
    }
}

/// Shows the detached `tree`, or nothing, at `place` in the portspace whose mount namespace is `mounts`,
/// instead of what was there.
///
/// # Errors
/// With the place; what was there still shows then.
pub(crate) fn replace(
    mounts: BorrowedFd<'_>,
    place: &Path,
    tree: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let replaced = || {
        let spot = within(mounts, || Spot::find(place))??;
        spot.make()?;
        if let Some(tree) = tree {
            within(mounts, || spot.attach(tree))??;
        }
        spot.exchange()
    };
    replaced().map_err(|error: io::Error| {
        let text =
            format!("attach /{}: {}", place.display(), hyperspector_sys::errno::text(&error));
        io::Error::new(error.kind(), text)
    })
}
