use std::fs;
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::time::{Duration, Instant};

use hyperspector_window::sockets::SocketKind;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Pid, Signal, kill_process};

use crate::lab::{Lab, USER, check, receive, until, write};

const QUEUE: u64 = 16 << 20;

pub fn workers_hold_nothing() {
    let lab = Lab::new();
    lab.source("log", SocketKind::Dgram);
    let status = fs::read_to_string(format!("/proc/{}/status", lab.tee())).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let user = USER.to_string();
    assert_eq!(field("Uid:"), [user.as_str(); 4].join(" "));
    assert_eq!(field("Gid:"), [user.as_str(); 4].join(" "));
    assert_eq!(field("Groups:"), "");
    for set in ["CapPrm:", "CapEff:", "CapBnd:", "CapInh:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!((field("Seccomp:").as_str(), field("NoNewPrivs:").as_str()), ("2", "1"));
    let root = format!("/proc/{}/root", lab.tee());
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
    assert!(fs::write(format!("{root}/file"), "").is_err());
    let network = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert_eq!(network(lab.tee()), network(lab.keeper()));
    assert_ne!(network(lab.tee()), network(std::process::id()));
}

pub fn a_flood_of_connections() {
    let lab = Lab::new();
    lab.source("log", SocketKind::Stream);
    lab.source("other", SocketKind::Dgram);
    lab.read("log", "one", QUEUE);
    lab.read("other", "two", QUEUE);
    let listener = UnixListener::bind(lab.reader("one")).unwrap();
    let other = UnixDatagram::bind(lab.reader("two")).unwrap();
    let path = &lab.server("log");
    let start = Instant::now();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| receive(&other, 10_000));
        let flood = scope.spawn(move || {
            let mut open = Vec::new();
            for number in 0..10_000 {
                let mut stream = UnixStream::connect(path).unwrap();
                let _ = write!(stream, "connection {number}");
                open.push(stream);
            }
            open
        });
        write(&lab.server("other"), 0, 10_000);
        check(&reader.join().unwrap(), 1, 10_000, false);
        let open = flood.join().unwrap();
        until("all refused", || lab.source_status("log").refused == 10_000 - 1024);
        assert_eq!(lab.source_status("log").connections, 1024);
        let (mut first, _) = listener.accept().unwrap();
        let mut text = [0; 12];
        first.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"connection 0");
        drop(open);
    });
    println!("{} ms", start.elapsed().as_millis());
    drop(listener);
    until("the end of all", || lab.source_status("log").connections == 0);
    assert_eq!(lab.status().restarts, 0);
}

/// Sends `text` with `fds`.
fn pass(socket: impl AsFd, text: &[u8], fds: &[OwnedFd]) -> rustix::io::Result<usize> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    control.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(socket, &[IoSlice::new(text)], &mut control, SendFlags::empty())
}

pub fn descriptors_and_bytes_out_of_band() {
    let lab = Lab::new();
    lab.source("log", SocketKind::Dgram);
    lab.source("stream", SocketKind::Stream);
    lab.read("log", "one", QUEUE);
    lab.read("stream", "two", QUEUE);
    let reader = UnixDatagram::bind(lab.reader("one")).unwrap();
    let listener = UnixListener::bind(lab.reader("two")).unwrap();
    let (tee, keeper) = (lab.tee(), lab.keeper());
    let count = |pid: u32| fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let socket = UnixDatagram::unbound().unwrap();
    socket.connect(lab.server("log")).unwrap();
    let before = count(tee);
    let files: Vec<OwnedFd> =
        (0..250).map(|_| fs::File::open("/dev/null").unwrap().into()).collect();
    for _ in 0..100 {
        pass(&socket, b"with descriptors", &files).unwrap();
    }
    assert!(receive(&reader, 100).iter().all(|text| text == "with descriptors"));
    until("the count", || lab.source_status("log").descriptors == 100);
    assert!(count(tee) <= before + 1 && count(keeper) < 40);

    let mut stream = UnixStream::connect(lab.server("stream")).unwrap();
    stream.write_all(b"one ").unwrap();
    rustix::net::send(&stream, b"!", SendFlags::OOB).unwrap();
    pass(&stream, b" two", &files[..3]).unwrap();
    rustix::net::send(&stream, b"?", SendFlags::OOB).unwrap();
    let (mut connection, _) = listener.accept().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    drop(stream);
    let mut text = String::new();
    connection.read_to_string(&mut text).unwrap();
    assert_eq!(text, "one ! two?");
    // What the reader sends, and passes, goes nowhere.
    assert!(pass(&connection, b"take this", &files[..1]).is_err());
    assert_eq!(lab.status().restarts, 0);
    let ticks = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<u64> = stat
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|field| field.parse().unwrap())
            .collect();
        fields[0] + fields[1]
    };
    let before = ticks(tee);
    std::thread::sleep(Duration::from_secs(1));
    assert!(ticks(tee) - before < 10, "the tee is busy with nothing");
}

