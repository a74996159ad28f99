//! A server whose file system answers nobody costs itself its windows, and nobody else anything.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use hyperspector_tests::{ControlGroup, Fleet, Hung, Service, TestHost, patience, wait_until};

/// Binds the place that its name says, and writes each message as a line.
const READER: &str = r#"
import os, socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind("/run/log.socket")
with open("/var/log/all", "ab", 0) as f:
    while True:
        f.write(s.recv(65536) + b"\n")
"#;

/// How long the agent may take to say how it is: it waits a little for what it makes again. A path that
/// it resolved itself would keep it as long as the file system is dead.
const SOON: Duration = Duration::from_secs(3);

fn spec(host: &TestHost, groups: [&ControlGroup; 2], files: &Path) {
    let portspace = |name: &str, server: &str, path: &Path| {
        format!(
            "[hyperspector.alpha.portspace.{name}]\non = [\"web1\"]\n\
             command = [\"python3\", \"-c\", '''{READER}''']\nwatch.changes = [\"{server}\"]\n\
             watch.files = [\"{server}\"]\nwatch.processes = [\"{server}\"]\n\
             watch.sockets = [{{ server = \"{server}\", path = {path:?}, to = \"/dev/log\" }}]\n\n"
        )
    };
    let text = format!(
        "[host.web1]\n[server.shop]\non = [\"web1\"]\nadopt = {{ cgroup = \"{}\" }}\n\
         [server.mail]\non = [\"web1\"]\nadopt = {{ cgroup = \"{}\" }}\n\
         [server.files]\non = [\"web1\"]\nadopt = {{ directory = {:?} }}\n\
         [server.daemon]\non = [\"web1\"]\nadopt = {{ pid_file = {:?} }}\n\
         [server.space]\non = [\"web1\"]\ncommand = [\"sleep\", \"1000\"]\n\
         restart = \"always\"\nmount = [{{ from = {:?}, to = \"/volume\" }}]\n\
         [hyperspector.alpha]\nnetwork = \"10.66.0.0/16\"\n\n{}{}\
         [hyperspector.alpha.portspace.fim]\non = [\"web1\"]\ncommand = [\"sleep\", \"1000\"]\n\
         watch.changes = [\"files\", \"daemon\"]\nwatch.files = [\"files\", \"daemon\"]\n",
        groups[0].name(),
        groups[1].name(),
        files.join("dead/tree"),
        files.join("dead/pid"),
        files.join("dead/volume"),
        portspace("loud", "shop", &files.join("dead/log")),
        portspace("calm", "mail", &files.join("log")),
    );
    host.up(&host.spec(&text));
}

/// What a reader has.
fn read(host: &TestHost, portspace: &str) -> String {
    host.shell(portspace, "cat /var/log/all 2>/dev/null || true")
}

/// Sends a message until the reader has it.
fn expect_read(host: &TestHost, portspace: &str, path: &Path, text: &str) {
    wait_until(&format!("{portspace} reads {text}"), || {
        let _ = UnixDatagram::unbound().unwrap().send_to(text.as_bytes(), path);
        read(host, portspace).contains(text)
    });
}

/// Why a server is down.
fn reason(host: &TestHost, server: &str) -> Option<String> {
    let servers = host.status().servers;
    servers.into_iter().find(|one| one.name == server).unwrap().reason
}

/// Asks for the status for five seconds, and fails where an answer takes too long.
fn expect_answers(host: &TestHost) {
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        let start = Instant::now();
        host.status();
        let took = start.elapsed();
        assert!(took < patience(SOON), "the agent took {took:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_file_system_that_does_not_answer_holds_up_nobody_else() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let files = fleet.dir().join("files");
    let dead = files.join("dead");
    for name in ["tree", "volume"] {
        std::fs::create_dir_all(dead.join(name)).unwrap();
    }
    let names = ["shop", "mail"].map(|name| format!("{}.{name}", host.net.name()));
    let groups = names.each_ref().map(|name| ControlGroup::make(name));
    // One of them in the host's own mounts, where the dead file system comes to be.
    let mut shop = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    groups[0].add(shop.id().cast_signed());
    let mail = Service::start(":");
    groups[1].add(mail.pid());
    let daemon = Service::start(":");
    std::fs::write(dead.join("pid"), daemon.pid().to_string()).unwrap();
    spec(host, [&groups[0], &groups[1]], &files);
    assert_eq!(reason(host, "daemon"), None);
    let init = host.server_space("space").init_pid.unwrap();
    expect_read(host, "alpha/loud", &dead.join("log"), "one");
    expect_read(host, "alpha/calm", &files.join("log"), "two");

    let hung = Hung::mount(&dead);
    // What is looked for anew, and what is made anew, is there.
    drop(daemon);
    // SAFETY: kill takes integers; the process is the test's own server space's.
    unsafe { libc::kill(init, libc::SIGKILL) };
    expect_answers(host);
    wait_until("the pid file is waited for, and not by the agent", || {
        reason(host, "daemon").is_some_and(|why| why.contains("does not answer"))
    });
    wait_until("the server space says why it is not there", || {
        host.hyperspector(&["status"]).all().contains("a file system does not answer")
    });
    wait_until("the server's own window says so", || {
        let status = host.hyperspector(&["status"]).all();
        status.contains("file system does not answer")
    });
    expect_read(host, "alpha/calm", &files.join("log"), "three");
    // One more is made meanwhile, and goes the same way.
    let agent = host.agent();
    std::process::Command::new("kill").args(["-9", &agent.to_string()]).status().unwrap();
    wait_until("the agent is gone", || !Path::new(&format!("/proc/{agent}")).exists());
    let mut next = host.command().arg("agent").spawn().unwrap();
    wait_until("another agent", || matches!(host.hyperspector(&["status"]).code, Some(0 | 3)));
    expect_answers(host);
    expect_read(host, "alpha/calm", &files.join("log"), "four");

    drop(hung);
    expect_read(host, "alpha/loud", &dead.join("log"), "five");
    wait_until("the server space is made again", || {
        host.server_space("space").init_pid.is_some_and(|now| now != init)
    });
    let daemon = Service::start(":");
    std::fs::write(dead.join("pid"), daemon.pid().to_string()).unwrap();
    wait_until("the daemon is found again", || reason(host, "daemon").is_none());
    shop.kill().unwrap();
    shop.wait().unwrap();
    host.down();
    next.wait().unwrap();
    for path in [dead.join("log"), files.join("log")] {
        assert!(!path.exists(), "{} is left", path.display());
    }
}
