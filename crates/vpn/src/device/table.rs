//! The peers of one VPN, and how a changed list of them is taken over.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use defguard_boringtun::noise::Tunn;
use defguard_boringtun::noise::rate_limiter::RateLimiter;

use super::outbox::Endpoint;
use super::path::Path;
use super::trie::Trie;
use crate::keys::{PublicKey, SecretKey};
use crate::peer::Peer;
use crate::status::{Drops, PeerStatus};

/// Why a list of peers is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A key occurs twice.
    #[error("two peers have the public key {0}")]
    SameKey(PublicKey),
    /// The key is this host's own.
    #[error("the peer {0} has this host's own key")]
    OwnKey(PublicKey),
    /// A network occurs twice.
    #[error("two peers have the address {0}")]
    SameAddress(ipnet::IpNet),
    /// The kernel gave no random bytes.
    #[error("no random number for the peer {0}")]
    Random(PublicKey),
}

/// One peer, for as long as it is one.
pub struct PeerState {
    /// Its public key.
    pub public_key: PublicKey,
    /// The upper 24 bits of the session indices that are ours with it.
    pub index: u32,
    /// What was dropped of its packets.
    pub drops: Drops,
    live: Mutex<Live>,
}

/// What changes while a peer is one.
pub struct Live {
    /// The protocol's state: handshake, sessions, timers.
    pub tunnel: Tunn,
    /// Where it is.
    pub endpoint: Option<Endpoint>,
    /// How large packets may be on the way there.
    pub path: Path,
    /// When something was last sent to it.
    pub last_sent: Instant,
    /// What the agent said about it.
    pub wanted: Peer,
}

impl PeerState {
    /// Its changing part, for this thread alone.
    pub fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a session or handshake of this index is with it.
    pub fn has_index(&self, receiver: u32) -> bool {
        self.index == receiver >> 8
    }

    /// Its state for `status`.
    pub fn status(&self) -> PeerStatus {
        let live = self.live();
        let (age, tx, rx, _, round_trip) = live.tunnel.stats();
        PeerStatus {
            public_key: self.public_key,
            endpoint: live.endpoint.map(|e| e.address),
            last_handshake: age.map(|age| age.as_secs()),
            round_trip_ms: round_trip.map(u64::from),
            mtu: live.path.limit(),
            rx_bytes: rx as u64,
            tx_bytes: tx as u64,
            drops: self.drops.snapshot(),
        }
    }
}

/// All peers, by what a packet may name them with.
#[derive(Default)]
pub struct Table {
    by_key: HashMap<PublicKey, Arc<PeerState>>,
    by_index: HashMap<u32, Arc<PeerState>>,
    by_address: Trie<Arc<PeerState>>,
}

impl Table {
    /// The peer with this public key.
    pub fn by_key(&self, key: &[u8; 32]) -> Option<&Arc<PeerState>> {
        self.by_key.get(&PublicKey::from_bytes(*key))
    }

    /// The peer with which we have this session or handshake.
    pub fn by_index(&self, receiver: u32) -> Option<&Arc<PeerState>> {
        self.by_index.get(&(receiver >> 8))
    }

    /// The peer that this inner address belongs to.
    pub fn by_address(&self, address: IpAddr) -> Option<&Arc<PeerState>> {
        self.by_address.get(address)
    }

    /// What was said about all of them last, in the order of keys.
    pub fn wanted(&self) -> Vec<Peer> {
        let mut wanted: Vec<_> = self.peers().map(|peer| peer.live().wanted.clone()).collect();
        wanted.sort_by_key(|peer| peer.public_key);
        wanted
    }

    /// All peers, in no order.
    pub fn peers(&self) -> impl Iterator<Item = &Arc<PeerState>> {
        self.by_key.values()
    }