/// A descriptor that blocks whoever drops it last: a TCP connection that lingers with something to
/// send that nobody takes.
pub fn a_descriptor_that_lingers() {
    let lab = Lab::new();
    lab.source("log", SocketKind::Dgram);
    lab.read("log", "one", QUEUE);
    let reader = UnixDatagram::bind(lab.reader("one")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let _accepted = listener.accept().unwrap();
    let linger = Some(Duration::from_secs(3600));
    rustix::net::sockopt::set_socket_linger(&stream, linger).unwrap();
    stream.set_nonblocking(true).unwrap();
    while stream.write(&[0; 65_536]).is_ok() {}
    let socket = UnixDatagram::unbound().unwrap();
    socket.connect(lab.server("log")).unwrap();
    // The tee is to be the last who has it: whoever that is waits.
    let tee = Pid::from_raw(lab.tee().cast_signed()).unwrap();
    kill_process(tee, Signal::STOP).unwrap();
    pass(&socket, b"lingering", &[stream.into()]).unwrap();
    kill_process(tee, Signal::CONT).unwrap();
    let start = Instant::now();
    socket.send(b"after").unwrap();
    assert_eq!(receive(&reader, 2), ["lingering", "after"]);
    println!("{} ms", start.elapsed().as_millis());
    assert!(start.elapsed() < Duration::from_secs(4));
}

pub fn a_stopped_tee_goes_on() {
    let lab = Lab::new();
    lab.source("log", SocketKind::Dgram);
    lab.read("log", "one", QUEUE);
    let reader = UnixDatagram::bind(lab.reader("one")).unwrap();
    let path = &lab.server("log");
    let tee = lab.tee();
    std::thread::scope(|scope| {
        let all = scope.spawn(|| receive(&reader, 100_000));
        let writer = scope.spawn(move || write(path, 0, 100_000));
        until("some messages", || lab.source_status("log").received > 10_000);
        kill_process(Pid::from_raw(tee.cast_signed()).unwrap(), Signal::STOP).unwrap();
        writer.join().unwrap();
        check(&all.join().unwrap(), 1, 100_000, true);
    });
}

pub fn readers_that_cheat() {
    let lab = Lab::new();
    lab.source("log", SocketKind::Dgram);
    lab.read("log", "bad", 1 << 20);
    lab.read("log", "good", QUEUE);
    let good = UnixDatagram::bind(lab.reader("good")).unwrap();
    let path = &lab.server("log");
    let bad = lab.reader("bad");
    let (victim, _) = (UnixDatagram::bind(lab.home.path().join("victim")).unwrap(), ());
    victim.set_nonblocking(true).unwrap();
    let tricks: [&dyn Fn() -> Option<OwnedFd>; 6] = [
        &|| {
            std::os::unix::fs::symlink(lab.home.path().join("victim"), &bad).unwrap();
            None
        },
        &|| {
            rustix::fs::mkfifoat(rustix::fs::CWD, &bad, rustix::fs::Mode::RWXU).unwrap();
            None
        },
        &|| Some(UnixListener::bind(&bad).unwrap().into()),
        &|| {
            fs::create_dir(&bad).unwrap();
            None
        },
        // Bound, connected elsewhere: it takes nothing from others.
        &|| {
            let socket = UnixDatagram::bind(&bad).unwrap();
            socket.connect(lab.home.path().join("victim")).unwrap();
            Some(socket.into())
        },
        // Never read, with a buffer as large as it likes.
        &|| {
            let socket = UnixDatagram::bind(&bad).unwrap();
            let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 1 << 28);
            Some(socket.into())
        },
    ];
    for trick in tricks {
        let held = trick();
        write(path, 0, 2000);
        check(&receive(&good, 2000), 1, 2000, false);
        drop(held);
        let _ = fs::remove_file(&bad).or_else(|_| fs::remove_dir(&bad));
    }
    assert!(victim.recv(&mut [0; 8]).is_err());
    assert_eq!(lab.status().restarts, 0);
    let honest = UnixDatagram::bind(&bad).unwrap();
    receive(&honest, 100);
}
