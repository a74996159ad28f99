//! What the builder of a space is told, and what it answers.

use std::collections::BTreeMap;
use std::path::PathBuf;

use hyperspector_spec::plan::Run;
use serde::{Deserialize, Serialize};

/// Everything that one space is made of. The descriptors that come with it are listed at [`Fds`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SpaceConfig {
    /// `HYPERSPECTOR/PORTSPACE`, or a server's name, for messages.
    pub name: String,
    /// Its host name.
    pub hostname: String,
    /// Whose network it is in.
    pub network: Network,
    /// How ids inside relate to the host's.
    pub ids: IdRange,
    /// Ranges of private ids of server spaces that it watches, by their first ids: they are mapped to
    /// themselves, since the kernel cannot shift the owners of files on an overlay. Nobody inside can
    /// become one of them.
    pub others: Vec<u32>,
    /// The user of the host that its user namespace belongs to, and nobody else is.
    pub owner: u32,
    /// Its root file system.
    pub root: RootConfig,
    /// An empty directory of the host that may be mounted on, in the space's own mount namespace.
    pub staging: PathBuf,
    /// HyperSpector's own directories, never shown in any view.
    pub hide: Vec<PathBuf>,
    /// Paths of the root that are masked.
    pub mask: Vec<PathBuf>,
    /// Directories that are made where they are not there, since the command is to keep files there.
    pub keep: Vec<PathBuf>,
    /// Files and directories of the host that are shown.
    pub mounts: Vec<Bind>,
    /// Unix sockets of the host that anybody inside may connect to.
    pub sockets: Vec<Bind>,
    /// Places for windows; `None` for a space that has none.
    pub windows: Option<Places>,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Programs of ours that run beside it, as root inside, and are started again when they end.
    #[serde(default)]
    pub companions: Vec<Vec<String>>,
    /// Environment variables on top of the defaults.
    pub environment: BTreeMap<String, String>,
    /// The user inside, by name or number.
    pub user: String,
    /// The working directory.
    pub directory: PathBuf,
    /// When the command runs.
    pub run: Run,
    /// How long it has to end after being asked to, in seconds.
    pub stop_grace: u32,
    /// Seccomp rules of the windows, on top of the policy.
    pub rules: Vec<Rule>,
    /// Whether Landlock may be missing.
    pub landlock_optional: bool,
    /// The greatest size of one of the two log files, in bytes.
    pub log_size: u64,
}

/// The descriptors that come with a [`SpaceConfig`], in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fds {
    /// A listening Unix socket for [`crate::control`].
    Control,
    /// The first log file, opened for reading and writing.
    Log0,
    /// The second log file, opened for reading and writing.
    Log1,
    /// The report file, opened for writing.
    Report,
    /// The space's network namespace, where it has one of its own.
    Network,
}

/// How many descriptors come with every [`SpaceConfig`].
pub const FD_COUNT: usize = 4;

/// Whose network a space is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// One of its own: the namespace comes as a descriptor.
    Own,
    /// That of whoever builds it: the host's. Abstract Unix sockets belong to a network, so that the
    /// host's have to be kept from it by Landlock.
    Host,
}

/// The ids of a space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IdRange {
    /// Ids 0 to 65535 inside are `base` and the 65535 after it outside.
    Private {
        /// The first id of the range on the host.
        base: u32,
    },
    /// Every id is itself.
    Host,
}

impl IdRange {
    /// How many ids a private range has.
    pub const SIZE: u32 = 65536;

    /// What root inside is on the host.
    pub fn root(self) -> u32 {
        match self {
            Self::Private { base } => base,
            Self::Host => 0,
        }
    }
}

/// The layers of a space's root.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RootConfig {
    /// The directory of the host that lies below; `/` for the base system.
    pub lower: PathBuf,
    /// The directory that holds `upper` and `work`.
    pub layers: PathBuf,
    /// Files that replace those in the root: host path to inside path (`/etc/hosts` and so on).
    pub files: Vec<Bind>,
}

/// A path of the host and where it is shown.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bind {
    /// The path on the host.
    pub from: PathBuf,
    /// The path inside.
    pub to: PathBuf,
    /// Whether it can be written to. Whoever is root inside writes as root of the host then, in
    /// this file or directory, unless the host's ids are the space's.
    #[serde(default)]
    pub writable: bool,
}

impl Bind {
    /// Shows `from` at `to`, read-only.
    pub fn read_only(from: impl Into<PathBuf>, to: impl Into<PathBuf>) -> Self {
        Self { from: from.into(), to: to.into(), writable: false }
    }
}

/// Directories on which windows are attached from outside: `/.serverfs`, `/.dserverfs`, `/.serverproc`
/// and `/.servertrace`, in file systems of ours that nobody inside can write to.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Places {
    /// The directories in `/.serverfs`, each for one view.
    pub views: Vec<String>,
    /// Whether there will be anything in them that must not be opened for writing.
    pub used: bool,
}

/// One seccomp rule: what happens to a call whose arguments meet all conditions.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rule {
    /// The number of the call.
    pub syscall: i64,
    /// All must hold.
    pub conditions: Vec<Condition>,
    /// What happens then.
    pub action: RuleAction,
}

/// One condition on one argument.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Condition {
    /// Which argument, from 0.
    pub argument: u8,
    /// How it is compared.
    pub compare: Compare,
    /// With what.
    pub value: u64,
}

/// How an argument is compared. [`Compare::Masked`] and [`Compare::NotNull`] look at all of it, the
/// others at its lower 32 bits alone, as the kernel does with C `int`s.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compare {
    /// Equal.
    Equal,
    /// Not equal.
    NotEqual,
    /// Greater or equal.
    AtLeast,
    /// The bits of the mask are equal to the value.
    Masked(u64),
    /// A pointer that is not null; the value does not matter.
    NotNull,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RuleAction {
    /// The broker answers.
    Notify,
    /// The call fails with this errno.
    Errno(u16),
}

/// What the agent says to a builder after its configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToBuilder {
    /// It is in its cgroup now.
    Placed,
    /// Whoever answers its notifications is listening: run the command.
    Go,
}

/// What a builder says to the agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum FromBuilder {
    /// The space's init has this process id on the host.
    Forked {
        /// The process id.
        pid: i32,
    },
    /// Everything is in place. The seccomp listener comes along where rules notify.
    Ready(Enforced),
    /// A step failed; nothing of the space runs.
    Failed {
        /// Which step, with its object.
        step: String,
        /// Why.
        cause: String,
    },
}

/// What keeps the space shut, as it was really put in place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enforced {
    /// Landlock's state: `full`, or why not.
    pub landlock: String,
    /// How many system calls the allow-list lets through.
    pub syscalls_allowed: usize,
    /// Whether calls are brokered.
    pub brokered: bool,
    /// Capabilities left, over nothing but the space's own user namespace.
    pub capabilities: Vec<String>,
    /// The file systems that each mount is made of, by its path.
    #[serde(default)]
    pub mounts: BTreeMap<String, Vec<String>>,
}
