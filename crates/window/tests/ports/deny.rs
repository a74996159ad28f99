//! What the host offers, and other ways onto the network.

use std::io::{self, Read};
use std::net::SocketAddrV6;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use hyperspector_sys::netns;
use hyperspector_window::packets;
use hyperspector_window::ports;
use libc as l;
use socket2::{SockAddr, Socket};

use super::lab::{Lab, denied};
use super::server::{at, datagram, errno, outward, set, stream};

/// A service of the base system that listens everywhere.
fn service(namespace: impl AsFd, port: u16) -> (Socket, [Socket; 2]) {
    let open = || {
        let socket = stream(true);
        socket.bind(&at("::", port)).unwrap();
        socket.listen(64).unwrap();
        let (four, six) = (datagram(false), datagram(true));
        six.set_only_v6(true).unwrap();
        four.bind(&at("0.0.0.0", port)).unwrap();
        six.bind(&at("::", port)).unwrap();
        (socket, [four, six])
    };
    netns::within(namespace.as_fd(), open).unwrap()
}

/// An address of the host's own interface, with its scope.
fn scoped(address: &str, port: u16) -> SockAddr {
    SocketAddrV6::new(address.parse().unwrap(), port, 0, outward()).into()
}

/// Every form of address that leads to the host; those that name loopback first.
fn addresses(port: u16) -> (Vec<SockAddr>, Vec<SockAddr>) {
    let loopback = ["127.0.0.1", "127.1.2.3", "127.255.255.254", "0.0.0.0", "::1", "::"];
    let mapped = ["::ffff:127.0.0.1", "::ffff:127.9.9.9", "::ffff:0.0.0.0"];
    let own = ["10.9.0.1", "fd09::1", "::ffff:10.9.0.1"];
    let own = own.iter().map(|address| at(address, port)).chain([scoped("fe80::1", port)]);
    (loopback.iter().chain(&mapped).map(|address| at(address, port)).collect(), own.collect())
}

const SOON: Duration = Duration::from_millis(300);

/// As clients do; with data in the first packet; with that put off until there is data.
fn connect(address: &SockAddr) -> [i32; 3] {
    let send = |socket: &Socket| {
        socket.set_write_timeout(Some(SOON)).unwrap();
        errno(socket.send_to_with_flags(b"x", address, l::MSG_FASTOPEN))
    };
    let later = || {
        let socket = stream(address.is_ipv6());
        set(&socket, l::IPPROTO_TCP, l::TCP_FASTOPEN_CONNECT, 1).unwrap();
        socket.set_write_timeout(Some(SOON)).unwrap();
        errno(socket.connect(address).and_then(|()| socket.send(b"x").map(drop)))
    };
    let plain = match stream(address.is_ipv6()).connect_timeout(address, SOON) {
        Err(error) if error.kind() == io::ErrorKind::TimedOut => l::ETIMEDOUT,
        other => errno(other),
    };
    [plain, send(&stream(address.is_ipv6())), later()]
}

