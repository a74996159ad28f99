//! How large the packets to one peer may be that nobody has to cut up. No I/O.

use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Packets from this many bytes on are a reason to ask how large they may be.
const LARGE: usize = 1000;

/// How long an answer is good for.
const GOOD_FOR: Duration = Duration::from_secs(5);

/// How many senders are told between two ticks; more come with the next.
const MOST_TOLD: u32 = 50;

/// What is known of the way to a peer.
#[derive(Debug, Default)]
pub struct Path {
    /// The largest packet of the inside that fits, in bytes; `None` where all do that come.
    limit: Option<usize>,
    /// Whether a large packet went since the network was asked last.
    large: bool,
    asked: Option<Instant>,
    told: u32,
}

impl Path {
    /// The largest packet that fits, where that is less than what the inside sends.
    pub fn limit(&self) -> Option<usize> {
        self.limit
    }

    /// Notes a packet of this many bytes. Returns what would have fitted, where that is less and its
    /// sender may be told.
    pub fn takes(&mut self, length: usize) -> Option<usize> {
        self.large |= length >= LARGE;
        self.limit.filter(|limit| length > *limit && self.told < MOST_TOLD)
    }

    /// Notes that a sender was told.
    pub fn told(&mut self) {
        self.told += 1;
    }

    /// A tick: whether the network is to be asked now.
    pub fn tick(&mut self, now: Instant) -> bool {
        self.told = 0;
        let is_old = self.asked.is_none_or(|asked| now.duration_since(asked) >= GOOD_FOR);
        let ask = self.large && is_old;
        if ask {
            (self.large, self.asked) = (false, Some(now));
        }
        ask
    }

    /// The network has answered.
    pub fn found(&mut self, limit: Option<usize>) {
        self.limit = limit;
    }
}

/// What a packet of the inside takes more on the wire, in bytes: the headers of IP, UDP and a data
/// message, and its tag.
pub fn overhead(to: IpAddr) -> usize {
    let ip = if to.is_ipv4() { 20 } else { 40 };
    ip + 8 + 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_large_packets_are_a_reason_to_ask_and_not_too_often() {
        let (mut path, start) = (Path::default(), Instant::now());
        assert!(!path.tick(start));
        path.takes(LARGE - 1);
        assert!(!path.tick(start));
        path.takes(LARGE);
        assert!(path.tick(start));
        path.takes(LARGE);
        assert!(!path.tick(start + GOOD_FOR / 2));
        assert!(path.tick(start + GOOD_FOR));
        assert!(!path.tick(start + 3 * GOOD_FOR), "nothing large went since");
    }

    #[test]
    fn senders_are_told_what_fits_and_not_all_of_them_at_once() {
        let mut path = Path::default();
        assert_eq!(path.takes(1420), None);
        path.found(Some(1240));
        assert_eq!((path.takes(1240), path.takes(1241)), (None, Some(1240)));
        for _ in 0..MOST_TOLD {
            assert_eq!(path.takes(1420), Some(1240));
            path.told();
        }
        assert_eq!(path.takes(1420), None);
        path.tick(Instant::now());
        assert_eq!(path.takes(1420), Some(1240));
    }
}
