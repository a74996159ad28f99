//! Two and three VPNs that talk over a wire in memory, with somebody on it who listens, repeats and
//! invents.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;

use ipnet::IpNet;

use super::*;
use crate::device::identity::HANDSHAKES_PER_SECOND;
use crate::device::outbox::Wire;
use crate::offload::Bundle;

mod rotation;

/// Datagrams that one side has sent, oldest first.
#[derive(Default)]
struct Sent(RefCell<VecDeque<(SocketAddr, Vec<u8>)>>);

impl Wire for Sent {
    fn send(&self, to: &Endpoint, bytes: &[u8], length: usize, _: u8) -> io::Result<()> {
        let datagrams = bytes.chunks(length).map(|d| (to.address, d.to_vec()));
        self.0.borrow_mut().extend(datagrams);
        Ok(())
    }
}

/// One host: its engine, where it is, what it sent, and what came out inside.
struct Host {
    engine: Engine,
    address: SocketAddr,
    sent: Sent,
    inside: RefCell<Vec<Vec<u8>>>,
    bundle: RefCell<Bundle>,
}

impl Host {
    fn new(number: u8) -> Self {
        Self {
            engine: Engine::new(SecretKey::generate().unwrap()),
            address: SocketAddr::from(([192, 0, 2, number], 51820)),
            sent: Sent::default(),
            inside: RefCell::default(),
            bundle: RefCell::new(Bundle::new(offload::Join::default())),
        }
    }

    /// The host as a peer of others, with inner address 10.66.0.NUMBER.
    fn as_peer(&self, endpoint: bool) -> Peer {
        let number = match self.address {
            SocketAddr::V4(a) => a.ip().octets()[3],
            SocketAddr::V6(_) => unreachable!(),
        };
        Peer {
            public_key: self.engine.public_key(),
            endpoint: endpoint.then_some(self.address),
            allowed: vec![IpNet::from(std::net::IpAddr::from([10, 66, 0, number]))],
            keepalive: None,
            preshared: None,
            next_key: None,
        }
    }

    /// Returns what its sender is told.
    fn sends(&self, mut packet: Vec<u8>) -> Option<Vec<u8>> {
        let mut outbox = Outbox::new(&self.sent, self.engine.drops());
        let table = self.engine.table();
        let told = self.engine.outbound(&table, &Header::default(), &mut packet, &mut outbox);
        outbox.flush();
        told
    }

    fn hears(&self, datagram: &[u8], from: SocketAddr) {
        let mut outbox = Outbox::new(&self.sent, self.engine.drops());
        let mut bundle = self.bundle.borrow_mut();
        let came = Arrival { from: from.into(), congested: false };
        let datagrams = std::iter::once(datagram);
        self.engine.inbound(&self.engine.table(), datagrams, came, &mut outbox, &mut bundle);
        outbox.flush();
        bundle.deliver(|parts| {
            let bytes: Vec<u8> = parts.iter().flat_map(|p| p.to_vec()).collect();
            self.inside.borrow_mut().push(bytes[crate::offload::HEADER_LENGTH..].to_vec());
            Ok(())
        });
    }

    fn drop_count(&self, reason: Reason) -> u64 {
        let own = self.engine.drops().snapshot().get(&reason).copied().unwrap_or(0);
        let peers = self.engine.peers().into_iter();
        own + peers.map(|p| p.drops.get(&reason).copied().unwrap_or(0)).sum::<u64>()
    }

    fn endpoint_of(&self, other: &Self) -> Option<SocketAddr> {
        let key = other.engine.public_key();
        self.engine.peers().iter().find(|p| p.public_key == key).unwrap().endpoint
    }
}

