//! A server whose file system answers nobody costs itself its windows, and nobody else anything.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use hyperspector_tests::{
    ControlGroup, Fleet, Hung, Moody, Service, TestHost, patience, wait_until,
};

/// Binds the place that its name says, and writes each message as a line.
const READER: &str = r#"
import os, socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind("/run/log.socket")
with open("/var/log/all", "ab", 0) as f:
    while True:
        f.write(s.recv(65536) + b"\n")
"#;

/// How long the agent may take to say how it is. A path that it resolved itself, or a process that it
/// waited for, would keep it as long as the file system is dead.
const SOON: Duration = Duration::from_secs(1);

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

/// Kills the agent, and starts another.
fn exchange_agent(host: &TestHost) -> Child {
    let agent = host.agent();
    end(agent);
    wait_until("the agent is gone", || !Path::new(&format!("/proc/{agent}")).exists());
    let next = host.command().arg("agent").spawn().unwrap();
    wait_until("another agent", || matches!(host.hyperspector(&["status"]).code, Some(0 | 3)));
    next
}

/// Kills a process of the test's own.
fn end(pid: i32) {
    // SAFETY: kill takes integers.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
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
    end(init);
    expect_answers(host);
    wait_until("the pid file is waited for, and not by the agent", || {
        reason(host, "daemon").is_some_and(|why| why.contains("does not answer"))
    });
    std::thread::sleep(Duration::from_secs(6));
    eprintln!(
        "{}\n{}",
        host.hyperspector(&["status"]).all(),
        std::fs::read_to_string(host.state_dir().join("agent.log")).unwrap()
    );
    wait_until("the server space says why it is not there", || {
        host.hyperspector(&["status"]).all().contains("a file system does not answer")
    });
    wait_until("the server's own window says so", || {
        let status = host.hyperspector(&["status"]).all();
        status.contains("file system does not answer")
    });
    expect_read(host, "alpha/calm", &files.join("log"), "three");
    // One more is made meanwhile, and goes the same way.
    let mut next = exchange_agent(host);
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

#[test]
fn a_file_system_that_goes_mute_while_a_space_is_built_holds_up_nobody_else() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let volume = fleet.dir().join("volume");
    std::fs::create_dir(&volume).unwrap();
    // The worker that looks at the volume is not in the space's cgroup, and its builder is.
    let moody = Moody::mount(&volume, "/moody");
    let server = |name: &str, more: &str| {
        format!("[server.{name}]\non = [\"web1\"]\ncommand = [\"sleep\", \"1000\"]\n{more}\n")
    };
    let mount = format!("mount = [{{ from = {volume:?}, to = \"/volume\" }}]\n");
    let moods = server("moody", &format!("restart = \"always\"\nids = \"host\"\n{mount}"));
    let ids = format!(
        "[hyperspector.alpha.portspace.moody-ids]\non = [\"web1\"]\nids = \"host\"\ncommand = [\"sleep\", \"1000\"]\n{mount}"
    );
    let alpha = "[hyperspector.alpha]\nnetwork = \"10.66.0.0/16\"\n";
    let spec = |more: &str| {
        host.spec(&format!(
            "[host.web1]\n{moods}\n{}\n{alpha}{ids}\n{more}",
            server("calm", "restart = \"always\"")
        ))
    };
    host.up(&spec(""));
    let inits = || ["moody", "calm"].map(|name| host.server_space(name).init_pid);
    let portspace = || host.portspace("alpha/moody-ids").init_pid;
    let (before, before_inside) = (inits().map(Option::unwrap), portspace().unwrap());

    moody.go_mute();
    end(before[0]);
    end(before_inside);
    expect_answers(host);
    wait_until("the space says what it waits for", || {
        host.server_space("moody").reason.is_some_and(|why| why.contains("root is built"))
    });
    assert_eq!([inits()[0], portspace()], [None, None]);
    // Others are looked after meanwhile, and one that is new comes up.
    end(before[1]);
    wait_until("the other is made again", || inits()[1].is_some_and(|now| now != before[1]));
    expect_answers(host);

    // The next agent knows that they are half made: it ends them, which waits too, and makes no others.
    let mut next = exchange_agent(host);
    expect_answers(host);
    assert_eq!([inits()[0], portspace()], [None, None]);
    assert!(inits()[1].is_some());

    drop(moody);
    wait_until("the server space is made again", || inits()[0].is_some());
    wait_until("the portspace is made again", || portspace().is_some());
    host.down();
    next.wait().unwrap();
}
