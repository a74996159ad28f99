//! Taking messages from a socket, so that a kill loses none.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering::{Relaxed, Release};

use crate::sockets::batch::{self, Done, MESSAGES};
use crate::sockets::memory::{HEAD, Memory, WORDS};
use crate::sockets::message::SourceId;
use crate::sockets::{LARGEST_MESSAGE, SocketKind};

/// The most of a stream that is one message.
const LARGEST_PIECE: usize = 64 << 10;

/// The most sources of a server.
pub(in crate::sockets) const MOST_SOURCES: SourceId = 24;

/// The size of the intake's memory. What is not used of it is not there.
pub(in crate::sockets) const SIZE: usize = HEAD + MESSAGES * LARGEST_MESSAGE;

mod word {
    /// The flow that is being received from, and one; 0 for none.
    pub(super) const FLOW: usize = 0;
    /// The number of the first message of the batch.
    pub(super) const FIRST: usize = 1;
    /// The number of the next batch's first message.
    pub(super) const NEXT: usize = 2;
    /// Counts the tee's rounds.
    pub(super) const ROUNDS: usize = 3;
    /// Whether the tee is at work: 0 while it waits.
    pub(super) const WORKING: usize = 4;
    /// The counters of the first source.
    pub(super) const SOURCES: usize = 16;
}

/// What is counted for a source.
#[derive(Clone, Copy, Debug)]
pub(in crate::sockets) enum Count {
    /// Messages.
    Received,
    /// Those that were cut.
    Cut,
    /// Those that had descriptors.
    Descriptors,
    /// Those that the observer found no room for.
    Missed,
}

const COUNTS: usize = 4;
const _: () = assert!(word::SOURCES + MOST_SOURCES as usize * COUNTS <= WORDS);

fn index(source: SourceId, what: Count) -> usize {
    word::SOURCES + usize::from(source.min(MOST_SOURCES - 1)) * COUNTS + what as usize
}

/// Reads a counter.
pub(in crate::sockets) fn count(memory: &Memory, source: SourceId, what: Count) -> u64 {
    memory.word(index(source, what)).load(Relaxed)
}

/// Sets the counters of a source to 0.
pub(in crate::sockets) fn reset(memory: &Memory, source: SourceId) {
    for what in [Count::Received, Count::Cut, Count::Descriptors, Count::Missed] {
        memory.word(index(source, what)).store(0, Relaxed);
    }
}

/// The tee's round, while it is at work.
pub(in crate::sockets) fn round(memory: &Memory) -> Option<u64> {
    let is_working = memory.word(word::WORKING).load(Relaxed) != 0;
    is_working.then(|| memory.word(word::ROUNDS).load(Relaxed))
}

/// Gives up the batch that a tee was killed with, where one after the other dies of it.
pub(in crate::sockets) fn give_up(memory: &Memory) {
    memory.word(word::FLOW).store(0, Relaxed);
}

/// A message that was received.
pub(super) struct Received {
    /// Its number; messages of later batches have greater ones.
    pub(super) number: u64,
    pub(super) done: Done,
    at: usize,
}

/// Where messages are received.
pub(super) struct Intake {
    memory: Memory,
}