/// Delivers what everybody has sent until nobody sends any more; returns all datagrams that passed.
fn exchange(hosts: &[&Host]) -> Vec<(SocketAddr, SocketAddr, Vec<u8>)> {
    let mut passed = Vec::new();
    loop {
        let next = hosts.iter().find_map(|h| {
            let (to, datagram) = h.sent.0.borrow_mut().pop_front()?;
            Some((h.address, to, datagram))
        });
        let Some((from, to, datagram)) = next else { return passed };
        if let Some(receiver) = hosts.iter().find(|h| h.address == to) {
            receiver.hears(&datagram, from);
        }
        passed.push((from, to, datagram));
    }
}

/// An IPv4 packet without a transport.
fn packet(from: u8, to: u8, length: usize) -> Vec<u8> {
    let mut packet = vec![0; length];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
    packet[8..10].copy_from_slice(&[64, 253]);
    packet[12..16].copy_from_slice(&[10, 66, 0, from]);
    packet[16..20].copy_from_slice(&[10, 66, 0, to]);
    packet
}

/// Two hosts that know each other.
fn pair() -> (Host, Host) {
    let (a, b) = (Host::new(1), Host::new(2));
    a.engine.set_peers(vec![b.as_peer(true)]).unwrap();
    b.engine.set_peers(vec![a.as_peer(true)]).unwrap();
    (a, b)
}

#[test]
fn packets_pass_both_ways_after_a_handshake() {
    let (a, b) = pair();
    a.sends(packet(1, 2, 100));
    exchange(&[&a, &b]);
    assert_eq!(*b.inside.borrow(), [packet(1, 2, 100)]);
    b.sends(packet(2, 1, 1400));
    exchange(&[&a, &b]);
    assert_eq!(*a.inside.borrow(), [packet(2, 1, 1400)]);
    let status = &a.engine.peers()[0];
    assert_eq!(status.last_handshake, Some(0));
    assert!(status.rx_bytes > 1400 && status.tx_bytes > 100);
    assert!(status.drops.is_empty() && a.engine.drops().snapshot().is_empty());
}

#[test]
fn what_waited_for_the_handshake_arrives_in_order() {
    let (a, b) = pair();
    for length in 100..120 {
        a.sends(packet(1, 2, length));
    }
    exchange(&[&a, &b]);
    let lengths: Vec<_> = b.inside.borrow().iter().map(Vec::len).collect();
    assert_eq!(lengths, (100..120).collect::<Vec<_>>());
}

#[test]
fn garbage_gets_no_answer_and_is_counted() {
    let (a, b) = pair();
    a.sends(packet(1, 2, 100));
    exchange(&[&a, &b]);
    let stranger = SocketAddr::from(([203, 0, 113, 9], 9));
    for length in [0, 1, 3, 4, 31, 32, 64, 92, 148, 1500] {
        for kind in 0..6 {
            let mut datagram = vec![0x5a; length];
            if length >= 4 {
                datagram[..4].copy_from_slice(&[kind, 0, 0, 0]);
            }
            b.hears(&datagram, stranger);
        }
    }
    assert!(b.sent.0.borrow().is_empty());
    assert_eq!(b.inside.borrow().len(), 1);
    assert_eq!(b.endpoint_of(&a), Some(a.address));
    assert_eq!(b.drop_count(Reason::BadMac), 2);
    let total = b.engine.drops().snapshot().values().sum::<u64>();
    assert_eq!(total, 60);
}

#[test]
fn every_changed_bit_of_a_data_message_is_noticed() {
    let (a, b) = pair();
    a.sends(packet(1, 2, 60));
    exchange(&[&a, &b]);
    a.sends(packet(1, 2, 60));
    let (_, datagram) = a.sent.0.borrow_mut().pop_front().unwrap();
    for bit in 0..datagram.len() * 8 {
        let mut changed = datagram.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        b.hears(&changed, a.address);
    }
    assert_eq!(b.inside.borrow().len(), 1);
    assert!(b.sent.0.borrow().is_empty());
    b.hears(&datagram, a.address);
    assert_eq!(b.inside.borrow().len(), 2);
}

