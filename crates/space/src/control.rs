//! What can be asked of a space's init over its control socket, by root of the host.
//!
//! The socket is a path of the host that is never visible inside. Everything that comes back is
//! from inside the space and is treated as such.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A request; one for each connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Run a command. Without a terminal, three pipe ends come along for its standard streams;
    /// with one, the answer brings the master of a pseudo-terminal of the space.
    Exec(Exec),
    /// Send the main command a signal.
    Signal {
        /// Which.
        number: i32,
    },
}

/// A command to run beside the main one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Exec {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Variables on top of the space's own.
    pub environment: BTreeMap<String, String>,
    /// The user inside.
    pub user: String,
    /// The working directory.
    pub directory: PathBuf,
    /// Whether it gets a terminal.
    pub terminal: bool,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The command runs; the terminal's master comes along where one was asked for.
    Started,
    /// It has ended.
    Ended(End),
    /// The signal was sent.
    Done,
    /// It could not be done.
    Refused(String),
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// It returned this status.
    Status(i32),
    /// This signal ended it.
    Signal(i32),
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status(status) => write!(f, "exit status {status}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// What init writes into its report file, whenever it changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// What the command is doing.
    pub state: State,
    /// The command's process id inside, while it runs.
    pub pid: Option<i32>,
    /// Since when, in milliseconds since 1970.
    pub since: u64,
    /// How often it has been started.
    pub starts: u64,
    /// How its last run ended.
    pub last_end: Option<End>,
    /// Why it could not be started, where that is so.
    pub reason: Option<String>,
    /// When it is started next, in milliseconds since 1970.
    pub next: Option<u64>,
}

/// What a space's command is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It has not been started yet.
    Starting,
    /// It runs.
    Running,
    /// It is periodic, and between two runs.
    Waiting,
    /// It could not be started, or ended badly and is to be started again.
    Failed,
    /// It has ended and stays so.
    Stopped,
}
