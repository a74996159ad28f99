use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use hyperspector_window::sockets::{Reader, Request, SocketKind, Source, observe};

use crate::lab::{Lab, check, queue, receive, text, until, write};

const QUEUE: u64 = 64 << 20;

/// A receiver of the server's own at `log`, observed, and a reader.
fn observed(lab: &Lab, senders: bool) -> (UnixDatagram, UnixDatagram) {
    let receiver = UnixDatagram::bind(lab.server("log")).unwrap();
    observe(lab, &receiver);
    lab.read_as(Reader { senders, ..lab.setup("log", "one", QUEUE) });
    (receiver, UnixDatagram::bind(lab.reader("one")).unwrap())
}

fn observe(lab: &Lab, receiver: &UnixDatagram) {
    let ring = observe::attach(receiver.as_fd()).unwrap();
    let source = Source {
        name: "log".into(),
        kind: SocketKind::Dgram,
        observed: true,
        shift: 0,
        upstream: None,
    };
    lab.ask(&Request::Source(source), &[&ring]);
}

pub fn a_receiver_is_observed() {
    let lab = Lab::new();
    let (receiver, reader) = observed(&lab, false);
    let path = &lab.server("log");
    std::thread::scope(|scope| {
        // Fewer bytes than the ring holds: whoever is slow, none are missed.
        let both = [&receiver, &reader].map(|socket| scope.spawn(|| receive(socket, 40_000)));
        for writer in 0..4 {
            scope.spawn(move || write(path, writer, 10_000));
        }
        for socket in both {
            check(&socket.join().unwrap(), 4, 10_000, false);
        }
    });
    assert_eq!(lab.source_status("log").missed, 0);
    // Of every size: what is too large comes cut, to the reader alone.
    let socket = UnixDatagram::unbound().unwrap();
    rustix::net::sockopt::set_socket_send_buffer_size(&socket, 2 << 20).unwrap();
    for length in [0, 1, 256, 257, 2048, 2049, 16_385, 65_536, 65_537, 458_752, 700_000] {
        let sent = vec![b'a'; length];
        socket.send_to(&sent, path).unwrap();
        let expected = length.min(448 << 10);
        assert_eq!(receive(&receiver, 1)[0].len(), length);
        assert_eq!(receive(&reader, 1)[0].len(), expected);
    }
    assert_eq!(lab.source_status("log").cut, 1);
    // When the receiver is another one, the old one's messages are not lost.
    write(path, 7, 5);
    receive(&receiver, 5);
    std::fs::remove_file(path).unwrap();
    let next = UnixDatagram::bind(path).unwrap();
    observe(&lab, &next);
    write(path, 8, 5);
    receive(&next, 5);
    let all = receive(&reader, 10);
    assert!(all[..5].iter().all(|text| text.contains("writer 7")));
    assert!(all[5..].iter().all(|text| text.contains("writer 8")));
}

pub fn no_message_waits_for_the_next() {
    let lab = Lab::new();
    let (receiver, reader) = observed(&lab, false);
    let socket = UnixDatagram::unbound().unwrap();
    socket.connect(lab.server("log")).unwrap();
    // Shorter and longer than the time in which the tee is not woken again.
    for number in 0..200 {
        let start = Instant::now();
        for _ in 0..=number % 3 {
            socket.send(b"soon").unwrap();
        }
        receive(&receiver, 1 + number % 3);
        receive(&reader, 1 + number % 3);
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        std::thread::sleep(Duration::from_micros(number as u64 % 40 * 250));
    }
}

pub fn messages_outlive_the_tee() {
    let lab = Lab::new();
    let (receiver, reader) = observed(&lab, true);
    let path = &lab.server("log");
    let mut expected = Vec::new();
    for number in 0..20 {
        lab.kill_tee();
        for number in number * 10..number * 10 + 10 {
            let socket = UnixDatagram::unbound().unwrap();
            socket.send_to(text(0, number).as_bytes(), path).unwrap();
            receive(&receiver, 1);
            let pid = std::process::id();
            expected
                .push(format!("<46>hyperspector: the next message is from pid={pid} uid=0 gid=0"));
            expected.push(text(0, number));
        }
    }
    assert_eq!(receive(&reader, 400), expected);
}

pub fn in_nobodys_way() {
    let lab = Lab::new();
    let (receiver, _reader) = observed(&lab, false);
    let path = lab.server("log");
    let socket = UnixDatagram::unbound().unwrap();
    socket.connect(&path).unwrap();
    socket.set_nonblocking(true).unwrap();
    // A full queue refuses, as without us.
    let (holds, tries) = (queue() as usize, queue() as usize + 100);
    let sent = (0..tries).filter(|_| socket.send(b"x").is_ok()).count();
    assert!(sent > 0 && sent < holds + 10, "{sent}");
    receiver.set_nonblocking(true).unwrap();
    let received = std::iter::from_fn(|| receiver.recv(&mut [0; 8]).ok()).count();
    assert_eq!(received, sent);
    // Of those that were refused, some were observed: where the writer's own buffer had room.
    until("what was sent", || lab.source_status("log").received >= sent as u64);
    std::thread::sleep(Duration::from_millis(100));
    let mut total = lab.source_status("log").received + 100_000;
    // What no tee takes away fills the ring, and then is missed; the receiver gets it all.
    let tee = rustix::process::Pid::from_raw(lab.tee().cast_signed()).unwrap();
    rustix::process::kill_process(tee, rustix::process::Signal::STOP).unwrap();
    receiver.set_nonblocking(false).unwrap();
    std::thread::scope(|scope| {
        let all = scope.spawn(|| receive(&receiver, 100_000));
        // The keeper lets a stopped tee go on.
        let again = scope.spawn(|| {
            for _ in 0..300 {
                let _ = rustix::process::kill_process(tee, rustix::process::Signal::STOP);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        write(&path, 0, 100_000);
        check(&all.join().unwrap(), 1, 100_000, false);
        again.join().unwrap();
    });
    rustix::process::kill_process(tee, rustix::process::Signal::CONT).unwrap();
    // What was missed is told with the next message that finds room.
    until("all that was sent", || {
        socket.send(b"one more").unwrap();
        receiver.recv(&mut [0; 8]).unwrap();
        total += 1;
        std::thread::sleep(Duration::from_millis(50));
        let source = lab.source_status("log");
        source.received + source.missed == total
    });
    let (source, reader) = (lab.source_status("log"), lab.reader_status("one"));
    assert!(source.missed > 0);
    assert_eq!(reader.lost, source.missed);
    observe::detach(receiver.as_fd()).unwrap();
    observe::detach(receiver.as_fd()).unwrap();
}
