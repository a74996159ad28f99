//! How things are on one host: what `hyperspector status --json` prints.

use hyperspector_space::config::Enforced;
use hyperspector_space::control::{End, State};
use hyperspector_spec::plan::{Ids, Limits};
use hyperspector_vpn::hub::Refused;
use hyperspector_window::ports::Counts;
use hyperspector_window::sockets::SourceStatus;
use hyperspector_window::syscalls::tracer::ReaderStatus;
use serde::{Deserialize, Serialize};

/// One host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HostStatus {
    /// Its name in the spec.
    pub host: String,
    /// The agent; `None` when none runs and this was found without it.
    pub agent: Option<AgentStatus>,
    /// The guard of the packet windows, where there are any.
    pub guard: Option<GuardStatus>,
    /// What is watched here, by name.
    #[serde(default)]
    pub servers: Vec<ServerStatus>,
    /// The HyperSpectors that have a part here.
    pub hyperspectors: Vec<HyperspectorStatus>,
}

/// The agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Its process id.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// Its memory, in bytes.
    pub memory_bytes: Option<u64>,
}

/// The guard that stops portspaces from transmitting.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GuardStatus {
    /// Its process id.
    pub pid: i32,
    /// The interfaces that it guards.
    pub interfaces: Vec<String>,
    /// How many packets it has dropped.
    pub dropped: u64,
}

/// A server that is watched.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServerStatus {
    /// Its name.
    pub name: String,
    /// What it is, for people.
    pub kind: String,
    /// The process that its views are taken from; `None` while it is down, and for directories.
    pub pid: Option<i32>,
    /// Its cgroup, where it has one of its own.
    pub cgroup: Option<std::path::PathBuf>,
    /// How often it was found: goes up with every restart.
    pub starts: u64,
    /// Why it is not there, where it is not.
    pub reason: Option<String>,
    /// Why its files are not shown as its first process sees them, and what is shown instead: it has
    /// made a place of its own, which somebody who breaks in does to hide files.
    #[serde(default)]
    pub distrust: Option<String>,
    /// The worker that writes down what is known of its processes.
    #[serde(default)]
    pub facts_pid: Option<i32>,
    /// What reads its sockets, where a portspace wants that.
    #[serde(default)]
    pub tee: Option<TeeStatus>,
    /// What records its system calls, where a portspace wants that.
    #[serde(default)]
    pub tracer: Option<TracerStatus>,
    /// How its server space is, where it is one.
    pub space: Option<ServerSpaceStatus>,
    /// The journal of what changes on it, where somebody watches that.
    #[serde(default)]
    pub changes: Option<ChangesStatus>,
}

/// The journal of what changes on a server.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ChangesStatus {
    /// Its worker's process id.
    pub pid: Option<i32>,
    /// How many changed paths it knows.
    pub entries: usize,
    /// What it takes on disk, in bytes.
    pub bytes: usize,
    /// The number of the last change.
    pub head: u64,
    /// How often it had to say that everything is to be scanned, since it began.
    pub gaps: u64,
    /// Why the last time.
    pub last_gap: Option<String>,
    /// How many events of the kernel it has looked at.
    pub events: u64,
    /// How often the kernel's queue overflowed.
    pub overflows: u64,
    /// Places whose changes cannot be watched, with the reason: they are scanned every time.
    pub unwatched: Vec<String>,
    /// Why it is not kept, where it is not.
    pub failure: Option<String>,
}

/// A server's tee.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct TeeStatus {
    /// The process id of its keeper.
    pub keeper_pid: Option<i32>,
    /// Its own process id.
    pub pid: Option<u32>,
    /// How often one of the two was started again.
    pub restarts: u64,
    /// Why it does not run, where it does not.
    pub problem: Option<String>,
    /// The sockets that it reads.
    pub sockets: Vec<SourceStatus>,
}

