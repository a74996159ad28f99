//! Paths, of the host and of trees that somebody else may change.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};

/// `path` without links. A link of a user who is not root could lead anywhere the next time.
///
/// # Errors
/// As realpath(3); `PermissionDenied` where such a user's link is in it.
pub fn canonical(path: &Path) -> io::Result<PathBuf> {
    for above in path.ancestors() {
        let found = fs::symlink_metadata(above)?;
        if found.is_symlink() && found.uid() != 0 {
            let text = format!(
                "{} is a link that belongs to user {}; write where it leads",
                above.display(),
                found.uid()
            );
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
    }
    fs::canonicalize(path)
}

/// Opens a directory as a place.
///
/// # Errors
/// As openat(2).
pub fn directory(path: impl AsRef<Path>) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(CWD, path.as_ref(), flags, Mode::empty())?)
}

/// Opens `path` below `directory` as a place, without following links, which somebody could have made.
///
/// # Errors
/// As openat2(2): `LOOP` where a link is on the way.
pub fn beneath(directory: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    let path = path.strip_prefix("/").unwrap_or(path);
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    Ok(openat2(directory, path, flags, Mode::empty(), resolve)?)
}
