//! A hub between two portspaces and a VPN, each in a network namespace of the test's own. Needs root.
//!
//! ```text
//!   a 10.66.0.2 ---+
//!                  hub --- vpn0 ~~~ remote 10.66.0.9 (stands for the other hosts)
//!   b 10.66.0.3 ---+
//! ```
//! `outside` is where the VPN's interface comes from: the base system of a host.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hyperspector_spec::plan::{Flow, Open, Policy, Ports, Protocol};
use hyperspector_sys::netlink::{Connection, End, Kind, Route};
use hyperspector_sys::netns;
use hyperspector_vpn::hub::{GATEWAY, Hub, PORT, PORT_INDEX, Port};
use ipnet::Ipv4Net;

const A: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 2);
const B: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 3);
const REMOTE: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 9);
const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 77);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const MTU: u32 = 1380;
const PORTS: [(&str, Ipv4Addr); 2] = [("a", A), ("b", B)];

fn networks() -> [Ipv4Net; 1] {
    ["10.66.0.0/24".parse().unwrap()]
}

/// The whole topology; what it made goes when it does.
struct Fleet {
    directory: tempfile::TempDir,
    hub: Hub,
    a: OwnedFd,
    b: OwnedFd,
    outside: OwnedFd,
    remote: OwnedFd,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let removed = Hub::remove(self.path());
        assert!(removed.is_ok() || std::thread::panicking(), "{removed:?}");
    }
}

impl Fleet {
    fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("hs-hub-").tempdir().unwrap();
        let hub = Hub::create(directory.path().join("alpha")).unwrap();
        let [a, b, outside, remote] = [(); 4].map(|()| netns::new().unwrap());
        let fleet = Self { directory, hub, a, b, outside, remote };
        fleet.hub.add_portspace(&fleet.port("a", fleet.a.as_fd(), A)).unwrap();
        fleet.hub.add_portspace(&fleet.port("b", fleet.b.as_fd(), B)).unwrap();
        fleet.enforce(&everything());
        fleet
    }

    /// With a VPN; a veth stands for it.
    fn with_vpn() -> Self {
        let fleet = Self::new();
        let mut outside = Connection::open_in(fleet.outside.as_fd()).unwrap();
        let far = End { namespace: Some(fleet.remote.as_fd()), ..End::named("far") };
        outside.create(Kind::Veth(far), &End::named("wg-alpha")).unwrap();
        outside.create(Kind::Ifb, &End::named("eth0")).unwrap();
        outside.set_up("eth0", true).unwrap();
        outside.add_address("eth0", Ipv4Net::from(OUTSIDE).into()).unwrap();
        let taken = netns::within(fleet.outside.as_fd(), || {
            fleet.hub.take_vpn("wg-alpha", MTU, &networks())
        });
        taken.unwrap().unwrap();

        let mut remote = Connection::open_in(fleet.remote.as_fd()).unwrap();
        remote.add_address("far", Ipv4Net::from(REMOTE).into()).unwrap();
        remote.set_up("far", true).unwrap();
        let index = remote.link("far").unwrap().index;
        remote.add_route(&Route::direct(networks()[0].into(), index)).unwrap();
        // A veth asks for neighbours, a WireGuard would not: write down what is needed.
        let mut hub = Connection::open_in(fleet.hub.namespace()).unwrap();
        hub.add_neighbour("vpn0", REMOTE.into(), remote.link("far").unwrap().mac.unwrap()).unwrap();
        let mac = hub.link("vpn0").unwrap().mac.unwrap();
        for address in [A, B, NOBODY] {
            remote.add_neighbour("far", address.into(), mac).unwrap();
        }
        fleet
    }

    fn port<'a>(&self, name: &'a str, namespace: BorrowedFd<'a>, address: Ipv4Addr) -> Port<'a> {
        static NETWORKS: std::sync::LazyLock<[Ipv4Net; 1]> = std::sync::LazyLock::new(networks);
        Port { name, namespace, address, mtu: MTU, networks: &*NETWORKS }
    }

    fn enforce(&self, policy: &Policy) {
        self.hub.enforce(policy, &PORTS).unwrap();
    }

    /// Has the hub let everything through, forged or not: takes its rules away.
    fn without_rules(&self) {
        let namespace = self.hub.namespace().try_clone_to_owned().unwrap();
        assert!(run(&namespace, "nft", "delete table ip hyperspector").status.success());
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("alpha")
    }
}

/// A policy without any rule.
fn everything() -> Policy {
    Policy { everything: true, ..Policy::default() }
}