/// A server's tracer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct TracerStatus {
    /// Its process id.
    pub pid: Option<i32>,
    /// How often it was started again.
    pub restarts: u64,
    /// Why it does not run, where it does not.
    pub problem: Option<String>,
    /// How many calls it has recorded.
    pub recorded: u64,
    /// How many records were lost in the kernel, by processor.
    pub lost: std::collections::BTreeMap<u32, u64>,
    /// How many connections were refused.
    pub refused: u64,
    /// Its memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// How much it may have with that of its programs in the kernel, in bytes; `None` where the host
    /// does not limit that.
    #[serde(default)]
    pub memory_limit_bytes: Option<u64>,
}

/// A portspace's window on a server's system calls.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SyscallStatus {
    /// The server.
    pub server: String,
    /// The files in the portspace that they are written to.
    pub texts: Vec<std::path::PathBuf>,
    /// Who reads.
    pub readers: Vec<ReaderStatus>,
    /// Why nothing comes, where that is known.
    pub problem: Option<String>,
}

/// A portspace's window on a socket.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SocketStatus {
    /// The server.
    pub server: String,
    /// The socket's path, as the server sees it.
    pub path: std::path::PathBuf,
    /// Where the reader listens.
    pub to: std::path::PathBuf,
    /// Messages that were put into its queue.
    pub accepted: u64,
    /// Messages that it has taken.
    pub delivered: u64,
    /// Messages, or of a stream bytes, that were lost since its queue was full.
    pub lost: u64,
    /// Bytes that wait in its queue.
    pub waiting_bytes: u64,
    /// Why nothing comes, where that is known.
    pub problem: Option<String>,
}

/// One server space.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServerSpaceStatus {
    /// How it is, as any space.
    #[serde(flatten)]
    pub space: SpaceStatus,
    /// The ports that it may bind.
    pub ports: Vec<String>,
    /// Those of them that any program of the host can have by chance, since the kernel gives them to
    /// whoever asks for any port.
    #[serde(default)]
    pub given_by_chance: Vec<String>,
    /// Services on the host's loopback addresses that it may not reach.
    pub deny: Vec<String>,
    /// What its port guard has refused; `None` where that could not be asked.
    pub refused: Option<Counts>,
    /// The first of the host's ids that its own ids are; `None` where they are the host's.
    pub first_id: Option<u32>,
}

/// One HyperSpector's part.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HyperspectorStatus {
    /// Its name.
    pub name: String,
    /// Its VPN.
    pub vpn: VpnStatus,
    /// Its portspaces.
    pub portspaces: Vec<PortspaceStatus>,
}

/// One VPN.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct VpnStatus {
    /// `kernel`, `embedded`, or `none` for a HyperSpector on one host.
    pub backend: String,
    /// Why it does not work, where it does not.
    pub failure: Option<String>,
    /// The process id of the embedded one.
    pub pid: Option<i32>,
    /// This host's public key.
    pub public_key: Option<String>,
    /// The one that it is changing to, while not all other hosts know that.
    #[serde(default)]
    pub next_key: Option<String>,
    /// Whether it has changed its key, and the spec still has the old one too.
    #[serde(default)]
    pub key_was_changed: bool,
    /// Its UDP port in the host's network.
    pub listen_port: Option<u16>,
    /// The other hosts.
    pub peers: Vec<PeerStatus>,
    /// Datagrams and packets that were dropped, by reason.
    pub dropped: std::collections::BTreeMap<String, u64>,
    /// How often it was started again after it had died.
    pub restarts: u64,
}

/// Another host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its name in the spec.
    pub host: String,
    /// Where it was heard last, or is expected.
    pub endpoint: Option<String>,
    /// Seconds since the last handshake.
    pub last_handshake_seconds: Option<u64>,
    /// How many sessions were agreed with it while this agent looked.
    #[serde(default)]
    pub handshakes: u64,
    /// For how long it has not answered what was sent to it, where it does not.
    #[serde(default)]
    pub silent_seconds: Option<u64>,
    /// How long the answer to the last handshake took, in milliseconds; known to whoever began that,
    /// with the embedded VPN alone.
    #[serde(default)]
    pub round_trip_ms: Option<u64>,
    /// The greatest packet inside that reaches it whole, in bytes, where the way there takes less than
    /// the spec's `mtu`; known to the embedded VPN alone.
    #[serde(default)]
    pub mtu: Option<usize>,
    /// Bytes from it.
    pub received_bytes: u64,
    /// Bytes to it.
    pub sent_bytes: u64,
    /// Packets from and to it that were dropped, by reason.
    #[serde(default)]
    pub dropped: std::collections::BTreeMap<String, u64>,
    /// Whether it has taken this host's next key, where there is one.
    #[serde(default)]
    pub knows_next_key: Option<bool>,
    /// Whether it uses its own next key here, where the spec has one.
    #[serde(default)]
    pub uses_next_key: Option<bool>,
    /// The addresses that may come from it.
    pub allowed: Vec<String>,
}

