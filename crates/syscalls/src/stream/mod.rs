//! What a reader of `/.servertrace/NAME` gets: records one after the other, the first of them a START.
//!
//! The tracer adds four kinds of records to those of its programs: START, MISSED, GAP and REFUSED
//! ([`crate::record::Record`]). Both sides are here, over any [`std::io::Read`], and neither trusts the other.

mod known;
mod queue;
mod splitter;

pub use known::{Known, Offer, Sent};
pub use queue::Queue;
pub use splitter::{Error, Reader, Splitter};

use crate::record::{MAGIC, Start, kind};

/// The version of the stream.
pub const VERSION: u32 = 1;

/// How many bytes a record's head has.
pub const HEAD: usize = 24;

/// How long a record may be, in bytes.
pub const LONGEST: usize = 64 << 10;

/// How long a text of the tracer may be.
const TEXT: usize = 4096;

/// The START record of a stream.
pub fn start(time: u64, start: &Start<'_>) -> Vec<u8> {
    let server = start.server.get(..TEXT).unwrap_or(start.server);
    let mut body = MAGIC.to_vec();
    body.extend(start.version.to_ne_bytes());
    body.extend(start.machine.to_ne_bytes());
    body.extend(start.epoch.to_ne_bytes());
    body.extend(start.tracer.to_ne_bytes());
    body.extend(start.queue.to_ne_bytes());
    body.extend((server.len() as u32).to_ne_bytes());
    body.extend(server);
    record(kind::START, time, &body)
}

/// The record that tells a reader how many it has missed.
pub fn missed(time: u64, count: u64) -> Vec<u8> {
    record(kind::MISSED, time, &count.to_ne_bytes())
}

/// The record that says that there was no tracer from `since` to `time`.
pub fn gap(time: u64, since: u64) -> Vec<u8> {
    record(kind::GAP, time, &since.to_ne_bytes())
}

/// The record that refuses a request.
pub fn refused(time: u64, why: &str) -> Vec<u8> {
    let why = why.as_bytes();
    let why = why.get(..TEXT).unwrap_or(why);
    let length = (why.len() as u64).to_ne_bytes();
    record(kind::REFUSED, time, &[&length, why].concat())
}

fn record(kind: u8, time: u64, body: &[u8]) -> Vec<u8> {
    let length = (HEAD + body.len()).next_multiple_of(8);
    let mut bytes = (length as u32).to_ne_bytes().to_vec();
    bytes.extend([kind, 0, 0, 0]);
    bytes.extend(time.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(body);
    bytes.resize(length, 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{self, Record, machine};

    #[test]
    fn what_the_tracer_makes_is_read_as_it_was_meant() {
        let begun = Start {
            version: VERSION,
            machine: machine::NATIVE,
            epoch: -5,
            tracer: 9,
            queue: 1 << 20,
            server: b"shop",
        };
        let bytes = start(7, &begun);
        let (Record::Start(head, read), length) = record::read(&bytes).unwrap() else { panic!() };
        assert_eq!((head.time, read, length % 8), (7, begun, 0));
        let bytes = missed(7, 3);
        assert!(matches!(record::read(&bytes), Ok((Record::Missed(_, 3), 32))));
        let bytes = gap(7, 3);
        assert!(matches!(record::read(&bytes), Ok((Record::Gap(_, 3), 32))));
        let bytes = refused(7, &"no ".repeat(5000));
        let (Record::Refused(_, why), _) = record::read(&bytes).unwrap() else { panic!() };
        assert!(why.len() == TEXT && why.starts_with(b"no no "));
    }
}
