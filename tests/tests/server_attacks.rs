//! What a server space's root can do to the rest of the machine, and to other server spaces.

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::Command;

use hyperspector_tests::{Fleet, Running, TestHost, expect_refused};

const SLEEP: &str = "command = [\"sleep\", \"1000\"]\n";

/// What may be possible, each with the reason.
const HARMLESS: &[&str] = &[
    // A filter of one's own only takes away.
    "seccomp-listener",
    // Memory of its own that the kernel cannot read either; it counts as locked memory.
    "memfd-secret",
];

/// What needs a window, or a target that these tests do not give.
const UNTRIED: &[&str] = &[
    "init-kill",
    "remount-writable",
    "mount-setattr-writable",
    "umount-window",
    "ring-receive-too-large",
    "ring-receive-many",
    "fanout-foreign-group",
    "bind-unwatched",
];

/// Everything that needs no file window.
const GROUPS: [&str; 3] = ["namespaces", "packets", "processes"];

/// Runs a line of python inside; the exit code.
#[track_caller]
fn python(host: &TestHost, name: &str, line: &str) -> hyperspector_tests::Output {
    host.exec(name, &["/usr/bin/python3", "-c", line])
}

/// Fails the test unless the line fails in this way.
#[track_caller]
fn refused(host: &TestHost, name: &str, line: &str, why: &str) {
    let output = python(host, name, line);
    assert_ne!(output.code, Some(0), "possible: {line}");
    assert!(output.stderr.contains(why), "{line}: {}", output.stderr);
}

#[test]
fn nothing_outside_can_be_touched() {
    for ids in ["private", "host"] {
        let fleet = Fleet::new(&["web1"]);
        let host = fleet.host("web1");
        host.up_shop(&format!("{SLEEP}ids = \"{ids}\"\nports = [\"tcp/80\"]\n"));
        host.server_pid("shop");
        let mut victim = Running::start(Command::new("sleep").arg("4321"));
        let target = format!("{}:sleep 4321", victim.pid());
        let arguments = [&["--victim", &target], &GROUPS[..]].concat();
        let lines = host.attack("shop", &arguments);
        assert!(victim.runs(), "ids = {ids}");
        expect_refused(&lines, HARMLESS, UNTRIED);
        assert_eq!(host.server_space("shop").state, "running");
    }
}

#[test]
fn ports_are_its_own_alone() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let name = host.name();
    let space = |server: &str, port: u16| {
        format!("[server.{server}]\non = [\"{name}\"]\n{SLEEP}ports = [\"tcp/{port}\"]\n")
    };
    let text = format!("[host.{name}]\n{}{}", space("shop", 80), space("mail", 25));
    let spec = host.spec(&text);
    host.up(&spec);
    let bind = |port: u16, options: &str| {
        format!(
            "import socket as s; x = s.socket(); {options}; x.bind(('0.0.0.0', {port})); x.listen()"
        )
    };
    python(host, "shop", &bind(80, "0")).expect(0);
    python(host, "mail", &bind(25, "0")).expect(0);
    for (server, port) in [("shop", 25), ("mail", 80), ("shop", 8080)] {
        for options in ["0", "x.setsockopt(s.SOL_SOCKET, s.SO_REUSEPORT, 1)"] {
            refused(host, server, &bind(port, options), "Permission denied");
        }
    }
    assert_eq!(host.server_space("shop").refused["binds"], 4);
    let text = host.hyperspector(&["status"]).text();
    assert!(text.contains("refused to bind: 4 times (tcp/25, tcp/8080)"), "{text}");
}