#[test]
fn repetitions_are_refused_and_move_nothing() {
    let (a, b) = pair();
    a.sends(packet(1, 2, 100));
    let passed = exchange(&[&a, &b]);
    let elsewhere = SocketAddr::from(([203, 0, 113, 9], 9));
    for (_, to, datagram) in &passed {
        let receiver = if *to == a.address { &a } else { &b };
        receiver.hears(datagram, elsewhere);
    }
    assert_eq!(b.inside.borrow().len(), 1);
    assert_eq!(b.drop_count(Reason::BadHandshake), 1);
    assert_eq!(b.drop_count(Reason::Replay), 2);
    assert_eq!(a.drop_count(Reason::BadHandshake), 1);
    assert_eq!(b.endpoint_of(&a), Some(a.address));
    assert_eq!(a.endpoint_of(&b), Some(b.address));
    assert!(exchange(&[&a, &b]).is_empty());
}

#[test]
fn counters_at_the_end_of_their_range_are_refused() {
    let (a, b) = pair();
    a.sends(packet(1, 2, 100));
    exchange(&[&a, &b]);
    a.sends(packet(1, 2, 100));
    let (_, mut datagram) = a.sent.0.borrow_mut().pop_front().unwrap();
    for counter in [u64::MAX, u64::MAX - 8191] {
        datagram[8..16].copy_from_slice(&counter.to_le_bytes());
        b.hears(&datagram, a.address);
    }
    assert_eq!(b.drop_count(Reason::Replay), 2);
}

#[test]
fn a_peer_cannot_speak_with_anothers_address() {
    let (a, b) = pair();
    let c = Host::new(3);
    b.engine.set_peers(vec![a.as_peer(true), c.as_peer(true)]).unwrap();
    c.engine.set_peers(vec![b.as_peer(true)]).unwrap();
    c.sends(packet(3, 2, 80));
    c.sends(packet(1, 2, 80));
    c.sends(packet(77, 2, 80));
    exchange(&[&a, &b, &c]);
    assert_eq!(*b.inside.borrow(), [packet(3, 2, 80)]);
    assert_eq!(b.drop_count(Reason::WrongSource), 2);
}

#[test]
fn a_peer_is_found_where_it_was_last_heard() {
    let (mut a, b) = pair();
    a.sends(packet(1, 2, 100));
    exchange(&[&a, &b]);
    a.address = SocketAddr::from(([198, 51, 100, 7], 1234));
    a.sends(packet(1, 2, 100));
    exchange(&[&a, &b]);
    assert_eq!(b.endpoint_of(&a), Some(a.address));
    b.sends(packet(2, 1, 100));
    exchange(&[&a, &b]);
    assert_eq!(a.inside.borrow().len(), 1);
}

#[test]
fn a_repeated_list_keeps_sessions_and_moves() {
    let (mut a, b) = pair();
    let list = vec![a.as_peer(true)];
    a.sends(packet(1, 2, 100));
    exchange(&[&a, &b]);
    a.address = SocketAddr::from(([198, 51, 100, 7], 1234));
    a.sends(packet(1, 2, 100));
    exchange(&[&a, &b]);
    b.engine.set_peers(list.clone()).unwrap();
    assert_eq!(b.endpoint_of(&a), Some(a.address));
    b.sends(packet(2, 1, 100));
    assert_eq!(exchange(&[&a, &b]).len(), 1, "a new handshake was needed");
    // A new endpoint in the list is taken over.
    let mut moved = list;
    moved[0].endpoint = Some(SocketAddr::from(([192, 0, 2, 99], 1)));
    b.engine.set_peers(moved.clone()).unwrap();
    assert_eq!(b.endpoint_of(&a), moved[0].endpoint);
}

#[test]
fn a_removed_peer_is_cut_off_at_once() {
    let (a, b) = pair();
    a.sends(packet(1, 2, 100));
    exchange(&[&a, &b]);
    b.engine.set_peers(Vec::new()).unwrap();
    a.sends(packet(1, 2, 100));
    exchange(&[&a, &b]);
    b.sends(packet(2, 1, 100));
    assert!(exchange(&[&a, &b]).is_empty());
    assert_eq!(b.inside.borrow().len(), 1);
    assert_eq!(b.drop_count(Reason::UnknownPeer), 1);
    assert_eq!(b.drop_count(Reason::NoPeer), 1);
}

