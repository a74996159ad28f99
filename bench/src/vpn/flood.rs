//! Datagrams of strangers, from addresses that are not theirs, as many as are wanted or as go.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hyperspector_sys::netns;

use super::ENDS;
use crate::lab::Lab;
use crate::tools::FLOOD;

/// Where the datagrams claim to come from (RFC 2544's range for benchmarks).
pub const STRANGERS: &str = "198.18.0.0/15";
const FIRST: u32 = 0xc612_0000;
/// The bytes of IPv4 and UDP headers.
const HEADERS: usize = 28;
/// The largest datagram that fits the cable; larger ones are cut up, for which the kernel wants its
/// own headers.
const LARGEST: usize = 1500 - HEADERS;
/// Datagrams that are sent in one go.
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

/// What is sent, in a file that goes with it.
pub struct Ammunition(tempfile::NamedTempFile);

impl Ammunition {
    /// Keeps these datagrams.
    pub fn new(datagrams: &[Vec<u8>]) -> Result<Self> {
        let mut file = tempfile::Builder::new().prefix("hs-bench-flood-").tempfile()?;
        serde_json::to_writer(&mut file, datagrams).context("keep the datagrams")?;
        Ok(Self(file))
    }
}

/// Floods a port of the host while `work` goes on, with `rate` datagrams in a second, or with all that
/// go where that is 0; returns its result, and how many there were in a second.
pub fn during<T>(
    lab: &Lab,
    what: &Ammunition,
    port: u16,
    rate: u32,
    work: impl FnOnce() -> Result<T>,
) -> Result<(T, f64)> {
    let program = std::env::current_exe().context("find this program")?;
    let mut command = lab.outside.command(program)?;
    command.arg(FLOOD).arg(what.0.path()).args([port.to_string(), rate.to_string()]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    // It takes a moment to begin.
    std::thread::sleep(Duration::from_millis(200));
    let done = work();
    drop(child.stdin.take());
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "the flood: {}", output.status);
    let sent = String::from_utf8_lossy(&output.stdout).trim().parse().context("read the flood")?;
    Ok((done?, sent))
}

/// `__flood FILE PORT RATE`: sends until its standard input ends; prints the rate that it had.
pub fn main(arguments: &[String]) -> Result<()> {
    let [file, port, rate] = arguments else { bail!("wrong arguments") };
    let (port, rate): (u16, u32) = (port.parse()?, rate.parse()?);
    let messages: Vec<Vec<u8>> = serde_json::from_slice(&fs::read(file)?)?;
    ensure!(!messages.is_empty(), "nothing to send");
    let from = Sender { raw: raw()?, plain: UdpSocket::bind((ENDS[1], 0))?, port };
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
            from.send(sent, message)?;
            sent = sent.wrapping_add(1);
        }
        if rate > 0 {
            let due = Duration::from_secs_f64(f64::from(sent) / f64::from(rate));
            std::thread::sleep(due.saturating_sub(start.elapsed()));
        }
    }
    println!("{}", f64::from(sent) / start.elapsed().as_secs_f64());
    Ok(())
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

/// What sends them to a port of the host.
struct Sender {
    raw: OwnedFd,
    plain: UdpSocket,
    port: u16,
}

impl Sender {
    /// Sends one from one of the strangers' addresses; a large one from our own.
    fn send(&self, number: u32, message: &[u8]) -> Result<()> {
        let to: Ipv4Addr = ENDS[0].parse()?;
        let sent = if message.len() > LARGEST {
            self.plain.send_to(message, (to, self.port)).map(drop)
        } else {
            self.send_raw(to, number, message)
        };
        match sent {
            Err(error) if error.raw_os_error() != Some(libc::ENOBUFS) => {
                Err(error).context("send a datagram")
            }
            _ => Ok(()),
        }
    }

    fn send_raw(&self, to: Ipv4Addr, number: u32, message: &[u8]) -> io::Result<()> {
        let mut packet = [0; HEADERS + LARGEST];
        // Version and length of the header, time to live, UDP; the kernel fills in the rest.
        (packet[0], packet[8], packet[9]) = (0x45, 64, 17);
        packet[12..16].copy_from_slice(&(FIRST + number % 0xffff).to_be_bytes());
        packet[16..20].copy_from_slice(&to.octets());
        packet[20..22].copy_from_slice(&(1024 + (number % 60_000) as u16).to_be_bytes());
        packet[22..24].copy_from_slice(&self.port.to_be_bytes());
        packet[24..26].copy_from_slice(&((8 + message.len()) as u16).to_be_bytes());
        packet[HEADERS..HEADERS + message.len()].copy_from_slice(message);
        let address = libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: 0,
            sin_addr: libc::in_addr { s_addr: u32::from(to).to_be() },
            sin_zero: [0; 8],
        };
        // SAFETY: the packet and the address live across the call, and have the lengths given: the
        // message is at most LARGEST bytes.
        let sent = unsafe {
            libc::sendto(
                self.raw.as_raw_fd(),
                packet.as_ptr().cast(),
                HEADERS + message.len(),
                0,
                (&raw const address).cast(),
                size_of::<libc::sockaddr_in>() as libc::socklen_t,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}