    /// The table that `peers` ask for: who was a peer keeps its session, whoever is not in the list
    /// is gone with it. Nothing of `self` changes unless the list is taken.
    pub fn with_peers(
        &self,
        peers: Vec<Peer>,
        secret: &SecretKey,
        limiter: &Arc<RateLimiter>,
    ) -> Result<Self, Refused> {
        check(&peers, secret.public())?;
        let mut taken: HashSet<u32> = self.by_index.keys().copied().collect();
        let mut states = Vec::with_capacity(peers.len());
        for peer in peers {
            // The state machine takes its preshared key when it is made: another one is another peer.
            let known = self.by_key.get(&peer.public_key);
            let known = known.filter(|known| known.live().wanted.preshared == peer.preshared);
            let known = known.cloned();
            let state = match known {
                Some(state) => state,
                None => new_state(&peer, secret, limiter, &mut taken)?,
            };
            states.push((state, peer));
        }
        let mut table = Self::default();
        for (state, peer) in states {
            table.add(state, peer);
        }
        Ok(table)
    }

    fn add(&mut self, state: Arc<PeerState>, peer: Peer) {
        for network in &peer.allowed {
            self.by_address.insert(network.trunc(), Arc::clone(&state));
        }
        state.live().want(peer);
        self.by_key.insert(state.public_key, Arc::clone(&state));
        self.by_index.insert(state.index, state);
    }
}

impl Live {
    /// Takes over what the agent says. An endpoint that it repeats does not undo a move that the
    /// peer has made since.
    fn want(&mut self, peer: Peer) {
        let before = std::mem::replace(&mut self.wanted, peer);
        if let Some(address) =
            self.wanted.endpoint.filter(|_| before.endpoint != self.wanted.endpoint)
        {
            self.heard_from(address.into());
        }
    }

    /// Notes where it is: where an authenticated datagram came from.
    pub fn heard_from(&mut self, from: Endpoint) {
        if self.endpoint.is_none_or(|before| before.address != from.address) {
            self.path = Path::default();
        }
        self.endpoint = Some(from);
    }
}

fn check(peers: &[Peer], own: PublicKey) -> Result<(), Refused> {
    let (mut keys, mut owners) = (HashSet::new(), HashMap::new());
    for peer in peers {
        if peer.public_key == own {
            return Err(Refused::OwnKey(own));
        }
        if !keys.insert(peer.public_key) {
            return Err(Refused::SameKey(peer.public_key));
        }
        for network in peer.allowed.iter().map(ipnet::IpNet::trunc) {
            // A peer that has it twice does no harm.
            if owners.insert(network, peer.public_key).is_some_and(|o| o != peer.public_key) {
                return Err(Refused::SameAddress(network));
            }
        }
    }
    Ok(())
}

fn new_state(
    peer: &Peer,
    secret: &SecretKey,
    limiter: &Arc<RateLimiter>,
    taken: &mut HashSet<u32>,
) -> Result<Arc<PeerState>, Refused> {
    let index = new_index(taken).map_err(|_| Refused::Random(peer.public_key))?;
    let theirs = x25519_dalek::PublicKey::from(*peer.public_key.as_bytes());
    let own = secret.secret().clone();
    // The keepalive is ours to send: the state machine's cannot be changed later.
    let preshared = peer.preshared.as_ref().map(|key| *key.as_bytes());
    let tunnel = Tunn::new(own, theirs, preshared, None, index, Some(Arc::clone(limiter)));
    let live = Live {
        tunnel,
        endpoint: peer.endpoint.map(Endpoint::from),
        path: Path::default(),
        last_sent: Instant::now(),
        wanted: peer.clone(),
    };
    Ok(Arc::new(PeerState {
        public_key: peer.public_key,
        index,
        drops: Drops::default(),
        live: Mutex::new(live),
    }))
}

/// A random index of 24 bits that no other peer has, so that indices tell nothing.
fn new_index(taken: &mut HashSet<u32>) -> Result<u32, getrandom::Error> {
    loop {
        let mut bytes = [0; 4];
        getrandom::fill(&mut bytes)?;
        let index = u32::from_ne_bytes(bytes) >> 8;
        if taken.insert(index) {
            return Ok(index);
        }
    }
}
