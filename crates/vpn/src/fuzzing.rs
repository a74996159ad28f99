//! What must hold whatever comes, for the fuzzer's targets in fuzz/.

use std::io;
use std::net::SocketAddr;

use crate::device::fuzzing::Host;
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
