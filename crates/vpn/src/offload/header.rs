//! The header before every packet that crosses the tunnel's interface (struct virtio_net_hdr).

/// Its length in bytes: what a TUN device uses unless told otherwise.
pub const HEADER_LENGTH: usize = 10;

/// The transport checksum is still to be completed (VIRTIO_NET_HDR_F_NEEDS_CSUM).
pub(super) const NEEDS_CHECKSUM: u8 = 1;

/// What the packet is a bundle of (VIRTIO_NET_HDR_GSO_*).
pub(super) const GSO_NONE: u8 = 0;
pub(super) const GSO_TCPV4: u8 = 1;
pub(super) const GSO_TCPV6: u8 = 4;
pub(super) const GSO_UDP: u8 = 5;
/// A flag beside the type: the first segment alone carries the congestion signal.
pub(super) const GSO_ECN: u8 = 0x80;

/// A virtio header, in host byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    pub(super) flags: u8,
    pub(super) gso_type: u8,
    pub(super) header_length: u16,
    pub(super) gso_size: u16,
    pub(super) checksum_start: u16,
    pub(super) checksum_offset: u16,
}

impl Header {
    /// Reads one.
    pub fn read(bytes: &[u8; HEADER_LENGTH]) -> Self {
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Self {
            flags: bytes[0],
            gso_type: bytes[1],
            header_length: word(2),
            gso_size: word(4),
            checksum_start: word(6),
            checksum_offset: word(8),
        }
    }

    /// Writes it.
    pub fn bytes(&self) -> [u8; HEADER_LENGTH] {
        let mut bytes = [0; HEADER_LENGTH];
        (bytes[0], bytes[1]) = (self.flags, self.gso_type);
        let words = [self.header_length, self.gso_size, self.checksum_start, self.checksum_offset];
        for (place, word) in bytes[2..].chunks_exact_mut(2).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}
