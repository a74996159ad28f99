//! A reader's queue: a ring of messages in memory that outlives the tee.
//!
//! Three positions run through it, none of which ever goes back behind the one before: up to `tail`
//! the reader has taken everything, up to `sent` everything was sent to it, up to `head` it is full.
//! What no longer fits is lost, counted, and told by a line in the place where it is missing.

mod together;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::batch;
use super::memory::{HEAD, Memory};
use together::Together;

/// The smallest ring, in bytes: it holds one message of the greatest size.
pub const SMALLEST: u64 = 1 << 20;

/// The largest ring, in bytes.
pub const LARGEST: u64 = 1 << 30;

/// A record's own header.
const OWN: usize = 16;

mod word {
    use super::together::Together;

    pub(super) const TAIL: usize = 1;
    /// Lost, and not told yet.
    pub(super) const UNTOLD: usize = 5;
    pub(super) const ACCEPTED: usize = 6;
    pub(super) const LOST: usize = 7;
    pub(super) const DELIVERED: usize = 8;
    /// The head, and the number of the last message that was offered.
    pub(super) const FILLED: Together<2> = Together { which: 0, copies: [16, 18] };
    /// The position up to which all was sent; how much of the record there was; and how many records
    /// of one flow are being sent from there on, 0 for none.
    pub(super) const SENDING: Together<3> = Together { which: 2, copies: [24, 27] };
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Bytes of the server's.
    Message,
    /// Bytes of ours: who sends, what was lost.
    Line,
    /// The writer has closed its connection.
    End,
    /// Nothing; the next record is at the ring's start.
    Skip,
}

/// A record of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) kind: Kind,
    /// The socket or connection that it is of.
    pub(super) flow: u32,
    /// Where its bytes are in the ring's memory.
    at: usize,
    /// How many there are.
    pub(super) length: usize,
    /// The position after it.
    pub(super) next: u64,
}

/// What became of a message that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offered {
    /// It is in the ring.
    Accepted,
    /// It was there before: a tee that was killed had got that far.
    Known,
    /// There is no room.
    Lost,
}

/// What a ring has seen, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) accepted: u64,
    pub(super) delivered: u64,
    pub(super) lost: u64,
    pub(super) waiting_bytes: u64,
}

/// The counts of the ring in `memory`, whoever works on it.
pub(super) fn counts(memory: &Memory) -> Counts {
    let read = |index| memory.word(index).load(Relaxed);
    Counts {
        accepted: read(word::ACCEPTED),
        delivered: read(word::DELIVERED),
        lost: read(word::LOST),
        waiting_bytes: word::FILLED.get(memory)[0].saturating_sub(read(word::TAIL)),
    }
}

/// How much memory a ring takes that holds `queue` bytes.
pub(super) fn size(queue: u64) -> usize {
    let room = queue.clamp(SMALLEST, LARGEST).next_multiple_of(4096);
    HEAD + usize::try_from(room).unwrap_or(SMALLEST as usize)
}

/// A reader's queue.
#[derive(Debug)]
pub(super) struct Ring {
    memory: Memory,
    room: u64,
}

impl Ring {
    /// Takes over the ring in `memory`, also from a tee that was killed. Positions that make no sense
    /// (it had been taken before) are all set back to the beginning, which counts as one loss.
    pub(super) fn open(fd: impl AsFd) -> io::Result<Self> {
        let memory = Memory::map(fd)?;
        let room = (memory.size() - HEAD) as u64;
        let mut ring = Self { memory, room };
        if room < SMALLEST {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a ring"));
        }
        if !ring.is_sound() {
            ring.set_together(&word::SENDING, [0; 3]);
            ring.set(word::TAIL, 0);
            ring.set_head(0, ring.last());
            ring.lose(1);
        }
        ring.finish_sending();
        Ok(ring)
    }

    fn is_sound(&self) -> bool {
        let (tail, sent, head) = (self.tail(), self.sent(), self.head());
        tail <= sent && sent <= head && head - tail <= self.room && head < u64::MAX / 2
    }

    fn get(&self, index: usize) -> u64 {
        self.memory.word(index).load(Acquire)
    }

    fn set(&self, index: usize, value: u64) {
        #[cfg(test)]
        tests::die_when_due();
        self.memory.word(index).store(value, Release);
    }

