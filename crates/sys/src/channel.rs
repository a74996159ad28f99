//! Typed messages between HyperSpector's own processes: a length-prefixed JSON frame over a Unix
//! stream socket, with file descriptors passed beside it.
//!
//! Frames are bounded ([`MAX_FRAME`]) and so is the number of descriptors ([`MAX_FDS`]), so that a
//! peer can neither make the reader allocate without limit nor fill its descriptor table.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, recvmsg, sendmsg,
    socket_with,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The largest frame that is read, in bytes. A spec of thousands of hosts fits.
pub const MAX_FRAME: usize = 16 << 20;

/// The largest answer that [`ask`] and [`Channel::receive_within`] take, in bytes: the status of thousands of peers.
const MAX_ANSWER: usize = 8 << 20;

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
        self.receive_bounded(MAX_FRAME, |buffer| (&self.0).read_exact(buffer))
    }

    /// Receives one message of a peer that may be taken: a bounded one, all of it within `limit`.
    ///
    /// # Errors
    /// `WouldBlock` or `TimedOut` where it takes longer; as [`Self::receive`] else.
    pub fn receive_within<T: DeserializeOwned>(
        &self,
        limit: Duration,
    ) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let deadline = Instant::now() + limit;
        self.0.set_read_timeout(Some(limit))?;
        let received = self.receive_bounded(MAX_ANSWER, |mut buffer| {
            while !buffer.is_empty() {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                self.0.set_read_timeout(Some(left))?;
                match (&self.0).read(buffer) {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(read) => buffer = &mut buffer[read..],
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        });
        self.0.set_read_timeout(None)?;
        received
    }

    /// Receives one frame of at most `largest` bytes, read by `read_exact`.
    fn receive_bounded<T: DeserializeOwned>(
        &self,
        largest: usize,
        mut read_exact: impl FnMut(&mut [u8]) -> io::Result<()>,
    ) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut prefix = [0_u8; 4];
        let (got, fds) = receive_some(&self.0, &mut prefix)?;
        if got == 0 {
            return Ok(None);
        }
        read_exact(&mut prefix[got..])?;
        let length = u32::from_be_bytes(prefix) as usize;
        if length > largest {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "frame larger than allowed"));
        }
        let mut body = vec![0; length];
        read_exact(&mut body)?;
        let message = serde_json::from_slice(&body)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        Ok(Some((message, fds)))
    }
}

/// Asks whoever listens at `path` one thing and takes one answer, all within `limit`: for peers that
/// may be stopped or taken, who could otherwise hold up the caller byte by byte.
///
/// # Errors
/// `WouldBlock` where the peer does not even take connections; `TimedOut`; what is in the way else.
pub fn ask<T: DeserializeOwned>(
    path: &Path,
    request: &impl Serialize,
    fds: &[BorrowedFd<'_>],
    limit: Duration,
) -> io::Result<(T, Vec<OwnedFd>)> {
    let deadline = Instant::now() + limit;
    let channel = Channel(connect_at_once(path)?);
    channel.0.set_write_timeout(Some(limit))?;
    channel.send(request, fds)?;
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let answer = channel.receive_within(left)?;
    answer.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// Connects, or fails where the listener's queue is full (connect(2) would wait for room in it).
fn connect_at_once(path: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::io::ioctl_fionbio(&socket, false)?;
    Ok(socket.into())
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
    fn asking_ends_in_time_whatever_the_peer_does() {
        use std::os::unix::net::UnixListener;
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let limit = Duration::from_millis(300);
        let dripping = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            for byte in [0, 0, 1, 0].into_iter().chain(std::iter::repeat_n(b' ', 100)) {
                std::thread::sleep(Duration::from_millis(50));
                if stream.write_all(&[byte]).is_err() {
                    break;
                }
            }
            listener
        });
        let start = Instant::now();
        assert!(ask::<String>(&path, &"hello", &[], limit).is_err());
        let _listener = dripping.join().unwrap();
        // Nobody accepts any more: the queue fills, and then even connecting is refused.
        for _ in 0..200 {
            if let Err(error) = connect_at_once(&path) {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                break;
            }
        }
        assert!(start.elapsed() < Duration::from_secs(8));
    }

    #[test]
    fn garbage_is_an_error() {
        let (a, b) = Channel::pair().unwrap();
        a.stream().write_all(&[0, 0, 0, 3, b'x', b'y', b'z']).unwrap();
        assert!(b.receive::<String>().is_err());
    }
}
