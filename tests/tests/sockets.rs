//! The sockets windows, with real programs at both ends: `logger`, syslog(3) of the C library, rsyslog
//! and syslog-ng.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{lchown, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use hyperspector_tests::{
    ControlGroup, Fleet, Running, Service, TestHost, debian_root, wait_until,
};

/// How many messages are counted at both ends.
const MESSAGES: usize = 100_000;

/// Sends the lines `first..=last` through `logger`, and as many through syslog(3).
const SEND: &str = r#"
(seq -f 'logger %06.0f end' $1 $2 | logger -t count) &
python3 -c '
import sys, syslog
syslog.openlog("count")
for n in range(int(sys.argv[1]), int(sys.argv[2]) + 1):
    syslog.syslog("glibc %06d end" % n)
' $1 $2
wait
"#;

const RSYSLOG: &str = r#"
module(load="imuxsock" SysSock.Name="/run/log.socket" SysSock.RateLimit.Interval="0")
main_queue(queue.type="direct")
template(name="plain" type="string" string="%programname% %msg%\n")
*.* action(type="omfile" file="/var/log/all" template="plain" asyncWriting="off")
"#;

const SYSLOG_NG: &str = r#"@version: 3.38
options { stats-freq(0); mark-freq(0); };
source s { unix-dgram("/run/log.socket"); };
destination d { file("/var/log/all" template("${PROGRAM} ${MESSAGE}\n")); };
log { source(s); destination(d); };
"#;

