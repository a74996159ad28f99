//! Shapes of networks that break tunnels, for either implementation at either end: those that the
//! kernel's WireGuard is tested in.

use std::net::SocketAddr;
use std::time::Duration;

use hyperspector_spec::plan::VpnBackend;
use hyperspector_sys::netns;
use hyperspector_vpn::backend;
use hyperspector_vpn::keys::SecretKey;
use hyperspector_vpn::peer::Peer;
use hyperspector_vpn::preshared::PresharedKey;
use hyperspector_vpn::status::{Backend, Reason};

use super::{Host, Namespace, PORT, Pair, v4, wait_until};

/// The implementations of a and b.
pub type Ends = [VpnBackend; 2];

/// What a router remembers of a flow of datagrams, in seconds, and for how long a flow is idle here.
const REMEMBERED: &str = "2";
const IDLE: Duration = Duration::from_secs(4);

/// One shape.
pub type Shape = fn(Ends);

pub const ALL: [(&str, Shape); 7] = [
    ("both_ends_move_one_after_the_other", both_ends_move_one_after_the_other),
    ("answers_leave_from_where_they_were_called", answers_leave_from_where_they_were_called),
    ("a_router_that_forgets_soon_is_reminded", a_router_that_forgets_soon_is_reminded),
    ("a_source_that_is_not_the_peers_is_dropped", a_source_that_is_not_the_peers_is_dropped),
    ("an_address_goes_from_one_peer_to_another", an_address_goes_from_one_peer_to_another),
    ("links_go_down_and_come_up", links_go_down_and_come_up),
    ("a_preshared_key_is_needed_at_both_ends", a_preshared_key_is_needed_at_both_ends),
];

/// Starts both, which are friends as `change` makes each of the other.
fn start(pair: &mut Pair, [of_a, of_b]: Ends, change: impl Fn(&mut Peer)) {
    let (mut a, mut b) = (pair.a.as_peer(v4(1)), pair.b.as_peer(v4(2)));
    change(&mut a);
    change(&mut b);
    pair.a.start_with(of_a, &[b], true);
    pair.b.start_with(of_b, &[a], true);
}

/// Both started, which have found each other.
fn started(ends: Ends) -> Pair {
    let mut pair = Pair::new();
    start(&mut pair, ends, |_| ());
    reaches(&pair.a, "10.66.0.2");
    pair
}

/// Who called before the other was there calls again after 5 s, who is not answered any more after 15 s.
fn reaches(from: &Host, to: &str) {
    assert!((0..8).any(|_| from.hub.pings(to, "")), "{} does not reach {to}", from.number);
}

/// What a host has dropped of its peers' packets; the kernel's does not tell.
pub fn peer_drops(host: &Host, reason: Reason) -> Option<u64> {
    let status = host.status();
    let sum = status.peers.iter().filter_map(|peer| peer.drops.get(&reason)).sum();
    (status.backend == Backend::Embedded).then_some(sum)
}

fn both_ends_move_one_after_the_other(ends: Ends) {
    let pair = started(ends);
    for (host, old, new) in [(&pair.a, 1, 71), (&pair.b, 2, 72), (&pair.a, 71, 81)] {
        host.outer.run(&format!("ip address add 192.0.2.{new}/24 dev hs-veth"));
        host.outer.run(&format!("ip address del 192.0.2.{old}/24 dev hs-veth"));
        // Deleting a first address takes the others of its network along.
        let again = format!("ip address replace 192.0.2.{new}/24 dev hs-veth");
        host.outer.run(&again);
        let other = if host.number == 1 { "10.66.0.2" } else { "10.66.0.1" };
        assert!(host.hub.pings(other, ""), "{old} to {new}");
    }
    assert_eq!(pair.b.status().peers[0].endpoint, Some(SocketAddr::new(v4(81), PORT)));
    assert_eq!(pair.a.status().peers[0].endpoint, Some(SocketAddr::new(v4(72), PORT)));
}

fn answers_leave_from_where_they_were_called(ends: Ends) {
    let mut pair = Pair::new();
    pair.b.outer.run("ip address add 192.0.2.22/24 dev hs-veth");
    let peers = (pair.a.as_peer(v4(1)), pair.b.as_peer(v4(22)));
    pair.a.start_with(ends[0], &[peers.1], true);
    pair.b.start_with(ends[1], &[Peer { endpoint: None, ..peers.0 }], true);
    reaches(&pair.a, "10.66.0.2");
    assert!(pair.b.hub.pings("10.66.0.1", ""));
    assert_eq!(pair.a.status().peers[0].endpoint, Some(SocketAddr::new(v4(22), PORT)));
    // Where that address goes, the other does.
    pair.b.outer.run("ip address del 192.0.2.22/24 dev hs-veth");
    assert!((0..4).any(|_| pair.b.hub.pings("10.66.0.1", "")));
    assert_eq!(pair.a.status().peers[0].endpoint, Some(SocketAddr::new(v4(2), PORT)));
}

