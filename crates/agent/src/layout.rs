//! Where things are: one directory for what lasts, one for what a restart of the machine ends.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use hyperspector_spec::plan::PortspaceName;
use serde::{Deserialize, Serialize};

/// The name of a space on this host: `HYPERSPECTOR/PORTSPACE`, or a server's own name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpaceName {
    /// A server space.
    Server(String),
    /// A portspace.
    Portspace(PortspaceName),
}

impl std::fmt::Display for SpaceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Server(name) => f.write_str(name),
            Self::Portspace(name) => name.fmt(f),
        }
    }
}

impl From<&PortspaceName> for SpaceName {
    fn from(name: &PortspaceName) -> Self {
        Self::Portspace(name.clone())
    }
}

impl From<PortspaceName> for SpaceName {
    fn from(name: PortspaceName) -> Self {
        Self::Portspace(name)
    }
}

/// The directories of one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Keys, upper layers, logs.
    pub state: PathBuf,
    /// Sockets, namespaces, records of what runs.
    pub run: PathBuf,
}

impl Layout {
    /// Makes the two directories, for root alone, and takes their real paths.
    pub fn prepare(state: &Path, run: &Path) -> io::Result<Self> {
        for path in [state, run] {
            private_dir(path)?;
        }
        Ok(Self { state: fs::canonicalize(state)?, run: fs::canonicalize(run)? })
    }

    /// The layout of an agent that may never have run: nothing is made.
    pub fn existing(state: &Path, run: &Path) -> Self {
        let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        Self { state: real(state), run: real(run) }
    }

    /// A short name for this agent among all of a machine, from its run directory. What runs goes by
    /// it, so later versions have to come to the same.
    pub fn instance(&self) -> String {
        format!("{:08x}", fnv1a(self.run.as_os_str().as_bytes()))
    }

    /// The agent's control socket.
    pub fn socket(&self) -> PathBuf {
        self.run.join("agent.sock")
    }

    /// The file that a living agent holds a lock on.
    pub fn lock(&self) -> PathBuf {
        self.run.join("agent.lock")
    }

    /// The agent's own messages.
    pub fn agent_log(&self) -> PathBuf {
        self.state.join("agent.log")
    }

    /// The plan that was applied last.
    pub fn plan(&self) -> PathBuf {
        self.run.join("plan.json")
    }

    /// The BPF file system that keeps links.
    pub fn bpf(&self) -> PathBuf {
        self.run.join("bpf")
    }

    /// The record of the guard.
    pub fn guard(&self) -> PathBuf {
        self.run.join("guard.json")
    }

    /// The guard's socket.
    pub fn guard_socket(&self) -> PathBuf {
        self.run.join("guard.sock")
    }

    /// The private key of a HyperSpector.
    pub fn key(&self, hyperspector: &str) -> PathBuf {
        self.state.join("keys").join(format!("{hyperspector}.key"))
    }

    /// The private key that a HyperSpector's is being changed to.
    pub fn next_key(&self, hyperspector: &str) -> PathBuf {
        self.state.join("keys").join(format!("{hyperspector}.next.key"))
    }

    /// The hosts that a secret is shared with.
    pub fn shared(&self, hyperspector: &str) -> PathBuf {
        self.state.join("keys").join(format!("{hyperspector}.shared"))
    }

    /// The secret that this host may share with another beside their keys.
    pub fn preshared(&self, hyperspector: &str, host: &str) -> PathBuf {
        self.state.join("keys").join(format!("{hyperspector}.{host}.psk"))
    }

    /// Where the run-time things of all HyperSpectors are.
    pub fn hyperspectors(&self) -> PathBuf {
        self.run.join("hs")
    }

    /// Where the run-time things of one HyperSpector are.
    pub fn hyperspector(&self, name: &str) -> HyperspectorDir {
        HyperspectorDir(self.hyperspectors().join(name))
    }

    /// Where the facts of all servers are.
    pub fn all_facts(&self) -> PathBuf {
        self.run.join("facts")
    }

    /// The facts of one server.
    pub fn facts(&self, server: &str) -> FactsDir {
        FactsDir(self.all_facts().join(server))
    }

