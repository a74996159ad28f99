//! Asks the network how large a datagram to a peer may be (RFC 1191, RFC 8201).
//!
//! The VPN's own datagrams may be cut up on the way, so that none is lost, and so none tells. A
//! socket of its own sends one of zeroes that may not be cut up, as large as the largest of the VPN:
//! whoever cannot pass it on says what he can. The peer drops it. What comes to that socket is
//! dropped by the kernel; errors have to be about datagrams from its port, which is a random number.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg_addr};

use super::engine::Engine;
use super::io::{outer, set_option};
use super::path::overhead;
use crate::keys::PublicKey;

/// What every path is taken to let through, in bytes with all headers: whoever says less is not
/// believed. IPv6 has no less, and with less the VPN's datagrams are cut up.
const LEAST: usize = 1280;

/// How long a complaint may take; who has not complained until then has passed it on.
const PATIENCE: Duration = Duration::from_secs(2);

/// Errors that are looked at in one go, and peers that are asked about.
const MOST: usize = 64;

/// How often the next one on the same way is asked about what the last one has said.
const STEPS: usize = 8;

/// A datagram that is on its way.
#[derive(Debug)]
struct Question {
    peer: PublicKey,
    /// Its bytes with all headers.
    size: usize,
    since: Instant,
}

/// What asks.
pub struct Scout {
    socket: Socket,
    /// The greatest packet inside, in bytes.
    mtu: usize,
    asked: HashMap<SocketAddr, Question>,
}

impl Scout {
    /// Takes a bound socket of its own, for a VPN with this greatest packet inside.
    pub fn new(socket: OwnedFd, mtu: u32) -> io::Result<Self> {
        Ok(Self { socket: Socket::new(socket)?, mtu: mtu as usize, asked: HashMap::new() })
    }

    /// Takes answers, and asks for peers that large packets go to. To be called a few times a second.
    pub fn look(&mut self, engine: &Engine) {
        let now = Instant::now();
        for _ in 0..MOST {
            let Some(complaint) = self.socket.complaint() else { break };
            self.take(engine, complaint, now);
        }
        let over = |_: &SocketAddr, question: &mut Question| now - question.since >= PATIENCE;
        let passed: Vec<_> = self.asked.extract_if(over).collect();
        for (address, Question { peer, size, .. }) in passed {
            self.tell(engine, peer, address, size);
        }
        for (peer, address) in engine.paths_to_ask(now, MOST) {
            let size = self.mtu + overhead(address.ip());
            if size > LEAST {
                self.ask(engine, address, Question { peer, size, since: now });
            }
        }
    }

    fn take(&mut self, engine: &Engine, Complaint { address, mtu }: Complaint, now: Instant) {
        let Some(question) = self.asked.remove(&address) else { return };
        if mtu >= question.size {
            // Not about this one.
            self.asked.insert(address, question);
            return;
        }
        let size = mtu.max(LEAST);
        self.tell(engine, question.peer, address, size);
        if size > LEAST {
            // Behind who has complained may be somebody who can pass on even less.
            self.ask(engine, address, Question { size, since: now, ..question });
        }
    }

    /// Sends one that is as large as what is known lets it be.
    fn ask(&mut self, engine: &Engine, address: SocketAddr, mut question: Question) {
        let headers = overhead(address.ip()) - 32;
        for _ in 0..STEPS {
            match self.socket.send(address, question.size - headers) {
                Ok(()) => {
                    self.asked.insert(address, question);
                    return;
                }
                Err(Some(mtu)) if mtu < question.size && question.size > LEAST => {
                    question.size = mtu.max(LEAST);
                    self.tell(engine, question.peer, address, question.size);
                }
                // Nothing comes of it now; large packets will be a reason again.
                Err(_) => return,
            }
        }
    }

    fn tell(&self, engine: &Engine, peer: PublicKey, address: SocketAddr, size: usize) {
        let limit = size.saturating_sub(overhead(address.ip()));
        engine.path_found(&peer, address, Some(limit).filter(|limit| *limit < self.mtu));
    }
}

/// Whether a datagram is one of a scout's.
pub fn is_question(datagram: &[u8]) -> bool {
    datagram.iter().take(16).all(|byte| *byte == 0) && datagram.len() > 16
}

