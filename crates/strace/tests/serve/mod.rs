//! What a tracer does for a reader: recorded records, over a socket, as far as they are wanted.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use hyperspector_syscalls::filter::Request;
use hyperspector_syscalls::record::{Start, machine};
use hyperspector_syscalls::stream::{self, Known, Sent};

/// Where a reader finds the server `shop`.
pub fn listen(place: &Path) -> UnixListener {
    UnixListener::bind(place.join("shop")).unwrap()
}

/// Serves one reader all records.
pub fn serve(listener: &UnixListener, records: &[Vec<u8>]) {
    let (mut socket, _) = listener.accept().unwrap();
    let mut line = String::new();
    BufReader::new(&socket).read_line(&mut line).unwrap();
    let request = Request::parse(line.as_bytes()).unwrap();
    let start = Start {
        version: stream::VERSION,
        machine: machine::NATIVE,
        epoch: 0,
        tracer: 1,
        queue: 1 << 20,
        server: b"shop",
    };
    socket.write_all(&stream::start(1, &start)).unwrap();
    let (mut known, mut sent) = (Known::new(), Sent::default());
    let mut matcher = request.filter.check().unwrap();
    for bytes in records {
        if let Some(offer) = known.take(bytes).unwrap() {
            offer.to(&mut matcher, &mut sent, &known, |records| {
                socket.write_all(&records.concat()).is_ok()
            });
        }
    }
    // All of it is read before the reader is told to end.
    socket.shutdown(std::net::Shutdown::Write).unwrap();
    std::thread::sleep(Duration::from_millis(500));
}