#[test]
fn an_address_that_moves_between_peers_is_the_new_ones_alone() {
    let (a, b) = pair();
    let c = Host::new(3);
    c.engine.set_peers(vec![b.as_peer(true)]).unwrap();
    let mut c_with_a = c.as_peer(true);
    c_with_a.allowed.extend(a.as_peer(true).allowed);
    let a_without = Peer { allowed: Vec::new(), ..a.as_peer(true) };
    b.engine.set_peers(vec![a_without, c_with_a]).unwrap();
    a.sends(packet(1, 2, 60));
    c.sends(packet(1, 2, 61));
    exchange(&[&a, &b, &c]);
    assert_eq!(*b.inside.borrow(), [packet(1, 2, 61)]);
}

#[test]
fn lists_that_contradict_themselves_change_nothing() {
    let (a, b) = pair();
    let c = Host::new(3);
    let own = b.as_peer(true);
    let twice = vec![a.as_peer(true), a.as_peer(true)];
    let mut same = c.as_peer(true);
    same.allowed = a.as_peer(true).allowed;
    assert!(matches!(b.engine.set_peers(vec![own]), Err(Refused::OwnKey(_))));
    assert!(matches!(b.engine.set_peers(twice), Err(Refused::SameKey(_))));
    let result = b.engine.set_peers(vec![a.as_peer(true), same]);
    assert!(matches!(result, Err(Refused::SameAddress(_))));
    a.sends(packet(1, 2, 100));
    exchange(&[&a, &b]);
    assert_eq!(b.inside.borrow().len(), 1);
}

#[test]
fn what_the_inside_sends_wrongly_is_counted() {
    let (a, b) = (Host::new(1), Host::new(2));
    let silent = Peer { endpoint: None, ..b.as_peer(true) };
    a.engine.set_peers(vec![silent]).unwrap();
    a.sends(packet(1, 2, 100));
    a.sends(packet(1, 9, 100));
    a.sends(vec![]);
    a.sends(vec![0x45; 10]);
    a.sends(vec![0x15; 100]);
    assert!(exchange(&[&a, &b]).is_empty());
    assert_eq!(a.drop_count(Reason::NoEndpoint), 1);
    assert_eq!(a.drop_count(Reason::NoPeer), 1);
    assert_eq!(a.drop_count(Reason::BadOutbound), 3);
}

#[test]
fn a_peer_that_sends_no_ip_is_counted() {
    let (a, b) = pair();
    a.sends(packet(1, 2, 100));
    exchange(&[&a, &b]);
    let mut long = packet(1, 2, 100);
    long[2..4].copy_from_slice(&200_u16.to_be_bytes());
    let mut short = packet(1, 2, 100);
    short[2..4].copy_from_slice(&3_u16.to_be_bytes());
    a.sends(long);
    a.sends(short);
    exchange(&[&a, &b]);
    assert_eq!(b.inside.borrow().len(), 1);
    assert_eq!(b.drop_count(Reason::BadInner), 2);
}

#[test]
fn a_host_that_is_asked_to_keep_in_touch_does_so_at_once() {
    let (a, b) = pair();
    let eager = Peer { keepalive: Some(25), ..b.as_peer(true) };
    a.engine.set_peers(vec![eager]).unwrap();
    let mut outbox = Outbox::new(&a.sent, a.engine.drops());
    a.engine.greet(&mut outbox);
    assert_eq!(exchange(&[&a, &b]).len(), 3);
    a.engine.greet(&mut outbox);
    a.engine.tick(&mut outbox);
    assert!(exchange(&[&a, &b]).is_empty());
    assert_eq!(b.engine.peers()[0].last_handshake, Some(0));
}

