//! What is done with a reader's connection: nothing of it waits.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use hyperspector_syscalls::filter::LONGEST;
use rustix::net::sockopt::socket_peercred;

/// How much is read at once.
const ROOM: usize = 4096;

/// The process at the other end.
pub(super) fn peer(stream: &UnixStream) -> i32 {
    socket_peercred(stream.as_fd()).map_or(0, |who| who.pid.as_raw_nonzero().get())
}

/// What has been read of a request's line.
pub(super) enum Line {
    /// Not all of it.
    Part,
    /// All of it.
    Whole,
    /// It is longer than any request.
    Long,
    /// The connection has ended.
    Gone,
}

/// Reads what there is of a line, up to and without its end.
pub(super) fn read_line(mut stream: &UnixStream, line: &mut Vec<u8>) -> Line {
    let mut room = [0; ROOM];
    loop {
        let count = match stream.read(&mut room) {
            Ok(0) if line.is_empty() => return Line::Gone,
            // Whoever says no more has said all.
            Ok(0) => return Line::Whole,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Line::Part,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return Line::Gone,
        };
        let read = room.get(..count).unwrap_or_default();
        let end = read.iter().position(|byte| *byte == b'\n');
        line.extend(read.get(..end.unwrap_or(count)).unwrap_or_default());
        if line.len() > LONGEST {
            return Line::Long;
        }
        if end.is_some() {
            return Line::Whole;
        }
    }
}

/// Writes what fits; an error where the reader is gone.
pub(super) fn write(mut stream: &UnixStream, bytes: &[u8]) -> io::Result<usize> {
    match stream.write(bytes) {
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
        other => other,
    }
}
