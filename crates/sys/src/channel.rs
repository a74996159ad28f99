//! Typed messages between HyperSpector's own processes: a length-prefixed JSON frame over a Unix
//! stream socket, with file descriptors passed beside it.
//!
//! Frames are bounded ([`MAX_FRAME`]) and so is the number of descriptors ([`MAX_FDS`]), so that a
//! peer can neither make the reader allocate without limit nor fill its descriptor table.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The largest frame that is read, in bytes. A spec of thousands of hosts fits.
pub const MAX_FRAME: usize = 16 << 20;

/// The most file descriptors that one frame carries.
pub const MAX_FDS: usize = 16;

/// One end of a channel.
#[derive(Debug)]
pub struct Channel(UnixStream);

impl Channel {
    /// A connected pair, both ends close-on-exec (socketpair(2)).
    pub fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = UnixStream::pair()?;
        Ok((Self(a), Self(b)))
    }

    /// Wraps a connected stream socket.
    pub fn new(stream: UnixStream) -> Self {
        Self(stream)
    }

    /// The socket itself, to wait on or to set time limits on.
    pub fn stream(&self) -> &UnixStream {
        &self.0
    }

    /// Gives the socket back.
    pub fn into_stream(self) -> UnixStream {
        self.0
    }

    /// A second handle on the same socket.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Sends one message and passes `fds` with its first byte.
    pub fn send(&self, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let body = serde_json::to_vec(message)?;
        if body.len() > MAX_FRAME || fds.len() > MAX_FDS {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "message too large to send"));
        }
        let mut frame = Vec::with_capacity(body.len() + 4);
        frame.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
        frame.extend_from_slice(&body);

        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        let sent = sendmsg(&self.0, &[IoSlice::new(&frame)], &mut control, SendFlags::NOSIGNAL)?;
        (&self.0).write_all(&frame[sent..])
    }

    /// Receives one message with what was passed beside it; `None` when the peer has closed.
    pub fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut prefix = [0_u8; 4];
        let (got, fds) = receive_some(&self.0, &mut prefix)?;
        if got == 0 {
            return Ok(None);
        }
        (&self.0).read_exact(&mut prefix[got..])?;
        let length = u32::from_be_bytes(prefix) as usize;
        if length > MAX_FRAME {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "frame larger than allowed"));
        }
        let mut body = vec![0; length];
        (&self.0).read_exact(&mut body)?;
        let message = serde_json::from_slice(&body)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        Ok(Some((message, fds)))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Reads what there is, at most `buffer`, and takes the descriptors that came with it.
fn receive_some(stream: &UnixStream, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        let iov = &mut [IoSliceMut::new(buffer)];
        match recvmsg(stream, iov, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => continue,
            other => break other?,
        }
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            fds.extend(passed);
        }
    }
    Ok((message.bytes, fds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Seek;

    #[test]
    fn a_message_arrives_with_its_descriptors() {
        let (a, b) = Channel::pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"hello").unwrap();
        file.rewind().unwrap();
        a.send(&("greeting", 7), &[file.as_fd()]).unwrap();
        let ((word, number), mut fds): ((String, u32), _) = b.receive().unwrap().unwrap();
        assert_eq!((word.as_str(), number), ("greeting", 7));
        let mut text = String::new();
        std::fs::File::from(fds.remove(0)).read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        assert!(fds.is_empty());
    }

    #[test]
    fn a_closed_peer_is_an_end_and_not_an_error() {
        let (a, b) = Channel::pair().unwrap();
        drop(a);
        assert!(b.receive::<String>().unwrap().is_none());
    }

    #[test]
    fn an_oversized_frame_is_refused_before_it_is_allocated() {
        let (a, b) = Channel::pair().unwrap();
        a.stream().write_all(&u32::MAX.to_be_bytes()).unwrap();
        let error = b.receive::<String>().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn garbage_is_an_error() {
        let (a, b) = Channel::pair().unwrap();
        a.stream().write_all(&[0, 0, 0, 3, b'x', b'y', b'z']).unwrap();
        assert!(b.receive::<String>().is_err());
    }
}