/// Somebody could not pass on a datagram to `address`, of which `mtu` bytes would have passed.
struct Complaint {
    address: SocketAddr,
    mtu: usize,
}

/// The socket, with its queue of errors (ip(7), IP_RECVERR).
struct Socket {
    socket: UdpSocket,
    v6: bool,
    zeroes: Vec<u8>,
}

impl Socket {
    fn new(socket: OwnedFd) -> io::Result<Self> {
        use libc::{IP_MTU_DISCOVER, IP_RECVERR, IPPROTO_IP, IPPROTO_IPV6};
        let socket = UdpSocket::from(socket);
        let v6 = socket.local_addr()?.is_ipv6();
        set_option(&socket, IPPROTO_IP, IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)?;
        set_option(&socket, IPPROTO_IP, IP_RECVERR, 1)?;
        if v6 {
            set_option(&socket, IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO)?;
            set_option(&socket, IPPROTO_IPV6, libc::IPV6_RECVERR, 1)?;
        }
        take_nothing(&socket)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, v6, zeroes: vec![0; 65_536] })
    }

    /// Sends a datagram of `length` bytes. An error comes with what would fit, where that is known.
    fn send(&self, to: SocketAddr, length: usize) -> Result<(), Option<usize>> {
        let to = outer(to, self.v6);
        let datagram = [IoSlice::new(&self.zeroes[..length.min(self.zeroes.len())])];
        let mut control = SendAncillaryBuffer::default();
        // An error of one before may be told here.
        for _ in 0..2 {
            match sendmsg_addr(&self.socket, &to, &datagram, &mut control, SendFlags::empty()) {
                Ok(_) => return Ok(()),
                // The kernel knows without asking, and has put it into the queue.
                Err(Errno::MSGSIZE) => {
                    let known = (0..MOST).map_while(|_| self.error()).filter(|e| e.is_local());
                    if let Some(error) = known.last() {
                        return Err(Some(error.info));
                    }
                }
                Err(_) => {}
            }
        }
        Err(None)
    }

    /// The next complaint of the network's.
    fn complaint(&self) -> Option<Complaint> {
        let errors = (0..MOST).map_while(|_| self.error());
        let mut told = errors.filter(|error| error.is_too_big() && !error.is_local());
        told.find_map(|error| Some(Complaint { address: error.about?, mtu: error.info }))
    }

    /// Takes the next error out of the queue.
    fn error(&self) -> Option<SocketError> {
        let (mut name, mut control) = ([0_u64; 16], [0_u64; 64]);
        // SAFETY: msghdr is a plain C structure, for which all zeroes is a value.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_name = name.as_mut_ptr().cast();
        message.msg_namelen = size_of_val(&name) as libc::socklen_t;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control) as _;
        let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
        // SAFETY: the name and the control buffer outlive the call, are aligned and have the lengths
        // given; there is no buffer for content.
        let result = unsafe { libc::recvmsg(self.socket.as_raw_fd(), &raw mut message, flags) };
        if result < 0 {
            return None;
        }
        let bytes = |words: &[u64]| words.iter().flat_map(|w| w.to_ne_bytes()).collect::<Vec<_>>();
        let control = bytes(&control);
        let about = address(&bytes(&name));
        SocketError::read(control.get(..message.msg_controllen as usize)?, about)
    }
}

/// An error about a datagram of ours (struct sock_extended_err).
#[derive(Debug, PartialEq, Eq)]
struct SocketError {
    number: u32,
    /// SO_EE_ORIGIN_*.
    origin: u8,
    info: usize,
    /// Where the datagram was to go.
    about: Option<SocketAddr>,
}

