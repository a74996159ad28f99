//! From packets off the wire to the bigger ones that the inside gets.
//!
//! Packets are decrypted into one buffer and stay where they are; a bundle is a list of places in
//! it. Only TCP segments that follow each other exactly are put together, and only when their
//! checksums are right: the bundle's own is made afresh, and must not cover up a wrong one.

use std::io::{self, IoSlice};
use std::ops::Range;

use super::header::{GSO_TCPV4, GSO_TCPV6, HEADER_LENGTH, Header, NEEDS_CHECKSUM};
use super::{ACK, MAX_PACKET, PSH, TCP, checksum, u16_at, u32_at};

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
    /// Whether packets are put together at all.
    join: bool,
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

/// A TCP segment without surprises.
#[derive(Clone, Copy, Debug)]
struct Segment {
    /// Where the transport header starts.
    transport: usize,
    /// Where the payload starts.
    headers: usize,
    payload: usize,
    sequence: u32,
    push: bool,
}

impl Bundle {
    /// An empty one; with `join` it puts packets together.
    pub fn new(join: bool) -> Self {
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
        let segment = if self.join { Segment::read(&self.buffer[place.clone()]) } else { None };
        if segment.is_some_and(|segment| self.append(&place, segment)) {
            return;
        }
        let open = segment.filter(|s| !s.push);
        self.groups.push(Group { first: place, more: Vec::new(), open, segment, length });
    }

    /// Adds a segment to the group of its flow, where it continues it.
    fn append(&mut self, place: &Range<usize>, segment: Segment) -> bool {
        let packet = &self.buffer[place.clone()];
        let same = |g: &&mut Group| {
            let first = &self.buffer[g.first.clone()];
            g.segment.is_some_and(|s| segment.is_same_flow(packet, first, s.transport))
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
        let pseudo = checksum::pseudo(&packet[addresses], TCP, group.length - segment.transport);
        let field = segment.transport + 16;
        packet[field..field + 2].copy_from_slice(&checksum::fold(pseudo));
        Header {
            flags: NEEDS_CHECKSUM,
            gso_type: if v4 { GSO_TCPV4 } else { GSO_TCPV6 },
            header_length: segment.headers as u16,
            gso_size: segment.payload as u16,
            checksum_start: segment.transport as u16,
            checksum_offset: 16,
        }
    }
}

/// The length of a packet's virtio header and itself, at most.
pub const MAX_FRAME: usize = HEADER_LENGTH + MAX_PACKET;

impl Segment {
    /// Reads a packet that could be part of a bundle: plain IP, TCP with data, no flags but ACK and
    /// PSH, right checksums.
    fn read(packet: &[u8]) -> Option<Self> {
        let (transport, addresses) = match packet.first()? >> 4 {
            4 => (plain_v4(packet)?, 12..20),
            6 => (plain_v6(packet)?, 8..40),
            _ => return None,
        };
        let tcp = packet.get(transport..)?;
        let own = usize::from(tcp.get(12)? >> 4) * 4;
        let flags = *tcp.get(13)?;
        if own < 20 || own >= tcp.len() || flags & !PSH != ACK {
            return None;
        }
        let pseudo = checksum::pseudo(&packet[addresses], TCP, tcp.len());
        if !checksum::is_right(checksum::add(tcp, pseudo)) {
            return None;
        }
        Some(Self {
            transport,
            headers: transport + own,
            payload: tcp.len() - own,
            sequence: u32_at(tcp, 4)?,
            push: flags & PSH != 0,
        })
    }

    /// Whether the packets have the same addresses and ports.
    fn is_same_flow(&self, packet: &[u8], other: &[u8], transport: usize) -> bool {
        let addresses = if packet[0] >> 4 == 4 { 12..20 } else { 8..40 };
        let ports = self.transport..self.transport + 4;
        packet[0] == other[0]
            && self.transport == transport
            && packet[addresses.clone()] == other[addresses]
            && packet[ports.clone()] == other[ports]
    }

    /// Whether this segment's data comes right after the other's.
    fn follows(&self, last: &Self) -> bool {
        last.sequence.wrapping_add(last.payload as u32) == self.sequence
            && self.headers == last.headers
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
        ip && same(tcp + 8..tcp + 12) && same(tcp + 20..self.headers)
    }
}

/// The start of TCP in an IPv4 packet without options that is whole.
fn plain_v4(packet: &[u8]) -> Option<usize> {
    let whole = packet[0] == 0x45
        && usize::from(u16_at(packet, 2)?) == packet.len()
        && u16_at(packet, 6)? & 0x3fff == 0
        && *packet.get(9)? == TCP
        && checksum::is_right(checksum::add(packet.get(..20)?, 0));
    whole.then_some(20)
}

/// The start of TCP in an IPv6 packet without extension headers.
fn plain_v6(packet: &[u8]) -> Option<usize> {
    let whole = usize::from(u16_at(packet, 4)?) + 40 == packet.len() && *packet.get(6)? == TCP;
    whole.then_some(40)
}
