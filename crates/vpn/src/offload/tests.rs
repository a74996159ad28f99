//! Splitting and joining undo each other, and neither falls over what it is given.

use super::header::{GSO_TCPV4, GSO_TCPV6, GSO_UDP, NEEDS_CHECKSUM};
use super::*;
use proptest::prelude::*;

/// A big TCP packet with `options` bytes of TCP options, as the kernel hands it out.
fn big(v6: bool, options: usize, payload: &[u8], flags: u8, size: u16) -> (Header, Vec<u8>) {
    let transport = if v6 { 40 } else { 20 };
    let length = transport + 20 + options + payload.len();
    let mut p = vec![0; length - payload.len()];
    if v6 {
        p[0] = 0x60;
        p[4..6].copy_from_slice(&((length - 40) as u16).to_be_bytes());
        (p[6], p[7]) = (TCP, 64);
        (p[8], p[24]) = (0xfd, 0xfd);
        (p[23], p[39]) = (1, 2);
    } else {
        p[0] = 0x45;
        p[2..4].copy_from_slice(&(length as u16).to_be_bytes());
        p[4..6].copy_from_slice(&0xfffe_u16.to_be_bytes());
        (p[6], p[8], p[9]) = (0x40, 64, TCP);
        p[12..20].copy_from_slice(&[10, 66, 0, 1, 10, 66, 0, 2]);
        let sum = checksum::finish(checksum::add(&p[..20], 0));
        p[10..12].copy_from_slice(&sum);
    }
    p[transport..transport + 4].copy_from_slice(&[0x12, 0x34, 0, 80]);
    p[transport + 4..transport + 8].copy_from_slice(&0xffff_fff0_u32.to_be_bytes());
    p[transport + 12] = (((20 + options) / 4) << 4) as u8;
    p[transport + 13] = flags;
    for byte in &mut p[transport + 20..] {
        *byte = 1;
    }
    let addresses = if v6 { 8..40 } else { 12..20 };
    let pseudo = checksum::pseudo(&p[addresses], TCP, length - transport);
    let field = transport + 16;
    p[field..field + 2].copy_from_slice(&checksum::fold(pseudo));
    p.extend_from_slice(payload);
    let header = Header {
        flags: NEEDS_CHECKSUM,
        gso_type: if v6 { GSO_TCPV6 } else { GSO_TCPV4 },
        header_length: (transport + 20 + options) as u16,
        gso_size: size,
        checksum_start: transport as u16,
        checksum_offset: 16,
    };
    (header, p)
}

fn segments(header: &Header, mut packet: Vec<u8>) -> Vec<Vec<u8>> {
    let mut list = Vec::new();
    split(header, &mut packet, |segment| list.push(segment.to_vec())).unwrap();
    list
}

/// Puts packets into a bundle and takes out what the inside would get.
fn join(packets: &[Vec<u8>]) -> Vec<(Header, Vec<u8>)> {
    let mut bundle = Bundle::new(Join { tcp: true, udp: true });
    for packet in packets {
        bundle.room()[..packet.len()].copy_from_slice(packet);
        bundle.add(packet.len());
    }
    let mut out = Vec::new();
    let lost = bundle.deliver(|parts| {
        let bytes: Vec<u8> = parts.iter().flat_map(|p| p.iter().copied()).collect();
        let (header, packet) = bytes.split_first_chunk().unwrap();
        out.push((Header::read(header), packet.to_vec()));
        Ok(())
    });
    assert_eq!(lost, 0);
    out
}

fn transport_is_right(packet: &[u8], protocol: u8) -> bool {
    let (transport, addresses) = if packet[0] >> 4 == 4 { (20, 12..20) } else { (40, 8..40) };
    let pseudo = checksum::pseudo(&packet[addresses], protocol, packet.len() - transport);
    checksum::is_right(checksum::add(&packet[transport..], pseudo))
}

#[test]
fn a_known_checksum() {
    // RFC 1071, section 3.
    let data = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
    assert_eq!(checksum::fold(checksum::add(&data, 0)), [0xdd, 0xf2]);
}

#[test]
fn flags_belong_to_the_first_or_last_segment() {
    let (header, packet) = big(false, 12, &[7; 250], ACK | PSH | FIN | CWR, 100);
    let list = segments(&header, packet);
    let flags: Vec<u8> = list.iter().map(|s| s[33]).collect();
    assert_eq!(flags, [ACK | CWR, ACK, ACK | PSH | FIN]);
    let ids: Vec<_> = list.iter().map(|s| u16_at(s, 4).unwrap()).collect();
    assert_eq!(ids, [0xfffe, 0xffff, 0]);
    let sequences: Vec<_> = list.iter().map(|s| u32_at(s, 24).unwrap()).collect();
    assert_eq!(sequences, [0xffff_fff0, 84, 184]);
}

