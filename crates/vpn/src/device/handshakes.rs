//! Handshake messages wait for a thread of their own: whoever knows the public key can make each
//! cost as much as ten data messages, and those must not wait for it.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::engine::Arrival;

/// The most that wait; what comes then is dropped.
const MOST: usize = 4096;

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

/// The messages that wait, oldest first.
#[derive(Debug, Default)]
pub struct Handshakes {
    waiting: Mutex<VecDeque<Waiting>>,
    came: Condvar,
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
        let mut waiting = self.lock();
        if waiting.len() >= MOST {
            return Offer::Full;
        }
        let mut bytes = [0; LONGEST];
        bytes[..datagram.len()].copy_from_slice(datagram);
        waiting.push_back(Waiting { bytes, length: datagram.len(), came });
        if waiting.len() == 1 {
            self.came.notify_one();
        }
        Offer::Taken
    }

    /// Waits until there are some, and exchanges them for `batch`, which is empty.
    pub fn next(&self, batch: &mut VecDeque<Waiting>) {
        let mut waiting = self.lock();
        while waiting.is_empty() {
            waiting = self.came.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::swap(&mut *waiting, batch);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    #[test]
    fn handshakes_wait_in_order_and_not_too_many() {
        let from = SocketAddr::from(([192, 0, 2, 1], 51820)).into();
        let came = Arrival { from, congested: false };
        let waiting = Handshakes::default();
        let message = |kind: u8, length: usize| {
            let mut message = vec![0; length];
            message[0] = kind;
            message
        };
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
        let taken = (0..2 * MOST).filter(|_| waiting.offer(&message(1, 148), came) == Offer::Taken);
        assert_eq!(taken.count(), MOST);
        assert_eq!(waiting.offer(&message(1, 148), came), Offer::Full);
    }
}
