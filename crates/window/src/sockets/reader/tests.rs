use super::*;
use crate::sockets::memory::create;
use crate::sockets::ring::{SMALLEST, size};
use std::io::Read;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;

fn reader(kind: SocketKind, senders: bool) -> Reader {
    let setup = Setup {
        name: "reader".into(),
        source: "source".into(),
        to: PathBuf::from("/dev/log"),
        queue: SMALLEST,
        senders,
    };
    let memory = create("ring", size(SMALLEST)).unwrap();
    Reader::open(1, (1, kind, 1000), setup, memory).unwrap()
}

fn target(socket: u32) -> Target {
    Target { socket: Some(socket), queue: 10, ..Target::default() }
}

fn datagrams() -> (OwnedFd, UnixDatagram) {
    let (a, b) = UnixDatagram::pair().unwrap();
    b.set_nonblocking(true).unwrap();
    (a.into(), b)
}

fn texts(socket: &UnixDatagram) -> Vec<String> {
    let mut buffer = [0; 2000];
    let next =
        || socket.recv(&mut buffer).ok().map(|n| String::from_utf8_lossy(&buffer[..n]).into());
    std::iter::from_fn(next).collect()
}

const SENDER: Option<Sender> = Some(Sender { pid: 5, uid: 1007, gid: 1_000_000 });

#[test]
fn a_message_comes_after_who_has_sent_it() {
    let mut reader = reader(SocketKind::Dgram, true);
    reader.offer(1, 1, SENDER, b"hello");
    reader.deliver();
    assert!(matches!(reader.out[..], [ToKeeper::Want(1, 1)]));
    assert!(!reader.is_busy());
    let (link, socket) = datagrams();
    reader.take_link(1, link, target(1), None);
    reader.deliver();
    let line = "<46>hyperspector: the next message is from pid=5 uid=7 gid=1000000";
    assert_eq!(texts(&socket), [line, "hello"]);
}

#[test]
fn what_a_reader_that_died_had_not_read_comes_again() {
    let mut reader = reader(SocketKind::Dgram, false);
    let (link, socket) = datagrams();
    reader.take_link(1, link, target(1), None);
    for number in 1..=3 {
        reader.offer(number, 1, None, format!("message {number}").as_bytes());
    }
    reader.deliver();
    socket.recv(&mut [0; 100]).unwrap();
    drop(socket);
    reader.offer(4, 1, None, b"message 4");
    reader.deliver();
    assert!(matches!(reader.out[..], [ToKeeper::Unlink(1, 1), ToKeeper::Want(1, 1)]));
    let (link, socket) = datagrams();
    reader.take_link(1, link, target(2), None);
    reader.deliver();
    // The first comes again: it was read, and nobody could tell.
    assert_eq!(texts(&socket), ["message 1", "message 2", "message 3", "message 4"]);
    // With the queue seen empty and the reader alive after it, that is over.
    reader.out.clear();
    reader.care(|| 0);
    let [ToKeeper::Probe(1, position, of)] = reader.out[..] else { panic!("{:?}", reader.out) };
    assert_eq!(of, target(2));
    // What is told of the socket before says nothing of this one.
    reader.probed(position, target(1), true);
    reader.probed(position, target(1), false);
    assert_ne!(reader.ring.tail(), reader.ring.head());
    reader.probed(position, of, true);
    assert_eq!(reader.ring.tail(), reader.ring.head());
    drop(socket);
    reader.offer(5, 1, None, b"message 5");
    reader.deliver();
    let (link, socket) = datagrams();
    reader.take_link(1, link, target(1), None);
    reader.deliver();
    assert_eq!(texts(&socket), ["message 5"]);
}

#[test]
fn a_loss_is_told_in_its_place() {
    let mut reader = reader(SocketKind::Dgram, false);
    for number in 1..=1200 {
        reader.offer(number, 1, None, &[b'x'; 1000]);
    }
    let lost = reader.ring.untold();
    assert!(lost > 100);
    let (link, socket) = datagrams();
    reader.take_link(1, link, target(1), None);
    let mut all = Vec::new();
    while all.len() < 1200 - lost as usize {
        reader.deliver();
        all.extend(texts(&socket));
        reader.stir(1);
    }
    reader.offer(1201, 1, None, b"after");
    reader.deliver();
    let line = format!("<44>hyperspector: {lost} messages lost here");
    assert_eq!(texts(&socket), [line.as_str(), "after"]);
}

#[test]
fn a_stream_goes_on_with_a_whole_line_after_a_loss() {
    let mut reader = reader(SocketKind::Stream, false);
    let line = [&[b'x'; 9999][..], b"\n"].concat();
    let mut number = 0;
    while reader.ring.untold() == 0 {
        number += 1;
        reader.offer(number, 70000, SENDER, &line);
    }
    let (link, mut stream) = UnixStream::pair().unwrap();
    reader.take_link(70000, link.into(), target(1), None);
    let reading = std::thread::spawn(move || {
        let mut all = String::new();
        stream.read_to_string(&mut all).unwrap();
        all
    });
    while reader.ring.sent() < reader.ring.head() {
        reader.deliver();
        reader.stir(70000);
    }
    reader.settle_link(70000);
    std::thread::sleep(std::time::Duration::from_millis(50));
    reader.care(|| 0);
    reader.offer(number + 1, 70000, SENDER, b"half of a line\nnext\npart");
    reader.offer(number + 2, 70000, SENDER, b" and rest\0");
    reader.end(number + 3, 70000);
    while reader.ring.sent() < reader.ring.head() {
        reader.deliver();
    }
    while reader.links.contains_key(&70000) {
        reader.care(|| 0);
    }
    let all = reading.join().unwrap();
    let end = "\n<44>hyperspector: 10015 bytes lost here\nnext\npart and rest\0";
    assert!(all.ends_with(end), "{:?}", &all[all.len().saturating_sub(200)..]);
}

#[test]
fn a_connection_that_the_reader_refuses_holds_up_no_other() {
    let mut reader = reader(SocketKind::Stream, false);
    let (link, good) = UnixStream::pair().unwrap();
    good.set_nonblocking(true).unwrap();
    reader.take_link(70001, link.into(), target(1), None);
    reader.offer(1, 70001, SENDER, b"one\n");
    reader.deliver();
    (&good).read_exact(&mut [0; 4]).unwrap();
    reader.care(|| 0);
    reader.offer(2, 70002, SENDER, b"refused\n");
    reader.offer(3, 70001, SENDER, b"two\n");
    for _ in 0..3 {
        reader.deliver();
        let (link, bad) = UnixStream::pair().unwrap();
        reader.take_link(70002, link.into(), target(1), None);
        drop(bad);
        reader.stir(70002);
    }
    reader.deliver();
    let mut text = [0; 4];
    (&good).read_exact(&mut text).unwrap();
    assert_eq!(&text, b"two\n");
    assert_eq!(reader.ring.untold(), 8);
}
