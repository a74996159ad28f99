//! What a space's command prints, kept in two files of bounded size that take turns.
//!
//! Each line gets the time at which it arrived: `SECONDS.MICROSECONDS TEXT`. The bytes are the
//! command's own; whoever shows them to a person escapes them.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{SeekFrom, ftruncate, seek};

/// The longest line that is kept in one piece, in bytes.
const LONGEST_LINE: usize = 16 << 10;

/// What a line of init's own begins with.
pub const NOTE: &str = "hyperspector: ";

/// The two files and the pipe that they are filled from.
pub struct Log {
    files: [File; 2],
    current: usize,
    size: u64,
    limit: u64,
    reader: File,
    writer: OwnedFd,
    line: Vec<u8>,
}

impl Log {
    /// Takes the two files, each of at most `limit` bytes, and goes on with the smaller one.
    pub fn new(files: [OwnedFd; 2], limit: u64) -> io::Result<Self> {
        use rustix::pipe::{PipeFlags, pipe_with};
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&reader, true)?;
        let files = files.map(File::from);
        let sizes = [files[0].metadata()?.len(), files[1].metadata()?.len()];
        let current = usize::from(sizes[0] >= limit && sizes[1] < limit);
        seek(&files[current], SeekFrom::End(0))?;
        let size = sizes[current];
        Ok(Self { files, current, size, limit, reader: reader.into(), writer, line: Vec::new() })
    }

    /// The end that commands write to.
    pub fn writer(&self) -> io::Result<OwnedFd> {
        self.writer.try_clone()
    }

    /// The end that becomes readable when there is something to keep.
    pub fn reader(&self) -> &File {
        &self.reader
    }

    /// Keeps a line of init's own, which says so.
    pub fn note(&mut self, text: &str) {
        self.flush_line();
        self.line.extend_from_slice(NOTE.as_bytes());
        self.line.extend_from_slice(text.as_bytes());
        self.flush_line();
    }

    /// Keeps what has arrived, at most a bounded amount, so that a flood does not starve the rest.
    pub fn pump(&mut self) {
        let mut buffer = [0; 64 << 10];
        for _ in 0..16 {
            match self.reader.read(&mut buffer) {
                Ok(read) if read > 0 => self.take(&buffer[..read]),
                _ => return,
            }
        }
    }

    fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let room = LONGEST_LINE - self.line.len();
            match end {
                Some(end) if end <= room => {
                    self.line.extend_from_slice(&bytes[..end]);
                    bytes = &bytes[end + 1..];
                    self.flush_line();
                }
                _ if bytes.len() < room => {
                    self.line.extend_from_slice(bytes);
                    return;
                }
                _ => {
                    self.line.extend_from_slice(&bytes[..room]);
                    bytes = &bytes[room..];
                    self.flush_line();
                }
            }
        }
    }

    fn flush_line(&mut self) {
        if self.line.is_empty() {
            return;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let stamp = format!("{}.{:06} ", now.as_secs(), now.subsec_micros());
        let mut whole = stamp.into_bytes();
        whole.append(&mut self.line);
        whole.push(b'\n');
        self.line = Vec::new();
        self.keep(&whole);
    }

    /// Writes a line, turning to the other file when this one is full. A full disk loses the line:
    /// there is nowhere to say so.
    fn keep(&mut self, line: &[u8]) {
        if self.size + line.len() as u64 > self.limit {
            self.current = 1 - self.current;
            let _ = ftruncate(&self.files[self.current], 0);
            let _ = seek(&self.files[self.current], SeekFrom::Start(0));
            self.size = 0;
        }
        if self.files[self.current].write_all(line).is_ok() {
            self.size += line.len() as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Seek;

    fn log(limit: u64) -> (Log, [File; 2]) {
        let files = [tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap()];
        let given = [0, 1].map(|i: usize| OwnedFd::from(files[i].try_clone().unwrap()));
        (Log::new(given, limit).unwrap(), files)
    }

    fn text(file: &mut File) -> Vec<String> {
        file.rewind().unwrap();
        let mut all = String::new();
        file.read_to_string(&mut all).unwrap();
        all.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }

    #[test]
    fn lines_are_kept_whole_however_they_arrive() {
        let (mut log, mut files) = log(1000);
        log.take(b"one\ntw");
        log.take(b"o\n\nthree");
        log.note("a note");
        assert_eq!(text(&mut files[0]), ["one", "two", "three", "hyperspector: a note"]);
    }

    #[test]
    fn a_full_file_gives_way_to_the_other() {
        let (mut log, mut files) = log(100);
        for number in 0..20 {
            log.take(format!("line {number}\n").as_bytes());
        }
        let (first, second) = (text(&mut files[0]), text(&mut files[1]));
        assert!(first.len() + second.len() >= 4);
        assert!(first.iter().chain(&second).any(|line| line == "line 19"));
        assert!(files[0].metadata().unwrap().len() <= 100);
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let (mut log, mut files) = log(1 << 20);
        log.take(&vec![b'x'; LONGEST_LINE * 2 + 1]);
        log.take(b"\n");
        let lengths: Vec<_> = text(&mut files[0]).iter().map(String::len).collect();
        assert_eq!(lengths, [LONGEST_LINE, LONGEST_LINE, 1]);
    }
}
