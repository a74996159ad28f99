//! The sockets of a server's network, as the kernel tells them (sock_diag(7)): unlike the text files
//! of proc, in which the name of a Unix socket may hold the next line, its messages cannot be forged.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use rustix::net::netlink;

use super::schema::Socket;
use super::text::text;
use crate::packets::netlink::{Message, Socket as Netlink, attributes, word};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// All states but those of sockets that no process has any more, or yet (`TCP_TIME_WAIT`,
/// `TCP_NEW_SYN_RECV`; include/net/tcp_states.h).
const STATES: u32 = 0xfff & !(1 << 6);
const UNIX_STATES: u32 = u32::MAX;
/// `UDIAG_SHOW_NAME | UDIAG_SHOW_PEER`.
const UNIX_SHOW: u32 = 0x1 | 0x4;
const UNIX_DIAG_NAME: u16 = 0;
const UNIX_DIAG_PEER: u16 = 2;
/// The most sockets that are looked at.
const MOST: usize = 256 << 10;

const INTERNET: [(i32, i32, &str); 4] = [
    (libc::AF_INET, libc::IPPROTO_TCP, "tcp"),
    (libc::AF_INET6, libc::IPPROTO_TCP, "tcp6"),
    (libc::AF_INET, libc::IPPROTO_UDP, "udp"),
    (libc::AF_INET6, libc::IPPROTO_UDP, "udp6"),
];

/// The sockets of a network namespace by inode.
pub(super) type Sockets = HashMap<u64, Socket>;

/// Asks the kernel.
#[derive(Debug)]
pub(super) struct Diag(Netlink);

impl Diag {
    /// Opens the socket in the calling thread's network namespace, which is the one that it tells of.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self(Netlink::open(Some(netlink::SOCK_DIAG), 0)?))
    }

    /// All sockets, and what could not be asked for: a kernel may lack a part of it.
    pub(super) fn sockets(&mut self) -> (Sockets, Vec<String>) {
        let (mut found, mut problems) = (Sockets::new(), Vec::new());
        for (family, protocol, kind) in INTERNET {
            if let Err(error) = self.internet(family, protocol, kind, &mut found) {
                problems.push(problem(kind, &error));
            }
        }
        if let Err(error) = self.unix(&mut found) {
            problems.push(problem("unix", &error));
        }
        if found.len() >= MOST {
            problems.push(format!("only {MOST} sockets were looked at"));
        }
        (found, problems)
    }

    fn internet(
        &mut self,
        family: i32,
        protocol: i32,
        kind: &'static str,
        found: &mut Sockets,
    ) -> io::Result<()> {
        // struct inet_diag_req_v2
        let mut request = [0; 56];
        request[0] = u8::try_from(family).unwrap_or_default();
        request[1] = u8::try_from(protocol).unwrap_or_default();
        request[4..8].copy_from_slice(&STATES.to_ne_bytes());
        self.0.dump(SOCK_DIAG_BY_FAMILY, &request, |message| {
            let socket = internet(message, kind).filter(|_| found.len() < MOST);
            found.extend(socket.map(|socket| (socket.inode, socket)));
        })
    }

    fn unix(&mut self, found: &mut Sockets) -> io::Result<()> {
        // struct unix_diag_req
        let mut request = [0; 24];
        request[0] = libc::AF_UNIX.to_ne_bytes()[0];
        request[4..8].copy_from_slice(&UNIX_STATES.to_ne_bytes());
        request[12..16].copy_from_slice(&UNIX_SHOW.to_ne_bytes());
        request[16..24].copy_from_slice(&u64::MAX.to_ne_bytes());
        let mut all = Vec::new();
        self.0.dump(SOCK_DIAG_BY_FAMILY, &request, |message| {
            all.extend(unix(message).filter(|_| all.len() < MOST));
        })?;
        let paths: HashMap<u64, (Option<String>, Option<String>)> = all
            .iter()
            .filter(|(socket, _)| socket.path.is_some())
            .map(|(socket, _)| (socket.inode, (socket.path.clone(), socket.path_hex.clone())))
            .collect();
        for (mut socket, peer) in all {
            let path = peer.and_then(|peer| paths.get(&peer).cloned());
            (socket.peer_path, socket.peer_path_hex) = path.unwrap_or_default();
            found.insert(socket.inode, socket);
        }
        Ok(())
    }
}

fn problem(kind: &str, error: &io::Error) -> String {
    format!("the kernel does not tell of {kind} sockets: {}", hyperspector_sys::errno::text(error))
}

/// Reads a `struct inet_diag_msg`.
fn internet(message: &Message<'_>, kind: &'static str) -> Option<Socket> {
    let body = message.body;
    let is_v6 = i32::from(*body.first()?) == libc::AF_INET6;
    let (local, remote) = (address(body, is_v6, 8, 4)?, address(body, is_v6, 24, 6)?);
    let is_udp = kind.starts_with("udp");
    let has_remote = remote.port() != 0;
    let state = match tcp_state(*body.get(1)?) {
        _ if is_udp && has_remote => "connected",
        _ if is_udp => "unconnected",
        state => state,
    };
    let inode = u64::from(word(body, 68)?);
    (inode != 0).then(|| Socket {
        kind,
        state,
        local: Some(local.to_string()),
        remote: has_remote.then(|| remote.to_string()),
        inode,
        ..Socket::default()
    })
}