impl Intake {
    pub(super) fn open(fd: impl AsFd) -> io::Result<Self> {
        let memory = Memory::map(fd)?;
        if memory.size() < SIZE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not memory of an intake"));
        }
        Ok(Self { memory })
    }

    /// Says whether the tee works or waits, for the keeper to see when it is stuck.
    pub(super) fn at_work(&self, works: bool) {
        self.memory.word(word::WORKING).store(u64::from(works), Relaxed);
        self.memory.word(word::ROUNDS).fetch_add(1, Relaxed);
    }

    /// Counts.
    pub(super) fn count(&self, source: SourceId, what: Count, more: u64) {
        self.memory.word(index(source, what)).fetch_add(more, Relaxed);
    }

    /// A number for a message that comes in another way.
    pub(super) fn number(&self) -> u64 {
        // Numbers begin with 1.
        self.memory.word(word::NEXT).fetch_add(1, Relaxed) + 1
    }

    /// The batch of a tee that was killed before it had passed it on, with its flow.
    pub(super) fn unfinished(&mut self) -> Option<(u32, Vec<Received>)> {
        let flow = self.memory.word(word::FLOW).load(Relaxed).checked_sub(1)?;
        let received = self.received(MESSAGES);
        Some((u32::try_from(flow).ok()?, received))
    }

    /// Receives what there is of `flow`, without waiting. [`Self::finish`] must follow when it was
    /// passed on.
    ///
    /// # Errors
    /// As recvmmsg(2); `WouldBlock` where there is nothing.
    pub(super) fn receive(
        &mut self,
        flow: u32,
        socket: BorrowedFd<'_>,
        kind: SocketKind,
    ) -> io::Result<Vec<Received>> {
        let (length, count) = match kind {
            SocketKind::Stream => (LARGEST_PIECE, 2),
            SocketKind::Dgram | SocketKind::Seqpacket => (LARGEST_MESSAGE, MESSAGES),
        };
        let mut rooms = [(0, 0); MESSAGES];
        for (index, room) in rooms.iter_mut().enumerate() {
            *room = (place(index), length);
        }
        batch::forget(&mut self.memory);
        let first = self.memory.word(word::NEXT).fetch_add(MESSAGES as u64, Relaxed);
        self.memory.word(word::FIRST).store(first, Relaxed);
        self.memory.word(word::FLOW).store(u64::from(flow) + 1, Release);
        match batch::receive(&mut self.memory, socket, &rooms[..count]) {
            Ok(_) => Ok(self.received(count)),
            Err(error) => {
                self.finish();
                Err(error)
            }
        }
    }

    fn received(&mut self, count: usize) -> Vec<Received> {
        let first = self.memory.word(word::FIRST).load(Relaxed);
        let done = batch::done(&mut self.memory, count).into_iter().enumerate();
        done.map(|(index, done)| {
            let done = Done { length: done.length.min(LARGEST_MESSAGE), ..done };
            // Numbers begin with 1.
            Received { number: first + index as u64 + 1, done, at: place(index) }
        })
        .collect()
    }

    /// The bytes of a message of the current batch.
    pub(super) fn bytes(&self, message: &Received) -> &[u8] {
        self.memory.bytes(message.at, message.done.length)
    }

    /// Says that the batch is in every ring.
    pub(super) fn finish(&mut self) {
        self.memory.word(word::FLOW).store(0, Release);
    }
}

/// Where a message of a batch is received.
fn place(index: usize) -> usize {
    HEAD + index * LARGEST_MESSAGE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sockets::memory::create;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn a_batch_of_a_killed_tee_is_found_again() {
        let fd = create("intake", SIZE).unwrap();
        let (a, b) = UnixDatagram::pair().unwrap();
        let mut intake = Intake::open(&fd).unwrap();
        assert!(intake.unfinished().is_none());
        a.send(b"one").unwrap();
        a.send(b"two").unwrap();
        let first = intake.receive(5, b.as_fd(), SocketKind::Dgram).unwrap();
        assert_eq!(first.len(), 2);
        drop(intake);
        let mut intake = Intake::open(&fd).unwrap();
        let (flow, again) = intake.unfinished().unwrap();
        let texts: Vec<&[u8]> = again.iter().map(|message| intake.bytes(message)).collect();
        assert_eq!((flow, texts), (5, vec![&b"one"[..], b"two"]));
        assert_eq!(again[1].number, first[1].number);
        intake.finish();
        assert!(intake.unfinished().is_none());
        a.send(b"three").unwrap();
        let next = intake.receive(5, b.as_fd(), SocketKind::Dgram).unwrap();
        assert!(next[0].number > first[1].number);
    }
}
