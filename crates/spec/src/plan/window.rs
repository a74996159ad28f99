//! The windows: what a portspace sees of servers.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What a portspace sees of servers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Windows {
    /// The packet window.
    pub packets: Option<PacketWindow>,
    /// The file windows, each at `/.serverfs/NAME`.
    pub files: Vec<FileWindow>,
    /// Servers whose changed files are at `/.dserverfs/NAME`.
    #[serde(default)]
    pub changes: Vec<String>,
    /// Unix sockets of servers whose messages it gets copies of.
    #[serde(default)]
    pub sockets: Vec<SocketWindow>,
    /// Servers whose processes are at `/.serverproc/NAME`.
    #[serde(default)]
    pub processes: Vec<String>,
    /// Servers whose system calls are at `/.servertrace/NAME`, and what is written of them.
    #[serde(default)]
    pub syscalls: Vec<SyscallWindow>,
}

impl Windows {
    /// The names of the servers that it sees anything of, some of them more than once.
    pub fn servers(&self) -> impl Iterator<Item = &str> {
        let files = self.files.iter().map(|window| &window.server);
        let sockets = self.sockets.iter().map(|window| &window.server);
        let syscalls = self.syscalls.iter().map(|window| &window.server);
        let named = self.changes.iter().chain(&self.processes);
        files.chain(sockets).chain(syscalls).chain(named).map(String::as_str)
    }
}

/// Which packets a portspace sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketWindow {
    /// Interfaces of the host.
    pub interfaces: Vec<String>,
    /// How much memory all its capture rings may take together, in bytes.
    pub ring_limit: u64,
}

/// A server's file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileWindow {
    /// The server's name, and the directory's below `/.serverfs`.
    pub server: String,
    /// Absolute paths, as the server sees them, that are hidden here, those that the server's own
    /// mask hides among them.
    pub mask: Vec<PathBuf>,
}

/// Copies of the messages that are sent to a Unix socket of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketWindow {
    /// The server's name.
    pub server: String,
    /// The socket's path, as the server sees it.
    pub path: PathBuf,
    /// What kind of socket it is, where the server has no receiver of its own there.
    pub kind: SocketKind,
    /// The path in the portspace at which the reader listens.
    pub to: PathBuf,
    /// How much may wait for the reader, in bytes.
    pub queue: u64,
    /// Whether each message comes after a line that says who has sent it.
    pub senders: bool,
}

/// The system calls of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyscallWindow {
    /// The server's name, and the socket's below `/.servertrace`.
    pub server: String,
    /// What is written of them in the portspace; one server can be there with several.
    pub text: Option<SyscallText>,
}

/// System calls that are written as text, by a program in the portspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyscallText {
    /// The file in the portspace, or a FIFO where one is there or is to be made.
    pub to: PathBuf,
    /// How they are written.
    pub form: TextForm,
    /// Names and groups of calls, as hyperspector_syscalls::filter takes them; empty for the default.
    pub calls: Vec<String>,
    /// Whether only calls that failed are written.
    pub failed_only: bool,
    /// Whether it is a FIFO, which is made where there is none.
    pub fifo: bool,
    /// After how many bytes another file is begun.
    pub size: u64,
    /// How many old files are kept.
    pub keep: u32,
}

/// A form of text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TextForm {
    /// Lines as strace(1) writes them.
    #[default]
    Strace,
    /// JSON, one object a line.
    Json,
    /// Linux audit records.
    Audit,
}

/// A kind of Unix socket (unix(7)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SocketKind {
    /// `SOCK_DGRAM`
    #[default]
    Dgram,
    /// `SOCK_STREAM`
    Stream,
    /// `SOCK_SEQPACKET`
    Seqpacket,
}