#[test]
fn a_host_that_starts_anew_is_sent_to_at_once() {
    let (a, b) = pair();
    a.sends(packet(1, 2, 100));
    exchange(&[&a, &b]);
    let again = Host { engine: Engine::new(a.engine.secret()), ..Host::new(1) };
    again.engine.set_peers(vec![b.as_peer(true)]).unwrap();
    let mut outbox = Outbox::new(&again.sent, again.engine.drops());
    again.engine.greet(&mut outbox);
    exchange(&[&again, &b]);
    b.sends(packet(2, 1, 100));
    exchange(&[&again, &b]);
    assert_eq!(*again.inside.borrow(), [packet(2, 1, 100)]);
}

#[test]
fn a_flood_of_handshakes_is_answered_with_cookies_that_let_the_honest_in() {
    let (a, b) = pair();
    // Somebody who knows b's public key, but is nobody's peer.
    let stranger = Host::new(66);
    for _ in 0..HANDSHAKES_PER_SECOND {
        stranger.engine.set_peers(Vec::new()).unwrap();
        stranger.engine.set_peers(vec![b.as_peer(true)]).unwrap();
        stranger.sends(packet(66, 2, 60));
    }
    exchange(&[&b, &stranger]);
    assert_eq!(b.drop_count(Reason::UnknownPeer), HANDSHAKES_PER_SECOND);
    a.sends(packet(1, 2, 100));
    exchange(&[&a, &b]);
    assert_eq!(b.drop_count(Reason::UnderLoad), 1);
    assert!(b.inside.borrow().is_empty());
    // With the cookie the next attempt works, though the flood goes on.
    std::thread::sleep(Duration::from_millis(5_100));
    for _ in 0..2 {
        let mut outbox = Outbox::new(&a.sent, a.engine.drops());
        a.engine.tick(&mut outbox);
    }
    exchange(&[&a, &b]);
    assert_eq!(*b.inside.borrow(), [packet(1, 2, 100)]);
}

#[test]
fn a_preshared_key_must_be_the_same_on_both_sides() {
    let (a, b) = pair();
    let with = |host: &Host, byte: u8| {
        let preshared = Some(crate::preshared::PresharedKey::from_bytes([byte; 32]));
        vec![Peer { preshared, ..host.as_peer(true) }]
    };
    a.engine.set_peers(with(&b, 1)).unwrap();
    b.engine.set_peers(with(&a, 2)).unwrap();
    a.sends(packet(1, 2, 100));
    exchange(&[&a, &b]);
    assert!(b.inside.borrow().is_empty());
    assert_eq!(a.drop_count(Reason::BadHandshake), 1);
    // Another secret is another session; the same one again is not.
    a.engine.set_peers(with(&b, 2)).unwrap();
    b.engine.set_peers(with(&a, 2)).unwrap();
    a.sends(packet(1, 2, 100));
    exchange(&[&a, &b]);
    assert_eq!(*b.inside.borrow(), [packet(1, 2, 100)]);
    a.engine.set_peers(with(&b, 2)).unwrap();
    assert_eq!(a.engine.peers()[0].last_handshake, Some(0));
}

#[test]
fn congestion_marks_go_in_and_out() {
    let (a, b) = pair();
    let marked = |bits: u8| {
        let mut packet = packet(1, 2, 60);
        packet[1] = bits;
        packet
    };
    a.sends(marked(0));
    exchange(&[&a, &b]);
    for bits in [0b00, 0b10] {
        a.sends(marked(bits));
        let (_, datagram) = a.sent.0.borrow_mut().pop_front().unwrap();
        let mut outbox = Outbox::new(&b.sent, b.engine.drops());
        let mut bundle = Bundle::new(offload::Join::default());
        let came = Arrival { from: a.address.into(), congested: true };
        let datagrams = std::iter::once(&datagram[..]);
        b.engine.inbound(&b.engine.table(), datagrams, came, &mut outbox, &mut bundle);
        bundle.deliver(|parts| {
            let wanted = if bits == 0 { 0 } else { 0b11 };
            assert_eq!(parts[1][1], wanted);
            Ok(())
        });
    }
}

