//! Reading other software's state files: bounded, root's alone, and nothing but plain files.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde_json::Value;

/// The longest file that is read, in bytes.
const LONGEST: u64 = 8 << 20;
/// The most entries of a directory that are looked at.
const MOST_ENTRIES: usize = 4096;

/// Opens a plain file of root's; `None` for anything else.
fn open(path: &Path) -> Option<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    let found = file.metadata().ok()?;
    (found.is_file() && is_root_s(&found) && found.len() <= LONGEST).then_some(file)
}

/// Whether nobody but root writes to it.
fn is_root_s(found: &Metadata) -> bool {
    found.uid() == 0 && found.mode() & 0o022 == 0
}

/// The text of a file.
pub(super) fn text(path: &Path) -> Option<String> {
    let mut text = String::new();
    open(path)?.take(LONGEST).read_to_string(&mut text).ok()?;
    Some(text)
}

/// The JSON value in a file.
pub(super) fn json(path: &Path) -> Option<Value> {
    serde_json::from_str(&text(path)?).ok()
}

/// The directories in one of root's.
pub(super) fn directories(path: &Path) -> Vec<PathBuf> {
    if !fs::symlink_metadata(path).is_ok_and(|found| found.is_dir() && is_root_s(&found)) {
        return Vec::new();
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten().take(MOST_ENTRIES);
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// A path's last part, where it is text.
pub(super) fn name(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn only_plain_files_are_read() {
        let home = tempfile::tempdir().unwrap();
        let (file, link) = (home.path().join("file"), home.path().join("link"));
        fs::write(&file, "{\"a\": 1}").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let is_root = fs::metadata(&file).unwrap().uid() == 0;
        assert_eq!(json(&file).is_some(), is_root);
        assert_eq!(json(&link), None);
        assert_eq!(json(home.path()), None);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(json(&file), None, "anybody can have written it");
        let [safe, open] = ["safe", "open"].map(|name| home.path().join(name));
        for directory in [&safe, &open] {
            fs::create_dir_all(directory.join("container")).unwrap();
        }
        fs::set_permissions(&open, fs::Permissions::from_mode(0o1777)).unwrap();
        assert_eq!(directories(&safe).len(), usize::from(is_root));
        assert_eq!(directories(&open).len(), 0, "anybody can make containers there");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(&file, "{").unwrap();
        assert_eq!(json(&file), None);
        File::create(&file).unwrap().set_len(LONGEST + 1).unwrap();
        assert_eq!(text(&file), None);
    }
}