    fn set_together<const N: usize>(&self, words: &Together<N>, values: [u64; N]) {
        let next = self.get(words.which) ^ 1;
        let at = words.at(next);
        values.iter().enumerate().for_each(|(index, value)| self.set(at + index, *value));
        self.set(words.which, next);
    }

    fn add(&self, index: usize, more: u64) {
        self.set(index, self.get(index).saturating_add(more));
    }

    pub(super) fn head(&self) -> u64 {
        word::FILLED.get(&self.memory)[0]
    }

    /// The number of the last message that was offered.
    fn last(&self) -> u64 {
        word::FILLED.get(&self.memory)[1]
    }

    fn set_head(&self, head: u64, last: u64) {
        self.set_together(&word::FILLED, [head, last]);
    }

    pub(super) fn tail(&self) -> u64 {
        self.get(word::TAIL)
    }

    pub(super) fn sent(&self) -> u64 {
        word::SENDING.get(&self.memory)[0]
    }

    /// How much of the record at [`Self::sent`] was sent.
    pub(super) fn offset(&self) -> usize {
        usize::try_from(word::SENDING.get(&self.memory)[1]).unwrap_or(0)
    }

    /// Whether more than half of it is full.
    pub(super) fn is_filling(&self) -> bool {
        self.head() - self.tail() > self.room / 2
    }

    /// What was lost and not told of yet.
    pub(super) fn untold(&self) -> u64 {
        self.get(word::UNTOLD)
    }

    /// Puts a message in, after `lines` of ours, all or nothing. `number` grows from message to
    /// message; `amount` is what it counts for when it is lost.
    pub(super) fn offer(
        &mut self,
        number: u64,
        flow: u32,
        lines: &[Vec<u8>],
        message: (Kind, &[u8]),
        amount: u64,
    ) -> Offered {
        if number <= self.last() {
            return Offered::Known;
        }
        let before = lines.iter().map(|line| (Kind::Line, line.as_slice()));
        let all: Vec<_> = before.chain([message]).collect();
        let mut head = self.head();
        if !self.fits(&all) {
            self.lose(amount);
            self.set_head(head, number);
            return Offered::Lost;
        }
        for (kind, bytes) in &all {
            head = self.put(head, flow, *kind, bytes);
        }
        self.set_head(head, number);
        self.set(word::UNTOLD, 0);
        self.add(word::ACCEPTED, u64::from(message.0 == Kind::Message));
        Offered::Accepted
    }

    /// Counts what is lost.
    pub(super) fn lose(&mut self, amount: u64) {
        self.add(word::UNTOLD, amount);
        self.add(word::LOST, amount);
    }

    /// Whether there is room. After a loss there has to be some more than needed, so that a reader
    /// that is slow gets fewer and longer gaps and not a line for every other message.
    fn fits(&self, all: &[(Kind, &[u8])]) -> bool {
        let mut head = self.head();
        for (_, bytes) in all {
            if record_size(bytes.len()) > self.room / 2 {
                return false;
            }
            head = self.start(head, bytes.len()) + record_size(bytes.len());
        }
        let spare = if self.untold() > 0 { self.room / 8 } else { 0 };
        head + spare - self.tail() <= self.room
    }

    /// Where a record of `length` bytes begins that comes at `head`: records do not wrap round.
    fn start(&self, head: u64, length: usize) -> u64 {
        let to_end = self.room - head % self.room;
        if record_size(length) > to_end { head + to_end } else { head }
    }

    /// Writes a record at `head`, for which there is room, and returns the position after it.
    fn put(&mut self, head: u64, flow: u32, kind: Kind, bytes: &[u8]) -> u64 {
        let start = self.start(head, bytes.len());
        if start != head {
            self.write_own(head, Kind::Skip, 0, (start - head) as usize - OWN);
        }
        self.write_own(start, kind, flow, bytes.len());
        let at = self.place(start) + OWN;
        self.memory.write(at, bytes);
        start + record_size(bytes.len())
    }

    fn write_own(&mut self, position: u64, kind: Kind, flow: u32, length: usize) {
        let kind = match kind {
            Kind::Message => 1_u32,
            Kind::Line => 2,
            Kind::End => 3,
            Kind::Skip => 4,
        };
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        let own = [length, kind, flow, 0].map(u32::to_ne_bytes).concat();
        self.memory.write(self.place(position), &own);
    }

