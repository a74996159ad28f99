//! Where a portspace finds the sockets of tracers: `/.servertrace/NAME`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use hyperspector_sys::mount::{attach_over, attr, clone_tree, set_attributes, within};

use crate::processes::view::found;

/// The directory of a portspace's root that the sockets are in.
pub const PLACE: &str = ".servertrace";

const LOCKED: u64 = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC | attr::NOATIME;

/// Shows `directory` of the caller's own tree, in which the sockets are, in the portspace whose mount
/// namespace is `mounts`. What is put there later shows, too.
///
/// # Errors
/// Where it cannot be attached.
pub fn show(mounts: BorrowedFd<'_>, directory: &Path) -> io::Result<()> {
    let tree = clone_tree(directory, false)?;
    set_attributes(tree.as_fd(), false, LOCKED, attr::ATIME_MASK, None)?;
    within(mounts, || attach_over(tree.as_fd(), found(Path::new(PLACE))?.as_fd()))?
}
