//! Two hosts with an embedded VPN each, as real processes in real network namespaces.
//!
//! ```text
//!  hub a            host a              host b            hub b
//!  vpn0 10.66.0.1   veth 192.0.2.1 ---- veth 192.0.2.2    vpn0 10.66.0.2
//!                        2001:db8::1         2001:db8::2
//! ```
//!
//! Needs root, iproute2, ping and iperf3. The program is its own worker: see `main`.

#[allow(dead_code, reason = "each test program uses its part")]
mod hosts;

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use hosts::{MTU, PORT, Pair, Test, iperf_server, v4, wait_for_iperf, wait_until};
use hyperspector_spec::plan::VpnBackend;
use hyperspector_sys::netns;
use hyperspector_vpn::backend::{self, Start};
use hyperspector_vpn::control;
use hyperspector_vpn::status::{Backend, Reason};

/// The number of the capability that lifts limits (capabilities(7)).
const CAP_SYS_RESOURCE: u32 = 24;

fn packets_pass() {
    for offload in [false, true] {
        let pair = Pair::started(offload);
        assert!(pair.a.hub.pings("10.66.0.2", ""));
        assert!(pair.b.hub.pings("10.66.0.1", "-s 1392"), "a full packet");
        assert!(pair.b.hub.pings("10.66.0.1", "-s 9000"), "fragments");
        let status = pair.a.status();
        assert_eq!(status.backend, Backend::Embedded);
        assert_eq!(status.public_key, pair.a.key.public());
        assert_eq!(status.offload.tcp, offload);
        assert!(status.peers[0].last_handshake.unwrap() < 30);
        assert!(status.peers[0].rx_bytes > 9000 && status.peers[0].tx_bytes > 9000);
        assert_eq!(status.peers[0].endpoint, Some(SocketAddr::new(v4(2), PORT)));
        assert!(status.peers[0].drops.is_empty(), "{:?}", status.peers[0].drops);
    }
}

fn packets_pass_through_several_queues() {
    let mut pair = Pair::new();
    (pair.a.queues, pair.b.queues) = (4, 3);
    let (a, b) = (pair.a.as_peer(v4(1)), pair.b.as_peer(v4(2)));
    pair.a.start(&[b], true);
    pair.b.start(&[a], true);
    let threads = fs::read_dir(format!("/proc/{}/task", pair.a.pid())).unwrap().count();
    assert_eq!(threads, 3 + 2 * 4);
    for _ in 0..3 {
        assert!(pair.a.hub.pings("10.66.0.2", ""));
        assert!(pair.b.hub.pings("10.66.0.1", "-s 9000"));
    }
    let _server = iperf_server(&pair.b.hub);
    let mbits = wait_for_iperf(&pair.a.hub, "-P 8");
    println!("    8 streams over 4 and 3 queues: {mbits:.0} Mbit/s");
    for host in [&pair.a, &pair.b] {
        assert!(host.status().peers[0].drops.is_empty(), "{:?}", host.status());
    }
    pair.a.hub.run("ip link delete vpn0");
    let process = pair.a.handle().process().unwrap();
    wait_until("the process ends", || {
        let state = fs::read_to_string(format!("/proc/{}/stat", pair.a.pid())).unwrap();
        process.is_none() || state.contains(") Z ")
    });
}

fn ipv6_outside_works_too() {
    let mut pair = Pair::new();
    let (one, two) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
    let (a, b) = (pair.a.as_peer(one), pair.b.as_peer(two));
    pair.a.start(&[b], true);
    pair.b.start(&[a], true);
    assert!(pair.a.hub.pings("10.66.0.2", ""));
    assert_eq!(pair.b.status().peers[0].endpoint, Some(SocketAddr::new(one, PORT)));
}

fn it_works_where_ipv6_is_off() {
    let mut pair = Pair::new();
    for host in [&pair.a, &pair.b] {
        let off = [("net/ipv6/conf/all/disable_ipv6", "1")];
        netns::sysctls(host.outer.fd.as_fd(), &off).unwrap();
    }
    let (a, b) = (pair.a.as_peer(v4(1)), pair.b.as_peer(v4(2)));
    pair.a.start(&[b], true);
    pair.b.start(&[a], true);
    assert!(pair.a.hub.pings("10.66.0.2", ""));
}

fn a_path_that_is_too_narrow_is_slow_and_not_silent() {
    let pair = Pair::started(true);
    for host in [&pair.a, &pair.b] {
        host.outer.links().set_mtu("hs-veth", 1300).unwrap();
    }
    assert!(pair.a.hub.pings("10.66.0.2", "-s 1392"));
    let _server = iperf_server(&pair.b.hub);
    assert!(wait_for_iperf(&pair.a.hub, "") > 1.0);
    let status = pair.a.status();
    assert!(!status.drops.contains_key(&Reason::SendFailed), "{:?}", status.drops);
    assert!(status.offload.send, "sending many at once was given up for good");
}

