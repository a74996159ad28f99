//! From one big packet of the inside to the packets that go over the wire.

use super::header::{GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP, Header, NEEDS_CHECKSUM};
use super::{CWR, FIN, PSH, TCP, UDP, checksum, u16_at, u32_at};

/// The longest IP and transport headers together that are split; IPv4 and TCP need at most 120.
const MAX_HEADERS: usize = 256;

/// The packet is not what its virtio header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("packet and virtio header do not fit together")]
pub struct Malformed;

/// Calls `each` with every packet that `packet` stands for, complete with checksums.
///
/// The packets are built in place, over parts of the one before: `packet` is used up.
pub fn split(
    header: &Header,
    packet: &mut [u8],
    mut each: impl FnMut(&[u8]),
) -> Result<(), Malformed> {
    let kind = match header.gso_type & !GSO_ECN {
        GSO_NONE => {
            complete_checksum(header, packet)?;
            each(packet);
            return Ok(());
        }
        GSO_TCPV4 => (4, TCP),
        GSO_TCPV6 => (6, TCP),
        GSO_UDP => (packet.first().ok_or(Malformed)? >> 4, UDP),
        _ => return Err(Malformed),
    };
    let headers = Headers::read(header, packet, kind)?;
    let size = usize::from(header.gso_size);
    if size == 0 || headers.length >= packet.len() {
        return Err(Malformed);
    }
    let mut at = headers.length;
    for number in 0.. {
        let end = (at + size).min(packet.len());
        let start = at - headers.length;
        let last = end == packet.len();
        headers.write(&mut packet[start..end], Position { number, size, last });
        each(&packet[start..end]);
        if last {
            break;
        }
        at = end;
    }
    Ok(())
}

/// Completes the checksum of a packet that goes out as it is.
fn complete_checksum(header: &Header, packet: &mut [u8]) -> Result<(), Malformed> {
    if header.flags & NEEDS_CHECKSUM == 0 {
        return Ok(());
    }
    let start = usize::from(header.checksum_start);
    let field = start + usize::from(header.checksum_offset);
    if field + 2 > packet.len() {
        return Err(Malformed);
    }
    // The field holds the sum of the pseudo header, so it is summed along.
    let sum = checksum::finish(checksum::add(&packet[start..], 0));
    // For UDP zero means none at all. Only UDP has its checksum at byte 6.
    let none = header.checksum_offset == 6 && sum == [0, 0];
    packet[field..field + 2].copy_from_slice(if none { &[0xff, 0xff] } else { &sum });
    Ok(())
}

/// One segment's place among the others.
#[derive(Clone, Copy)]
struct Position {
    number: usize,
    /// The payload of all segments but the last.
    size: usize,
    last: bool,
}

/// The headers of the big packet, which all segments get a changed copy of.
struct Headers {
    bytes: [u8; MAX_HEADERS],
    length: usize,
    /// Where the transport header starts.
    transport: usize,
    protocol: u8,
}

impl Headers {
    fn read(header: &Header, packet: &[u8], kind: (u8, u8)) -> Result<Self, Malformed> {
        let (version, protocol) = kind;
        let transport = usize::from(header.checksum_start);
        let first = *packet.first().ok_or(Malformed)?;
        let fits = first >> 4 == version
            && match version {
                4 => transport == usize::from(first & 15) * 4 && transport >= 20,
                // Extension headers may lie between.
                6 => transport >= 40,
                _ => false,
            };
        if !fits {
            return Err(Malformed);
        }
        let own = match protocol {
            TCP => usize::from(packet.get(transport + 12).ok_or(Malformed)? >> 4) * 4,
            _ => 8,
        };
        let length = transport + own;
        if (protocol == TCP && own < 20) || length > MAX_HEADERS || length > packet.len() {
            return Err(Malformed);
        }
        let mut bytes = [0; MAX_HEADERS];
        bytes[..length].copy_from_slice(&packet[..length]);
        Ok(Self { bytes, length, transport, protocol })
    }

    /// Writes the headers of one segment before its payload.
    fn write(&self, segment: &mut [u8], position: Position) {
        segment[..self.length].copy_from_slice(&self.bytes[..self.length]);
        let transport_length = segment.len() - self.transport;
        let addresses = self.write_ip(segment, position.number);
        if self.protocol == TCP {
            self.write_tcp(segment, position);
        } else {
            // Segments are parts of a packet, so their lengths fit.
            let length = (transport_length as u16).to_be_bytes();
            segment[self.transport + 4..self.transport + 6].copy_from_slice(&length);
        }
        let field = self.transport + if self.protocol == TCP { 16 } else { 6 };
        segment[field..field + 2].fill(0);
        let pseudo = checksum::pseudo(addresses, self.protocol, transport_length);
        let mut sum = checksum::finish(checksum::add(&segment[self.transport..], pseudo));
        if self.protocol == UDP && sum == [0, 0] {
            sum = [0xff, 0xff];
        }
        segment[field..field + 2].copy_from_slice(&sum);
    }

    /// Writes length, identification and checksum; returns both addresses.
    fn write_ip(&self, segment: &mut [u8], number: usize) -> &[u8] {
        if self.bytes[0] >> 4 == 6 {
            let length = (segment.len() - 40) as u16;
            segment[4..6].copy_from_slice(&length.to_be_bytes());
            return &self.bytes[8..40];
        }
        let length = segment.len() as u16;
        segment[2..4].copy_from_slice(&length.to_be_bytes());
        let id = u16_at(&self.bytes, 4).unwrap_or(0).wrapping_add(number as u16);
        segment[4..6].copy_from_slice(&id.to_be_bytes());
        segment[10..12].fill(0);
        let sum = checksum::finish(checksum::add(&segment[..self.transport], 0));
        segment[10..12].copy_from_slice(&sum);
        &self.bytes[12..20]
    }

    /// Writes the sequence number, and the flags that only the first or last segment has.
    fn write_tcp(&self, segment: &mut [u8], Position { number, size, last }: Position) {
        let tcp = self.transport;
        let before = (number * size) as u32;
        let sequence = u32_at(&self.bytes, tcp + 4).unwrap_or(0).wrapping_add(before);
        segment[tcp + 4..tcp + 8].copy_from_slice(&sequence.to_be_bytes());
        if !last {
            segment[tcp + 13] &= !(FIN | PSH);
        }
        if number > 0 {
            segment[tcp + 13] &= !CWR;
        }
    }
}