    /// Where the tees of all servers are.
    pub fn tees(&self) -> PathBuf {
        self.run.join("tees")
    }

    /// The tee of one server.
    pub fn tee(&self, server: &str) -> TeeDir {
        TeeDir(self.tees().join(server))
    }

    /// Where the tracers of all servers are.
    pub fn tracers(&self) -> PathBuf {
        self.run.join("tracers")
    }

    /// The tracer of one server.
    pub fn tracer(&self, server: &str) -> TracerDir {
        TracerDir(self.tracers().join(server))
    }

    /// Where the sockets of tracers are, by portspace.
    pub fn all_trace_sockets(&self) -> PathBuf {
        self.run.join("trace")
    }

    /// The sockets of tracers that one portspace sees. No name holds a dot.
    pub fn trace_sockets(&self, name: &PortspaceName) -> PathBuf {
        self.all_trace_sockets().join(format!("{}.{}", name.hyperspector, name.portspace))
    }

    /// Where the run-time things of all server spaces are.
    pub fn servers(&self) -> PathBuf {
        self.run.join("sv")
    }

    /// The files of one server space.
    pub fn server(&self, name: &str) -> SpaceDir {
        SpaceDir { run: self.servers().join(name), state: self.server_states().join(name) }
    }

    /// Where what lasts of all server spaces is.
    pub fn server_states(&self) -> PathBuf {
        self.state.join("servers")
    }

    /// The files of one space.
    pub fn space(&self, name: &SpaceName) -> SpaceDir {
        match name {
            SpaceName::Portspace(name) => self.portspace(name),
            SpaceName::Server(name) => self.server(name),
        }
    }

    /// The files of one portspace.
    pub fn portspace(&self, name: &PortspaceName) -> SpaceDir {
        let run = self.hyperspector(&name.hyperspector).0.join("ps").join(&name.portspace);
        SpaceDir { run, state: self.portspace_state(name) }
    }

    /// Where what lasts of one portspace is.
    pub fn portspace_state(&self, name: &PortspaceName) -> PathBuf {
        self.state.join("portspaces").join(&name.hyperspector).join(&name.portspace)
    }

    /// Where the run-time things of all journals are.
    pub fn journals(&self) -> PathBuf {
        self.run.join("journals")
    }

    /// Where what lasts of all journals is.
    pub fn journal_states(&self) -> PathBuf {
        self.state.join("journals")
    }

    /// The files of the journal of what changes on a server.
    pub fn journal(&self, server: &str) -> JournalDir {
        JournalDir { run: self.journals().join(server), state: self.journal_states().join(server) }
    }

    /// The cgroup of a space, relative to the hierarchies' roots. No HyperSpector's name holds a dot.
    pub fn cgroup(&self, name: &SpaceName) -> PathBuf {
        match name {
            SpaceName::Portspace(name) => {
                self.cgroup_base().join(&name.hyperspector).join(&name.portspace)
            }
            SpaceName::Server(name) => self.servers_cgroup().join(name),
        }
    }

    /// The cgroup above all server spaces, relative to the hierarchies' roots.
    pub fn servers_cgroup(&self) -> PathBuf {
        self.cgroup_base().join(".servers")
    }

    /// The cgroup above all of this agent's, relative to the hierarchies' roots.
    pub fn cgroup_base(&self) -> PathBuf {
        Path::new("hyperspector").join(self.instance())
    }

    /// The cgroup of workers, relative to the hierarchies' roots. No HyperSpector's name holds a
    /// dot.
    pub fn workers_cgroup(&self) -> PathBuf {
        self.cgroup_base().join(".workers")
    }

    /// The cgroup below which each tracer has one of its own, relative to the hierarchies' roots.
    pub fn tracers_cgroup(&self) -> PathBuf {
        self.cgroup_base().join(".tracers")
    }
}

/// The tee of one server.
#[derive(Clone, Debug)]
pub struct TeeDir(pub PathBuf);

impl TeeDir {
    /// The record of the tee.
    pub fn record(&self) -> PathBuf {
        self.0.join("record.json")
    }

    /// The keeper's control socket.
    pub fn control(&self) -> PathBuf {
        self.0.join("keeper.sock")
    }

