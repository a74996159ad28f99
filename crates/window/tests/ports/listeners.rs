//! Who hears a listener.

use std::io::{ErrorKind, Read};
use std::net::SocketAddrV6;
use std::num::NonZeroU32;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use hyperspector_sys::netns;
use libc as l;
use socket2::Socket;

use super::lab::{Lab, registered};
use super::server::{From, Outside, at, disconnect, outward, port, reset_at_end, set, stream};

/// A listener without a registered port, and what must not be dropped with it.
type Way = fn(&Outside) -> Vec<Socket>;

const WAYS: &[(&str, Way)] = &[
    ("bind to port 0", |_| bound("0.0.0.0", |_| {})),
    ("bind to port 0 of all addresses", |_| bound("::", |_| {})),
    ("IPV6_V6ONLY", |_| bound("::", |socket| socket.set_only_v6(true).unwrap())),
    ("one address", |_| bound("10.9.0.1", |_| {})),
    ("SO_REUSEPORT", |_| bound("::", |socket| socket.set_reuse_port(true).unwrap())),
    ("SO_REUSEADDR", |_| bound("0.0.0.0", |socket| socket.set_reuse_address(true).unwrap())),
    ("IP_BIND_ADDRESS_NO_PORT", |_| {
        bound("10.9.0.1", |socket| {
            set(socket, l::IPPROTO_IP, l::IP_BIND_ADDRESS_NO_PORT, 1).unwrap();
        })
    }),
    ("no bind at all", |_| vec![listening(stream(false))]),
    ("no bind at all, IPv6", |_| vec![listening(stream(true))]),
    ("SO_BINDTODEVICE before", |_| {
        bound("0.0.0.0", |socket| socket.bind_device(Some(b"h0")).unwrap())
    }),
    ("SO_BINDTOIFINDEX before", |_| {
        bound("::", |socket| socket.bind_device_by_index_v6(NonZeroU32::new(outward())).unwrap())
    }),
    ("SO_BINDTODEVICE after", |_| {
        let sockets = bound("0.0.0.0", |_| {});
        sockets[0].bind_device(Some(b"h0")).unwrap();
        sockets
    }),
    ("a link-local address", |_| {
        let socket = stream(true);
        let local = SocketAddrV6::new("fe80::1".parse().unwrap(), 0, 0, outward());
        socket.bind(&local.into()).unwrap();
        vec![listening(socket)]
    }),
    ("a client that listens", |_| {
        let socket = stream(false);
        socket.connect(&at("10.9.0.2", 7001)).unwrap();
        disconnect(&socket).unwrap();
        vec![listening(socket)]
    }),
    ("a connection of a registered listener that listens", |outside| {
        let server = stream(true);
        server.bind(&at("::", 8000)).unwrap();
        let server = listening(server);
        assert!(outside.connects(From::Peer, "fe80::1", 8000));
        let (accepted, _) = server.accept().unwrap();
        disconnect(&accepted).unwrap();
        vec![listening(accepted), server]
    }),
    ("twice", |_| {
        let sockets = bound("::", |_| {});
        sockets[0].listen(16).unwrap();
        sockets[0].shutdown(std::net::Shutdown::Read).unwrap();
        sockets.into_iter().map(listening).collect()
    }),
];

fn listening(socket: Socket) -> Socket {
    socket.listen(8).unwrap();
    socket
}

/// A listener on an address and any port.
fn bound(address: &str, prepare: impl FnOnce(&Socket)) -> Vec<Socket> {
    let socket = stream(address.contains(':'));
    prepare(&socket);
    socket.bind(&at(address, 0)).unwrap();
    vec![listening(socket)]
}

