//! Many peers at one VPN: the other ends of all but one are simulated in this process.
//!
//! The simulated peers share one socket: who a peer is, is its key.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use defguard_boringtun::noise::{Packet, Tunn, TunnResult};
use hyperspector_sys::netns;
use hyperspector_vpn::backend;
use hyperspector_vpn::keys::{PublicKey, SecretKey};
use hyperspector_vpn::peer::Peer;

use super::measure::{self, Servers};
use super::sides;
use crate::interrupt;
use crate::lab::Lab;
use crate::report::Row;

/// How many peers.
const PEERS: usize = 10_000;
/// Turns that count.
const TURNS: usize = 7;
/// How long all handshakes may take together.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often the simulated peers look at their timers.
const TICK: Duration = Duration::from_millis(250);

pub fn run() -> Result<Vec<Row>> {
    let lab = super::cable()?;
    let side = sides::ours(&lab, 1)?;
    let _servers = Servers::start(&lab, &side)?;
    let two = throughput(&lab, &side)?;
    let before = side.memory()?;
    let mut crowd = Crowd::new(&lab, side.key.context("our key")?, side.port)?;
    let real = side.real_peer()?;
    let start = Instant::now();
    let list = crowd.list().chain([real]).collect();
    backend::set_peers(side.handle()?, list).context("tell it all peers")?;
    let told = start.elapsed().as_secs_f64();
    let known = side.memory()?;
    let storm = crowd.shake_hands()?;
    let after = side.memory()?;
    let up = backend::status(side.handle()?)?.peers;
    let up = up.iter().filter(|peer| peer.last_handshake.is_some()).count();
    ensure!(up > PEERS, "{up} peers have a session, {} were expected", PEERS + 1);
    let many = throughput(&lab, &side)?;
    let each = |now: f64| (now - before) * 1024.0 / PEERS as f64;
    let case = |what: &str| format!("{PEERS} peers: {what}");
    Ok(vec![
        Row::pair(case("TCP with one of them beside with 2"), "Mbit/s", &two, &many)
            .ratio_at_least(0.9),
        Row::alone(case("memory of each, known"), "KiB", &[each(known)]),
        Row::alone(case("memory of each, in a session"), "KiB", &[each(after)]),
        Row::alone(case("time to take their list"), "s", &[told]),
        Row::alone(case("all of them shake hands at once, time until the last"), "s", &[storm]),
    ])
}

fn throughput(lab: &Lab, side: &sides::Side<'_>) -> Result<Vec<f64>> {
    let turn = |_| {
        interrupt::check()?;
        Ok(measure::tcp(lab, side, 1)?.rate)
    };
    (0..TURNS).map(turn).collect()
}

/// Peers that are only simulated.
struct Crowd {
    socket: UdpSocket,
    members: Vec<(PublicKey, Tunn)>,
    /// By the upper 24 bits of their session indices.
    by_index: HashMap<u32, usize>,
}

impl Crowd {
    fn new(lab: &Lab, to: PublicKey, port: u16) -> Result<Self> {
        let inside = netns::open(lab.outside.path())?;
        let socket = netns::within(inside.as_fd(), || UdpSocket::bind((super::ENDS[1], 0)))??;
        socket.connect((super::ENDS[0], port))?;
        let theirs = x25519_dalek::PublicKey::from(*to.as_bytes());
        let mut members = Vec::with_capacity(PEERS);
        let mut by_index = HashMap::with_capacity(PEERS);
        for number in 0..PEERS {
            let key = SecretKey::generate()?;
            let index = number as u32 + 1;
            let tunnel = Tunn::new(key.secret().clone(), theirs, None, None, index, None);
            members.push((key.public(), tunnel));
            by_index.insert(index, number);
        }
        Ok(Self { socket, members, by_index })
    }

    /// What the VPN is told about them.
    fn list(&self) -> impl Iterator<Item = Peer> + '_ {
        let first = u32::from(Ipv4Addr::new(10, 128, 0, 0));
        self.members.iter().zip(first..).map(|((key, _), address)| Peer {
            public_key: *key,
            endpoint: None,
            allowed: vec![IpAddr::V4(Ipv4Addr::from_bits(address)).into()],
            keepalive: None,
            preshared: None,
            next_key: None,
        })
    }

    /// Every one of them begins at once; returns after how many seconds the last was done.
    fn shake_hands(&mut self) -> Result<f64> {
        let mut room = [0; 2048];
        let start = Instant::now();
        self.socket.set_nonblocking(true)?;
        let (mut left, mut ticked) = (self.members.len(), Instant::now());
        for number in 0..self.members.len() {
            let (_, tunnel) = &mut self.members[number];
            let made = tunnel.format_handshake_initiation(&mut room, false);
            if let TunnResult::WriteToNetwork(message) = made {
                self.socket.send(message)?;
            }
            left -= self.hear_all(&mut room)?;
        }
        while left > 0 {
            interrupt::check()?;
            ensure!(start.elapsed() < PATIENCE, "{left} peers have no session");
            left -= self.hear_all(&mut room)?;
            if ticked.elapsed() >= TICK {
                left -= self.tick(&mut room)?;
                ticked = Instant::now();
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        Ok(start.elapsed().as_secs_f64())
    }

    /// Takes an answer; true when that was the end of a handshake.
    fn hear(&mut self, datagram: &[u8], room: &mut [u8]) -> Result<bool> {
        let index = match Tunn::parse_incoming_packet(datagram) {
            Ok(Packet::HandshakeResponse(message)) => message.receiver_idx,
            Ok(Packet::PacketCookieReply(message)) => message.receiver_idx,
            _ => return Ok(false),
        };
        let Some(&number) = self.by_index.get(&(index >> 8)) else { return Ok(false) };
        let (_, tunnel) = &mut self.members[number];
        let before = tunnel.time_since_last_handshake().is_none();
        if let TunnResult::WriteToNetwork(answer) = tunnel.decapsulate(None, datagram, room) {
            self.socket.send(answer)?;
        }
        Ok(before && tunnel.time_since_last_handshake().is_some())
    }

    /// Takes all answers that are there, since they would not fit the socket's buffer for long;
    /// returns how many handshakes ended.
    fn hear_all(&mut self, room: &mut [u8]) -> Result<usize> {
        let (mut datagram, mut ended) = ([0; 2048], 0);
        while let Ok(length) = self.socket.recv(&mut datagram) {
            ended += usize::from(self.hear(&datagram[..length], room)?);
        }
        Ok(ended)
    }

    fn tick(&mut self, room: &mut [u8]) -> Result<usize> {
        let mut ended = 0;
        for number in 0..self.members.len() {
            let (_, tunnel) = &mut self.members[number];
            if let TunnResult::WriteToNetwork(message) = tunnel.update_timers(room) {
                self.socket.send(message)?;
                ended += self.hear_all(room)?;
            }
        }
        Ok(ended)
    }
}
