//! Another host, and its lines: the state of the protocol between a key of ours and one of its.
//!
//! There is one line, or several while one of the two changes its key. They share the inner
//! addresses. What comes on any of them is taken; what goes out takes the one on which a session was
//! agreed last.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use defguard_boringtun::noise::Tunn;

use super::identity::Identity;
use super::outbox::Endpoint;
use super::path::Path;
use crate::keys::PublicKey;
use crate::peer::Peer;
use crate::preshared::PresharedKey;
use crate::status::{Drops, PeerStatus, SessionKeys};

/// How often another line than the one in use is tried.
const TRIAL: Duration = Duration::from_secs(5);

/// The bits of a peer's index.
const INDEX_BITS: u32 = 24;

/// One line, for as long as both keys are known.
pub struct PeerState {
    /// Our key.
    pub own: Arc<Identity>,
    /// The peer's public key.
    pub public_key: PublicKey,
    /// The upper 24 bits of the session indices that are ours on it.
    pub index: u32,
    /// What was dropped of its packets.
    pub drops: Drops,
    /// When a session was agreed last, in an order that all lines of the host share, and below that
    /// the index.
    agreed: AtomicU64,
    choice: Arc<Choice>,
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
    /// How many handshakes were begun by the clock since it was heard.
    pub unanswered: u32,
}

/// Which line of a host carries what is sent to it.
#[derive(Debug, Default)]
pub struct Choice {
    /// The greatest [`PeerState::agreed`] of a session that both sides know of.
    newest: AtomicU64,
    /// How many sessions were agreed.
    count: AtomicU64,
    /// The other side still uses another line.
    lags: AtomicBool,
    tried: Mutex<Option<Instant>>,
}

/// A line among those of a host.
pub struct Line {
    /// Which of our keys: 0 for the one in use, 1 for the next.
    pub ours: usize,
    /// Which of the peer's.
    pub theirs: usize,
    /// The line.
    pub peer: Arc<PeerState>,
}

/// Another host, as long as nothing is changed about it.
pub struct Host {
    /// What the agent said about it.
    pub wanted: Peer,
    /// At least one.
    pub lines: Vec<Line>,
    /// Which of them is in use.
    pub choice: Arc<Choice>,
}

impl PeerState {
    /// One without a session.
    pub fn new(
        own: &Arc<Identity>,
        public_key: PublicKey,
        preshared: Option<&PresharedKey>,
        index: u32,
        choice: &Arc<Choice>,
    ) -> Self {
        let theirs = x25519_dalek::PublicKey::from(*public_key.as_bytes());
        let preshared = preshared.map(|key| *key.as_bytes());
        let (secret, limiter) = (own.secret.secret().clone(), Arc::clone(&own.no_limit));
        // The keepalive is ours to send: the state machine's cannot be changed later.
        let tunnel = Tunn::new(secret, theirs, preshared, None, index, Some(limiter));
        Self {
            own: Arc::clone(own),
            public_key,
            index,
            drops: Drops::default(),
            agreed: AtomicU64::new(index.into()),
            choice: Arc::clone(choice),
            live: Mutex::new(Live {
                tunnel,
                endpoint: None,
                path: Path::default(),
                last_sent: Instant::now(),
                unanswered: 0,
            }),
        }
    }

    /// Its changing part, for this thread alone.
    pub fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a session or handshake of this index is on it.
    pub fn has_index(&self, receiver: u32) -> bool {
        self.index == receiver >> 8
    }

    /// Notes that a session was agreed; whoever answered uses it when it is heard on it.
    pub fn agree(&self) {
        let order = self.choice.count.fetch_add(1, Relaxed) + 1;
        self.agreed.store(order << INDEX_BITS | u64::from(self.index), Relaxed);
    }

    /// Notes that something authenticated came: if a session was agreed here last, the line is in
    /// use from now on. If there is a newer one, and this was data, the other side shall get to know.
    pub fn heard(&self, is_data: bool) {
        let (agreed, newest) = (self.agreed.load(Relaxed), self.choice.newest.load(Relaxed));
        if agreed > newest {
            self.choice.newest.fetch_max(agreed, Relaxed);
        } else if is_data && index_of(newest) != self.index {
            self.choice.lags.store(true, Relaxed);
        }
    }

    fn status(&self) -> PeerStatus {
        let live = self.live();
        let (age, tx, rx, _, round_trip) = live.tunnel.stats();
        let keys = SessionKeys { ours: self.own.key(), theirs: self.public_key };
        let is_agreed = self.agreed.load(Relaxed) >> INDEX_BITS > 0;
        PeerStatus {
            public_key: self.public_key,
            endpoint: live.endpoint.map(|e| e.address),
            last_handshake: age.map(|age| age.as_secs()),
            round_trip_ms: round_trip.map(u64::from),
            mtu: live.path.limit(),
            rx_bytes: rx as u64,
            tx_bytes: tx as u64,
            keys: is_agreed.then_some(keys),
            drops: self.drops.snapshot(),
        }
    }
}