fn a_moved_peer_is_followed() {
    let pair = Pair::started(true);
    assert!(pair.a.hub.pings("10.66.0.2", ""));
    pair.a.outer.run("ip address add 192.0.2.77/24 dev hs-veth");
    pair.a.outer.run("ip address del 192.0.2.1/24 dev hs-veth");
    pair.a.outer.run("ip address add 192.0.2.77/24 dev hs-veth");
    assert!(pair.a.hub.pings("10.66.0.2", ""));
    assert_eq!(pair.b.status().peers[0].endpoint, Some(SocketAddr::new(v4(77), PORT)));
    assert!(pair.b.hub.pings("10.66.0.1", ""));
}

fn garbage_is_counted_and_not_answered() {
    let pair = Pair::started(true);
    assert!(pair.a.hub.pings("10.66.0.2", ""));
    let before = pair.b.drops(Reason::Malformed);
    let socket = pair.a.outer.within(|| UdpSocket::bind("192.0.2.1:0").unwrap());
    let target = SocketAddr::new(v4(2), PORT);
    for length in 0..200_usize {
        socket.send_to(&vec![0xa5; length], target).unwrap();
    }
    let mut forged = [0_u8; 148];
    forged[0] = 1;
    socket.send_to(&forged, target).unwrap();
    wait_until("garbage is counted", || pair.b.drops(Reason::Malformed) == before + 200);
    wait_until("the forged one too", || pair.b.drops(Reason::BadMac) == 1);
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(socket.recv(&mut [0; 2000]).is_err(), "a stranger was answered");
    assert!(pair.a.hub.pings("10.66.0.2", ""));
}

fn the_process_has_nothing_left() {
    let pair = Pair::started(true);
    let text = fs::read_to_string(format!("/proc/{}/status", pair.a.pid())).unwrap();
    let field = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {name}")).trim().to_owned()
    };
    assert_eq!(field("Uid"), "4200001\t4200001\t4200001\t4200001");
    assert_eq!(field("Gid"), "4200001\t4200001\t4200001\t4200001");
    assert_eq!(field("Groups"), "");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!((field("NoNewPrivs"), field("Seccomp")), ("1".into(), "2".into()));
    // Every thread of it.
    let threads = fs::read_dir(format!("/proc/{}/task", pair.a.pid())).unwrap();
    let mut count = 0;
    for thread in threads {
        let text = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        assert!(text.contains("Seccomp:\t2") && text.contains("CapEff:\t0000000000000000"));
        count += 1;
    }
    assert_eq!(count, 5);
    // The standard ones, TUN, UDP, the scout's, listener, eventfd; not the channel.
    let fds = fs::read_dir(format!("/proc/{}/fd", pair.a.pid())).unwrap().count();
    assert_eq!(fds, 8);
    let enforced = pair.a.status().enforced.unwrap();
    assert_eq!((enforced.uid, enforced.gid), (4_200_001, 4_200_001));
    // Memory is locked wherever root is free to lift the limit.
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let own = own.lines().find_map(|l| l.strip_prefix("CapEff:\t")).unwrap();
    let free = (u64::from_str_radix(own, 16).unwrap() >> CAP_SYS_RESOURCE) & 1 == 1;
    assert!(enforced.memory_locked || !free);
    assert_eq!(field("VmLck") != "0 kB", enforced.memory_locked);
}

fn it_refuses_to_stay_root() {
    let mut pair = Pair::new();
    let start = Start {
        name: "alpha",
        backend: VpnBackend::Embedded,
        key: &pair.a.key,
        listen_port: PORT,
        mtu: MTU,
        peers: &[],
        control: &pair.a.control,
        operators: None,
        uid: 0,
        gid: 1,
        offload: true,
        queues: 1,
    };
    let error = pair.a.outer.within(|| backend::start(&start)).unwrap_err().to_string();
    assert!(error.contains("neither may be 0"), "{error}");
    assert!(!pair.a.control.exists());
    let left = pair.a.outer.links().links().unwrap();
    assert!(left.iter().all(|link| !link.name.starts_with("hsv")), "{left:?}");
    pair.a.start(&[], true);
}

