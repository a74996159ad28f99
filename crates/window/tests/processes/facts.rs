//! The facts worker.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, chown};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hyperspector_sys::{netns, worker};
use hyperspector_window::processes::facts::{Config, FILE, KIND, Members, Started, write_absent};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::lab::{Server, children, wait_for};

/// A user that is nobody else's here.
const USER: u32 = 1_900_000_001;
/// `CAP_DAC_READ_SEARCH` and `CAP_SYS_PTRACE`.
const KEPT: &str = "0000000000080004";

struct Facts {
    driver: Child,
    home: tempfile::TempDir,
}

impl Facts {
    fn start(leader: u32, members: Members) -> Self {
        let home = tempfile::tempdir().unwrap();
        chown(home.path(), Some(USER), Some(USER)).unwrap();
        let config = Config { server: "shop".into(), leader, members, uid: USER, gid: USER };
        let out = File::open(home.path()).unwrap();
        let network = netns::of_process(leader).unwrap();
        let fds = [out.as_fd(), network.as_fd()];
        let (driver, channel) = worker::spawn(KIND, &config, &fds, Stdio::inherit()).unwrap();
        let (started, _) = channel.receive::<Started>().unwrap().unwrap();
        assert_eq!(started, Started::Ready);
        Self { driver, home }
    }

    fn of(server: &Server) -> Self {
        let pid_namespace = Some(server.pid_namespace().metadata().unwrap().ino());
        Self::start(server.leader, Members::Of { pid_namespace, cgroup: None })
    }

    fn read(&self) -> Option<Value> {
        let bytes = fs::read(self.home.path().join(FILE)).ok()?;
        assert!(bytes.iter().all(|byte| *byte == b'\n' || (b' '..=b'~').contains(byte)));
        Some(serde_json::from_slice(&bytes).unwrap())
    }

    /// Waits until the file says something.
    #[track_caller]
    fn wait<T>(&self, mut look: impl FnMut(&Value) -> Option<T>) -> T {
        wait_for(|| self.read().and_then(|value| look(&value)))
    }

    /// The process whose last argument ends with a text.
    #[track_caller]
    fn process(&self, text: &str) -> Value {
        let is_it = |process: &&Value| {
            let arguments = process["command_line"].as_array().unwrap();
            arguments.last().is_some_and(|last| last.as_str().unwrap().ends_with(text))
        };
        self.wait(|value| value["processes"].as_array()?.iter().find(is_it).cloned())
    }

    fn reader(&self) -> u32 {
        wait_for(|| children(self.driver.id()).last().copied())
    }
}

