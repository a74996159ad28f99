//! What strangers send to a tunnel: made from its public key, or from datagrams that passed before.

use std::net::UdpSocket;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use defguard_boringtun::noise::{Tunn, TunnResult};
use hyperspector_sys::netns;
use hyperspector_vpn::keys::{PublicKey, SecretKey};

use super::sides::Side;
use crate::lab::{Lab, run};

/// Different ones of each kind; more would only take longer to make.
const DIFFERENT: usize = 512;
/// The bytes of an initiation, and of headers: of IP and UDP, and of a data message.
const INITIATION: usize = 148;
const HEADERS: usize = 28;
const MESSAGE: usize = 16;
/// A data message (the protocol's message types).
const DATA: u8 = 4;

/// Kinds of floods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Handshake initiations of somebody who knows the public key, and whom nobody knows.
    Initiations,
    /// Data messages that came before.
    Replays,
    /// Data messages of the session in use, with a counter that has not come yet, and a wrong tag.
    Forged,
    /// Beginnings of data messages.
    Truncated,
    /// Data messages with more behind them than any packet has.
    Oversized,
    /// Random bytes of any length.
    Random,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Initiations,
        Self::Replays,
        Self::Forged,
        Self::Truncated,
        Self::Oversized,
        Self::Random,
    ];

    /// Its name in a sentence.
    pub fn name(self) -> &'static str {
        match self {
            Self::Initiations => "initiations",
            Self::Replays => "replays",
            Self::Forged => "forged data messages",
            Self::Truncated => "truncated data messages",
            Self::Oversized => "oversized data messages",
            Self::Random => "random datagrams",
        }
    }

    /// Datagrams of this kind, for the tunnel's end with this key, out of what was captured.
    pub fn make(self, key: PublicKey, captured: &[Vec<u8>]) -> Result<Vec<Vec<u8>>> {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let of_captured = |change: &mut dyn FnMut(&mut Vec<u8>)| {
            let mut made = captured.to_vec();
            made.iter_mut().for_each(change);
            made
        };
        Ok(match self {
            Self::Initiations => initiations(key)?,
            Self::Replays => captured.to_vec(),
            Self::Forged => of_captured(&mut |message| {
                let later = (1 << 40) + random.below(1 << 20) as u64;
                message[8..16].copy_from_slice(&later.to_le_bytes());
            }),
            Self::Truncated => of_captured(&mut |message| {
                message.truncate(1 + random.below(message.len() - 1));
            }),
            Self::Oversized => of_captured(&mut |message| message.resize(8_900, 0xa5)),
            Self::Random => (0..DIFFERENT)
                .map(|number| {
                    let length = 1 + random.below(1472);
                    let mut bytes: Vec<u8> = (0..length).map(|_| random.below(256) as u8).collect();
                    // Every other one begins as a message does.
                    if number % 2 == 0 && length > 4 {
                        bytes[..4].copy_from_slice(&[1 + (number / 2 % 4) as u8, 0, 0, 0]);
                    }
                    bytes
                })
                .collect(),
        })
    }
}

/// Numbers that look random, the same in every run (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }
}

/// Initiations of somebody whom nobody knows.
fn initiations(to: PublicKey) -> Result<Vec<Vec<u8>>> {
    let theirs = x25519_dalek::PublicKey::from(*to.as_bytes());
    let one = || {
        let stranger = SecretKey::generate()?.secret().clone();
        let mut tunnel = Tunn::new(stranger, theirs, None, None, 1, None);
        let mut message = vec![0; INITIATION];
        match tunnel.format_handshake_initiation(&mut message, false) {
            TunnResult::WriteToNetwork(_) => Ok(message),
            other => bail!("no initiation: {other:?}"),
        }
    };
    (0..DIFFERENT).map(|_| one()).collect()
}

/// Data messages that come to the host's end of a tunnel while packets of 1200 bytes do.
pub fn capture(lab: &Lab, side: &Side<'_>) -> Result<Vec<Vec<u8>>> {
    let inside = netns::open(lab.host.path())?;
    let socket = netns::within(inside.as_fd(), listen)??;
    let wanted = DIFFERENT.to_string();
    let pings = ["-q", "-c", &wanted, "-i", "0.002", "-s", "1200", &side.host];
    let mut captured = Vec::new();
    let (mut packet, end) = ([0; 65_536], Instant::now() + Duration::from_secs(10));
    while captured.len() < DIFFERENT / 2 && Instant::now() < end {
        run(lab.outside.command("ping")?.args(pings))?;
        while let Ok(length) = socket.recv(&mut packet) {
            let (headers, message) = packet[..length].split_at(HEADERS.min(length));
            let port = headers.get(22..24) == Some(&side.port.to_be_bytes()[..]);
            if port && message.len() > MESSAGE && message[0] == DATA {
                captured.push(message.to_vec());
            }
        }
    }
    ensure!(!captured.is_empty(), "no data message was captured");
    captured.truncate(DIFFERENT);
    Ok(captured)
}

/// A socket that gets a copy of every UDP packet, with its headers (raw(7)).
fn listen() -> Result<UdpSocket> {
    // SAFETY: socket takes integers.
    let fd = unsafe {
        libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_NONBLOCK, libc::IPPROTO_UDP)
    };
    if fd < 0 {
        return Err(std::io::Error::last_os_error()).context("make a raw socket");
    }
    // SAFETY: the kernel has just made the descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) }.into())
}