/// Bytes that begin as one of the messages does, of its length or near it.
fn message() -> impl proptest::strategy::Strategy<Value = Vec<u8>> {
    use proptest::prelude::*;
    let kinds = [(1_u8, 148_usize), (2, 92), (3, 64), (4, 32), (4, 96), (9, 40)];
    (prop::sample::select(kinds.to_vec()), -2..3_isize, any::<u64>(), any::<bool>()).prop_map(
        |((kind, length), more, seed, reserved)| {
            let mut random = seed | 1;
            let mut bytes: Vec<u8> = (0..length.saturating_add_signed(more))
                .map(|_| {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (random >> 56) as u8
                })
                .collect();
            bytes[..4].copy_from_slice(&[kind, u8::from(reserved), 0, 0]);
            bytes
        },
    )
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(32))]

    #[test]
    fn no_message_of_a_stranger_moves_opens_or_answers_anything(
        messages in proptest::collection::vec(message(), 1..40),
        known in proptest::prelude::any::<bool>(),
    ) {
        let (a, b) = pair();
        a.sends(packet(1, 2, 100));
        let passed = exchange(&[&a, &b]);
        // The index of a session that is alive, as who listens knows it.
        let alive: [u8; 4] = passed.last().unwrap().2[4..8].try_into().unwrap();
        let stranger = SocketAddr::from(([203, 0, 113, 9], 9));
        for mut message in messages {
            if known && message.len() > 12 {
                let at = if message[0] == 2 { 8 } else { 4 };
                message[at..at + 4].copy_from_slice(&alive);
            }
            b.hears(&message, stranger);
        }
        proptest::prop_assert!(b.sent.0.borrow().is_empty());
        proptest::prop_assert_eq!(b.endpoint_of(&a), Some(a.address));
        proptest::prop_assert_eq!(b.inside.borrow().len(), 1);
        a.sends(packet(1, 2, 100));
        exchange(&[&a, &b]);
        proptest::prop_assert_eq!(b.inside.borrow().len(), 2);
    }
}

#[test]
fn what_does_not_fit_the_way_goes_out_and_its_sender_is_told() {
    let (a, b) = pair();
    a.sends(packet(1, 2, 100));
    exchange(&[&a, &b]);
    let large = || {
        let mut packet = packet(1, 2, 1420);
        packet[6] = 0x40;
        packet
    };
    assert_eq!(a.sends(large()), None);
    let now = Instant::now();
    let due = a.engine.paths_to_ask(now, 10);
    assert_eq!(due, [(b.engine.public_key(), b.address)]);
    assert_eq!(a.engine.paths_to_ask(now, 10), []);
    // What is said about another place than where the peer is means nothing.
    a.engine.path_found(&b.engine.public_key(), a.address, Some(1220));
    assert_eq!(a.sends(large()), None);
    a.engine.path_found(&b.engine.public_key(), b.address, Some(1240));
    assert_eq!(a.engine.peers()[0].mtu, Some(1240));
    assert_eq!(a.sends(large()).unwrap()[26..28], [4, 216]);
    assert_eq!(a.sends(packet(1, 2, 1420)), None, "it lets itself be cut up");
    exchange(&[&a, &b]);
    assert_eq!(b.inside.borrow().iter().filter(|packet| packet.len() == 1420).count(), 4);
    // Another way is another size.
    a.engine.place(&[(b.engine.public_key(), a.address)]);
    assert_eq!(a.sends(large()), None);
}

#[test]
fn datagrams_that_ask_for_the_size_are_no_garbage_and_not_answered() {
    let (a, b) = pair();
    a.hears(&[0; 1452], b.address);
    a.hears(&[0; 16], b.address);
    assert_eq!((a.drop_count(Reason::SizeProbe), a.drop_count(Reason::Malformed)), (1, 1));
    assert!(exchange(&[&a]).is_empty());
}
