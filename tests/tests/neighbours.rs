//! What a server space's root can do to its neighbours on the same host and network: the base system's
//! ports, services, sockets and processes, other server spaces, portspaces, the agent.
//!
//! ```text
//!   hs-t….web1: eth0 192.0.2.11, lo                  hs-t….switch: 192.0.2.1, the witness
//!   base: listeners on 7070, Unix sockets            (the outside world)
//!   shop (the attacker), mail, alpha/ids
//! ```

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyperspector_tests::attacker::{Line, Outcome};
use hyperspector_tests::{
    Fleet, Listeners, Running, ServerFiles, TestHost, Witness, expect_refused, goes_without, lines,
    program, run, wait_until,
};

const SPEC: &str = r#"
[host.web1]

[server.shop]
on = ["web1"]
command = ["sleep", "1000"]
ports = ["tcp/8000", "udp/8000"]
deny = ["tcp/7070", "udp/7070"]
IDS

[server.mail]
on = ["web1"]
command = ["sh", "-c", "while true; do echo mail | busybox nc -l -p 9000; done"]
ports = ["tcp/9000", "udp/40001"]

[hyperspector.alpha]
network = "10.66.0.0/16"
port = 51820

[hyperspector.alpha.portspace.ids]
on = ["web1"]
command = ["sh", "-c", "while true; do echo hello | busybox nc -l -p 7777; done"]
"#;

fn up<'a>(fleet: &'a Fleet, ids: &str) -> &'a TestHost {
    fleet.switch().ip(&["address", "add", "192.0.2.1/24", "dev", "br0"]);
    let host = fleet.host("web1");
    host.up(&host.spec(&SPEC.replace("IDS", &format!("ids = \"{ids}\""))));
    host.server_pid("shop");
    host.server_pid("mail");
    host.pid("alpha/ids");
    host
}

/// Both kinds of ids.
const IDS: [&str; 2] = ["private", "host"];

/// What may be possible, with the reason.
fn harmless() -> Vec<&'static str> {
    // The names of sockets belong to the network, which is the host's; see `unix-paths-listed`.
    let mut harmless = vec!["bound-sockets-list"];
    if goes_without("landlock") {
        harmless.extend(["abstract-sockets", "abstract-datagram"]);
    }
    harmless
}

/// Ports that are not the attacker's: free ones, low ones, the base's, another server space's, the
/// VPN's, one that clients are given.
const PORTS: [&str; 7] = ["8001", "80", "22", "7070", "9000", "51820", "40000"];

/// What the attempts on ports are aimed at.
fn at_ports(witness: &Witness) -> Vec<String> {
    let ports = PORTS.iter().flat_map(|port| ["--port".to_owned(), (*port).to_owned()]);
    let witness = ["--witness".to_owned(), witness.address().to_string()];
    ["ports".to_owned()].into_iter().chain(ports).chain(witness).collect()
}

/// Sockets of the base: two abstract names, and a path that the attacker's own root shows.
struct Sockets {
    _stream: UnixListener,
    datagram: UnixDatagram,
    _path: UnixListener,
    dir: tempfile::TempDir,
}

impl Sockets {
    fn on(host: &TestHost) -> Self {
        let dir = tempfile::Builder::new().prefix("hs-t0-").tempdir_in("/var/tmp").unwrap();
        let name =
            |kind: &str| SocketAddr::from_abstract_name(format!("{}-{kind}", host.net.name()));
        host.net.within(|| {
            let stream = UnixListener::bind_addr(&name("stream").unwrap()).unwrap();
            let datagram = UnixDatagram::bind_addr(&name("datagram").unwrap()).unwrap();
            datagram.set_nonblocking(true).unwrap();
            let path = UnixListener::bind(dir.path().join("base.sock")).unwrap();
            Self { _stream: stream, datagram, _path: path, dir }
        })
    }

    fn was_reached(&self) -> bool {
        self.datagram.recv(&mut [0; 64]).is_ok()
    }
}

#[test]
fn no_port_but_its_own_and_no_socket_of_the_base() {
    for ids in IDS {
        let fleet = Fleet::new(&["web1"]);
        let host = up(&fleet, ids);
        let (base, sockets) = (Listeners::on(&host.net), Sockets::on(host));
        let witness = Witness::on(fleet.switch(), "192.0.2.1");
        let mut arguments = at_ports(&witness);
        arguments.extend(["--tcp".to_owned(), format!("192.0.2.11:{}", base.port)]);
        arguments.extend(["abstract-sockets".to_owned(), "bound-sockets-list".to_owned()]);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        expect_refused(&host.attack("shop", &arguments), &harmless(), &[]);
        assert!(!base.was_reached());
        assert!(goes_without("landlock") || !sockets.was_reached());
        let listed = host.shell("shop", "cat /proc/net/unix");
        assert!(listed.contains(sockets.dir.path().to_str().unwrap()), "{listed}");
        assert!(!listed.contains(host.run_dir().to_str().unwrap()), "{listed}");
        // It was counted, and the other server is there as before.
        let status = host.hyperspector(&["status"]).stdout;
        assert!(status.contains("8001"), "{status}");
        assert!(status.contains("udp/40001: the kernel gives these to any program"), "{status}");
        let mail = run(
            host.net.command("busybox").args(["nc", "-w", "2", "127.0.0.1", "9000"]),
            b"",
            Duration::from_secs(5),
        );
        assert_eq!(mail.stdout, "mail\n");
    }
}

