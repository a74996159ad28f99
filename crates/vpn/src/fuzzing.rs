//! What must hold whatever comes, for the fuzzer's targets in fuzz/.

use std::io;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::device::fuzzing::{Host, Trie};
use crate::offload::{self, Bundle, HEADER_LENGTH, Header, Join};

/// Bytes as datagrams, each after its length in two bytes, to a VPN that knows one peer.
pub fn datagrams(bytes: &[u8]) {
    let host = Host::new();
    let from = SocketAddr::from(([192, 0, 2, 9], 9));
    for datagram in parts(bytes) {
        host.hears(datagram, from);
    }
    assert!(host.is_quiet(), "a stranger was answered");
}

/// Bytes as a frame of the tunnel's interface: split, and joined again.
pub fn frame(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    let Some((header, packet)) = bytes.split_first_chunk_mut::<HEADER_LENGTH>() else { return };
    let mut bundle = Bundle::new(Join { tcp: true, udp: true });
    let mut segments = 0;
    let _ = offload::split(&Header::read(header), packet, |segment| {
        if bundle.has_room(segment.len()) {
            bundle.room()[..segment.len()].copy_from_slice(segment);
            bundle.add(segment.len());
            segments += 1;
        }
    });
    let lost = bundle.deliver(|_| Err(io::ErrorKind::Other.into()));
    assert_eq!(lost, segments, "each is counted once");
}

/// Bytes as what an operator's program says.
pub fn operator(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let answer = Host::new().answers(text);
    assert!(answer.ends_with("\n\n") && answer.contains("errno="), "{answer:?}");
}

/// Bytes as networks that peers are allowed and addresses that are looked for, which must find what a
/// plain list has.
pub fn addresses(mut bytes: &[u8]) {
    let mut trie = Trie::default();
    let mut list: Vec<(IpNet, usize)> = Vec::new();
    while let Some((network, is_allowed)) = network(&mut bytes) {
        if is_allowed {
            let before = list.iter().position(|(known, _)| *known == network);
            let before = before.map(|index| list.swap_remove(index).1);
            let value = bytes.len();
            assert_eq!(trie.insert(network, value), before, "insert {network}");
            list.push((network, value));
        } else {
            let address = network.addr();
            let best = list.iter().filter(|(known, _)| known.contains(&address));
            let best = best.max_by_key(|(known, _)| known.prefix_len()).map(|(_, value)| value);
            assert_eq!(trie.get(address), best, "look for {address}");
        }
    }
}

/// The next network, and whether it is one to be allowed: a byte that says so and of which family it is,
/// the length of its prefix, and its address.
fn network(bytes: &mut &[u8]) -> Option<(IpNet, bool)> {
    let (&[what, length], rest) = bytes.split_first_chunk()?;
    let (address, longest, rest) = if what & 1 == 0 {
        let (address, rest) = rest.split_first_chunk::<4>()?;
        (IpAddr::from(*address), 32, rest)
    } else {
        let (address, rest) = rest.split_first_chunk::<16>()?;
        (IpAddr::from(*address), 128, rest)
    };
    *bytes = rest;
    let network = IpNet::new(address, length % (longest + 1)).ok()?;
    // As the table of peers has them.
    let network = if what & 2 == 0 { network.trunc() } else { network };
    Some((network, what & 2 == 0))
}

/// Pieces, each after its length in two bytes.
fn parts(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = bytes.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
        let (part, rest) = rest.split_at(length);
        bytes = rest;
        Some(part)
    })
}
