//! Servers that write their process id into a file.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::{Found, members};
use crate::process::ProcessId;

/// The longest content that is a process id.
const LONGEST: u64 = 64;
/// How much later than its file a process may seem to have started: clocks are not that exact.
const SLACK: Duration = Duration::from_secs(2);

/// Finds the process whose id is in the file at `path`.
pub(super) fn find(path: &Path) -> Result<Found, String> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = file.map_err(|error| hyperspector_sys::errno::text(&error))?;
    let about = file.metadata().map_err(|error| hyperspector_sys::errno::text(&error))?;
    if !about.is_file() {
        return Err("it is no plain file".to_owned());
    }
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text).map_err(|_| "it holds no process id")?;
    let pid: i32 = text.trim().parse().map_err(|_| "it holds no process id")?;
    let stat = members::stat(pid).filter(|stat| pid > 0 && !stat.has_ended());
    let stat = stat.ok_or_else(|| format!("process {pid} does not run"))?;
    let user = members::user(pid).ok_or_else(|| format!("process {pid} has just ended"))?;
    check(pid, stat.age(), user, about.modified().ok(), about.uid())?;
    Ok(Found::led_by_alone(ProcessId { pid, start: stat.start }))
}

/// Whether the file can mean this process: one that started after it was written is another one, of
/// the same number; and what a user writes can name his own processes alone.
fn check(
    pid: i32,
    age: Option<Duration>,
    user: u32,
    written: Option<SystemTime>,
    owner: u32,
) -> Result<(), String> {
    if owner != 0 && owner != user {
        return Err(format!("it belongs to user {owner}, and process {pid} to user {user}"));
    }
    let since_written = written.and_then(|written| SystemTime::now().duration_since(written).ok());
    match (age, since_written) {
        (Some(age), Some(since)) if since > age + SLACK => {
            Err(format!("it is older than process {pid}, which is another one then"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_means_no_later_process_and_nobody_else_s() {
        let at = |seconds| Some(Duration::from_secs(seconds));
        let written = |seconds| Some(SystemTime::now() - Duration::from_secs(seconds));
        assert!(check(9, at(100), 33, written(99), 0).is_ok());
        assert!(check(9, at(100), 33, written(101), 33).is_ok());
        assert!(check(9, at(100), 33, written(110), 0).is_err());
        assert!(check(9, at(100), 0, written(99), 33).is_err());
    }

    #[test]
    fn nonsense_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("pid");
        assert!(find(&path).is_err());
        for text in ["", "x", "-1", "0", "999999999", "1 2", &"1".repeat(100)] {
            std::fs::write(&path, text).unwrap();
            assert!(find(&path).is_err(), "{text}");
        }
        assert!(find(home.path()).is_err());
    }
}
