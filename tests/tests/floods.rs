//! A server space that floods what is read of it, and the IDSs of another server, which go on.

use std::time::{Duration, Instant};

use hyperspector_tests::{Fleet, TestHost, patience, wait_until};
use serde_json::Value;

/// Binds the place of syslog, and writes each message as a line.
const READER: &str = r#"
import socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind("/run/log.socket")
with open("/var/log/all", "ab", 0) as f:
    while True:
        f.write(s.recv(65536) + b"\n")
"#;

/// Writes messages as fast as it can, for 15 seconds.
const FLOOD: &str = r#"
import socket, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect("/dev/log")
end = time.monotonic() + 15
while time.monotonic() < end:
    for _ in range(200):
        s.send(b"<13>flood " + b"x" * 900)
"#;

const SEND: &str = r#"
import socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect("/dev/log")
for n in range(2000):
    s.send(b"<13>mail %d end" % n)
"#;

fn spec(host: &TestHost) {
    let portspace = |name: &str, server: &str| {
        format!(
            "[hyperspector.alpha.portspace.{name}]\non = [\"web1\"]\n\
             command = [\"python3\", \"-c\", '''{READER}''']\nwatch.processes = [\"{server}\"]\n\
             watch.changes = [\"{server}\"]\n\
             watch.sockets = [{{ server = \"{server}\", path = \"/dev/log\" }}]\n\n"
        )
    };
    let server = |name: &str| {
        format!(
            "[server.{name}]\non = [\"web1\"]\ncommand = [\"sleep\", \"1000\"]\n\
             limits.pids = 300\n\n"
        )
    };
    let text = format!(
        "[host.web1]\n\n{}{}[hyperspector.alpha]\nnetwork = \"10.66.0.0/16\"\n\n{}{}",
        server("shop"),
        server("mail"),
        portspace("loud", "shop"),
        portspace("calm", "mail"),
    );
    host.up(&host.spec(&text));
}

fn facts(host: &TestHost, portspace: &str, server: &str) -> Value {
    let text = host.shell(portspace, &format!("cat /.serverproc/{server}.json"));
    serde_json::from_str(&text).unwrap()
}

/// How many processes there are, those that are not listed among them.
fn processes(facts: &Value) -> usize {
    let left_out = facts["left_out"].as_u64().unwrap();
    facts["processes"].as_array().unwrap().len() + usize::try_from(left_out).unwrap()
}

/// Starts a process, and expects it among the facts although the machine is busy with a flood.
fn expect_seen(host: &TestHost, (portspace, server): (&str, &str), seconds: &str) {
    let line = format!("sleep {seconds} >/dev/null 2>&1 & echo >/var/tmp/new");
    host.exec(server, &["sh", "-c", &line]).expect(0);
    let started = Instant::now();
    wait_until(&format!("the new process of {server}"), || {
        facts(host, portspace, server).to_string().contains(&format!("{seconds:?}"))
    });
    let took = started.elapsed();
    assert!(took < patience(Duration::from_secs(8)), "{server}'s was seen after {took:?}");
}

#[test]
fn the_idss_of_other_servers_go_on() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    spec(host);
    for (portspace, server) in [("alpha/loud", "shop"), ("alpha/calm", "mail")] {
        wait_until("readers listen", || {
            host.exec(server, &["logger", "hello"]);
            host.shell(portspace, "cat /var/log/all 2>/dev/null || true").contains("hello")
        });
    }
    // Messages by four processes, files and processes by two more, up to the limit.
    let script = format!(
        "for n in 1 2 3 4; do python3 -c '{FLOOD}' & done\n\
         (end=$(($(date +%s) + 15)); n=0; while [ $(date +%s) -lt $end ]; do n=$((n + 1)); : >/var/tmp/$n; done) &\n\
         n=0; while [ $n -lt 250 ]; do n=$((n + 1)); sleep 20 & done; wait"
    );
    let flood = host.start("shop", &["timeout", "20", "sh", "-c", &script]);
    wait_until("the flood is there", || {
        processes(&facts(host, "alpha/loud", "shop")) > 200
            && host.shell("alpha/loud", "wc -c </var/log/all").trim().parse::<u64>().unwrap()
                > 1 << 20
    });
    host.exec("mail", &["python3", "-c", SEND]).expect(0);
    expect_seen(host, ("alpha/calm", "mail"), "777");
    // In the midst of the flood itself, too.
    expect_seen(host, ("alpha/loud", "shop"), "888");
    wait_until("all messages of the other server", || {
        let text = host.shell("alpha/calm", "cat /var/log/all");
        (0..2000).all(|n| text.contains(&format!("mail {n} end")))
    });
    wait_until("the other server's changes", || {
        host.shell("alpha/calm", "ls /.dserverfs/mail/var/tmp 2>/dev/null || true").contains("new")
    });
    let (_, output) = flood.finish(Duration::from_secs(40));
    assert!(!output.contains("refused"), "{output}");
    assert!(!host.shell("alpha/calm", "cat /var/log/all").contains("flood"));
}