#[test]
fn the_port_guard_holds_without_an_agent() {
    let fleet = Fleet::new(&["web1"]);
    let host = up(&fleet, "private");
    // SAFETY: kill takes integers; the agent is this test's own.
    unsafe { libc::kill(host.agent(), libc::SIGKILL) };
    let witness = Witness::on(fleet.switch(), "192.0.2.1");
    let arguments = at_ports(&witness);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let needs_a_target = ["socket-destroy", "abstract-datagram", "unix-paths-listed"];
    expect_refused(&host.attack("shop", &arguments), &harmless(), &needs_a_target);
}

#[test]
fn what_is_not_protected_is_seen_to_be_reached() {
    let fleet = Fleet::new(&["web1"]);
    fleet.switch().ip(&["address", "add", "192.0.2.1/24", "dev", "br0"]);
    let host = fleet.host("web1");
    let sockets = Sockets::on(host);
    let witness = Witness::on(fleet.switch(), "192.0.2.1");
    // Root of a user namespace on the host's network, as the attacker is.
    let mut unshare = host.net.command("unshare");
    unshare.args(["--user", "--map-root-user", "--fork"]).arg(program("attacker")).arg("run");
    unshare.args(at_ports(&witness)).arg("abstract-sockets");
    let lines = lines(&run(&mut unshare, b"", Duration::from_secs(60)).expect(0).stdout);
    for name in [
        "bind-tcp",
        "bind-udp",
        "bind-tcp-shared",
        "bind-udp-shared",
        "bind-tcp-options",
        "bind-udp-options",
        "listen-any-port",
        "listen-unbound",
        "listen-dual-stack",
        "listen-on-device",
        "listen-after-connect",
        "socket-mptcp",
        "abstract-datagram",
        "abstract-sockets",
        "unix-paths-listed",
    ] {
        let line = lines.iter().find(|line| line.name == name);
        let line = line.unwrap_or_else(|| panic!("{name} was not tried"));
        assert_eq!(line.verdict.outcome, Outcome::Possible, "{line:?}");
    }
    assert!(sockets.was_reached());
}

#[test]
fn denied_services_are_out_of_reach_and_others_are_not() {
    let fleet = Fleet::new(&["web1"]);
    let host = up(&fleet, "private");
    let base = Listeners::on(&host.net);
    let portspace = format!("{}:7777", host.portspace("alpha/ids").address);
    let mut arguments = vec!["tcp-connect", "udp-exchange", "hub-services", "--tcp", &portspace];
    for address in [
        "127.0.0.1:7070",
        "127.8.9.10:7070",
        "0.0.0.0:7070",
        "[::ffff:127.0.0.1]:7070",
        "192.0.2.11:7070",
        "[::ffff:192.0.2.11]:7070",
    ] {
        arguments.extend(["--tcp", address, "--udp", address]);
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let answered = scope.spawn(|| base.answer(&done));
        let attacked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            expect_refused(&host.attack("shop", &arguments), &harmless(), &[]);
            // A server space that is denied nothing reaches it.
            host.attack("mail", &["tcp-connect", "--tcp", "192.0.2.11:7070"])
        }));
        done.store(true, Ordering::Relaxed);
        let allowed: Vec<Line> = attacked.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        assert_eq!(allowed[0].verdict.outcome, Outcome::Possible);
        assert_eq!(answered.join().unwrap(), 0);
    });
}

#[test]
fn unusual_ways_lead_no_further() {
    let fleet = Fleet::new(&["web1"]);
    let host = up(&fleet, "private");
    let base = Listeners::on(&host.net);
    let mut arguments = vec!["denied", "--port", "8001", "--port", "80"];
    for address in ["127.0.0.1:7070", "[::ffff:127.0.0.1]:7070", "192.0.2.11:7070"] {
        arguments.extend(["--tcp", address, "--udp", address]);
    }
    expect_refused(&host.attack("shop", &arguments), &harmless(), &[]);
    assert!(!base.was_reached());
    // One that is denied nothing gets there by each of them.
    let done = AtomicBool::new(false);
    let lines = std::thread::scope(|scope| {
        let answered = scope.spawn(|| base.answer(&done));
        let lines = host.attack("mail", &arguments);
        done.store(true, Ordering::Relaxed);
        assert!(answered.join().unwrap() > 0);
        lines
    });
    for line in lines.iter().filter(|line| line.name.starts_with("denied-")) {
        assert_eq!(line.verdict.outcome, Outcome::Possible, "{line:?}");
    }
}

