//! The plan: the resources that one host should have, worked out from the spec and the host's name.
//!
//! A plan is a plain value that can be compared, stored and sent; the agent makes the system equal
//! to it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

mod diff;
mod show;

pub use diff::{
    Change, Changes, HyperspectorChange, PeerChange, PortspaceChange, ServerChange, VpnChange, diff,
};

/// The name of a portspace on a host: `HYPERSPECTOR/PORTSPACE`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortspaceName {
    /// The HyperSpector that it belongs to.
    pub hyperspector: String,
    /// Its own name there.
    pub portspace: String,
}

impl fmt::Display for PortspaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.hyperspector, self.portspace)
    }
}

/// Everything that one host should have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPlan {
    /// This host's name in the spec.
    pub host: String,
    /// The servers of this host, by name: server spaces, and adopted ones that some portspace here
    /// watches; `base` is among them where it is watched.
    #[serde(default)]
    pub servers: Vec<ServerPlan>,
    /// The HyperSpectors that have a part here, by name.
    pub hyperspectors: Vec<HyperspectorPlan>,
}

impl HostPlan {
    /// The server of that name.
    pub fn server(&self, name: &str) -> Option<&ServerPlan> {
        self.servers.iter().find(|server| server.name == name)
    }
}

/// What is watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerPlan {
    /// Its name.
    pub name: String,
    /// Absolute paths, as the server sees them, that every window on it hides.
    pub mask: Vec<PathBuf>,
    /// How it comes to run.
    pub kind: ServerKind,
}

/// How a server comes to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServerKind {
    /// In a server space of ours.
    Space(Box<ServerSpacePlan>),
    /// By somebody else's doing: it is found, and left as it is.
    Adopted(Adoption),
}

/// How a server that is not ours is found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Adoption {
    /// The base system: the host's whole tree and all its processes.
    Base,
    /// A directory of the host: files alone, no processes.
    Directory(PathBuf),
    /// A systemd unit, with its suffix: `nginx.service`.
    Unit(String),
    /// A container of Docker, Podman, containerd, CRI-O, runc or crun, by name or id.
    Container(String),
    /// A cgroup, relative to the hierarchies' roots, without a leading `/`.
    Cgroup(PathBuf),
    /// The process whose id is in this file, and its descendants.
    PidFile(PathBuf),
}

/// A server space: like a portspace, but on the host's network, with only its registered ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerSpacePlan {
    /// What it is made of.
    pub space: SpacePlan,
    /// The ports that it may bind.
    pub ports: Vec<Ports>,
    /// Services on the host's loopback addresses that it may not reach.
    pub deny: Vec<Ports>,
}

/// A range of ports of one protocol, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ports {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
}

impl Ports {
    /// Whether some port is in both.
    pub fn meets(self, other: Self) -> bool {
        self.protocol == other.protocol && self.first <= other.last && other.first <= self.last
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        write!(f, "{protocol}/{}", self.first)?;
        if self.last > self.first { write!(f, "-{}", self.last) } else { Ok(()) }
    }
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// This host's part of one HyperSpector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HyperspectorPlan {
    /// Its name.
    pub name: String,
    /// Its VPN on this host.
    pub vpn: VpnPlan,
    /// What each address in the HyperSpector is called, on every host: `nids.web1`, and `nids` alone
    /// where just one host has it.
    pub names: Vec<(Ipv4Addr, Vec<String>)>,
    /// Who may talk to whom.
    #[serde(default)]
    pub policy: Policy,
    /// Its portspaces on this host, by name.
    pub portspaces: Vec<PortspacePlan>,
}

impl HyperspectorPlan {
    /// The portspaces on this host by name, each with its address.
    pub fn ports(&self) -> Vec<(&str, Ipv4Addr)> {
        self.portspaces.iter().map(|one| (one.name.portspace.as_str(), one.address)).collect()
    }
}

/// What one host's hub lets through, and how much of it. What is not named is not let through.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Whether everybody may reach everybody.
    pub everything: bool,
    /// The flows that have an end on this host; none where everything is let through.
    pub flows: Vec<Flow>,
    /// What each portspace of this host may send over the VPN, in bits per second, by name; one that
    /// is not in it has no limit.
    pub rates: BTreeMap<String, u64>,
}

/// What one address may begin with another; answers are let through with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Flow {
    /// Who begins.
    pub from: Ipv4Addr,
    /// Who answers.
    pub to: Ipv4Addr,
    /// What it may reach there.
    pub open: Open,
    /// Whether it goes before others.
    pub priority: bool,
}

/// What may be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Open {
    /// All of TCP and UDP, and ping.
    Everything,
    /// Echo requests.
    Ping,
    /// Some ports.
    Ports(Ports),
}

/// One HyperSpector's VPN on one host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VpnPlan {
    /// The networks that the HyperSpector's addresses come from; they never overlap.
    pub networks: Vec<Ipv4Net>,
    /// The UDP port in the host's own network.
    pub listen_port: u16,
    /// Which implementation is wanted.
    pub backend: VpnBackend,
    /// The greatest packet inside the VPN, in bytes.
    pub mtu: u32,
    /// This host's public key as the spec has it (base64); `None` where the host has no peers and
    /// no key was given.
    pub public_key: Option<String>,
    /// The second one, where the spec has two: it is changing from one to the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_key: Option<String>,
    /// The other hosts of this HyperSpector, by name.
    pub peers: Vec<PeerPlan>,
}

impl VpnPlan {
    /// This host's public keys as the spec has them, at most two.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.public_key.as_deref().into_iter().chain(self.next_key.as_deref())
    }
}

impl PeerPlan {
    /// Its public keys, one or two.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&*self.public_key).chain(self.next_key.as_deref())
    }
}

/// Which WireGuard carries a VPN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VpnBackend {
    /// The kernel's where it has one, else the embedded one.
    #[default]
    Auto,
    /// The kernel's; an error where it has none.
    Kernel,
    /// The one inside this program.
    Embedded,
}

/// Another host in a HyperSpector's VPN.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerPlan {
    /// The host's name in the spec.
    pub host: String,
    /// Its public key, base64 of 32 bytes.
    pub public_key: String,
    /// The second one, where the spec has two: either is the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_key: Option<String>,
    /// Where to reach it, what to try first first: names or addresses, with their UDP ports; none for
    /// a host that only calls, from behind NAT.
    #[serde(default)]
    pub endpoints: Vec<(String, u16)>,
    /// The addresses that may come from it: one for each of its portspaces.
    pub allowed: Vec<Ipv4Net>,
    /// Seconds between keepalives, where they are wanted.
    pub keepalive: Option<u16>,
}

/// One portspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortspacePlan {
    /// Its name.
    pub name: PortspaceName,
    /// Its address in the HyperSpector's network.
    pub address: Ipv4Addr,
    /// What it is made of.
    pub space: SpacePlan,
    /// What it sees of servers.
    pub windows: Windows,
}

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