    fn place(&self, position: u64) -> usize {
        HEAD + (position % self.room) as usize
    }

    /// The record at `position`; `None` where there is none yet. What makes no sense (another tee
    /// was taken before it was killed) is dropped, and counts as one loss.
    pub(super) fn record(&mut self, position: u64) -> Option<Record> {
        if position >= self.head() {
            return None;
        }
        let found = self.read(position);
        if found.is_none() {
            let head = self.head();
            self.go_to(head, 0);
            self.set(word::TAIL, head);
            self.lose(1);
        }
        found
    }

    fn read(&self, position: u64) -> Option<Record> {
        if !position.is_multiple_of(16) || position < self.tail() {
            return None;
        }
        let place = self.place(position);
        let own = self.memory.bytes(place, OWN).as_chunks::<4>().0;
        let [length, kind, flow] = [0, 1, 2].map(|index| u32::from_ne_bytes(own[index]));
        let kind = match kind {
            1 => Kind::Message,
            2 => Kind::Line,
            3 => Kind::End,
            4 => Kind::Skip,
            _ => return None,
        };
        let length = usize::try_from(length).ok()?;
        let next = position + record_size(length);
        let fits = next <= self.head() && place + OWN + length <= self.memory.size();
        fits.then_some(Record { kind, flow, at: place + OWN, length, next })
    }

    /// Sends `records`, the first of which is at `sent` and was sent up to `offset`, without waiting.
    /// Returns how many went whole, and how much of the next one did.
    ///
    /// # Errors
    /// As sendmmsg(2), where nothing went.
    pub(super) fn send(
        &mut self,
        socket: BorrowedFd<'_>,
        records: &[Record],
        offset: usize,
    ) -> io::Result<(usize, usize)> {
        let mut parts: Vec<(usize, usize)> =
            records.iter().map(|record| (record.at, record.length)).collect();
        if let Some((at, length)) = parts.first_mut() {
            let skipped = offset.min(*length);
            (*at, *length) = (*at + skipped, *length - skipped);
        }
        batch::forget(&mut self.memory);
        self.begin_sending(parts.len());
        let result = batch::send(&mut self.memory, socket, &parts);
        let before = self.sent();
        self.finish_sending();
        result?;
        let whole = records.iter().take_while(|record| record.next <= self.sent()).count();
        debug_assert!(self.sent() >= before);
        Ok((whole, self.offset()))
    }

    fn begin_sending(&self, count: usize) {
        let [sent, offset, _] = word::SENDING.get(&self.memory);
        self.set_together(&word::SENDING, [sent, offset, count as u64]);
    }

    /// Moves `sent` to where the last call has come, also one of a tee that was killed in it.
    fn finish_sending(&mut self) {
        let [mut position, _, count] = word::SENDING.get(&self.memory);
        let (mut offset, count) = (self.offset(), usize::try_from(count).unwrap_or(0));
        if count == 0 {
            return;
        }
        for done in batch::done(&mut self.memory, count) {
            let Some(record) = self.record(position) else { break };
            if offset + done.length < record.length {
                offset += done.length;
                break;
            }
            (position, offset) = (record.next, 0);
        }
        self.go_to(position, offset);
    }

    /// Goes on at `position`, and in the record there at `offset`.
    pub(super) fn go_to(&mut self, position: u64, offset: usize) {
        self.set_together(&word::SENDING, [position, offset as u64, 0]);
    }

    /// Says that the reader has taken everything up to `position`, `messages` more than before.
    pub(super) fn taken(&mut self, position: u64, messages: u64) {
        self.add(word::DELIVERED, messages);
        if position > self.tail() && position <= self.sent() {
            self.set(word::TAIL, position);
        }
    }

    /// The bytes of a record.
    #[cfg(test)]
    pub(super) fn bytes(&self, record: &Record) -> &[u8] {
        self.memory.bytes(record.at, record.length)
    }
}

/// What a record of `length` bytes takes.
fn record_size(length: usize) -> u64 {
    (OWN + length).next_multiple_of(16) as u64
}

#[cfg(test)]
mod tests;
