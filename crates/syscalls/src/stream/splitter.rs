//! From bytes as they come to records.

use std::io::{self, Read};

use super::{HEAD, LONGEST, VERSION};
use crate::record::{self, Malformed, Record, machine};

/// How much is read at once.
const ROOM: usize = 4 * LONGEST;

/// Why a stream cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading failed.
    #[error("read the stream of system calls: {0}")]
    Read(#[source] io::Error),
    /// A record cannot be that long: where the next one begins is not known.
    #[error("a record of the stream says that it has {0} bytes")]
    Length(u32),
    /// It does not begin with a START.
    #[error("what comes is no stream of system calls: {0}")]
    Start(#[source] Malformed),
    /// It begins with another record.
    #[error("what comes is no stream of system calls: it begins with another record")]
    Other,
    /// Another version, or machine.
    #[error("the stream is of version {0} for machine {1}; this program reads version {VERSION} for machine {native}", native = machine::NATIVE)]
    Version(u32, u32),
    /// The tracer refuses the request.
    #[error("refused: {0}")]
    Refused(String),
}

/// Splits bytes into records, in bounded memory.
#[derive(Debug)]
pub struct Splitter {
    buffer: Vec<u8>,
    /// What waits.
    start: usize,
    end: usize,
    /// How long the record before that is.
    last: usize,
}

impl Default for Splitter {
    fn default() -> Self {
        Self { buffer: vec![0; ROOM], start: 0, end: 0, last: 0 }
    }
}

impl Splitter {
    /// Where the next bytes belong; never empty after [`Splitter::take`] has given nothing.
    pub fn room(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            self.last = 0;
        }
        self.buffer.get_mut(self.end..).unwrap_or_default()
    }

    /// So many bytes have been put there.
    pub fn filled(&mut self, count: usize) {
        self.end = (self.end + count).min(self.buffer.len());
    }

    /// The next record's bytes; nothing where they are not all there.
    ///
    /// # Errors
    /// Where it has a length that no record has; nothing after that can be read.
    pub fn take(&mut self) -> Result<Option<&[u8]>, Error> {
        let waiting = self.buffer.get(self.start..self.end).unwrap_or_default();
        let Some(length) = waiting.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes)) else {
            return Ok(None);
        };
        let whole = length as usize;
        if !(HEAD..=LONGEST).contains(&whole) || !whole.is_multiple_of(8) {
            return Err(Error::Length(length));
        }
        let taken = waiting.get(..whole);
        if taken.is_some() {
            self.start += whole;
            self.last = whole;
        }
        Ok(taken)
    }

    /// The record that was taken last comes again.
    fn put_back(&mut self) {
        self.start -= self.last;
        self.last = 0;
    }

    /// The record that was taken last, until there is room for more.
    fn last(&self) -> &[u8] {
        self.buffer.get(self.start - self.last..self.start).unwrap_or_default()
    }
}

/// Reads a stream.
#[derive(Debug)]
pub struct Reader<R> {
    source: R,
    splitter: Splitter,
    epoch: i64,
    tracer: u64,
    server: Vec<u8>,
}

impl<R: Read> Reader<R> {
    /// Begins to read: waits for the START, which is then the first record that is given.
    ///
    /// # Errors
    /// Where something else comes, or the request is refused.
    pub fn new(source: R) -> Result<Self, Error> {
        let splitter = Splitter::default();
        let mut reader = Self { source, splitter, epoch: 0, tracer: 0, server: Vec::new() };
        let bytes = reader.take()?.ok_or(Error::Read(io::ErrorKind::UnexpectedEof.into()))?;
        let refusal = match record::read(bytes).map_err(Error::Start)? {
            (Record::Start(..), _) => {
                reader.splitter.put_back();
                return Ok(reader);
            }
            (Record::Refused(_, why), _) => Error::Refused(readable(why)),
            _ => Error::Other,
        };
        Err(refusal)
    }

    /// What CLOCK_REALTIME was, in nanoseconds, when CLOCK_MONOTONIC was 0.
    pub fn epoch(&self) -> i64 {
        self.epoch
    }

    /// Which tracer this is.
    pub fn tracer(&self) -> u64 {
        self.tracer
    }

    /// The server's name.
    pub fn server(&self) -> &[u8] {
        &self.server
    }

    /// Where it reads from.
    pub fn source(&self) -> &R {
        &self.source
    }

