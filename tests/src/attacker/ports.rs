//! What a server space's root does to ports, connections and other servers' sockets on the network
//! that it shares with the host.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram, UnixStream};
use std::time::Duration;

use super::call::{bytes, own, sys, zeroed};
use super::packets::set;
use super::{Attempt, Targets, Verdict, netlink};

const BIND: &str = "only registered ports are bound: port guard";
const HEARD: &str = "other listeners are heard on loopback alone: port guard";
const KINDS: &str = "TCP, UDP and pings alone: seccomp";
const OTHERS: &str = "other processes' sockets are out of reach: seccomp, no CAP_NET_ADMIN";
const UNIX: &str = "the host's Unix sockets are out of reach: Landlock, own root";

const fn attempt(name: &'static str, tests: &'static str, run: fn(&Targets) -> Verdict) -> Attempt {
    Attempt::new("ports", name, tests, run)
}

pub(super) const ATTEMPTS: &[Attempt] = &[
    attempt("bind-tcp", BIND, |t| bind_all(t, libc::SOCK_STREAM, &[])),
    attempt("bind-udp", BIND, |t| bind_all(t, libc::SOCK_DGRAM, &[])),
    attempt("bind-tcp-shared", BIND, |t| bind_all(t, libc::SOCK_STREAM, SHARED)),
    attempt("bind-udp-shared", BIND, |t| bind_all(t, libc::SOCK_DGRAM, SHARED)),
    attempt("bind-tcp-options", BIND, |t| bind_all(t, libc::SOCK_STREAM, ODD)),
    attempt("bind-udp-options", BIND, |t| bind_all(t, libc::SOCK_DGRAM, ODD)),
    attempt("listen-any-port", HEARD, |t| heard(t, bound)),
    attempt("listen-unbound", HEARD, |t| heard(t, |_| socket(libc::AF_INET, libc::SOCK_STREAM, 0))),
    attempt("listen-dual-stack", HEARD, |t| {
        heard(t, |_| socket(libc::AF_INET6, libc::SOCK_STREAM, 0))
    }),
    attempt("listen-on-device", HEARD, |t| heard(t, on_device)),
    attempt("listen-after-connect", HEARD, |t| heard(t, was_client)),
    attempt("socket-raw", KINDS, |_| kinds(libc::SOCK_RAW, &[0, 1, 6, 17, 58, 255])),
    attempt("socket-seqpacket", KINDS, |_| kinds(libc::SOCK_SEQPACKET, &[0, 132])),
    attempt("socket-mptcp", KINDS, |_| kinds(libc::SOCK_STREAM, &[MPTCP])),
    attempt("socket-other-streams", KINDS, |_| kinds(libc::SOCK_STREAM, &[33, 132, SMC])),
    attempt("socket-other-datagrams", KINDS, |_| kinds(libc::SOCK_DGRAM, &[115, 136])),
    attempt("socket-packet", KINDS, |_| {
        Verdict::worst(
            [libc::SOCK_RAW, libc::SOCK_DGRAM].map(|kind| {
                Verdict::of(socket(libc::AF_PACKET, kind, i32::from(0x0003_u16.to_be())))
            }),
        )
    }),
    attempt("tcp-repair", "no connections by forged numbers: no CAP_NET_ADMIN", |_| {
        Verdict::of(socket(libc::AF_INET, libc::SOCK_STREAM, 0).and_then(|socket| {
            set(&socket, libc::IPPROTO_TCP, libc::TCP_REPAIR, &1_u32.to_ne_bytes())
        }))
    }),
    attempt("socket-destroy", OTHERS, destroy),
    attempt("abstract-datagram", UNIX, |_| abstract_datagrams()),
    attempt("unix-paths-listed", UNIX, |_| listed_paths()),
];

/// Protocols that libc lacks.
const MPTCP: i32 = 262;
const SMC: i32 = 256;

/// Options that let a port be shared.
const SHARED: &[(i32, i32)] =
    &[(libc::SOL_SOCKET, libc::SO_REUSEADDR), (libc::SOL_SOCKET, libc::SO_REUSEPORT)];

/// Options that change what binding means.
const ODD: &[(i32, i32)] = &[
    (libc::IPPROTO_IP, libc::IP_FREEBIND),
    (libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT),
    (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY),
    (libc::SOL_SOCKET, libc::SO_BROADCAST),
];

pub(super) fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    own(sys!(libc::SYS_socket, family, kind | libc::SOCK_CLOEXEC, protocol))
}

fn kinds(kind: i32, protocols: &[i32]) -> Verdict {
    let refusals = [libc::EPROTONOSUPPORT, libc::ESOCKTNOSUPPORT, libc::EINVAL];
    let families = [libc::AF_INET, libc::AF_INET6];
    let tried = families.into_iter().flat_map(|family| {
        protocols.iter().map(move |protocol| {
            let opened = socket(family, kind, *protocol);
            Verdict::of_or(opened, &refusals).on(format!("protocol {protocol}"))
        })
    });
    Verdict::worst(tried)
}

/// The socket address in the kernel's form.
pub(super) fn raw(address: SocketAddr) -> Vec<u8> {
    match address {
        SocketAddr::V4(v4) => {
            let mut to: libc::sockaddr_in = zeroed();
            to.sin_family = libc::AF_INET as u16;
            to.sin_port = v4.port().to_be();
            to.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
            bytes(&to).to_vec()
        }
        SocketAddr::V6(v6) => {
            let mut to: libc::sockaddr_in6 = zeroed();
            to.sin6_family = libc::AF_INET6 as u16;
            to.sin6_port = v6.port().to_be();
            to.sin6_addr.s6_addr = v6.ip().octets();
            to.sin6_scope_id = v6.scope_id();
            bytes(&to).to_vec()
        }
    }
}

