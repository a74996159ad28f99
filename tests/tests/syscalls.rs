//! The window on system calls: tracers, and what portspaces read of them.
//!
//! ```text
//!   shop: a server space     mail: a cgroup with processes of the host
//!   alpha/hids watches both, alpha/mails the second, alpha/blind none
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use hyperspector_syscalls::filter::{Filter, Request};
use hyperspector_syscalls::stream::Reader;
use hyperspector_tests::{
    ControlGroup, Fleet, Running, Seen, TestHost, Trace, connect, kill, leftovers, patience,
    wait_for, wait_until,
};
use serde_json::Value;

const SHOP: &str = "\
    [server.shop]\non = [\"web1\"]\nstop-grace = \"1s\"\n\
    command = [\"sh\", \"-c\", \"cat /shop-first; while :; do cat /shop-again; sleep 0.05; done\"]\n\n";

fn spec(host: &TestHost, servers: &str, portspaces: &[(&str, &str)]) -> PathBuf {
    let portspaces: String = portspaces
        .iter()
        .map(|(name, watched)| {
            format!(
                "[hyperspector.alpha.portspace.{name}]\non = [\"web1\"]\n\
                 command = [\"sleep\", \"1000\"]\n{watched}\n\n"
            )
        })
        .collect();
    host.spec(&format!(
        "[host.web1]\n\n{servers}[hyperspector.alpha]\nnetwork = \"10.66.0.0/16\"\n\n{portspaces}"
    ))
}

fn up_shop(host: &TestHost) {
    host.up(&spec(host, SHOP, &[("hids", "watch.syscalls = [\"shop\"]")]));
}

fn status(host: &TestHost) -> Value {
    serde_json::from_str(&host.hyperspector(&["status", "--json"]).stdout).unwrap()
}

fn tracer(host: &TestHost, server: &str) -> Value {
    let status = status(host);
    let servers = status["servers"].as_array().unwrap();
    servers.iter().find(|one| one["name"] == server).unwrap()["tracer"].clone()
}

fn tracer_pid(host: &TestHost, server: &str) -> i32 {
    i32::try_from(tracer(host, server)["pid"].as_i64().unwrap()).unwrap()
}

/// Whether so many nanoseconds are less than so many seconds, as far as this machine is fast.
fn patient(nanoseconds: u64, seconds: u64) -> bool {
    Duration::from_nanos(nanoseconds) < patience(Duration::from_secs(seconds))
}

/// A process in a cgroup that opens a path again and again.
fn open_again(group: &ControlGroup, path: &str) -> Running {
    let line = format!("sleep 0.1; while :; do cat {path}; sleep 0.05; done");
    let running = Running::start(Command::new("sh").args(["-c", &line]));
    group.add(running.pid());
    running
}

fn group_of(fleet: &Fleet) -> ControlGroup {
    ControlGroup::make(fleet.dir().file_name().unwrap().to_str().unwrap())
}

fn mail(group: &ControlGroup) -> String {
    format!("[server.mail]\non = [\"web1\"]\nadopt = {{ cgroup = \"/{}\" }}\n\n", group.name())
}

#[test]
fn each_portspace_reads_the_servers_that_it_watches_and_no_others() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let group = group_of(&fleet);
    let inside = open_again(&group, "/mail-again");
    let outside = Running::start(
        Command::new("sh").args(["-c", "while :; do cat /outside-again; sleep 0.02; done"]),
    );
    host.up(&spec(
        host,
        &format!("{SHOP}{}", mail(&group)),
        &[
            ("hids", "watch.syscalls = [\"shop\", \"mail\"]\nwatch.files = [\"shop\"]"),
            ("mails", "watch.syscalls = [\"mail\"]"),
            ("blind", ""),
        ],
    ));
    let log = fs::read_to_string(host.state_dir().join("agent.log")).unwrap();
    assert_eq!(host.shell("alpha/hids", "ls /.servertrace"), "mail\nshop", "{log}");
    assert_eq!(host.shell("alpha/mails", "ls /.servertrace"), "mail");
    assert_eq!(
        host.shell("alpha/blind", "ls /.servertrace /.hyperspector"),
        "/.hyperspector:\n\n/.servertrace:"
    );

    for (server, path, others) in [
        ("shop", "/shop-again", ["/mail-again", "/outside-again"]),
        ("mail", "/mail-again", ["/shop-again", "/outside-again"]),
    ] {
        let mut seen = Seen::default();
        Trace::new(host, "hids", server).read_until(path, &mut seen, |seen| seen.has(path, 5));
        assert!(others.iter().all(|other| !seen.has(other, 1)), "{seen:?}");
    }
    // In the portspace itself, with the program that is there for it; through the broker, since it
    // has a window on files.
    for portspace in ["alpha/hids", "alpha/mails"] {
        let traced = host.start(
            portspace,
            &["/.hyperspector/hyperspector-strace", "--server", "mail", "-e", "trace=openat"],
        );
        wait_until("the program tells", || {
            traced.output().contains("openat(AT_FDCWD, \"/mail-again\", O_RDONLY) = -1 ENOENT")
        });
    }
    // Nothing inside can take the sockets away, or make others.
    for line in ["rm /.servertrace/mail", "touch /.servertrace/x", "umount /.servertrace"] {
        let tried = host.exec("alpha/mails", &["sh", "-c", line]);
        assert_ne!(tried.code, Some(0), "{line}: {tried:?}");
    }
    drop((inside, outside));
}