impl Drop for Facts {
    fn drop(&mut self) {
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

pub fn tell_what_the_view_refuses() {
    let home = tempfile::tempdir().unwrap();
    let gone = home.path().join("gone.txt");
    let line = format!(
        "cd {} && exec 7>gone.txt && echo secret >&7 && rm gone.txt && ip link set lo up && \
         busybox nc -l -p 7777 & sleep 7011 & wait",
        home.path().display()
    );
    let server = Server::running(&["--net"], &line);
    let facts = Facts::of(&server);
    let nc = facts.process("7777");
    let document = facts.read().unwrap();
    assert_eq!((&document["version"], &document["server"]), (&1.into(), &"shop".into()));
    assert_eq!(
        (&document["present"], &document["problems"]),
        (&true.into(), &Value::Array(vec![]))
    );
    assert_eq!(document["leader"]["host"], server.leader);
    assert_eq!(document["leader"]["server"], 1);

    let nc = if nc["sockets"] == Value::Array(vec![]) {
        facts.wait(|_| {
            Some(facts.process("7777")).filter(|nc| nc["sockets"].as_array().unwrap().len() == 1)
        })
    } else {
        nc
    };
    assert_eq!(nc["pid"]["server"], 2.max(nc["pid"]["server"].as_u64().unwrap()));
    assert_eq!(nc["directory"], home.path().to_str().unwrap());
    assert_eq!(nc["sockets"][0]["kind"], "tcp6");
    assert_eq!(nc["sockets"][0]["state"], "listen");
    assert_eq!(nc["sockets"][0]["local"], "[::]:7777");
    let deleted = &nc["deleted_files"][0];
    assert_eq!((&deleted["path"], &deleted["size"]), (&gone.to_str().unwrap().into(), &7.into()));
    assert_eq!(deleted["descriptor"], 7);

    let sleep = facts.wait(|_| {
        let sleep = facts.process("7011");
        sleep["executable"]["sha256"].is_string().then_some(sleep)
    });
    let program = fs::canonicalize("/usr/bin/sleep").unwrap();
    let sum = Command::new("sha256sum").arg(&program).output().unwrap().stdout;
    let sum = String::from_utf8(sum).unwrap();
    assert_eq!(sleep["executable"]["sha256"], sum.split(' ').next().unwrap());
    assert_eq!(sleep["executable"]["path"], program.to_str().unwrap());
    assert_eq!(sleep["executable"]["deleted"], false);
    assert_eq!(sleep["command_line"], serde_json::json!(["sleep", "7011"]));
    assert_eq!((&sleep["parent"]["server"], &sleep["name"]), (&1.into(), &"sleep".into()));
    let root = serde_json::json!({ "host": 0, "server": 0, "name": "root" });
    assert_eq!((&sleep["user"]["effective"], &sleep["group"]["real"]), (&root, &root));
    let capabilities = sleep["capabilities"]["effective"].as_array().unwrap();
    assert!(capabilities.contains(&"sys_admin".into()));
    let own = fs::read_link(format!("/proc/{}/ns/net", server.leader)).unwrap();
    assert_eq!(format!("net:[{}]", sleep["namespaces"]["net"]), own.to_str().unwrap());
    let age = document["written_ms"].as_u64().unwrap() - sleep["started_ms"].as_u64().unwrap();
    assert!(age < 60_000, "{age}");
}

pub fn follow_changes() {
    let server = Server::start();
    let facts = Facts::of(&server);
    let one = facts.process("7001");
    // Programs are read in the second round and later.
    wait_for(|| (!facts.read()?.to_string().contains("comes later")).then_some(()));
    let before = facts.read().unwrap();
    assert_eq!(before["processes"].as_array().unwrap().len(), 2);
    // Nothing has changed: the file stays for a while.
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(facts.read().unwrap()["written_ms"], before["written_ms"]);
    let pid = i32::try_from(one["pid"]["host"].as_u64().unwrap()).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let start = Instant::now();
    facts.wait(|value| (value["processes"].as_array()?.len() < 2).then_some(()));
    assert!(start.elapsed() < Duration::from_secs(3));
    drop(server);
    facts.wait(|value| (value["present"] == false).then_some(()));
    assert_eq!(facts.read().unwrap()["processes"], Value::Array(vec![]));

    write_absent(facts.home.path(), "shop").unwrap();
    assert_eq!(facts.read().unwrap()["present"], false);
}

pub fn hostile_names() {
    let line = "bash -c 'exec -a $\"\\xff\\n{\\\"pid\\\": 1}\\e[2J\" sleep 7012' & \
                bash -c 'printf \") R 1 1\" > /proc/self/comm; sleep 7013; true' & sleep 7014 & wait";
    let line = line.replace("$\"", "$'\"'\"'").replace("[2J\" sleep", "[2J'\"'\"' sleep");
    let server = Server::running(&[], &line);
    let facts = Facts::of(&server);
    let hostile = facts.process("7012");
    assert_eq!(hostile["command_line"][0], "\u{fffd}\n{\"pid\": 1}\u{1b}[2J");
    let hex = hostile["command_line_hex"].as_str().unwrap();
    assert!(hex.starts_with("ff0a7b22706964223a20317d1b5b324a00"), "{hex}");
    let named = facts.process("7013; true");
    assert_eq!(named["name"], ") R 1 1");
    assert_eq!(named["parent"]["server"], 1);
    assert!(named["started_ticks"].as_u64().unwrap() > 1);
}

pub fn the_worker_holds_little() {
    let server = Server::start();
    let facts = Facts::of(&server);
    facts.process("7001");
    for pid in [facts.driver.id(), facts.reader()] {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap().trim_start_matches(':').trim().to_owned()
        };
        let user = vec![USER.to_string(); 4].join("\t");
        assert_eq!(
            (field("Uid"), field("Gid"), field("Groups")),
            (user.clone(), user, String::new())
        );
        for set in ["CapEff", "CapPrm"] {
            assert_eq!(field(set), KEPT, "{set}");
        }
        for set in ["CapInh", "CapBnd", "CapAmb"] {
            assert_eq!(field(set), "0000000000000000", "{set}");
        }
        assert_eq!((field("NoNewPrivs"), field("Seccomp")), ("1".into(), "2".into()));
        let root = fs::read_link(format!("/proc/{pid}/root")).unwrap();
        assert_eq!(root.to_str(), Some("/"));
        assert!(!fs::exists(format!("/proc/{pid}/root/etc")).unwrap());
        assert!(fs::exists(format!("/proc/{pid}/root/1/stat")).unwrap());
    }
    // The reader has nothing open that it could write to but the way to the driver.
    let reader = facts.reader();
    for entry in fs::read_dir(format!("/proc/{reader}/fd")).unwrap() {
        let entry = entry.unwrap();
        let link = fs::read_link(entry.path()).unwrap();
        assert!(link != facts.home.path(), "{link:?}");
    }
}

pub fn a_reader_that_hangs_is_replaced() {
    let server = Server::running(&[], "for i in $(seq 60); do sleep 7001 & done; wait");
    let facts = Facts::of(&server);
    facts.process("7001");
    let complete = || facts.read().unwrap()["processes"].as_array().unwrap().len();
    wait_for(|| (complete() == 61).then_some(()));
    let told = |one: &Value| one["incomplete"].is_string();
    let now = || facts.read().unwrap()["processes"].as_array().unwrap().iter().any(told);
    let first = facts.reader();
    stop_at_a_process(first);
    wait_for(|| now().then_some(()));
    assert_ne!(facts.reader(), first);
    assert_eq!(complete(), 61);
}

/// Stops a reader while it looks at what a process has open: stopped anywhere else it may be at
/// none, and nothing is told of any then.
fn stop_at_a_process(reader: u32) {
    let pid = Pid::from_raw(reader.cast_signed()).unwrap();
    let is_stopped =
        || fs::read_to_string(format!("/proc/{reader}/stat")).unwrap().contains(") T ");
    let is_at_one = || {
        let links = fs::read_dir(format!("/proc/{reader}/fd")).unwrap().flatten();
        links.flat_map(|entry| fs::read_link(entry.path())).any(|link| link.ends_with("fd"))
    };
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        kill_process(pid, Signal::STOP).unwrap();
        while !is_stopped() {}
        if is_at_one() {
            return;
        }
        kill_process(pid, Signal::CONT).unwrap();
        assert!(Instant::now() < end, "it is at no process");
        std::thread::sleep(Duration::from_micros(200));
    }
}
