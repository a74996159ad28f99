use super::*;
use crate::sockets::memory::create;
use std::cell::Cell;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    /// How many words a tee of this thread still writes before it is killed.
    static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Ends the tee before it writes one word more, as a kill would.
pub(super) fn die_when_due() {
    let left = LEFT.get();
    assert!(left != Some(0), "killed");
    LEFT.set(left.map(|left| left - 1));
}

/// Runs a tee on the ring that is killed before the word number `left`. Returns whether it was.
fn killed_after(left: usize, tee: impl FnOnce()) -> bool {
    LEFT.set(Some(left));
    let result = catch_unwind(AssertUnwindSafe(tee));
    LEFT.set(None);
    result.is_err()
}

fn ring() -> (std::os::fd::OwnedFd, Ring) {
    let fd = create("ring", size(SMALLEST)).unwrap();
    let ring = Ring::open(&fd).unwrap();
    (fd, ring)
}

fn offer(ring: &mut Ring, number: u64, text: &[u8]) -> Offered {
    ring.offer(number, 7, &[], (Kind::Message, text), 1)
}

/// Everything from `sent` on, as text, marked as sent and taken.
fn drain(ring: &mut Ring) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(record) = ring.record(ring.sent()) {
        if record.kind != Kind::Skip {
            all.push(ring.bytes(&record).to_vec());
        }
        ring.go_to(record.next, 0);
        ring.taken(record.next, 1);
    }
    all
}

#[test]
fn messages_come_out_as_they_went_in_round_and_round() {
    let (_fd, mut ring) = ring();
    let mut number = 0;
    for length in [0, 1, 15, 16, 17, 1000, 70_000, 300_000, 500_000] {
        for _ in 0..20 {
            number += 1;
            let text = vec![number as u8; length];
            assert_eq!(offer(&mut ring, number, &text), Offered::Accepted);
            assert_eq!(drain(&mut ring), [text]);
        }
    }
}

#[test]
fn what_does_not_fit_is_counted_and_the_rest_comes_in_order() {
    let (_fd, mut ring) = ring();
    let mut accepted = 0_u64;
    for number in 1..=2000_u64 {
        let text = vec![(number % 251) as u8; 1000];
        accepted += u64::from(offer(&mut ring, number, &text) == Offered::Accepted);
    }
    assert!((1000..1100).contains(&accepted));
    assert_eq!(ring.untold(), 2000 - accepted);
    let out = drain(&mut ring);
    assert_eq!(out.len() as u64, accepted);
    assert!(out.iter().zip(1_u64..).all(|(text, number)| text[0] == (number % 251) as u8));
    let line = vec![b"lost".to_vec()];
    let again = ring.offer(2001, 7, &line, (Kind::Message, b"x"), 1);
    assert_eq!((again, ring.untold()), (Offered::Accepted, 0));
    assert_eq!(drain(&mut ring), [&b"lost"[..], b"x"]);
}

#[test]
fn a_message_too_large_for_the_ring_is_lost_and_no_more() {
    let (_fd, mut ring) = ring();
    assert_eq!(offer(&mut ring, 1, &vec![0; 600_000]), Offered::Lost);
    assert_eq!(offer(&mut ring, 2, b"small"), Offered::Accepted);
}

#[test]
fn another_tee_takes_over() {
    let (fd, mut ring) = ring();
    offer(&mut ring, 1, b"one");
    offer(&mut ring, 2, b"two");
    let first = ring.record(0).unwrap();
    ring.go_to(first.next, 0);
    drop(ring);
    let mut ring = Ring::open(&fd).unwrap();
    assert_eq!(offer(&mut ring, 2, b"two"), Offered::Known);
    assert_eq!(drain(&mut ring), [b"two"]);
}

#[test]
fn a_kill_after_sending_sends_nothing_twice() {
    let (fd, mut ring) = ring();
    let (a, b) = UnixDatagram::pair().unwrap();
    for number in 1..=3 {
        offer(&mut ring, number, b"text");
    }
    let first = ring.record(0).unwrap();
    let second = ring.record(first.next).unwrap();
    // What `send` does up to the call, and then the process is gone.
    batch::forget(&mut ring.memory);
    ring.begin_sending(2);
    batch::send(&mut ring.memory, a.as_fd(), &[(first.at, 4), (second.at, 4)]).unwrap();
    drop(ring);
    let ring = Ring::open(&fd).unwrap();
    assert_eq!(ring.sent(), second.next);
    drop((ring, b));
}

#[test]
fn a_stream_goes_on_in_the_middle_of_a_record() {
    let (_fd, mut ring) = ring();
    let (a, mut b) = UnixStream::pair().unwrap();
    let text: Vec<u8> = (0..450_000_u32).map(|byte| byte as u8).collect();
    offer(&mut ring, 1, &text);
    let record = ring.record(0).unwrap();
    let (whole, offset) = ring.send(a.as_fd(), &[record], 0).unwrap();
    assert!(whole == 0 && offset > 0);
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        std::io::Read::read_to_end(&mut b, &mut all).unwrap();
        all
    });
    while ring.sent() == 0 {
        let at = ring.offset();
        match ring.send(a.as_fd(), &[record], at) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            other => drop(other.unwrap()),
        }
    }
    drop(a);
    assert!(reader.join().unwrap() == text);
}

#[test]
fn nonsense_in_the_memory_is_dropped() {
    let (fd, mut ring) = ring();
    offer(&mut ring, 1, b"one");
    ring.memory.write(HEAD, &[0xff; 16]);
    drop(ring);
    let mut ring = Ring::open(&fd).unwrap();
    assert!(ring.record(0).is_none());
    assert_eq!((ring.sent(), ring.untold()), (ring.head(), 1));
    ring.set(word::TAIL, u64::MAX);
    drop(ring);
    let mut ring = Ring::open(&fd).unwrap();
    assert_eq!((ring.head(), ring.untold()), (0, 2));
    offer(&mut ring, 9, b"again");
    assert_eq!(drain(&mut ring), [b"again"]);
}

/// Offers what a batch holds, and sends what there is.
fn pass_on(fd: &std::os::fd::OwnedFd, socket: &UnixDatagram, batch: &[&[u8]]) {
    let mut ring = Ring::open(fd).unwrap();
    for (number, text) in (1..).zip(batch) {
        offer(&mut ring, number, text);
    }
    while let Some(first) = ring.record(ring.sent()) {
        let mut records = vec![first];
        records.extend(ring.record(first.next));
        ring.send(socket.as_fd(), &records, 0).unwrap();
    }
}

#[test]
fn whenever_a_tee_is_killed_each_message_is_sent_once() {
    let batch = [&b"one"[..], b"two", b"three", b"four", b"five"];
    let deaths = (0..).take_while(|left| {
        let (fd, ring) = ring();
        drop(ring);
        let (a, b) = UnixDatagram::pair().unwrap();
        b.set_nonblocking(true).unwrap();
        let was_killed = killed_after(*left, || pass_on(&fd, &a, &batch));
        pass_on(&fd, &a, &batch);
        let mut buffer = [0; 64];
        let received: Vec<Vec<u8>> =
            std::iter::from_fn(|| b.recv(&mut buffer).ok().map(|n| buffer[..n].to_vec())).collect();
        assert_eq!(received, batch, "killed before word {left}");
        was_killed
    });
    assert!(deaths.count() > 40);
}
