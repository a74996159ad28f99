//! From packets off the wire to the bigger ones that the inside gets.
//!
//! Packets are decrypted into one buffer and stay where they are; a bundle is a list of places in
//! it. TCP segments are put together that follow each other exactly, and UDP packets of one flow and
//! length, all of them only when their checksums are right: the bundle's own is made afresh, and must
//! not cover up a wrong one.

use std::io::{self, IoSlice};
use std::ops::Range;

use super::header::{GSO_TCPV4, GSO_TCPV6, GSO_UDP, HEADER_LENGTH, Header, NEEDS_CHECKSUM};
use super::{ACK, MAX_PACKET, PSH, TCP, UDP, checksum, u16_at, u32_at};

/// The bytes of one bundle's buffer: what one receive can bring, and one packet of slack.
const CAPACITY: usize = 2 * (MAX_PACKET + 1);

/// The most parts of one packet: iovec entries of one write, with its headers.
const MAX_PARTS: usize = 255;

/// Packets on their way to the inside.
#[derive(Debug)]
pub struct Bundle {
    buffer: Vec<u8>,
    used: usize,
    groups: Vec<Group>,
    /// What is put together.
    join: Join,
}

/// Which packets are put together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Join {
    /// TCP segments.
    pub tcp: bool,
    /// UDP packets.
    pub udp: bool,
}

/// One packet for the inside, perhaps of many.
#[derive(Debug)]
struct Group {
    /// The first packet, whole.
    first: Range<usize>,
    /// The payloads of the others.
    more: Vec<Range<usize>>,
    /// How it can go on; `None` where nothing can be added.
    open: Option<Segment>,
    /// What the first packet was.
    segment: Option<Segment>,
    /// The packet's length with all parts.
    length: usize,
}

/// A TCP segment, or a UDP packet, without surprises.
#[derive(Clone, Copy, Debug)]
struct Segment {
    protocol: u8,
    /// Where the transport header starts.
    transport: usize,
    /// Where the payload starts.
    headers: usize,
    payload: usize,
    /// Of TCP.
    sequence: u32,
    push: bool,
}

impl Bundle {
    /// An empty one that puts together what `join` says.
    pub fn new(join: Join) -> Self {
        Self { buffer: vec![0; CAPACITY], used: 0, groups: Vec::new(), join }
    }

    /// Whether a packet of this many bytes fits.
    pub fn has_room(&self, length: usize) -> bool {
        self.buffer.len() - self.used >= length
    }

