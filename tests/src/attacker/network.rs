//! Reaching the outside over the network, and abstract Unix sockets.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixStream};
use std::time::Duration;

use super::{Attempt, Targets, Verdict};

const REACH: &str = "the only network is the VPN: own network namespace, hub rules";
const ABSTRACT: &str = "no abstract sockets of the host: own network namespace";

const fn attempt(name: &'static str, tests: &'static str, run: fn(&Targets) -> Verdict) -> Attempt {
    Attempt::new("network", name, tests, run)
}

pub(super) const ATTEMPTS: &[Attempt] = &[
    attempt("tcp-connect", REACH, |t| all(&t.tcp, "--tcp", tcp)),
    attempt("udp-exchange", REACH, |t| all(&t.udp, "--udp", udp)),
    attempt("hub-services", "the hub runs nothing", |_| hub()),
    attempt("abstract-sockets", ABSTRACT, |_| abstract_sockets()),
    attempt("bound-sockets-list", ABSTRACT, |_| listed_paths()),
];

/// How long a connection may take.
const LIMIT: Duration = Duration::from_secs(1);

/// Whether the descriptor has something to read within `limit`.
pub(super) fn readable(fd: &impl AsFd, limit: Duration) -> bool {
    let mut entry = libc::pollfd { fd: fd.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let limit = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: one valid entry, which lives across the call.
    unsafe { libc::poll(&raw mut entry, 1, limit) == 1 }
}

fn all(
    targets: &[SocketAddr],
    option: &str,
    act: fn(&SocketAddr) -> io::Result<String>,
) -> Verdict {
    if targets.is_empty() {
        return Verdict::error(format!("needs {option}"));
    }
    Verdict::worst(targets.iter().map(|target| {
        let refusals = [
            libc::ENETUNREACH,
            libc::EHOSTUNREACH,
            libc::ECONNREFUSED,
            libc::ETIMEDOUT,
            libc::EAGAIN,
        ];
        match act(target) {
            Ok(what) => Verdict::possible(what),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                Verdict::refused("no answer within 1 s")
            }
            Err(error) => Verdict::of_or::<()>(Err(error), &refusals),
        }
        .on(target)
    }))
}

fn tcp(target: &SocketAddr) -> io::Result<String> {
    TcpStream::connect_timeout(target, LIMIT).map(|_| "connected".into())
}

fn udp(target: &SocketAddr) -> io::Result<String> {
    let any: IpAddr = if target.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(LIMIT))?;
    socket.connect(target)?;
    socket.send(b"hs-attack")?;
    let mut answer = [0_u8; 64];
    socket.recv(&mut answer).map(|_| "answered".into())
}

/// The gateway of the default route, on ports that programs like to listen on.
fn hub() -> Verdict {
    let Some(gateway) = gateway() else { return Verdict::refused("no route leads to a gateway") };
    let limit = Duration::from_millis(50);
    let open = [22_u16, 53, 80, 111, 443, 2375, 8080, 51820]
        .into_iter()
        .find(|port| TcpStream::connect_timeout(&SocketAddr::new(gateway, *port), limit).is_ok());
    match open {
        Some(port) => Verdict::possible(format!("{gateway} listens on port {port}")),
        None => Verdict::refused(format!("{gateway} does not listen")),
    }
}

/// The first gateway in the routing table.
fn gateway() -> Option<IpAddr> {
    let table = std::fs::read_to_string("/proc/net/route").ok()?;
    table.lines().skip(1).find_map(|line| {
        let field = u32::from_str_radix(line.split_ascii_whitespace().nth(2)?, 16).ok()?;
        (field != 0).then(|| IpAddr::from(field.to_ne_bytes()))
    })
}

/// Connects to every abstract socket that /proc/net/unix shows.
fn abstract_sockets() -> Verdict {
    let table = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let names = table.lines().filter_map(|line| line.split_once(" @").map(|(_, name)| name));
    let mut shown = 0;
    for name in names {
        shown += 1;
        let address = UnixAddr::from_abstract_name(name.trim_end_matches('@'));
        if address.and_then(|address| UnixStream::connect_addr(&address)).is_ok() {
            return Verdict::possible(format!("connected to @{name}"));
        }
    }
    Verdict::refused(format!("{shown} abstract sockets in sight, none answers"))
}

/// Paths of Unix sockets of another network namespace would show in /proc/net/unix.
fn listed_paths() -> Verdict {
    let table = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let paths: Vec<&str> =
        table.lines().filter_map(|line| Some(&line[line.find(" /")? + 1..])).collect();
    let foreign: Vec<&str> =
        paths.into_iter().filter(|path| std::fs::symlink_metadata(path).is_err()).collect();
    if foreign.is_empty() {
        return Verdict::refused("no sockets but our own show");
    }
    Verdict::possible(format!("sockets elsewhere show: {}", foreign.join(" ")))
}