#[test]
fn a_server_that_restarts_is_traced_from_its_first_call_on() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    up_shop(host);
    let mut client = Trace::new(host, "hids", "shop");
    let mut seen = Seen::default();
    client.read_until("the server's calls", &mut seen, |seen| seen.has("/shop-again", 1));
    assert!(!seen.has("/shop-first", 1));
    let init = host.server_space("shop").init_pid.unwrap();
    kill(init);
    client.read_until("its first call", &mut seen, |seen| seen.has("/shop-first", 1));
    client.read_until("the next ones", &mut seen, |seen| seen.has("/shop-again", 3));
    assert!(seen.gaps.is_empty(), "{seen:?}");
}

#[test]
fn a_cgroup_that_is_made_anew_is_found_and_what_was_not_seen_is_told() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let group = group_of(&fleet);
    let first = open_again(&group, "/mail-before");
    host.up(&spec(host, &mail(&group), &[("hids", "watch.syscalls = [\"mail\"]")]));
    let mut client = Trace::new(host, "hids", "mail");
    let mut seen = Seen::default();
    client.read_until("its calls", &mut seen, |seen| seen.has("/mail-before", 2));
    drop(first);
    drop(group);
    let group = group_of(&fleet);
    let second = open_again(&group, "/mail-after");
    client.read_until("the new one's calls", &mut seen, |seen| seen.has("/mail-after", 2));
    assert_eq!(seen.gaps.len(), 1, "{seen:?}");
    let (since, until) = seen.gaps[0];
    assert!(since < until && patient(until - since, 5), "{seen:?}");
    drop(second);
}

#[test]
fn a_tracer_that_is_killed_is_back_within_a_second_and_the_gap_is_told() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    up_shop(host);
    let server = host.server_pid("shop");
    let mut seen = Seen::default();
    let mut client = Trace::new(host, "hids", "shop");
    client.read_until("the server's calls", &mut seen, |seen| seen.has("/shop-again", 1));
    assert!(seen.gaps.is_empty());
    let pid = tracer_pid(host, "shop");
    let traced =
        host.start("alpha/hids", &["/.hyperspector/hyperspector-strace", "-e", "trace=openat"]);
    wait_until("the program tells", || traced.output().contains("/shop-again"));
    kill(pid);
    let start = Instant::now();
    let mut client =
        wait_for("the tracer is back", || Trace::ask(host, "hids", "shop", &["%file"], None).ok());
    assert!(start.elapsed() < patience(Duration::from_secs(1)), "{:?}", start.elapsed());
    let mut seen = Seen::default();
    client.read_until("the server's calls", &mut seen, |seen| seen.has("/shop-again", 2));
    assert_eq!(seen.gaps.len(), 1, "{seen:?}");
    let (since, until) = seen.gaps[0];
    assert!(since > 0 && until > since && patient(until - since, 2), "{seen:?}");
    assert_eq!(host.server_pid("shop"), server, "the server went on");
    assert_ne!(tracer_pid(host, "shop"), pid);
    assert_eq!(tracer(host, "shop")["restarts"], 1);
    let lines = traced.output().lines().count();
    wait_until("the program goes on", || traced.output().lines().count() > lines + 3);
}