    /// Where the next packet is to be decrypted.
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.buffer[self.used..]
    }

    /// Takes the packet that was written to the start of [`Self::room`].
    pub fn add(&mut self, length: usize) {
        let place = self.used..self.used + length;
        self.used = place.end;
        let segment = Segment::read(&self.buffer[place.clone()], self.join);
        if segment.is_some_and(|segment| self.append(&place, segment)) {
            return;
        }
        if segment.is_none() {
            // It may be of any flow, and UDP has no numbers that would tell the order.
            let udp = |group: &&mut Group| group.open.is_some_and(|s| s.protocol == UDP);
            self.groups.iter_mut().filter(udp).for_each(|group| group.open = None);
        }
        let open = segment.filter(|s| !s.push);
        self.groups.push(Group { first: place, more: Vec::new(), open, segment, length });
    }

    /// Adds a segment to the group of its flow, where it continues it.
    fn append(&mut self, place: &Range<usize>, segment: Segment) -> bool {
        let packet = &self.buffer[place.clone()];
        let same = |g: &&mut Group| {
            let first = &self.buffer[g.first.clone()];
            g.segment.is_some_and(|s| segment.is_same_flow(packet, first, &s))
        };
        // The latest of the flow: packets of a flow stay in order.
        let Some(group) = self.groups.iter_mut().rev().find(same) else { return false };
        let Some(last) = group.open.take() else { return false };
        let first = &self.buffer[group.first.clone()];
        let size = group.segment.map_or(0, |s| s.payload);
        let length = group.length + segment.payload;
        let fits = segment.follows(&last)
            && segment.has_same_headers(packet, first)
            && segment.payload <= size
            && length <= MAX_PACKET
            && group.more.len() < MAX_PARTS;
        if fits {
            group.more.push(place.start + segment.headers..place.end);
            group.length = length;
            // A short segment, or one that pushes, is the last.
            group.open = Some(segment).filter(|s| s.payload == size && !s.push);
            if segment.push {
                self.buffer[group.first.start + segment.transport + 13] |= PSH;
            }
        }
        fits
    }

    /// Hands every packet to `write`, with its virtio header and in parts, and forgets them.
    ///
    /// Returns how many of those that came in could not be handed over.
    pub fn deliver(&mut self, mut write: impl FnMut(&[IoSlice<'_>]) -> io::Result<()>) -> u64 {
        let mut lost = 0;
        let mut groups = std::mem::take(&mut self.groups);
        for group in &groups {
            let header = self.finish(group).bytes();
            let first = [&header[..], &self.buffer[group.first.clone()]].map(IoSlice::new);
            let written = if group.more.is_empty() {
                write(&first)
            } else {
                let more = group.more.iter().map(|place| IoSlice::new(&self.buffer[place.clone()]));
                write(&first.into_iter().chain(more).collect::<Vec<_>>())
            };
            if written.is_err() {
                lost += 1 + group.more.len() as u64;
            }
        }
        // The list's own memory is kept.
        groups.clear();
        self.groups = groups;
        self.used = 0;
        lost
    }

    /// Makes the first packet's headers those of the whole.
    fn finish(&mut self, group: &Group) -> Header {
        let Some(segment) = group.segment.filter(|_| !group.more.is_empty()) else {
            return Header::default();
        };
        let packet = &mut self.buffer[group.first.clone()];
        let v4 = packet[0] >> 4 == 4;
        let addresses = if v4 { 12..20 } else { 8..40 };
        if v4 {
            // At most MAX_PACKET by `append`.
            packet[2..4].copy_from_slice(&(group.length as u16).to_be_bytes());
            packet[10..12].fill(0);
            let sum = checksum::finish(checksum::add(&packet[..segment.transport], 0));
            packet[10..12].copy_from_slice(&sum);
        } else {
            packet[4..6].copy_from_slice(&((group.length - 40) as u16).to_be_bytes());
        }
        let (start, length) = (segment.transport, group.length - segment.transport);
        let (checksum_offset, gso_type) = match (segment.protocol, v4) {
            (UDP, _) => (6, GSO_UDP),
            (_, true) => (16, GSO_TCPV4),
            (_, false) => (16, GSO_TCPV6),
        };
        if segment.protocol == UDP {
            packet[start + 4..start + 6].copy_from_slice(&(length as u16).to_be_bytes());
        }
        let pseudo = checksum::pseudo(&packet[addresses], segment.protocol, length);
        let field = start + usize::from(checksum_offset);
        packet[field..field + 2].copy_from_slice(&checksum::fold(pseudo));
        Header {
            flags: NEEDS_CHECKSUM,
            gso_type,
            header_length: segment.headers as u16,
            gso_size: segment.payload as u16,
            checksum_start: segment.transport as u16,
            checksum_offset,
        }
    }
}

/// The length of a packet's virtio header and itself, at most.
pub const MAX_FRAME: usize = HEADER_LENGTH + MAX_PACKET;

impl Segment {
    /// Reads a packet that could be part of a bundle: plain IP, TCP or UDP with data, right checksums.
    fn read(packet: &[u8], join: Join) -> Option<Self> {
        let (transport, protocol, addresses) = match packet.first()? >> 4 {
            4 => (20, plain_v4(packet)?, 12..20),
            6 => (40, plain_v6(packet)?, 8..40),
            _ => return None,
        };
        let segment = match protocol {
            TCP if join.tcp => Self::read_tcp(packet, transport)?,
            UDP if join.udp => Self::read_udp(packet, transport)?,
            _ => return None,
        };
        let bytes = &packet[transport..];
        let pseudo = checksum::pseudo(&packet[addresses], protocol, bytes.len());
        checksum::is_right(checksum::add(bytes, pseudo)).then_some(segment)
    }

    /// TCP with data, and no flags but ACK and PSH.
    fn read_tcp(packet: &[u8], transport: usize) -> Option<Self> {
        let tcp = packet.get(transport..)?;
        let own = usize::from(tcp.get(12)? >> 4) * 4;
        let flags = *tcp.get(13)?;
        if own < 20 || own >= tcp.len() || flags & !PSH != ACK {
            return None;
        }
        Some(Self {
            protocol: TCP,
            transport,
            headers: transport + own,
            payload: tcp.len() - own,
            sequence: u32_at(tcp, 4)?,
            push: flags & PSH != 0,
        })
    }

    /// UDP with data, and a checksum.
    fn read_udp(packet: &[u8], transport: usize) -> Option<Self> {
        let udp = packet.get(transport..)?;
        let whole = usize::from(u16_at(udp, 4)?) == udp.len() && u16_at(udp, 6)? != 0;
        let (headers, payload) = (transport + 8, udp.len().checked_sub(8)?);
        let segment = Self { protocol: UDP, transport, headers, payload, sequence: 0, push: false };
        (whole && payload > 0).then_some(segment)
    }

    /// Whether the packets have the same addresses and ports.
    fn is_same_flow(&self, packet: &[u8], other: &[u8], of: &Self) -> bool {
        let addresses = if packet[0] >> 4 == 4 { 12..20 } else { 8..40 };
        let ports = self.transport..self.transport + 4;
        packet[0] == other[0]
            && (self.protocol, self.transport) == (of.protocol, of.transport)
            && packet[addresses.clone()] == other[addresses]
            && packet[ports.clone()] == other[ports]
    }

    /// Whether this segment's data comes right after the other's.
    fn follows(&self, last: &Self) -> bool {
        let next = last.sequence.wrapping_add(last.payload as u32);
        self.headers == last.headers && (self.protocol == UDP || next == self.sequence)
    }

    /// Whether all else that the bundle has only once is the same too: traffic class, time to live,
    /// fragment bits, acknowledgement, TCP options.
    fn has_same_headers(&self, packet: &[u8], first: &[u8]) -> bool {
        let same = |range: Range<usize>| packet[range.clone()] == first[range];
        let tcp = self.transport;
        let ip = match packet[0] >> 4 {
            4 => same(1..2) && same(6..9),
            _ => same(0..4) && same(6..8),
        };
        ip && (self.protocol == UDP || same(tcp + 8..tcp + 12) && same(tcp + 20..self.headers))
    }
}

/// What is in an IPv4 packet without options that is whole.
fn plain_v4(packet: &[u8]) -> Option<u8> {
    let whole = packet[0] == 0x45
        && usize::from(u16_at(packet, 2)?) == packet.len()
        && u16_at(packet, 6)? & 0x3fff == 0
        && checksum::is_right(checksum::add(packet.get(..20)?, 0));
    whole.then(|| packet[9])
}

/// What is in an IPv6 packet; extension headers are something else.
fn plain_v6(packet: &[u8]) -> Option<u8> {
    let whole = usize::from(u16_at(packet, 4)?) + 40 == packet.len();
    whole.then(|| packet[6])
}