/// Makes sockets before anything is denied, and tries them when it is told.
const EARLY: &str = r#"
import os, socket as s, time
def kind(k): x = s.socket(s.AF_INET, k); x.settimeout(2); return x
late, sender = kind(s.SOCK_STREAM), kind(s.SOCK_DGRAM)
open_ = kind(s.SOCK_STREAM); open_.connect(("127.0.0.1", 7070))
sender.connect(("127.0.0.1", 7070))
print("ready", flush=True)
while not os.path.exists("/tmp/go"): time.sleep(0.05)
for name, act in [("late", lambda: late.connect(("127.0.0.1", 7070))),
                  ("sender", lambda: sender.send(b"x")), ("open", lambda: open_.send(b"x"))]:
    try: act(); print(name, "possible", flush=True)
    except OSError as error: print(name, "refused", flush=True)
"#;

#[test]
fn a_denial_holds_for_sockets_that_were_there_before() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let base = Listeners::on(&host.net);
    let space = "command = [\"sleep\", \"1000\"]\nports = [\"tcp/8000\"]\n";
    host.up_shop(space);
    host.server_pid("shop");
    let early = host.start("shop", &["/usr/bin/python3", "-c", EARLY]);
    wait_until("the sockets are there", || early.output().contains("ready"));
    assert!(base.was_reached(), "the connection that is open");
    let up = host.up_shop(&format!("{space}deny = [\"tcp/7070\", \"udp/7070\"]\n"));
    assert!(up.stderr.contains("shop changed"), "{up:?}");
    host.shell("shop", "touch /tmp/go");
    let (_, output) = early.finish(Duration::from_secs(20));
    for line in ["late refused", "sender refused", "open possible"] {
        assert!(output.contains(line), "{line}: {output}");
    }
    assert!(!base.was_reached());
}

#[test]
fn no_process_of_a_neighbour_can_be_touched() {
    for ids in IDS {
        let fleet = Fleet::new(&["web1"]);
        let host = up(&fleet, ids);
        let victim = Running::start(Command::new("sleep").arg("4321"));
        let targets = [
            format!("{}:sleep 4321", victim.pid()),
            format!("{}:hyperspector", host.agent()),
            format!("{}:nc -l", host.pid("alpha/ids")),
            format!("{}:nc -l", host.server_pid("mail")),
        ];
        for target in &targets {
            let lines = host.attack("shop", &[VICTIM, &["--victim", target]].concat());
            expect_refused(&lines, &[], &[]);
        }
        assert_eq!(host.wait_server("shop", "running").restarts, 0);
        assert_eq!(host.portspace("alpha/ids").state, "running");
    }
}

/// The attempts on the process that is named.
const VICTIM: &[&str] = &[
    "victim-signal",
    "victim-pidfd",
    "victim-ptrace",
    "victim-memory-write",
    "victim-priority",
    "victim-affinity",
    "victim-limits",
];

/// What a server can do in a directory that is mounted for it read-only: run its programs, and speak
/// to whoever listens there. Locks are the files' own.
fn is_what_a_mount_is_for(name: &str) -> bool {
    let speaks = name.starts_with("socket-stream") || name.starts_with("socket-datagram");
    let locks = name.starts_with("flock") || name.ends_with("-read-lock");
    let others = ["file-execute", "file-mmap-exec", "socket-high-bits"];
    speaks || locks || name.starts_with("fifo") || others.contains(&name)
}

#[test]
fn a_directory_that_is_mounted_read_only_stays_as_it_is() {
    for ids in IDS {
        let fleet = Fleet::new(&["web1"]);
        let host = fleet.host("web1");
        let files = ServerFiles::make(&fleet.dir().join("site"));
        let before = files.snapshot();
        host.up_shop(&format!(
            "command = [\"sleep\", \"1000\"]\nids = \"{ids}\"\n\
             mount = [{{ from = {:?}, to = \"/srv/site\" }}]\n",
            files.path()
        ));
        host.server_pid("shop");
        let lines = host.attack("shop", &["files", "namespaces", "--files", "/srv/site"]);
        assert_eq!(files.snapshot(), before);
        let (meant, other): (Vec<_>, Vec<_>) =
            lines.into_iter().partition(|line| is_what_a_mount_is_for(&line.name));
        expect_refused(&other, &[], &["hidden-paths"]);
        assert!(meant.iter().any(|line| line.verdict.outcome == Outcome::Possible));
    }
}
