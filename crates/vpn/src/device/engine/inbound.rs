//! From the wire: data for the inside, and handshake messages.

use std::sync::{Arc, MutexGuard};

use defguard_boringtun::noise::errors::WireGuardError;
use defguard_boringtun::noise::handshake::parse_handshake_anon;
use defguard_boringtun::noise::{Packet, TunnResult};

use super::clock::push;
use super::{Arrival, Engine, INITIATION};
use crate::device::host::{Live, PeerState};
use crate::device::identity::Identity;
use crate::device::outbox::{Endpoint, Outbox};
use crate::device::scout;
use crate::device::table::Table;
use crate::offload::{Bundle, ecn};
use crate::status::Reason;

/// The counter from which on a data message is refused (the protocol's REJECT_AFTER_MESSAGES).
/// The state machine does not look, and its replay window is not made for the last numbers.
const LAST_COUNTER: u64 = u64::MAX - (1 << 13);

/// The shortest packets of the inside: bare IPv4 and IPv6 headers.
const SHORTEST: (usize, usize) = (20, 40);

/// A peer that this thread has locked, for as long as datagrams of it follow each other.
struct Held<'t> {
    peer: &'t Arc<PeerState>,
    live: MutexGuard<'t, Live>,
}

impl Engine {
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
