//! The data path without its sockets: packets of the inside become datagrams, datagrams become
//! packets of the inside, time becomes handshakes and keepalives.
//!
//! Whoever does not authenticate gets no answer (but for a cookie under load, and only when the
//! handshake message proves that its sender knows our public key); what is dropped is counted by
//! reason.

mod clock;
mod inbound;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use defguard_boringtun::noise::TunnResult;

use super::host::Host;
use super::identity::Identity;
use super::outbox::{Endpoint, Outbox};
use super::table::{Refused, Table};
use crate::keys::{PublicKey, SecretKey};
use crate::offload::{self, Header, ecn};
use crate::peer::Peer;
use crate::status::{Drops, PeerStatus, Reason};

/// How long to wait for others' batches before looking again; most take less.
const BATCH: Duration = Duration::from_micros(200);

/// The first byte of a handshake's first message.
const INITIATION: u8 = 1;

/// One VPN's peers and keys.
pub struct Engine {
    /// Held for as long as it takes to copy or exchange a pointer: once for each batch of packets.
    table: RwLock<Arc<Table>>,
    /// Held by whoever makes another table.
    changing: Mutex<()>,
    drops: Drops,
}

/// How a datagram came.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// From where, and to which of our addresses.
    pub from: Endpoint,
    /// Whether a router on the way has marked it (RFC 3168).
    pub congested: bool,
}

impl Engine {
    /// One without peers.
    pub fn new(secret: SecretKey) -> Self {
        let table = Table::new(vec![Arc::new(Identity::new(secret))]);
        Self {
            table: RwLock::new(Arc::new(table)),
            changing: Mutex::default(),
            drops: Drops::default(),
        }
    }

    /// Our key in use.
    pub fn secret(&self) -> SecretKey {
        self.table().own()[0].secret.clone()
    }

    /// Our public key in use.
    pub fn public_key(&self) -> PublicKey {
        self.table().own()[0].key()
    }

    /// The public key that we are changing to.
    pub fn next_key(&self) -> Option<PublicKey> {
        self.table().own().get(1).map(|next| next.key())
    }

    /// Notes where peers are, whatever was known.
    pub fn place(&self, peers: &[(PublicKey, SocketAddr)]) {
        let table = self.table();
        peers.iter().for_each(|(key, address)| table.place(key, *address));
    }

    /// What was dropped and belongs to no peer.
    pub fn drops(&self) -> &Drops {
        &self.drops
    }

    /// Replaces the list of peers. When this returns, no packet of a removed peer is let through
    /// any more; who stays keeps its session. The data path goes on meanwhile.
    pub fn set_peers(&self, peers: Vec<Peer>) -> Result<(), Refused> {
        self.change_peers(|_| Ok(peers))
    }

    /// As [`Self::set_peers`], with what `change` makes of the list as it is, in the order of keys.
    pub fn change_peers<E: From<Refused>>(
        &self,
        change: impl FnOnce(Vec<Peer>) -> Result<Vec<Peer>, E>,
    ) -> Result<(), E> {
        self.change(|before| {
            let peers = change(before.wanted())?;
            Ok(before.with(before.own().to_vec(), peers)?)
        })
    }

    /// Makes these our keys, the one in use first. Sessions that were agreed with one that stays go
    /// on; those of one that does not are gone with it when this returns. No key is no change.
    pub fn set_keys(&self, keys: Vec<SecretKey>) -> Result<(), Refused> {
        if keys.is_empty() {
            return Ok(());
        }
        self.change(|before| {
            let own = keys.into_iter().map(|secret| {
                let known = before.own().iter().find(|own| own.key() == secret.public());
                known.cloned().unwrap_or_else(|| Arc::new(Identity::new(secret)))
            });
            before.with(own.collect(), before.wanted())
        })
    }

    fn change<E>(&self, change: impl FnOnce(&Table) -> Result<Table, E>) -> Result<(), E> {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.table();
        let after = Arc::new(change(&before)?);
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = after;
        // Batches that began with the old table end soon: each waits for nobody for long.
        while Arc::strong_count(&before) > 1 {
            std::thread::sleep(BATCH);
        }
        Ok(())
    }

    /// All peers' states, by public key.
    pub fn peers(&self) -> Vec<PeerStatus> {
        let mut peers: Vec<_> = self.table().hosts().iter().map(|host| host.status()).collect();
        peers.sort_by_key(|p| p.public_key);
        peers
    }

    /// The peers as they are now: for one batch, so that removed ones are soon forgotten.
    pub fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// A packet from the inside, as its virtio header describes it; used up by splitting. Returns an
    /// error for its sender where it has to be cut up on its way: it goes out all the same.
    pub fn outbound(
        &self,
        table: &Table,
        header: &Header,
        packet: &mut [u8],
        outbox: &mut Outbox<'_>,
    ) -> Option<Vec<u8>> {
        let Some(destination) = offload::destination(packet) else {
            self.drops.count(Reason::BadOutbound);
            return None;
        };
        let Some(host) = table.by_address(destination) else {
            self.drops.count(Reason::NoPeer);
            return None;
        };
        let peer = &host.in_use().peer;
        let mut guard = peer.live();
        let live = &mut *guard;
        let Some(endpoint) = live.endpoint else {
            peer.drops.count(Reason::NoEndpoint);
            return None;
        };
        let mut error = None;
        let sent = offload::split(header, packet, |segment| {
            let marks = ecn::outside(segment);
            if let Some(mtu) = live.path.takes(segment.len())
                && error.is_none()
            {
                error = offload::too_big(segment, mtu);
            }
            let result = live.tunnel.encapsulate(segment, outbox.room());
            // Without a session the packet waits in the state machine, and a handshake goes out.
            if let TunnResult::WriteToNetwork(datagram) = result {
                let length = datagram.len();
                outbox.push_marked(endpoint, length, marks);
            }
        });
        live.last_sent = Instant::now();
        if sent.is_err() {
            peer.drops.count(Reason::BadOutbound);
        }
        error.inspect(|_| live.path.told())
    }

    /// Where peers are, as far as that is known.
    pub fn places(&self) -> HashSet<SocketAddr> {
        let table = self.table();
        let lines = table.hosts().iter().flat_map(|host| &host.lines);
        lines.filter_map(|line| Some(line.peer.live().endpoint?.address)).collect()
    }

    /// Peers, at most `most`, of whose way it is time to ask how large packets may be, and where they
    /// are.
    pub fn paths_to_ask(&self, now: Instant, most: usize) -> Vec<(PublicKey, SocketAddr)> {
        let due = |host: &Arc<Host>| {
            let peer = &host.in_use().peer;
            let mut live = peer.live();
            let at = live.endpoint?.address;
            live.path.tick(now).then_some((peer.public_key, at))
        };
        self.table().hosts().iter().filter_map(due).take(most).collect()
    }

    /// The network has said how large packets to a peer may be, where it is; `None` as all that come.
    pub fn path_found(&self, key: &PublicKey, at: SocketAddr, limit: Option<usize>) {
        let table = self.table();
        for line in table.host(key).into_iter().flat_map(|host| &host.lines) {
            let mut live = line.peer.live();
            if live.endpoint.is_some_and(|endpoint| endpoint.address == at) {
                live.path.found(limit);
            }
        }
    }
}

#[cfg(test)]
mod tests;
