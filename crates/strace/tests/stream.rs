//! The program, over a socket of the test's own: what it prints, how it ends, and how it goes on.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use hyperspector_syscalls::filter::Request;
use hyperspector_syscalls::numbers::Abi;
use hyperspector_syscalls::record::{Start, machine};
use hyperspector_syscalls::stream;

const SECOND: u64 = 1_000_000_000;

/// A directory with sockets, each of a server.
struct Servers {
    place: tempfile::TempDir,
    listener: UnixListener,
}

impl Servers {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(place.path().join("shop")).unwrap();
        Self { place, listener }
    }

    /// The program; it ends with the test.
    fn program(&self, args: &[&str]) -> Program {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hyperspector-strace"));
        command.arg("--sockets").arg(self.place.path()).args(args).env("TZ", "UTC");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Program(Some(command.spawn().unwrap()), String::new())
    }

    /// Answers a reader: what it asked for, and where to write what it gets.
    fn accept(&self, tracer: u64) -> (Request, UnixStream) {
        self.listener.set_nonblocking(true).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut socket = loop {
            match self.listener.accept() {
                Ok((socket, _)) => break socket,
                Err(_) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => panic!("no reader came: {error}"),
            }
        };
        socket.set_nonblocking(false).unwrap();
        let mut line = String::new();
        BufReader::new(&socket).read_line(&mut line).unwrap();
        let start = Start {
            version: stream::VERSION,
            machine: machine::NATIVE,
            epoch: 0,
            tracer,
            queue: 1 << 20,
            server: b"shop",
        };
        socket.write_all(&stream::start(10 * tracer * SECOND, &start)).unwrap();
        (Request::parse(line.as_bytes()).unwrap(), socket)
    }
}

struct Program(Option<Child>, String);