    /// The next record's bytes; nothing at the end. What is cut off there is left out.
    ///
    /// # Errors
    /// Where reading fails (a signal interrupts it, too: then it can go on), or what comes has no records.
    pub fn take(&mut self) -> Result<Option<&[u8]>, Error> {
        while !self.has_taken()? {
            if self.fill()? == 0 {
                return Ok(None);
            }
        }
        Ok(Some(self.splitter.last()))
    }

    /// The next record's bytes, as far as they have been read.
    ///
    /// # Errors
    /// Where what comes has no records.
    pub fn buffered(&mut self) -> Result<Option<&[u8]>, Error> {
        Ok(if self.has_taken()? { Some(self.splitter.last()) } else { None })
    }

    /// Reads once; how many bytes came, 0 at the end.
    ///
    /// # Errors
    /// Where reading fails.
    pub fn fill(&mut self) -> Result<usize, Error> {
        let count = self.source.read(self.splitter.room()).map_err(Error::Read)?;
        self.splitter.filled(count);
        Ok(count)
    }

    fn has_taken(&mut self) -> Result<bool, Error> {
        let Some(bytes) = self.splitter.take()? else { return Ok(false) };
        if let Ok((Record::Start(_, start), _)) = record::read(bytes) {
            if (start.version, start.machine) != (VERSION, machine::NATIVE) {
                return Err(Error::Version(start.version, start.machine));
            }
            self.epoch = start.epoch;
            self.tracer = start.tracer;
            self.server = start.server.to_vec();
        }
        Ok(true)
    }
}

/// What another process has said, without anything that a terminal would act on.
fn readable(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Start;
    use crate::stream;
    use proptest::prelude::*;

    /// Gives what there is in pieces of such sizes.
    struct Pieces<'a>(&'a [u8], Vec<usize>);

    impl Read for Pieces<'_> {
        fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
            let piece = self.1.pop().unwrap_or(usize::MAX).min(room.len()).min(self.0.len());
            let (now, rest) = self.0.split_at(piece);
            room[..piece].copy_from_slice(now);
            self.0 = rest;
            Ok(piece)
        }
    }

    fn begun(version: u32) -> Vec<u8> {
        let start = Start {
            version,
            machine: machine::NATIVE,
            epoch: 5,
            tracer: 9,
            queue: 0,
            server: b"shop",
        };
        stream::start(1, &start)
    }

    #[test]
    fn a_stream_of_another_version_is_none() {
        assert!(matches!(Reader::new(&begun(9)[..]), Err(Error::Version(9, _))));
        assert!(matches!(Reader::new(&stream::missed(1, 2)[..]), Err(Error::Other)));
        let refused = Reader::new(&stream::refused(1, "no\x1b")[..]).unwrap_err();
        assert_eq!(refused.to_string(), "refused: no\\u{1b}");
        assert!(Reader::new(&b"HTTP/1.1 400 Bad Request\r\n\r\n........."[..]).is_err());
    }

    proptest! {
        #[test]
        fn records_come_whole_however_they_are_cut(sizes in prop::collection::vec(1_usize..90, 0..200), counts in prop::collection::vec(0_u64..9, 0..40)) {
            let mut bytes = begun(VERSION);
            for count in &counts {
                bytes.extend(stream::missed(1, *count));
                bytes.extend(stream::refused(1, &"x".repeat(*count as usize)));
            }
            let mut reader = Reader::new(Pieces(&bytes, sizes)).unwrap();
            prop_assert_eq!((reader.epoch(), reader.tracer(), reader.server()), (5, 9, &b"shop"[..]));
            let mut found = Vec::new();
            while let Some(bytes) = reader.take().unwrap() {
                if let (Record::Missed(_, count), _) = record::read(bytes).unwrap() {
                    found.push(count);
                }
            }
            prop_assert_eq!(found, counts);
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(prop_oneof![2 => Just(0_u8), 1 => any::<u8>(), 1 => Just(24)], 0..2000), whole in any::<bool>()) {
            let mut all = if whole { begun(VERSION) } else { Vec::new() };
            all.extend(&bytes);
            if let Ok(mut reader) = Reader::new(Pieces(&all, vec![7; 30])) {
                let mut given = 0;
                while let Ok(Some(record)) = reader.take() {
                    given += record.len();
                }
                prop_assert!(given <= all.len());
            }
        }
    }
}
