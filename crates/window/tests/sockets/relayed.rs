use std::ffi::CString;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hyperspector_window::sockets::{Request, SocketKind, Source, Upstream, place};
use rustix::mount::{MountFlags, UnmountFlags};

use crate::lab::{Lab, receive, text};

const QUEUE: u64 = 64 << 20;

/// A receiver of the server's own at `log`, with ours exchanged for its socket, and a reader.
fn relayed(lab: &Lab) -> (UnixListener, UnixListener) {
    let receiver = UnixListener::bind(lab.server("log")).unwrap();
    fs::set_permissions(lab.server("log"), fs::Permissions::from_mode(0o660)).unwrap();
    let root: OwnedFd = fs::File::open("/").unwrap().into();
    let ours = place::interpose(root.as_fd(), &lab.server("log")).unwrap();
    let upstream = Some(Upstream { process: None, tree: "/".into(), path: ours.real });
    let source =
        Source { name: "log".into(), kind: ours.kind, observed: false, shift: 0, upstream };
    lab.ask(&Request::Source(source), &[&ours.socket]);
    lab.read("log", "one", QUEUE);
    (receiver, UnixListener::bind(lab.reader("one")).unwrap())
}

fn read_all(listener: &UnixListener) -> String {
    let mut all = String::new();
    listener.accept().unwrap().0.read_to_string(&mut all).unwrap();
    all
}

fn lines(from: usize, to: usize) -> String {
    (from..to).map(|number| format!("{}\n", text(0, number))).collect()
}

pub fn has_everything_first() {
    let lab = Lab::new();
    let (receiver, reader) = relayed(&lab);
    let answering = std::thread::spawn(move || {
        let (stream, _) = receiver.accept().unwrap();
        let (mut count, mut out) = (0, stream.try_clone().unwrap());
        for line in BufReader::new(stream).lines() {
            assert_eq!(line.unwrap(), text(0, count));
            count += 1;
        }
        // The writer has ended its half, and still hears.
        writeln!(out, "{count} lines").unwrap();
    });
    let reading = std::thread::spawn(move || read_all(&reader));
    let mut writer = UnixStream::connect(lab.server("log")).unwrap();
    writer.write_all(lines(0, 100_000).as_bytes()).unwrap();
    writer.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    writer.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "100000 lines\n");
    answering.join().unwrap();
    assert!(reading.join().unwrap() == lines(0, 100_000));
}

pub fn takes_its_time() {
    let lab = Lab::new();
    let (receiver, _reader) = relayed(&lab);
    let mut writer = UnixStream::connect(lab.server("log")).unwrap();
    let (mut stream, _) = receiver.accept().unwrap();
    // A receiver that does not read stops its writer, as without us.
    writer.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let piece = [b'x'; 10_000];
    let sent = (0..1000).take_while(|_| writer.write_all(&piece).is_ok()).count();
    assert!(sent < 200, "{sent} pieces were taken from the writer");
    // And when it has ended, so has the writer's connection.
    let mut some = [0; 1000];
    stream.read_exact(&mut some).unwrap();
    drop((stream, receiver));
    assert!((0..1000).any(|_| writer.write_all(&piece).is_err()));
}

/// A file system that answers nobody, as long as it lives.
struct Dead(PathBuf, Option<fs::File>);

impl Dead {
    fn mount(at: PathBuf) -> Self {
        fs::create_dir(&at).unwrap();
        let server = fs::File::options().read(true).write(true).open("/dev/fuse").unwrap();
        let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
        let data = CString::new(data).unwrap();
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        rustix::mount::mount("dead", &at, "fuse", flags, &*data).unwrap();
        Self(at, Some(server))
    }
}

impl Drop for Dead {
    fn drop(&mut self) {
        // Whoever waits is told that it is gone.
        drop(self.1.take());
        let _ = rustix::mount::unmount(&self.0, UnmountFlags::DETACH);
    }
}