#[test]
fn two_deaths_one_after_the_other_are_covered() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    up_shop(host);
    // One was taken; two more are made, which status does not tell.
    std::thread::sleep(patience(Duration::from_secs(25)));
    for number in 1..=2 {
        kill(tracer_pid(host, "shop"));
        let start = Instant::now();
        let mut client = wait_for("the tracer is back", || {
            Trace::ask(host, "hids", "shop", &["%file"], None).ok()
        });
        let took = start.elapsed();
        println!("death {number}: back after {} ms", took.as_millis());
        assert!(took < patience(Duration::from_secs(1)), "{took:?}");
        let mut seen = Seen::default();
        client.read_until("its calls", &mut seen, |seen| seen.has("/shop-again", 1));
    }
}

#[test]
fn an_agent_that_is_killed_takes_no_stream_with_it() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    up_shop(host);
    let mut client = Trace::new(host, "hids", "shop");
    let mut seen = Seen::default();
    client.read_until("the server's calls", &mut seen, |seen| seen.has("/shop-again", 1));
    let pid = tracer_pid(host, "shop");
    kill(host.agent());
    client.read_until("calls without an agent", &mut seen, |seen| seen.has("/shop-again", 5));
    up_shop(host);
    client.read_until("calls with another", &mut seen, |seen| seen.has("/shop-again", 10));
    assert_eq!((tracer_pid(host, "shop"), seen.missed), (pid, 0));
    assert!(seen.gaps.is_empty(), "{seen:?}");
    // It is looked after as before.
    kill(pid);
    // The new agent has one made ready meanwhile, which may take the kernel some seconds.
    std::thread::sleep(patience(Duration::from_secs(8)));
    let mut client =
        wait_for("the tracer is back", || Trace::ask(host, "hids", "shop", &["%file"], None).ok());
    let mut seen = Seen::default();
    client.read_until("its calls", &mut seen, |seen| seen.has("/shop-again", 1));
    assert_eq!(seen.gaps.len(), 1, "{seen:?}");
}

#[test]
fn a_slow_reader_loses_its_own_and_is_told_how_many() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let flood = "[server.shop]\non = [\"web1\"]\nstop-grace = \"1s\"\n\
        command = [\"sh\", \"-c\", \"while :; do dd if=/dev/zero of=/dev/null bs=1 count=3000; sleep 0.1; done\"]\n\n";
    host.up(&spec(host, flood, &[("hids", "watch.syscalls = [\"shop\"]")]));
    let mut slow = Trace::ask(host, "hids", "shop", &["all"], Some(256 << 10)).unwrap();
    let mut fast = Trace::ask(host, "hids", "shop", &["all"], None).unwrap();
    let mut seen = Seen::default();
    fast.read_until("many calls", &mut seen, |seen| seen.calls > 40_000);
    assert_eq!(seen.missed, 0, "{seen:?}");
    let readers = || {
        let status = status(host);
        let windows = &status["hyperspectors"][0]["portspaces"][0]["windows"];
        windows["syscalls"][0]["readers"].as_array().unwrap().clone()
    };
    wait_until("the slow one is said to miss some", || {
        readers().iter().any(|one| one["missed"].as_u64() > Some(0))
    });
    // It is told, in its place, and goes on.
    let mut seen = Seen::default();
    slow.read_until("what was missed", &mut seen, |seen| seen.missed > 0);
    let calls = seen.calls;
    slow.read_until("more calls", &mut seen, |seen| seen.calls > calls + 100);
    assert!(tracer(host, "shop")["recorded"].as_u64().unwrap() > 40_000);
    drop(fast);
    wait_until("who is gone is forgotten", || readers().len() == 1);
}