/// A policy of these flows alone.
fn flows(flows: &[(Ipv4Addr, Ipv4Addr, Open)]) -> Policy {
    let flow = |&(from, to, open): &_| Flow { from, to, open, priority: false };
    Policy { flows: flows.iter().map(flow).collect(), ..Policy::default() }
}

fn ports(protocol: Protocol, first: u16, last: u16) -> Open {
    Open::Ports(Ports { protocol, first, last })
}

fn run(namespace: &OwnedFd, program: &str, arguments: &str) -> Output {
    let mut command = Command::new(program);
    command.args(arguments.split(' '));
    netns::within(namespace.as_fd(), || command.output().unwrap()).unwrap()
}

fn pings(from: &OwnedFd, to: Ipv4Addr) -> bool {
    run(from, "ping", &format!("-n -c 1 -W 1 {to}")).status.success()
}

fn socket(namespace: &OwnedFd, address: Ipv4Addr) -> UdpSocket {
    let socket = netns::within(namespace.as_fd(), || UdpSocket::bind((address, 0))).unwrap();
    let socket = socket.unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
    socket
}

/// Whether a datagram from `source` gets from one namespace to an address in another.
fn arrives(from: &OwnedFd, source: Ipv4Addr, to: &OwnedFd, target: Ipv4Addr) -> bool {
    let receiver = socket(to, target);
    let sent = socket(from, source).send_to(b"?", receiver.local_addr().unwrap());
    sent.is_ok() && receiver.recv_from(&mut [0; 8]).is_ok_and(|(_, a)| a.ip() == source)
}

#[test]
fn portspaces_reach_each_other() {
    let fleet = Fleet::new();
    assert!(pings(&fleet.a, B) && pings(&fleet.b, A));
    assert!(arrives(&fleet.a, A, &fleet.b, B));
}

#[test]
fn portspaces_and_the_vpn_reach_each_other() {
    let fleet = Fleet::with_vpn();
    assert!(pings(&fleet.a, REMOTE) && pings(&fleet.remote, B));
    assert!(arrives(&fleet.remote, REMOTE, &fleet.a, A));
}

#[test]
fn a_portspace_sends_from_its_own_address_only() {
    let fleet = Fleet::with_vpn();
    // More than a portspace can do: root with all capabilities in its network namespace.
    let mut a = Connection::open_in(fleet.a.as_fd()).unwrap();
    for address in [NOBODY, REMOTE, GATEWAY, OUTSIDE] {
        a.add_address(PORT, Ipv4Net::from(address).into()).unwrap();
        assert!(!arrives(&fleet.a, address, &fleet.b, B), "{address}");
        a.delete_address(PORT, Ipv4Net::from(address).into()).unwrap();
    }
    let mut b = Connection::open_in(fleet.b.as_fd()).unwrap();
    b.add_address("lo", Ipv4Net::from(A).into()).unwrap();
    assert!(!arrives(&fleet.b, A, &fleet.remote, REMOTE));
    b.delete_address("lo", Ipv4Net::from(A).into()).unwrap();
    assert!(arrives(&fleet.a, A, &fleet.b, B), "and still from its own");

    // It is the rules and the source check that do it, either by itself.
    assert_eq!(fleet.hub.refused(&PORTS).unwrap()["a"].forged, 4);
    fleet.without_rules();
    a.add_address(PORT, Ipv4Net::from(NOBODY).into()).unwrap();
    assert!(!arrives(&fleet.a, NOBODY, &fleet.b, B));
    a.delete_address(PORT, Ipv4Net::from(NOBODY).into()).unwrap();
    for interface in ["all", "p-a"] {
        let name = format!("net/ipv4/conf/{interface}/rp_filter");
        netns::sysctl(fleet.hub.namespace(), &name, "0").unwrap();
    }
    a.add_address(PORT, Ipv4Net::from(NOBODY).into()).unwrap();
    assert!(arrives(&fleet.a, NOBODY, &fleet.b, B));
    fleet.enforce(&everything());
    assert!(!arrives(&fleet.a, NOBODY, &fleet.b, B));
    fleet.without_rules();
    Hub::ensure(fleet.path()).unwrap();
    assert!(!arrives(&fleet.a, NOBODY, &fleet.b, B), "and it is there again");
}

