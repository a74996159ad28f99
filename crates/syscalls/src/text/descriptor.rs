//! Descriptors as strace(1) writes them, with what they stand for.

use std::fmt::Write;

use super::quote;
use super::strace::Files;
use crate::named::{Addresses, Named};

const AT_FDCWD: i32 = -100;

/// Writes a descriptor's number, and what it stands for.
pub(super) fn write(text: &mut String, fd: i32, file: Option<&Named>, files: Files) {
    if fd == AT_FDCWD {
        text.push_str("AT_FDCWD");
    } else {
        let _ = write!(text, "{fd}");
    }
    let Some(file) = file.filter(|_| files != Files::None) else { return };
    text.push('<');
    match file.socket.as_ref().filter(|_| files == Files::Addresses) {
        Some(socket) => write_socket(text, socket, file),
        None => quote::name(text, &file.text),
    }
    if files == Files::Addresses {
        let (major, minor) = file.special;
        let _ = match file.mode & 0o170_000 {
            0o020_000 => write!(text, "<char {major}:{minor}>"),
            0o060_000 => write!(text, "<block {major}:{minor}>"),
            _ => Ok(()),
        };
    }
    let (inside, after) = match (file.is_deleted, fd == AT_FDCWD) {
        (false, _) => ("", ""),
        (true, true) => (" (deleted)", ""),
        (true, false) => ("", "(deleted)"),
    };
    let _ = write!(text, "{inside}>{after}");
}

fn write_socket(text: &mut String, socket: &Addresses, file: &Named) {
    let protocol = match (socket.family, socket.kind, socket.protocol) {
        (1, 1, _) => "UNIX-STREAM",
        (1, 2, _) => "UNIX-DGRAM",
        (1, 5, _) => "UNIX-SEQPACKET",
        (2, _, 6) => "TCP",
        (10, _, 6) => "TCPv6",
        (2, _, 17) => "UDP",
        (10, _, 17) => "UDPv6",
        (2, 3, _) => "RAW",
        (10, 3, _) => "RAWv6",
        (16, ..) => "NETLINK",
        (17, ..) => "PACKET",
        _ => return quote::name(text, &file.text),
    };
    let inode = file.inode;
    let _ = match (socket.family, &socket.local, &socket.peer) {
        // Names of Unix sockets have been escaped when they were read.
        (1, Some(own), _) => write!(text, "{protocol}:[{inode},\"{}\"]", safe(own)),
        (1, None, Some(peer)) => write!(text, "{protocol}:[{inode}->\"{}\"]", safe(peer)),
        (_, Some(own), Some(peer)) => write!(text, "{protocol}:[{own}->{peer}]"),
        (_, Some(own), None) => write!(text, "{protocol}:[{own}]"),
        _ => write!(text, "{protocol}:[{inode}]"),
    };
}

/// A name, whose quotes are escaped already, that cannot end what it stands in.
fn safe(name: &str) -> String {
    name.replace('<', "\\74").replace('>', "\\76")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(family: u16, kind: u16, protocol: u16, ends: [Option<&str>; 2]) -> String {
        let [local, peer] = ends.map(|end| end.map(str::to_owned));
        let file = Named {
            text: b"socket:[9]".to_vec(),
            is_deleted: false,
            is_outside: false,
            inode: 9,
            device: (0, 8),
            mode: 0o140_777,
            owner: [0; 2],
            special: (0, 0),
            socket: Some(Addresses { family, kind, protocol, local, peer }),
        };
        let mut text = String::new();
        write(&mut text, 3, Some(&file), Files::Addresses);
        text
    }

    #[test]
    fn sockets_are_told_by_their_addresses() {
        let ends = [Some("127.0.0.1:1"), Some("127.0.0.1:2")];
        assert_eq!(written(2, 1, 6, ends), "3<TCP:[127.0.0.1:1->127.0.0.1:2]>");
        assert_eq!(written(10, 2, 17, [Some("[::]:53"), None]), "3<UDPv6:[[::]:53]>");
        assert_eq!(written(2, 1, 6, [None, None]), "3<TCP:[9]>");
        assert_eq!(
            written(1, 1, 0, [Some("/run/a>b"), None]),
            "3<UNIX-STREAM:[9,\"/run/a\\76b\"]>"
        );
        assert_eq!(written(38, 5, 0, [None, None]), "3<socket:[9]>");
    }
}
