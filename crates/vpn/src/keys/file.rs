//! Key files: one key each, which only root can read.

use std::fs::{File, OpenOptions, rename};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, RenameFlags, openat, renameat_with};
use rustix::io::Errno;
use zeroize::Zeroizing;

use super::{KeyError, SecretKey, TEXT_LENGTH};

impl SecretKey {
    /// Reads the key file at `path`.
    ///
    /// Refused: a symbolic link, a file of another user, a file that group or others can read.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, KeyError> {
        let path = path.as_ref();
        let file = open_private(path)?;
        // One byte more than a key and its newline, so that longer files are noticed.
        let mut text = Zeroizing::new([0_u8; TEXT_LENGTH + 2]);
        let length = read_up_to(&file, &mut *text).map_err(|e| failed("read", path, e))?;
        let content = || KeyError::Content { path: path.to_owned() };
        let text = std::str::from_utf8(&text[..length]).map_err(|_| content())?;
        text.trim_ascii().parse().map_err(|_| content())
    }

    /// Reads the key file at `path`, or makes a new key and the file where there is none.
    ///
    /// The file appears whole, with mode 0600, on disk, and never in place of another.
    pub fn load_or_create(path: impl AsRef<Path>) -> Result<Self, KeyError> {
        let path = path.as_ref();
        match Self::load(path) {
            Err(KeyError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let key = Self::generate()?;
        match key.create(path) {
            Ok(()) => Ok(key),
            // Somebody was faster: theirs is the key.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Self::load(path),
            Err(e) => Err(failed("create", path, e)),
        }
    }

    /// Puts the key file at `next` in the place of the one at `path`, in one step, and overwrites what
    /// that one held. (A file system that copies on writing, and a flash disk, may keep it for longer.)
    pub fn succeed(path: impl AsRef<Path>, next: impl AsRef<Path>) -> Result<(), KeyError> {
        let (path, next) = (path.as_ref(), next.as_ref());
        let old = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(path);
        rename(next, path).map_err(|e| failed("replace", path, e))?;
        let wiped = match old {
            Ok(old) => wipe(&old),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        };
        wiped.and_then(|()| sync_folder(path)).map_err(|e| failed("wipe the old", path, e))
    }

    /// Makes the file at `path`; an error where there is one.
    fn create(&self, path: &Path) -> io::Result<()> {
        let folder = folder(path);
        let mut salt = [0; 8];
        getrandom::fill(&mut salt).map_err(io::Error::other)?;
        let temporary = folder.join(format!(".key-{:016x}", u64::from_ne_bytes(salt)));
        let made = self.write_new(&temporary).and_then(|()| {
            renameat_with(CWD, &temporary, CWD, path, RenameFlags::NOREPLACE)?;
            sync_folder(path)
        });
        if made.is_err() {
            let _ = std::fs::remove_file(&temporary);
        }
        made
    }

    fn write_new(&self, path: &Path) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut file = File::from(openat(CWD, path, flags, Mode::RUSR | Mode::WUSR)?);
        file.write_all(self.to_text().as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()
    }
}

/// Overwrites what a key file holds, on disk.
fn wipe(mut file: &File) -> io::Result<()> {
    file.write_all(&[0; TEXT_LENGTH + 1])?;
    file.sync_all()
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(folder(path))?.sync_all()
}

/// Opens a file that must be this user's alone.
fn open_private(path: &Path) -> Result<File, KeyError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(CWD, path, flags, Mode::empty()).map_err(|e| failed("read", path, e))?;
    let stat = rustix::fs::fstat(&file).map_err(|e| failed("read", path, e))?;
    let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    if !regular || stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(KeyError::Foreign { path: path.to_owned() });
    }
    let mode = stat.st_mode & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Exposed { path: path.to_owned(), mode });
    }
    Ok(file.into())
}

/// Reads until `buffer` is full or the file ends.
fn read_up_to(mut file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(e) if e.raw_os_error() == Some(Errno::INTR.raw_os_error()) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(length)
}

fn failed(operation: &'static str, path: &Path, source: impl Into<io::Error>) -> KeyError {
    KeyError::File { operation, path: path.to_owned(), source: source.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn the_key_is_made_once_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("alpha.key");
        let made = SecretKey::load_or_create(&path).unwrap();
        let read = SecretKey::load_or_create(&path).unwrap();
        assert_eq!(made.public(), read.public());
        assert_eq!(mode(&path), 0o600);
        let names = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(names, 1, "a temporary file was left behind");
    }

    #[test]
    fn a_next_key_takes_the_place_of_the_old_which_is_wiped() {
        let folder = tempfile::tempdir().unwrap();
        let (path, next) = (folder.path().join("a.key"), folder.path().join("a.next.key"));
        SecretKey::load_or_create(&path).unwrap();
        let made = SecretKey::load_or_create(&next).unwrap();
        let mut old = File::open(&path).unwrap();
        SecretKey::succeed(&path, &next).unwrap();
        assert_eq!(SecretKey::load(&path).unwrap().public(), made.public());
        assert!(!next.exists() && mode(&path) == 0o600);
        let mut left = Vec::new();
        old.read_to_end(&mut left).unwrap();
        assert_eq!(left, [0; TEXT_LENGTH + 1]);
        assert!(SecretKey::succeed(&path, &next).is_err(), "there is no next one");
        assert_eq!(SecretKey::load(&path).unwrap().public(), made.public());
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("alpha.key");
        SecretKey::load_or_create(&path).unwrap();
        for bits in [0o640, 0o604, 0o620, 0o601] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(bits)).unwrap();
            let error = SecretKey::load_or_create(&path).unwrap_err().to_string();
            assert!(error.contains("chmod 600"), "{error}");
        }
    }

    #[test]
    fn links_folders_and_garbage_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("a.key"), folder.path().join("b.key"));
        SecretKey::load_or_create(&path).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(SecretKey::load_or_create(&link).is_err());
        assert!(SecretKey::load_or_create(folder.path()).is_err());
        for text in [&b""[..], b"short", &[b'A'; 200], &[0xff; 44]] {
            std::fs::write(&path, text).unwrap();
            let error = SecretKey::load(&path).unwrap_err();
            assert!(matches!(error, KeyError::Content { .. }), "{error}");
        }
    }

    #[test]
    fn creating_never_replaces_a_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.key");
        let first = SecretKey::load_or_create(&path).unwrap();
        let error = SecretKey::generate().unwrap().create(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(SecretKey::load(&path).unwrap().public(), first.public());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
