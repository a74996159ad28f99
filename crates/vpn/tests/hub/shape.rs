//! Rates, and who goes first.

use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hyperspector_spec::plan::{Flow, Open, Policy, Protocol};
use hyperspector_sys::netns;

use crate::lab::{A, B, Fleet, PORTS, REMOTE, gets_through, ports, run, udp};

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
