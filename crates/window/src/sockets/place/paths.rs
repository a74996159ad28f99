//! Looking at paths of the host for the agent, which never waits for a file system.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// The longest content of a pid file, in bytes.
const LONGEST: u64 = 64;

/// A pid file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PidFile {
    /// The first [`LONGEST`] bytes of what it holds.
    pub text: String,
    /// When it was written.
    pub written: Option<SystemTime>,
    /// Whose it is.
    pub owner: u32,
}

impl PidFile {
    /// Reads the one at `path`, which must be a plain file and no link.
    ///
    /// # Errors
    /// As open(2); where it is something else, or holds no text.
    pub fn read(path: &Path) -> io::Result<Self> {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(io::Error::other("it is no plain file"));
        }
        let mut text = String::new();
        let read = file.take(LONGEST).read_to_string(&mut text);
        read.map_err(|_| io::Error::other("it holds no process id"))?;
        Ok(Self { text, written: found.modified().ok(), owner: found.uid() })
    }
}

/// Whose a directory is, and who may do what in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owned {
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// The permission bits.
    pub mode: u32,
}

impl Owned {
    /// Looks at `path`, links followed.
    ///
    /// # Errors
    /// As stat(2).
    pub fn of(path: &Path) -> io::Result<Self> {
        let found = std::fs::metadata(path)?;
        Ok(Self { uid: found.uid(), gid: found.gid(), mode: found.mode() & 0o7777 })
    }
}
