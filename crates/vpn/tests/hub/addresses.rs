//! Who reaches whom, from which address; what is made, and removed.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};

use hyperspector_sys::netlink::{Connection, Route};
use hyperspector_sys::netns;
use hyperspector_vpn::hub::{GATEWAY, Hub, PORT, PORT_INDEX};
use ipnet::Ipv4Net;

use crate::lab::{
    A, B, Fleet, MTU, NOBODY, OUTSIDE, PORTS, REMOTE, arrives, everything, networks, pings, run,
};

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
