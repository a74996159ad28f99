//! Paths that take less than the tunnel would send: two hosts with a router between, whose second
//! link is narrow.
//!
//! ```text
//!  hub a        host a                           router                        host b    hub b
//!  10.66.0.1    10.9.0.2, 2001:db8:9::2 ---- (1500)  (narrow) ---- 192.0.2.2, 2001:db8::2  10.66.0.2
//!  fd66::1                                                                               fd66::2
//! ```
//!
//! Needs what `embedded.rs` needs.

#[allow(dead_code, reason = "each test program uses its part")]
mod hosts;

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

use hosts::{Host, Namespace, PORT, Pair, Test, iperf_server, wait_for_iperf, wait_until};
use hyperspector_vpn::status::Reason;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto};

/// What the outer headers and the tunnel's take, over IPv4 and IPv6.
const OVERHEAD: [usize; 2] = [60, 80];

/// Where a and b are outside, over IPv4 and IPv6.
const ENDS: [[&str; 2]; 2] = [["10.9.0.2", "192.0.2.2"], ["2001:db8:9::2", "2001:db8::2"]];

/// Both started, with a router between, and with both families inside.
fn started(v6: bool) -> (Pair, Namespace) {
    let mut pair = Pair::new();
    let router = pair.with_router();
    let [a, b] = ENDS[usize::from(v6)].map(|address| address.parse().unwrap());
    let peer = |host: &Host, at: IpAddr| {
        let mut peer = host.as_peer(at);
        peer.allowed.push(format!("fd66::{}/128", host.number).parse().unwrap());
        peer
    };
    let (a, b) = (peer(&pair.a, a), peer(&pair.b, b));
    pair.a.start(&[b], true);
    pair.b.start(&[a], true);
    for host in [&pair.a, &pair.b] {
        host.hub.run(&format!("ip address add fd66::{}/64 dev vpn0 nodad", host.number));
    }
    assert!(pair.a.hub.pings("10.66.0.2", ""));
    assert!(pair.a.hub.pings("fd66::2", ""));
    (pair, router)
}

/// Makes the second link narrow, or wide again.
fn narrow(pair: &Pair, router: &Namespace, mtu: u32) {
    router.links().set_mtu("hs-out", mtu).unwrap();
    pair.b.outer.links().set_mtu("hs-veth", mtu).unwrap();
}

fn limit(host: &Host) -> Option<usize> {
    host.status().peers[0].mtu
}

/// Large packets go both ways, none of which is lost, until both ends know what fits.
fn settles(pair: &Pair, wanted: Option<usize>) {
    for (host, to) in [(&pair.a, "10.66.0.2"), (&pair.b, "10.66.0.1")] {
        wait_until(&format!("host {} finds {wanted:?}", host.number), || {
            assert!(host.hub.pings(to, "-M dont -s 1392"), "lost on the way");
            limit(host) == wanted
        });
    }
}

