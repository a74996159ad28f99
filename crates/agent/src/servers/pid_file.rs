//! Servers that write their process id into a file.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use hyperspector_window::sockets::place::paths::PidFile;
use hyperspector_window::sockets::place::worker::{Answer, Job, Places, Request};

use super::{Found, members};
use crate::helper::{Errands, Reply};
use crate::layout::Layout;
use crate::process::ProcessId;

/// How much later than its file a process may seem to have started: clocks are not that exact.
const SLACK: Duration = Duration::from_secs(2);
/// How long a file's file system may take before that is told.
const FIRST: Duration = Duration::from_secs(1);

/// A file that is being read, by a worker: its file system may answer nobody.
#[derive(Debug, Default)]
pub(super) struct Asked {
    reply: Option<(Reply<Places>, Instant)>,
    /// What was found the last time.
    last: String,
}

impl Asked {
    /// Whether it is being read.
    pub(super) fn is_asked(&self) -> bool {
        self.reply.is_some()
    }

    /// Whether it is being read, and has not been for long.
    pub(super) fn is_under_way(&self) -> bool {
        self.reply.as_ref().is_some_and(|(_, since)| since.elapsed() < FIRST)
    }

    /// Finds the process whose id is in the file at `path`.
    pub(super) fn find(
        &mut self,
        path: &Path,
        (layout, errands): (&Layout, &mut Errands),
    ) -> Result<Found, String> {
        let (reply, since) = match self.reply.take() {
            Some(asked) => asked,
            None => {
                let job = Job::PidFile(path.to_owned());
                let request = Request { process: None, tree: "/".into(), job };
                let asked = errands.ask(layout, &request, &[]);
                (asked.map_err(|error| error.to_string())?, Instant::now())
            }
        };
        if !reply.is_there_within(Duration::ZERO) {
            self.reply = Some((reply, since));
            let is_young = since.elapsed() < FIRST && !self.last.is_empty();
            return Err(if is_young { self.last.clone() } else { DEAD.to_owned() });
        }
        let found = match reply.take() {
            Some((Answer::PidFile(file), _)) => led_by(&file),
            Some((Answer::Failed(why), _)) => Err(why),
            _ => Err(DEAD.to_owned()),
        };
        self.last = found.as_ref().err().cloned().unwrap_or_else(|| "it has ended".to_owned());
        found
    }
}

const DEAD: &str = "the pid file's file system does not answer";

/// The server whose process `file` names.
fn led_by(file: &PidFile) -> Result<Found, String> {
    let pid: i32 = file.text.trim().parse().map_err(|_| "it holds no process id")?;
    let stat = members::stat(pid).filter(|stat| pid > 0 && !stat.has_ended());
    let stat = stat.ok_or_else(|| format!("process {pid} does not run"))?;
    let user = members::user(pid).ok_or_else(|| format!("process {pid} has just ended"))?;
    check(pid, stat.age(), user, file.written, file.owner)?;
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
        assert!(PidFile::read(&path).is_err());
        for text in ["", "x", "-1", "0", "999999999", "1 2", &"1".repeat(100)] {
            std::fs::write(&path, text).unwrap();
            assert!(led_by(&PidFile::read(&path).unwrap()).is_err(), "{text}");
        }
        assert!(PidFile::read(home.path()).is_err());
        let link = home.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(PidFile::read(&link).is_err());
    }
}
