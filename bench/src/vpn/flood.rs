//! Handshake initiations that prove that their sender knows the public key, from addresses that are
//! not its own.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use defguard_boringtun::noise::{Tunn, TunnResult};
use hyperspector_sys::netns;
use hyperspector_vpn::keys::{PublicKey, SecretKey};

use super::ENDS;
use super::sides::Side;
use crate::lab::Lab;
use crate::tools::FLOOD;

/// Where the initiations claim to come from (RFC 2544's range for benchmarks).
pub const STRANGERS: &str = "198.18.0.0/15";
const FIRST: u32 = 0xc612_0000;
/// Different initiations; more would only take longer to make.
const DIFFERENT: usize = 512;
/// The bytes of IPv4 and UDP headers, and of an initiation.
const HEADERS: usize = 28;
const INITIATION: usize = 148;
/// Initiations that are sent in one go.
const BURST: u32 = 50;

/// A port of the host whose datagrams nobody reads.
pub struct Sink {
    /// Its number.
    pub port: u16,
    _socket: UdpSocket,
}

/// Opens one.
pub fn sink(lab: &Lab) -> Result<Sink> {
    let inside = netns::open(lab.host.path())?;
    let socket = netns::within(inside.as_fd(), || UdpSocket::bind((ENDS[0], 0)))??;
    Ok(Sink { port: socket.local_addr()?.port(), _socket: socket })
}

/// Floods a port of the host while `work` goes on; returns its result, and initiations in a second.
pub fn during<T>(
    lab: &Lab,
    side: &Side<'_>,
    port: u16,
    rate: u32,
    work: impl FnOnce() -> Result<T>,
) -> Result<(T, f64)> {
    let key = side.key.context("the key of the flooded end")?;
    let program = std::env::current_exe().context("find this program")?;
    let mut command = lab.outside.command(program)?;
    command.args([FLOOD, &key.to_string(), &port.to_string(), &rate.to_string()]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    // It takes a moment to make them.
    std::thread::sleep(Duration::from_millis(500));
    let done = work();
    drop(child.stdin.take());
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "the flood: {}", output.status);
    let sent = String::from_utf8_lossy(&output.stdout).trim().parse().context("read the flood")?;
    Ok((done?, sent))
}

/// `__flood KEY PORT RATE`: sends until its standard input ends; prints the rate that it had.
pub fn main(arguments: &[String]) -> Result<()> {
    let [key, port, rate] = arguments else { bail!("wrong arguments") };
    let (port, rate): (u16, u32) = (port.parse()?, rate.parse()?);
    let messages = initiations(key.parse().context("read the key")?)?;
    let socket = raw()?;
    let target: SocketAddr = (ENDS[0].parse::<Ipv4Addr>()?, port).into();
    let ended = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flag = std::sync::Arc::clone(&ended);
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        flag.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let (start, mut sent) = (Instant::now(), 0_u32);
    while !ended.load(std::sync::atomic::Ordering::Relaxed) {
        for _ in 0..BURST {
            let message = &messages[sent as usize % messages.len()];
            send(&socket, target, port, sent, message)?;
            sent = sent.wrapping_add(1);
        }
        let due = Duration::from_secs_f64(f64::from(sent) / f64::from(rate));
        std::thread::sleep(due.saturating_sub(start.elapsed()));
    }
    println!("{}", f64::from(sent) / start.elapsed().as_secs_f64());
    Ok(())
}

/// Initiations of somebody whom nobody knows.
fn initiations(to: PublicKey) -> Result<Vec<[u8; INITIATION]>> {
    let theirs = x25519_dalek::PublicKey::from(*to.as_bytes());
    let one = || {
        let stranger = SecretKey::generate()?.secret().clone();
        let mut tunnel = Tunn::new(stranger, theirs, None, None, 1, None);
        let mut message = [0; INITIATION];
        match tunnel.format_handshake_initiation(&mut message, false) {
            TunnResult::WriteToNetwork(_) => Ok(message),
            other => bail!("no initiation: {other:?}"),
        }
    };
    (0..DIFFERENT).map(|_| one()).collect()
}

/// A socket for packets whose IP header is ours too (raw(7)).
fn raw() -> Result<OwnedFd> {
    // SAFETY: socket takes integers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW) };
    if fd < 0 {
        return Err(io::Error::last_os_error()).context("make a raw socket");
    }
    // SAFETY: the kernel has just made the descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends a message from one of the strangers' addresses.
fn send(
    socket: &OwnedFd,
    to: SocketAddr,
    port: u16,
    number: u32,
    message: &[u8; INITIATION],
) -> Result<()> {
    let SocketAddr::V4(to) = to else { bail!("not an IPv4 address") };
    let mut packet = [0; HEADERS + INITIATION];
    // Version and length of the header, time to live, UDP; the kernel fills in the rest.
    (packet[0], packet[8], packet[9]) = (0x45, 64, 17);
    packet[12..16].copy_from_slice(&(FIRST + number % 0xffff).to_be_bytes());
    packet[16..20].copy_from_slice(&to.ip().octets());
    packet[20..22].copy_from_slice(&(1024 + (number % 60_000) as u16).to_be_bytes());
    packet[22..24].copy_from_slice(&port.to_be_bytes());
    packet[24..26].copy_from_slice(&((8 + INITIATION) as u16).to_be_bytes());
    packet[HEADERS..].copy_from_slice(message);
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from(*to.ip()).to_be() },
        sin_zero: [0; 8],
    };
    // SAFETY: the packet and the address live across the call, and have the lengths given.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            packet.as_ptr().cast(),
            packet.len(),
            0,
            (&raw const address).cast(),
            size_of::<libc::sockaddr_in>() as libc::socklen_t,
        )
    };
    let error = io::Error::last_os_error();
    if sent < 0 && error.raw_os_error() != Some(libc::ENOBUFS) {
        return Err(error).context("send an initiation");
    }
    Ok(())
}
