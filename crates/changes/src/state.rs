//! The line that says which journal this is and that it is being kept.

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// The name of the file.
pub const NAME: &str = "state";
/// How often it is written while nothing happens, in milliseconds.
pub const BEAT: u64 = 1000;
/// How old it may be before the journal counts as not kept, in milliseconds.
const STALE: u64 = 15_000;
/// The size of the file. It never grows, so that a full disk cannot keep it from being written.
const SIZE: usize = 1024;

/// Which journal it is, and how it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// No two journals have the same.
    pub id: String,
    /// Why it began.
    pub began: String,
    /// Why it cannot be written, where it cannot: who reads it has to scan all.
    pub failing: Option<String>,
    /// When this was written, in milliseconds since the machine started (CLOCK_BOOTTIME).
    pub beat: u64,
    /// The greatest sequence number so far.
    pub head: u64,
}

impl State {
    /// Reads it.
    ///
    /// # Errors
    /// Where there is none, or it stays unreadable.
    pub fn read(directory: &Path) -> io::Result<Self> {
        let path = directory.join(NAME);
        let mut before = fs::read(&path)?;
        // It is written in place: what is read twice alike is whole.
        for _ in 0..100 {
            let now = fs::read(&path)?;
            if now == before
                && now.len() <= SIZE
                && let Ok(state) = serde_json::from_slice(&now)
            {
                return Ok(state);
            }
            before = now;
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "its state cannot be read"))
    }

    /// Writes it in place.
    pub(crate) fn write(&self, file: BorrowedFd<'_>) -> io::Result<()> {
        let mut line = serde_json::to_vec(self)?;
        if line.len() >= SIZE {
            return Err(io::Error::other("the state does not fit"));
        }
        line.resize(SIZE - 1, b' ');
        line.push(b'\n');
        let written = rustix::io::pwrite(file, &line, 0)?;
        if written == SIZE { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// How long ago it was written, where that is too long.
    pub fn is_stale(&self) -> Option<u64> {
        let age = uptime().saturating_sub(self.beat);
        // One of an earlier start of the machine may be ahead.
        (age > STALE || self.beat > uptime()).then_some(age / 1000)
    }
}

/// Milliseconds since the machine started.
pub fn uptime() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let (seconds, nanoseconds) = (now.tv_sec.cast_unsigned(), now.tv_nsec.cast_unsigned());
    seconds * 1000 + nanoseconds / 1_000_000
}
