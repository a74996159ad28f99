//! The plan: the resources that one host should have, worked out from the spec and the host's name.
//!
//! A plan is a plain value that can be compared, stored and sent; the agent makes the system equal
//! to it.

use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

mod diff;
mod server;
mod show;
mod space;
mod vpn;
mod window;

pub use diff::{
    Change, Changes, HyperspectorChange, PeerChange, PortspaceChange, ServerChange, VpnChange, diff,
};
pub use server::{Adoption, ServerKind, ServerPlan, ServerSpacePlan};
pub use space::{Ids, Limits, Mount, Protection, Restart, Root, Run, SpacePlan};
pub use vpn::{Flow, Open, PeerPlan, Policy, VpnBackend, VpnPlan};
pub use window::{
    FileWindow, PacketWindow, SocketKind, SocketWindow, SyscallText, SyscallWindow, TextForm,
    Windows,
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