impl SocketError {
    /// Out of control messages: each has its length, level and type before its data (cmsg(3)).
    fn read(mut control: &[u8], about: Option<SocketAddr>) -> Option<Self> {
        let header = size_of::<libc::cmsghdr>();
        let number = |bytes: &[u8], at: usize| {
            let bytes = bytes.get(at..at + 4)?.try_into().ok()?;
            Some(u32::from_ne_bytes(bytes))
        };
        loop {
            let length = usize::from_ne_bytes(control.first_chunk().copied()?);
            let message = control.get(header..length)?;
            let kind = (number(control, header - 8)?, number(control, header - 4)?);
            let wanted =
                [(libc::IPPROTO_IP, libc::IP_RECVERR), (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)];
            if wanted.map(|(l, t)| (l.cast_unsigned(), t.cast_unsigned())).contains(&kind) {
                return Some(Self {
                    number: number(message, 0)?,
                    origin: *message.get(4)?,
                    info: number(message, 8)? as usize,
                    about,
                });
            }
            control = control.get(length.next_multiple_of(size_of::<usize>())..)?;
        }
    }

    fn is_too_big(&self) -> bool {
        self.number == libc::EMSGSIZE.cast_unsigned()
    }

    fn is_local(&self) -> bool {
        self.origin == libc::SO_EE_ORIGIN_LOCAL
    }
}

/// A socket address as the kernel writes it, with IPv4 as IPv4.
fn address(bytes: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    match i32::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?)) {
        libc::AF_INET => {
            let ip: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
            Some((Ipv4Addr::from(ip), port).into())
        }
        libc::AF_INET6 => {
            let ip: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
            let scope = u32::from_ne_bytes(bytes.get(24..28)?.try_into().ok()?);
            Some(match Ipv6Addr::from(ip).to_canonical() {
                IpAddr::V4(v4) => (v4, port).into(),
                IpAddr::V6(v6) => SocketAddrV6::new(v6, port, 0, scope).into(),
            })
        }
        _ => None,
    }
}

/// Lets the kernel drop whatever comes; errors are no datagrams.
fn take_nothing(socket: &UdpSocket) -> io::Result<()> {
    let mut nothing = [libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0 }];
    let program = libc::sock_fprog { len: 1, filter: nothing.as_mut_ptr() };
    // SAFETY: the kernel copies the program, whose one instruction ("return 0") outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::io::bind_scout;

    #[test]
    fn errors_come_with_what_they_are_about_and_nothing_else_comes() {
        let scout = Socket::new(bind_scout().unwrap()).unwrap();
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(other) = UdpSocket::bind(local) else { continue };
            let nobody = other.local_addr().unwrap();
            scout.send(nobody, 100).unwrap();
            assert_eq!(other.recv_from(&mut [0; 200]).unwrap().0, 100);
            assert_eq!(scout.error(), None);
            let own = SocketAddr::new(nobody.ip(), scout.socket.local_addr().unwrap().port());
            other.send_to(b"hello", own).unwrap();
            drop(other);
            scout.send(nobody, 100).unwrap();
            let error = scout.error().unwrap();
            assert_eq!(error.number, libc::ECONNREFUSED.cast_unsigned());
            assert_eq!((error.about, error.is_local()), (Some(nobody), false));
            assert!(!error.is_too_big());
        }
        let nothing = scout.socket.recv(&mut [0; 10]).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn control_messages_are_read_with_care() {
        let whole = |level: i32, kind: i32, data: &[u8]| {
            let mut message = (16 + data.len()).to_ne_bytes().to_vec();
            message.extend([level, kind].iter().flat_map(|n| n.to_ne_bytes()));
            message.extend(data);
            message.resize(message.len().next_multiple_of(8), 0);
            message
        };
        let mut data = 90_u32.to_ne_bytes().to_vec();
        data.extend([2, 3, 4, 0]);
        data.extend(1300_u32.to_ne_bytes());
        data.extend([0; 12]);
        let mut control = whole(libc::IPPROTO_IP, libc::IP_TTL, &[1, 2, 3]);
        control.extend(whole(libc::IPPROTO_IP, libc::IP_RECVERR, &data));
        let error = SocketError::read(&control, None).unwrap();
        assert_eq!((error.info, error.is_too_big(), error.is_local()), (1300, true, false));
        for length in 0..control.len() {
            let _ = SocketError::read(&control[..length], None);
        }
        for length in 0_usize..40 {
            let mut broken = control.clone();
            broken[..8].copy_from_slice(&length.to_ne_bytes());
            let _ = SocketError::read(&broken, None);
        }
    }
}
