//! The data path without its sockets: packets of the inside become datagrams, datagrams become
//! packets of the inside, time becomes handshakes and keepalives.
//!
//! Whoever does not authenticate gets no answer (but for a cookie under load, and only when the
//! handshake message proves that its sender knows our public key); what is dropped is counted by
//! reason.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use defguard_boringtun::noise::errors::WireGuardError;
use defguard_boringtun::noise::handshake::parse_handshake_anon;
use defguard_boringtun::noise::{Packet, TunnResult};

use super::host::{Host, Live, PeerState};
use super::identity::Identity;
use super::outbox::{Endpoint, Outbox};
use super::scout;
use super::table::{Refused, Table};
use crate::keys::{PublicKey, SecretKey};
use crate::offload::{self, Bundle, Header, ecn};
use crate::peer::Peer;
use crate::status::{Drops, PeerStatus, Reason};

/// The counter from which on a data message is refused (the protocol's REJECT_AFTER_MESSAGES).
/// The state machine does not look, and its replay window is not made for the last numbers.
const LAST_COUNTER: u64 = u64::MAX - (1 << 13);

/// How long to wait for others' batches before looking again; most take less.
const BATCH: Duration = Duration::from_micros(200);

/// The first byte of a handshake's first message.
const INITIATION: u8 = 1;

/// The shortest packets of the inside: bare IPv4 and IPv6 headers.
const SHORTEST: (usize, usize) = (20, 40);

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

/// A peer that this thread has locked, for as long as datagrams of it follow each other.
struct Held<'t> {
    peer: &'t Arc<PeerState>,
    live: MutexGuard<'t, Live>,
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

    /// Datagrams from the wire that came together. Packets for the inside go to `bundle`, answers
    /// to `outbox`.
    pub fn inbound<'d>(
        &self,
        table: &Table,
        datagrams: impl Iterator<Item = &'d [u8]>,
        came: Arrival,
        outbox: &mut Outbox<'_>,
        bundle: &mut Bundle,
    ) {
        let mut held = None;
        for datagram in datagrams {
            let outcome = match verified(table, datagram, came.from, outbox) {
                Ok((_, Packet::PacketData(message))) => {
                    self.data(table, &mut held, message.receiver_idx, datagram, came, bundle)
                }
                Ok((own, packet)) => {
                    held = None;
                    handshake(table, own, &packet, datagram, came.from, outbox)
                }
                Err(reason) => Err(reason),
            };
            if let Err(reason) = outcome {
                self.drops.count(reason);
            }
        }
    }

    /// A data message. An error belongs to no peer.
    fn data<'t>(
        &self,
        table: &'t Table,
        held: &mut Option<Held<'t>>,
        receiver: u32,
        datagram: &[u8],
        came: Arrival,
        bundle: &mut Bundle,
    ) -> Result<(), Reason> {
        if held.as_ref().is_none_or(|held| !held.peer.has_index(receiver)) {
            // First: who holds one peer and waits for another may wait for ever.
            *held = None;
            let peer = table.by_index(receiver).ok_or(Reason::UnknownPeer)?;
            *held = Some(Held { peer, live: peer.live() });
        }
        if let Some(held) = held
            && let Err(reason) = from_peer(table, held, datagram, came, bundle)
        {
            held.peer.drops.count(reason);
        }
        Ok(())
    }

    /// What time alone brings: handshakes sent again, keepalives, keys forgotten. To be called a few
    /// times a second.
    pub fn tick(&self, outbox: &mut Outbox<'_>) {
        let table = self.table();
        table.own().iter().for_each(|own| own.limiter.reset_count());
        table.hosts().iter().for_each(|host| tick(host, outbox));
        outbox.flush();
    }

    /// Starts a session with every peer whose place is known and with which there is none: it may
    /// still be sending to one that we have forgotten, which it notices only after 15 seconds.
    pub fn greet(&self, outbox: &mut Outbox<'_>) {
        for host in self.table().hosts() {
            let mut live = host.in_use().peer.live();
            if live.endpoint.is_some() && live.tunnel.time_since_last_handshake().is_none() {
                let sent = live.keepalive(outbox.room());
                push(&mut live, outbox, sent);
            }
            drop(live);
            call(&host.to_try(true), outbox);
        }
        outbox.flush();
    }
}