/// A big UDP packet, as the kernel hands it out.
fn big_udp(v6: bool, payload: &[u8], size: u16) -> (Header, Vec<u8>) {
    let (tcp, mut packet) = big(v6, 0, &[], 0, size);
    let transport = usize::from(tcp.checksum_start);
    packet.truncate(transport + 8);
    packet[if v6 { 6 } else { 9 }] = UDP;
    packet.extend_from_slice(payload);
    let length = packet.len();
    if v6 {
        packet[4..6].copy_from_slice(&((length - 40) as u16).to_be_bytes());
    } else {
        packet[2..4].copy_from_slice(&(length as u16).to_be_bytes());
        packet[10..12].fill(0);
        let sum = checksum::finish(checksum::add(&packet[..20], 0));
        packet[10..12].copy_from_slice(&sum);
    }
    let udp = (length - transport) as u16;
    packet[transport + 4..transport + 6].copy_from_slice(&udp.to_be_bytes());
    let addresses = if v6 { 8..40 } else { 12..20 };
    let pseudo = checksum::pseudo(&packet[addresses], UDP, length - transport);
    packet[transport + 6..transport + 8].copy_from_slice(&checksum::fold(pseudo));
    let header_length = (transport + 8) as u16;
    (Header { gso_type: GSO_UDP, checksum_offset: 6, header_length, ..tcp }, packet)
}

#[test]
fn udp_is_split_too() {
    let (header, packet) = big_udp(false, &[3; 250], 100);
    let list = segments(&header, packet);
    assert_eq!(list.iter().map(Vec::len).collect::<Vec<_>>(), [128, 128, 78]);
    assert!(list.iter().all(|s| transport_is_right(s, UDP)));
    assert_eq!(u16_at(&list[2], 24), Some(58));
}

#[test]
fn udp_is_joined_in_its_order_only() {
    let (header, packet) = big_udp(false, &[3; 300], 100);
    let list = segments(&header, packet);
    let (one, short) = (list[0].clone(), segments(&header, big_udp(false, &[4; 60], 100).1));
    let lengths = |packets: &[&Vec<u8>]| {
        let packets: Vec<_> = packets.iter().map(|packet| (*packet).clone()).collect();
        join(&packets).iter().map(|(_, packet)| packet.len() - 28).collect::<Vec<_>>()
    };
    assert_eq!(lengths(&[&one, &one, &one]), [300]);
    // A shorter one is the last, and a longer one is the first.
    assert_eq!(lengths(&[&one, &short[0], &one, &one]), [160, 200]);
    assert_eq!(lengths(&[&short[0], &one, &one]), [60, 200]);
    // What cannot be joined stays between, whatever it is.
    let mut without = one.clone();
    without[26..28].fill(0);
    assert_eq!(lengths(&[&one, &without, &one]), [100, 100, 100]);
    // Another port, another time to live.
    for place in [20, 8] {
        let mut other = big_udp(false, &[3; 100], 100).1;
        other[place] ^= 1;
        other[10..12].fill(0);
        let sum = checksum::finish(checksum::add(&other[..20], 0));
        other[10..12].copy_from_slice(&sum);
        let pseudo = checksum::pseudo(&other[12..20], UDP, 108);
        other[26..28].fill(0);
        let sum = checksum::finish(checksum::add(&other[20..], pseudo));
        other[26..28].copy_from_slice(&sum);
        assert_eq!(lengths(&[&one, &other]), [100, 100]);
    }
}

#[test]
fn a_wrong_checksum_is_never_covered_up() {
    let (header, packet) = big(false, 12, &[7; 300], ACK, 100);
    let mut list = segments(&header, packet);
    list[1][60] ^= 1;
    let out = join(&list);
    assert_eq!(out.len(), 3);
    assert_eq!(out[1], (Header::default(), list[1].clone()));
}

#[test]
fn a_gap_or_another_acknowledgement_starts_a_new_packet() {
    let (header, packet) = big(false, 0, &[7; 300], ACK, 100);
    let mut list = segments(&header, packet);
    list.remove(1);
    assert_eq!(join(&list).len(), 2);
    let (header, packet) = big(false, 0, &[7; 200], ACK, 100);
    let mut list = segments(&header, packet);
    list[1][28] ^= 1;
    let pseudo = checksum::pseudo(&list[1][12..20], TCP, list[1].len() - 20);
    list[1][36..38].fill(0);
    let sum = checksum::finish(checksum::add(&list[1][20..], pseudo));
    list[1][36..38].copy_from_slice(&sum);
    assert_eq!(join(&list).len(), 2);
}

