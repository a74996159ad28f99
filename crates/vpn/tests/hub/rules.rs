//! What is allowed, and nothing else, passes.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use hyperspector_spec::plan::{Open, Policy, Protocol};
use hyperspector_sys::netlink::{Connection, Route};
use hyperspector_sys::netns;
use hyperspector_vpn::hub::{GATEWAY, Hub, PORT_INDEX};

use crate::lab::{
    A, B, Fleet, PORTS, REMOTE, arrives, everything, flows, gets_through, pings, ports, run, udp,
};

#[test]
fn a_new_hub_lets_nothing_through() {
    let fleet = Fleet::new();
    fleet.hub.enforce(&Policy::default(), &[("a", A), ("b", B)]).unwrap();
    assert!(!pings(&fleet.a, B) && !pings(&fleet.b, A));
    assert!(!arrives(&fleet.a, A, &fleet.b, B));
    let directory = tempfile::Builder::new().prefix("hs-hub-").tempdir().unwrap();
    let hub = Hub::create(directory.path().join("beta")).unwrap();
    let namespace = hub.namespace().try_clone_to_owned().unwrap();
    let rules = run(&namespace, "nft", "list table ip hyperspector").stdout;
    assert!(String::from_utf8_lossy(&rules).contains("hook forward priority filter; policy drop"));
    Hub::remove(directory.path().join("beta")).unwrap();
}

#[test]
fn only_allowed_ports_are_reached_and_only_answers_come_back() {
    let fleet = Fleet::with_vpn();
    let (low, high) = (udp(&fleet.a, A, 5000), udp(&fleet.a, A, 5001));
    let (open, shut) = (udp(&fleet.remote, REMOTE, 514), udp(&fleet.remote, REMOTE, 516));
    fleet.enforce(&flows(&[(A, REMOTE, ports(Protocol::Udp, 514, 515))]));
    assert!(!gets_through(&open, &low), "the other end cannot begin, also from that port");
    assert!(!gets_through(&low, &shut));
    assert!(gets_through(&low, &open));
    assert!(gets_through(&open, &low), "an answer");
    assert!(!gets_through(&open, &high), "no answer");
    assert!(!arrives(&fleet.b, B, &fleet.remote, REMOTE), "another portspace");
    assert!(!pings(&fleet.a, REMOTE), "another protocol");
    let refused = fleet.hub.refused(&PORTS).unwrap();
    assert_eq!((refused["a"].to, refused["b"].to), (2, 0));
    assert!(refused["a"].from >= 2 && refused["b"].from == 1, "{refused:?}");

    // What is not allowed any more is cut off, though its connection is known; counts stay.
    fleet.enforce(&flows(&[(A, REMOTE, Open::Ping)]));
    assert!(!gets_through(&low, &open) && !gets_through(&open, &low));
    assert!(pings(&fleet.a, REMOTE) && !pings(&fleet.remote, A));
    assert!(fleet.hub.refused(&PORTS).unwrap()["a"].from > refused["a"].from);
    fleet.enforce(&flows(&[(A, REMOTE, Open::Everything)]));
    assert!(gets_through(&low, &shut) && pings(&fleet.a, REMOTE));
    assert!(!gets_through(&open, &high));
    // Of portspaces that are gone nothing stays.
    fleet.hub.enforce(&everything(), &[("a", A)]).unwrap();
    let refused = fleet.hub.refused(&PORTS[..1]).unwrap();
    assert_eq!(refused.keys().collect::<Vec<_>>(), ["a"]);
}

#[test]
fn a_connection_goes_on_while_the_rules_are_exchanged() {
    let fleet = Fleet::with_vpn();
    let allowed = flows(&[(A, REMOTE, ports(Protocol::Tcp, 514, 514))]);
    fleet.enforce(&allowed);
    let listener = netns::within(fleet.remote.as_fd(), || TcpListener::bind((REMOTE, 514)));
    let listener = listener.unwrap().unwrap();
    let connect = |from: &OwnedFd, to: (Ipv4Addr, u16)| {
        let patience = Duration::from_millis(800);
        netns::within(from.as_fd(), || TcpStream::connect_timeout(&to.into(), patience)).unwrap()
    };
    let mut stream = connect(&fleet.a, (REMOTE, 514)).unwrap();
    let mut other = listener.accept().unwrap().0;
    other.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    for _ in 0..20 {
        fleet.enforce(&allowed);
        stream.write_all(b"x").unwrap();
        other.read_exact(&mut [0]).unwrap();
    }
    // Whoever is refused here is told at once; whoever is refused by the other host is not.
    let start = Instant::now();
    let error = connect(&fleet.a, (REMOTE, 515)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(113), "{error}");
    assert!(start.elapsed() < Duration::from_millis(500));
    assert!(connect(&fleet.remote, (A, 22)).is_err());
}

