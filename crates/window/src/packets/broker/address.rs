//! Addresses that a portspace's program passes to `bind` and `connect`.

use rustix::io::Errno;

use crate::packets::netlink::{half, word};

/// `sizeof(struct sockaddr_storage)`: the kernel takes no longer address.
const LONGEST: u64 = 128;
/// `sizeof(struct sockaddr_ll)`.
pub(super) const SOCKADDR_LL: usize = 20;
/// Where the path starts in a `struct sockaddr_un`.
const PATH: usize = 2;

/// How many bytes to read for an address of which the caller says that it is `length` long. The
/// kernel takes the length as an int.
pub(super) fn length(length: u64) -> Result<usize, Errno> {
    let length = length & 0xffff_ffff;
    if length > LONGEST {
        return Err(Errno::INVAL);
    }
    usize::try_from(length).map_err(|_| Errno::INVAL)
}

/// An address of a packet socket (packet(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkLayer {
    /// In network order, as it is in memory.
    pub(super) protocol: u16,
    /// 0 is every interface.
    pub(super) interface: u32,
}

impl LinkLayer {
    /// Reads it; what `bind` does not look at is dropped.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Errno> {
        if bytes.len() < SOCKADDR_LL || family(bytes) != Some(libc::AF_PACKET) {
            return Err(Errno::INVAL);
        }
        let protocol = half(bytes, 2).ok_or(Errno::INVAL)?;
        let interface = word(bytes, 4).ok_or(Errno::INVAL)?;
        if interface.cast_signed() < 0 {
            return Err(Errno::NODEV);
        }
        Ok(Self { protocol, interface })
    }

    /// The `struct sockaddr_ll` to bind to.
    pub(super) fn encode(self) -> [u8; SOCKADDR_LL] {
        let mut bytes = [0; SOCKADDR_LL];
        let family = u16::try_from(libc::AF_PACKET).unwrap_or_default();
        bytes[..2].copy_from_slice(&family.to_ne_bytes());
        bytes[2..4].copy_from_slice(&self.protocol.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.interface.to_ne_bytes());
        bytes
    }
}

/// The family that an address names.
pub(super) fn family(bytes: &[u8]) -> Option<i32> {
    half(bytes, 0).map(i32::from)
}

/// The path in an address of the Unix domain (unix(7)); `None` for an abstract or unnamed one.
pub(super) fn path(bytes: &[u8]) -> Option<&[u8]> {
    let path = bytes.get(PATH..)?;
    let path = path.split(|byte| *byte == 0).next()?;
    (!path.is_empty()).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_layer_address_is_read_and_written() {
        let address = LinkLayer { protocol: 0x0300, interface: 7 };
        assert_eq!(LinkLayer::decode(&address.encode()), Ok(address));
        // A hardware address and whatever follows do not matter.
        let mut longer = address.encode().to_vec();
        longer.extend_from_slice(&[0xff; 30]);
        longer[8..20].fill(0xee);
        assert_eq!(LinkLayer::decode(&longer), Ok(address));
    }

    #[test]
    fn short_foreign_and_negative_ones_are_refused() {
        let good = LinkLayer { protocol: 3, interface: 1 }.encode();
        assert_eq!(LinkLayer::decode(&good[..19]), Err(Errno::INVAL));
        let mut inet = good;
        inet[0] = 2;
        assert_eq!(LinkLayer::decode(&inet), Err(Errno::INVAL));
        let mut negative = good;
        negative[4..8].fill(0xff);
        assert_eq!(LinkLayer::decode(&negative), Err(Errno::NODEV));
    }

    #[test]
    fn lengths_are_taken_as_the_kernel_takes_them() {
        assert_eq!(length(20), Ok(20));
        assert_eq!(length(129), Err(Errno::INVAL));
        assert_eq!(length(u64::MAX), Err(Errno::INVAL));
        assert_eq!(length((1 << 32) | 20), Ok(20));
    }

    #[test]
    fn paths_are_told_from_abstract_names() {
        assert_eq!(path(b"\x01\0/dev/log\0junk"), Some(&b"/dev/log"[..]));
        assert_eq!(path(b"\x01\0/no/end"), Some(&b"/no/end"[..]));
        assert_eq!(path(b"\x01\0\0hidden"), None);
        assert_eq!(path(b"\x01\0"), None);
        assert_eq!(path(b"\x01"), None);
    }
}
