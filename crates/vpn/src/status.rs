//! What a VPN says about itself; the same for both backends.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

use crate::keys::PublicKey;

/// One VPN's state on one host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Which implementation carries it.
    pub backend: Backend,
    /// This host's public key.
    pub public_key: PublicKey,
    /// The one that it is changing to. The kernel's has one alone.
    #[serde(default)]
    pub next_key: Option<PublicKey>,
    /// Which work is done for many packets at a time.
    pub offload: Offload,
    /// What the embedded data path gave up before it read its first datagram; `None` for the
    /// kernel's.
    pub enforced: Option<Enforced>,
    /// Packets that were dropped and belong to no peer. Empty for the kernel's, which does not tell.
    pub drops: BTreeMap<Reason, u64>,
    /// The peers, by public key.
    pub peers: Vec<PeerStatus>,
}

/// One peer's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its public key.
    pub public_key: PublicKey,
    /// Where it was last heard from, or else where it was said to be.
    pub endpoint: Option<SocketAddr>,
    /// Seconds since the session in use was agreed; `None` where there is none.
    pub last_handshake: Option<u64>,
    /// How long the answer to the last handshake that this host began took, in milliseconds. The
    /// kernel's does not tell.
    #[serde(default)]
    pub round_trip_ms: Option<u64>,
    /// The greatest packet inside, in bytes, that reaches it without being cut up on the way, where
    /// that is less than the interface's. The kernel's does not look.
    #[serde(default)]
    pub mtu: Option<usize>,
    /// Bytes received from it, as on the wire without UDP and IP headers.
    pub rx_bytes: u64,
    /// Bytes sent to it, likewise.
    pub tx_bytes: u64,
    /// Between which keys the session in use was agreed; `None` where none was yet.
    #[serde(default)]
    pub keys: Option<SessionKeys>,
    /// Packets to and from it that were dropped.
    pub drops: BTreeMap<Reason, u64>,
}

impl Status {
    /// The state of the peer that has these keys, of which the kernel has one for each.
    pub fn peer(&self, keys: &[PublicKey]) -> Option<PeerStatus> {
        let find = |key: &PublicKey| {
            let found = self.peers.binary_search_by_key(key, |peer| peer.public_key);
            found.ok().and_then(|at| self.peers.get(at))
        };
        let mut all: Vec<_> = keys.iter().filter_map(find).collect();
        all.sort_by_key(|peer| peer.last_handshake.unwrap_or(u64::MAX));
        let mut peer = (*all.first()?).clone();
        for other in &all[1..] {
            peer.rx_bytes += other.rx_bytes;
            peer.tx_bytes += other.tx_bytes;
        }
        Some(peer)
    }
}

/// The keys that a session was agreed between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionKeys {
    /// This host's.
    pub ours: PublicKey,
    /// The peer's.
    pub theirs: PublicKey,
}

/// Which WireGuard it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// The kernel's.
    Kernel,
    /// The one inside this program.
    Embedded,
}

/// Work that is done for many packets at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offload {
    /// TCP packets of up to 64 KiB go through the tunnel's interface (TSO, GRO).
    pub tcp: bool,
    /// So do bundles of UDP packets (USO, Linux 6.2).
    pub udp: bool,
    /// One call sends many datagrams (UDP_SEGMENT).
    pub send: bool,
    /// One call receives many datagrams (UDP_GRO).
    pub receive: bool,
}

/// What the worker gave up, each as read back after giving it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enforced {
    /// The user that it runs as.
    pub uid: u32,
    /// The group; there are no others.
    pub gid: u32,
    /// System calls that are allowed; every other one ends the process.
    pub system_calls: u32,
    /// Whether its memory, keys included, is kept from swap. May be refused in a container.
    pub memory_locked: bool,
}

