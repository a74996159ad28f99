//! A tee with its sockets and readers, and what the tests do with them.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use hyperspector_sys::worker;
use hyperspector_window::sockets::keeper::{self, Config};
use hyperspector_window::sockets::{
    Process, Reader, ReaderStatus, Reply, Request, Seat, SocketKind, Source, SourceStatus, Started,
    Status,
};

/// The tee's user in these tests.
pub const USER: u32 = 64_999;
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A keeper with its tee, and the directories of a server and of readers.
pub struct Lab {
    pub home: tempfile::TempDir,
    keeper: Child,
}

impl Lab {
    pub fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        for name in ["server", "reader"] {
            std::fs::create_dir(home.path().join(name)).unwrap();
        }
        let keeper = start_keeper(home.path(), None);
        Self { home, keeper }
    }

    /// A path of the server's.
    pub fn server(&self, name: &str) -> PathBuf {
        self.home.path().join("server").join(name)
    }

    /// A path in the reader's root.
    pub fn reader(&self, name: &str) -> PathBuf {
        self.home.path().join("reader").join(name)
    }

    pub fn ask(&self, request: &Request, fds: &[&OwnedFd]) -> Reply {
        keeper::ask(&self.home.path().join("keeper.sock"), request, fds).unwrap()
    }

    /// Binds a socket at the server's path `name` and gives it to the tee.
    pub fn source(&self, name: &str, kind: SocketKind) {
        let path = self.server(name);
        let fd: OwnedFd = match kind {
            SocketKind::Dgram => UnixDatagram::bind(&path).unwrap().into(),
            SocketKind::Stream => UnixListener::bind(&path).unwrap().into(),
            SocketKind::Seqpacket => seqpacket_listener(&path),
        };
        if kind == SocketKind::Dgram {
            rustix::net::sockopt::set_socket_passcred(&fd, true).unwrap();
        }
        let source = Source { name: name.into(), kind, observed: false, shift: 0, upstream: None };
        self.ask(&Request::Source(source), &[&fd]);
    }

    /// A reader of the source `name` that is to listen at `to`.
    pub fn read(&self, source: &str, to: &str, queue: u64) {
        self.read_as(self.setup(source, to, queue));
    }

    pub fn read_as(&self, setup: Reader) {
        let pid = std::process::id();
        let start = hyperspector_sys::pidfd::start_time(pid).unwrap().unwrap();
        let seat = Seat { process: Process { pid, start }, queue: queue() };
        self.ask(&Request::Reader(setup, Some(seat)), &[]);
    }

    pub fn setup(&self, source: &str, to: &str, queue: u64) -> Reader {
        let (name, source, to) = (to.into(), source.into(), self.reader(to));
        Reader { name, source, to, queue, senders: false }
    }

    pub fn status(&self) -> Status {
        match self.ask(&Request::Status, &[]) {
            Reply::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    pub fn reader_status(&self, to: &str) -> ReaderStatus {
        let status = self.status();
        status.readers.into_iter().find(|reader| reader.name == to).unwrap()
    }

    pub fn source_status(&self, name: &str) -> SourceStatus {
        self.status().sources.into_iter().find(|source| source.name == name).unwrap()
    }

    /// Kills the tee, and waits until another has taken its place.
    pub fn kill_tee(&self) {
        let before = self.tee();
        kill(before);
        until("another tee", || self.status().tee.is_some_and(|tee| tee != before));
    }

    pub fn tee(&self) -> u32 {
        until("a tee", || self.status().tee.is_some());
        self.status().tee.unwrap()
    }

    pub fn keeper(&self) -> u32 {
        self.keeper.id()
    }

    /// Kills the keeper, and starts another that takes over from the tee.
    pub fn replace_keeper(&mut self) {
        self.keeper.kill().unwrap();
        self.keeper.wait().unwrap();
        let orphan = UnixStream::connect(self.home.path().join("tee.sock")).unwrap();
        self.keeper = start_keeper(self.home.path(), Some(orphan.into()));
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let tee = self.status().tee;
        let _ = keeper::ask(&self.home.path().join("keeper.sock"), &Request::Stop, &[]);
        let _ = self.keeper.wait();
        assert!(tee.is_none_or(|tee| !Path::new(&format!("/proc/{tee}")).exists()));
    }
}

/// Ends the workers of a test that did not come to its end.
pub fn end_workers() {
    let own = format!("PPid:\t{}", std::process::id());
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        if status.lines().any(|line| line == own) {
            kill(pid);
        }
    }
}