fn a_removed_peer_is_cut_off_and_one_that_stays_is_not() {
    let pair = Pair::started(true);
    assert!(pair.a.hub.pings("10.66.0.2", ""));
    let before = pair.b.status().peers[0].last_handshake;
    backend::set_peers(pair.b.handle(), vec![pair.a.as_peer(v4(1))]).unwrap();
    assert!(pair.b.status().peers[0].last_handshake >= before);
    assert!(pair.a.hub.pings("10.66.0.2", ""));
    backend::set_peers(pair.b.handle(), Vec::new()).unwrap();
    assert!(!pair.a.hub.pings("10.66.0.2", ""));
    assert!(pair.b.drops(Reason::UnknownPeer) > 0);
    let own = vec![pair.b.as_peer(v4(2))];
    assert!(backend::set_peers(pair.b.handle(), own).is_err());
}

fn agents_come_and_go() {
    let pair = Pair::started(true);
    // One that hangs does not keep out the next for long, and a broken frame does no harm.
    let hanging = std::os::unix::net::UnixStream::connect(&pair.a.control).unwrap();
    std::io::Write::write_all(&mut &hanging, &[0, 0]).unwrap();
    wait_until("the next agent is answered", || {
        control::ask(&pair.a.control, &control::Request::Status).is_ok()
    });
    for _ in 0..100 {
        pair.a.status();
    }
    assert!(pair.a.hub.pings("10.66.0.2", ""));
}

fn killing_and_stopping_leave_nothing() {
    let mut pair = Pair::started(true);
    assert!(pair.a.has_vpn0() && pair.b.has_vpn0());
    let child = pair.a.running.as_mut().unwrap().child.as_mut().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("the interface goes with the process", || !pair.a.has_vpn0());
    assert!(pair.a.handle().process().unwrap().is_none());
    backend::stop(pair.a.handle()).unwrap();
    assert!(!pair.a.control.exists());
    // A new one takes the place of the old, and the peers find each other again.
    pair.a.running = None;
    let peer = pair.b.as_peer(v4(2));
    pair.a.start(&[peer], true);
    assert!(pair.a.hub.pings("10.66.0.2", ""));
    let handle = pair.b.handle().clone();
    backend::stop(&handle).unwrap();
    wait_until("the interface goes with the VPN", || !pair.b.has_vpn0());
    assert!(!pair.b.control.exists());
    backend::stop(&handle).unwrap();
    let names: Vec<_> = fs::read_dir(pair.folder.path()).unwrap().flatten().collect();
    assert_eq!(names.len(), 5, "four namespaces and one control socket: {names:?}");
}

fn the_process_ends_when_its_interface_is_removed() {
    let pair = Pair::started(true);
    pair.a.hub.run("ip link delete vpn0");
    let process = pair.a.handle().process().unwrap();
    wait_until("the process ends", || {
        let state = fs::read_to_string(format!("/proc/{}/stat", pair.a.pid())).unwrap();
        process.is_none() || state.contains(") Z ")
    });
}

/// Not a test of a limit: it prints what TCP gets on this machine.
fn throughput() {
    for offload in [false, true] {
        let pair = Pair::started(offload);
        assert!(pair.a.hub.pings("10.66.0.2", ""));
        for (what, options) in [("one way", ""), ("other way", "-R"), ("four streams", "-P 4")] {
            let server = iperf_server(&pair.b.hub);
            let mbits = wait_for_iperf(&pair.a.hub, options);
            println!("    offload {offload}: TCP, {what}: {mbits:.0} Mbit/s");
            assert!(mbits > 1.0);
            drop(server);
        }
        for host in [&pair.a, &pair.b] {
            let status = host.status();
            println!("    {:?} {:?}", status.drops, status.peers[0].drops);
        }
    }
}

const TESTS: &[Test] = &[
    ("packets_pass", packets_pass),
    ("packets_pass_through_several_queues", packets_pass_through_several_queues),
    ("ipv6_outside_works_too", ipv6_outside_works_too),
    ("it_works_where_ipv6_is_off", it_works_where_ipv6_is_off),
    (
        "a_path_that_is_too_narrow_is_slow_and_not_silent",
        a_path_that_is_too_narrow_is_slow_and_not_silent,
    ),
    ("a_moved_peer_is_followed", a_moved_peer_is_followed),
    ("garbage_is_counted_and_not_answered", garbage_is_counted_and_not_answered),
    ("the_process_has_nothing_left", the_process_has_nothing_left),
    ("it_refuses_to_stay_root", it_refuses_to_stay_root),
    (
        "a_removed_peer_is_cut_off_and_one_that_stays_is_not",
        a_removed_peer_is_cut_off_and_one_that_stays_is_not,
    ),
    ("agents_come_and_go", agents_come_and_go),
    ("killing_and_stopping_leave_nothing", killing_and_stopping_leave_nothing),
    (
        "the_process_ends_when_its_interface_is_removed",
        the_process_ends_when_its_interface_is_removed,
    ),
    ("throughput", throughput),
];

fn main() -> ExitCode {
    hosts::main(TESTS, &[], None)
}