    /// Where the tee waits for another keeper, when its own has died.
    pub fn successor(&self) -> PathBuf {
        self.0.join("tee.sock")
    }
}

/// The tracer of one server.
#[derive(Clone, Debug)]
pub struct TracerDir(pub PathBuf);

impl TracerDir {
    /// The record of the tracer.
    pub fn record(&self) -> PathBuf {
        self.0.join("record.json")
    }

    /// Its control socket.
    pub fn control(&self) -> PathBuf {
        self.0.join("tracer.sock")
    }

    /// The directory that becomes its root.
    pub fn empty(&self) -> PathBuf {
        self.0.join("empty")
    }
}

/// The facts of one server.
#[derive(Clone, Debug)]
pub struct FactsDir(pub PathBuf);

impl FactsDir {
    /// The record of the facts worker.
    pub fn record(&self) -> PathBuf {
        self.0.join("record.json")
    }

    /// The directory that it writes in, and that portspaces see.
    pub fn out(&self) -> PathBuf {
        self.0.join("out")
    }
}

/// The run-time things of one HyperSpector.
#[derive(Clone, Debug)]
pub struct HyperspectorDir(pub PathBuf);

impl HyperspectorDir {
    /// The hub's network namespace.
    pub fn hub(&self) -> PathBuf {
        self.0.join("hub")
    }

    /// What the hub was made for.
    pub fn network(&self) -> PathBuf {
        self.0.join("network.json")
    }

    /// The control socket of the embedded VPN.
    pub fn vpn_socket(&self) -> PathBuf {
        self.0.join("vpn.sock")
    }

    /// The record of the HyperSpector.
    pub fn record(&self) -> PathBuf {
        self.0.join("record.json")
    }
}

/// The files of one journal.
#[derive(Clone, Debug)]
pub struct JournalDir {
    /// What a restart of the machine ends.
    pub run: PathBuf,
    /// The journal itself.
    pub state: PathBuf,
}

impl JournalDir {
    /// The record of its worker.
    pub fn record(&self) -> PathBuf {
        self.run.join("record.json")
    }

    /// Its worker's socket.
    pub fn socket(&self) -> PathBuf {
        self.run.join("journal.sock")
    }
}

/// The files of one space.
#[derive(Clone, Debug)]
pub struct SpaceDir {
    /// What a restart of the machine ends.
    pub run: PathBuf,
    /// What lasts.
    pub state: PathBuf,
}

impl SpaceDir {
    /// A portspace's network namespace.
    pub fn network(&self) -> PathBuf {
        self.run.join("network")
    }

    /// Its init's control socket.
    pub fn control(&self) -> PathBuf {
        self.run.join("init.sock")
    }

    /// A portspace's broker's control socket.
    pub fn broker_socket(&self) -> PathBuf {
        self.run.join("broker.sock")
    }

    /// What its init reports.
    pub fn report(&self) -> PathBuf {
        self.run.join("report.json")
    }

    /// The agent's record of it.
    pub fn record(&self) -> PathBuf {
        self.run.join("record.json")
    }

    /// The directory that its root is put together on.
    pub fn staging(&self) -> PathBuf {
        self.run.join("staging")
    }

    /// A file that replaces one of `/etc`.
    pub fn etc(&self, name: &str) -> PathBuf {
        self.state.join("etc").join(name)
    }

    /// The directory of its layers.
    pub fn layers(&self) -> PathBuf {
        self.state.join("layers")
    }

    /// What is on its way out.
    pub fn trash(&self) -> PathBuf {
        self.state.join("trash")
    }

    /// Its two log files.
    pub fn logs(&self) -> [PathBuf; 2] {
        [self.state.join("log.0"), self.state.join("log.1")]
    }
}

/// The 32-bit FNV-1a hash.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// Makes a directory and those above it, for root alone.
pub fn private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_s_name_never_changes() {
        let layout = Layout { state: "/var/lib/hyperspector".into(), run: "foobar".into() };
        // From the list of test vectors of FNV-1a, 32 bit.
        assert_eq!(layout.instance(), "bf9cf968");
    }
}
