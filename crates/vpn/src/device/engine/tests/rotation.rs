//! Keys that change under traffic, on one side and on both.

use super::*;

/// A host with another key beside its own, and what it is to others from then on.
fn with_next(host: &Host) -> (SecretKey, Peer) {
    let next = SecretKey::generate().unwrap();
    let peer = Peer { next_key: Some(next.public()), ..host.as_peer(true) };
    (next, peer)
}

fn greet(host: &Host) {
    host.engine.greet(&mut Outbox::new(&host.sent, host.engine.drops()));
}

fn tick(host: &Host) {
    host.engine.tick(&mut Outbox::new(&host.sent, host.engine.drops()));
}

/// Sends a packet each way and says whether both came.
fn talk(a: &Host, b: &Host) -> bool {
    let before = (a.inside.borrow().len(), b.inside.borrow().len());
    a.sends(packet(1, 2, 100));
    b.sends(packet(2, 1, 100));
    exchange(&[a, b]);
    (a.inside.borrow().len(), b.inside.borrow().len()) == (before.0 + 1, before.1 + 1)
}

/// Between which keys the only peer of a host talks with it.
fn keys(host: &Host) -> (PublicKey, PublicKey) {
    let keys = host.engine.peers()[0].keys.unwrap();
    (keys.ours, keys.theirs)
}

#[test]
fn a_key_changes_under_traffic_and_the_old_one_is_refused_then() {
    let (a, b) = pair();
    assert!(talk(&a, &b));
    let (old, (next, both)) = (b.engine.secret(), with_next(&b));
    // The host itself is first: nobody knows the next key yet, so the old one goes on.
    b.engine.set_keys(vec![old.clone(), next.clone()]).unwrap();
    greet(&b);
    assert!(talk(&a, &b));
    assert_eq!(keys(&b).0, old.public());
    assert_eq!(a.drop_count(Reason::UnknownPeer), 1);

    a.engine.set_peers(vec![both]).unwrap();
    assert!(talk(&a, &b), "the session went on");
    greet(&b);
    assert!(talk(&a, &b));
    assert_eq!(keys(&b), (next.public(), a.engine.public_key()));
    assert_eq!(keys(&a), (a.engine.public_key(), next.public()));

    b.engine.set_keys(vec![next.clone()]).unwrap();
    assert!(talk(&a, &b));
    let renamed = Peer { public_key: next.public(), ..b.as_peer(true) };
    a.engine.set_peers(vec![renamed]).unwrap();
    assert!(talk(&a, &b));
    let status = &a.engine.peers()[0];
    assert_eq!((status.public_key, status.last_handshake), (next.public(), Some(0)));

    let thief = Host { engine: Engine::new(old), ..Host::new(2) };
    thief.engine.set_peers(vec![a.as_peer(true)]).unwrap();
    thief.sends(packet(2, 1, 60));
    let unknown = a.drop_count(Reason::UnknownPeer);
    assert_eq!(exchange(&[&a, &thief]).len(), 1, "the old key got an answer");
    assert_eq!(a.drop_count(Reason::UnknownPeer), unknown + 1);
}

#[test]
fn both_sides_may_change_at_the_same_time() {
    let (a, b) = pair();
    assert!(talk(&a, &b));
    let ((a_next, a_both), (b_next, b_both)) = (with_next(&a), with_next(&b));
    a.engine.set_keys(vec![a.engine.secret(), a_next.clone()]).unwrap();
    b.engine.set_keys(vec![b.engine.secret(), b_next.clone()]).unwrap();
    assert!(talk(&a, &b));
    a.engine.set_peers(vec![b_both]).unwrap();
    b.engine.set_peers(vec![a_both]).unwrap();
    for host in [&a, &b, &a, &b] {
        greet(host);
        assert!(talk(&a, &b));
    }
    assert_eq!(keys(&a), (a_next.public(), b_next.public()));
    assert_eq!(keys(&b), (b_next.public(), a_next.public()));
    // Nothing is tried any more.
    greet(&a);
    greet(&b);
    assert!(exchange(&[&a, &b]).is_empty());
}

#[test]
fn who_starts_anew_finds_the_key_that_the_other_has() {
    for has_changed in [false, true] {
        let (a, b) = pair();
        let (next, both) = with_next(&b);
        if has_changed {
            b.engine.set_keys(vec![next]).unwrap();
        }
        a.engine.set_peers(vec![both]).unwrap();
        greet(&a);
        exchange(&[&a, &b]);
        assert!(talk(&a, &b), "{has_changed}");
    }
}

#[test]
fn a_peer_that_missed_the_change_is_told_by_the_next_packet() {
    let (a, b) = pair();
    assert!(talk(&a, &b));
    let (next, both) = with_next(&b);
    a.engine.set_peers(vec![both]).unwrap();
    b.engine.set_keys(vec![b.engine.secret(), next.clone()]).unwrap();
    greet(&b);
    // The handshake is answered, but what would tell that the answer came is lost.
    let (_, begin) = b.sent.0.borrow_mut().pop_front().unwrap();
    a.hears(&begin, b.address);
    let (_, answer) = a.sent.0.borrow_mut().pop_front().unwrap();
    b.hears(&answer, a.address);
    b.sent.0.borrow_mut().clear();
    assert_eq!((keys(&b).0, keys(&a).1), (next.public(), b.engine.public_key()));
    a.sends(packet(1, 2, 100));
    exchange(&[&a, &b]);
    assert_eq!(b.inside.borrow().len(), 2, "what comes on the old line is taken");
    tick(&b);
    exchange(&[&a, &b]);
    assert_eq!(keys(&a).1, next.public());
    tick(&b);
    assert!(exchange(&[&a, &b]).is_empty(), "once is enough");
}

#[test]
fn nobody_gets_the_key_that_another_announced() {
    let (a, b) = pair();
    let c = Host::new(3);
    let (_, both) = with_next(&b);
    let claim = Peer { public_key: both.next_key.unwrap(), ..c.as_peer(true) };
    let twice = vec![both.clone(), claim];
    assert!(matches!(a.engine.set_peers(twice), Err(Refused::SameKey(_))));
    let own = Peer { next_key: Some(a.engine.public_key()), ..b.as_peer(true) };
    assert!(matches!(a.engine.set_peers(vec![own]), Err(Refused::OwnKey(_))));
    assert!(talk(&a, &b));
}

#[test]
fn a_host_that_moves_meanwhile_is_found_by_its_next_key() {
    let (mut a, b) = pair();
    assert!(talk(&a, &b));
    let (next, both) = with_next(&b);
    a.engine.set_peers(vec![both]).unwrap();
    a.address = SocketAddr::from(([198, 51, 100, 7], 1234));
    a.sends(packet(1, 2, 100));
    exchange(&[&a, &b]);
    b.engine.set_keys(vec![b.engine.secret(), next.clone()]).unwrap();
    greet(&b);
    assert!(talk(&a, &b));
    assert_eq!(keys(&b).0, next.public());
    assert_eq!(b.endpoint_of(&a), Some(a.address));
}
