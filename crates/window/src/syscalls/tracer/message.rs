//! What the agent and a tracer say to each other.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

use hyperspector_sys::channel;
pub use hyperspector_sys::worker::Started;
use serde::{Deserialize, Serialize};

use crate::syscalls::Scope;

/// How long a tracer may take for an answer. It reads what attackers write and may be taken: it must
/// not hold up the agent.
const ANSWER: Duration = Duration::from_secs(1);

/// What a tracer is started with: nothing, it makes itself ready.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Spare;

/// What one that is ready is told, once, with its control socket and an empty directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    /// The server's name.
    pub server: String,
    /// Whose calls are recorded.
    pub scope: Scope,
    /// Processes that are traced by their number, and their children to come.
    pub processes: Vec<u32>,
    /// Since when there was no tracer, in nanoseconds of CLOCK_MONOTONIC, where there was one before;
    /// 0 where that is not known.
    pub since: Option<u64>,
    /// The user that it becomes, who is nobody else.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// What the agent wants; one for each connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// The server is found elsewhere from now on.
    Scope {
        /// Whose calls are recorded.
        scope: Scope,
        /// Processes that are traced by their number from now on too.
        processes: Vec<u32>,
        /// Since when nothing of it was recorded, where it runs since before now, in nanoseconds of
        /// CLOCK_MONOTONIC.
        since: Option<u64>,
    },
    /// Readers of this portspace connect to the listening socket that comes with it, instead of to the
    /// one before.
    Place(String),
    /// This portspace has no readers any more.
    NoPlace(String),
    /// How it is.
    Status,
}

/// An answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Reply {
    /// It is done.
    Done,
    /// It cannot be done.
    Failed(String),
    /// How it is.
    Status(Status),
}

/// How a tracer is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// How many calls it has got from the kernel.
    pub recorded: u64,
    /// How many records the kernel had no room for, by processor.
    pub lost: BTreeMap<u32, u64>,
    /// Which portspaces may read.
    pub places: Vec<String>,
    /// Who reads.
    pub readers: Vec<ReaderStatus>,
    /// How many connections were refused.
    pub refused: u64,
}

/// How a reader is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReaderStatus {
    /// The portspace that it is in.
    pub portspace: String,
    /// Its process on the host; of a portspace whose connections are made by its broker, that.
    pub pid: i32,
    /// How many records it was sent.
    pub sent: u64,
    /// How many it has missed, since it was too slow.
    pub missed: u64,
    /// How many bytes wait for it.
    pub waiting: usize,
    /// How many bytes may wait for it.
    pub queue: usize,
}

/// Asks the tracer whose control socket is at `path`.
///
/// # Errors
/// Where it does not answer in time, or cannot do it.
pub fn ask(path: &Path, request: &Request, fds: &[BorrowedFd<'_>]) -> io::Result<Reply> {
    match channel::ask(path, request, fds, ANSWER)?.0 {
        Reply::Failed(why) => Err(io::Error::other(why)),
        reply => Ok(reply),
    }
}
