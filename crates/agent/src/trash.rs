//! Removing trees that somebody hostile has made: as deep and as large as a disk allows.
//!
//! No recursion and no more than two directories open: what has something in it is first moved up to
//! the top of the trash, so that depth never counts.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Moves `path` into the directory `trash`, which is made where it is not there and must be on the
/// same file system. Fine where there is nothing at `path`.
pub(crate) fn throw(path: &Path, trash: &Path) -> io::Result<()> {
    crate::layout::private_dir(trash)?;
    match rename_in(path, trash) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Removes the directory `trash` with all that is in it; fine where it is not there. `removed` is
/// called for each file.
pub(crate) fn empty(trash: &Path, removed: &mut dyn FnMut()) -> io::Result<()> {
    loop {
        let entries = match fs::read_dir(trash) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let mut is_empty = true;
        for entry in entries {
            is_empty = false;
            let path = entry?.path();
            if fs::symlink_metadata(&path)?.is_dir() {
                flatten(&path, trash, removed)?;
                fs::remove_dir(&path)?;
            } else {
                fs::remove_file(&path)?;
                removed();
            }
        }
        if is_empty {
            return fs::remove_dir(trash);
        }
    }
}

/// Removes the files of `directory` and moves its directories up into `trash`.
fn flatten(directory: &Path, trash: &Path, removed: &mut dyn FnMut()) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            // Most are empty; the others go up.
            fs::remove_dir(entry.path()).or_else(|_| rename_in(&entry.path(), trash))?;
        } else {
            fs::remove_file(entry.path())?;
            removed();
        }
    }
    Ok(())
}

/// Moves `path` into `trash` under a name that is free.
fn rename_in(path: &Path, trash: &Path) -> io::Result<()> {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let to: PathBuf = trash.join(format!("{}.{number}", std::process::id()));
        if fs::symlink_metadata(&to).is_err() {
            return fs::rename(path, to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_does_not_count() {
        let home = tempfile::tempdir().unwrap();
        let deep = home.path().join("deep");
        fs::create_dir(&deep).unwrap();
        // Each round puts the chain so far below a new directory: paths stay short.
        for _ in 0..3000 {
            let above = home.path().join("above");
            fs::create_dir(&above).unwrap();
            fs::rename(&deep, above.join("d")).unwrap();
            fs::write(above.join("file"), "x").unwrap();
            fs::rename(&above, &deep).unwrap();
        }
        let trash = home.path().join("trash");
        throw(&deep, &trash).unwrap();
        assert!(!deep.exists());
        empty(&trash, &mut || {}).unwrap();
        assert!(!trash.exists());
    }

    #[test]
    fn links_are_not_followed() {
        let home = tempfile::tempdir().unwrap();
        let (kept, thrown) = (home.path().join("kept"), home.path().join("thrown"));
        fs::create_dir(&kept).unwrap();
        fs::create_dir(&thrown).unwrap();
        fs::write(kept.join("file"), "x").unwrap();
        std::os::unix::fs::symlink(&kept, thrown.join("link")).unwrap();
        let trash = home.path().join("trash");
        throw(&thrown, &trash).unwrap();
        empty(&trash, &mut || {}).unwrap();
        assert!(kept.join("file").exists());
    }
}
