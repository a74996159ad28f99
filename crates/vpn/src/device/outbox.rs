//! Datagrams on their way out: those of one length to one place are collected and sent by one call.

use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::status::{Drops, Reason};

/// The bytes of one call: less than the largest UDP payload over IPv6.
const CAPACITY: usize = 65_000;

/// The datagrams of one call (UDP_MAX_SEGMENTS on older kernels).
const MAX_DATAGRAMS: usize = 64;

/// Where a peer is, and the address of ours that it talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The peer's address and port.
    pub address: SocketAddr,
    /// Our address that its last datagram came to; answers leave from there.
    pub local: Option<IpAddr>,
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self { address, local: None }
    }
}

/// What sends datagrams.
pub trait Wire {
    /// Sends the datagrams in `bytes`, each of `length` bytes but the last, which may be shorter,
    /// with the congestion bits `ecn` (RFC 3168).
    fn send(&self, to: &Endpoint, bytes: &[u8], length: usize, ecn: u8) -> io::Result<()>;
}

/// Collects datagrams for a [`Wire`].
pub struct Outbox<'a> {
    wire: &'a dyn Wire,
    drops: &'a Drops,
    buffer: Vec<u8>,
    used: usize,
    batch: Option<Batch>,
}

/// The datagrams that wait.
#[derive(Clone, Copy)]
struct Batch {
    to: Endpoint,
    length: usize,
    ecn: u8,
    count: usize,
    /// A shorter one came: it must stay the last.
    complete: bool,
}

impl<'a> Outbox<'a> {
    /// An empty one; what cannot be sent is counted in `drops`.
    pub fn new(wire: &'a dyn Wire, drops: &'a Drops) -> Self {
        // Room for a batch and one more datagram of any length.
        Self { wire, drops, buffer: vec![0; CAPACITY + 66_000], used: 0, batch: None }
    }

    /// Where the next datagram is to be written; at least 66,000 bytes.
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.buffer[self.used..]
    }

    /// Takes the datagram of `length` bytes that was written to the start of [`Self::room`].
    pub fn push(&mut self, to: Endpoint, length: usize) {
        self.push_marked(to, length, 0);
    }

    /// As [`Self::push`], with congestion bits.
    pub fn push_marked(&mut self, to: Endpoint, length: usize, ecn: u8) {
        let joins = self.batch.is_some_and(|b| {
            b.to == to
                && b.ecn == ecn
                && !b.complete
                && length <= b.length
                && b.count < MAX_DATAGRAMS
                && self.used + length <= CAPACITY
        });
        if !joins {
            let start = self.used;
            self.flush();
            self.buffer.copy_within(start..start + length, 0);
        }
        self.used += length;
        match &mut self.batch {
            Some(batch) => {
                batch.count += 1;
                batch.complete = length < batch.length;
            }
            none => *none = Some(Batch { to, length, ecn, count: 1, complete: false }),
        }
    }

    /// Sends what waits.
    pub fn flush(&mut self) {
        if let Some(Batch { to, length, ecn, count, .. }) = self.batch.take()
            && self.wire.send(&to, &self.buffer[..self.used], length, ecn).is_err()
        {
            self.drops.add(Reason::SendFailed, count as u64);
        }
        self.used = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::RefCell;

    #[derive(Default)]
    struct Sent(RefCell<Vec<(SocketAddr, Vec<u8>, usize)>>);

    impl Wire for Sent {
        fn send(&self, to: &Endpoint, bytes: &[u8], length: usize, _: u8) -> io::Result<()> {
            self.0.borrow_mut().push((to.address, bytes.to_vec(), length));
            Ok(())
        }
    }

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    proptest! {
        #[test]
        fn every_datagram_arrives_once_and_in_order(
            list in prop::collection::vec((1..4_u16, prop::sample::select(vec![1_usize, 32, 1400, 1432, 64_900])), 0..200),
        ) {
            let (sent, drops) = (Sent::default(), Drops::default());
            let mut outbox = Outbox::new(&sent, &drops);
            for (i, &(port, length)) in list.iter().enumerate() {
                outbox.room()[..length].fill(i as u8);
                outbox.push(address(port).into(), length);
            }
            outbox.flush();
            let mut arrived = Vec::new();
            for (to, bytes, length) in sent.0.take() {
                prop_assert!(bytes.len() <= CAPACITY && bytes.len().div_ceil(length) <= MAX_DATAGRAMS);
                for datagram in bytes.chunks(length) {
                    prop_assert!(datagram.iter().all(|b| *b == datagram[0]));
                    arrived.push((to.port(), datagram.len(), datagram[0]));
                }
            }
            let wanted: Vec<_> =
                list.iter().enumerate().map(|(i, &(port, length))| (port, length, i as u8)).collect();
            prop_assert_eq!(arrived, wanted);
        }
    }

    struct Broken;

    impl Wire for Broken {
        fn send(&self, _: &Endpoint, _: &[u8], _: usize, _: u8) -> io::Result<()> {
            Err(io::ErrorKind::PermissionDenied.into())
        }
    }

    #[test]
    fn what_cannot_be_sent_is_counted() {
        let drops = Drops::default();
        let mut outbox = Outbox::new(&Broken, &drops);
        for _ in 0..3 {
            outbox.push(address(1).into(), 100);
        }
        outbox.flush();
        assert_eq!(drops.snapshot()[&Reason::SendFailed], 3);
    }
}