#[test]
fn a_malicious_reader_gets_no_more_than_its_share() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    host.up(&spec(
        host,
        SHOP,
        &[("evil", "watch.syscalls = [\"shop\"]"), ("hids", "watch.syscalls = [\"shop\"]")],
    ));
    let pid = tracer_pid(host, "shop");
    let memory = || tracer(host, "shop")["memory_bytes"].as_u64().unwrap();
    let before = memory();
    let mut good = Trace::new(host, "hids", "shop");

    // What is refused says why.
    let refusal = |request: &[u8]| {
        let mut stream = connect(host, "evil", "shop").unwrap();
        let _ = stream.write_all(request);
        match Reader::new(stream) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("it was taken"),
        }
    };
    assert!(refusal(b"GET / HTTP/1.1\n").contains("not one line of JSON"));
    assert!(
        refusal(b"{\"version\":1,\"filter\":{\"calls\":[\"opnat\"]}}\n")
            .contains("did you mean openat")
    );
    assert!(refusal(&vec![b'['; 70_000]).contains("longer than"));
    let many = format!(
        "{{\"version\":1,\"filter\":{{\"calls\":[{}\"read\"]}}}}\n",
        "\"read\",".repeat(2000)
    );
    assert!(refusal(many.as_bytes()).contains("more than 1024"));
    let start = Instant::now();
    assert!(refusal(b"{").contains("within 2 seconds"));
    assert!(start.elapsed() < patience(Duration::from_secs(4)));

    // A thousand connections, of which nobody reads, each with the greatest queue.
    let request = Request {
        filter: Filter { calls: vec!["all".into()], ..Filter::default() },
        queue: Some(u32::MAX),
        ..Request::default()
    };
    let mut held = Vec::new();
    let end = Instant::now() + Duration::from_secs(20);
    while held.len() < 1000 && Instant::now() < end {
        if let Ok(mut stream) = connect(host, "evil", "shop") {
            let _ = stream.set_nonblocking(true);
            let _ = stream.write_all(request.line().as_bytes());
            let _ = stream.write_all(&[b'x'; 4096]);
            held.push(stream);
        }
    }
    let mut seen = Seen::default();
    good.read_until("the other portspace's calls", &mut seen, |seen| seen.has("/shop-again", 40));
    assert_eq!(seen.missed, 0);
    let mut another = Trace::new(host, "hids", "shop");
    another.read_until("a new reader's calls", &mut Seen::default(), |seen| seen.calls > 3);
    let status = status(host);
    let readers =
        status["hyperspectors"][0]["portspaces"][0]["windows"]["syscalls"][0]["readers"].clone();
    let readers = readers.as_array().unwrap();
    let queues: u64 = readers.iter().filter_map(|one| one["queue"].as_u64()).sum();
    assert!(readers.len() <= 8 && queues <= 32 << 20, "{readers:?}");
    let now = memory();
    assert!(now < before + (96 << 20), "{before} bytes became {now}");
    assert_eq!(tracer_pid(host, "shop"), pid, "it lives");
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max data size")).unwrap();
    assert_eq!(
        line.split_whitespace().nth(3),
        Some((768_u64 << 20).to_string().as_str()),
        "{line}"
    );
    // The kernel holds it to that as well, with what it has of the kernel's memory.
    if let Some(limit) = tracer(host, "shop")["memory_limit_bytes"].as_u64() {
        assert_eq!(limit, 768 << 20);
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let own = |line: &&str| line.ends_with(&format!("/.tracers/{pid}"));
        assert!(groups.lines().any(|line| own(&line)), "{groups}");
        println!("{} of {limit} bytes", memory());
    } else {
        let controllers = fs::read_to_string("/proc/cgroups").unwrap();
        let has = |line: &str| line.starts_with("memory") && line.ends_with('1');
        assert!(!controllers.lines().any(has), "this host could limit memory: {controllers}");
    }
    drop(held);
    let mut again = wait_for("a reader is taken again", || {
        Trace::ask(host, "evil", "shop", &["%file"], None).ok()
    });
    again.read_until("its calls", &mut Seen::default(), |seen| seen.calls > 3);
}

#[test]
fn a_tracer_holds_nothing_but_what_it_needs() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    up_shop(host);
    let pid = tracer_pid(host, "shop");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_once(':').unwrap().1.trim().to_owned()
    };
    for caps in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(caps), "0000000000000000", "{caps}");
    }
    assert_eq!((field("NoNewPrivs").as_str(), field("Seccomp").as_str()), ("1", "2"));
    let uids: Vec<u32> = field("Uid").split_whitespace().map(|id| id.parse().unwrap()).collect();
    assert!(uids.iter().all(|id| *id >= 0x7000_0000 && *id == uids[0]), "{uids:?}");
    assert_eq!(field("Groups"), "");
    assert!(fs::read_dir(format!("/proc/{pid}/root/")).unwrap().next().is_none());
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let target = fs::read_link(entry.unwrap().path()).unwrap();
        let target = target.to_string_lossy().into_owned();
        let kind = target.split_once(":[").map_or(target.as_str(), |(kind, _)| kind).to_owned();
        *kinds.entry(kind).or_default() += 1;
    }
    let known = |kind: &String| {
        [
            "socket",
            "/dev/null",
            "anon_inode:bpf-map",
            "anon_inode:bpf_link",
            // The ring's reader waits on it.
            "anon_inode",
        ]
        .contains(&kind.as_str())
            || kind.ends_with("agent.log")
            || kind == "pipe"
    };
    assert!(kinds.keys().all(known), "{kinds:?}");
    // The control socket and the portspace's; the ring and the processes.
    assert_eq!((kinds["socket"], kinds["anon_inode:bpf-map"]), (2, 2), "{kinds:?}");
}

