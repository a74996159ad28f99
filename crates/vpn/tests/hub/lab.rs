//! The topology, and who sends what in it.

use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use hyperspector_spec::plan::{Flow, Open, Policy, Ports, Protocol};
use hyperspector_sys::netlink::{Connection, End, Kind, Route};
use hyperspector_sys::netns;
use hyperspector_vpn::hub::{Hub, Port};
use ipnet::Ipv4Net;

pub const A: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 2);
pub const B: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 3);
pub const REMOTE: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 9);
pub const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 77);
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const MTU: u32 = 1380;
pub const PORTS: [(&str, Ipv4Addr); 2] = [("a", A), ("b", B)];

pub fn networks() -> [Ipv4Net; 1] {
    ["10.66.0.0/24".parse().unwrap()]
}

/// The whole topology; what it made goes when it does.
pub struct Fleet {
    pub directory: tempfile::TempDir,
    pub hub: Hub,
    pub a: OwnedFd,
    pub b: OwnedFd,
    pub outside: OwnedFd,
    pub remote: OwnedFd,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let removed = Hub::remove(self.path());
        assert!(removed.is_ok() || std::thread::panicking(), "{removed:?}");
    }
}

impl Fleet {
    pub fn new() -> Self {
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
    pub fn with_vpn() -> Self {
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

    pub fn port<'a>(
        &self,
        name: &'a str,
        namespace: BorrowedFd<'a>,
        address: Ipv4Addr,
    ) -> Port<'a> {
        static NETWORKS: std::sync::LazyLock<[Ipv4Net; 1]> = std::sync::LazyLock::new(networks);
        Port { name, namespace, address, mtu: MTU, networks: &*NETWORKS }
    }

    pub fn enforce(&self, policy: &Policy) {
        self.hub.enforce(policy, &PORTS).unwrap();
    }

    /// Has the hub let everything through, forged or not: takes its rules away.
    pub fn without_rules(&self) {
        let namespace = self.hub.namespace().try_clone_to_owned().unwrap();
        assert!(run(&namespace, "nft", "delete table ip hyperspector").status.success());
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("alpha")
    }
}

/// A policy without any rule.
pub fn everything() -> Policy {
    Policy { everything: true, ..Policy::default() }
}

/// A policy of these flows alone.
pub fn flows(flows: &[(Ipv4Addr, Ipv4Addr, Open)]) -> Policy {
    let flow = |&(from, to, open): &_| Flow { from, to, open, priority: false };
    Policy { flows: flows.iter().map(flow).collect(), ..Policy::default() }
}

pub fn ports(protocol: Protocol, first: u16, last: u16) -> Open {
    Open::Ports(Ports { protocol, first, last })
}

pub fn run(namespace: &OwnedFd, program: &str, arguments: &str) -> Output {
    let mut command = Command::new(program);
    command.args(arguments.split(' '));
    netns::within(namespace.as_fd(), || command.output().unwrap()).unwrap()
}

pub fn pings(from: &OwnedFd, to: Ipv4Addr) -> bool {
    run(from, "ping", &format!("-n -c 1 -W 1 {to}")).status.success()
}

pub fn socket(namespace: &OwnedFd, address: Ipv4Addr) -> UdpSocket {
    let socket = netns::within(namespace.as_fd(), || UdpSocket::bind((address, 0))).unwrap();
    let socket = socket.unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
    socket
}

/// Whether a datagram from `source` gets from one namespace to an address in another.
pub fn arrives(from: &OwnedFd, source: Ipv4Addr, to: &OwnedFd, target: Ipv4Addr) -> bool {
    let receiver = socket(to, target);
    let sent = socket(from, source).send_to(b"?", receiver.local_addr().unwrap());
    sent.is_ok() && receiver.recv_from(&mut [0; 8]).is_ok_and(|(_, a)| a.ip() == source)
}

/// Whether a datagram from one socket gets to another.
pub fn gets_through(from: &UdpSocket, to: &UdpSocket) -> bool {
    let sent = from.send_to(b"?", to.local_addr().unwrap());
    sent.is_ok() && to.recv_from(&mut [0; 8]).is_ok()
}

pub fn udp(namespace: &OwnedFd, address: Ipv4Addr, port: u16) -> UdpSocket {
    let socket = netns::within(namespace.as_fd(), || UdpSocket::bind((address, port))).unwrap();
    let socket = socket.unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    socket
}