#[test]
fn two_flows_are_joined_side_by_side() {
    let (header, packet) = big(false, 0, &[7; 300], ACK, 100);
    let a = segments(&header, packet);
    let (header, packet) = big(true, 0, &[9; 300], ACK, 100);
    let b = segments(&header, packet);
    let mixed: Vec<_> = a.into_iter().zip(b).flat_map(|(a, b)| [a, b]).collect();
    let out = join(&mixed);
    assert_eq!(out.len(), 2);
    assert_eq!((out[0].1.len(), out[1].1.len()), (340, 360));
}

#[test]
fn without_joining_packets_pass_as_they_are() {
    let (header, packet) = big(false, 0, &[7; 300], ACK, 100);
    let mut bundle = Bundle::new(Join::default());
    for segment in segments(&header, packet) {
        bundle.room()[..segment.len()].copy_from_slice(&segment);
        bundle.add(segment.len());
    }
    let mut count = 0;
    bundle.deliver(|parts| {
        assert_eq!(&parts[0][..], [0; HEADER_LENGTH]);
        count += 1;
        Ok(())
    });
    assert_eq!(count, 3);
}

#[test]
fn what_the_inside_refuses_is_counted() {
    let (header, packet) = big(false, 0, &[7; 300], ACK, 100);
    let mut bundle = Bundle::new(Join { tcp: true, udp: true });
    for segment in segments(&header, packet) {
        bundle.room()[..segment.len()].copy_from_slice(&segment);
        bundle.add(segment.len());
    }
    assert_eq!(bundle.deliver(|_| Err(io_error())), 3);
    assert_eq!(bundle.deliver(|_| Err(io_error())), 0);
}

fn io_error() -> std::io::Error {
    std::io::ErrorKind::Other.into()
}

proptest! {
    #[test]
    fn joining_undoes_splitting(
        v6: bool,
        options in 0..=10_usize,
        payload in prop::collection::vec(any::<u8>(), 1..20_000),
        size in 100..1500_u16,
        push: bool,
    ) {
        let flags = if push { ACK | PSH } else { ACK };
        let (header, packet) = big(v6, options * 4, &payload, flags, size);
        let list = segments(&header, packet.clone());
        for segment in &list {
            prop_assert!(transport_is_right(segment, TCP));
            prop_assert!(v6 || checksum::is_right(checksum::add(&segment[..20], 0)));
            prop_assert!(segment.len() <= usize::from(header.header_length + size));
        }
        let out = join(&list);
        prop_assert_eq!(out.len(), 1);
        if list.len() > 1 {
            prop_assert_eq!(out[0].0, header);
            prop_assert_eq!(&out[0].1, &packet);
        } else {
            prop_assert_eq!(out[0].0, Header::default());
        }
    }

    #[test]
    fn joining_udp_undoes_splitting_it(
        v6: bool,
        payload in prop::collection::vec(any::<u8>(), 1..20_000),
        size in 100..1500_u16,
    ) {
        let (header, packet) = big_udp(v6, &payload, size);
        let list = segments(&header, packet.clone());
        prop_assert!(list.iter().all(|segment| transport_is_right(segment, UDP)));
        let out = join(&list);
        prop_assert_eq!(out.len(), 1);
        if list.len() > 1 {
            prop_assert_eq!(out[0].0, header);
            prop_assert_eq!(&out[0].1, &packet);
        } else {
            prop_assert_eq!(out[0].0, Header::default());
        }
    }

    #[test]
    fn splitting_survives_anything(
        raw: [u8; HEADER_LENGTH],
        kind in prop::sample::select(vec![0_u8, 1, 3, 4, 5, 0x81]),
        first: u8,
        mut packet in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let mut header = Header::read(&raw);
        header.gso_type = kind;
        header.checksum_start &= 0x7f;
        if let Some(byte) = packet.first_mut() {
            *byte = first & 0x2f | 0x45;
        }
        let length = packet.len();
        let mut total = 0;
        let _ = split(&header, &mut packet, |s| total += s.len());
        prop_assert!(total <= length * (length + 1));
    }

    #[test]
    fn joining_survives_anything(
        packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..100), 0..20),
    ) {
        let total = packets.len();
        prop_assert!(join(&packets).len() <= total);
    }
}
