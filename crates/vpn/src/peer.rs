//! A peer as the data paths want it: keys parsed, names resolved.

use std::net::SocketAddr;

use hyperspector_spec::plan::PeerPlan;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::keys::{KeyError, PublicKey};
use crate::preshared::PresharedKey;

/// Another host of the HyperSpector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its public key.
    pub public_key: PublicKey,
    /// Another one, while it changes from one to the other: either is the peer.
    #[serde(default)]
    pub next_key: Option<PublicKey>,
    /// Where to reach it first; it may turn up elsewhere later. `None` for one that calls itself.
    pub endpoint: Option<SocketAddr>,
    /// The addresses that may come from it, and that are sent to it.
    pub allowed: Vec<IpNet>,
    /// Seconds between keepalives, where they are wanted.
    pub keepalive: Option<u16>,
    /// A secret that is mixed into every handshake, where there is one.
    pub preshared: Option<PresharedKey>,
}

impl Peer {
    /// One of whom nothing is known but its key.
    pub fn new(public_key: PublicKey) -> Self {
        let (next_key, endpoint, keepalive, preshared) = (None, None, None, None);
        Self { public_key, next_key, endpoint, allowed: Vec::new(), keepalive, preshared }
    }

    /// Its key, and its next where it has one.
    pub fn keys(&self) -> impl Iterator<Item = PublicKey> {
        std::iter::once(self.public_key).chain(self.next_key)
    }

    /// From the plan, with the endpoint's name resolved by the caller.
    pub fn from_plan(plan: &PeerPlan, endpoint: Option<SocketAddr>) -> Result<Self, KeyError> {
        Ok(Self {
            public_key: plan.public_key.parse()?,
            next_key: plan.next_key.as_deref().map(str::parse).transpose()?,
            endpoint,
            allowed: plan.allowed.iter().copied().map(IpNet::V4).collect(),
            keepalive: plan.keepalive.filter(|&seconds| seconds > 0),
            preshared: None,
        })
    }
}