/// Why a packet was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// A datagram that is no message of the protocol.
    Malformed,
    /// A handshake message from somebody who does not know our public key.
    BadMac,
    /// A handshake message under load, answered with a cookie; or one more than can wait.
    UnderLoad,
    /// A message of a host or session that is not known.
    UnknownPeer,
    /// A handshake message that does not authenticate, or is a repetition.
    BadHandshake,
    /// A data message for a session that is over.
    NoSession,
    /// A data message that does not authenticate.
    BadTag,
    /// A data message that came before, or far too late.
    Replay,
    /// A packet from the peer whose source address is not one of the peer's.
    WrongSource,
    /// A packet from the peer that is no IP packet, or says to be longer than it is.
    BadInner,
    /// A packet from the inside that is no good IP packet.
    BadOutbound,
    /// A packet from the inside to an address that no peer has.
    NoPeer,
    /// A packet from the inside to a peer that never said where it is.
    NoEndpoint,
    /// The system could not send the datagram.
    SendFailed,
    /// The inside did not take the packet: the interface is down or its queue is full.
    InsideFailed,
    /// A datagram that only asks the network how large one may be. Not a loss.
    SizeProbe,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::Malformed,
        Self::BadMac,
        Self::UnderLoad,
        Self::UnknownPeer,
        Self::BadHandshake,
        Self::NoSession,
        Self::BadTag,
        Self::Replay,
        Self::WrongSource,
        Self::BadInner,
        Self::BadOutbound,
        Self::NoPeer,
        Self::NoEndpoint,
        Self::SendFailed,
        Self::InsideFailed,
        Self::SizeProbe,
    ];
}

/// Counters of dropped packets that many threads add to.
#[derive(Debug, Default)]
pub struct Drops([AtomicU64; Reason::ALL.len()]);

impl Drops {
    /// Counts one packet.
    pub fn count(&self, reason: Reason) {
        self.add(reason, 1);
    }

    /// Counts several packets.
    pub fn add(&self, reason: Reason, packets: u64) {
        self.0[reason as usize].fetch_add(packets, Relaxed);
    }

    /// The reasons that occurred.
    pub fn snapshot(&self) -> BTreeMap<Reason, u64> {
        let counts = Reason::ALL.into_iter().map(|r| (r, self.0[r as usize].load(Relaxed)));
        counts.filter(|&(_, count)| count > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_found_by_any_of_its_keys() {
        let key = |number: u8| PublicKey::from_bytes([number; 32]);
        let peer = |number: u8, last_handshake: Option<u64>| PeerStatus {
            public_key: key(number),
            endpoint: None,
            last_handshake,
            round_trip_ms: None,
            mtu: None,
            rx_bytes: number.into(),
            tx_bytes: 1,
            keys: None,
            drops: BTreeMap::new(),
        };
        let status = Status {
            backend: Backend::Kernel,
            public_key: key(9),
            next_key: None,
            offload: Offload::default(),
            enforced: None,
            drops: BTreeMap::new(),
            peers: vec![peer(1, None), peer(2, Some(70)), peer(3, Some(7))],
        };
        let found = status.peer(&[key(2), key(3)]).unwrap();
        assert_eq!((found.public_key, found.rx_bytes, found.tx_bytes), (key(3), 5, 2));
        assert_eq!(status.peer(&[key(1), key(8)]).unwrap().public_key, key(1));
        assert_eq!(status.peer(&[key(8)]), None);
    }

    #[test]
    fn every_reason_has_its_own_counter() {
        let drops = Drops::default();
        for (i, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, i);
            drops.add(reason, i as u64 + 1);
        }
        let snapshot = drops.snapshot();
        assert_eq!(snapshot.len(), Reason::ALL.len());
        assert_eq!(snapshot[&Reason::InsideFailed], 15);
    }

    #[test]
    fn counts_go_through_json_by_name() {
        let drops = Drops::default();
        drops.count(Reason::WrongSource);
        let json = serde_json::to_string(&drops.snapshot()).unwrap();
        assert_eq!(json, r#"{"wrong-source":1}"#);
        let back: BTreeMap<Reason, u64> = serde_json::from_str(&json).unwrap();
        assert_eq!(back, drops.snapshot());
    }
}
