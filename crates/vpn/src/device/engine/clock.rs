//! What time brings, and who is to be called.

use std::sync::Arc;
use std::time::{Duration, Instant};

use defguard_boringtun::noise::TunnResult;

use super::{Engine, INITIATION};
use crate::device::host::{Host, Live, PeerState};
use crate::device::outbox::Outbox;

impl Engine {
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
pub(super) fn push(live: &mut Live, outbox: &mut Outbox<'_>, length: Option<usize>) {
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