pub fn behind_a_dead_file_system() {
    let lab = Lab::new();
    let dead = Dead::mount(lab.server("dead"));
    let listener: OwnedFd = UnixListener::bind(lab.server("log")).unwrap().into();
    let upstream = Some(Upstream { process: None, tree: "/".into(), path: dead.0.join("log") });
    let source = Source {
        name: "log".into(),
        kind: SocketKind::Stream,
        observed: false,
        shift: 0,
        upstream,
    };
    lab.ask(&Request::Source(source), &[&listener]);
    lab.source("calm", SocketKind::Dgram);
    lab.read("calm", "one", QUEUE);
    let connect = |_| UnixStream::connect(lab.server("log")).unwrap();
    let writers: Vec<UnixStream> = (0..30).map(connect).collect();
    // What takes the keeper goes on: answers to the agent, connections to readers.
    for number in 0..5 {
        let start = Instant::now();
        lab.status();
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        let _ = fs::remove_file(lab.reader("one"));
        let reader = UnixDatagram::bind(lab.reader("one")).unwrap();
        let socket = UnixDatagram::unbound().unwrap();
        socket.send_to(text(0, number).as_bytes(), lab.server("calm")).unwrap();
        // After what the last one may not have read.
        while receive(&reader, 1) != [text(0, number)] {}
    }
    // A writer is not left waiting for ever.
    let mut first = writers.into_iter().next().unwrap();
    first.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(first.read(&mut [0; 8]).unwrap(), 0);
    drop(dead);
}

pub fn outlive_the_tee() {
    let mut lab = Lab::new();
    let (receiver, reader) = relayed(&lab);
    let receiving = std::thread::spawn(move || read_all(&receiver));
    let reading = std::thread::spawn(move || read_all(&reader));
    let writer = UnixStream::connect(lab.server("log")).unwrap();
    for round in 0..20 {
        let (from, to) = (round * 1000, round * 1000 + 1000);
        let writing = std::thread::spawn({
            let mut writer = writer.try_clone().unwrap();
            move || writer.write_all(lines(from, to).as_bytes()).unwrap()
        });
        if round % 5 == 4 {
            lab.replace_keeper();
            lab.read("log", "one", QUEUE);
        } else {
            lab.kill_tee();
        }
        writing.join().unwrap();
    }
    writer.shutdown(std::net::Shutdown::Both).unwrap();
    drop(writer);
    // Not a byte is missing, and not one comes twice.
    assert!(receiving.join().unwrap() == lines(0, 20_000));
    assert!(reading.join().unwrap() == lines(0, 20_000));
}

pub fn sees_who_the_writer_is() {
    let lab = Lab::new();
    let (receiver, _reader) = relayed(&lab);
    for path in [lab.home.path(), &lab.home.path().join("server")] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let run = |uid: &str, groups: &str, path: &Path| {
        let python = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\n\
                      try:\n    s.connect(sys.argv[1])\n\
                      except OSError as error:\n    sys.exit(error.errno)\n\
                      s.send(b'hello')\ns.recv(1)";
        let groups = ["--groups", groups];
        Command::new("setpriv")
            .args(["--reuid", uid, "--regid", uid])
            .args(groups)
            .args(["/usr/bin/python3", "-c", python])
            .arg(path)
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    // The file is root's and its group's: 0660.
    let mut allowed = run("4242", "0", &lab.server("log"));
    let (stream, _) = receiver.accept().unwrap();
    let peer = rustix::net::sockopt::socket_peercred(&stream).unwrap();
    assert_eq!((peer.uid.as_raw(), peer.gid.as_raw()), (4242, 4242));
    drop(stream);
    allowed.wait().unwrap();
    let mut refused = run("4242", "4242", &lab.server("log"));
    assert_eq!(refused.wait().unwrap().code(), Some(libc::EACCES));
    receiver.set_nonblocking(true).unwrap();
    assert!(receiver.accept().is_err());
}
