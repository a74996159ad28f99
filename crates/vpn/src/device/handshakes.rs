//! Handshake messages wait for a thread of their own: whoever knows the public key can make each
//! cost as much as ten data messages, and those must not wait for it. Of many that come at once, those
//! from where a peer is come first.

use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::engine::Arrival;

/// The most that wait; what comes then is dropped.
const MOST: usize = 4096;

/// The most that are taken of everybody between two ticks; after them, those of peers alone.
const MOST_OF_ANYBODY: usize = 5000;

/// Initiations, responses and cookies: their first four bytes, and their lengths.
const KINDS: [([u8; 4], usize); 3] =
    [([1, 0, 0, 0], LONGEST), ([2, 0, 0, 0], 92), ([3, 0, 0, 0], 64)];

/// The longest of them, in bytes.
const LONGEST: usize = 148;

/// A message that waits.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    bytes: [u8; LONGEST],
    length: usize,
    /// How it came.
    pub came: Arrival,
}

impl Waiting {
    /// The message.
    pub fn message(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// What becomes of a datagram that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// It waits.
    Taken,
    /// It is no handshake message.
    Other,
    /// Too many wait.
    Full,
}

/// The messages that wait.
#[derive(Debug, Default)]
pub struct Handshakes {
    queue: Mutex<Queue>,
    came: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    /// Oldest first.
    waiting: VecDeque<Waiting>,
    /// How many were taken since the last tick.
    taken: usize,
    /// Whether some were not taken since then because they are nobody's.
    is_flooded: bool,
    /// Where peers are; kept up while there are too many messages.
    peers: HashSet<SocketAddr>,
}

impl Queue {
    fn takes(&mut self, from: SocketAddr) -> bool {
        let is_strangers = self.taken >= MOST_OF_ANYBODY && !self.peers.contains(&from);
        self.is_flooded |= is_strangers;
        !is_strangers && self.waiting.len() < MOST
    }
}

impl Handshakes {
    /// Takes a copy of a handshake message.
    pub fn offer(&self, datagram: &[u8], came: Arrival) -> Offer {
        let is = |(kind, length): &([u8; 4], usize)| {
            datagram.len() == *length && datagram.starts_with(kind)
        };
        if !KINDS.iter().any(is) {
            return Offer::Other;
        }
        let mut queue = self.lock();
        if !queue.takes(came.from.address) {
            return Offer::Full;
        }
        let mut bytes = [0; LONGEST];
        bytes[..datagram.len()].copy_from_slice(datagram);
        queue.waiting.push_back(Waiting { bytes, length: datagram.len(), came });
        queue.taken += 1;
        if queue.waiting.len() == 1 {
            self.came.notify_one();
        }
        Offer::Taken
    }

    /// To be called a few times a second: lets everybody in again. `peers` says where they are, and is
    /// asked only where there were too many messages.
    pub fn tick(&self, peers: impl FnOnce() -> HashSet<SocketAddr>) {
        let mut queue = self.lock();
        queue.taken = 0;
        if std::mem::take(&mut queue.is_flooded) {
            drop(queue);
            let peers = peers();
            self.lock().peers = peers;
        }
    }

    /// Waits until there are some, and exchanges them for `batch`, which is empty.
    pub fn next(&self, batch: &mut VecDeque<Waiting>) {
        let mut queue = self.lock();
        while queue.waiting.is_empty() {
            queue = self.came.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::swap(&mut queue.waiting, batch);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(port: u16) -> Arrival {
        let from = SocketAddr::from(([192, 0, 2, 1], port)).into();
        Arrival { from, congested: false }
    }

    fn message(kind: u8, length: usize) -> Vec<u8> {
        let mut message = vec![0; length];
        message[0] = kind;
        message
    }

    #[test]
    fn handshakes_wait_in_order_and_not_too_many() {
        let came = from(51820);
        let waiting = Handshakes::default();
        for (kind, length) in [(4, 148), (1, 147), (2, 148), (0, 64), (3, 92)] {
            assert_eq!(waiting.offer(&message(kind, length), came), Offer::Other);
        }
        assert_eq!(waiting.offer(&[], came), Offer::Other);
        for (kind, length) in [(1, 148), (2, 92), (3, 64)] {
            assert_eq!(waiting.offer(&message(kind, length), came), Offer::Taken);
        }
        let mut batch = VecDeque::new();
        waiting.next(&mut batch);
        let kinds: Vec<_> = batch.drain(..).map(|w| (w.message()[0], w.message().len())).collect();
        assert_eq!(kinds, [(1, 148), (2, 92), (3, 64)]);
        waiting.tick(|| unreachable!("there were not too many"));
        let taken = (0..2 * MOST).filter(|_| waiting.offer(&message(1, 148), came) == Offer::Taken);
        assert_eq!(taken.count(), MOST);
        assert_eq!(waiting.offer(&message(1, 148), came), Offer::Full);
    }

    #[test]
    fn a_flood_of_strangers_does_not_keep_peers_out() {
        let (stranger, peer) = (from(1), from(2));
        let waiting = Handshakes::default();
        let mut batch = VecDeque::new();
        let mut taken_of = |came: Arrival, number: usize| {
            let offered = (0..number).filter(|_| {
                let is_taken = waiting.offer(&message(1, 148), came) == Offer::Taken;
                if is_taken {
                    waiting.next(&mut batch);
                    batch.clear();
                }
                is_taken
            });
            offered.count()
        };
        assert_eq!(taken_of(stranger, 3 * MOST_OF_ANYBODY), MOST_OF_ANYBODY);
        assert_eq!(taken_of(peer, 1), 0, "nobody knows yet where peers are");
        waiting.tick(|| [peer.from.address].into());
        assert_eq!(taken_of(stranger, 3 * MOST_OF_ANYBODY), MOST_OF_ANYBODY);
        assert_eq!(taken_of(peer, 100), 100);
    }
}