/// How many packets a namespace has cut up.
fn cut_up(at: &Namespace) -> u64 {
    let read = |file: &str| {
        let output = at.command(&format!("cat /proc/net/{file}")).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let v4 = read("snmp");
    let mut lines = v4.lines().filter(|line| line.starts_with("Ip:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let place = names.split(' ').position(|name| name == "FragCreates").unwrap();
    let v4: u64 = values.split(' ').nth(place).unwrap().parse().unwrap();
    let v6 = read("snmp6");
    let v6 = v6.lines().find_map(|line| line.strip_prefix("Ip6FragCreates")).unwrap();
    v4 + v6.trim().parse::<u64>().unwrap()
}

/// What `ping` says of a packet that may not be cut up; `None` where it came back.
fn refused(from: &Namespace, to: &str, size: usize) -> Option<String> {
    let line = format!("ping -c 2 -i 0.2 -W 2 -M do -s {size} {to}");
    let output = from.command(&line).output().unwrap();
    let said = [output.stdout, output.stderr].map(|s| String::from_utf8(s).unwrap()).concat();
    (!output.status.success()).then_some(said)
}

fn narrow_paths_are_found(v6: bool, mtu: u32) {
    let (pair, router) = started(v6);
    narrow(&pair, &router, mtu);
    let fits = mtu as usize - OVERHEAD[usize::from(v6)];
    settles(&pair, Some(fits));
    // The sender is told, and what fits is cut up by nobody.
    let (hub, outer) = (&pair.a.hub, &pair.a.outer);
    wait_until("who may not be cut up is refused", || refused(hub, "10.66.0.2", 1392).is_some());
    let said = refused(hub, "10.66.0.2", 1392).unwrap();
    assert!(said.contains(&format!("mtu={fits}")), "{said}");
    let before = [cut_up(outer), cut_up(&router)];
    assert_eq!(refused(hub, "10.66.0.2", fits - 28), None);
    assert_eq!([cut_up(outer), cut_up(&router)], before);
    // IPv6 inside has no packets below 1280 bytes: where less fits, they are cut up outside.
    let least = fits.max(1280);
    wait_until("IPv6 is told too", || refused(hub, "fd66::2", 1372).is_some());
    assert_eq!(refused(hub, "fd66::2", least - 48), None);
    // So does TCP: at most its first large packets are cut up.
    for (server, options) in [("10.66.0.2", ""), ("10.66.0.2", "-R"), ("fd66::2", "")] {
        let _server = iperf_server(&pair.b.hub);
        let before = cut_up(outer) + cut_up(&router) + cut_up(&pair.b.outer);
        let mbits = wait_for_iperf(hub, &format!("{options} -c {server}"));
        let pieces = cut_up(outer) + cut_up(&router) + cut_up(&pair.b.outer) - before;
        println!(
            "    over IPv{}, {mtu}: TCP {server} {options} {mbits:.0} Mbit/s, {pieces} pieces",
            if v6 { 6 } else { 4 }
        );
        assert!(mbits > 5.0);
        assert!(pieces < 1000 || server.contains(':') && fits < 1280, "{pieces} pieces");
    }
    for host in [&pair.a, &pair.b] {
        let status = host.status();
        assert!(!status.drops.contains_key(&Reason::SendFailed), "{:?}", status.drops);
        assert!(status.offload.send, "sending many at once was given up");
    }
    datagrams_arrive_whole(&pair);
}

/// UDP of 1400 bytes: its sender cuts it up inside, and the receiver's kernel puts it together.
fn datagrams_arrive_whole(pair: &Pair) {
    let _server = iperf_server(&pair.b.hub);
    let line = "iperf3 -c 10.66.0.2 -u -l 1400 -b 10M -t 2 -J";
    let mut found = None;
    wait_until("iperf3 is there", || {
        pair.b.hub.command("ss -ltn").output().unwrap().stdout.windows(5).any(|w| w == b":5201")
    });
    let output = pair.a.hub.command(line).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    found.get_or_insert(report["end"]["sum"]["lost_percent"].as_f64());
    assert!(found.flatten().is_some_and(|lost| lost < 5.0), "{report}");
}

fn over_ipv4_a_narrow_path_is_found() {
    narrow_paths_are_found(false, 1400);
    narrow_paths_are_found(false, 1300);
}

fn over_ipv6_a_narrow_path_is_found() {
    narrow_paths_are_found(true, 1400);
    narrow_paths_are_found(true, 1300);
}

fn a_change_of_the_path_is_followed() {
    for v6 in [false, true] {
        let (pair, router) = started(v6);
        let overhead = OVERHEAD[usize::from(v6)];
        let first_link = |mtu| {
            pair.a.outer.links().set_mtu("hs-veth", mtu).unwrap();
            router.links().set_mtu("hs-in", mtu).unwrap();
        };
        settles(&pair, None);
        // Its own interface, then the router's, then both.
        first_link(1450);
        wait_until("the interface's MTU is found", || {
            assert!(pair.a.hub.pings("10.66.0.2", "-M dont -s 1392"));
            limit(&pair.a) == Some(1450 - overhead)
        });
        narrow(&pair, &router, 1350);
        settles(&pair, Some(1350 - overhead));
        // A narrower one behind the narrow one is found too, since it is asked again.
        narrow(&pair, &router, 1290);
        settles(&pair, Some(1290 - overhead));
        narrow(&pair, &router, 1500);
        first_link(1500);
        // The kernel forgets after ten minutes; here at once.
        for family in ["-4", "-6"] {
            pair.a.outer.run(&format!("ip {family} route flush cache"));
        }
        settles(&pair, None);
    }
}

/// An ICMP error for host a: `mtu` bytes of a datagram from its port to b's would pass.
fn forge(router: &Namespace, port: u16, mtu: u16) {
    let socket = router.within(|| {
        let (family, kind) = (AddressFamily::INET, SocketType::RAW);
        rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, Some(ipproto::ICMP)).unwrap()
    });
    let mut error = vec![0_u8; 36];
    (error[0], error[1]) = (3, 4);
    error[6..8].copy_from_slice(&mtu.to_be_bytes());
    // The quoted packet: its header and the ports.
    (error[8], error[10], error[14], error[16], error[17]) = (0x45, 5, 0x40, 64, 17);
    error[20..24].copy_from_slice(&[10, 9, 0, 2]);
    error[24..28].copy_from_slice(&[192, 0, 2, 2]);
    error[28..30].copy_from_slice(&port.to_be_bytes());
    error[30..32].copy_from_slice(&PORT.to_be_bytes());
    error[32..34].copy_from_slice(&1400_u16.to_be_bytes());
    let sum =
        error.chunks(2).fold(0_u32, |sum, w| sum + u32::from(u16::from_be_bytes([w[0], w[1]])));
    let sum = !((sum >> 16) + (sum & 0xffff)) as u16;
    error[2..4].copy_from_slice(&sum.to_be_bytes());
    let to: SocketAddr = "10.9.0.2:0".parse().unwrap();
    rustix::net::sendto(&socket, &error, SendFlags::empty(), &to).unwrap();
}

/// The ports of a host's UDP sockets.
fn ports(host: &Host) -> Vec<u16> {
    let output = host.outer.command("ss -Huan").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let local = text.lines().filter_map(|line| line.split_whitespace().nth(3));
    local.map(|address| address.rsplit(':').next().unwrap().parse().unwrap()).collect()
}

fn forged_errors_narrow_nothing_below_1280_and_shut_nothing_off() {
    let (pair, router) = started(false);
    settles(&pair, None);
    let known = ports(&pair.a);
    assert_eq!(known.len(), 2, "{known:?}");
    let before = cut_up(&pair.a.outer);
    // Whoever sees nothing knows the VPN's port alone.
    for mtu in [0, 68, 552, 1000] {
        forge(&router, PORT, mtu);
    }
    assert!(pair.a.hub.pings("10.66.0.2", "-s 1372"));
    assert_eq!(cut_up(&pair.a.outer), before, "this host cut up what its interface takes");
    // Who knows the scout's too is not believed either.
    wait_until("the least is kept", || {
        for port in &known {
            [0, 68, 552].into_iter().for_each(|mtu| forge(&router, *port, mtu));
        }
        assert!(pair.a.hub.pings("10.66.0.2", "-M dont -s 1392"));
        limit(&pair.a).is_some()
    });
    assert_eq!(limit(&pair.a), Some(1280 - OVERHEAD[0]));
    let _server = iperf_server(&pair.b.hub);
    assert!(wait_for_iperf(&pair.a.hub, "") > 5.0);
}

fn packets_of_scouts_are_no_garbage() {
    let (pair, _router) = started(false);
    settles(&pair, None);
    wait_until("a was asked", || pair.a.drops(Reason::SizeProbe) > 0);
    assert_eq!((pair.a.drops(Reason::Malformed), pair.b.drops(Reason::Malformed)), (0, 0));
}

const TESTS: &[Test] = &[
    ("over_ipv4_a_narrow_path_is_found", over_ipv4_a_narrow_path_is_found),
    ("over_ipv6_a_narrow_path_is_found", over_ipv6_a_narrow_path_is_found),
    ("a_change_of_the_path_is_followed", a_change_of_the_path_is_followed),
    (
        "forged_errors_narrow_nothing_below_1280_and_shut_nothing_off",
        forged_errors_narrow_nothing_below_1280_and_shut_nothing_off,
    ),
    ("packets_of_scouts_are_no_garbage", packets_of_scouts_are_no_garbage),
];

fn main() -> ExitCode {
    hosts::main(TESTS, &[], None)
}
