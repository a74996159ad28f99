//! What the kernel tells of a Unix socket by its number (sock_diag(7)), in our own network.

use std::io;

use rustix::net::netlink;

use crate::packets::netlink::{Socket, attributes, word};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `UDIAG_SHOW_VFS | UDIAG_SHOW_PEER | UDIAG_SHOW_UID` (include/uapi/linux/unix_diag.h).
const SHOW: u32 = 2 | 4 | 64;
const UNIX_DIAG_VFS: u16 = 1;
const UNIX_DIAG_PEER: u16 = 2;
const UNIX_DIAG_UID: u16 = 7;

/// What is known of a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// The number of the one that it is connected to.
    pub(super) peer: Option<u32>,
    /// The number of the file that it is bound to, as far as 32 bits go.
    pub(super) file: Option<u32>,
    /// The user who has made it; before Linux 5.3 nobody is told.
    pub(super) user: Option<u32>,
}

/// Asks for the socket `number`, as in `socket:[NUMBER]`.
///
/// # Errors
/// `ENOENT` where there is none of that number in our network; as sendmsg(2) else.
pub(super) fn of(number: u32) -> io::Result<Told> {
    let mut request = [0; 24];
    request[0] = u8::try_from(libc::AF_UNIX).unwrap_or_default();
    request[4..8].fill(0xff);
    request[8..12].copy_from_slice(&number.to_ne_bytes());
    request[12..16].copy_from_slice(&SHOW.to_ne_bytes());
    // No cookie.
    request[16..24].fill(0xff);
    let mut told = None;
    let mut socket = Socket::open(Some(netlink::SOCK_DIAG), 0)?;
    socket.ask(SOCK_DIAG_BY_FAMILY, &request, |message| told = Some(parsed(message.body)))?;
    told.ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Takes the attributes out of a message (struct unix_diag_msg).
fn parsed(body: &[u8]) -> Told {
    let mut told = Told::default();
    for (kind, value) in attributes(body.get(16..).unwrap_or_default()) {
        let first = word(value, 0);
        match kind {
            UNIX_DIAG_VFS => told.file = first,
            UNIX_DIAG_PEER => told.peer = first,
            UNIX_DIAG_UID => told.user = first,
            _ => {}
        }
    }
    told
}