/// What time brings for one host.
fn tick(host: &Host, outbox: &mut Outbox<'_>) {
    let in_use = &host.in_use().peer;
    for line in &host.lines {
        let is_in_use = Arc::ptr_eq(&line.peer, in_use);
        let mut live = line.peer.live();
        let sent = match live.tunnel.update_timers(outbox.room()) {
            TunnResult::WriteToNetwork(datagram) => Some((datagram.len(), datagram[0])),
            _ => None,
        };
        match sent {
            // Lines that are not in use are not kept up: they end with their sessions.
            Some((_, INITIATION)) if !is_in_use => {}
            Some((length, kind)) => {
                push(&mut live, outbox, Some(length));
                live.unanswered += u32::from(kind == INITIATION);
            }
            None => {}
        }
        let is_due = is_in_use && live.keepalive_is_due(host.wanted.keepalive);
        if is_due || (is_in_use && host.lags()) {
            let sent = live.keepalive(outbox.room());
            push(&mut live, outbox, sent);
            // Also when nothing could be sent: the next try is an interval away.
            live.last_sent = Instant::now();
        }
    }
    call(&host.to_try(false), outbox);
}

/// Begins a handshake on each of these lines, whatever was begun before.
fn call(lines: &[&Arc<PeerState>], outbox: &mut Outbox<'_>) {
    for line in lines {
        let mut live = line.live();
        let sent = match live.tunnel.format_handshake_initiation(outbox.room(), true) {
            TunnResult::WriteToNetwork(datagram) => Some(datagram.len()),
            _ => None,
        };
        push(&mut live, outbox, sent);
    }
}

/// Sends a message of the peer's state machine that was written to the outbox's room.
fn push(live: &mut Live, outbox: &mut Outbox<'_>, length: Option<usize>) {
    if let (Some(length), Some(endpoint)) = (length, live.endpoint) {
        outbox.push(endpoint, length);
        live.last_sent = Instant::now();
    }
}

impl Live {
    fn keepalive_is_due(&self, interval: Option<u16>) -> bool {
        let interval = interval.filter(|_| self.endpoint.is_some());
        interval.is_some_and(|s| self.last_sent.elapsed() >= Duration::from_secs(s.into()))
    }

    /// Writes an empty data message, or a handshake where there is no session.
    fn keepalive(&mut self, room: &mut [u8]) -> Option<usize> {
        let result = if self.tunnel.time_since_last_handshake().is_some() {
            self.tunnel.encapsulate(&[], room)
        } else {
            self.tunnel.format_handshake_initiation(room, false)
        };
        match result {
            TunnResult::WriteToNetwork(datagram) => Some(datagram.len()),
            _ => None,
        }
    }
}

/// Reads a message, and answers a handshake under load. Handshakes are for one of our keys; of
/// whatever else, the first is returned.
fn verified<'t, 'd>(
    table: &'t Table,
    datagram: &'d [u8],
    from: Endpoint,
    outbox: &mut Outbox<'_>,
) -> Result<(&'t Identity, Packet<'d>), Reason> {
    let address = Some(from.address.ip());
    let mut refused = Reason::BadMac;
    for own in table.own() {
        match own.limiter.verify_packet(address, datagram, outbox.room()) {
            Ok(packet) => return Ok((own, packet)),
            Err(TunnResult::WriteToNetwork(cookie)) => {
                let length = cookie.len();
                outbox.push(from, length);
                return Err(Reason::UnderLoad);
            }
            // It may be for another of our keys.
            Err(TunnResult::Err(WireGuardError::InvalidMac)) => {}
            Err(_) if scout::is_question(datagram) => return Err(Reason::SizeProbe),
            Err(_) => refused = Reason::Malformed,
        }
    }
    Err(refused)
}

/// A message that is not data. An error belongs to no peer.
fn handshake(
    table: &Table,
    own: &Identity,
    packet: &Packet<'_>,
    datagram: &[u8],
    from: Endpoint,
    outbox: &mut Outbox<'_>,
) -> Result<(), Reason> {
    let peer = peer_of(table, own, packet)?;
    let outcome = match packet {
        Packet::PacketCookieReply(_) => cookie_reply(peer, datagram, outbox),
        _ => agree(peer, datagram, from, outbox),
    };
    outcome.unwrap_or_else(|reason| peer.drops.count(reason));
    Ok(())
}

