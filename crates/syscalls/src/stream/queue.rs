//! What waits for a reader, and what it has missed.

use std::collections::VecDeque;

use super::{HEAD, missed};

/// How many bytes a queue keeps for what will come.
const KEPT: usize = 4 << 20;
/// How long a MISSED record is.
const MISSED: usize = HEAD + 8;

/// Bytes of whole records that wait for one reader: what has no room is missed, and that is told.
#[derive(Debug)]
pub struct Queue {
    bytes: VecDeque<u8>,
    most: usize,
    missed: u64,
    total: u64,
}

impl Queue {
    /// One that holds at most so many bytes.
    pub fn new(most: usize) -> Self {
        Self { bytes: VecDeque::new(), most, missed: 0, total: 0 }
    }

    /// Adds records that belong together, whole; or counts one as missed, where they have no room. What
    /// was missed before is told first. `time` is now, in nanoseconds of CLOCK_MONOTONIC.
    pub fn push(&mut self, time: u64, records: &[&[u8]]) -> bool {
        let length: usize = records.iter().map(|record| record.len()).sum();
        let notice = if self.missed > 0 { MISSED } else { 0 };
        if self.bytes.len() + length + notice > self.most {
            self.missed += 1;
            self.total += 1;
            return false;
        }
        self.tell(time);
        for record in records {
            self.bytes.extend(*record);
        }
        true
    }

    /// Tells what was missed, where that was not told yet and has room: for when nothing else comes.
    pub fn tell(&mut self, time: u64) {
        if self.missed > 0 && self.bytes.len() + MISSED <= self.most {
            self.bytes.extend(missed(time, self.missed));
            self.missed = 0;
        }
    }

    /// What is to be written next; empty where nothing waits.
    pub fn front(&self) -> &[u8] {
        let (front, rest) = self.bytes.as_slices();
        if front.is_empty() { rest } else { front }
    }

    /// So many bytes of it have been written.
    pub fn written(&mut self, count: usize) {
        self.bytes.drain(..count.min(self.bytes.len()));
        // A burst shall not hold its memory for ever.
        if self.bytes.is_empty() && self.bytes.capacity() > KEPT {
            self.bytes = VecDeque::new();
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// How many records were missed in all.
    pub fn total_missed(&self) -> u64 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{self, Record};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_missed_is_told_where_it_was(steps in prop::collection::vec((any::<bool>(), 1_usize..400), 0..200)) {
            let mut queue = Queue::new(1000);
            let (mut bytes, mut sent) = (Vec::new(), Vec::new());
            let mut number = 0;
            for (is_push, size) in steps {
                if is_push {
                    number += 1;
                    if queue.push(number, &[&super::super::gap(number, 0), &super::super::gap(number, 1)]) {
                        sent.push(number);
                    }
                } else {
                    let count = queue.front().len().min(size);
                    bytes.extend(&queue.front()[..count]);
                    queue.written(count);
                }
                prop_assert!(queue.len() <= 1000);
            }
            while !queue.is_empty() {
                let front = queue.front().to_vec();
                bytes.extend(&front);
                queue.written(front.len());
            }
            queue.tell(number);
            bytes.extend(queue.front());
            let (mut rest, mut next, mut told) = (&bytes[..], 1, 0);
            while !rest.is_empty() {
                let (record, length) = record::read(rest).unwrap();
                match record {
                    Record::Missed(_, count) => { next += count; told += count; }
                    Record::Gap(head, 0) => prop_assert_eq!(head.time, next),
                    Record::Gap(..) => next += 1,
                    other => prop_assert!(false, "{:?}", other),
                }
                rest = &rest[length..];
            }
            prop_assert_eq!((next - 1, told), (number, queue.total_missed()));
        }
    }
}
