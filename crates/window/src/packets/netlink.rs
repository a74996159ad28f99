//! The little of netlink(7) that the workers read: messages, and attributes by number.
//!
//! Parsed here and not with a full library on purpose: an attribute that a library does not know
//! must never make the guard miss an interface.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind,
    netlink::SocketAddrNetlink, recv, send, socket_with,
};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER: usize = 16;

/// `NLM_F_REQUEST`.
const ONE: u16 = 1;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 0x301;

/// A raw netlink socket.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

/// One message: its type and what follows its header.
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) body: &'a [u8],
}

impl Socket {
    /// Opens a socket of `protocol` (none is rtnetlink) in the current network namespace and joins
    /// `groups` (a mask).
    pub(crate) fn open(protocol: Option<Protocol>, groups: u32) -> io::Result<Self> {
        let family = AddressFamily::NETLINK;
        let flags = SocketFlags::CLOEXEC;
        let fd = socket_with(family, SocketType::RAW, flags, protocol)?;
        bind(&fd, &SocketAddrNetlink::new(0, groups))?;
        // A dump puts up to 32 KiB into one read.
        Ok(Self { fd, buffer: vec![0; 64 << 10] })
    }

    /// Asks for a dump of `kind` and hands every message of it to `each`.
    pub(crate) fn dump(
        &mut self,
        kind: u16,
        body: &[u8],
        mut each: impl FnMut(&Message<'_>),
    ) -> io::Result<()> {
        self.send(kind, DUMP, body)?;
        loop {
            let (got, _) = recv(&self.fd, &mut self.buffer[..], RecvFlags::empty())?;
            for message in messages(&self.buffer[..got]) {
                match message.kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => return Err(refusal(message.body)),
                    _ => each(&message),
                }
            }
        }
    }

    /// Asks for one thing of `kind`, and hands the answer to `each`.
    ///
    /// # Errors
    /// What the kernel answers instead.
    pub(crate) fn ask(
        &mut self,
        kind: u16,
        body: &[u8],
        mut each: impl FnMut(&Message<'_>),
    ) -> io::Result<()> {
        self.send(kind, ONE, body)?;
        let (got, _) = recv(&self.fd, &mut self.buffer[..], RecvFlags::empty())?;
        for message in messages(&self.buffer[..got]) {
            match message.kind {
                NLMSG_ERROR => return Err(refusal(message.body)),
                _ => each(&message),
            }
        }
        Ok(())
    }

    fn send(&self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        let mut request = Vec::with_capacity(HEADER + body.len());
        let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
        request.extend_from_slice(&length.to_ne_bytes());
        request.extend_from_slice(&kind.to_ne_bytes());
        request.extend_from_slice(&flags.to_ne_bytes());
        request.extend_from_slice(&[0; 8]);
        request.extend_from_slice(body);
        Ok(send(&self.fd, &request, SendFlags::empty()).map(drop)?)
    }

    /// Hands what has arrived to `each`, without waiting.
    ///
    /// # Errors
    /// `ENOBUFS` where messages were lost.
    pub(crate) fn arrived(&mut self, mut each: impl FnMut(&Message<'_>)) -> io::Result<()> {
        match recv(&self.fd, &mut self.buffer[..], RecvFlags::DONTWAIT) {
            Ok((got, _)) => messages(&self.buffer[..got]).for_each(|message| each(&message)),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The error in an `NLMSG_ERROR`; number 0 is success.
pub(crate) fn refusal(body: &[u8]) -> io::Error {
    let code = word(body, 0).unwrap_or_default().cast_signed();
    io::Error::from_raw_os_error(code.checked_neg().unwrap_or(libc::EIO))
}

/// The messages in one read; stops at the first that is cut off.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = word(bytes, 0)? as usize;
        let kind = half(bytes, 4)?;
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind, body })
    })
}

/// The attributes in `bytes`, as number and value; stops at the first that is cut off.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(half(bytes, 0)?);
        let kind = half(bytes, 2)? & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The 32-bit word at `at`, in the machine's order.
pub(crate) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The 16-bit word at `at`, in the machine's order.
pub(crate) fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_attributes_are_split_and_padding_is_skipped() {
        let mut bytes = Vec::new();
        for kind in [16_u16, 17] {
            bytes.extend_from_slice(&21_u32.to_ne_bytes());
            bytes.extend_from_slice(&kind.to_ne_bytes());
            bytes.extend_from_slice(&[0; 10]);
            bytes.extend_from_slice(&[5, 0, 3, 0, b'x', 0, 0, 0]);
        }
        let all: Vec<_> = messages(&bytes)
            .map(|m| (m.kind, attributes(m.body).map(|(k, v)| (k, v.to_vec())).collect::<Vec<_>>()))
            .collect();
        assert_eq!(all, [(16, vec![(3, vec![b'x'])]), (17, vec![(3, vec![b'x'])])]);
    }

    #[test]
    fn cut_and_lying_lengths_end_the_walk() {
        assert_eq!(messages(&[0; 16]).count(), 0);
        assert_eq!(messages(&[255; 40]).count(), 0);
        assert_eq!(attributes(&[0; 8]).count(), 0);
        assert_eq!(attributes(&[9, 0, 1, 0, 1]).count(), 0);
    }
}