/// One portspace.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PortspaceStatus {
    /// `HYPERSPECTOR/PORTSPACE`.
    pub name: String,
    /// Its address.
    pub address: std::net::Ipv4Addr,
    /// What it may send over the VPN, in bits per second; `None` is without a limit.
    #[serde(default)]
    pub rate: Option<u64>,
    /// What its hub refused, in packets; `None` where that could not be asked.
    #[serde(default)]
    pub refused: Option<Refused>,
    /// How it is, as any space.
    #[serde(flatten)]
    pub space: SpaceStatus,
    /// Its windows.
    pub windows: WindowsStatus,
}

/// One space of either kind.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SpaceStatus {
    /// What it calls itself.
    pub hostname: String,
    /// What its command is doing.
    pub state: State,
    /// The command.
    pub command: Vec<String>,
    /// The command's process id on the host, while it runs.
    pub pid: Option<i32>,
    /// Its init's process id on the host.
    pub init_pid: Option<i32>,
    /// Since when it is in this state, in milliseconds since 1970.
    pub since_ms: u64,
    /// How often the command was started again.
    pub restarts: u64,
    /// The period of a periodic command, in seconds.
    pub every_seconds: Option<u64>,
    /// How its last run ended.
    pub last_end: Option<End>,
    /// Why it does not run.
    pub reason: Option<String>,
    /// The last lines that it printed, where it failed.
    pub last_lines: Vec<String>,
    /// When it is started next, in milliseconds since 1970.
    pub next_ms: Option<u64>,
    /// How its ids relate to the host's.
    pub ids: Ids,
    /// What it may use.
    pub limits: Limits,
    /// What it uses.
    pub usage: Usage,
    /// What keeps it shut.
    pub enforced: Enforced,
    /// Which limits could not be put in place.
    pub limits_missing: Vec<String>,
    /// Protections that it does not have and that the spec lets it go without, with the reason.
    #[serde(default)]
    pub missing: Vec<String>,
}

/// What a space uses.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Memory now, in bytes.
    pub memory_bytes: Option<u64>,
    /// Processor time, in microseconds.
    pub cpu_us: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// A view of a server's files.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ViewStatus {
    /// The file systems that it is made of, each with its place.
    pub shown: Vec<String>,
    /// What the server has mounted of the kernel's own data, which is left out.
    pub pseudo: Vec<String>,
    /// What is left out, not hidden, or shown otherwise than it should be, with the reason.
    pub notes: Vec<String>,
    /// Why it shows nothing, where it shows nothing.
    pub empty: Option<String>,
}

/// A portspace's windows.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct WindowsStatus {
    /// Interfaces whose packets it sees.
    pub packets: Vec<String>,
    /// The broker's process id.
    pub broker_pid: Option<i32>,
    /// What the broker says of itself.
    pub broker: Option<serde_json::Value>,
    /// Servers whose files it sees.
    pub files: Vec<String>,
    /// How each of their views is.
    #[serde(default)]
    pub views: std::collections::BTreeMap<String, ViewStatus>,
    /// Servers whose changes it sees.
    #[serde(default)]
    pub changes: Vec<String>,
    /// Servers whose processes it sees.
    #[serde(default)]
    pub processes: Vec<String>,
    /// Sockets of servers whose messages it gets.
    #[serde(default)]
    pub sockets: Vec<SocketStatus>,
    /// Servers whose system calls it sees.
    #[serde(default)]
    pub syscalls: Vec<SyscallStatus>,
}
