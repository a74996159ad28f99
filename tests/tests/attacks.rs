//! What a portspace's root can do to the rest of the machine: processes, the kernel, the network,
//! other portspaces.
//!
//! ```text
//!   hs-t….web1: 192.0.2.11, listeners on it          hs-t….switch: 192.0.2.1, listeners on it
//!   alpha/ids, alpha/other, beta/ids                  (the outside world)
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyperspector_tests::attacker::Line;
use hyperspector_tests::{Fleet, Listeners, Running, TestHost, expect_refused};

const SPEC: &str = r#"
[host.web1]

[hyperspector.alpha]
network = "10.66.0.0/16"
port = 51820

[hyperspector.alpha.portspace.ids]
on = ["web1"]
command = ["sleep", "1000"]
IDS

[hyperspector.beta]
network = "10.66.0.0/16"
port = 51821

[hyperspector.beta.portspace.ids]
on = ["web1"]
command = ["sh", "-c", "while true; do echo hello | nc -l -p 7777; done"]
ROOT
"#;

fn up<'a>(fleet: &'a Fleet, ids: &str) -> &'a TestHost {
    let host = fleet.host("web1");
    let root = format!("root = \"{}\"", fleet.root().path().display());
    let ids = format!("ids = \"{ids}\"");
    let spec = host.spec(&SPEC.replace("IDS", &ids).replace("ROOT", &root));
    host.up(&spec);
    host.pid("alpha/ids");
    host
}

/// What may be possible, each with the reason.
const HARMLESS: &[&str] = &[
    // A filter of one's own only takes away, and a second listener beside the broker's is refused
    // (tests/packets.rs).
    "seccomp-listener",
    // Memory of its own that the kernel cannot read either; it counts as locked memory.
    "memfd-secret",
];

/// What needs a target that these tests do not give.
const UNTRIED: &[&str] = &["init-kill"];

#[test]
fn no_process_outside_can_be_touched() {
    for ids in ["private", "host"] {
        let fleet = Fleet::new(&["web1"]);
        let host = up(&fleet, ids);
        let mut victim = Running::start(std::process::Command::new("sleep").arg("4321"));
        let target = format!("{}:sleep 4321", victim.pid());
        let lines = host.attack("alpha/ids", &["processes", "--victim", &target]);
        assert!(victim.runs(), "ids = {ids}");
        // The command inside is a sleep as well, of another length.
        expect_refused(&lines, HARMLESS, UNTRIED);
        assert_eq!(host.portspace("alpha/ids").state, "running");
    }
}

#[test]
fn the_attacker_as_the_command_itself_is_refused_as_well() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let root = fleet.root();
    host.up_alpha(&format!(
        "[hyperspector.alpha.portspace.ids]\non = [\"web1\"]\nrestart = \"never\"\n\
         root = \"{}\"\n\
         command = [\"sh\", \"-c\", \"attacker run namespaces processes; echo finished\"]\n",
        root.path().display()
    ));
    host.wait_log("alpha/ids", "finished");
    let log = host.logs("alpha/ids");
    let report: Vec<&str> =
        log.lines().filter_map(|line| line.find('{').map(|at| &line[at..])).collect();
    let lines: Vec<Line> = hyperspector_tests::lines(&report.join("\n"));
    let untried = [
        "init-kill",
        "remount-writable",
        "mount-setattr-writable",
        "umount-window",
        "victim-signal",
        "victim-pidfd",
        "victim-ptrace",
        "victim-memory-write",
        "victim-priority",
        "victim-affinity",
        "victim-limits",
    ];
    expect_refused(&lines, HARMLESS, &untried);
}

#[test]
fn neither_the_host_nor_the_outside_nor_another_hyperspector_can_be_reached() {
    let fleet = Fleet::new(&["web1"]);
    fleet.switch().ip(&["address", "add", "192.0.2.1/24", "dev", "br0"]);
    let host = up(&fleet, "private");
    let outside = Listeners::on(fleet.switch());
    let base = Listeners::on(&host.net);
    let beta = host.portspace("beta/ids").address;
    let own = host.portspace("alpha/ids").address;
    assert_eq!(
        host.exec("beta/ids", &["nc", "-w", "2", &beta, "7777"]).stdout.trim(),
        "hello",
        "the target listens"
    );
    let mut arguments = vec!["network".to_owned()];
    for address in ["192.0.2.1", "192.0.2.11", "10.66.0.1"] {
        let target = format!("{address}:{}", base.port);
        arguments.extend(["--tcp".into(), target.clone(), "--udp".into(), target]);
    }
    // The address may be alpha's own too: then nothing listens there.
    arguments.extend(["--tcp".into(), format!("{beta}:7777")]);
    arguments.extend(["--tcp".into(), format!("{own}:7070")]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = AtomicBool::new(false);
    let lines = std::thread::scope(|scope| {
        scope.spawn(|| outside.answer(&done));
        scope.spawn(|| base.answer(&done));
        let lines = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            host.attack("alpha/ids", &arguments)
        }));
        done.store(true, Ordering::Relaxed);
        lines.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    expect_refused(&lines, HARMLESS, &[]);
    assert!(!outside.was_reached(), "the outside was reached");
    assert!(!base.was_reached(), "the base system was reached");
}

#[test]
fn a_portspace_cannot_be_reached_from_its_host() {
    let fleet = Fleet::new(&["web1"]);
    let host = up(&fleet, "private");
    let address = host.portspace("beta/ids").address;
    let mut nc = host.net.command("/bin/busybox");
    let line = ["nc", "-w", "1", &address, "7777"];
    let got = hyperspector_tests::run(nc.args(line), b"", Duration::from_secs(5));
    assert_eq!(got.stdout, "", "the base system reaches a portspace");
}

#[test]
fn the_base_system_listens_on_no_tcp_port() {
    let fleet = Fleet::new(&["web1"]);
    let host = up(&fleet, "private");
    let listening =
        host.net.within(|| std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap());
    let listening: Vec<&str> =
        listening.lines().skip(1).filter(|line| line.contains(" 0A ")).collect();
    assert_eq!(listening, [""; 0]);
}
