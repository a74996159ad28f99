use std::os::unix::net::UnixDatagram;
use std::process::Child;
use std::time::{Duration, Instant};

use hyperspector_window::sockets::SocketKind;
use rustix::net::RecvFlags;
use rustix::process::{Pid, Signal, kill_process};

use crate::lab::{Lab, check, queue, receive, start_reader, text, until, write};

const QUEUE: u64 = 64 << 20;

pub fn every_reader_gets_everything() {
    let lab = Lab::new();
    lab.source("log", SocketKind::Dgram);
    let sockets = ["one", "two"].map(|name| {
        lab.read("log", name, QUEUE);
        UnixDatagram::bind(lab.reader(name)).unwrap()
    });
    let path = &lab.server("log");
    std::thread::scope(|scope| {
        let readers = sockets.each_ref().map(|socket| scope.spawn(|| receive(socket, 100_000)));
        for writer in 0..4 {
            scope.spawn(move || write(path, writer, 25_000));
        }
        for reader in readers {
            check(&reader.join().unwrap(), 4, 25_000, false);
        }
    });
    assert_eq!(lab.source_status("log").received, 100_000);
    until("everything taken", || lab.reader_status("one").delivered == 100_000);
    let status = lab.reader_status("two");
    assert_eq!((status.accepted, status.lost), (100_000, 0));
}

pub fn a_reader_that_comes_later() {
    let lab = Lab::new();
    lab.source("log", SocketKind::Dgram);
    lab.read("log", "later", QUEUE);
    write(&lab.server("log"), 0, 1000);
    until("a reason", || lab.reader_status("later").problem.is_some());
    assert_eq!(lab.reader_status("later").problem.unwrap(), "no such file or directory");
    let socket = UnixDatagram::bind(lab.reader("later")).unwrap();
    check(&receive(&socket, 1000), 1, 1000, false);
    until("everything taken", || lab.reader_status("later").delivered == 1000);
    // Another takes the path, and the first keeps its socket open.
    std::fs::remove_file(lab.reader("later")).unwrap();
    let next = UnixDatagram::bind(lab.reader("later")).unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    write(&lab.server("log"), 0, 10);
    check(&receive(&next, 10), 1, 10, false);
    drop(socket);
}

pub fn killing_the_tee_loses_nothing() {
    let lab = Lab::new();
    lab.source("log", SocketKind::Dgram);
    lab.read("log", "one", QUEUE);
    let socket = UnixDatagram::bind(lab.reader("one")).unwrap();
    let path = &lab.server("log");
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| receive_all(&socket, 100_000));
        let writer = scope.spawn(move || write(path, 0, 100_000));
        let mut kills = 0;
        while !writer.is_finished() {
            std::thread::sleep(Duration::from_millis(kills as u64 * 37 % 100));
            lab.kill_tee();
            kills += 1;
        }
        writer.join().unwrap();
        let all = reader.join().unwrap();
        let repeated = check(&all, 1, 100_000, true);
        println!("{kills} kills, {repeated} messages twice");
        assert!(kills > 5);
        assert_eq!(repeated, 0);
    });
}

/// Reads until the last message is there and nothing comes any more.
fn receive_all(socket: &UnixDatagram, count: usize) -> Vec<String> {
    let last = text(0, count - 1);
    let mut all = Vec::new();
    let mut is_there = false;
    while !is_there {
        all.extend(receive(socket, 1));
        is_there = all.last() == Some(&last);
    }
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut buffer = [0; 4096];
    while let Ok(length) = socket.recv(&mut buffer) {
        all.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
    }
    all
}

pub fn killing_the_keeper_loses_nothing() {
    let mut lab = Lab::new();
    lab.source("log", SocketKind::Dgram);
    lab.read("log", "one", QUEUE);
    let socket = UnixDatagram::bind(lab.reader("one")).unwrap();
    let path = lab.server("log");
    let reader = std::thread::spawn(move || receive_all(&socket, 100_000));
    let writer = std::thread::spawn(move || write(&path, 0, 100_000));
    let mut kills = 0;
    while !writer.is_finished() {
        lab.replace_keeper();
        lab.read("log", "one", QUEUE);
        kills += 1;
    }
    writer.join().unwrap();
    let repeated = check(&reader.join().unwrap(), 1, 100_000, true);
    println!("{kills} kills, {repeated} messages twice");
    assert!(kills > 3);
    assert_eq!(repeated, 0);
}

/// Until the agent says where readers listen, a keeper cannot tell whether they are there.
pub fn a_keeper_that_knows_no_seats_repeats_nothing() {
    let mut lab = Lab::new();
    lab.source("log", SocketKind::Dgram);
    lab.read("log", "one", QUEUE);
    let socket = UnixDatagram::bind(lab.reader("one")).unwrap();
    let count = queue() as usize;
    write(&lab.server("log"), 0, 1);
    check(&receive(&socket, 1), 1, 1, false);
    write(&lab.server("log"), 0, count);
    until("everything accepted", || lab.reader_status("one").accepted == count as u64 + 1);
    lab.replace_keeper();
    check(&receive(&socket, count), 1, count, false);
    std::thread::sleep(Duration::from_millis(300));
    assert!(lab.reader_status("one").waiting > 0);
    lab.read("log", "one", QUEUE);
    std::thread::sleep(Duration::from_millis(300));
    socket.set_nonblocking(true).unwrap();
    assert!(socket.recv(&mut [0; 9]).is_err(), "something came again");
    until("everything taken", || lab.reader_status("one").waiting == 0);
}