impl Program {
    fn interrupt(&self) {
        let child = self.0.as_ref().unwrap();
        let pid = rustix::process::Pid::from_child(child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    }

    /// Waits until it has printed that, and ends it as Ctrl-C does.
    fn interrupt_after(&mut self, wanted: &str) {
        let out = self.0.as_mut().unwrap().stdout.as_mut().unwrap();
        while !self.1.contains(wanted) {
            let ready = rustix::event::PollFd::new(out, rustix::event::PollFlags::IN);
            let patience = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
            let count = rustix::event::poll(&mut [ready], Some(&patience)).unwrap();
            assert!(count > 0, "waited in vain for {wanted:?}: {}", self.1);
            let mut bytes = [0; 4096];
            let count = out.read(&mut bytes).unwrap();
            assert!(count > 0, "ended: {}", self.1);
            self.1.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
        }
        self.interrupt();
    }

    /// What it printed, once it has ended.
    fn end(mut self) -> Output {
        let mut child = self.0.take().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                child.kill().unwrap();
                panic!("not ended: {:?}", child.wait_with_output());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut output = child.wait_with_output().unwrap();
        output.stdout.splice(0..0, self.1.bytes());
        output
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn record(kind: u8, marks: u16, time: u64, pid: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(24 + body.len()).unwrap().to_ne_bytes().to_vec();
    bytes.extend([kind, 0]);
    bytes.extend(marks.to_ne_bytes());
    bytes.extend(time.to_ne_bytes());
    bytes.extend([pid, pid].map(u32::to_ne_bytes).concat());
    bytes.extend(body);
    bytes
}

fn call(name: &str, time: u64, result: i64, args: &[u64]) -> Vec<u8> {
    let mut body = [Abi::NATIVE.number(name).unwrap(), 0].map(u32::to_ne_bytes).concat();
    body.extend(1_000_000_u64.to_ne_bytes());
    body.extend(result.to_ne_bytes());
    let mut all = [0; 6];
    all[..args.len()].copy_from_slice(args);
    body.extend(all.map(u64::to_ne_bytes).concat());
    record(1, 0, time, 77, &body)
}

fn end() -> Vec<u8> {
    record(5, 0, 30 * SECOND, 77, &[0, 3, 0, 0, 1, 0, 0, 0])
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn lines_come_and_the_program_ends_with_its_process() {
    let servers = Servers::new();
    let program = servers.program(&["-p", "77", "-tt", "-T", "-e", "trace=%desc,!read", "-Z"]);
    let (request, mut socket) = servers.accept(1);
    assert_eq!(request.filter.server_pids, [77]);
    assert_eq!(request.filter.calls, ["%desc", "!read"]);
    socket.write_all(&[call("close", 11 * SECOND, -9, &[9]), end()].concat()).unwrap();
    let output = program.end();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        text(&output.stdout),
        "00:00:11.000000 close(9)                = -1 EBADF (Bad file descriptor) <0.001000>\n\
         00:00:30.000000 +++ exited with 3 +++\n"
    );
}

#[test]
fn a_restart_of_the_tracer_is_a_line_and_ctrl_c_a_clean_end() {
    let servers = Servers::new();
    let mut program = servers.program(&["-C", "-t"]);
    let (_, mut socket) = servers.accept(1);
    socket.write_all(&call("getpid", 11 * SECOND, 77, &[])).unwrap();
    drop(socket);
    let (request, mut socket) = servers.accept(2);
    assert_eq!(request.filter.calls, ["all"]);
    socket.write_all(&call("close", 21 * SECOND, 0, &[3])).unwrap();
    // A tracer that says itself since when there was none is not told twice.
    drop(socket);
    let (_, mut socket) = servers.accept(3);
    socket.write_all(&stream::gap(30 * SECOND, 28 * SECOND)).unwrap();
    socket.write_all(&stream::missed(31 * SECOND, 5)).unwrap();
    program.interrupt_after("5 records missed");
    let output = program.end();
    assert!(output.status.success(), "{output:?}");
    let printed = text(&output.stdout);
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines[0], "[pid    77] 00:00:11 getpid()           = 77");
    assert_eq!(
        lines[1],
        "[pid     0] 00:00:20 +++ nothing was recorded for 9000 ms: there was no tracer +++"
    );
    assert_eq!(lines[2], "[pid    77] 00:00:21 close(3)           = 0");
    assert!(lines[3].ends_with("+++ nothing was recorded for 2000 ms: there was no tracer +++"));
    assert!(lines[4].ends_with("+++ 5 records missed: this reader was too slow +++"), "{printed}");
    assert_eq!(lines[5], "% time     seconds  usecs/call     calls    errors syscall");
    assert_eq!(lines.len(), 11, "{printed}");
}

#[test]
fn json_and_audit_records_go_to_files() {
    for form in ["--json", "--audit"] {
        let servers = Servers::new();
        let file = servers.place.path().join(".out");
        let file = file.to_str().unwrap();
        let program = servers.program(&["--server", "shop", "-p", "77", form, "-o", file]);
        let (_, mut socket) = servers.accept(1);
        socket.write_all(&[call("close", 11 * SECOND, -9, &[9]), end()].concat()).unwrap();
        let output = program.end();
        assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
        let written = std::fs::read_to_string(file).unwrap();
        if form == "--json" {
            let first: serde_json::Value =
                serde_json::from_str(written.lines().next().unwrap()).unwrap();
            assert_eq!((&first["call"], &first["error"]), (&"close".into(), &"EBADF".into()));
        } else {
            assert!(written.starts_with("type=SYSCALL msg=audit(11.000:"), "{written}");
            assert_eq!(written.matches("type=EOE").count(), 1);
        }
    }
}

#[test]
fn a_fifo_without_a_reader_stops_nothing() {
    let servers = Servers::new();
    let fifo = servers.place.path().join(".fifo");
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, 0o600.into(), 0).unwrap();
    let args = ["--server", "shop", "-p", "77", "-o", fifo.to_str().unwrap()];
    let program = servers.program(&args);
    let (_, mut socket) = servers.accept(1);
    for _ in 0..1000 {
        socket.write_all(&call("close", 11 * SECOND, -9, &[9])).unwrap();
    }
    socket.write_all(&end()).unwrap();
    let output = program.end();
    assert!(output.status.success(), "{output:?}");
    let told = text(&output.stderr);
    assert!(told.contains("1001 lines were lost: nobody read the FIFO in time"), "{told}");
}

#[test]
fn failures_say_why_and_have_their_statuses() {
    let servers = Servers::new();
    let told = |args: &[&str], code| {
        let output = servers.program(args).end();
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        text(&output.stderr)
    };
    assert!(told(&["-e", "trace=opnat"], 2).contains("did you mean openat?"));
    assert!(told(&["--nonsense"], 2).contains("--help"));
    assert!(told(&["--server", "other"], 1).contains("; watched are: shop"));
    let program = servers.program(&[]);
    let (_, mut socket) = servers.accept(1);
    socket.write_all(&[7; 100]).unwrap();
    let mut rest = Vec::new();
    let _ = socket.read_to_end(&mut rest);
    let output = program.end();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("a record of the stream says that it has"));
}

#[test]
fn a_refusal_is_told() {
    let servers = Servers::new();
    let program = servers.program(&[]);
    let deadline = Instant::now() + Duration::from_secs(10);
    servers.listener.set_nonblocking(true).unwrap();
    let mut socket = loop {
        match servers.listener.accept() {
            Ok((socket, _)) => break socket,
            Err(error) if Instant::now() > deadline => panic!("no reader came: {error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    socket.write_all(&stream::refused(1, "too many readers")).unwrap();
    let output = program.end();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr), "hyperspector-strace: refused: too many readers\n");
}

#[test]
fn a_server_that_is_not_there_yet_is_waited_for() {
    let servers = Servers::new();
    let socket = servers.place.path().join("shop");
    std::fs::rename(&socket, servers.place.path().join("later")).unwrap();
    let mut program = servers.program(&["--server", "shop", "--wait", "-p", "77", "-f"]);
    std::thread::sleep(Duration::from_millis(300));
    std::fs::rename(servers.place.path().join("later"), &socket).unwrap();
    let (request, mut socket) = servers.accept(1);
    assert!(request.filter.children);
    socket.write_all(&call("getpid", 11 * SECOND, 77, &[])).unwrap();
    program.interrupt_after("getpid()");
    let output = program.end();
    assert_eq!(text(&output.stdout), "[pid    77] getpid()                    = 77\n");
}
