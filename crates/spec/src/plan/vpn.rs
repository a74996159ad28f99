//! A HyperSpector's VPN on one host: its peers, and what its hub lets through.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::Ports;

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