/// The command, root and configuration of a reader.
fn reader(fleet: &Fleet, name: &str) -> String {
    let (package, config, command) = match name {
        "rsyslog" => {
            ("rsyslog", RSYSLOG, r#"["rsyslogd", "-n", "-i", "NONE", "-f", "/etc/ids/c"]"#)
        }
        "syslog-ng" => {
            ("syslog-ng-core", SYSLOG_NG, r#"["syslog-ng", "-F", "--no-caps", "-f", "/etc/ids/c"]"#)
        }
        other => panic!("{other}"),
    };
    let root = debian_root(name, &BTreeSet::from([package.to_owned()]));
    let home = fleet.dir().join(name);
    fs::create_dir_all(&home).unwrap();
    fs::write(home.join("c"), config).unwrap();
    format!(
        "root = {root:?}\ncommand = {command}\nmount = [{{ from = {home:?}, to = \"/etc/ids\" }}]\n"
    )
}

/// A spec of this host with a server and portspaces.
fn up(host: &TestHost, server: &str, portspaces: &str) {
    let text = format!(
        "[host.web1]\n\n[server.shop]\non = [\"web1\"]\n{server}\n\
         [hyperspector.alpha]\nnetwork = \"10.66.0.0/16\"\n\n{portspaces}"
    );
    host.up(&host.spec(&text));
}

fn portspace(name: &str, more: &str, sockets: &str) -> String {
    format!(
        "[hyperspector.alpha.portspace.{name}]\non = [\"web1\"]\n{more}\
         watch.sockets = [{{ server = \"shop\", {sockets} }}]\n\n"
    )
}

/// What a reader has written, without other lines than those of the test.
fn lines(host: &TestHost, name: &str) -> Vec<String> {
    let text = host.exec(name, &["cat", "/var/log/all"]).stdout;
    let own = text.lines().filter_map(|line| line.strip_prefix("count "));
    own.map(|line| line.trim().to_owned()).collect()
}

/// Waits until a reader has the last lines, and asserts that it has every line, in its order.
/// Returns how many it has more than once.
fn expect_all(host: &TestHost, name: &str, first: usize, last: usize) -> usize {
    // Whatever else comes, all that was accepted is taken in the end.
    let start = Instant::now();
    let is_taken = |window: &serde_json::Value| window["waiting_bytes"] == 0;
    while !is_taken(&window(host, name)) {
        assert!(start.elapsed() < Duration::from_secs(90), "{name}: {}", window(host, name));
        std::thread::sleep(Duration::from_millis(100));
    }
    for by in ["logger", "glibc"] {
        let end = format!("{by} {last:06} end");
        wait_until(&format!("{name} has {end:?}: {}", window(host, name)), || {
            host.exec(name, &["grep", "-F", &end, "/var/log/all"]).code == Some(0)
        });
    }
    let all = lines(host, name);
    let mut repeated = 0;
    for by in ["logger", "glibc"] {
        let mut expected = first;
        for line in all.iter().filter(|line| line.starts_with(by)) {
            let number: usize = line[by.len() + 1..][..6].parse().unwrap();
            assert!(line.ends_with(" end"), "{line}");
            if number == expected {
                expected += 1;
            } else {
                assert!(number < expected, "{name}: {by} {expected} is missing before {number}");
                repeated += usize::from(number >= first);
            }
        }
        assert_eq!(expected, last + 1, "{name}: lines of {by} are missing at the end");
    }
    repeated
}

fn tee(host: &TestHost) -> serde_json::Value {
    let status: serde_json::Value =
        serde_json::from_str(&host.hyperspector(&["status", "--json"]).stdout).unwrap();
    status["servers"].as_array().unwrap().iter().find(|one| one["name"] == "shop").unwrap()["tee"]
        .clone()
}

/// The window of a portspace, as the status has it.
fn window(host: &TestHost, portspace: &str) -> serde_json::Value {
    let status: serde_json::Value =
        serde_json::from_str(&host.hyperspector(&["status", "--json"]).stdout).unwrap();
    let all = status["hyperspectors"][0]["portspaces"].as_array().unwrap().clone();
    all.iter().find(|one| one["name"] == portspace).unwrap()["windows"]["sockets"][0].clone()
}

fn signal(pid: i64, signal: i32) {
    // SAFETY: kill takes integers; the process is one of the test's own.
    assert_eq!(unsafe { libc::kill(pid as i32, signal) }, 0);
}

fn kill_agent(host: &TestHost) {
    let agent = i64::from(host.agent());
    signal(agent, libc::SIGKILL);
    wait_until("the agent is gone", || !fs::exists(format!("/proc/{agent}/exe")).unwrap_or(false));
}

/// Starts an agent again on the same spec.
fn agent_again(host: &TestHost) {
    host.up(&host.dir().join("spec.toml"));
}

/// How many datagrams a portspace's socket holds, and the one that fills it: as many may come twice
/// when its reader ends. Nothing does when the tee, its keeper or the agent is killed.
const QUEUE: usize = 513;

#[test]
fn every_line_of_a_server_space_reaches_rsyslog_and_syslog_ng_whoever_is_killed() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let readers: String = ["rsyslog", "syslog-ng"]
        .map(|name| {
            portspace(name, &reader(&fleet, name), "path = \"/dev/log\", queue = \"64MiB\"")
        })
        .concat();
    // The first line is written before anything else happens in the server.
    let server = "command = [\"sh\", \"-c\", \"logger -t count first; exec sleep 1000\"]\n";
    up(host, server, &readers);
    host.wait_state("alpha/rsyslog", "running");
    wait_until("the first line", || lines(host, "alpha/rsyslog") == ["first"]);

    let half = MESSAGES / 4;
    host.exec_with("shop", &["sh", "-c", "cat > /tmp/send"], SEND.as_bytes()).expect(0);
    let send = |first: usize, last: usize| {
        let (first, last) = (first.to_string(), last.to_string());
        host.start("shop", &["sh", "/tmp/send", &first, &last])
    };
    let before = tee(host);
    let running = send(1, half);
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(150));
        signal(tee(host)["pid"].as_i64().unwrap(), libc::SIGKILL);
    }
    let reader = i64::from(host.pid("alpha/rsyslog"));
    signal(reader, libc::SIGSTOP);
    std::thread::sleep(Duration::from_millis(500));
    signal(reader, libc::SIGCONT);
    signal(reader, libc::SIGTERM);
    signal(tee(host)["keeper_pid"].as_i64().unwrap(), libc::SIGKILL);
    assert_eq!(running.finish(Duration::from_secs(60)).0, Some(0));
    let running = send(half + 1, 2 * half);
    kill_agent(host);
    std::thread::sleep(Duration::from_millis(300));
    agent_again(host);
    assert_eq!(running.finish(Duration::from_secs(60)).0, Some(0));

    for (name, ends) in [("alpha/rsyslog", 1), ("alpha/syslog-ng", 0)] {
        let repeated = expect_all(host, name, 1, 2 * half);
        println!("{name}: {MESSAGES} lines, {repeated} of them twice");
        assert!(repeated <= ends * QUEUE, "{name}: {repeated} lines twice");
        assert_eq!(window(host, name)["lost"], 0);
    }
    assert_ne!(tee(host)["pid"], before["pid"]);
}

