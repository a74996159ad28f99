//! Congestion marks between the packet inside and the datagram outside (RFC 6040, RFC 3168).

use super::{checksum, u16_at};

/// "Congestion experienced".
pub const CONGESTED: u8 = 0b11;

/// The congestion bits of an IP packet; 0 where it has none.
fn of(packet: &[u8]) -> u8 {
    match (packet.first().map(|byte| byte >> 4), packet.get(1)) {
        (Some(4), Some(service)) => service & 0b11,
        (Some(6), Some(class)) => class >> 4 & 0b11,
        _ => 0,
    }
}

/// What the datagram that carries `packet` is to bear: the same, but for a mark that the packet has
/// already, which is not the path's outside.
pub fn outside(packet: &[u8]) -> u8 {
    match of(packet) {
        CONGESTED => 0b10,
        other => other,
    }
}

/// Marks a packet whose datagram came marked, where its ends understand that. As in the kernel's
/// WireGuard, one that does not is let through.
pub fn mark(packet: &mut [u8]) {
    if matches!(of(packet), 0 | CONGESTED) {
        return;
    }
    if packet[0] >> 4 == 6 {
        packet[1] |= CONGESTED << 4;
    } else if let (Some(before), Some(sum)) = (u16_at(packet, 0), u16_at(packet, 10)) {
        packet[1] |= CONGESTED;
        let after = before | u16::from(CONGESTED);
        // The checksum goes with it (RFC 1624), and stays wrong where it was wrong.
        let words = [(!sum).to_be_bytes(), (!before).to_be_bytes(), after.to_be_bytes()];
        let sum = words.iter().fold(0, |sum, word| checksum::add(word, sum));
        packet[10..12].copy_from_slice(&checksum::finish(sum));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An IPv4 header with these bits and a right checksum.
    fn header(bits: u8) -> [u8; 20] {
        let mut packet = [0; 20];
        (packet[0], packet[1], packet[3], packet[8]) = (0x45, 0xb8 | bits, 20, 64);
        packet[12..].copy_from_slice(&[10, 66, 0, 1, 10, 66, 0, 2]);
        let sum = checksum::finish(checksum::add(&packet, 0));
        packet[10..12].copy_from_slice(&sum);
        packet
    }

    #[test]
    fn a_mark_comes_in_where_it_is_understood() {
        for (before, after) in [(0b00, 0b00), (0b01, 0b11), (0b10, 0b11), (0b11, 0b11)] {
            let mut packet = header(before);
            mark(&mut packet);
            assert_eq!(packet, header(after), "{before:02b}");
            let mut packet = [0x60, before << 4 | 0x0a, 0, 0];
            mark(&mut packet);
            assert_eq!(packet[1], after << 4 | 0x0a);
        }
    }

    #[test]
    fn a_wrong_checksum_stays_wrong() {
        let mut packet = header(0b10);
        packet[11] ^= 1;
        mark(&mut packet);
        assert!(!checksum::is_right(checksum::add(&packet, 0)));
    }

    #[test]
    fn the_outside_bears_what_the_inside_can() {
        let outer = [0b00, 0b01, 0b10, 0b11].map(|bits| outside(&header(bits)));
        assert_eq!(outer, [0b00, 0b01, 0b10, 0b10]);
        assert_eq!([outside(&[]), outside(&[0x45]), outside(&[0x60, 0x20])], [0, 0, 2]);
    }

    #[test]
    fn scraps_are_left_alone() {
        for length in 0..12 {
            let mut packet = header(0b10)[..length].to_vec();
            mark(&mut packet);
            assert_eq!(packet, header(0b10)[..length]);
        }
    }
}
