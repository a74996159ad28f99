//! The window on system calls of servers that run already, of every kind: found, and followed when they
//! restart.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use hyperspector_tests::{
    Container, ControlGroup, Fleet, Machine, Running, Runtime, Seen, TestHost, Trace, leftovers,
    patience, wait_until,
};
use serde_json::Value;

/// A spec with the server `shop`, watched by `alpha/hids`.
fn spec(adopt: &str, more: &str) -> String {
    format!(
        "[host.web1]\n\n[server.shop]\non = [\"web1\"]\nadopt = {adopt}\n\n\
         [hyperspector.alpha]\nnetwork = \"10.66.0.0/16\"\n\n\
         [hyperspector.alpha.portspace.hids]\non = [\"web1\"]\ncommand = [\"sleep\", \"1000\"]\n\
         watch.syscalls = [\"shop\"]\n{more}\n"
    )
}

fn up(host: &TestHost, adopt: &str) {
    host.up(&host.spec(&spec(adopt, "")));
    // A slow machine checks a tracer's programs for longer than `up` waits.
    wait_until("it is traced", || window(&status(host))["problem"].is_null());
}

/// A line of shell that opens a path that is not there, again and again.
fn opens(path: &str) -> String {
    format!("while :; do cat {path} || true; sleep 0.05; done 2>/dev/null")
}

/// What `status` says of the window on `shop`.
fn window(status: &Value) -> Value {
    status["hyperspectors"][0]["portspaces"][0]["windows"]["syscalls"][0].clone()
}

fn status(host: &TestHost) -> Value {
    serde_json::from_str(&host.hyperspector(&["status", "--json"]).stdout).unwrap()
}

fn is_down(status: &Value) -> bool {
    window(status)["problem"].as_str().is_some_and(|why| why.contains("it is down"))
}

/// Has a server restart, and its reader go on: `start` starts the one of that number, which opens
/// `/again-NUMBER`; dropping it ends it.
fn follows<T>(host: &TestHost, adopt: &str, mut start: impl FnMut(u32) -> T) {
    let first = start(1);
    up(host, adopt);
    let mut trace = Trace::new(host, "hids", "shop");
    let mut seen = Seen::default();
    trace.read_until("its calls", &mut seen, |seen| seen.has("/again-1", 3));
    assert!(seen.gaps.is_empty() && window(&status(host))["problem"].is_null());

    drop(first);
    wait_until("status says that it is down", || is_down(&status(host)));
    let second = start(2);
    let begun = Instant::now();
    trace.read_until("the new one's calls", &mut seen, |seen| seen.has("/again-2", 1));
    let took = begun.elapsed();
    println!("{adopt}: followed after {} ms", took.as_millis());
    assert!(took < patience(Duration::from_secs(1)), "{adopt}: {took:?}");
    trace.read_until("more of them", &mut seen, |seen| seen.has("/again-2", 3));
    assert!(window(&status(host))["problem"].is_null());
    // What the new one did before it was found is told, or was recorded.
    assert!(seen.gaps.len() <= 1 && seen.missed == 0, "{seen:?}");
    drop(second);
}

#[test]
fn a_cgroup_is_followed() {
    let fleet = Fleet::new(&["web1"]);
    let name = fleet.dir().file_name().unwrap().to_str().unwrap();
    follows(fleet.host("web1"), &format!("{{ cgroup = \"/{name}\" }}"), |number| {
        let group = ControlGroup::make(name);
        let running =
            Running::start(Command::new("sh").args(["-c", &opens(&format!("/again-{number}"))]));
        group.add(running.pid());
        (running, group)
    });
}

#[test]
fn a_server_of_a_pid_file_is_followed_with_all_that_it_starts() {
    let fleet = Fleet::new(&["web1"]);
    let pid_file = fleet.dir().join("shop.pid");
    follows(fleet.host("web1"), &format!("{{ pid_file = {pid_file:?} }}"), |number| {
        let line = opens(&format!("/again-{number}"));
        let running = Running::start(Command::new("sh").args(["-c", &line]));
        fs::write(&pid_file, running.pid().to_string()).unwrap();
        running
    });
}

/// A container that runs; dropping this ends it.
struct Started<'a>(&'a Container, &'a TestHost);

impl Drop for Started<'_> {
    fn drop(&mut self) {
        self.0.stop(&self.1.net);
    }
}

fn container_is_followed(runtime: Runtime) {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let container = Container::prepare(runtime, fleet.dir());
    follows(host, &container.adopt(), |number| {
        container.start(&host.net, &opens(&format!("/again-{number}")));
        Started(&container, host)
    });
}

#[test]
fn a_container_of_runc_is_followed() {
    container_is_followed(Runtime::Runc);
}

#[test]
fn a_container_of_crun_is_followed() {
    container_is_followed(Runtime::Crun);
}

#[test]
fn a_container_of_podman_is_followed() {
    container_is_followed(Runtime::Podman);
}