#[test]
fn processes_are_named_as_the_portspace_sees_them() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let watched = "watch.syscalls = [\"shop\"]\nwatch.processes = [\"shop\"]";
    host.up(&spec(host, SHOP, &[("hids", watched)]));
    // The shell waits for what it has started, again and again.
    let found = "grep -l shop-first /.serverproc/shop/[0-9]*/cmdline | cut -d/ -f4 | tail -n 1";
    let number = host.shell("alpha/hids", found);
    assert_ne!(number, host.server_pid("shop").to_string());
    let program = "/.hyperspector/hyperspector-strace";
    let trace =
        |words: &[&str]| host.start("alpha/hids", &[&[program, "-p", &number], words].concat());
    let alone = trace(&["-e", "trace=wait4"]);
    let followed = trace(&["-f", "-e", "trace=wait4"]);
    let prefix = format!("[pid {number:>5}] wait4(");
    wait_until("its calls come", || alone.output().lines().any(|line| line.starts_with("wait4(")));
    wait_until("they have its number", || followed.output().contains(&prefix));
}

#[test]
fn a_fifo_waits_for_no_reader_and_outlives_those_that_are_killed() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let text = "watch.syscalls = [\n\
        { server = \"shop\", to = \"/run/shop.trace\", fifo = true, calls = [\"openat\"] },\n]";
    host.up(&spec(host, SHOP, &[("hids", text)]));
    wait_until("it is made", || {
        host.exec("alpha/hids", &["test", "-p", "/run/shop.trace"]).code == Some(0)
    });
    let writer = || host.shell("alpha/hids", "pgrep hyperspector-st");
    let recorded = || tracer(host, "shop")["recorded"].as_u64().unwrap();
    let (first, before) = (writer(), recorded());
    // Nobody reads, and everybody goes on.
    wait_until("calls are recorded", || recorded() > before + 50);
    let readers = ["the first", "one after it was killed"].map(|who| {
        let cat = host.start("alpha/hids", &["cat", "/run/shop.trace"]);
        let told = |text: &str| {
            let lines = cat.output();
            lines.lines().take(2000).any(|line| line.contains(text))
        };
        wait_until(&format!("{who} is told what was lost"), || told(" records missed"));
        wait_until(&format!("{who} reads"), || {
            told("\"/shop-again\", O_RDONLY) = -1 ENOENT (No such")
        });
        host.shell("alpha/hids", "pkill -9 -x cat");
        let before = recorded();
        wait_until("calls are recorded", || recorded() > before + 50);
        cat
    });
    assert_eq!(writer(), first, "the writer went on");
    drop(readers);
}

#[test]
fn calls_are_written_in_every_form_and_down_leaves_nothing() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let texts = "watch.syscalls = [\n\
        { server = \"shop\", to = \"/var/log/shop.trace\", calls = [\"openat\"] },\n\
        { server = \"shop\", to = \"/var/log/shop.json\", form = \"json\", failed-only = true },\n\
        { server = \"shop\", to = \"/var/log/shop.audit\", form = \"audit\", calls = [\"%file\"] },\n]";
    host.up(&spec(host, SHOP, &[("hids", texts)]));
    let written = |name: &str, text: &str| {
        // They grow fast: a part is enough.
        let found = ["grep", "-q", "-m1", "-F", text, &format!("/var/log/{name}")];
        wait_until(name, || host.exec("alpha/hids", &found).code == Some(0));
    };
    written("shop.trace", "\"/shop-again\", O_RDONLY) = -1 ENOENT (No such file");
    written("shop.json", "\"call\":\"openat\"");
    written("shop.audit", "type=SYSCALL");
    // The writers are no part of the command, and come back. Names of processes have 15 letters.
    let writers = || host.shell("alpha/hids", "pgrep hyperspector-st | sort");
    let before = writers();
    assert_eq!(before.lines().count(), 3, "{before}");
    host.shell("alpha/hids", "pkill -9 hyperspector-st; true");
    wait_until("they are back", || writers().lines().count() == 3 && writers() != before);
    let pid = tracer_pid(host, "shop");
    host.down();
    wait_until("the tracer is gone", || !fs::exists(format!("/proc/{pid}")).unwrap());
    let text = fleet.dir().to_str().unwrap().to_owned();
    assert_eq!(leftovers::processes_with(&text), [0; 0]);
    assert!(!host.run_dir().join("tracers").exists() && !host.run_dir().join("trace").exists());
}
