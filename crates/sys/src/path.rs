//! Paths of the host.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

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
