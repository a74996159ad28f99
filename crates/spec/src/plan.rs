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

pub use diff::{Change, Changes, HyperspectorChange, PeerChange, PortspaceChange, VpnChange, diff};

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
    /// The HyperSpectors that have a part here, by name.
    pub hyperspectors: Vec<HyperspectorPlan>,
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
    /// Its portspaces on this host, by name.
    pub portspaces: Vec<PortspacePlan>,
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
    /// The other hosts of this HyperSpector, by name.
    pub peers: Vec<PeerPlan>,
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
    /// Where to reach it: a name or an address, and the UDP port; `None` for a host that only
    /// calls, from behind NAT.
    pub endpoint: Option<(String, u16)>,
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
    /// Paths of its own root that it does not get to see.
    pub mask: Vec<PathBuf>,
    /// Files and directories of the host that it gets to see read-only, beside its root.
    pub mounts: Vec<Mount>,
    /// What it may use.
    pub limits: Limits,
    /// What it sees of servers.
    pub windows: Windows,
    /// How long it has to end after being asked to, in seconds.
    pub stop_grace: u32,
    /// Protections that may be missing on this kernel without that being an error.
    pub allow_missing: Vec<Protection>,
}

/// What lies under a portspace's root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Root {
    /// The base system's own root.
    Base,
    /// A directory of the host that holds a root file system.
    Directory(PathBuf),
}

/// How a portspace's user ids relate to the host's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ids {
    /// A range of its own; views are shifted so that owners look right.
    #[default]
    Private,
    /// The host's ids, without any capability outside.
    Host,
}

/// When a portspace's command runs.
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

/// A path of the host, read-only inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where it is on the host.
    pub from: PathBuf,
    /// Where it is inside.
    pub to: PathBuf,
}

/// What a portspace may use. `None` is no limit.
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
    /// Where its files are.
    pub source: FileSource,
    /// Absolute paths, as the server sees them, that are hidden.
    pub mask: Vec<PathBuf>,
}

/// Where a server's files are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileSource {
    /// The base system: the host's whole tree, without pseudo file systems.
    Base,
    /// A directory of the host.
    Directory(PathBuf),
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
