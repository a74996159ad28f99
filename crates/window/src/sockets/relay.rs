//! A connection between a writer and the server's own receiver that goes through us, since the
//! receiver's socket takes connections, which cannot be observed.
//!
//! What the writer sends goes to the receiver first, and is offered to readers when the receiver has
//! it; what the receiver answers goes back. Each waits for the other as if we were not there: no more
//! is read than was passed on. As in `batch`, the kernel writes down in memory that outlives
//! the tee what it has received and sent, so that a kill neither loses nor repeats a byte.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::{Acquire, Release};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::Shutdown;

use super::SocketKind;
use super::batch;
use super::memory::{self, HEAD, Memory};

/// How much is under way in one direction: the largest packet that can be relayed.
const ROOM: usize = 256 << 10;

/// How much is passed on in a row before others have their turn.
const STEPS: usize = 16;

mod word {
    /// 0: nothing is under way. 1: it is being received. 2: it is to be sent.
    pub(super) const STATE: usize = 0;
    pub(super) const LENGTH: usize = 1;
    pub(super) const SENT: usize = 2;
    /// Whether it is being sent now.
    pub(super) const SENDING: usize = 3;
    /// No more comes, and that was passed on.
    pub(super) const ENDED: usize = 4;
}

/// Memory for one direction.
pub(super) fn create() -> io::Result<OwnedFd> {
    memory::create("relay", HEAD + ROOM)
}

/// What became of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Both sides wait for something.
    Waits,
    /// There is more to do.
    GoesOn,
    /// It is over.
    Ended,
}

/// One direction.
#[derive(Debug)]
struct Pipe {
    fd: OwnedFd,
    memory: Memory,
}

impl Pipe {
    /// Takes over what was under way, also of a tee that was killed.
    fn open(fd: OwnedFd) -> io::Result<Self> {
        let memory = Memory::map(&fd)?;
        if memory.size() < HEAD + ROOM {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not memory of a relay"));
        }
        let mut pipe = Self { fd, memory };
        if pipe.get(word::STATE) == 1 {
            pipe.received();
        }
        if pipe.get(word::SENDING) == 1 {
            pipe.sent();
        }
        Ok(pipe)
    }

    fn get(&self, index: usize) -> u64 {
        self.memory.word(index).load(Acquire)
    }

    fn set(&self, index: usize, value: u64) {
        self.memory.word(index).store(value, Release);
    }

    fn ended(&self) -> bool {
        self.get(word::ENDED) != 0
    }

    /// Passes on one piece. `whole` is called with it when the other side has it.
    fn step(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        kind: SocketKind,
        whole: &mut dyn FnMut(&[u8]),
    ) -> io::Result<Turn> {
        if self.ended() {
            return Ok(Turn::Waits);
        }
        if self.get(word::STATE) != 2 {
            batch::forget(&mut self.memory);
            self.set(word::STATE, 1);
            let received = batch::receive(&mut self.memory, from, &[(HEAD, ROOM)]);
            self.received();
            match received {
                Err(error) if is_passing(&error) => return Ok(Turn::Waits),
                other => drop(other?),
            }
            if self.get(word::LENGTH) == 0 && is_over(from, kind) {
                self.set(word::STATE, 0);
                self.set(word::ENDED, 1);
                let _ = rustix::net::shutdown(to, Shutdown::Write);
                return Ok(Turn::GoesOn);
            }
        }
        self.send(to, whole)
    }

    fn send(&mut self, to: BorrowedFd<'_>, whole: &mut dyn FnMut(&[u8])) -> io::Result<Turn> {
        let [length, sent] =
            [word::LENGTH, word::SENT].map(|index| (self.get(index) as usize).min(ROOM));
        let rest = (HEAD + sent, length.saturating_sub(sent));
        batch::forget(&mut self.memory);
        self.set(word::SENDING, 1);
        let result = batch::send(&mut self.memory, to, &[rest]);
        self.sent();
        match result {
            Err(error) if is_passing(&error) => return Ok(Turn::Waits),
            other => drop(other?),
        }
        if self.get(word::SENT) as usize >= length {
            whole(self.memory.bytes(HEAD, length));
            self.set(word::STATE, 0);
        }
        Ok(Turn::GoesOn)
    }

    /// Notes what the last call has received.
    fn received(&mut self) {
        match batch::done(&mut self.memory, 1).first() {
            Some(done) => {
                self.set(word::LENGTH, done.length.min(ROOM) as u64);
                self.set(word::SENT, 0);
                self.set(word::STATE, 2);
            }
            None => self.set(word::STATE, 0),
        }
    }

    /// Notes what the last call has sent.
    fn sent(&mut self) {
        let done = batch::done(&mut self.memory, 1).first().map_or(0, |done| done.length);
        self.set(word::SENT, self.get(word::SENT).saturating_add(done as u64));
        self.set(word::SENDING, 0);
    }
}

/// A writer's connection and the one to the receiver.
#[derive(Debug)]
pub(super) struct Relay {
    pub(super) writer: OwnedFd,
    pub(super) receiver: OwnedFd,
    there: Pipe,
    back: Pipe,
    kind: SocketKind,
}

