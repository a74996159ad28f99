//! Routing netlink against what `ip` says, in namespaces of the test's own. Needs root.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;

use hyperspector_sys::netlink::{Connection, End, Kind, Mac, Route, RouteKind};
use hyperspector_sys::netns;
use ipnet::IpNet;
use serde_json::Value;

/// A namespace that goes with this value, and a connection to it.
struct Place {
    namespace: OwnedFd,
    netlink: Connection,
}

impl Place {
    fn new() -> Self {
        let namespace = netns::new().unwrap();
        let netlink = Connection::open_in(namespace.as_fd()).unwrap();
        Self { namespace, netlink }
    }

    /// What `ip -j ARGUMENTS` prints there.
    fn ip(&self, arguments: &str) -> Value {
        let mut command = Command::new("ip");
        command.args(["-j", "-d"]).args(arguments.split(' '));
        let output = netns::within(self.namespace.as_fd(), || command.output().unwrap()).unwrap();
        let (out, err) = (output.stdout, String::from_utf8_lossy(&output.stderr).into_owned());
        assert!(output.status.success(), "ip {arguments}: {err}");
        if out.is_empty() { Value::Array(vec![]) } else { serde_json::from_slice(&out).unwrap() }
    }

    /// Makes a link that is up, of a kind that every kernel with bridges or veth has.
    fn link(&mut self, name: &str) -> u32 {
        self.netlink.create(Kind::Bridge, &End::named(name)).unwrap();
        self.netlink.set_up(name, true).unwrap();
        self.netlink.link(name).unwrap().index
    }
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

const MAC: Mac = Mac([2, 0, 0, 0, 7, 1]);

#[test]
fn links_are_what_ip_says() {
    let mut place = Place::new();
    place.link("br0");
    let peer = End { mtu: Some(1300), ..End::named("v1") };
    place.netlink.create(Kind::Veth(peer), &End::named("v0")).unwrap();
    let (ours, theirs) = (place.netlink.links().unwrap(), place.ip("link show"));
    let theirs = theirs.as_array().unwrap();
    assert_eq!(ours.len(), theirs.len());
    for (link, line) in ours.iter().zip(theirs) {
        assert_eq!(line["ifindex"], link.index);
        assert_eq!(line["ifname"], link.name);
        assert_eq!(line["mtu"], link.mtu);
        assert_eq!(line["address"], link.mac.unwrap().to_string());
        assert_eq!(line["linkinfo"]["info_kind"].as_str(), link.kind.as_deref());
        let flags = line["flags"].as_array().unwrap();
        assert_eq!(flags.contains(&"UP".into()), link.is_up(), "{link:?}");
        assert_eq!(flags.contains(&"LOOPBACK".into()), link.is_loopback());
        assert_eq!(line["link_type"] == "ether", link.is_ethernet());
        assert_eq!(place.netlink.link(link.index).unwrap(), *link);
    }
}

#[test]
fn the_links_of_the_machine_itself_can_be_read() {
    let links = Connection::open().unwrap().links().unwrap();
    assert!(links.iter().any(|link| link.name == "lo" && link.is_loopback()));
}

#[test]
fn a_link_gets_the_index_mac_and_mtu_that_were_asked_for() {
    let mut place = Place::new();
    for (kind, name) in [(Kind::Bridge, "bridge"), (Kind::Ifb, "ifb")] {
        let index = 4_000 + u32::try_from(name.len()).unwrap();
        let end = End { index: Some(index), mac: Some(MAC), mtu: Some(1400), ..End::named(name) };
        place.netlink.create(kind, &end).unwrap();
        let line = place.ip(&format!("link show dev {name}"))[0].clone();
        assert_eq!(line["ifindex"], index);
        assert_eq!((&line["mtu"], &line["address"]), (&1400.into(), &MAC.to_string().into()));
        assert_eq!(line["linkinfo"]["info_kind"], name);
        place.netlink.delete(name).unwrap();
        assert!(place.netlink.link(name).unwrap_err().is_not_found());
    }
}

#[test]
fn a_pair_is_made_across_namespaces_in_one_request() {
    let (mut here, there) = (Place::new(), Place::new());
    let peer = End { namespace: Some(there.namespace.as_fd()), ..End::named("b0") };
    let end = End { index: Some(1_000_000), mac: Some(MAC), ..End::named("a0") };
    here.netlink.create(Kind::Veth(peer), &end).unwrap();
    assert_eq!(here.ip("link show dev a0")[0]["ifindex"], 1_000_000);
    assert_eq!(there.ip("link show dev b0")[0]["linkinfo"]["info_kind"], "veth");
    here.netlink.delete("a0").unwrap();
    let left = there.ip("link show");
    assert_eq!(left.as_array().unwrap().len(), 1, "{left}");
}

#[test]
fn a_link_is_moved_and_renamed_at_once() {
    let (mut here, mut there) = (Place::new(), Place::new());
    here.netlink.create(Kind::Ifb, &End::named("wg-alpha")).unwrap();
    here.netlink.move_to("wg-alpha", there.namespace.as_fd(), Some("vpn0")).unwrap();
    assert!(here.netlink.link("wg-alpha").unwrap_err().is_not_found());
    assert!(!there.netlink.link("vpn0").unwrap().is_up());
}

#[test]
fn links_are_changed() {
    let mut place = Place::new();
    let index = place.link("one");
    place.netlink.set_mtu(index, 1234).unwrap();
    place.netlink.set_mac("one", MAC).unwrap();
    place.netlink.set_up("one", false).unwrap();
    place.netlink.rename("one", "two").unwrap();
    place.netlink.set_alias("two", "the second").unwrap();
    assert_eq!(place.netlink.link("two").unwrap().alias.as_deref(), Some("the second"));
    let line = place.ip("link show dev two")[0].clone();
    assert_eq!((&line["mtu"], &line["address"]), (&1234.into(), &MAC.to_string().into()));
    assert_eq!(line["ifalias"], "the second");
    assert_eq!((&line["ifindex"], &line["operstate"]), (&index.into(), &"DOWN".into()));
}

#[test]
fn addresses_are_what_ip_says() {
    let mut place = Place::new();
    place.link("br0");
    for address in ["10.66.0.3/32", "192.0.2.1/24", "fd00::1/64"] {
        place.netlink.add_address("br0", net(address)).unwrap();
    }
    let ours = place.netlink.addresses("br0").unwrap();
    let shown = place.ip("address show dev br0")[0]["addr_info"].clone();
    let theirs: Vec<IpNet> = shown
        .as_array()
        .unwrap()
        .iter()
        .map(|a| net(&format!("{}/{}", a["local"].as_str().unwrap(), a["prefixlen"])))
        .collect();
    assert_eq!(ours, theirs);
    assert!(ours.contains(&net("fd00::1/64")));
    let nodad = shown.as_array().unwrap().iter().find(|a| a["local"] == "fd00::1").unwrap();
    assert!(nodad["tentative"].is_null() && nodad["nodad"] == true, "{nodad}");
    place.netlink.delete_address("br0", net("10.66.0.3/32")).unwrap();
    assert!(!place.netlink.addresses("br0").unwrap().contains(&net("10.66.0.3/32")));
    assert!(place.netlink.addresses("lo").unwrap().is_empty());
}

#[test]
fn routes_are_what_ip_says() {
    let mut place = Place::new();
    assert_eq!(place.netlink.routes(None).unwrap(), [], "a new namespace has no routes");
    let (a, b) = (place.link("br0"), place.link("br1"));
    place.netlink.add_address(a, net("10.66.0.3/32")).unwrap();
    let gateway = IpAddr::from(Ipv4Addr::new(169, 254, 0, 1));
    let routes = [
        Route::onlink(net("10.66.0.0/24"), gateway, a),
        Route::direct(net("10.66.0.7/32"), b),
        Route { metric: Some(9), ..Route::direct(net("10.77.0.0/16"), a) },
        Route::unreachable(net("0.0.0.0/0")),
    ];
    for route in &routes {
        place.netlink.add_route(route).unwrap();
    }
    let mut listed = place.netlink.routes(None).unwrap();
    listed.retain(|route| route.destination.addr().is_ipv4());
    assert_eq!(listed.len(), routes.len());
    assert!(routes.iter().all(|route| listed.contains(route)), "{listed:?}");
    assert_eq!(place.netlink.routes(Some(b)).unwrap()[0], routes[1]);

    let shown = place.ip("-4 route show");
    let line = |dst: &str| shown.as_array().unwrap().iter().find(|r| r["dst"] == dst).unwrap();
    assert_eq!(line("default")["type"], "unreachable");
    assert_eq!(line("10.66.0.0/24")["gateway"], "169.254.0.1");
    assert_eq!(line("10.66.0.0/24")["flags"][0], "onlink");
    assert_eq!(
        (&line("10.66.0.7")["dev"], &line("10.66.0.7")["scope"]),
        (&"br1".into(), &"link".into())
    );
    assert_eq!(line("10.77.0.0/16")["metric"], 9);

    let moved = Route::direct(net("10.66.0.7/32"), a);
    place.netlink.replace_route(&moved).unwrap();
    assert!(place.netlink.routes(Some(a)).unwrap().contains(&moved));
    place.netlink.delete_route(&moved).unwrap();
    assert!(place.netlink.delete_route(&moved).unwrap_err().is_not_found());
    assert_eq!(place.netlink.routes(None).unwrap()[0].kind, RouteKind::Unreachable);
}

#[test]
fn a_neighbour_is_permanent() {
    let mut place = Place::new();
    place.link("br0");
    let address = IpAddr::from(Ipv4Addr::new(169, 254, 0, 1));
    place.netlink.add_neighbour("br0", address, MAC).unwrap();
    let line = place.ip("neighbour show dev br0")[0].clone();
    assert_eq!((&line["dst"], &line["lladdr"]), (&"169.254.0.1".into(), &MAC.to_string().into()));
    assert_eq!(line["state"][0], "PERMANENT");
}

#[test]
fn errors_name_the_operation_the_object_and_the_cause() {
    let mut place = Place::new();
    place.link("br0");
    let exists = place.netlink.create(Kind::Bridge, &End::named("br0")).unwrap_err();
    assert!(exists.is_exists());
    assert_eq!(exists.to_string(), "create link br0: file exists");
    let missing = place.netlink.delete("none").unwrap_err();
    assert!(missing.is_not_found());
    assert_eq!(missing.to_string(), "delete link none: no such device");
    let long = place.netlink.rename("br0", "sixteen-bytes-xx").unwrap_err();
    assert_eq!(long.to_string(), "rename link br0: name longer than 15 bytes");
    place.netlink.add_address("br0", net("10.0.0.1/24")).unwrap();
    assert!(place.netlink.add_address("br0", net("10.0.0.1/24")).unwrap_err().is_exists());
    // An error does not leave the connection out of step.
    assert_eq!(place.netlink.links().unwrap().len(), 2);
}

#[test]
fn lists_longer_than_one_datagram_are_complete() {
    let mut place = Place::new();
    for number in 0..150 {
        let (a, b) = (format!("a{number}"), format!("b{number}"));
        place.netlink.create(Kind::Veth(End::named(&b)), &End::named(&a)).unwrap();
    }
    let links = place.netlink.links().unwrap();
    assert_eq!(links.len(), 301);
    assert!(links.iter().any(|link| link.name == "b149"));
}

#[test]
fn a_kind_that_the_kernel_lacks_is_told_apart_from_other_errors() {
    let mut place = Place::new();
    for (kind, name) in [(Kind::Wireguard, "wireguard"), (Kind::Dummy, "dummy")] {
        match place.netlink.create(kind, &End::named("one")) {
            Ok(()) => {
                assert_eq!(place.netlink.link("one").unwrap().kind.as_deref(), Some(name));
                place.netlink.delete("one").unwrap();
            }
            Err(error) => assert!(error.is_unsupported(), "{error}"),
        }
    }
}
