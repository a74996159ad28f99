//! What the sender of a packet is told that does not fit the way to a peer (RFC 792, 1191, 4443).

use super::{checksum, u16_at};

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const DONT_FRAGMENT: u16 = 0x4000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// How much an error has at most, in bytes: what every host takes.
const LARGEST_V4: usize = 576;
/// As above. Nobody is told that less than this passes: IPv6 has no smaller packets.
const LARGEST_V6: usize = 1280;

/// The error for the sender of `packet`, of which the way takes `mtu` bytes; `None` where it is to
/// get none, since it lets its packets be cut up, or since this is an error itself.
///
/// It comes from where the packet went, which is inside the tunnel whoever looks.
pub fn too_big(packet: &[u8], mtu: usize) -> Option<Vec<u8>> {
    match packet.first()? >> 4 {
        4 => too_big_v4(packet, mtu),
        6 => too_big_v6(packet, mtu.max(LARGEST_V6)),
        _ => None,
    }
}

fn too_big_v4(packet: &[u8], mtu: usize) -> Option<Vec<u8>> {
    let (header, rest) = packet.split_first_chunk::<20>()?;
    let fragment = u16_at(header, 6)?;
    // Without options, which hubs let nobody use.
    let kind = rest.first()?;
    let is_error = header[9] == ICMP && matches!(kind, 3 | 4 | 5 | 11 | 12);
    let may_be_cut = fragment & DONT_FRAGMENT == 0 || fragment & FRAGMENT_OFFSET != 0;
    if is_error || may_be_cut {
        return None;
    }
    let quoted = &packet[..packet.len().min(LARGEST_V4 - 28)];
    let mut error = vec![0; 28];
    (error[0], error[1], error[8], error[9]) = (0x45, 0xc0, 64, ICMP);
    error[2..4].copy_from_slice(&u16::try_from(28 + quoted.len()).ok()?.to_be_bytes());
    error[6..8].copy_from_slice(&DONT_FRAGMENT.to_be_bytes());
    error[12..16].copy_from_slice(&header[16..20]);
    error[16..20].copy_from_slice(&header[12..16]);
    let sum = checksum::finish(checksum::add(&error[..20], 0));
    error[10..12].copy_from_slice(&sum);
    // Destination unreachable: fragmentation needed.
    (error[20], error[21]) = (3, 4);
    error[26..28].copy_from_slice(&u16::try_from(mtu).ok()?.to_be_bytes());
    error.extend_from_slice(quoted);
    let sum = checksum::finish(checksum::add(&error[20..], 0));
    error[22..24].copy_from_slice(&sum);
    Some(error)
}

fn too_big_v6(packet: &[u8], mtu: usize) -> Option<Vec<u8>> {
    let (header, rest) = packet.split_first_chunk::<40>()?;
    let is_error = header[6] == ICMPV6 && *rest.first()? < 128;
    if is_error || packet.len() <= mtu {
        return None;
    }
    let quoted = &packet[..packet.len().min(LARGEST_V6 - 48)];
    let mut error = vec![0; 48];
    (error[0], error[6], error[7]) = (0x60, ICMPV6, 64);
    error[4..6].copy_from_slice(&u16::try_from(8 + quoted.len()).ok()?.to_be_bytes());
    error[8..24].copy_from_slice(&header[24..40]);
    error[24..40].copy_from_slice(&header[8..24]);
    error[40] = 2;
    error[44..48].copy_from_slice(&u32::try_from(mtu).ok()?.to_be_bytes());
    error.extend_from_slice(quoted);
    let pseudo = checksum::pseudo(&error[8..40], ICMPV6, error.len() - 40);
    let sum = checksum::finish(checksum::add(&error[40..], pseudo));
    error[42..44].copy_from_slice(&sum);
    Some(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v4(length: usize, fragment: u16, protocol: u8) -> Vec<u8> {
        let mut packet = vec![0; length];
        (packet[0], packet[8], packet[9]) = (0x45, 64, protocol);
        packet[6..8].copy_from_slice(&fragment.to_be_bytes());
        packet[12..20].copy_from_slice(&[10, 66, 0, 1, 10, 66, 0, 2]);
        packet
    }

    fn v6(length: usize, next: u8, kind: u8) -> Vec<u8> {
        let mut packet = vec![0; length];
        (packet[0], packet[6], packet[23], packet[39], packet[40]) = (0x60, next, 1, 2, kind);
        packet
    }

    #[test]
    fn the_sender_is_told_what_fits() {
        let packet = v4(1420, DONT_FRAGMENT, 6);
        let error = too_big(&packet, 1240).unwrap();
        assert_eq!(error.len(), LARGEST_V4);
        assert_eq!(&error[12..20], &[10, 66, 0, 2, 10, 66, 0, 1]);
        assert_eq!((error[20], error[21], u16_at(&error, 26)), (3, 4, Some(1240)));
        assert_eq!(error[28..], packet[..LARGEST_V4 - 28]);
        assert!(checksum::is_right(checksum::add(&error[..20], 0)));
        assert!(checksum::is_right(checksum::add(&error[20..], 0)));

        let packet = v6(1420, 6, 0);
        let error = too_big(&packet, 1320).unwrap();
        assert_eq!((error.len(), error[40], error[46..48].to_vec()), (LARGEST_V6, 2, vec![5, 40]));
        assert_eq!((error[23], error[39]), (2, 1));
        let pseudo = checksum::pseudo(&error[8..40], ICMPV6, error.len() - 40);
        assert!(checksum::is_right(checksum::add(&error[40..], pseudo)));
    }

    #[test]
    fn who_lets_packets_be_cut_up_is_told_nothing_and_so_are_errors() {
        assert_eq!(too_big(&v4(1420, 0, 17), 1240), None);
        assert_eq!(too_big(&v4(1420, DONT_FRAGMENT | 9, 17), 1240), None);
        let mut error = v4(1420, DONT_FRAGMENT, ICMP);
        error[20] = 3;
        assert_eq!(too_big(&error, 1240), None);
        error[20] = 8;
        assert!(too_big(&error, 1240).is_some());
        assert_eq!(too_big(&v6(1420, ICMPV6, 1), 1240), None);
    }

    #[test]
    fn ipv6_is_never_told_less_than_its_least() {
        assert_eq!(too_big(&v6(1280, 6, 0), 1200), None);
        assert_eq!(too_big(&v6(1281, 6, 0), 1200).unwrap()[46..48], [5, 0]);
    }

    proptest! {
        #[test]
        fn anything_can_be_too_big(first: u8, mut packet in prop::collection::vec(any::<u8>(), 0..1500), mtu in 0..70_000_usize) {
            if let Some(byte) = packet.first_mut() {
                *byte = first & 0x2f | 0x40;
            }
            if let Some(error) = too_big(&packet, mtu) {
                prop_assert!(error.len() <= LARGEST_V6);
            }
        }
    }
}