#[test]
fn sockets_of_the_base_system_are_out_of_reach() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let name = format!("hs-base-{}", std::process::id());
    let base = host.net.within(|| {
        UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap()
    });
    base.set_nonblocking(true).unwrap();
    let local = host.net.within(|| std::net::TcpListener::bind("127.0.0.1:5432").unwrap());
    local.set_nonblocking(true).unwrap();
    host.up_shop(&format!("{SLEEP}ports = [\"tcp/80\"]\ndeny = [\"tcp/5432\"]\n"));
    let connect = format!("import socket as s; s.socket(s.AF_UNIX).connect('\\0{name}')");
    refused(host, "shop", &connect, "Operation not permitted");
    assert!(base.accept().is_err(), "the base system's abstract socket was reached");
    // One in the base system's files has just its name in an overlay.
    let files = tempfile::tempdir_in("/var/tmp").unwrap();
    fs::set_permissions(files.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = files.path().join("socket");
    let named = UnixListener::bind(&path).unwrap();
    named.set_nonblocking(true).unwrap();
    let connect = format!("import socket as s; s.socket(s.AF_UNIX).connect({path:?})");
    refused(host, "shop", &connect, "Connection refused");
    assert!(named.accept().is_err(), "the base system's socket was reached");
    // Its own are its own.
    let own = "import socket as s; a = s.socket(s.AF_UNIX); a.bind('\\0own'); a.listen(); \
               s.socket(s.AF_UNIX).connect('\\0own')";
    python(host, "shop", own).expect(0);
    // What is denied on loopback, by whatever address.
    for address in ["127.0.0.1", "0.0.0.0", host.address()] {
        let connect = format!(
            "import socket as s; x = s.socket(); x.settimeout(2); x.connect(('{address}', 5432))"
        );
        let output = python(host, "shop", &connect);
        assert_ne!(output.code, Some(0), "{address}");
    }
    assert!(local.accept().is_err(), "a denied service was reached");
    // The network is read and not changed; diagnosis of the host's sockets is refused.
    host.shell("shop", "ip link show lo");
    for line in
        ["ip link set lo down", "ip address add 192.0.2.99/24 dev eth0", "ip link add x type dummy"]
    {
        let changed = host.exec("shop", &["sh", "-c", line]);
        assert!(changed.stderr.contains("Operation not permitted"), "{line}: {changed:?}");
    }
    let diagnosis = "import socket as s; s.socket(s.AF_NETLINK, s.SOCK_DGRAM, 4)";
    refused(host, "shop", diagnosis, "Protocol not supported");
    for raw in
        ["s.AF_INET, s.SOCK_RAW, 1", "s.AF_PACKET, s.SOCK_RAW, 3", "s.AF_INET, s.SOCK_STREAM, 262"]
    {
        let line = format!("import socket as s; s.socket({raw})");
        assert_ne!(python(host, "shop", &line).code, Some(0), "{raw}");
    }
}

#[test]
fn hyperspector_s_own_files_and_other_spaces_do_not_show() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let (dir, name) = (fleet.dir().to_owned(), host.name());
    let root = fleet.root();
    let spec = host.spec(&format!(
        "[host.{name}]\n[server.shop]\non = [\"{name}\"]\n{SLEEP}\
         mount = [{{ from = {dir:?}, to = \"/mnt/dir\" }}]\n\
         [server.other]\non = [\"{name}\"]\n{SLEEP}\
         [hyperspector.alpha]\nnetwork = \"10.66.0.0/16\"\n\
         [hyperspector.alpha.portspace.ids]\non = [\"{name}\"]\n{SLEEP}root = {:?}\n",
        root.path()
    ));
    host.up(&spec);
    host.shell("other", "echo secret > /srv/of-other");
    // In the directory that holds them they are empty; in its own root there is none.
    let own = format!("/mnt/dir/{name}");
    assert_eq!(host.shell("shop", &format!("ls -A {own}/state {own}/run | grep -v : | xargs")), "");
    assert_eq!(host.shell("shop", "ls -A /var/lib/hyperspector-ids"), "");
    assert_eq!(host.shell("shop", "find / -xdev -name of-other 2>/dev/null | head -1"), "");
    let found = host.shell("shop", "find / -name '*.sock' -path '*init*' 2>/dev/null | head -1");
    assert_eq!(found, "");
    // Its processes are the only ones.
    let processes = host.shell("shop", "cat /proc/[0-9]*/comm | sort -u | xargs");
    assert!(!processes.contains("hyperspector-a") && !processes.contains("redis"), "{processes}");
    let count: usize = host.shell("shop", "ls -d /proc/[0-9]* | wc -l").parse().unwrap();
    assert!(count < 8, "{count}");
    // A directory that holds them cannot be mounted writable.
    let spec = host.shop(&format!(
        "{SLEEP}mount = [{{ from = {dir:?}, to = \"/mnt/dir\", mode = \"rw\" }}]\n"
    ));
    let failed = host.try_up(&spec).expect(3);
    assert!(failed.stderr.contains("it holds"), "{failed:?}");
    assert!(fs::metadata(host.state_dir()).is_ok());
}
