//! What `/.serverproc/NAME.json` holds. `docs/processes.md` describes it for those who read it.
//!
//! Names that a server chooses are strings where they are UTF-8. Where they are not, what is not
//! stands as U+FFFD, and a second key with the ending `_hex` has the exact bytes.

use std::collections::BTreeMap;

use serde::Serialize;

/// The version of the format. A key that changes its meaning, or goes, makes it another one; a new
/// key does not.
pub const VERSION: u32 = 1;

/// The whole file.
#[derive(Clone, Debug, Serialize)]
pub struct Document<'a> {
    /// [`VERSION`].
    pub version: u32,
    /// The server's name.
    pub server: String,
    /// When this was written, in milliseconds since 1970.
    pub written_ms: u64,
    /// What was found.
    #[serde(flatten)]
    pub found: &'a Found,
}

/// What was found of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Found {
    /// Whether it runs.
    pub present: bool,
    /// Its first process.
    pub leader: Option<Pid>,
    /// How many processes are not listed, since the file would grow too large, or since they were not
    /// read yet.
    pub left_out: usize,
    /// How many of those that are listed are as they were some rounds ago.
    pub not_renewed: usize,
    /// What could not be found out about the server as a whole.
    pub problems: Vec<String>,
    /// Its processes, by number.
    pub processes: Vec<Process>,
}

/// A process's number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pid {
    /// On the host.
    pub host: u32,
    /// In the server's PID namespace; none where it is not in there.
    pub server: Option<u32>,
}

/// One process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Process {
    /// Its number.
    pub pid: Pid,
    /// Its parent's.
    pub parent: Pid,
    /// Its short name (proc_pid_comm(5)).
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[allow(missing_docs)]
    pub name_hex: Option<String>,
    /// `running`, `stopped` or `zombie`.
    pub state: &'static str,
    /// Whether it is a thread of the kernel.
    pub kernel: bool,
    /// When it started, in milliseconds since 1970.
    pub started_ms: u64,
    /// The same in clock ticks since boot: with the host's number, this tells it from every other.
    pub started_ticks: u64,
    /// Its command line.
    pub command_line: Vec<String>,
    /// The command line's bytes, each argument ended by a zero byte.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command_line_hex: Option<String>,
    /// Whether the command line is longer.
    pub command_line_cut: bool,
    /// The file that it executes.
    pub executable: Option<Executable>,
    /// Its working directory.
    pub directory: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[allow(missing_docs)]
    pub directory_hex: Option<String>,
    /// Its root directory.
    pub root: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[allow(missing_docs)]
    pub root_hex: Option<String>,
    /// Its users.
    pub user: Ids,
    /// Its groups.
    pub group: Ids,
    /// Its supplementary groups, on the host.
    pub groups: Vec<u32>,
    /// Its capabilities, which count in its user namespace.
    pub capabilities: Capabilities,
    /// Whether it can gain no privilege by executing.
    pub no_new_privileges: bool,
    /// `none`, `strict` or `filter`.
    pub seccomp: &'static str,
    /// The process that traces it, on the host.
    pub tracer: Option<u32>,
    /// Its namespaces, by kind (namespaces(7)).
    pub namespaces: BTreeMap<&'static str, u64>,
    /// Its sockets.
    pub sockets: Vec<Socket>,
    /// How many of its sockets are not listed.
    pub sockets_left_out: usize,
    /// How many sockets it has that are not TCP, UDP or Unix ones of the server's own network.
    pub sockets_other: usize,
    /// Files that it has open and that have no name any more.
    pub deleted_files: Vec<DeletedFile>,
    /// How many of those are not listed.
    pub deleted_files_left_out: usize,
    /// Why parts of this are missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incomplete: Option<&'static str>,
}

/// The file that a process executes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Executable {
    /// Its path, as the process sees it.
    pub path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[allow(missing_docs)]
    pub path_hex: Option<String>,
    /// Whether it has no name any more.
    pub deleted: bool,
    /// The file system: `MAJOR:MINOR`.
    pub device: String,
    /// Its number there.
    pub inode: u64,
    /// Its size in bytes.
    pub size: u64,
    /// Its mode, in octal digits.
    pub mode: String,
    /// The SHA-256 of its content, in hexadecimal digits.
    pub sha256: Option<String>,
    /// Why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256_missing: Option<String>,
}

/// The ids that a process has of one kind (credentials(7)).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ids {
    /// Who started it.
    pub real: Id,
    /// Whose rights it has.
    pub effective: Id,
    /// What it can become again.
    pub saved: Id,
    /// Whose rights it has on files.
    pub file: Id,
}

/// A user or group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Id {
    /// On the host.
    pub host: u32,
    /// In the server's user namespace; none where it is not in there.
    pub server: Option<u32>,
    /// What the server's own `/etc/passwd` or `/etc/group` calls it. The server can write anything
    /// there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Capabilities by name, without `CAP_` (capabilities(7)).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// Those that count now.
    pub effective: Vec<&'static str>,
    /// Those that it can make effective.
    pub permitted: Vec<&'static str>,
    /// Those that programs can inherit.
    pub inheritable: Vec<&'static str>,
    /// Those that programs without file capabilities inherit.
    pub ambient: Vec<&'static str>,
    /// Those that it could gain, as the kernel's number.
    pub bounding: String,
}

/// A socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Socket {
    /// `tcp`, `tcp6`, `udp`, `udp6`, `unix-stream`, `unix-dgram` or `unix-seqpacket`.
    pub kind: &'static str,
    /// `listen`, `established` and so on (ss(8)); `unconnected` for one that only receives.
    pub state: &'static str,
    /// Its own address and port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<String>,
    /// The other end's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    /// The path of a Unix socket; an abstract name begins with `@`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[allow(missing_docs)]
    pub path_hex: Option<String>,
    /// The path of the Unix socket at the other end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[allow(missing_docs)]
    pub peer_path_hex: Option<String>,
    /// Its number in the kernel.
    pub inode: u64,
}

/// An open file without a name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DeletedFile {
    /// The process's descriptor.
    pub descriptor: u32,
    /// The last path that it had. `/memfd:NAME` was never in a directory (memfd_create(2)).
    pub path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[allow(missing_docs)]
    pub path_hex: Option<String>,
    /// The file system: `MAJOR:MINOR`.
    pub device: String,
    /// Its number there.
    pub inode: u64,
    /// Its size in bytes.
    pub size: u64,
}
