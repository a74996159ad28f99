//! The `clean` restart: what was written to the upper layer is gone at every start, but for what the
//! spec keeps.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use crate::error::{Doing, Error, on};
use crate::layout::SpaceDir;
use crate::trash;

/// Empties the layers of a portspace that does not run, but for `keep`, absolute paths inside.
///
/// What goes is moved aside at once and removed later, in a thread: there may be much of it.
pub(crate) fn clean(dir: &SpaceDir, keep: &[PathBuf]) -> Result<(), Error> {
    let (layers, trash) = (dir.layers(), dir.trash());
    if !layers.exists() {
        return Ok(());
    }
    let keep: Vec<&Path> = keep.iter().filter_map(|path| path.strip_prefix("/").ok()).collect();
    for entry in list(&layers).doing(on("list", &layers))? {
        let name = entry.file_name().unwrap_or(OsStr::new("")).to_owned();
        if name == "upper" {
            empty(&entry, Path::new(""), &keep, &trash).doing(on("clean", &entry))?;
        } else if let Some(place) = name.to_str().and_then(|name| name.strip_prefix("upper.")) {
            // An upper layer of a file system below the root: `var%2flib` is /var/lib.
            let below = PathBuf::from(place.replace("%2f", "/").replace("%25", "%"));
            empty(&entry, &below, &keep, &trash).doing(on("clean", &entry))?;
        } else {
            trash::throw(&entry, &trash).doing(on("clean", &entry))?;
        }
    }
    std::thread::spawn(move || {
        if let Err(error) = trash::empty(&trash, &mut || {}) {
            eprintln!("empty {}: {error}", trash.display());
        }
    });
    Ok(())
}

/// Removes all of `directory`, which is `place` inside, but what is kept and the way to it.
fn empty(directory: &Path, place: &Path, keep: &[&Path], trash: &Path) -> io::Result<()> {
    for entry in list(directory)? {
        let inside = place.join(entry.file_name().unwrap_or(OsStr::new("")));
        // A link on the way to what is kept leads elsewhere: it is not the way.
        let is_dir = fs::symlink_metadata(&entry)?.is_dir();
        if is_dir && keep.contains(&inside.as_path()) {
            continue;
        }
        if is_dir && keep.iter().any(|kept| kept.starts_with(&inside)) {
            empty(&entry, &inside, keep, trash)?;
            reset(&entry)?;
        } else {
            trash::throw(&entry, trash)?;
        }
    }
    Ok(())
}

/// Gives a directory on the way to a kept one the plainest owner and mode: those of its parent's
/// layer, so that what an attacker made of it does not last.
fn reset(directory: &Path) -> io::Result<()> {
    let Some(parent) = directory.parent() else { return Ok(()) };
    let found = fs::metadata(parent)?;
    chown(directory, Some(found.uid()), Some(found.gid()))?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755))
}

fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_kept_survives() {
        let home = tempfile::tempdir().unwrap();
        let dir = SpaceDir { run: home.path().join("run"), state: home.path().to_owned() };
        let upper = dir.layers().join("upper");
        fs::create_dir_all(upper.join("var/lib/aide")).unwrap();
        fs::create_dir_all(upper.join("var/lib/other")).unwrap();
        fs::create_dir_all(dir.layers().join("work/work")).unwrap();
        fs::write(upper.join("var/lib/aide/aide.db"), "db").unwrap();
        fs::write(upper.join("var/evil"), "x").unwrap();
        std::os::unix::fs::symlink("/etc", upper.join("srv")).unwrap();
        clean(&dir, &["/var/lib/aide".into(), "/srv/data".into()]).unwrap();
        assert_eq!(fs::read(upper.join("var/lib/aide/aide.db")).unwrap(), b"db");
        assert!(!upper.join("var/evil").exists() && !upper.join("var/lib/other").exists());
        assert!(!upper.join("srv").is_symlink() && !dir.layers().join("work").exists());
        let gone = || !dir.trash().exists();
        assert!((0..500).any(|_| gone() || {
            std::thread::sleep(std::time::Duration::from_millis(10));
            gone()
        }));
    }
}
