use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use hyperspector_window::sockets::SocketKind;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketType};

use crate::lab::{Lab, check, seqpacket_listener, text, until};

const QUEUE: u64 = 64 << 20;

/// Reads everything of the next `count` connections.
fn read_connections(listener: &UnixListener, count: usize) -> Vec<String> {
    let mut all = Vec::new();
    let threads: Vec<_> = (0..count)
        .map(|_| {
            let (mut stream, _) = listener.accept().unwrap();
            std::thread::spawn(move || {
                let mut text = Vec::new();
                stream.read_to_end(&mut text).unwrap();
                String::from_utf8(text).unwrap()
            })
        })
        .collect();
    all.extend(threads.into_iter().map(|thread| thread.join().unwrap()));
    all
}

fn lines(all: &[String]) -> Vec<String> {
    all.iter().flat_map(|text| text.split_terminator(['\0', '\n'])).map(str::to_owned).collect()
}

pub fn streams_arrive_whole() {
    let lab = Lab::new();
    lab.source("log", SocketKind::Stream);
    lab.read("log", "one", QUEUE);
    let listener = UnixListener::bind(lab.reader("one")).unwrap();
    let path = &lab.server("log");
    let all = std::thread::scope(|scope| {
        let reader = scope.spawn(|| read_connections(&listener, 5));
        for writer in 0..4 {
            scope.spawn(move || {
                let mut stream = UnixStream::connect(path).unwrap();
                for number in 0..25_000 {
                    stream.write_all(text(writer, number).as_bytes()).unwrap();
                    stream.write_all(b"\0").unwrap();
                }
            });
        }
        scope.spawn(move || {
            let mut stream = UnixStream::connect(path).unwrap();
            stream.write_all(b"<13>no mark").unwrap();
            std::thread::sleep(Duration::from_millis(20));
            stream.write_all(b" at all").unwrap();
        });
        reader.join().unwrap()
    });
    assert!(all.iter().any(|text| text == "<13>no mark at all"));
    check(&lines(&all), 4, 25_000, false);
    until("the ends", || lab.source_status("log").connections == 0);
}

pub fn connections_outlive_the_tee() {
    let mut lab = Lab::new();
    lab.source("log", SocketKind::Stream);
    lab.read("log", "one", QUEUE);
    let listener = UnixListener::bind(lab.reader("one")).unwrap();
    let reader = std::thread::spawn(move || read_connections(&listener, 1));
    let mut stream = UnixStream::connect(lab.server("log")).unwrap();
    let mut sent = 0;
    let mut send = |count: usize, stream: &mut UnixStream| {
        for _ in 0..count {
            stream.write_all(format!("{}\n", text(0, sent)).as_bytes()).unwrap();
            sent += 1;
        }
    };
    for round in 0..10 {
        send(500, &mut stream);
        if round % 3 == 0 {
            lab.replace_keeper();
            lab.read("log", "one", QUEUE);
        } else {
            lab.kill_tee();
        }
        send(500, &mut stream);
    }
    drop(stream);
    let all = reader.join().unwrap();
    assert_eq!(check(&lines(&all), 1, 10_000, false), 0);
}

pub fn packets_keep_their_bounds() {
    let lab = Lab::new();
    lab.source("log", SocketKind::Seqpacket);
    lab.read("log", "one", QUEUE);
    let listener = seqpacket_listener(&lab.reader("one"));
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    let address = SocketAddrUnix::new(lab.server("log")).unwrap();
    rustix::net::connect(&socket, &address).unwrap();
    let reader = std::thread::spawn(move || {
        let socket = rustix::net::accept(&listener).unwrap();
        let mut all = Vec::new();
        loop {
            let mut buffer = [0; 4096];
            let (length, _) =
                rustix::net::recv(&socket, &mut buffer[..], RecvFlags::empty()).unwrap();
            if length == 0 && all.len() > 10_000 {
                return all;
            }
            all.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
        }
    });
    for number in 0..10_000 {
        if number == 5000 {
            rustix::net::send(&socket, b"", SendFlags::empty()).unwrap();
            lab.kill_tee();
        }
        rustix::net::send(&socket, text(0, number).as_bytes(), SendFlags::empty()).unwrap();
    }
    drop::<OwnedFd>(socket);
    let mut all = reader.join().unwrap();
    assert_eq!(all.remove(5000), "");
    check(&all, 1, 10_000, false);
}

pub fn a_killed_reader_gets_the_rest() {
    let lab = Lab::new();
    lab.source("log", SocketKind::Stream);
    lab.read("log", "one", QUEUE);
    let mut stream = UnixStream::connect(lab.server("log")).unwrap();
    let mut all = Vec::new();
    for round in 0..20 {
        let _ = std::fs::remove_file(lab.reader("one"));
        let listener = UnixListener::bind(lab.reader("one")).unwrap();
        for number in 0..100 {
            stream.write_all(format!("{}\n", text(0, round * 100 + number)).as_bytes()).unwrap();
        }
        let (mut connection, _) = listener.accept().unwrap();
        // It is gone with something unread, and with something read.
        let mut buffer = vec![0; 10_000];
        if round < 19 {
            std::thread::sleep(Duration::from_millis(20));
            let length = connection.read(&mut buffer).unwrap();
            all.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
        } else {
            let last = text(0, 1999);
            while !all.last().is_some_and(|text: &String| text.contains(&last)) {
                let length = connection.read(&mut buffer).unwrap();
                let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
                let joined = all.pop().unwrap_or_default() + &text;
                all.push(joined);
            }
        }
    }
    // What was read in part comes again as a whole.
    let whole: Vec<String> =
        all.iter().flat_map(|text| text.split_inclusive('\n')).map(str::to_owned).collect();
    let whole: Vec<String> = whole
        .into_iter()
        .filter(|line| line.starts_with("<13>") && line.ends_with('\n'))
        .map(|line| line.trim_end().to_owned())
        .filter(|line| {
            let number = line.get(21..27).and_then(|digits| digits.parse().ok());
            number.is_some_and(|number| text(0, number).trim_end() == line)
        })
        .map(|line| {
            let number = line[21..27].parse().unwrap();
            text(0, number)
        })
        .collect();
    check(&whole, 1, 2000, true);
}

pub fn a_reader_that_closes_gets_nothing_twice() {
    let lab = Lab::new();
    lab.source("log", SocketKind::Stream);
    lab.read("log", "one", QUEUE);
    let listener = UnixListener::bind(lab.reader("one")).unwrap();
    for turn in 0..20 {
        let path = lab.server("log");
        let writing = std::thread::spawn(move || {
            let mut stream = UnixStream::connect(path).unwrap();
            for _ in 0..10_000 {
                stream.write_all(&[turn; 200]).unwrap();
            }
        });
        let (mut stream, _) = listener.accept().unwrap();
        let mut all = vec![0; 10_000 * 200];
        stream.read_exact(&mut all).unwrap();
        // Closed before the end is read.
        drop(stream);
        assert!(all.iter().all(|byte| *byte == turn), "turn {turn} has bytes of another");
        writing.join().unwrap();
    }
    until("the ends", || lab.source_status("log").connections == 0);
}