#[test]
fn a_peer_of_the_vpn_cannot_pose_as_a_portspace_of_this_host() {
    let fleet = Fleet::with_vpn();
    let mut remote = Connection::open_in(fleet.remote.as_fd()).unwrap();
    for address in [A, OUTSIDE, GATEWAY] {
        remote.add_address("far", Ipv4Net::from(address).into()).unwrap();
        assert!(!arrives(&fleet.remote, address, &fleet.b, B), "{address}");
        remote.delete_address("far", Ipv4Net::from(address).into()).unwrap();
    }
    assert!(arrives(&fleet.remote, REMOTE, &fleet.b, B));
}

#[test]
fn nothing_else_is_reachable() {
    let fleet = Fleet::with_vpn();
    assert!(!pings(&fleet.a, OUTSIDE), "the base system");
    assert!(!pings(&fleet.a, Ipv4Addr::new(198, 51, 100, 1)), "the world");
    assert!(!pings(&fleet.a, GATEWAY), "the hub itself");
    assert!(!pings(&fleet.a, NOBODY), "an address that nobody has");
    // Even where the portspace sends everything to the hub, the hub knows no way on.
    let mut a = Connection::open_in(fleet.a.as_fd()).unwrap();
    let everything = "0.0.0.0/0".parse().unwrap();
    a.add_route(&Route::via(everything, GATEWAY.into(), PORT_INDEX)).unwrap();
    assert!(!pings(&fleet.a, OUTSIDE));
    let mut hub = Connection::open_in(fleet.hub.namespace()).unwrap();
    let mut names: Vec<_> = hub.links().unwrap().into_iter().map(|link| link.name).collect();
    names.sort();
    assert_eq!(names, ["lo", "p-a", "p-b", "vpn0"]);
}

