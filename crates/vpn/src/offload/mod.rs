//! Many packets as one: what crosses the tunnel's interface may be a TCP or UDP packet of up to
//! 64 KiB, described by a virtio header, that stands for many on the wire.
//!
//! [`split`] makes the packets on the wire out of one from the inside; [`Bundle`] makes one for the
//! inside out of many from the wire. Both read bytes that others wrote, and neither trusts them.

mod bundle;
mod checksum;
pub mod ecn;
mod header;
mod segment;
mod too_big;

pub use bundle::{Bundle, Join, MAX_FRAME};
pub use header::{HEADER_LENGTH, Header};
pub use segment::split;
pub use too_big::too_big;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The largest IP packet, in bytes.
pub const MAX_PACKET: usize = 65_535;

/// Protocol numbers (IANA).
const TCP: u8 = 6;
const UDP: u8 = 17;

/// The TCP flags that matter here.
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const CWR: u8 = 0x80;

/// Where an IP packet goes; `None` where it is too short or of another version.
pub fn destination(packet: &[u8]) -> Option<IpAddr> {
    address_at(packet, 16, 24)
}

/// The address at `v4` or `v6`, by the packet's version.
fn address_at(packet: &[u8], v4: usize, v6: usize) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => array(packet, v4).map(|a: [u8; 4]| IpAddr::V4(Ipv4Addr::from(a))),
        6 => array(packet, v6).map(|a: [u8; 16]| IpAddr::V6(Ipv6Addr::from(a))),
        _ => None,
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_be_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests;
