//! The attacker sees success where there is no protection: in a user and network namespace of its
//! own, with a server's directory as it is on the host.

use std::process::Command;
use std::time::Duration;

use hyperspector_tests::attacker::{Line, Outcome};
use hyperspector_tests::{Running, ServerFiles, lines, program, run};

fn attack(arguments: &[&str]) -> Vec<Line> {
    let mut unshare = Command::new("unshare");
    let script = "ip link set lo up; exec \"$@\"";
    unshare.args(["--user", "--map-root-user", "--net", "--fork", "sh", "-c", script, "sh"]);
    unshare.arg(program("attacker")).arg("run").args(arguments);
    lines(&run(&mut unshare, b"", Duration::from_secs(60)).expect(0).stdout)
}

#[track_caller]
fn expect_possible(lines: &[Line], names: &[&str]) {
    for name in names {
        let line = lines.iter().find(|line| line.name == *name);
        let line = line.unwrap_or_else(|| panic!("{name} was not tried"));
        assert_eq!(line.verdict.outcome, Outcome::Possible, "{line:?}");
    }
}

#[test]
fn files_that_are_not_protected_are_seen_to_be_touched() {
    let dir = tempfile::Builder::new().prefix("hs-t0-").tempdir().unwrap();
    let files = ServerFiles::make(&dir.path().join("site"));
    let before = files.snapshot();
    let hidden = files.target().join("root-only.txt").display().to_string();
    let place = files.path().display().to_string();
    let lines = attack(&["files", "--files", &place, "--hidden", &hidden]);
    expect_possible(
        &lines,
        &[
            "file-open-write",
            "file-open-path-reopen",
            "file-create",
            "file-truncate",
            "file-chmod",
            "file-utimes",
            "file-link",
            "file-unlink",
            "file-rename",
            "file-mmap-exec",
            "file-execute",
            "device-open-read",
            "fifo-open-write",
            "fifo-read",
            "socket-stream-connect",
            "socket-datagram-connect",
            "socket-datagram-send",
            "socket-stream-relative",
            "socket-stream-descriptor",
            "socket-stream-dots",
            "socket-stream-race",
            "socket-datagram-many",
            "socket-high-bits",
            "flock-exclusive",
            "lease-read",
            "hidden-paths",
        ],
    );
    assert_ne!(files.snapshot(), before, "and the test sees it too");
    assert_ne!(files.reached(), [""; 0]);
}

#[test]
fn packets_that_are_not_guarded_are_seen_to_leave() {
    let lines = attack(&["packets", "--fanout", "7", "--ring-limit", "8388608"]);
    expect_possible(
        &lines,
        &[
            "packet-send-bound",
            "packet-sendto",
            "packet-sendmsg",
            "packet-sendmmsg",
            "packet-write",
            "packet-writev",
            "packet-sendfile",
            "packet-splice",
            "packet-aio",
            "packet-datagram-sendto",
            "packet-mark-cleared",
            "packet-qdisc-bypass",
            "packet-bypass-high-bits",
            "packet-new-interfaces",
            "packet-old-socket",
            "packet-set-mark",
            "ring-transmit",
            "ring-receive-too-large",
            "ring-receive-many",
            "fanout-foreign-group",
            "diag-packet",
            "ioctl-packet-flags",
            "netlink-link-new",
            "netlink-address",
            "bind-transparent",
            "raw-ip-foreign-source",
        ],
    );
}

#[test]
fn processes_that_are_not_hidden_are_seen_to_be_touched() {
    let victim = Running::start(Command::new("sleep").arg("4321"));
    let target = format!("{}:sleep 4321", victim.pid());
    let lines = attack(&["processes", "namespaces", "--victim", &target]);
    expect_possible(
        &lines,
        &[
            "victim-signal",
            "victim-pidfd",
            "signal-every-pid",
            "foreign-proc-entries",
            "ptrace-child",
            "no-new-privs-clear",
            "seccomp-listener",
            "unshare-user",
            "clone3-user",
            "clone-net",
        ],
    );
}
