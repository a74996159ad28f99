//! The kernel's WireGuard, alone and against the embedded one: two hosts as in `embedded.rs`.
//!
//! Needs what that needs, the `wg` program, and a kernel with WireGuard.

#[allow(dead_code, reason = "each test program uses its part")]
mod hosts;

use std::process::ExitCode;

use hosts::{PORT, Pair, Test, v4};
use hyperspector_spec::plan::VpnBackend;
use hyperspector_vpn::backend::{self, Handle};
use hyperspector_vpn::kernel;
use hyperspector_vpn::keys::SecretKey;
use hyperspector_vpn::peer::Peer;
use hyperspector_vpn::status::Backend;

/// Both started with the implementations given.
fn started(a: VpnBackend, b: VpnBackend) -> Pair {
    let mut pair = Pair::new();
    let (peer_a, peer_b) = (pair.a.as_peer(v4(1)), pair.b.as_peer(v4(2)));
    pair.a.start_with(a, &[peer_b], true);
    pair.b.start_with(b, &[peer_a], true);
    pair
}

/// What `wg show vpn0 WHAT` says in a host's hub.
fn wg(host: &hosts::Host, what: &str) -> String {
    let output = host.hub.command(&format!("wg show vpn0 {what}")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn it_is_there_and_leaves_no_trace_of_asking() {
    let pair = Pair::new();
    // Not the whole links: the kernel may tell the cable's carrier (IFF_RUNNING) a second late.
    let links = || -> Vec<_> {
        let links = pair.a.outer.links().links().unwrap();
        links.into_iter().map(|link| (link.index, link.name)).collect()
    };
    let before = links();
    assert!(pair.a.outer.within(kernel::is_available).unwrap());
    assert_eq!(links(), before);
}

fn two_kernels_talk() {
    let pair = started(VpnBackend::Kernel, VpnBackend::Auto);
    assert!(pair.a.hub.pings("10.66.0.2", ""));
    for host in [&pair.a, &pair.b] {
        let status = host.status();
        assert_eq!(status.backend, Backend::Kernel);
        assert_eq!(status.public_key, host.key.public());
        assert_eq!(status.peers.len(), 1);
        assert!(status.peers[0].last_handshake.unwrap() < 30);
        assert!(status.peers[0].rx_bytes > 300 && status.peers[0].tx_bytes > 300);
    }
    assert_eq!(wg(&pair.a, "listen-port").trim(), PORT.to_string());
    assert_eq!(wg(&pair.a, "peers").trim(), pair.b.key.public().to_string());
    assert!(wg(&pair.a, "allowed-ips").trim().ends_with("10.66.0.2/32"));
}

fn the_embedded_one_and_the_kernels_understand_each_other() {
    for (a, b) in
        [(VpnBackend::Kernel, VpnBackend::Embedded), (VpnBackend::Embedded, VpnBackend::Kernel)]
    {
        let pair = started(a, b);
        // The embedded one may have called before the other was there; it calls again after 5 s.
        assert!((0..4).any(|_| pair.a.hub.pings("10.66.0.2", "")));
        assert!(pair.b.hub.pings("10.66.0.1", "-s 9000"));
        for (host, backend) in [(&pair.a, a), (&pair.b, b)] {
            let wanted = match backend {
                VpnBackend::Embedded => Backend::Embedded,
                _ => Backend::Kernel,
            };
            let status = host.status();
            assert_eq!(status.backend, wanted);
            assert!(status.peers[0].drops.is_empty(), "{:?}", status.peers[0].drops);
        }
    }
}

fn a_changed_list_is_a_difference() {
    let pair = started(VpnBackend::Kernel, VpnBackend::Kernel);
    assert!(pair.a.hub.pings("10.66.0.2", ""));
    let session = wg(&pair.a, "latest-handshakes");
    let mut same = pair.b.as_peer(v4(2));
    backend::set_peers(pair.a.handle(), vec![same.clone()]).unwrap();
    assert_eq!(wg(&pair.a, "latest-handshakes"), session);
    same.keepalive = Some(25);
    same.allowed.push("10.66.9.0/24".parse().unwrap());
    backend::set_peers(pair.a.handle(), vec![same]).unwrap();
    assert_eq!(wg(&pair.a, "latest-handshakes"), session);
    assert!(wg(&pair.a, "persistent-keepalive").trim().ends_with("25"));
    assert!(wg(&pair.a, "allowed-ips").contains("10.66.9.0/24"));
    backend::set_peers(pair.a.handle(), Vec::new()).unwrap();
    assert_eq!(wg(&pair.a, "peers"), "");
    assert!(!pair.a.hub.pings("10.66.0.2", ""));
}

fn a_key_changes() {
    use VpnBackend::{Embedded, Kernel};
    for (backend, other) in [(Kernel, Kernel), (Embedded, Kernel), (Kernel, Embedded)] {
        let pair = started(backend, other);
        assert!((0..4).any(|_| pair.b.hub.pings("10.66.0.1", "")));
        let (old, next) = (pair.a.key.clone(), SecretKey::generate().unwrap());
        let (a, keys) = (pair.a.as_peer(v4(1)), [old.public(), next.public()]);
        let both = vec![Peer { next_key: Some(next.public()), ..a.clone() }];
        backend::set_peers(pair.b.handle(), both.clone()).unwrap();
        assert!(pair.b.hub.pings("10.66.0.1", ""), "the old key is taken");
        let own = if backend == Kernel { vec![next.clone()] } else { vec![old, next.clone()] };
        backend::set_keys(pair.a.handle(), own).unwrap();
        // As an agent does, some times in a second.
        let is_there = || {
            pair.a.hub.pings("10.66.0.2", "");
            backend::set_peers(pair.b.handle(), both.clone()).unwrap();
            let peer = pair.b.status().peer(&keys).unwrap();
            peer.keys.is_some_and(|keys| keys.theirs == next.public())
        };
        assert!((0..10).any(|_| is_there()), "{:?}", pair.b.status());
        assert!(pair.b.hub.pings("10.66.0.1", ""), "the new key is taken");
        backend::set_keys(pair.a.handle(), vec![next.clone()]).unwrap();
        backend::set_peers(pair.b.handle(), vec![Peer { public_key: next.public(), ..a }]).unwrap();
        assert!(pair.b.hub.pings("10.66.0.1", "") && pair.a.hub.pings("10.66.0.2", ""));
        assert_eq!(pair.b.status().peers.len(), 1);
        assert_eq!(pair.a.status().public_key, next.public());
    }
}

fn a_handle_finds_it_again_and_stops_it() {
    let pair = started(VpnBackend::Kernel, VpnBackend::Kernel);
    let stored = serde_json::to_string(pair.a.handle()).unwrap();
    let handle: Handle = serde_json::from_str(&stored).unwrap();
    assert_eq!(backend::status(&handle).unwrap().public_key, pair.a.key.public());
    backend::stop(&handle).unwrap();
    assert!(!pair.a.has_vpn0());
    backend::stop(&handle).unwrap();
}

const TESTS: &[Test] = &[
    ("it_is_there_and_leaves_no_trace_of_asking", it_is_there_and_leaves_no_trace_of_asking),
    ("two_kernels_talk", two_kernels_talk),
    (
        "the_embedded_one_and_the_kernels_understand_each_other",
        the_embedded_one_and_the_kernels_understand_each_other,
    ),
    ("a_changed_list_is_a_difference", a_changed_list_is_a_difference),
    ("a_key_changes", a_key_changes),
    ("a_handle_finds_it_again_and_stops_it", a_handle_finds_it_again_and_stops_it),
];

fn main() -> ExitCode {
    use VpnBackend::{Embedded, Kernel};
    let ends = [[Kernel, Kernel], [Kernel, Embedded], [Embedded, Kernel]];
    hosts::main(TESTS, &ends, Some("needs a kernel with WireGuard: tests/vm/run"))
}