pub fn killing_the_reader_loses_nothing() {
    let lab = Lab::new();
    lab.source("log", SocketKind::Dgram);
    lab.read("log", "one", QUEUE);
    let out = lab.home.path().join("out");
    let mut reader = Some(start_reader(&lab.reader("one"), &out));
    let path = &lab.server("log");
    let mut kills = 0;
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || write(path, 0, 100_000));
        while !writer.is_finished() {
            std::thread::sleep(Duration::from_millis(30));
            end(reader.take());
            kills += 1;
            reader = Some(start_reader(&lab.reader("one"), &out));
        }
    });
    let last = text(0, 99_999);
    until("the last message", || std::fs::read_to_string(&out).unwrap().contains(&last));
    end(reader);
    let all = std::fs::read_to_string(&out).unwrap();
    let all: Vec<String> = all.lines().map(str::to_owned).collect();
    let repeated = check(&all, 1, 100_000, true);
    println!("{kills} kills, {repeated} messages twice");
    assert!(kills > 5 && repeated <= kills * (queue() as usize + 2));
}

/// The next socket's file may have the number of the one before.
pub fn a_reader_that_is_back_at_once_gets_what_was_not_read() {
    let lab = Lab::new();
    lab.source("log", SocketKind::Dgram);
    lab.read("log", "one", QUEUE);
    let mut socket = UnixDatagram::bind(lab.reader("one")).unwrap();
    for round in 0..20 {
        write(&lab.server("log"), round, 5);
        assert_eq!(receive(&socket, 1), [text(round, 0)]);
        drop(socket);
        std::fs::remove_file(lab.reader("one")).unwrap();
        socket = UnixDatagram::bind(lab.reader("one")).unwrap();
        std::thread::sleep(Duration::from_millis(120));
        // The first may come again, and was read.
        let count = 4 + usize::from(is_first(&socket, round));
        assert_eq!(receive(&socket, count).last(), Some(&text(round, 4)));
    }
}

/// Whether what waits in a socket begins with the first message of a writer.
fn is_first(socket: &UnixDatagram, writer: usize) -> bool {
    let mut buffer = [0; 4096];
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let (length, _) = rustix::net::recv(socket, &mut buffer[..], RecvFlags::PEEK).unwrap();
    buffer[..length] == *text(writer, 0).as_bytes()
}

fn end(reader: Option<Child>) {
    let mut reader = reader.unwrap();
    reader.kill().unwrap();
    reader.wait().unwrap();
}

pub fn a_stopped_reader_stops_nobody() {
    let lab = Lab::new();
    lab.source("log", SocketKind::Dgram);
    lab.read("log", "stopped", 1 << 20);
    lab.read("log", "missing", 1 << 20);
    lab.read("log", "good", QUEUE);
    let out = lab.home.path().join("out");
    let reader = start_reader(&lab.reader("stopped"), &out);
    let pid = Pid::from_raw(reader.id().cast_signed()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    let good = UnixDatagram::bind(lab.reader("good")).unwrap();
    let path = &lab.server("log");
    let start = Instant::now();
    std::thread::scope(|scope| {
        let good = scope.spawn(|| receive(&good, 100_000));
        write(path, 0, 100_000);
        check(&good.join().unwrap(), 1, 100_000, false);
    });
    assert!(start.elapsed() < Duration::from_secs(20));
    let (stopped, missing) = (lab.reader_status("stopped"), lab.reader_status("missing"));
    for status in [&stopped, &missing] {
        assert_eq!(status.accepted + status.lost, 100_000);
        assert!(status.lost > 80_000 && status.waiting <= 1 << 20);
    }
    kill_process(pid, Signal::CONT).unwrap();
    until("all that waited", || lab.reader_status("stopped").waiting == 0);
    write(path, 1, 1);
    let all = || std::fs::read_to_string(&out).unwrap_or_default();
    until("what came after", || all().contains("writer 1"));
    let all = all();
    let lines: Vec<&str> = all.lines().collect();
    let line = format!("<44>hyperspector: {} messages lost here", stopped.lost);
    assert_eq!(lines.len() as u64, stopped.accepted + 2);
    assert_eq!(lines[lines.len() - 2], line);
    end(Some(reader));
}

pub fn nobody_is_there() {
    let lab = Lab::new();
    lab.source("log", SocketKind::Dgram);
    let socket = UnixDatagram::unbound().unwrap();
    socket.connect(lab.server("log")).unwrap();
    // Without a reader it is taken all the same.
    (0..1000).for_each(|_| assert_eq!(socket.send(b"x").unwrap(), 1));
    socket.set_nonblocking(true).unwrap();
    until("everything taken", || lab.source_status("log").received == 1000);
    socket.send(b"x").unwrap();
    use hyperspector_window::sockets::Request;
    lab.ask(&Request::NoSource("log".into()), &[]);
    until("the end of the socket", || {
        socket.send(b"x").is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    });
}
