//! One agent for each run directory: a lock that a living agent holds, and whoever takes down what a
//! dead one has left.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::{Doing, Error, on};
use crate::files;
use crate::layout::{Layout, private_dir};

/// How long to wait before the lock is tried again.
const STEP: Duration = Duration::from_millis(20);

/// The lock of a run directory, held.
#[derive(Debug)]
pub struct Lock {
    file: File,
    layout: Layout,
}

impl Lock {
    /// Takes the lock of `layout`, whose run directory is made where it is not there. `None` when
    /// another process has it for all of `patience`.
    pub fn take(layout: &Layout, patience: Duration) -> Result<Option<Self>, Error> {
        let (path, deadline) = (layout.lock(), Instant::now() + patience);
        loop {
            let file = match open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    private_dir(&layout.run).doing(on("make", &layout.run))?;
                    continue;
                }
                other => other.doing(on("open", &path))?,
            };
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                // Else whoever held it has removed it meanwhile, and it locks nothing.
                Ok(()) if is_at(&file, &path) => {
                    let lock = Self { file, layout: layout.clone() };
                    lock.sign().doing(on("write", &path))?;
                    return Ok(Some(lock));
                }
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(STEP),
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(error).doing(on("lock", &path)),
            }
        }
    }

    /// Writes our process id into it.
    fn sign(&self) -> io::Result<()> {
        let mut file = &self.file;
        file.set_len(0)?;
        file.rewind()?;
        write!(file, "{}", std::process::id())
    }

    /// Removes the agent's socket and the lock file, the last that its holder does. Others may make
    /// new ones at once, which are left alone.
    pub fn remove(&self) {
        if is_at(&self.file, &self.layout.lock()) {
            let _ = files::remove(&self.layout.socket());
            let _ = files::remove(&self.layout.lock());
        }
    }
}

/// The process id of whoever holds the lock of `layout`; `None` when nobody does.
pub fn holder(layout: &Layout) -> Option<u32> {
    // Between locking and writing there is a moment.
    for _ in 0..10 {
        let file = File::open(layout.lock()).ok()?;
        if flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
            return None;
        }
        let text = fs::read_to_string(layout.lock()).unwrap_or_default();
        if let Ok(pid) = text.trim().parse() {
            return Some(pid);
        }
        std::thread::sleep(STEP);
    }
    None
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Whether `path` is the file that was opened, and not removed or another one since.
pub(crate) fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(own), Ok(there)) = (file.metadata(), fs::metadata(path)) else { return false };
    (own.dev(), own.ino()) == (there.dev(), there.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_never_on_a_removed_file() {
        let home = tempfile::tempdir().unwrap();
        let layout = Layout { state: home.path().join("state"), run: home.path().join("run") };
        let take = || Lock::take(&layout, Duration::ZERO).unwrap();
        let first = take().expect("nobody has it");
        assert_eq!(holder(&layout), Some(std::process::id()));
        assert!(take().is_none());
        first.remove();
        fs::remove_dir(&layout.run).unwrap();
        // The first one still locks its file, which nobody can find any more.
        let second = take().expect("the first one has let go");
        first.remove();
        assert!(is_at(&second.file, &layout.lock()), "that is the second one's");
        drop(second);
        assert_eq!(holder(&layout), None);
    }

    #[test]
    fn a_short_holder_is_waited_for() {
        let home = tempfile::tempdir().unwrap();
        let layout = Layout { state: home.path().into(), run: home.path().into() };
        let held = Lock::take(&layout, Duration::ZERO).unwrap();
        let other = layout.clone();
        let waiting = std::thread::spawn(move || Lock::take(&other, Duration::from_secs(10)));
        std::thread::sleep(Duration::from_millis(50));
        drop(held);
        assert!(waiting.join().unwrap().unwrap().is_some());
    }
}
