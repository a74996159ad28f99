//! What init tells the agent: one small JSON value in a file that it holds open.
//!
//! A file instead of a connection, so that it survives the agent. The reader must take it for what
//! it is, bytes from inside a space: [`read`] bounds it and types it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::control::{End, Report, State};

/// The most that a report takes, in bytes.
const LARGEST: u64 = 4096;
/// The most that a reason takes, in characters.
const LONGEST_REASON: usize = 400;

/// Writes the report whenever it changes.
pub struct Reporter {
    file: OwnedFd,
    report: Report,
}

impl Reporter {
    /// Starts with a command that has not been started.
    pub fn new(file: OwnedFd) -> Self {
        let report = Report {
            state: State::Starting,
            pid: None,
            since: now(),
            starts: 0,
            last_end: None,
            reason: None,
            next: None,
        };
        let reporter = Self { file, report };
        reporter.write();
        reporter
    }

    /// The command runs as `pid`.
    pub fn running(&mut self, pid: i32) {
        self.report = Report {
            state: State::Running,
            pid: Some(pid),
            since: now(),
            starts: self.report.starts + 1,
            last_end: self.report.last_end,
            reason: None,
            next: None,
        };
        self.write();
    }

    /// The command has ended.
    pub fn ended(&mut self, end: End) {
        self.report.pid = None;
        self.report.last_end = Some(end);
        self.write();
    }

    /// Nothing runs, for this reason, and will again after `pause`.
    pub fn idle(&mut self, state: State, reason: Option<String>, pause: Option<Duration>) {
        self.report.state = state;
        self.report.pid = None;
        self.report.since = now();
        self.report.reason = reason.map(|text| text.chars().take(LONGEST_REASON).collect());
        self.report.next =
            pause.map(|pause| now() + u64::try_from(pause.as_millis()).unwrap_or(u64::MAX / 2));
        self.write();
    }

    /// How the last run ended.
    pub fn last_end(&self) -> Option<End> {
        self.report.last_end
    }

    /// Replaces the file's content. A reader that comes in between finds no JSON and tries again.
    fn write(&self) {
        let Ok(mut text) = serde_json::to_vec(&self.report) else { return };
        text.push(b'\n');
        let _ = rustix::io::pwrite(&self.file, &text, 0);
        let _ = rustix::fs::ftruncate(&self.file, text.len() as u64);
    }
}

/// Reads a report.
///
/// # Errors
/// Where it is missing, too large, or no report.
pub fn read(path: &Path) -> io::Result<Report> {
    use std::io::Read;
    for _ in 0..5 {
        let mut text = String::new();
        std::fs::File::open(path)?.take(LARGEST).read_to_string(&mut text)?;
        if let Ok(report) = serde_json::from_str(&text) {
            return Ok(report);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} is no report", path.display())))
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
