//! A key of this host, and what counts the handshake messages that are made for it.

use std::sync::Arc;

use defguard_boringtun::noise::rate_limiter::RateLimiter;

use crate::keys::{PublicKey, SecretKey};

/// Handshake messages in a second above which senders must first show that they get our answers.
pub const HANDSHAKES_PER_SECOND: u64 = 100;

/// One of this host's keys: the one in use, or the next while it is changed.
pub struct Identity {
    /// The key.
    pub secret: SecretKey,
    /// Its public half, as the protocol's code wants it.
    pub public: x25519_dalek::PublicKey,
    /// Counts the handshake messages of everybody.
    pub limiter: RateLimiter,
    /// The peers' state machines look at each message again, and shall find nothing.
    pub no_limit: Arc<RateLimiter>,
}

impl Identity {
    /// For a key.
    pub fn new(secret: SecretKey) -> Self {
        let public = x25519_dalek::PublicKey::from(secret.secret());
        Self {
            limiter: RateLimiter::new(&public, HANDSHAKES_PER_SECOND),
            no_limit: Arc::new(RateLimiter::new(&public, u64::MAX)),
            secret,
            public,
        }
    }

    /// Its public key.
    pub fn key(&self) -> PublicKey {
        PublicKey::from_bytes(self.public.to_bytes())
    }
}
