//! The two ends of the data path as descriptors: the tunnel's interface and the UDP socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use quinn_udp::{EcnCodepoint, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, sockopt};

use super::outbox::{Endpoint, Wire};

/// How long a full send buffer may hold up the data path before packets are dropped.
const SEND_PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// Waits until `fd` can be read.
pub fn wait_readable(fd: impl AsFd) -> io::Result<()> {
    wait(fd, PollFlags::IN, None).map(|_| ())
}

/// Waits for `flags`; false when the time is over.
fn wait(fd: impl AsFd, flags: PollFlags, patience: Option<&Timespec>) -> io::Result<bool> {
    loop {
        match poll(&mut [PollFd::new(&fd, flags)], patience) {
            Err(Errno::INTR) => {}
            other => return Ok(other? > 0),
        }
    }
}

/// The UDP socket.
pub struct Udp {
    socket: UdpSocket,
    state: UdpSocketState,
    /// An IPv6 socket, which speaks IPv4 too by way of mapped addresses.
    v6: bool,
    /// Whether one call may send many datagrams.
    bulk: AtomicBool,
}

impl Udp {
    /// Takes a bound socket and sets it up.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        let socket = UdpSocket::from(socket);
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        let v6 = socket.local_addr()?.is_ipv6();
        allow_fragments(&socket, v6)?;
        let bulk = AtomicBool::new(state.max_gso_segments() > 1);
        Ok(Self { socket, state, v6, bulk })
    }

    /// The port that it is bound to.
    pub fn port(&self) -> io::Result<u16> {
        Ok(self.socket.local_addr()?.port())
    }

    /// Whether one call sends many datagrams.
    pub fn sends_in_bulk(&self) -> bool {
        self.bulk.load(Relaxed)
    }

    /// Whether one call receives many datagrams.
    pub fn receives_in_bulk(&self) -> bool {
        self.state.gro_segments() > 1
    }

    /// Waits until there is something to receive.
    pub fn wait(&self) -> io::Result<()> {
        wait_readable(&self.socket)
    }

    /// Receives what there is, at most one bundle of datagrams for each buffer; does not wait.
    pub fn receive(
        &self,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> io::Result<usize> {
        self.state.recv(UdpSockRef::from(&self.socket), buffers, metas)
    }

    /// One call; waits a moment where the send buffer is full.
    fn send_once(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let socket = || UdpSockRef::from(&self.socket);
        match self.state.try_send(socket(), transmit) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                wait(&self.socket, PollFlags::OUT, Some(&SEND_PATIENCE))?;
                self.state.try_send(socket(), transmit)
            }
            other => other,
        }
    }

    /// As [`Self::send_once`], from an address that may have gone.
    fn send_from(&self, transmit: &mut Transmit<'_>) -> io::Result<()> {
        match self.send_once(transmit) {
            Err(e) if transmit.src_ip.is_some() && e.kind() != io::ErrorKind::WouldBlock => {
                transmit.src_ip = None;
                self.send_once(transmit)
            }
            other => other,
        }
    }
}

impl Wire for Udp {
    fn send(&self, to: &Endpoint, bytes: &[u8], length: usize, ecn: u8) -> io::Result<()> {
        let mut transmit = Transmit {
            destination: outer(to.address, self.v6),
            ecn: EcnCodepoint::from_bits(ecn),
            contents: bytes,
            segment_size: Some(length),
            src_ip: to.local.map(|local| outer(SocketAddr::new(local, 0), self.v6).ip()),
        };
        if bytes.len() <= length || self.bulk.load(Relaxed) {
            match self.send_from(&mut transmit) {
                Err(e) if bytes.len() > length && e.kind() != io::ErrorKind::WouldBlock => {
                    // A driver that cannot do it says EIO; a path that cannot, EMSGSIZE or EINVAL.
                    if e.raw_os_error() == Some(Errno::IO.raw_os_error()) {
                        self.bulk.store(false, Relaxed);
                    }
                }
                other => return other,
            }
        }
        bytes.chunks(length).try_for_each(|datagram| {
            self.send_from(&mut Transmit {
                contents: datagram,
                segment_size: None,
                ..transmit.clone()
            })
        })
    }
}

/// Where a datagram came from, with IPv4 as IPv4.
pub fn sender(meta: &RecvMeta) -> Endpoint {
    let address = match meta.addr {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(v4.into(), v6.port()),
            // The flow label is not part of where somebody is.
            None => SocketAddrV6::new(*v6.ip(), v6.port(), 0, v6.scope_id()).into(),
        },
        v4 => v4,
    };
    // A link-local address of ours would need its interface too.
    let local = meta.dst_ip.map(|ip| ip.to_canonical()).filter(|ip| !is_link_local(*ip));
    Endpoint { address, local }
}

fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// An address as the socket wants it.
pub fn outer(address: SocketAddr, v6: bool) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(v4) if v6 => {
            let mapped: Ipv6Addr = v4.to_ipv6_mapped();
            SocketAddr::new(mapped.into(), address.port())
        }
        _ => address,
    }
}

