//! What can be bound.

use std::net::{SocketAddrV6, UdpSocket};

use libc as l;
use socket2::Socket;

use super::lab::{Lab, registered};
use super::server::{From, at, datagram, errno, outward, port, set, stream};

/// Binds a new socket: `six` for IPv6, which then listens on both.
fn bind(kind: fn(bool) -> Socket, six: bool, number: u16) -> i32 {
    errno(kind(six).bind(&at(if six { "::" } else { "0.0.0.0" }, number)))
}

pub fn registered_or_refused() {
    let lab = Lab::new();
    let guarded = lab.guarded(&registered("tcp/8000 tcp/8010-8012 udp/8053"));
    lab.run(&lab.free, |_| {
        assert_eq!(bind(stream, false, 8001), 0);
        assert_eq!(bind(datagram, true, 8000), 0);
    });
    lab.run(&guarded.cgroup, |_| {
        for six in [false, true] {
            for number in [8000, 8010, 8011, 8012, 0] {
                assert_eq!(bind(stream, six, number), 0, "tcp/{number}");
            }
            for number in [1, 80, 7999, 8001, 8009, 8013, 8053, 40000, 65535] {
                assert_eq!(bind(stream, six, number), l::EACCES, "tcp/{number}");
            }
            for number in [8053, 0] {
                assert_eq!(bind(datagram, six, number), 0, "udp/{number}");
            }
            for number in [53, 8000, 8052, 8054, 40000] {
                assert_eq!(bind(datagram, six, number), l::EACCES, "udp/{number}");
            }
        }
    });
}

pub fn low_ports() {
    let lab = Lab::new();
    let guarded = lab.guarded(&registered("tcp/80 udp/53"));
    lab.run(&lab.free, |_| assert_eq!(bind(stream, false, 80), l::EACCES));
    lab.run(&guarded.cgroup, |outside| {
        let web = stream(true);
        web.bind(&at("::", 80)).unwrap();
        web.listen(8).unwrap();
        assert!(outside.connects(From::Peer, "10.9.0.1", 80));
        assert!(outside.connects(From::Peer, "fd09::1", 80));
        assert_eq!(bind(datagram, false, 53), 0);
        assert_eq!(bind(datagram, true, 53), 0);
        assert_eq!(bind(stream, false, 81), l::EACCES);
    });
}

/// What a program can set before it binds.
const OPTIONS: &[(i32, i32)] = &[
    (l::SOL_SOCKET, l::SO_REUSEADDR),
    (l::SOL_SOCKET, l::SO_REUSEPORT),
    (l::IPPROTO_IP, l::IP_FREEBIND),
    (l::IPPROTO_IP, l::IP_BIND_ADDRESS_NO_PORT),
    (l::IPPROTO_IPV6, l::IPV6_V6ONLY),
    (l::SOL_SOCKET, l::SO_BROADCAST),
];

pub fn options() {
    let lab = Lab::new();
    let guarded = lab.guarded(&registered("tcp/8000 udp/8000"));
    let every_way = |expected: i32| {
        for kind in [stream, datagram] {
            for (level, name) in OPTIONS {
                let socket = kind(true);
                set(&socket, *level, *name, 1).unwrap();
                assert_eq!(errno(socket.bind(&at("::", 8001))), expected, "option {name}");
            }
            let addresses = ["::1", "fd09::1", "::ffff:10.9.0.1", "::ffff:127.0.0.1"];
            for address in addresses {
                assert_eq!(errno(kind(true).bind(&at(address, 8001))), expected, "{address}");
            }
            let local = SocketAddrV6::new("fe80::1".parse().unwrap(), 8001, 0, outward());
            assert_eq!(errno(kind(true).bind(&local.into())), expected);
            assert_eq!(errno(kind(false).bind(&at("127.0.0.1", 8001))), expected);
        }
    };
    lab.run(&lab.free, |_| every_way(0));
    lab.run(&guarded.cgroup, |_| {
        every_way(l::EACCES);
        // Several on a registered port, as servers with many processes have them.
        let shared = || {
            let socket = stream(false);
            socket.set_reuse_port(true).unwrap();
            socket.bind(&at("0.0.0.0", 8000)).unwrap();
            socket.listen(8).unwrap();
            socket
        };
        let _both = (shared(), shared());
    });
}

pub fn of_another() {
    let lab = Lab::new();
    let (one, other) =
        (lab.guarded(&registered("tcp/8000 udp/8000")), lab.guarded(&registered("tcp/9000")));
    lab.run(&one.cgroup, |_| {
        assert_eq!(bind(stream, false, 8000), 0);
        assert_eq!(bind(stream, false, 9000), l::EACCES);
    });
    // Whether its owner runs or not, and shares it or not.
    lab.run(&other.cgroup, |_| {
        for kind in [stream, datagram] {
            let socket = kind(false);
            socket.set_reuse_port(true).unwrap();
            socket.set_reuse_address(true).unwrap();
            assert_eq!(errno(socket.bind(&at("10.9.0.1", 8000))), l::EACCES);
        }
        assert_eq!(bind(stream, true, 9000), 0);
    });
}

pub fn clients() {
    let lab = Lab::new();
    let guarded = lab.guarded(&registered("tcp/8000"));
    let listen = || {
        let socket = stream(true);
        socket.bind(&at("::", 7001)).unwrap();
        socket.listen(8).unwrap();
        (socket, UdpSocket::bind("[::]:7001").unwrap())
    };
    use std::os::fd::AsFd;
    let (_server, echo) = hyperspector_sys::netns::within(lab.peer.as_fd(), listen).unwrap();
    let answer = || {
        let mut buffer = [0; 16];
        let (got, from) = echo.recv_from(&mut buffer).unwrap();
        echo.send_to(&buffer[..got], from).unwrap();
    };
    lab.run_beside(&guarded.cgroup, answer, |outside| {
        for to in ["10.9.0.2", "fd09::2"] {
            let plain = stream(to.contains(':'));
            plain.connect(&at(to, 7001)).unwrap();
            // With a source address of its own choice.
            let chosen = stream(to.contains(':'));
            chosen.bind(&at(if to.contains(':') { "fd09::1" } else { "10.9.0.1" }, 0)).unwrap();
            chosen.connect(&at(to, 7001)).unwrap();
            assert!(port(&chosen) > 0);
            let asks = UdpSocket::bind(if to.contains(':') { "[::]:0" } else { "0.0.0.0:0" });
            let asks = asks.unwrap();
            asks.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
            asks.send_to(b"hello", (to, 7001)).unwrap();
            outside.act();
            assert_eq!(asks.recv(&mut [0; 16]).unwrap(), 5);
        }
    });
}