pub fn streams() {
    let lab = Lab::new();
    let (tcp, _) = service(&lab.host, 7001);
    tcp.set_nonblocking(true).unwrap();
    let guarded = lab.guarded(&denied("tcp/7001"));
    let (loopback, own) = netns::within(lab.host.as_fd(), || addresses(7001)).unwrap();
    lab.run(&lab.free, |_| {
        for address in loopback.iter().chain(&own) {
            assert_eq!(connect(address)[0], 0, "{address:?}");
        }
    });
    while tcp.accept().is_ok() {}
    lab.run(&guarded.cgroup, |_| {
        for address in &loopback {
            assert_eq!(connect(address), [l::EACCES; 3], "{address:?}");
        }
        for address in &own {
            let [plain, ..] = connect(address);
            assert_eq!(plain, l::ETIMEDOUT, "{address:?}");
        }
        // An address of one family by a socket of the other.
        let mut late = stream(true);
        late.set_write_timeout(Some(SOON)).unwrap();
        assert_ne!(errno(late.connect(&at("127.0.0.1", 7001))), 0);
        late = stream(true);
        set(&late, l::IPPROTO_IPV6, l::IPV6_V6ONLY, 0).unwrap();
        assert_eq!(errno(late.connect(&at("::ffff:127.0.0.1", 7001))), l::EACCES);
    });
    assert_eq!(tcp.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

/// Every way to send a datagram to `address`.
fn send(address: &SockAddr) -> Vec<i32> {
    let prepared = |six: bool| {
        let socket = datagram(six);
        set(&socket, l::SOL_SOCKET, l::SO_BROADCAST, 1).unwrap();
        let device = outward().cast_signed();
        if six {
            set(&socket, l::IPPROTO_IPV6, l::IPV6_MULTICAST_IF, device).unwrap();
        } else if *address == at("255.255.255.255", 7001) {
            socket.bind_device(Some(b"h0")).unwrap();
        } else {
            socket.set_multicast_if_v4(&"10.9.0.1".parse().unwrap()).unwrap();
        }
        socket
    };
    let mut families = vec![address.is_ipv6()];
    if !address.is_ipv6() {
        // A socket for IPv6 takes addresses of IPv4 too.
        families.push(true);
    }
    let mut errors = Vec::new();
    for six in families {
        errors.push(errno(prepared(six).send_to(b"sent", address)));
        let socket = prepared(six);
        errors.push(errno(socket.connect(address).and_then(|()| socket.send(b"sent").map(drop))));
        errors.push(errno(send_many(&prepared(six), address)));
    }
    errors
}

/// sendmmsg(2).
fn send_many(socket: &Socket, address: &SockAddr) -> io::Result<()> {
    let data = *b"sent";
    let mut part = l::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    // SAFETY: zero bytes are a valid msghdr, which is made of integers and null pointers.
    let mut header: l::mmsghdr = unsafe { std::mem::zeroed() };
    header.msg_hdr.msg_name = address.as_ptr().cast_mut().cast();
    header.msg_hdr.msg_namelen = address.len();
    header.msg_hdr.msg_iov = &raw mut part;
    header.msg_hdr.msg_iovlen = 1;
    // SAFETY: the header, the address and the data live across the call, which sends one message.
    match unsafe { l::sendmmsg(socket.as_raw_fd(), &raw mut header, 1, 0) } {
        1 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

pub fn datagrams() {
    let lab = Lab::new();
    let (_, udp) = service(&lab.host, 7001);
    udp.iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
    let guarded = lab.guarded(&denied("udp/7001"));
    let (mut heard, own) = netns::within(lab.host.as_fd(), || addresses(7001)).unwrap();
    let wide = ["224.0.0.1", "255.255.255.255"].map(|address| at(address, 7001));
    let all = netns::within(lab.host.as_fd(), || scoped("ff02::1", 7001)).unwrap();
    heard.extend(wide.into_iter().chain([all]));
    heard.extend(own);
    let receive = |mut socket: &Socket| socket.read(&mut [0; 16]).ok();
    let count = || -> usize {
        udp.iter().map(|socket| std::iter::from_fn(|| receive(socket)).count()).sum()
    };
    for address in &heard {
        lab.run(&lab.free, |_| assert!(send(address).contains(&0), "{address:?}"));
        let address = address.as_socket();
        assert!(count() > 0, "{address:?}: not heard without a guard either");
    }
    lab.run(&guarded.cgroup, |_| {
        for address in &heard {
            for error in send(address) {
                let refused = matches!(error, l::EACCES | l::EPERM);
                assert!(refused, "{:?}: {error}", address.as_socket());
            }
        }
    });
    assert_eq!(count(), 0);
}

pub fn others() {
    let lab = Lab::new();
    let _services = [service(&lab.host, 7002), service(&lab.peer, 7001)];
    let guarded = lab.guarded(&denied("tcp/7001 udp/7001"));
    let here = netns::within(lab.host.as_fd(), || addresses(7002)).unwrap();
    lab.run(&guarded.cgroup, |_| {
        for address in here.0.iter().chain(&here.1) {
            assert_eq!(connect(address)[0], 0, "{address:?}");
            assert_eq!(send(address)[0], 0, "{address:?}");
        }
        for address in [at("10.9.0.2", 7001), at("fd09::2", 7001), scoped("fe80::2", 7001)] {
            assert_eq!(connect(&address)[0], 0, "{address:?}");
            assert_eq!(send(&address)[0], 0, "{address:?}");
        }
    });
}

pub fn other_sockets() {
    const MPTCP: i32 = 262;
    let lab = Lab::new();
    let open = |family, kind, protocol| {
        // SAFETY: socket takes three integers; the descriptor stays open until the child ends.
        let fd = unsafe { l::socket(family, kind, protocol) };
        if fd < 0 { io::Error::last_os_error().raw_os_error().unwrap() } else { 0 }
    };
    lab.run(&lab.free, |_| {
        let (refusing, asking) = packets::compile(ports::rules()).unwrap();
        assert!(asking.is_none());
        assert_eq!(open(l::AF_INET, l::SOCK_STREAM, MPTCP), 0);
        assert_eq!(open(l::AF_VSOCK, l::SOCK_STREAM, 0), 0);
        rustix::thread::set_no_new_privs(true).unwrap();
        for program in &refusing {
            seccompiler::apply_filter(program).unwrap();
        }
        assert_eq!(open(l::AF_INET, l::SOCK_STREAM, MPTCP), l::EPROTONOSUPPORT);
        assert_eq!(open(l::AF_INET6, l::SOCK_STREAM, MPTCP), l::EPROTONOSUPPORT);
        assert_eq!(open(l::AF_VSOCK, l::SOCK_STREAM, 0), l::EAFNOSUPPORT);
        assert_eq!(open(l::AF_PACKET, l::SOCK_DGRAM, 0), l::EPERM);
        assert_eq!(open(l::AF_INET, l::SOCK_RAW, l::IPPROTO_ICMP), l::EPERM);
        let refused = open(l::AF_INET, l::SOCK_SEQPACKET, l::IPPROTO_SCTP);
        assert!(matches!(refused, l::EPROTONOSUPPORT | l::ESOCKTNOSUPPORT), "{refused}");
        assert_eq!(open(l::AF_INET6, l::SOCK_STREAM | l::SOCK_CLOEXEC, 0), 0);
        assert_eq!(open(l::AF_INET, l::SOCK_DGRAM, l::IPPROTO_UDP), 0);
        assert_eq!(open(l::AF_UNIX, l::SOCK_SEQPACKET, 0), 0);
        assert_eq!(open(l::AF_NETLINK, l::SOCK_RAW, l::NETLINK_ROUTE), 0);
    });
}
