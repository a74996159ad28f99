//! A VPN without sockets, for the fuzzer.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;

use super::engine::{Arrival, Engine};
use super::outbox::{Endpoint, Outbox, Wire};
pub use super::trie::Trie;
use super::uapi;
use crate::keys::SecretKey;
use crate::offload::{Bundle, Join};
use crate::peer::Peer;

/// Counts what would be sent.
#[derive(Default)]
struct Counting(Cell<usize>);

impl Wire for Counting {
    fn send(&self, _: &Endpoint, _: &[u8], _: usize, _: u8) -> io::Result<()> {
        self.0.set(self.0.get() + 1);
        Ok(())
    }
}

/// One that knows one peer, of the same keys at every run.
pub struct Host {
    engine: Engine,
    sent: Counting,
}

impl Host {
    /// Makes it.
    pub fn new() -> Self {
        let engine = Engine::new(SecretKey::from_bytes([7; 32]));
        let peer = Peer {
            allowed: vec![std::net::IpAddr::from([10, 66, 0, 2]).into()],
            ..Peer::new(SecretKey::from_bytes([9; 32]).public())
        };
        // One peer contradicts nobody.
        let _ = engine.set_peers(vec![peer]);
        Self { engine, sent: Counting::default() }
    }

    /// A datagram comes.
    pub fn hears(&self, datagram: &[u8], from: SocketAddr) {
        let mut outbox = Outbox::new(&self.sent, self.engine.drops());
        let mut bundle = Bundle::new(Join { tcp: true, udp: true });
        let came = Arrival { from: from.into(), congested: true };
        let table = self.engine.table();
        self.engine.inbound(&table, std::iter::once(datagram), came, &mut outbox, &mut bundle);
        outbox.flush();
    }

    /// Whether nothing was sent.
    pub fn is_quiet(&self) -> bool {
        self.sent.0.get() == 0
    }

    /// What an operator is answered.
    pub fn answers(&self, request: &str) -> String {
        uapi::answer(request, &self.engine, &self.sent, 51820).to_string()
    }
}