#[test]
fn what_is_too_large_is_answered_with_an_error_that_arrives() {
    let fleet = Fleet::with_vpn();
    let mut a = Connection::open_in(fleet.a.as_fd()).unwrap();
    let mut hub = Connection::open_in(fleet.hub.namespace()).unwrap();
    hub.set_mtu("vpn0", 1200).unwrap();
    let output = run(&fleet.a, "ping", &format!("-n -c 2 -W 1 -M do -s 1300 {REMOTE}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("From 169.254.0.1") && text.contains("mtu = 1200"), "{text}");
    assert_eq!(a.link(PORT).unwrap().mtu, MTU);
}

#[test]
fn the_settings_are_as_strict_as_they_should_be() {
    let fleet = Fleet::with_vpn();
    for interface in ["all", "default", "vpn0", "p-a", "p-b"] {
        let read = |name: &str| {
            let name = format!("net/ipv4/conf/{interface}/{name}");
            netns::read_sysctl(fleet.hub.namespace(), &name).unwrap()
        };
        for (name, value) in [("rp_filter", "1"), ("send_redirects", "0"), ("forwarding", "1")] {
            assert_eq!(read(name), value, "{interface} {name}");
        }
        assert_eq!(
            (read("accept_redirects"), read("accept_source_route")),
            ("0".into(), "0".into())
        );
    }
    for (namespace, forward) in [(fleet.a.as_fd(), "0"), (fleet.hub.namespace(), "1")] {
        let read = |name| netns::read_sysctl(namespace, name).unwrap();
        assert_eq!(read("net/ipv4/ip_forward"), forward);
        assert_eq!(read("net/ipv6/conf/all/disable_ipv6"), "1");
    }
    let read = |name| netns::read_sysctl(fleet.a.as_fd(), name).unwrap();
    assert_eq!(read("net/ipv4/ip_unprivileged_port_start"), "0");
    assert_eq!(read("net/ipv4/ping_group_range"), "0\t4294967294");
    let mut a = Connection::open_in(fleet.a.as_fd()).unwrap();
    assert_eq!(a.link(PORT).unwrap().index, PORT_INDEX);
    assert!(a.link("lo").unwrap().is_up());
}

#[test]
fn the_status_is_what_is_there() {
    let fleet = Fleet::with_vpn();
    let status = Hub::open(fleet.path()).unwrap().status().unwrap();
    let vpn = status.vpn.unwrap();
    assert_eq!((vpn.up, vpn.mtu, vpn.networks), (true, MTU, networks().to_vec()));
    let ports: Vec<_> =
        status.portspaces.iter().map(|p| (p.name.as_str(), p.address.unwrap(), p.up)).collect();
    assert_eq!(ports, [("a", A, true), ("b", B, true)]);
    assert!(status.strangers.is_empty());

    let more = ["10.66.0.0/24".parse().unwrap(), "10.77.0.0/16".parse().unwrap()];
    fleet.hub.route_vpn(&more).unwrap();
    assert_eq!(fleet.hub.status().unwrap().vpn.unwrap().networks, more);
    fleet.hub.route_vpn(&more[1..]).unwrap();
    assert_eq!(fleet.hub.status().unwrap().vpn.unwrap().networks, more[1..]);
}

#[test]
fn everything_that_was_made_is_removed() {
    let fleet = Fleet::with_vpn();
    fleet.hub.remove_portspace("b").unwrap();
    fleet.hub.remove_portspace("b").unwrap();
    let port = |namespace: &OwnedFd| Connection::open_in(namespace.as_fd()).unwrap().link(PORT);
    assert!(port(&fleet.b).unwrap_err().is_not_found());
    assert!(!pings(&fleet.a, B));
    fleet.hub.add_portspace(&fleet.port("b", fleet.b.as_fd(), B)).unwrap();
    assert!(pings(&fleet.a, B), "and can be added again");

    let twice = fleet.hub.add_portspace(&fleet.port("b", fleet.b.as_fd(), B)).unwrap_err();
    assert_eq!(twice.to_string(), "create link hs0: file exists");
    assert!(pings(&fleet.a, B), "a failed attempt takes nothing away");

    Hub::remove(fleet.path()).unwrap();
    assert!(!fleet.path().exists());
    assert!(port(&fleet.a).unwrap_err().is_not_found());
    Hub::remove(fleet.path()).unwrap();
}

#[test]
fn a_hub_that_was_not_finished_is_made_anew() {
    let directory = tempfile::Builder::new().prefix("hs-hub-").tempdir().unwrap();
    let path = directory.path().join("alpha");
    std::fs::write(&path, "").unwrap();
    assert!(Hub::open(&path).is_err());
    assert!(Hub::create(&path).unwrap_err().to_string().ends_with(": file exists"));
    let hub = Hub::ensure(&path).unwrap();
    assert_eq!(netns::read_sysctl(hub.namespace(), "net/ipv4/ip_forward").unwrap(), "1");
    Hub::ensure(&path).unwrap();
    Hub::remove(&path).unwrap();
}

/// Whether a datagram from one socket gets to another.
fn gets_through(from: &UdpSocket, to: &UdpSocket) -> bool {
    let sent = from.send_to(b"?", to.local_addr().unwrap());
    sent.is_ok() && to.recv_from(&mut [0; 8]).is_ok()
}

fn udp(namespace: &OwnedFd, address: Ipv4Addr, port: u16) -> UdpSocket {
    let socket = netns::within(namespace.as_fd(), || UdpSocket::bind((address, port))).unwrap();
    let socket = socket.unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    socket
}

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

/// How much of a flood out of `a` gets to the remote in a second, in bits.
fn flood(fleet: &Fleet, port: u16, meanwhile: impl FnOnce()) -> u64 {
    flood_to(fleet, (&fleet.remote, REMOTE), port, meanwhile)
}

/// As [`flood`], to anybody.
fn flood_to(
    fleet: &Fleet,
    (namespace, to): (&OwnedFd, Ipv4Addr),
    port: u16,
    meanwhile: impl FnOnce(),
) -> u64 {
    let sink = udp(namespace, to, port);
    let source = udp(&fleet.a, A, 6000);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _ = source.send_to(&[7; 1300], (to, port));
            }
        });
        let received = scope.spawn(|| {
            let (mut buffer, mut bytes) = ([0; 2000], 0);
            // What was sent before the limit was reached is not counted.
            let begin = Instant::now() + Duration::from_millis(300);
            while begin.elapsed() < Duration::from_secs(1) {
                let got = sink.recv(&mut buffer).unwrap_or(0) as u64;
                bytes += if Instant::now() > begin { got } else { 0 };
            }
            bytes * 8
        });
        meanwhile();
        let received = received.join().unwrap();
        stop.store(true, Ordering::Relaxed);
        received
    })
}