/// An address of a `struct inet_diag_sockid`, with the port at `port`, in network order.
fn address(body: &[u8], is_v6: bool, at: usize, port: usize) -> Option<SocketAddr> {
    let bytes: [u8; 16] = body.get(at..at + 16)?.try_into().ok()?;
    let port = u16::from_be_bytes(body.get(port..port + 2)?.try_into().ok()?);
    let address = match is_v6 {
        true => IpAddr::V6(Ipv6Addr::from(bytes)),
        false => IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3])),
    };
    Some(SocketAddr::new(address, port))
}

fn tcp_state(state: u8) -> &'static str {
    const NAMES: [&str; 13] = [
        "unknown",
        "established",
        "syn-sent",
        "syn-recv",
        "fin-wait-1",
        "fin-wait-2",
        "time-wait",
        "close",
        "close-wait",
        "last-ack",
        "listen",
        "closing",
        "syn-recv",
    ];
    NAMES.get(usize::from(state)).copied().unwrap_or("unknown")
}

/// Reads a `struct unix_diag_msg` and its attributes; the second is the other end's inode.
fn unix(message: &Message<'_>) -> Option<(Socket, Option<u64>)> {
    let body = message.body;
    let kind = match i32::from(*body.get(1)?) {
        libc::SOCK_STREAM => "unix-stream",
        libc::SOCK_DGRAM => "unix-dgram",
        libc::SOCK_SEQPACKET => "unix-seqpacket",
        _ => return None,
    };
    let mut socket = Socket { kind, inode: u64::from(word(body, 4)?), ..Socket::default() };
    let mut peer = None;
    for (attribute, value) in attributes(body.get(16..)?) {
        match attribute {
            UNIX_DIAG_NAME => {
                let (path, hex) = path(value);
                (socket.path, socket.path_hex) = (Some(path), hex);
            }
            UNIX_DIAG_PEER => peer = word(value, 0).map(u64::from),
            _ => {}
        }
    }
    socket.state = match tcp_state(*body.get(2)?) {
        "listen" => "listen",
        "established" => "established",
        _ if peer.is_some() => "connected",
        _ => "unconnected",
    };
    Some((socket, peer))
}

/// An abstract name begins with a zero byte, and a path may end with one.
fn path(bytes: &[u8]) -> (String, Option<String>) {
    if let Some(name) = bytes.strip_prefix(&[0]) {
        let (text, _) = text(&[b"@", name].concat());
        return (text, Some(super::text::hex(bytes)));
    }
    text(bytes.strip_suffix(&[0]).unwrap_or(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsRawFd;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram, UnixListener, UnixStream};

    fn inode(socket: &impl AsRawFd) -> u64 {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        let text = link.to_str().unwrap().to_owned();
        text.trim_start_matches("socket:[").trim_end_matches(']').parse().unwrap()
    }

    #[test]
    fn the_sockets_of_this_process_are_told() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let udp = UdpSocket::bind("[::1]:0").unwrap();
        let home = tempfile::tempdir().unwrap();
        let place = home.path().join("a\nffff8880: 00000002 0000 0 1 01 99 forged");
        let unix = UnixListener::bind(&place).unwrap();
        let client = UnixStream::connect(&place).unwrap();
        let _accepted = unix.accept().unwrap();
        let name = UnixAddr::from_abstract_name(b"hs-test\xff").unwrap();
        let hidden = UnixDatagram::bind_addr(&name).unwrap();

        let (found, problems) = Diag::open().unwrap().sockets();
        assert_eq!(problems, [""; 0]);
        let of = |inode: u64| found.get(&inode).unwrap();
        let local = listener.local_addr().unwrap().to_string();
        let listening = of(inode(&listener));
        assert_eq!((listening.kind, listening.state), ("tcp", "listen"));
        assert_eq!((listening.local.as_ref(), &listening.remote), (Some(&local), &None));
        let connected = of(inode(&stream));
        assert_eq!((connected.state, connected.remote.as_ref()), ("established", Some(&local)));
        let receiving = of(inode(&udp));
        assert_eq!((receiving.kind, receiving.state), ("udp6", "unconnected"));
        assert!(receiving.local.as_ref().unwrap().starts_with("[::1]:"));
        let path = Some(place.to_str().unwrap().to_owned());
        assert_eq!((of(inode(&unix)).state, &of(inode(&unix)).path), ("listen", &path));
        assert_eq!(
            (of(inode(&client)).state, &of(inode(&client)).peer_path),
            ("established", &path)
        );
        assert_eq!(of(inode(&hidden)).path.as_deref(), Some("@hs-test\u{fffd}"));
        assert_eq!(of(inode(&hidden)).path_hex.as_deref(), Some("0068732d74657374ff"));
        assert!(found.values().all(|socket| socket.inode != 99));
    }

    #[test]
    fn short_messages_are_no_sockets() {
        let message = Message { kind: SOCK_DIAG_BY_FAMILY, body: &[2; 71] };
        assert!(internet(&message, "tcp").is_none());
        assert!(unix(&Message { kind: SOCK_DIAG_BY_FAMILY, body: &[1; 15] }).is_none());
    }
}