impl Relay {
    /// From the two connections and the memory of the two directions.
    pub(super) fn open(fds: [OwnedFd; 4], kind: SocketKind) -> io::Result<Self> {
        let [writer, receiver, there, back] = fds;
        let (there, back) = (Pipe::open(there)?, Pipe::open(back)?);
        Ok(Self { writer, receiver, there, back, kind })
    }

    /// Everything that it takes to go on elsewhere.
    pub(super) fn descriptors(&self) -> [&OwnedFd; 4] {
        [&self.writer, &self.receiver, &self.there.fd, &self.back.fd]
    }

    /// Passes on what can be, for a while. `whole` is called with what the receiver has got.
    pub(super) fn turn(&mut self, mut whole: impl FnMut(&[u8])) -> Turn {
        for _ in 0..STEPS {
            match self.both(&mut whole) {
                Ok(Turn::GoesOn) => {}
                Ok(other) => return other,
                // Neither side is told more than that the other is gone.
                Err(_) => return Turn::Ended,
            }
        }
        Turn::GoesOn
    }

    fn both(&mut self, whole: &mut dyn FnMut(&[u8])) -> io::Result<Turn> {
        let (writer, receiver) = (self.writer.as_fd(), self.receiver.as_fd());
        let there = self.there.step(writer, receiver, self.kind, whole)?;
        let back = self.back.step(receiver, writer, self.kind, &mut |_| {})?;
        let is_closed = self.there.ended() && is_gone(self.writer.as_fd());
        if is_closed || self.there.ended() && self.back.ended() {
            return Ok(Turn::Ended);
        }
        let goes_on = there == Turn::GoesOn || back == Turn::GoesOn;
        Ok(if goes_on { Turn::GoesOn } else { Turn::Waits })
    }
}

/// Whether nothing received means that nothing more will come; a packet may be empty.
fn is_over(from: BorrowedFd<'_>, kind: SocketKind) -> bool {
    kind == SocketKind::Stream || has(from, PollFlags::RDHUP)
}

/// Whether the other end is closed in both directions.
fn is_gone(socket: BorrowedFd<'_>) -> bool {
    has(socket, PollFlags::empty())
}

fn has(socket: BorrowedFd<'_>, flags: PollFlags) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(socket, flags)];
    poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
        || matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn relay() -> (UnixStream, UnixStream, Relay) {
        let (writer, ours) = UnixStream::pair().unwrap();
        let (receiver, to) = UnixStream::pair().unwrap();
        let fds = [ours.into(), to.into(), create().unwrap(), create().unwrap()];
        (writer, receiver, Relay::open(fds, SocketKind::Stream).unwrap())
    }

    fn again(relay: Relay) -> Relay {
        let fds = relay.descriptors().map(|fd| fd.try_clone().unwrap());
        drop(relay);
        Relay::open(fds, SocketKind::Stream).unwrap()
    }

    #[test]
    fn both_directions_and_the_end_go_through() {
        let (mut writer, mut receiver, mut relay) = relay();
        let mut seen = Vec::new();
        writer.write_all(b"question").unwrap();
        receiver.write_all(b"answer").unwrap();
        assert_eq!(relay.turn(|bytes| seen.extend_from_slice(bytes)), Turn::Waits);
        let mut text = [0; 8];
        receiver.read_exact(&mut text).unwrap();
        writer.read_exact(&mut text[..6]).unwrap();
        assert_eq!((&text, &seen[..]), (b"answeron", &b"question"[..]));
        writer.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(relay.turn(|_| {}), Turn::Waits);
        assert_eq!(receiver.read(&mut text).unwrap(), 0);
        receiver.write_all(b"late").unwrap();
        drop(receiver);
        assert_eq!(relay.turn(|_| {}), Turn::Ended);
        writer.read_exact(&mut text[..4]).unwrap();
        assert_eq!(&text[..4], b"late");
    }

    #[test]
    fn no_more_is_read_than_the_receiver_takes_and_a_kill_repeats_nothing() {
        let (mut writer, receiver, mut relay) = relay();
        let sent: Vec<u8> = (0..3_000_000_u32).map(|byte| (byte / 7) as u8).collect();
        let writing = std::thread::spawn({
            let sent = sent.clone();
            move || writer.write_all(&sent).unwrap()
        });
        let mut seen = 0;
        while relay.turn(|bytes| seen += bytes.len()) != Turn::Waits {
            relay = again(relay);
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
        relay.turn(|bytes| seen += bytes.len());
        assert!(seen < 1_000_000, "{seen} bytes were read that nobody has taken");
        let reading = std::thread::spawn(move || {
            let mut all = Vec::new();
            (&receiver).read_to_end(&mut all).unwrap();
            all
        });
        while relay.turn(|bytes| seen += bytes.len()) != Turn::Ended {
            relay = again(relay);
        }
        drop(relay);
        writing.join().unwrap();
        assert!(reading.join().unwrap() == sent);
        assert_eq!(seen, sent.len());
    }
}