/// Lets routers and this host cut up datagrams that are too large for the path, as the kernel's
/// WireGuard does: slow is better than silence where the spec's MTU is too large, until the scout
/// knows. Over IPv4 nobody can make this host cut up more than its own interfaces want; over IPv6 it
/// is the one to do it, for paths as narrow as 1280 bytes.
fn allow_fragments(socket: &UdpSocket, v6: bool) -> io::Result<()> {
    use libc::{IP_MTU_DISCOVER, IP_PMTUDISC_OMIT, IPPROTO_IP, IPPROTO_IPV6};
    set_option(socket, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_OMIT)?;
    if v6 {
        set_option(socket, IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT)?;
        set_option(socket, IPPROTO_IPV6, libc::IPV6_DONTFRAG, 0)?;
    }
    Ok(())
}

/// Sets a socket option that is an integer.
pub fn set_option(socket: &UdpSocket, level: i32, name: i32, value: i32) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: the pointer and size are those of `value`, an integer as these options want it, and
    // the kernel only reads it during the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The buffer sizes of the socket, in bytes: enough for bursts at gigabits in a second.
const SOCKET_BUFFER: i32 = 4 << 20;

/// Binds the VPN's sockets in the calling thread's network namespace, as many as there are queues;
/// the kernel gives all datagrams of one sender to one of them.
pub fn bind_several(port: u16, queues: usize) -> io::Result<Vec<OwnedFd>> {
    (0..queues).map(|_| bind(port, queues > 1)).collect()
}

/// Binds the socket of the scout to a port that the kernel chooses.
pub fn bind_scout() -> io::Result<OwnedFd> {
    bind_any(0, false).map(OwnedFd::from)
}

/// Binds one, with large buffers.
fn bind(port: u16, shared: bool) -> io::Result<OwnedFd> {
    let socket = bind_any(port, shared)?;
    // Beyond the system's limit that needs a privilege, which the agent has. Not an error: small
    // buffers work.
    let _ = set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, SOCKET_BUFFER);
    let _ = set_option(&socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, SOCKET_BUFFER);
    Ok(socket.into())
}

/// Binds to IPv6 and IPv4 at once, or to IPv4 alone where IPv6 is off.
fn bind_any(port: u16, shared: bool) -> io::Result<UdpSocket> {
    let v6 = (AddressFamily::INET6, SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)));
    let v4 = (AddressFamily::INET, SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
    bind_to(v6, shared).or_else(|error| match Errno::from_io_error(&error) {
        Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL) => bind_to(v4, shared),
        _ => Err(error),
    })
}

fn bind_to((family, at): (AddressFamily, SocketAddr), shared: bool) -> io::Result<UdpSocket> {
    let fd = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    if family == AddressFamily::INET6 {
        sockopt::set_ipv6_v6only(&fd, false)?;
    }
    if shared {
        // Only with sockets of the same user, which is root.
        sockopt::set_socket_reuseport(&fd, true)?;
    }
    rustix::net::bind(&fd, &at)?;
    Ok(fd.into())
}

/// The tunnel's interface: packets with their virtio headers.
pub struct Tun(OwnedFd);

impl Tun {
    /// Takes the descriptor of a TUN device that was made with a virtio header of ten bytes.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self(fd))
    }

    /// Waits until there is something to read.
    pub fn wait(&self) -> io::Result<()> {
        wait_readable(&self.0)
    }

    /// Reads one packet; does not wait.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.0, buffer)?)
    }

    /// Writes one packet, which is in parts.
    pub fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        rustix::io::writev(&self.0, parts)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_meet_at_one_socket() {
        let wire = Udp::new(bind(0, false).unwrap()).unwrap();
        let port = wire.socket.local_addr().unwrap().port();
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(other) = UdpSocket::bind(local) else { continue };
            let own = other.local_addr().unwrap();
            other.send_to(b"hello", (own.ip(), port)).unwrap();
            wire.wait().unwrap();
            let mut bytes = [0; 100];
            let mut metas = [RecvMeta::default()];
            wire.receive(&mut [IoSliceMut::new(&mut bytes)], &mut metas).unwrap();
            let from = sender(&metas[0]);
            assert_eq!(from, Endpoint { address: own, local: Some(own.ip()) });
            wire.send(&from, b"abcabcab", 3, 0).unwrap();
            for wanted in [&b"abc"[..], b"abc", b"ab"] {
                let length = other.recv(&mut bytes).unwrap();
                assert_eq!(&bytes[..length], wanted);
            }
        }
    }

    #[test]
    fn an_address_of_ours_that_has_gone_is_not_insisted_on() {
        let wire = Udp::new(bind(0, false).unwrap()).unwrap();
        let other = UdpSocket::bind("127.0.0.1:0").unwrap();
        let local = Some("192.0.2.200".parse().unwrap());
        let to = Endpoint { address: other.local_addr().unwrap(), local };
        wire.send(&to, b"still", 5, 0).unwrap();
        assert_eq!(other.recv(&mut [0; 10]).unwrap(), 5);
        assert!(wire.sends_in_bulk());
    }
}