#[test]
fn a_flood_takes_its_rate_to_a_neighbour_too_and_what_has_priority_does_not_wait() {
    // There is no VPN: portspaces of one host alone.
    let fleet = Fleet::new();
    let bulk = Flow { from: A, to: B, open: ports(Protocol::Udp, 514, 514), priority: false };
    let alert = Flow { open: ports(Protocol::Udp, 515, 515), priority: true, ..bulk };
    let mut policy = Policy { flows: vec![bulk, alert], ..Policy::default() };
    fleet.enforce(&policy);
    let unlimited = flood_to(&fleet, (&fleet.b, B), 514, || {});
    policy.rates = [("a".to_owned(), 4_000_000)].into();
    fleet.enforce(&policy);
    let (sink, alerts) = (udp(&fleet.b, B, 515), udp(&fleet.a, A, 6001));
    let (mut arrived, mut slowest) = (0, Duration::ZERO);
    let limited = flood_to(&fleet, (&fleet.b, B), 514, || {
        std::thread::sleep(Duration::from_millis(200));
        for _ in 0..20 {
            let start = Instant::now();
            if gets_through(&alerts, &sink) {
                arrived += 1;
                slowest = slowest.max(start.elapsed());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    eprintln!(
        "unlimited {unlimited} bit/s, limited {limited} bit/s, beside it {arrived}, {slowest:?}"
    );
    assert!(unlimited > 10_000_000, "{unlimited}");
    assert!((2_500_000..4_500_000).contains(&limited), "{limited}");
    assert!(arrived == 20 && slowest < Duration::from_millis(100), "{arrived} {slowest:?}");
    assert!(fleet.hub.refused(&PORTS).unwrap()["a"].over_rate > 100);

    // A portspace that is connected anew is kept to it as well.
    fleet.hub.remove_portspace("b").unwrap();
    let b = netns::new().unwrap();
    fleet.hub.add_portspace(&fleet.port("b", b.as_fd(), B)).unwrap();
    fleet.hub.shape_port("b", &policy, &PORTS).unwrap();
    let limited = flood_to(&fleet, (&b, B), 514, || {});
    assert!((2_500_000..4_500_000).contains(&limited), "{limited}");
    policy.rates.clear();
    fleet.enforce(&policy);
    let unlimited = flood_to(&fleet, (&b, B), 514, || {});
    assert!(unlimited > 10_000_000, "{unlimited}");
}

#[test]
fn a_flood_takes_its_rate_and_what_has_priority_does_not_wait() {
    let fleet = Fleet::with_vpn();
    let bulk = Flow { from: A, to: REMOTE, open: ports(Protocol::Udp, 514, 514), priority: false };
    let alert = Flow { open: ports(Protocol::Udp, 515, 516), priority: true, ..bulk };
    let other = Flow { from: B, open: Open::Everything, ..bulk };
    let mut policy = Policy { flows: vec![bulk, alert, other], ..Policy::default() };
    let unlimited = flood(&fleet, 514, || {});
    policy.rates = [("a".to_owned(), 4_000_000), ("b".to_owned(), 8_000_000)].into();
    fleet.enforce(&policy);

    // How many small datagrams arrive, and how late the last of them comes.
    let beside = |from: &UdpSocket, to: &UdpSocket| {
        let (mut arrived, mut slowest) = (0, Duration::ZERO);
        for _ in 0..20 {
            let start = Instant::now();
            if gets_through(from, to) {
                arrived += 1;
                slowest = slowest.max(start.elapsed());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        (arrived, slowest)
    };
    let sink = udp(&fleet.remote, REMOTE, 515);
    let [alerts, others] = [udp(&fleet.a, A, 6001), udp(&fleet.b, B, 6001)];
    let mut seen = Vec::new();
    let limited = flood(&fleet, 514, || {
        std::thread::sleep(Duration::from_millis(200));
        seen.push(beside(&alerts, &sink));
        seen.push(beside(&others, &sink));
    });
    eprintln!("unlimited {unlimited} bit/s, limited {limited} bit/s, beside it {seen:?}");
    assert!(unlimited > 10_000_000, "{unlimited}");
    assert!((2_500_000..4_500_000).contains(&limited), "{limited}");
    for (arrived, slowest) in seen {
        assert!(arrived == 20 && slowest < Duration::from_millis(100), "{arrived} {slowest:?}");
    }
    assert!(fleet.hub.refused(&PORTS).unwrap()["a"].over_rate > 100);

    // The same datagrams without priority wait behind the flood, or are lost.
    policy.flows[1].priority = false;
    fleet.enforce(&policy);
    let mut worse = (0, Duration::ZERO);
    flood(&fleet, 514, || {
        std::thread::sleep(Duration::from_millis(200));
        worse = beside(&alerts, &sink);
    });
    assert!(worse.0 < 20 || worse.1 > Duration::from_millis(100), "{worse:?}");

    // Rates can go, come and change while packets wait.
    policy.rates.remove("b");
    fleet.enforce(&policy);
    fleet.hub.enforce(&policy, &PORTS[..1]).unwrap();
    policy.rates.clear();
    fleet.enforce(&policy);
    let hub = fleet.hub.namespace().try_clone_to_owned().unwrap();
    let shown = run(&hub, "tc", "qdisc show dev vpn0").stdout;
    assert!(!String::from_utf8_lossy(&shown).contains("htb"));
}
