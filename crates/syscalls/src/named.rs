//! What a descriptor stands for, in words.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::record::{File, Place, Socket};

const TYPE: u32 = 0o170_000;
const PIPE: u32 = 0o010_000;

/// A file, pipe, socket or what else, as programs see its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// As a link in /proc/PID/fd shows it, without a note that it has been removed.
    pub text: Vec<u8>,
    /// Whether it has been removed.
    pub is_deleted: bool,
    /// Whether it is outside the process's root.
    pub is_outside: bool,
    /// Its number in its file system.
    pub inode: u64,
    /// The file system's device: major and minor number.
    pub device: (u32, u32),
    /// Its type and mode (inode(7)).
    pub mode: u32,
    /// Its owner and its group, in the initial user namespace, when it was first told.
    pub owner: [u32; 2],
    /// Of a device file: major and minor number of the device.
    pub special: (u32, u32),
    /// Of a socket: its addresses.
    pub socket: Option<Addresses>,
}

/// A socket's addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Its address family.
    pub family: u16,
    /// `SOCK_STREAM` and so on.
    pub kind: u16,
    /// Its protocol.
    pub protocol: u16,
    /// Its own address, where it has one.
    pub local: Option<String>,
    /// The peer's.
    pub peer: Option<String>,
}

impl Named {
    /// From the record that announces it.
    pub fn new(file: &File<'_>) -> Self {
        let (is_deleted, is_outside) = match file.place {
            Place::Path { is_deleted, is_outside, .. } => (is_deleted, is_outside),
            Place::Socket(_) => (false, false),
        };
        let text = text(file);
        // What has no name in any directory counts as removed to the kernel; its link does not say so.
        let is_deleted = is_deleted && text.first() == Some(&b'/');
        let socket = match &file.place {
            Place::Socket(socket) => Some(addresses(socket)),
            Place::Path { .. } => None,
        };
        Self {
            text,
            is_deleted,
            is_outside,
            inode: file.inode,
            device: pair(file.device),
            owner: file.owner,
            special: pair(file.special),
            mode: file.mode,
            socket,
        }
    }

    /// How many bytes it takes, about.
    pub(crate) fn weight(&self) -> usize {
        size_of::<Self>() + self.text.len() + 64
    }
}

/// Major and minor number of a device, as the kernel writes it.
fn pair(device: u32) -> (u32, u32) {
    (device >> 20, device & 0xf_ffff)
}

fn text(file: &File<'_>) -> Vec<u8> {
    let inode = file.inode;
    match &file.place {
        Place::Socket(_) => format!("socket:[{inode}]").into_bytes(),
        Place::Path { names, is_whole, .. } if !is_whole && names.len() < 2 => {
            let name = names.first().filter(|name| **name != b"/").copied().unwrap_or_default();
            match (name.first(), file.mode & TYPE, file.mode & 0o777) {
                (None, PIPE, _) => format!("pipe:[{inode}]").into_bytes(),
                (None, _, 0o444) => format!("ns:[{inode}]").into_bytes(),
                (None, ..) => b"anon_inode:[pidfd]".to_vec(),
                _ if name.starts_with(b"memfd:") => path(names),
                _ => [b"anon_inode:", name].concat(),
            }
        }
        Place::Path { names, .. } => path(names),
    }
}

/// A path from its names, the last one first.
fn path(names: &[&[u8]]) -> Vec<u8> {
    if names.is_empty() {
        return b"/".to_vec();
    }
    let parts = names.iter().rev().flat_map(|name| [&b"/"[..], name]);
    parts.collect::<Vec<_>>().concat()
}

fn addresses(socket: &Socket<'_>) -> Addresses {
    let of = |end: usize| match socket.family {
        2 => inet(socket, end),
        10 => inet6(socket, end),
        1 => unix(socket.names.get(end).copied().unwrap_or_default()),
        _ => None,
    };
    Addresses {
        family: socket.family,
        kind: socket.kind,
        protocol: socket.protocol,
        local: of(0),
        peer: of(1),
    }
}

fn inet(socket: &Socket<'_>, end: usize) -> Option<String> {
    let [a, b, c, d, ..] = *socket.addresses.get(end)?;
    let port = *socket.ports.get(end)?;
    let address = Ipv4Addr::new(a, b, c, d);
    (port != 0 || !address.is_unspecified()).then(|| format!("{address}:{port}"))
}

fn inet6(socket: &Socket<'_>, end: usize) -> Option<String> {
    let address = Ipv6Addr::from(*socket.addresses.get(end)?);
    let port = *socket.ports.get(end)?;
    (port != 0 || !address.is_unspecified()).then(|| format!("[{address}]:{port}"))
}

/// A Unix socket's name: a path up to a zero, or what begins with one.
fn unix(name: &[u8]) -> Option<String> {
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
    match name {
        [] => None,
        [0, rest @ ..] => Some(format!("@{}", text(rest))),
        path => Some(text(path.split(|byte| *byte == 0).next().unwrap_or_default())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: Vec<&[u8]>, mode: u32, is_whole: bool) -> String {
        let place = Place::Path { names, is_whole, is_deleted: true, is_outside: false };
        let file = File { id: 1, inode: 77, device: 0, mode, owner: [0; 2], special: 0, place };
        String::from_utf8(Named::new(&file).text).unwrap()
    }

    #[test]
    fn names_are_those_of_the_links_in_proc() {
        assert_eq!(named(vec![b"hostname", b"etc"], 0o100_644, true), "/etc/hostname");
        assert_eq!(named(vec![], 0o040_755, true), "/");
        assert_eq!(named(vec![], 0o010_600, false), "pipe:[77]");
        assert_eq!(named(vec![b"[eventpoll]"], 0o600, false), "anon_inode:[eventpoll]");
        assert_eq!(named(vec![b"[x]", b"tmp"], 0o100_600, true), "/tmp/[x]");
    }
}