/// Makes the cable one with a router that translates addresses: a is hidden, and calls.
pub fn behind_a_router(ends: Ends, keepalive: Option<u16>) -> (Pair, Namespace) {
    let mut pair = Pair::new();
    let router = pair.with_router();
    pair.b.outer.run("ip route del 10.9.0.0/24");
    router.run("nft add table ip nat");
    router.run("nft add chain ip nat post { type nat hook postrouting priority 100 ; }");
    router.run("nft add rule ip nat post oifname hs-out masquerade random");
    let (a, b) = (pair.a.as_peer(v4(1)), pair.b.as_peer(v4(2)));
    pair.a.start_with(ends[0], &[Peer { keepalive, ..b }], true);
    pair.b.start_with(ends[1], &[Peer { endpoint: None, ..a }], true);
    (pair, router)
}

fn a_router_that_forgets_soon_is_reminded(ends: Ends) {
    for keepalive in [None, Some(1)] {
        let (pair, router) = behind_a_router(ends, keepalive);
        for name in ["nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"] {
            let name = format!("net/netfilter/{name}");
            netns::sysctl(std::os::fd::AsFd::as_fd(&router.fd), &name, REMEMBERED).unwrap();
        }
        opens_the_way(&pair);
        // Not for 15 s: whoever has heard no answer for so long calls again.
        std::thread::sleep(IDLE);
        let open = pair.b.hub.pings("10.66.0.1", "");
        assert_eq!(open, keepalive.is_some(), "{keepalive:?}");
        // Whoever is hidden opens it again.
        opens_the_way(&pair);
    }
}

/// Right after a has called, b reaches it; on a slow machine that may be too late once or twice.
fn opens_the_way(pair: &Pair) {
    let open = || pair.a.hub.pings("10.66.0.2", "") && pair.b.hub.pings("10.66.0.1", "");
    assert!((0..6).any(|_| open()), "the way does not open");
}

fn a_source_that_is_not_the_peers_is_dropped(ends: Ends) {
    let pair = started(ends);
    pair.a.hub.run("ip address add 10.66.0.77/32 dev vpn0");
    assert!(!pair.a.hub.pings("10.66.0.2", "-I 10.66.0.77"));
    assert!(peer_drops(&pair.b, Reason::WrongSource).is_none_or(|count| count > 0));
    assert!(!pair.a.hub.pings("10.66.0.200", ""), "an address that no peer has");
    if pair.a.status().backend == Backend::Embedded {
        assert!(pair.a.drops(Reason::NoPeer) > 0);
    }
    // The peer is given the address: now it may.
    let mut peer = pair.a.as_peer(v4(1));
    peer.allowed.push("10.66.0.77/32".parse().unwrap());
    backend::set_peers(pair.b.handle(), vec![peer]).unwrap();
    assert!(pair.a.hub.pings("10.66.0.2", "-I 10.66.0.77"));
}

fn an_address_goes_from_one_peer_to_another(ends: Ends) {
    let pair = started(ends);
    let stranger = SecretKey::generate().unwrap().public();
    let (known, address) = (pair.b.as_peer(v4(2)), "10.66.0.2/32".parse().unwrap());
    let other = Peer { allowed: vec![address], ..Peer::new(stranger) };
    let without = Peer { allowed: Vec::new(), ..known.clone() };
    backend::set_peers(pair.a.handle(), vec![without, other.clone()]).unwrap();
    assert!(!pair.a.hub.pings("10.66.0.2", ""), "what goes to the address goes to its owner");
    assert!(!pair.b.hub.pings("10.66.0.1", ""), "who has it no more cannot send from it");
    let other = Peer { allowed: Vec::new(), ..other };
    backend::set_peers(pair.a.handle(), vec![known, other]).unwrap();
    reaches(&pair.a, "10.66.0.2");
}

fn links_go_down_and_come_up(ends: Ends) {
    let pair = started(ends);
    pair.a.hub.run("ip link set vpn0 down");
    assert!(!pair.b.hub.pings("10.66.0.1", ""));
    pair.a.hub.run("ip link set vpn0 up");
    reaches(&pair.b, "10.66.0.1");
    for host in [&pair.a, &pair.b] {
        host.outer.run("ip link set hs-veth down");
        assert!(!pair.a.hub.pings("10.66.0.2", ""));
        host.outer.run("ip link set hs-veth up");
        wait_until("the cable is back", || pair.a.hub.pings("10.66.0.2", ""));
    }
}

fn a_preshared_key_is_needed_at_both_ends(ends: Ends) {
    let mut pair = Pair::new();
    let shared = PresharedKey::from_bytes([7; 32]);
    start(&mut pair, ends, |peer| peer.preshared = Some(shared.clone()));
    reaches(&pair.a, "10.66.0.2");
    assert!(pair.b.hub.pings("10.66.0.1", ""));
    let with = |key| vec![Peer { preshared: key, ..pair.a.as_peer(v4(1)) }];
    for wrong in [Some(PresharedKey::from_bytes([8; 32])), None] {
        // Whoever takes it as another peer forgets the session; the kernel's keeps that.
        backend::set_peers(pair.b.handle(), Vec::new()).unwrap();
        backend::set_peers(pair.b.handle(), with(wrong)).unwrap();
        assert!(!pair.b.hub.pings("10.66.0.1", ""), "with another one");
    }
    backend::set_peers(pair.b.handle(), Vec::new()).unwrap();
    backend::set_peers(pair.b.handle(), with(Some(shared.clone()))).unwrap();
    reaches(&pair.b, "10.66.0.1");
}
