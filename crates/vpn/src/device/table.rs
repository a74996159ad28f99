//! The peers of one VPN and this host's keys, and how changed lists of them are taken over.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::host::{Choice, Host, Line, PeerState};
use super::identity::Identity;
use super::trie::Trie;
use crate::keys::PublicKey;
use crate::peer::Peer;

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

/// All peers, by what a packet may name them with.
#[derive(Default)]
pub struct Table {
    own: Vec<Arc<Identity>>,
    hosts: Vec<Arc<Host>>,
    /// By each of their keys.
    by_key: HashMap<PublicKey, Arc<Host>>,
    by_index: HashMap<u32, Arc<PeerState>>,
    by_address: Trie<Arc<Host>>,
}

impl Table {
    /// One without peers, for a host with these keys.
    pub fn new(own: Vec<Arc<Identity>>) -> Self {
        Self { own, ..Self::default() }
    }

    /// This host's keys: the one in use, and the next where there is one.
    pub fn own(&self) -> &[Arc<Identity>] {
        &self.own
    }

    /// The host that has this public key.
    pub fn host(&self, key: &PublicKey) -> Option<&Arc<Host>> {
        self.by_key.get(key)
    }

    /// The state between a key of ours and one of theirs.
    pub fn by_keys(&self, own: &Identity, theirs: &[u8; 32]) -> Option<&Arc<PeerState>> {
        let theirs = PublicKey::from_bytes(*theirs);
        self.by_key.get(&theirs)?.between(own.key(), theirs)
    }

    /// The peer with which we have this session or handshake.
    pub fn by_index(&self, receiver: u32) -> Option<&Arc<PeerState>> {
        self.by_index.get(&(receiver >> 8))
    }

    /// The host that this inner address belongs to.
    pub fn by_address(&self, address: IpAddr) -> Option<&Arc<Host>> {
        self.by_address.get(address)
    }

    /// What was said about all of them last, in the order of keys.
    pub fn wanted(&self) -> Vec<Peer> {
        let mut wanted: Vec<_> = self.hosts.iter().map(|host| host.wanted.clone()).collect();
        wanted.sort_by_key(|peer| peer.public_key);
        wanted
    }

    /// All hosts.
    pub fn hosts(&self) -> &[Arc<Host>] {
        &self.hosts
    }

    /// The table that these lists ask for: who was a peer keeps its sessions, whoever is not in the
    /// list is gone with them, and so is what was agreed with a key that is gone. Nothing of `self`
    /// changes unless the lists are taken.
    pub fn with(&self, own: Vec<Arc<Identity>>, peers: Vec<Peer>) -> Result<Self, Refused> {
        check(&peers, &own)?;
        let mut taken: HashSet<u32> = self.by_index.keys().copied().collect();
        let mut made = Vec::with_capacity(peers.len());
        for peer in peers {
            let before = self.before(&peer);
            made.push((make(before, peer, &own, &mut taken)?, before));
        }
        let mut table = Self::new(own);
        for (host, before) in made {
            host.take_over(before.map(|before| &**before));
            table.add(Arc::new(host));
        }
        Ok(table)
    }

    /// What a peer was. The state machine takes its preshared key when it is made: one with another
    /// is another peer.
    fn before(&self, peer: &Peer) -> Option<&Arc<Host>> {
        let host = peer.keys().find_map(|key| self.by_key.get(&key))?;
        (host.wanted.preshared == peer.preshared).then_some(host)
    }

    fn add(&mut self, host: Arc<Host>) {
        for network in &host.wanted.allowed {
            self.by_address.insert(network.trunc(), Arc::clone(&host));
        }
        for line in &host.lines {
            self.by_index.insert(line.peer.index, Arc::clone(&line.peer));
        }
        for key in host.wanted.keys() {
            self.by_key.insert(key, Arc::clone(&host));
        }
        self.hosts.push(host);
    }

    /// Notes where the peer with this key is, whatever was known.
    pub fn place(&self, key: &PublicKey, address: SocketAddr) {
        if let Some(host) = self.by_key.get(key) {
            host.place(Some(address.into()));
        }
    }
}

fn check(peers: &[Peer], own: &[Arc<Identity>]) -> Result<(), Refused> {
    let (mut keys, mut owners) = (HashSet::new(), HashMap::new());
    for peer in peers {
        for key in peer.keys() {
            if own.iter().any(|own| own.key() == key) {
                return Err(Refused::OwnKey(key));
            }
            if !keys.insert(key) {
                return Err(Refused::SameKey(key));
            }
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

/// A host with a state for each of our keys and each of its, those that were there before and others.
fn make(
    before: Option<&Arc<Host>>,
    peer: Peer,
    own: &[Arc<Identity>],
    taken: &mut HashSet<u32>,
) -> Result<Host, Refused> {
    let choice = before.map_or_else(Arc::<Choice>::default, |before| Arc::clone(&before.choice));
    let mut lines = Vec::new();
    for (ours, identity) in own.iter().enumerate() {
        for (theirs, key) in peer.keys().enumerate() {
            let known = before.and_then(|before| before.between(identity.key(), key)).cloned();
            let peer = match known {
                Some(known) => known,
                None => {
                    let index = new_index(taken).map_err(|_| Refused::Random(key))?;
                    let preshared = peer.preshared.as_ref();
                    Arc::new(PeerState::new(identity, key, preshared, index, &choice))
                }
            };
            lines.push(Line { ours, theirs, peer });
        }
    }
    Ok(Host { wanted: peer, lines, choice })
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