/// The rsyslog of a server, which writes what comes to `socket` to `out`.
fn own_syslogd(fleet: &Fleet, socket: &str, out: &str) -> String {
    let config = fleet.dir().join("own.conf");
    let text = RSYSLOG.replace("/run/log.socket", socket).replace("/var/log/all", out);
    fs::write(&config, text).unwrap();
    format!("rsyslogd -i NONE -f {}", config.display())
}

#[test]
fn a_server_s_own_syslogd_keeps_all_of_its_lines_and_a_portspace_gets_them_too() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let group = ControlGroup::make(&format!("hs-test-{}", std::process::id()));
    let (socket, out) = (fleet.dir().join("own.socket"), fleet.dir().join("own.log"));
    let (socket, out) = (socket.to_str().unwrap(), out.to_str().unwrap());
    let syslogd = own_syslogd(&fleet, socket, out);
    let service = Service::start(&syslogd);
    group.add(service.pid());
    let pid_of = || {
        let named = |pid: &String| {
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.contains("rsyslogd")
                && line.contains("own.conf")
                && line.contains(host.net.name().trim_end_matches(".web1"))
        };
        let all = fs::read_dir("/proc").unwrap().flatten();
        let mut all = all.filter_map(|entry| entry.file_name().into_string().ok());
        all.find(named).and_then(|pid| pid.parse::<i32>().ok())
    };
    wait_until("the server's syslogd", || pid_of().is_some() && fs::exists(socket).unwrap());
    group.add(pid_of().unwrap());

    let server = format!("adopt = {{ cgroup = \"/{}\" }}\n", group.name());
    let sockets = format!("path = {socket:?}, to = \"/run/log.socket\", queue = \"64MiB\"");
    let ids = portspace("rsyslog", &reader(&fleet, "rsyslog"), &sockets);
    up(host, &server, &ids);
    wait_until("the observer", || tee(host)["sockets"][0]["open"] == true);
    let send = |first: usize, last: usize| {
        let lines =
            format!("seq -f 'logger %06.0f end' {first} {last} | logger -u {socket} -t count");
        Running::start(std::process::Command::new("sh").args(["-c", &lines]))
    };
    let own = || fs::read_to_string(out).unwrap_or_default();
    let running = send(1, MESSAGES / 2);
    std::thread::sleep(Duration::from_millis(200));
    signal(tee(host)["pid"].as_i64().unwrap(), libc::SIGKILL);
    kill_agent(host);
    agent_again(host);
    assert_eq!(running.finish(Duration::from_secs(60)).0, Some(0));
    let all = format!("logger {:06} end", MESSAGES / 2);
    wait_until("the server's own", || own().contains(&all));
    wait_until("the portspace's", || {
        host.exec("alpha/rsyslog", &["tail", "-n", "9", "/var/log/all"]).stdout.contains(&all)
    });

    // It is another one after a restart, observed within a second.
    let old = pid_of().unwrap();
    signal(i64::from(old), libc::SIGTERM);
    wait_until("its end", || pid_of() != Some(old));
    assert!(service.shell(&syslogd).code == Some(0));
    wait_until("the next", || pid_of().is_some() && fs::exists(socket).unwrap());
    group.add(pid_of().unwrap());
    std::thread::sleep(Duration::from_millis(1500));
    let running = send(MESSAGES / 2 + 1, MESSAGES);
    assert_eq!(running.finish(Duration::from_secs(60)).0, Some(0));
    let last = format!("logger {MESSAGES:06} end");
    wait_until("the server's own", || own().contains(&last));
    wait_until("the portspace's", || {
        host.exec("alpha/rsyslog", &["tail", "-n", "9", "/var/log/all"]).stdout.contains(&last)
    });
    assert_eq!(own().lines().filter(|line| line.starts_with("count ")).count(), MESSAGES);
    let seen: BTreeSet<String> = lines(host, "alpha/rsyslog").into_iter().collect();
    assert_eq!(seen.len(), MESSAGES);
    assert_eq!(
        (&window(host, "alpha/rsyslog")["lost"], &tee(host)["sockets"][0]["missed"]),
        (&0.into(), &0.into())
    );

    // Afterwards its socket is as it was.
    host.down();
    let running = send(1, 1);
    assert_eq!(running.finish(Duration::from_secs(10)).0, Some(0));
    wait_until("one more", || {
        own().lines().filter(|line| line.starts_with("count ")).count() == MESSAGES + 1
    });
    signal(i64::from(pid_of().unwrap()), libc::SIGKILL);
}

