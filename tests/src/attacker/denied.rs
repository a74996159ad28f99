//! Reaching a denied service of the host by unusual ways, and binding by unusual ones.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use super::call::sys;
use super::network::readable;
use super::packets::set;
use super::ports::{bind, raw, socket};
use super::{Attempt, Targets, Verdict};

const DENIED: &str = "denied services of the host are out of reach: port guard";
const BIND: &str = "only registered ports are bound: port guard";

const fn attempt(name: &'static str, tests: &'static str, run: fn(&Targets) -> Verdict) -> Attempt {
    Attempt::new("denied", name, tests, run)
}

pub(super) const ATTEMPTS: &[Attempt] = &[
    attempt("denied-reconnect", DENIED, |t| streams(t, reconnected)),
    attempt("denied-fast-open", DENIED, |t| streams(t, fast_open)),
    attempt("denied-sendto", DENIED, |t| datagrams(t, |_, _| Ok(()))),
    attempt("denied-sendto-elsewhere", DENIED, |t| datagrams(t, |socket, _| elsewhere(socket))),
    attempt("denied-datagram-reconnect", DENIED, |t| {
        datagrams(t, |socket, to| {
            elsewhere(socket)?;
            disconnect(socket)?;
            connect(socket, to)
        })
    }),
    attempt("denied-on-device", DENIED, |t| datagrams(t, |socket, _| on_device(socket))),
    attempt("option-transparent", "no addresses of others: no CAP_NET_ADMIN", |_| {
        Verdict::of(socket(libc::AF_INET, libc::SOCK_STREAM, 0).and_then(|socket| {
            set(&socket, libc::IPPROTO_IP, libc::IP_TRANSPARENT, &1_u32.to_ne_bytes())
        }))
    }),
    attempt("bind-on-device", BIND, bind_on_device),
];

const LIMIT: Duration = Duration::from_millis(500);
/// A port of loopback that nobody denies.
const ELSEWHERE: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9));
const REFUSALS: [i32; 4] = [libc::ETIMEDOUT, libc::EAGAIN, libc::ECONNREFUSED, libc::EINPROGRESS];

fn family(address: SocketAddr) -> i32 {
    if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }
}

fn connect(socket: &OwnedFd, to: SocketAddr) -> io::Result<()> {
    let to = raw(to);
    sys!(libc::SYS_connect, socket, &to[..], to.len()).map(drop)
}

/// Connects to nobody (`AF_UNSPEC`).
fn disconnect(socket: &OwnedFd) -> io::Result<()> {
    let nobody = [0_u8; 16];
    sys!(libc::SYS_connect, socket, &nobody, nobody.len()).map(drop)
}

/// The beginning of the address that it is connected to.
fn peer(socket: &OwnedFd) -> io::Result<[u8; 8]> {
    let mut address = [0_u8; 28];
    let mut length = 28_u32.to_ne_bytes();
    sys!(libc::SYS_getpeername, socket, &mut address, &mut length)?;
    let mut first = [0; 8];
    first.copy_from_slice(&address[..8]);
    Ok(first)
}

fn elsewhere(socket: &OwnedFd) -> io::Result<()> {
    // A socket of IPv6 has no such place; from there, it sends all the same.
    connect(socket, ELSEWHERE).or(Ok(()))
}

fn on_device(socket: &OwnedFd) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, b"lo").map(drop)
}

/// A connection counts when it is there: something was sent and nobody has refused it.
fn streams(targets: &Targets, act: fn(&OwnedFd, SocketAddr) -> io::Result<()>) -> Verdict {
    if targets.tcp.is_empty() {
        return Verdict::error("needs --tcp");
    }
    Verdict::worst(targets.tcp.iter().map(|to| {
        let reached = socket(family(*to), libc::SOCK_STREAM, 0).and_then(|socket| {
            let limit = [0_i64, 500_000].map(i64::to_ne_bytes).concat();
            set(&socket, libc::SOL_SOCKET, libc::SO_SNDTIMEO, &limit)?;
            act(&socket, *to)?;
            peer(&socket).map(drop)
        });
        Verdict::of_or(reached, &[&REFUSALS[..], &[libc::ENOTCONN]].concat()).on(to)
    }))
}

fn reconnected(socket: &OwnedFd, to: SocketAddr) -> io::Result<()> {
    let _ = connect(socket, ELSEWHERE);
    disconnect(socket)?;
    connect(socket, to)
}

/// Data in the first packet, without connect(2).
fn fast_open(socket: &OwnedFd, to: SocketAddr) -> io::Result<()> {
    let to = raw(to);
    let flags = libc::MSG_FASTOPEN;
    sys!(libc::SYS_sendto, socket, b"x", 1, flags, &to[..], to.len()).map(drop)
}

/// Sends to each, and waits for an answer.
fn datagrams(targets: &Targets, prepare: fn(&OwnedFd, SocketAddr) -> io::Result<()>) -> Verdict {
    if targets.udp.is_empty() {
        return Verdict::error("needs --udp");
    }
    Verdict::worst(targets.udp.iter().map(|to| {
        let answered = socket(family(*to), libc::SOCK_DGRAM, 0).and_then(|socket| {
            prepare(&socket, *to)?;
            let address = raw(*to);
            sys!(libc::SYS_sendto, &socket, b"hs-attack", 9, 0, &address[..], address.len())?;
            // Answers of others do not come to one that is connected: that it was sent has to do.
            if peer(&socket).is_ok_and(|name| name[2..] != address[2..8]) {
                return Ok(());
            }
            let mut buffer = [0_u8; 64];
            if !readable(&socket, LIMIT) {
                return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
            }
            // SAFETY: the buffer is valid for its length, and lives across the call.
            let got = unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), 64, 0) };
            if got < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
        });
        Verdict::of_or(answered, &REFUSALS).on(to)
    }))
}

/// A port that is not registered, on one interface alone, as an address of its own.
fn bind_on_device(targets: &Targets) -> Verdict {
    if targets.ports.is_empty() {
        return Verdict::error("needs --port");
    }
    Verdict::worst(targets.ports.iter().map(|port| {
        let address = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), *port);
        let bound = socket(libc::AF_INET, libc::SOCK_STREAM, 0).and_then(|socket| {
            on_device(&socket)?;
            bind(&socket, address)
        });
        Verdict::of(bound).on(address)
    }))
}
