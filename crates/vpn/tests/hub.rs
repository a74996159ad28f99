//! A hub between two portspaces and a VPN, each in a network namespace of the test's own. Needs root.
//!
//! ```text
//!   a 10.66.0.2 ---+
//!                  hub --- vpn0 ~~~ remote 10.66.0.9 (stands for the other hosts)
//!   b 10.66.0.3 ---+
//! ```
//! `outside` is where the VPN's interface comes from: the base system of a host.

use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

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

    fn path(&self) -> PathBuf {
        self.directory.path().join("alpha")
    }
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

    // It is the source check that does it.
    for interface in ["all", "p-a"] {
        let name = format!("net/ipv4/conf/{interface}/rp_filter");
        netns::sysctl(fleet.hub.namespace(), &name, "0").unwrap();
    }
    a.add_address(PORT, Ipv4Net::from(NOBODY).into()).unwrap();
    assert!(arrives(&fleet.a, NOBODY, &fleet.b, B));
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
