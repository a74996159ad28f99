//! The packet sockets that exist in this network namespace, as the kernel tells it
//! (sock_diag(7), include/uapi/linux/packet_diag.h). Asked rather than remembered: a socket lives
//! as long as anybody holds it or has its ring mapped.

use std::io;

use rustix::net::netlink;

use super::netlink::{Message, Socket, attributes, word};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `PACKET_SHOW_INFO | PACKET_SHOW_RING_CFG | PACKET_SHOW_FANOUT`.
const SHOW: u32 = 0x1 | 0x4 | 0x8;
const PACKET_DIAG_INFO: u16 = 0;
const PACKET_DIAG_RX_RING: u16 = 2;
const PACKET_DIAG_FANOUT: u16 = 4;

/// One packet socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// Its `SO_COOKIE`.
    pub cookie: u64,
    /// The interface that it is bound to, 0 for none.
    pub interface: u32,
    /// The memory of its receive ring in bytes.
    pub ring: u64,
    /// The id of its fanout group.
    pub group: Option<u16>,
}

/// Asks the kernel.
#[derive(Debug)]
pub struct Diag(Socket);

impl Diag {
    /// Opens the socket in the current network namespace and tries it.
    ///
    /// # Errors
    /// `ENOENT` where the kernel has no packet_diag (`CONFIG_PACKET_DIAG`).
    pub fn open() -> io::Result<Self> {
        let mut diag = Self(Socket::open(Some(netlink::SOCK_DIAG), 0)?);
        diag.sockets()?;
        Ok(diag)
    }

    /// All packet sockets of the namespace in which this was opened.
    pub fn sockets(&mut self) -> io::Result<Vec<Live>> {
        let mut request = [0; 20];
        request[0] = u8::try_from(libc::AF_PACKET).unwrap_or_default();
        request[8..12].copy_from_slice(&SHOW.to_ne_bytes());
        let mut sockets = Vec::new();
        self.0.dump(SOCK_DIAG_BY_FAMILY, &request, |message| sockets.extend(decode(message)))?;
        Ok(sockets)
    }
}

/// Reads a `struct packet_diag_msg` and its attributes.
fn decode(message: &Message<'_>) -> Option<Live> {
    let cookie = u64::from(word(message.body, 8)?) | (u64::from(word(message.body, 12)?) << 32);
    let mut live = Live { cookie, ..Live::default() };
    for (kind, value) in attributes(message.body.get(16..)?) {
        match kind {
            PACKET_DIAG_INFO => live.interface = word(value, 0)?,
            PACKET_DIAG_RX_RING => {
                live.ring = u64::from(word(value, 0)?) * u64::from(word(value, 4)?);
            }
            // The type of the group is in the high half.
            PACKET_DIAG_FANOUT => live.group = u16::try_from(word(value, 0)? & 0xffff).ok(),
            _ => {}
        }
    }
    Some(live)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_read_with_its_ring_and_group() {
        let mut body = vec![17, 3, 0, 0, 1, 0, 0, 0];
        body.extend_from_slice(&0x1_0000_0007_u64.to_ne_bytes());
        let mut attribute = |kind: u16, words: &[u32]| {
            body.extend_from_slice(&u16::try_from(4 + words.len() * 4).unwrap().to_ne_bytes());
            body.extend_from_slice(&kind.to_ne_bytes());
            words.iter().for_each(|w| body.extend_from_slice(&w.to_ne_bytes()));
        };
        attribute(PACKET_DIAG_INFO, &[4, 0, 0, 0, 0]);
        attribute(PACKET_DIAG_RX_RING, &[1 << 20, 8, 2048, 4096, 0, 0, 0]);
        attribute(PACKET_DIAG_FANOUT, &[0x0001_0063]);
        let live = decode(&Message { kind: SOCK_DIAG_BY_FAMILY, body: &body }).unwrap();
        let expected =
            Live { cookie: 0x1_0000_0007, interface: 4, ring: 8 << 20, group: Some(0x63) };
        assert_eq!(live, expected);
    }

    #[test]
    fn a_short_message_is_no_socket() {
        assert!(decode(&Message { kind: SOCK_DIAG_BY_FAMILY, body: &[17; 12] }).is_none());
    }
}
