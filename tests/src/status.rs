//! What `hyperspector status --json` prints, as far as the tests read it.

use serde::Deserialize;

/// All of it.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    /// The host's name.
    pub host: String,
    /// Its agent, where one runs.
    pub agent: Option<Agent>,
    /// The guard of its packet windows, where there are any.
    pub guard: Option<Agent>,
    /// Its servers.
    #[serde(default)]
    pub servers: Vec<Server>,
    /// Its HyperSpectors.
    #[serde(default)]
    pub hyperspectors: Vec<Hyperspector>,
}

/// An agent, or another process of ours.
#[derive(Clone, Debug, Deserialize)]
pub struct Agent {
    /// Its process id.
    pub pid: i32,
}

/// A server.
#[derive(Clone, Debug, Deserialize)]
pub struct Server {
    /// Its name.
    pub name: String,
    /// Why it is not there, where it is not.
    pub reason: Option<String>,
    /// Why its files are not shown as its leading process sees them, where they are not.
    pub distrust: Option<String>,
    /// How its server space is, where it is one.
    pub space: Option<ServerSpace>,
    /// The journal of its changes, where somebody watches them.
    pub changes: Option<serde_json::Value>,
}

/// A server space.
#[derive(Clone, Debug, Deserialize)]
pub struct ServerSpace {
    /// `running`, `waiting`, `starting`, `failed` or `stopped`.
    pub state: String,
    /// The command's process id on the host, while it runs.
    pub pid: Option<i32>,
    /// The init's process id on the host.
    pub init_pid: Option<i32>,
    /// How often the command was started again.
    pub restarts: u64,
    /// Why it is in this state.
    pub reason: Option<String>,
    /// The last lines that it printed, where it failed.
    pub last_lines: Vec<String>,
    /// The ports that it may bind.
    pub ports: Vec<String>,
    /// What its port guard has refused.
    pub refused: serde_json::Value,
    /// The first of the host's ids that its own are.
    pub first_id: Option<u32>,
}

/// One HyperSpector.
#[derive(Clone, Debug, Deserialize)]
pub struct Hyperspector {
    /// Its name.
    pub name: String,
    /// Its VPN here.
    pub vpn: Option<Vpn>,
    /// Its portspaces here.
    #[serde(default)]
    pub portspaces: Vec<Portspace>,
}

/// A VPN.
#[derive(Clone, Debug, Deserialize)]
pub struct Vpn {
    /// `kernel` or `embedded`; `none` where there are no other hosts.
    pub backend: String,
    /// This host's public key.
    pub public_key: Option<String>,
    /// The one that it changes to.
    #[serde(default)]
    pub next_key: Option<String>,
    /// Whether it has changed its key, and the spec has the old one too.
    #[serde(default)]
    pub key_was_changed: bool,
    /// Why it does not work.
    #[serde(default)]
    pub failure: Option<String>,
    /// The UDP port.
    pub listen_port: Option<u16>,
    /// The embedded one's process.
    pub pid: Option<i32>,
    /// How often it was started again.
    #[serde(default)]
    pub restarts: u64,
    /// The other hosts.
    #[serde(default)]
    pub peers: Vec<Peer>,
    /// Datagrams that were no use, of whatever kind.
    #[serde(default)]
    pub dropped: serde_json::Value,
}

impl Vpn {
    /// How many datagrams were dropped, all kinds together.
    pub fn dropped(&self) -> u64 {
        match &self.dropped {
            serde_json::Value::Object(kinds) => kinds.values().filter_map(|v| v.as_u64()).sum(),
            other => other.as_u64().unwrap_or(0),
        }
    }
}

/// Another host of a HyperSpector.
#[derive(Clone, Debug, Deserialize)]
pub struct Peer {
    /// Its name.
    pub host: String,
    /// Seconds since the last handshake.
    pub last_handshake_seconds: Option<u64>,
    /// How many handshakes there were.
    #[serde(default)]
    pub handshakes: u64,
    /// For how long it has not answered.
    #[serde(default)]
    pub silent_seconds: Option<u64>,
    /// How long the answer to a handshake took.
    #[serde(default)]
    pub round_trip_ms: Option<u64>,
    /// The greatest packet that reaches it whole, where the way takes less than the spec's.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// Where it was heard last.
    pub endpoint: Option<String>,
    /// Whether it has taken this host's next key.
    #[serde(default)]
    pub knows_next_key: Option<bool>,
    /// Whether it uses its own next key.
    #[serde(default)]
    pub uses_next_key: Option<bool>,
    /// Bytes that came from it.
    #[serde(default)]
    pub received_bytes: u64,
    /// Bytes that went to it.
    #[serde(default)]
    pub sent_bytes: u64,
}

/// A portspace.
#[derive(Clone, Debug, Deserialize)]
pub struct Portspace {
    /// `HYPERSPECTOR/PORTSPACE`.
    pub name: String,
    /// Its address.
    pub address: String,
    /// Its host name.
    pub hostname: String,
    /// `running`, `waiting`, `starting`, `failed` or `stopped`.
    pub state: String,
    /// The command's process id on the host, while it runs.
    pub pid: Option<i32>,
    /// The init's process id on the host.
    pub init_pid: Option<i32>,
    /// How often the command was started again.
    #[serde(default)]
    pub restarts: u64,
    /// Why it is in this state.
    #[serde(default)]
    pub reason: Option<String>,
    /// The last lines that it printed, where it failed.
    #[serde(default)]
    pub last_lines: Vec<String>,
    /// Everything else.
    #[serde(flatten)]
    pub rest: serde_json::Map<String, serde_json::Value>,
}

impl Portspace {
    /// The process id of its broker, where it has one.
    pub fn broker(&self) -> Option<i32> {
        self.rest.get("windows")?.get("broker_pid")?.as_i64()?.try_into().ok()
    }
}

impl Status {
    /// The portspace of this name.
    pub fn portspace(&self, name: &str) -> Option<&Portspace> {
        self.hyperspectors.iter().flat_map(|h| &h.portspaces).find(|p| p.name == name)
    }

    /// The server space of this name.
    pub fn server_space(&self, name: &str) -> Option<&ServerSpace> {
        self.servers.iter().find(|server| server.name == name)?.space.as_ref()
    }

    /// The HyperSpector of this name.
    pub fn hyperspector(&self, name: &str) -> Option<&Hyperspector> {
        self.hyperspectors.iter().find(|h| h.name == name)
    }
}