fn start_keeper(home: &Path, orphan: Option<OwnedFd>) -> Child {
    let listen = |name: &str| {
        let path = home.join(name);
        let _ = std::fs::remove_file(&path);
        UnixListener::bind(path).unwrap()
    };
    let (control, successor) = (listen("keeper.sock"), listen("tee.sock"));
    let mut fds = vec![control.as_fd(), successor.as_fd()];
    fds.extend(orphan.as_ref().map(AsFd::as_fd));
    let config = Config { uid: USER, gid: USER };
    let (child, channel) = worker::spawn("keeper", &config, &fds, Stdio::inherit()).unwrap();
    match channel.receive_within::<Started>(Duration::from_secs(20)).unwrap() {
        Some((Started::Ready, _)) => child,
        other => panic!("the keeper did not start: {other:?}"),
    }
}

pub fn seqpacket_listener(path: &Path) -> OwnedFd {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, listen, socket};
    let socket = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    listen(&socket, 128).unwrap();
    socket
}

/// How many datagrams a socket of the tests' holds.
pub fn queue() -> u32 {
    let text = std::fs::read_to_string("/proc/sys/net/unix/max_dgram_qlen").unwrap();
    text.trim().parse().unwrap()
}

pub fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// Waits until `what` is so.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "waited for {what} in vain");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Message number `number` of writer `writer`, of a length that differs from one to the next.
pub fn text(writer: usize, number: usize) -> String {
    format!("<13>writer {writer} message {number:06} {}", "x".repeat((number * 7919) % 300))
}

/// Writes `count` messages to the datagram socket at `path`.
pub fn write(path: &Path, writer: usize, count: usize) {
    let socket = UnixDatagram::unbound().unwrap();
    socket.connect(path).unwrap();
    for number in 0..count {
        let text = text(writer, number);
        assert_eq!(socket.send(text.as_bytes()).unwrap(), text.len());
    }
}

/// Asserts that `received` holds the `count` messages of each of the writers, whole, those of each
/// in their order; with `again`, some may come more than once. Returns how many did.
pub fn check(received: &[String], writers: usize, count: usize, again: bool) -> usize {
    let mut repeated = 0;
    for writer in 0..writers {
        let start = format!("<13>writer {writer} ");
        let own = received.iter().filter(|text| text.starts_with(&start));
        let mut expected = 0;
        for found in own {
            if *found == text(writer, expected) {
                expected += 1;
                continue;
            }
            let number = found[start.len() + 8..][..6].parse::<usize>().unwrap();
            assert!(number < expected, "writer {writer}: {found} came for number {expected}");
            assert_eq!(*found, text(writer, number));
            assert!(again, "writer {writer}: number {number} came again");
            repeated += 1;
        }
        assert_eq!(expected, count, "writer {writer}: not all messages came");
    }
    repeated
}

/// Reads datagrams until `count` different ones are there.
pub fn receive(socket: &UnixDatagram, count: usize) -> Vec<String> {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buffer = vec![0; 1 << 20];
    let mut all = Vec::new();
    while all.len() < count {
        let length = socket.recv(&mut buffer).unwrap_or_else(|error| {
            panic!("{} of {count} messages came: {error}", all.len());
        });
        all.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
    }
    all
}

/// A reader that is a process of its own, and writes down each message before it takes it.
pub fn start_reader(path: &Path, out: &Path) -> Child {
    let _ = std::fs::remove_file(path);
    let child = Command::new("/proc/self/exe")
        .args(["__reader".as_ref(), path.as_os_str(), out.as_os_str()])
        .spawn()
        .unwrap();
    until("the reader", || path.exists());
    child
}

pub fn reader_main(path: &str, out: &str) -> ExitCode {
    let socket = UnixDatagram::bind(path).unwrap();
    // What a killed one had written half of was not taken, and comes again.
    if let Ok(text) = std::fs::read(out) {
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        File::options().write(true).open(out).unwrap().set_len(whole as u64).unwrap();
    }
    let mut out = File::options().append(true).create(true).open(out).unwrap();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let flags = rustix::net::RecvFlags::PEEK;
        let (length, _) = rustix::net::recv(&socket, &mut buffer[..], flags).unwrap();
        buffer[length] = b'\n';
        out.write_all(&buffer[..=length]).unwrap();
        socket.recv(&mut []).unwrap();
    }
}
