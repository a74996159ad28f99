//! Shadow interfaces on the real kernel, and what programs make of them. Needs root.

use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;

use hyperspector_sys::netlink::{Connection, End, Kind, Link, Mac};
use hyperspector_sys::netns;
use hyperspector_window::shadow::{self, Shape};

const MAC: Mac = Mac([0x02, 0xfc, 0, 0, 0, 0x11]);

/// A host with an interface, and a portspace without.
fn places(mtu: u32) -> (OwnedFd, Link, OwnedFd) {
    let (host, portspace) = (netns::new().unwrap(), netns::new().unwrap());
    let mut netlink = Connection::open_in(host.as_fd()).unwrap();
    let end = End { index: Some(40), mac: Some(MAC), mtu: Some(mtu), ..End::named("ens5") };
    netlink.create(Kind::Veth(End::named("far")), &end).unwrap();
    netlink.set_up("ens5", true).unwrap();
    let link = netlink.link("ens5").unwrap();
    (host, link, portspace)
}

fn run(namespace: &OwnedFd, program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments);
    let output = netns::within(namespace.as_fd(), || command.output().unwrap()).unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_shadow_looks_like_its_interface() {
    for mtu in [1400, 9000] {
        let (_host, link, portspace) = places(mtu);
        shadow::make(portspace.as_fd(), &link).unwrap().unwrap();
        let text = run(&portspace, "ip", &["-j", "address", "show", "dev", "ens5"]);
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        let line = &line[0];
        assert_eq!((&line["ifindex"], &line["mtu"]), (&40.into(), &mtu.into()));
        assert_eq!(line["address"], MAC.to_string());
        assert_eq!(line["link_type"], "ether");
        let flags = line["flags"].as_array().unwrap();
        assert!(flags.contains(&"UP".into()) && flags.contains(&"LOWER_UP".into()), "{line}");

        let shown = Connection::open_in(portspace.as_fd()).unwrap().link("ens5").unwrap();
        assert!(shown.is_running() && shown.is_ethernet());
    }
}

#[test]
fn tcpdump_lists_a_shadow_as_up_and_running() {
    let (_host, link, portspace) = places(1500);
    shadow::make(portspace.as_fd(), &link).unwrap();
    let text = run(&portspace, "tcpdump", &["-D"]);
    let line = text.lines().find(|line| line.contains("ens5")).unwrap();
    assert!(line.contains("[Up, Running"), "{text}");
}

#[test]
fn a_shadow_follows_its_interface_and_goes_when_asked() {
    let (host, link, portspace) = places(1500);
    shadow::make(portspace.as_fd(), &link).unwrap();
    let mut outside = Connection::open_in(host.as_fd()).unwrap();
    outside.set_mtu("ens5", 1300).unwrap();
    outside.set_mac("ens5", Mac([0x02, 0xfc, 0, 0, 0, 0x22])).unwrap();
    let mut link = outside.link("ens5").unwrap();
    shadow::follow(portspace.as_fd(), &link).unwrap();
    let mut inside = Connection::open_in(portspace.as_fd()).unwrap();
    let shown = inside.link("ens5").unwrap();
    assert_eq!((shown.mtu, shown.mac), (1300, link.mac));
    link.name = "ens6".into();
    shadow::follow(portspace.as_fd(), &link).unwrap();
    assert_eq!(inside.link("ens6").unwrap().index, 40);
    shadow::remove(portspace.as_fd(), "ens6").unwrap();
    shadow::remove(portspace.as_fd(), "ens5").unwrap();
    assert_eq!(inside.links().unwrap().len(), 1);
}

#[test]
fn tcpdump_opens_every_kind_of_shadow() {
    for shape in [Shape::Ifb, Shape::Bridge, Shape::Veth] {
        let (_host, link, portspace) = places(1500);
        assert_eq!(shadow::make_of(&[shape], portspace.as_fd(), &link).unwrap(), Some(shape));
        let shown = Connection::open_in(portspace.as_fd()).unwrap().link(40).unwrap();
        assert_eq!((shown.is_up(), shown.mac), (true, Some(MAC)), "{shape:?}");
        // A bridge has no carrier without ports, or soon loses it, which is why it comes late.
        assert!(shown.is_running() || shape == Shape::Bridge, "{shape:?}");
        let mut command = Command::new("timeout");
        command.args(["-s", "INT", "0.5", "tcpdump", "-Z", "root", "-ni", "ens5"]);
        let output = netns::within(portspace.as_fd(), || command.output().unwrap()).unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains("listening on ens5, link-type EN10MB"), "{shape:?}: {told}");
    }
}

#[test]
fn lo_needs_no_shadow() {
    let (host, _, portspace) = places(1500);
    let lo = Connection::open_in(host.as_fd()).unwrap().link("lo").unwrap();
    assert_eq!(shadow::make(portspace.as_fd(), &lo).unwrap(), None);
}

#[test]
fn a_taken_name_or_index_is_told() {
    let (_host, link, portspace) = places(1500);
    let mut inside = Connection::open_in(portspace.as_fd()).unwrap();
    inside.create(Kind::Bridge, &End { index: Some(40), ..End::named("other") }).unwrap();
    let told = "shadow ens5: the portspace has an interface with its name or its index 40 already";
    assert_eq!(shadow::make(portspace.as_fd(), &link).unwrap_err().to_string(), told);
    inside.delete("other").unwrap();
    inside.create(Kind::Bridge, &End::named("ens5")).unwrap();
    assert_eq!(shadow::make(portspace.as_fd(), &link).unwrap_err().to_string(), told);
}

#[test]
fn an_interface_without_an_ethernet_address_has_a_shadow_too() {
    let (_host, mut link, portspace) = places(1420);
    link.mac = None;
    assert!(shadow::make(portspace.as_fd(), &link).unwrap().is_some());
}
