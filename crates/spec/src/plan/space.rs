//! What portspaces and server spaces are made of.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What portspaces and server spaces have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpacePlan {
    /// What it calls itself: `nids.web1`.
    pub hostname: String,
    /// What lies under its root.
    pub root: Root,
    /// How its user ids relate to the host's.
    pub ids: Ids,
    /// The program and its arguments; the program is looked up in the root along `PATH`.
    pub command: Vec<String>,
    /// Environment variables on top of the defaults.
    pub environment: BTreeMap<String, String>,
    /// The user inside, by name or number; `root` unless the spec says otherwise.
    pub user: String,
    /// The directory in which it starts.
    pub directory: PathBuf,
    /// When it runs, and what happens when it ends.
    pub run: Run,
    /// Directories of the upper layer that survive a clean restart.
    pub keep: Vec<PathBuf>,
    /// Paths of its own root that it does not get to see, but for mounts below them; no mount is at
    /// one of them.
    pub mask: Vec<PathBuf>,
    /// Files and directories of the host that it gets to see beside its root, each after those
    /// that it lies in.
    pub mounts: Vec<Mount>,
    /// What it may use.
    pub limits: Limits,
    /// How long it has to end after being asked to, in seconds.
    pub stop_grace: u32,
    /// Protections that may be missing on this kernel without that being an error.
    pub allow_missing: Vec<Protection>,
}

/// What lies under a space's root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Root {
    /// The base system's own root.
    Base,
    /// A directory of the host that holds a root file system.
    Directory(PathBuf),
}

/// How a space's user ids relate to the host's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ids {
    /// A range of its own; views are shifted so that owners look right.
    #[default]
    Private,
    /// The host's ids, without any capability outside.
    Host,
}

/// When a space's command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Run {
    /// All the time.
    Service {
        /// What happens when it ends.
        restart: Restart,
    },
    /// Again and again, each run starting this many seconds after the last one started, or at once
    /// when that one took longer.
    Every {
        /// The period in seconds.
        seconds: u64,
    },
}

/// What happens when a service ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// It is started again.
    #[default]
    Always,
    /// It is started again unless it ended with status 0.
    OnFailure,
    /// It is started again on an upper layer that is empty but for the `keep` directories.
    Clean,
    /// It stays ended.
    Never,
}

/// A path of the host that is shown inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where it is on the host.
    pub from: PathBuf,
    /// Where it is inside.
    pub to: PathBuf,
    /// Whether it can be written to; never in a portspace.
    #[serde(default)]
    pub writable: bool,
}

/// What a space may use. `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory in bytes.
    pub memory: Option<u64>,
    /// Processors, in thousandths of one: 1500 is one and a half.
    pub cpu_millis: Option<u32>,
    /// The share of the processors when all are busy, 1 to 10000 (cgroup v2's `cpu.weight`).
    pub cpu_weight: Option<u16>,
    /// The share of the disks when they are busy, 1 to 10000 (cgroup v2's `io.weight`).
    pub io_weight: Option<u16>,
    /// Processes and threads.
    pub pids: Option<u32>,
}

/// A protection that a kernel may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protection {
    /// Landlock: nothing of a file window can be opened for writing, named pipes included.
    Landlock,
    /// cgroup/connect_unix programs: a socket seen in a file window cannot be connected to.
    UnixGuard,
    /// Memory, processor and process limits.
    Limits,
}