#[test]
fn fragments_are_judged_whole() {
    let fleet = Fleet::with_vpn();
    fleet.enforce(&flows(&[(A, REMOTE, ports(Protocol::Udp, 514, 514))]));
    let from = udp(&fleet.a, A, 5000);
    let (open, shut) = (udp(&fleet.remote, REMOTE, 514), udp(&fleet.remote, REMOTE, 516));
    let mut buffer = [0; 9000];
    from.send_to(&[7; 8000], open.local_addr().unwrap()).unwrap();
    assert_eq!(open.recv(&mut buffer).unwrap(), 8000);
    let _ = from.send_to(&[7; 8000], shut.local_addr().unwrap());
    assert!(shut.recv(&mut buffer).is_err());
}

#[test]
fn what_says_its_own_way_is_dropped() {
    let fleet = Fleet::with_vpn();
    let from = udp(&fleet.a, A, 5000);
    let to = udp(&fleet.b, B, 514);
    // No operation four times, and a loose source route by b to the remote (ip(7), RFC 791).
    let route = [131, 7, 4, 10, 66, 0, 3, 0];
    for options in [[1; 8], route] {
        let set = rustix_options(&from, &options);
        assert_eq!(set, 0, "set the options of the socket");
        let before = fleet.hub.refused(&PORTS).unwrap()["a"].forged;
        assert!(!gets_through(&from, &to));
        assert_eq!(fleet.hub.refused(&PORTS).unwrap()["a"].forged, before + 1);
    }
    assert_eq!(rustix_options(&from, &[]), 0);
    assert!(gets_through(&from, &to));
}

/// Sets IP_OPTIONS (ip(7)).
fn rustix_options(socket: &UdpSocket, options: &[u8]) -> i32 {
    let (level, name) = (libc::IPPROTO_IP, libc::IP_OPTIONS);
    let length = u32::try_from(options.len()).unwrap();
    // SAFETY: the kernel reads `length` bytes of `options`, which outlives the call.
    unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, options.as_ptr().cast(), length) }
}

#[test]
fn one_address_has_so_many_connections_and_no_more() {
    let fleet = Fleet::with_vpn();
    fleet.enforce(&flows(&[(A, REMOTE, Open::Everything), (B, REMOTE, Open::Everything)]));
    let from = udp(&fleet.a, A, 5000);
    for port in 10_000..15_000 {
        let _ = from.send_to(b"?", (REMOTE, port));
    }
    let count = netns::read_sysctl(fleet.hub.namespace(), "net/netfilter/nf_conntrack_count");
    let count: u32 = count.unwrap().parse().unwrap();
    assert!((4000..=4100).contains(&count), "{count}");
    assert!(arrives(&fleet.b, B, &fleet.remote, REMOTE), "others have theirs");
}

#[test]
fn nothing_goes_to_everybody() {
    let fleet = Fleet::with_vpn();
    let from = udp(&fleet.a, A, 5000);
    from.set_broadcast(true).unwrap();
    let mut a = Connection::open_in(fleet.a.as_fd()).unwrap();
    a.add_route(&Route::via("0.0.0.0/0".parse().unwrap(), GATEWAY.into(), PORT_INDEX)).unwrap();
    let all = netns::within(fleet.b.as_fd(), || UdpSocket::bind("0.0.0.0:514")).unwrap().unwrap();
    all.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let groups = "224.0.0.1".parse().unwrap();
    netns::within(fleet.b.as_fd(), || all.join_multicast_v4(&groups, &B)).unwrap().unwrap();
    for address in ["255.255.255.255", "10.66.0.255", "224.0.0.1", "239.1.2.3"] {
        let _ = from.send_to(b"?", (address, 514));
        assert!(all.recv(&mut [0; 8]).is_err(), "{address}");
    }
}