pub(super) fn bind(socket: &OwnedFd, address: SocketAddr) -> io::Result<i64> {
    let address = raw(address);
    sys!(libc::SYS_bind, socket, &address[..], address.len())
}

/// Binds each port by all forms of address that may do.
fn bind_all(targets: &Targets, kind: i32, options: &[(i32, i32)]) -> Verdict {
    if targets.ports.is_empty() {
        return Verdict::error("needs --port");
    }
    let addresses: [IpAddr; 5] = [
        Ipv4Addr::UNSPECIFIED.into(),
        Ipv4Addr::LOCALHOST.into(),
        Ipv6Addr::UNSPECIFIED.into(),
        Ipv6Addr::LOCALHOST.into(),
        Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().into(),
    ];
    let tried = targets.ports.iter().flat_map(|port| {
        addresses.into_iter().map(move |ip| {
            let address = SocketAddr::new(ip, *port);
            Verdict::of(bind_new(address, kind, options)).on(address)
        })
    });
    Verdict::worst(tried)
}

fn bind_new(address: SocketAddr, kind: i32, options: &[(i32, i32)]) -> io::Result<i64> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let socket = socket(family, kind, 0)?;
    for (level, option) in options {
        // Options of the other family fail, and then there is nothing to gain from them.
        let _ = set(&socket, *level, *option, &1_u32.to_ne_bytes());
    }
    bind(&socket, address)
}

/// Listens with a socket that has some port, and has the witness outside try to connect.
fn heard(targets: &Targets, prepare: fn(SocketAddr) -> io::Result<OwnedFd>) -> Verdict {
    let Some(witness) = targets.witness else { return Verdict::error("needs --witness") };
    let listener = match prepare(witness).and_then(|socket| {
        sys!(libc::SYS_listen, &socket, 8)?;
        Ok(TcpListener::from(socket))
    }) {
        Ok(listener) => listener,
        Err(error) => return Verdict::of::<()>(Err(error)),
    };
    match ask(witness, &listener) {
        Ok(true) => Verdict::possible("reached from outside"),
        Ok(false) => Verdict::refused("not reached from outside"),
        Err(error) => Verdict::error(format!("the witness at {witness}: {error}")),
    }
}

/// The witness is told a port, tries it, and answers 1 or 0.
fn ask(witness: SocketAddr, listener: &TcpListener) -> io::Result<bool> {
    let mut line = TcpStream::connect_timeout(&witness, Duration::from_secs(5))?;
    line.set_read_timeout(Some(Duration::from_secs(10)))?;
    line.write_all(&listener.local_addr()?.port().to_be_bytes())?;
    let mut answer = [0];
    line.read_exact(&mut answer)?;
    Ok(answer == [1])
}

fn bound(_: SocketAddr) -> io::Result<OwnedFd> {
    let socket = socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    bind(&socket, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0))?;
    Ok(socket)
}

/// Tied to the interface towards the witness before anybody else can tie it to another.
fn on_device(_: SocketAddr) -> io::Result<OwnedFd> {
    let socket = socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    set(&socket, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, b"eth0")?;
    Ok(socket)
}

/// A port that a client was given, and that is listened on once the connection is gone.
fn was_client(witness: SocketAddr) -> io::Result<OwnedFd> {
    let socket = OwnedFd::from(TcpStream::connect_timeout(&witness, Duration::from_secs(5))?);
    let nobody = [0_u8; 16];
    sys!(libc::SYS_connect, &socket, &nobody, nobody.len())?;
    Ok(socket)
}

/// Ends somebody else's listener (sock_diag(7), `SOCK_DESTROY`).
fn destroy(targets: &Targets) -> Verdict {
    let v4 = targets.tcp.iter().find_map(|target| match target {
        SocketAddr::V4(v4) => Some(*v4),
        SocketAddr::V6(_) => None,
    });
    let Some(target) = v4 else { return Verdict::error("needs --tcp") };
    let destroyed = netlink::destroy_listener(target.port());
    Verdict::of_or(destroyed, &[libc::EPROTONOSUPPORT]).on(target)
}

/// The names of abstract sockets that /proc/net/unix shows.
fn abstract_names() -> Vec<UnixAddr> {
    let table = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let names = table.lines().filter_map(|line| line.split_once(" @").map(|(_, name)| name));
    names.filter_map(|name| UnixAddr::from_abstract_name(name.trim_end_matches('@')).ok()).collect()
}

fn abstract_datagrams() -> Verdict {
    let names = abstract_names();
    if names.is_empty() {
        return Verdict::error("no abstract socket is in sight");
    }
    let refusals = [libc::ECONNREFUSED, libc::EPROTOTYPE];
    Verdict::worst(names.iter().map(|name| {
        let sent = UnixDatagram::unbound().and_then(|one| one.send_to_addr(b"hs-attack", name));
        Verdict::of_or(sent, &refusals).on(format!("{name:?}"))
    }))
}

/// Connects to every path that /proc/net/unix shows: those of the host are listed too.
fn listed_paths() -> Verdict {
    let table = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let paths: Vec<&str> =
        table.lines().filter_map(|line| Some(&line[line.find(" /")? + 1..])).collect();
    if paths.is_empty() {
        return Verdict::error("no socket with a path is in sight");
    }
    let refusals = [libc::ENOENT, libc::ECONNREFUSED, libc::EPROTOTYPE, libc::ENOTDIR];
    Verdict::worst(
        paths.iter().map(|path| Verdict::of_or(UnixStream::connect(path), &refusals).on(path)),
    )
}