pub fn on_any_port() {
    let lab = Lab::new();
    let guarded = lab.guarded(&registered("tcp/8000"));
    let _server = netns::within(lab.peer.as_fd(), || {
        let socket = stream(false);
        socket.bind(&at("0.0.0.0", 7001)).unwrap();
        listening(socket)
    })
    .unwrap();
    let reached = |outside: &Outside, way: Way| {
        let sockets = way(outside);
        let port = port(&sockets[0]);
        assert!(sockets[0].is_listener().unwrap() && port != 8000);
        let addresses = ["127.0.0.1", "::1", "10.9.0.1", "fd09::1", "fe80::1"];
        let from_base = addresses.iter().any(|to| outside.connects(From::Base, to, port));
        (outside.reaches(port), from_base)
    };
    lab.run(&lab.free, |outside| {
        for (name, way) in WAYS {
            assert!(reached(outside, *way).0, "{name}: cannot be reached without a guard either");
        }
    });
    lab.run(&guarded.cgroup, |outside| {
        for (name, way) in WAYS {
            let (from_peer, from_base) = reached(outside, *way);
            assert!(!from_peer, "{name}: reached from another host");
            assert!(from_base || name.contains("DEVICE") || name.contains("IFINDEX"), "{name}");
        }
    });
    assert!(guarded.counts().listens >= WAYS.len() as u64);
}

pub fn registered_ones() {
    let lab = Lab::new();
    let guarded = lab.guarded(&registered("tcp/8000"));
    lab.run(&guarded.cgroup, |outside| {
        let server = stream(true);
        server.bind(&at("::", 8000)).unwrap();
        let _server = listening(server);
        for to in ["10.9.0.1", "fd09::1", "fe80::1"] {
            assert!(outside.connects(From::Peer, to, 8000), "{to}");
        }
        for to in ["127.0.0.1", "::1", "10.9.0.1"] {
            assert!(outside.connects(From::Base, to, 8000), "{to}");
        }
    });
}

pub fn fast_open() {
    let lab = Lab::new();
    for namespace in [&lab.host, &lab.peer] {
        netns::sysctl(namespace.as_fd(), "net/ipv4/tcp_fastopen", "3").unwrap();
    }
    let guarded = lab.guarded(&registered("tcp/8000"));
    // What the peer puts into its first packet; a cookie for it comes from the registered port.
    let early = |outside: &Outside| {
        let open = |number| {
            let socket = stream(false);
            socket.bind(&at("0.0.0.0", number)).unwrap();
            set(&socket, l::IPPROTO_TCP, l::TCP_FASTOPEN, 8).unwrap();
            listening(socket)
        };
        let (cookies, listener) = (open(8000), open(0));
        outside.fast_open("10.9.0.1", 8000);
        assert!(cookies.accept().is_ok());
        outside.fast_open("10.9.0.1", port(&listener));
        listener.set_nonblocking(true).unwrap();
        let (mut connection, _) = listener.accept()?;
        connection.set_nonblocking(true).unwrap();
        connection.read(&mut [0; 16])
    };
    lab.run(&lab.free, |outside| assert_eq!(early(outside).unwrap(), 5));
    lab.run(&guarded.cgroup, |outside| {
        assert_eq!(early(outside).unwrap_err().kind(), ErrorKind::WouldBlock);
    });
}

/// How many come in, of those that the peer tries while a program listens again and again.
fn get_in(outside: &Outside) -> usize {
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let accepted = scope.spawn(|| {
            let mut accepted = 0;
            while !ended.load(Ordering::Relaxed) {
                let socket = stream(false);
                socket.set_reuse_address(true).unwrap();
                socket.set_nonblocking(true).unwrap();
                // Every port may be busy with what is ending.
                let _ = socket.listen(8);
                let connections = std::iter::from_fn(|| socket.accept().ok());
                accepted += connections.take(50).map(|(one, _)| reset_at_end(&one)).count();
            }
            accepted
        });
        outside.flood(&FEW_PORTS);
        ended.store(true, Ordering::Relaxed);
        accepted.join().unwrap()
    })
}

/// All that programs without a port of their own are given.
const FEW_PORTS: [u16; 4] = [40000, 40001, 40002, 40003];

pub fn first_moment() {
    let lab = Lab::new();
    netns::sysctl(lab.host.as_fd(), "net/ipv4/ip_local_port_range", "40000 40003").unwrap();
    let guarded = lab.guarded(&registered("tcp/8000"));
    lab.run(&guarded.cgroup, |outside| assert_eq!(get_in(outside), 0));
    lab.run(&lab.free, |outside| assert!(get_in(outside) > 0));
    assert!(guarded.counts().listens > 0);
}
