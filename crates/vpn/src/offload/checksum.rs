//! The internet checksum (RFC 1071).
//!
//! Sums are kept in the host's byte order: the sum does not care, as long as the result is stored in
//! the same order that the data was read in.

/// Adds `data` to a sum; an odd last byte counts as if a zero followed.
pub fn add(data: &[u8], sum: u64) -> u64 {
    let words = data.chunks_exact(4);
    let mut tail = [0; 4];
    let rest = words.remainder();
    tail[..rest.len()].copy_from_slice(rest);
    // 2^32 words fit before 64 bits overflow; a packet has 2^14.
    let body: u64 = words.map(|w| u64::from(u32::from_ne_bytes([w[0], w[1], w[2], w[3]]))).sum();
    sum + body + u64::from(u32::from_ne_bytes(tail))
}

/// The sum in 16 bits, not complemented, as bytes to store.
pub fn fold(mut sum: u64) -> [u8; 2] {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    // Below 2^16 by the loop.
    (sum as u16).to_ne_bytes()
}

/// The checksum of what was summed up.
pub fn finish(sum: u64) -> [u8; 2] {
    let [a, b] = fold(sum);
    [!a, !b]
}

/// Whether data that includes its checksum is right.
pub fn is_right(sum: u64) -> bool {
    fold(sum) == [0xff, 0xff]
}

/// The sum of the pseudo header before TCP and UDP: `addresses` are both, one after the other.
pub fn pseudo(addresses: &[u8], protocol: u8, length: usize) -> u64 {
    // Packets are shorter than 2^16.
    let length = (length as u32).to_be_bytes();
    add(&[0, 0, 0, protocol], add(&length, add(addresses, 0)))
}