#[test]
fn what_is_executed_in_a_container_from_outside_is_recorded() {
    for runtime in [Runtime::Runc, Runtime::Crun] {
        let fleet = Fleet::new(&["web1"]);
        let host = fleet.host("web1");
        let container = Container::prepare(runtime, fleet.dir());
        container.start(&host.net, "true");
        up(host, &container.adopt());
        let mut trace = Trace::new(host, "hids", "shop");
        let _ = container.shell(&host.net, "cat /from-outside || true");
        let what = format!("what {runtime:?} executes in it");
        trace.read_until(&what, &mut Seen::default(), |seen| seen.has("/from-outside", 1));
    }
}

#[test]
fn a_unit_of_systemd_is_followed() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let root = fleet.root();
    let machine = Machine::start(host, host.dir().parent().unwrap());
    let file = "/run/systemd/system/shop.service";
    let start = |number: u32| {
        let line = opens(&format!("/again-{number}"));
        let unit =
            format!("[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/bin/sh -c \"{line}\"\n");
        let lines = format!(
            "printf '%s' '{unit}' > {file}; systemctl daemon-reload; systemctl start shop.service"
        );
        machine.shell(host, &lines).expect(0);
    };
    start(1);
    let more = format!("root = {:?}\nallow-missing = [\"limits\"]\n", root.path());
    let spec = host.spec(&spec("{ unit = \"shop.service\" }", &more));
    machine.hyperspector(host, &["up", spec.to_str().unwrap(), "-d"]).expect(0);
    let status = || -> Value {
        let status = machine.hyperspector(host, &["status", "--json"]).expect(0);
        serde_json::from_str(&status.stdout).unwrap()
    };
    let mut trace = Trace::new(host, "hids", "shop");
    let mut seen = Seen::default();
    trace.read_until("its calls", &mut seen, |seen| seen.has("/again-1", 3));
    machine.shell(host, "systemctl stop shop.service").expect(0);
    wait_until("status says that it is down", || is_down(&status()));
    start(2);
    let begun = Instant::now();
    trace.read_until("the new one's calls", &mut seen, |seen| seen.has("/again-2", 3));
    assert!(begun.elapsed() < patience(Duration::from_secs(1)), "{:?}", begun.elapsed());
    assert!(window(&status())["problem"].is_null());
    machine.hyperspector(host, &["down", "--purge"]).expect(0);
}

#[test]
fn the_base_system_is_everything_but_hyperspector() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let running = Running::start(Command::new("sh").args(["-c", &opens("/again-1")]));
    up(host, "\"base\"");
    let mut trace = Trace::ask(host, "hids", "shop", &["openat", "read", "poll"], None).unwrap();
    let mut seen = Seen::default();
    trace.read_until("calls of the host", &mut seen, |seen| seen.has("/again-1", 20));
    let tracer = status(host)["servers"].as_array().unwrap()[0]["tracer"]["pid"].clone();
    let own = [host.agent(), i32::try_from(tracer.as_i64().unwrap()).unwrap()];
    for pid in own.map(i32::cast_unsigned) {
        assert!(!seen.pids.contains(&pid), "process {pid} is HyperSpector's: {:?}", seen.pids);
    }
    drop(running);
}

/// Opens a path, with a program that has replaced itself out of a thread that was not its first.
const OTHER_THREAD: &str = "import os, threading, time\n\
    def go(): os.execv('/bin/sh', ['sh', '-c', os.environ['LINE']])\n\
    threading.Thread(target=go).start()\n\
    time.sleep(100)";

#[test]
fn nobody_leaves_a_server_that_is_told_by_its_processes() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let pid_file = fleet.dir().join("shop.pid");
    let at = |name: &str| fleet.dir().join(name).display().to_string();
    let (go, orphan, thread, space) = (at("go"), at("orphan"), at("thread"), at("space"));
    let ways = [
        // The parent is gone, the session is another.
        format!("(setsid sh -c '{}' &)", opens(&orphan)),
        format!("LINE='{}' python3 -c \"$OTHER\" &", opens(&thread)),
        format!("unshare --pid --fork --kill-child sh -c '{}' &", opens(&space)),
    ];
    let line =
        format!("until [ -e {go:?} ]; do sleep 0.05; done\n{}\nwait; sleep 1000", ways.join("\n"));
    let mut command = Command::new("sh");
    let running = Running::start(command.args(["-c", &line]).env("OTHER", OTHER_THREAD));
    fs::write(&pid_file, running.pid().to_string()).unwrap();
    let orphans = Orphans(fleet.dir());
    up(host, &format!("{{ pid_file = {pid_file:?} }}"));
    let mut trace = Trace::new(host, "hids", "shop");
    fs::write(&go, "").unwrap();
    let mut seen = Seen::default();
    for path in [&orphan, &thread, &space] {
        trace.read_until(path, &mut seen, |seen| seen.has(path, 5));
    }
    drop((running, orphans));
}

/// Ends what has left its parents.
struct Orphans<'a>(&'a Path);

impl Drop for Orphans<'_> {
    fn drop(&mut self) {
        let text = self.0.to_str().unwrap();
        leftovers::processes_with(text).into_iter().for_each(leftovers::kill);
    }
}