/// Whom a message claims to be from.
fn peer_of<'t>(
    table: &'t Table,
    own: &Identity,
    packet: &Packet<'_>,
) -> Result<&'t Arc<PeerState>, Reason> {
    let peer = match packet {
        Packet::HandshakeInit(init) => {
            let half = parse_handshake_anon(own.secret.secret(), &own.public, init)
                .map_err(|_| Reason::BadHandshake)?;
            table.by_keys(own, &half.peer_static_public)
        }
        Packet::HandshakeResponse(m) => table.by_index(m.receiver_idx),
        Packet::PacketCookieReply(m) => table.by_index(m.receiver_idx),
        Packet::PacketData(m) => table.by_index(m.receiver_idx),
    };
    peer.ok_or(Reason::UnknownPeer)
}

/// A handshake message: answers it, then sends what waited for the session.
fn agree(
    peer: &PeerState,
    datagram: &[u8],
    from: Endpoint,
    outbox: &mut Outbox<'_>,
) -> Result<(), Reason> {
    let mut live = peer.live();
    let address = Some(from.address.ip());
    let answer = match live.tunnel.decapsulate(address, datagram, outbox.room()) {
        TunnResult::WriteToNetwork(answer) => answer.len(),
        TunnResult::Err(_) => return Err(Reason::BadHandshake),
        _ => return Ok(()),
    };
    live.heard_from(from);
    peer.agree();
    // Who began uses the session at once, who answers when it hears that its answer came.
    if datagram[0] != INITIATION {
        peer.heard(false);
    }
    push(&mut live, outbox, Some(answer));
    while let TunnResult::WriteToNetwork(waiting) =
        live.tunnel.decapsulate(None, &[], outbox.room())
    {
        let length = waiting.len();
        push(&mut live, outbox, Some(length));
    }
    Ok(())
}

/// A cookie: kept for the next handshake message. It proves nothing about where the peer is.
fn cookie_reply(peer: &PeerState, datagram: &[u8], outbox: &mut Outbox<'_>) -> Result<(), Reason> {
    match peer.live().tunnel.decapsulate(None, datagram, outbox.room()) {
        TunnResult::Err(_) => Err(Reason::BadHandshake),
        _ => Ok(()),
    }
}

/// A data message: decrypted into the bundle, where it stays if it is the peer's to send.
fn from_peer(
    table: &Table,
    Held { peer, live }: &mut Held<'_>,
    datagram: &[u8],
    came: Arrival,
    bundle: &mut Bundle,
) -> Result<(), Reason> {
    let counter = datagram.get(8..16).and_then(|c| c.try_into().ok()).map(u64::from_le_bytes);
    if counter.is_none_or(|counter| counter >= LAST_COUNTER) {
        return Err(Reason::Replay);
    }
    if !bundle.has_room(datagram.len()) {
        return Err(Reason::InsideFailed);
    }
    let opened = match live.tunnel.decapsulate(None, datagram, bundle.room()) {
        TunnResult::WriteToTunnelV4(packet, source) => Ok((packet, source.into(), SHORTEST.0)),
        TunnResult::WriteToTunnelV6(packet, source) => Ok((packet, source.into(), SHORTEST.1)),
        TunnResult::Err(WireGuardError::InvalidPacket) => Err(Some(Reason::BadInner)),
        TunnResult::Err(error) => return Err(reason(&error)),
        // A keepalive.
        _ => Err(None),
    };
    live.heard_from(came.from);
    peer.heard(opened.is_ok());
    let (packet, source, shortest) = match opened {
        Ok(opened) => opened,
        Err(None) => return Ok(()),
        Err(Some(reason)) => return Err(reason),
    };
    if packet.len() < shortest {
        return Err(Reason::BadInner);
    }
    if !table.by_address(source).is_some_and(|host| host.has(peer)) {
        return Err(Reason::WrongSource);
    }
    if came.congested {
        ecn::mark(packet);
    }
    let length = packet.len();
    bundle.add(length);
    Ok(())
}

/// Why the state machine refused a data message.
fn reason(error: &WireGuardError) -> Reason {
    match error {
        WireGuardError::InvalidAeadTag => Reason::BadTag,
        WireGuardError::InvalidCounter | WireGuardError::DuplicateCounter => Reason::Replay,
        WireGuardError::NoCurrentSession | WireGuardError::WrongIndex => Reason::NoSession,
        _ => Reason::Malformed,
    }
}

#[cfg(test)]
mod tests;