#[test]
fn a_socket_where_nobody_listens_is_ours_until_down() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let socket = fleet.dir().join("alone");
    let sockets = format!("path = {socket:?}, to = \"/run/log.socket\", senders = true");
    let sleep = "command = [\"sleep\", \"1000\"]\n";
    up(host, "adopt = \"base\"\n", &portspace("ids", sleep, &sockets));
    wait_until("the socket", || socket.exists());
    let writer = UnixDatagram::unbound().unwrap();
    writer.connect(&socket).unwrap();
    let problem = || window(host, "alpha/ids")["problem"].as_str().unwrap_or_default().to_owned();
    // It takes everything, whether or not somebody reads; what does not fit is counted.
    (0..50_000).for_each(|_| assert_eq!(writer.send(&[b'x'; 1000]).unwrap(), 1000));
    wait_until("a reason", || problem() == "no such file or directory");
    wait_until("a loss", || window(host, "alpha/ids")["lost"].as_u64().unwrap() > 10_000);
    host.down();
    assert!(!socket.exists());
    let refused = writer.send(b"x").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn a_flood_of_one_server_takes_nothing_from_another() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let ids = reader(&fleet, "rsyslog");
    let text = format!(
        "[host.web1]\n\n\
         [server.shop]\non = [\"web1\"]\ncommand = [\"sleep\", \"1000\"]\n\n\
         [server.bad]\non = [\"web1\"]\ncommand = [\"sleep\", \"1000\"]\n\n\
         [hyperspector.alpha]\nnetwork = \"10.66.0.0/16\"\n\n{}\
         [hyperspector.beta]\nnetwork = \"10.67.0.0/16\"\nport = 51821\n\n{}",
        portspace("rsyslog", &ids, "path = \"/dev/log\""),
        portspace("rsyslog", &ids, "path = \"/dev/log\"")
            .replace("alpha", "beta")
            .replace("server = \"shop\"", "server = \"bad\"")
    );
    host.up(&host.spec(&text));
    host.exec_with("shop", &["sh", "-c", "cat > /tmp/send"], SEND.as_bytes()).expect(0);
    let flood = "import socket\ns = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
                 s.connect('/dev/log')\nwhile True: s.send(b'<13>flood ' + b'x' * 500)";
    let flood = host.start("bad", &["timeout", "30", "python3", "-c", flood]);
    let of_bad = || {
        let status: serde_json::Value =
            serde_json::from_str(&host.hyperspector(&["status", "--json"]).stdout).unwrap();
        status["hyperspectors"][1]["portspaces"][0]["windows"]["sockets"][0].clone()
    };
    wait_until("the flood", || of_bad()["accepted"].as_u64().unwrap() > 10_000);
    let start = Instant::now();
    host.exec("shop", &["sh", "/tmp/send", "1", "10000"]).expect(0);
    expect_all(host, "alpha/rsyslog", 1, 10_000);
    println!("20000 lines beside a flood: {} ms", start.elapsed().as_millis());
    assert_eq!(window(host, "alpha/rsyslog")["lost"], 0);
    drop(flood);
}
/// In the host's own tree a socket of ours outlasts every process that it was made through.
#[test]
fn nothing_of_a_tee_stays_on_the_host_and_links_of_users_lead_it_nowhere() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let (socket, app) = (fleet.dir().join("log"), fleet.dir().join("app"));
    let (link, victim) = (app.join("log"), fleet.dir().join("victim"));
    fs::create_dir(&app).unwrap();
    symlink(&victim, &link).unwrap();
    lchown(&link, Some(65534), Some(65534)).unwrap();
    let sockets = |path: &Path, to: &str| format!("path = {path:?}, to = {to:?}");
    let command = "command = [\"sleep\", \"1000\"]\n";
    let portspaces = portspace("good", command, &sockets(&socket, "/run/a"))
        + &portspace("evil", command, &sockets(&link, "/run/b"));
    up(host, "adopt = \"base\"\n", &portspaces);
    wait_until("a socket of ours", || socket.exists());
    wait_until("a link that is refused", || window(host, "alpha/evil")["problem"].is_string());
    assert!(!victim.exists());

    kill_agent(host);
    agent_again(host);
    assert!(socket.exists());
    kill_agent(host);
    host.hyperspector(&["down"]).expect(0);
    assert!(!socket.exists());
}