fn index_of(agreed: u64) -> u32 {
    // The lower bits alone.
    agreed as u32 & ((1 << INDEX_BITS) - 1)
}

impl Live {
    /// Notes where an authenticated datagram came from.
    pub fn heard_from(&mut self, from: Endpoint) {
        self.place(Some(from));
        self.unanswered = 0;
    }

    /// Notes where it is said to be.
    fn place(&mut self, endpoint: Option<Endpoint>) {
        if self.endpoint.map(|before| before.address) != endpoint.map(|after| after.address) {
            self.path = Path::default();
        }
        self.endpoint = endpoint;
    }

    /// Whether there is nobody, for all that is known.
    pub fn is_silent(&self) -> bool {
        let has_session = self.tunnel.time_since_last_handshake().is_some();
        self.unanswered > u32::from(has_session)
    }
}

impl Host {
    /// The line that carries what is sent.
    pub fn in_use(&self) -> &Line {
        if let [only] = self.lines.as_slice() {
            return only;
        }
        let index = index_of(self.choice.newest.load(Relaxed));
        let found = self.lines.iter().find(|line| line.peer.index == index);
        // None is only right when its key was just taken away.
        let newest = || self.lines.iter().max_by_key(|line| line.peer.agreed.load(Relaxed));
        found.or_else(newest).unwrap_or(&self.lines[0])
    }

    /// The line between these keys.
    pub fn between(&self, ours: PublicKey, theirs: PublicKey) -> Option<&Arc<PeerState>> {
        let mut peers = self.lines.iter().map(|line| &line.peer);
        peers.find(|peer| peer.public_key == theirs && peer.own.key() == ours)
    }

    /// Whether this is one of its lines.
    pub fn has(&self, peer: &Arc<PeerState>) -> bool {
        self.lines.iter().any(|line| Arc::ptr_eq(&line.peer, peer))
    }

    /// Puts all lines where the host is.
    pub fn place(&self, endpoint: Option<Endpoint>) {
        self.lines.iter().for_each(|line| line.peer.live().place(endpoint));
    }

    /// Takes over what was known. An endpoint that the agent repeats does not undo a move that the
    /// peer has made since.
    pub fn take_over(&self, before: Option<&Self>) {
        let said = self.wanted.endpoint.map(Endpoint::from);
        let known = before.and_then(|before| before.in_use().peer.live().endpoint);
        let is_same = before.is_some_and(|before| before.wanted.endpoint == self.wanted.endpoint);
        let endpoint = if is_same { known.or(said) } else { said.or(known) };
        self.place(endpoint);
        let newest = self.lines.iter().map(|line| line.peer.agreed.load(Relaxed)).max();
        let in_use = index_of(self.choice.newest.load(Relaxed));
        if self.lines.iter().all(|line| line.peer.index != in_use) {
            self.choice.newest.store(newest.unwrap_or_default(), Relaxed);
        }
    }

    /// Whether the other side has been heard on an older line, and was not told since.
    pub fn lags(&self) -> bool {
        self.lines.len() > 1 && self.choice.lags.swap(false, Relaxed)
    }

    /// The lines on which a handshake is due: all others where nobody answers on the one in use, else
    /// those with a newer key of ours, whose owner alone tries it. `at_once`: without the pause.
    pub fn to_try(&self, at_once: bool) -> Vec<&Arc<PeerState>> {
        if self.lines.len() == 1 || !(self.is_trial_due() || at_once) {
            return Vec::new();
        }
        let in_use = self.in_use();
        let (endpoint, is_silent) = {
            let live = in_use.peer.live();
            let is_new = at_once && live.tunnel.time_since_last_handshake().is_none();
            (live.endpoint, live.is_silent() || is_new)
        };
        let mut lines: Vec<_> = self.lines.iter().collect();
        lines.retain(|line| {
            let is_newer = line.ours > in_use.ours && line.theirs >= in_use.theirs;
            !Arc::ptr_eq(&line.peer, &in_use.peer) && (is_newer || is_silent)
        });
        for line in &lines {
            let mut live = line.peer.live();
            let endpoint = endpoint.or(live.endpoint);
            live.place(endpoint);
        }
        lines.into_iter().map(|line| &line.peer).collect()
    }

    fn is_trial_due(&self) -> bool {
        let mut tried = self.choice.tried.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = tried.is_none_or(|tried| tried.elapsed() >= TRIAL);
        if is_due {
            *tried = Some(Instant::now());
        }
        is_due
    }

    /// Its state for `status`, all lines together.
    pub fn status(&self) -> PeerStatus {
        let in_use = &self.in_use().peer;
        let mut status = PeerStatus { public_key: self.wanted.public_key, ..in_use.status() };
        for line in self.lines.iter().filter(|line| !Arc::ptr_eq(&line.peer, in_use)) {
            let more = line.peer.status();
            status.rx_bytes += more.rx_bytes;
            status.tx_bytes += more.tx_bytes;
            for (reason, count) in more.drops {
                *status.drops.entry(reason).or_default() += count;
            }
        }
        status
    }
}
