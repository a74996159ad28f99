//! The processes window: what a portspace sees of a server's processes, and what it is told of them.
//!
//! ```text
//!   shop: a server space     mail: a cgroup with processes of the host     base: the host itself
//!   alpha/hids watches them
//! ```

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use hyperspector_tests::watched::unique;
use hyperspector_tests::{
    Container, ControlGroup, Fleet, Running, Runtime, TestHost, expect_refused, kill, leftovers,
    run, wait_for, wait_until,
};
use serde_json::Value;

/// A cgroup, in the hierarchy v2, with processes in it that are killed with it.
struct Group {
    members: Vec<Running>,
    group: ControlGroup,
}

impl Group {
    fn new() -> Self {
        Self { members: Vec::new(), group: ControlGroup::make(&unique("group")) }
    }

    /// Starts a process in it, which becomes a `sleep`.
    fn add(&mut self, command: &[&str]) -> i32 {
        let procs = self.group.directory().join("cgroup.procs");
        let line = format!("echo $$ > {}; exec \"$@\"", procs.display());
        let arguments = [&["-c", &line, "sh"], command].concat();
        let member = Running::start(Command::new("sh").args(arguments));
        let pid = member.pid();
        self.members.push(member);
        let is_there = |text: String| text.lines().any(|line| line == pid.to_string());
        wait_until("it is in the cgroup", || is_there(fs::read_to_string(&procs).unwrap()));
        wait_until("it runs", || {
            fs::read_to_string(format!("/proc/{pid}/comm")).unwrap() == "sleep\n"
        });
        pid
    }

    fn clear(&mut self) {
        self.members.clear();
        let procs = self.group.directory().join("cgroup.procs");
        wait_until("the cgroup is empty", || fs::read_to_string(&procs).unwrap().is_empty());
    }
}

const SPACE: &str = "\
    [server.shop]\non = [\"web1\"]\nstop-grace = \"1s\"\n\
    command = [\"sh\", \"-c\", \"sleep 5001 & exec sleep 5002\"]\n\n";

fn spec(host: &TestHost, servers: &str, watched: &str, more: &str) -> PathBuf {
    host.spec(&format!(
        "[host.web1]\n\n{servers}[hyperspector.alpha]\nnetwork = \"10.66.0.0/16\"\n\n\
         [hyperspector.alpha.portspace.hids]\non = [\"web1\"]\ncommand = [\"sleep\", \"1000\"]\n\
         watch.processes = {watched}\n{more}\n"
    ))
}

fn mail(group: &Group) -> String {
    format!(
        "[server.mail]\non = [\"web1\"]\nadopt = {{ cgroup = \"/{}\" }}\n\n",
        group.group.name()
    )
}

/// The numbers of the processes that show.
fn seen(host: &TestHost, server: &str) -> Vec<i32> {
    let text = host.shell("alpha/hids", &format!("ls /.serverproc/{server}/"));
    let mut pids: Vec<i32> = text.lines().filter_map(|name| name.parse().ok()).collect();
    pids.sort_unstable();
    pids
}

fn facts(host: &TestHost, server: &str) -> Value {
    let text = host.shell("alpha/hids", &format!("cat /.serverproc/{server}.json"));
    serde_json::from_str(&text).unwrap()
}

/// The processes that the facts tell of, by their last arguments.
fn told(host: &TestHost, server: &str) -> Vec<String> {
    let found = facts(host, server);
    let last = |process: &Value| process["command_line"].as_array().unwrap().last().cloned();
    let processes = found["processes"].as_array().unwrap().iter();
    processes.filter_map(|one| Some(last(one)?.as_str().unwrap().to_owned())).collect()
}

fn has(host: &TestHost, server: &str, argument: &str) -> bool {
    told(host, server).iter().any(|one| one == argument)
}

/// The process of the host whose command line is this, below a process.
fn find(above: i32, command: &str) -> i32 {
    wait_for(command, || {
        let below = |pid: i32| {
            let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
            let pids = text.unwrap_or_default();
            pids.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<i32>>()
        };
        let mut next = vec![above];
        while let Some(pid) = next.pop() {
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if line.replace('\0', " ").trim() == command {
                return Some(pid);
            }
            next.extend(below(pid));
        }
        None
    })
}

fn init_of(host: &TestHost, server: &str) -> i32 {
    let status = host.hyperspector(&["status", "--json"]).stdout;
    let status: Value = serde_json::from_str(&status).unwrap();
    let servers = status["servers"].as_array().unwrap();
    let server = servers.iter().find(|one| one["name"] == server).unwrap();
    server["pid"].as_i64().unwrap_or_else(|| panic!("{server}")).try_into().unwrap()
}

#[test]
fn a_server_space_s_processes_show_and_are_told_of() {
    for ids in ["private", "host"] {
        let fleet = Fleet::new(&["web1"]);
        let host = fleet.host("web1");
        host.up(&spec(host, SPACE, "[\"shop\"]", &format!("ids = \"{ids}\"")));
        assert_eq!(seen(host, "shop").first(), Some(&1), "ids = {ids}");
        let listed = host.shell(
            "alpha/hids",
            "chroot /.serverproc/shop.root busybox ps -o args; cat /.serverproc/shop/1/comm",
        );
        assert!(listed.contains("sleep 5001") && listed.contains("sleep 5002"), "{listed}");
        assert!(!listed.contains("sleep 1000"), "{listed}");

        let found = facts(host, "shop");
        assert_eq!((&found["present"], &found["leader"]["server"]), (&true.into(), &1.into()));
        wait_until("it is told of", || has(host, "shop", "5001") && has(host, "shop", "5002"));
        let found = facts(host, "shop");
        let is_it = |one: &&Value| one["command_line"] == serde_json::json!(["sleep", "5002"]);
        let process = found["processes"].as_array().unwrap().iter().find(is_it).unwrap().clone();
        let pid = i32::try_from(process["pid"]["host"].as_i64().unwrap()).unwrap();
        assert_eq!(find(init_of(host, "shop"), "sleep 5002"), pid);
        assert_eq!(process["parent"]["server"], 1);
        assert_eq!(process["user"]["effective"]["server"], 0);
        assert_eq!(process["user"]["effective"]["name"], "root");
        assert!(process["executable"]["path"].as_str().unwrap().ends_with("/sleep"));
        let hash = || facts(host, "shop")["processes"].to_string().contains("\"sha256\":\"");
        wait_until("a program has its hash", hash);
        // A server space's root has its capabilities over nothing but itself.
        assert!(!process["capabilities"]["effective"].to_string().contains("sys_admin"));
        let own = facts(host, "shop")["processes"].to_string();
        assert!(!own.contains("\"1000\""), "{own}");
    }
}

#[test]
fn the_window_follows_a_server_that_restarts() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    host.up(&spec(host, SPACE, "[\"shop\"]", ""));
    let pid = host.pid("alpha/hids");
    let init = init_of(host, "shop");
    wait_until("it is told of", || has(host, "shop", "5002"));
    let hold = "exec 3</.serverproc/shop/1/stat; while sleep 0.2; do cat <&3 >/dev/null; done";
    let holder = host.start("alpha/hids", &["sh", "-c", hold]);
    kill(init);
    // The agent makes it again, and the window has it within a second.
    let again = wait_for("another init", || {
        let text = host.hyperspector(&["status", "--json"]).stdout;
        let status: Value = serde_json::from_str(&text).unwrap();
        let pid = status["servers"][0]["pid"].as_i64()?;
        (pid != i64::from(init)).then_some(Instant::now())
    });
    wait_until("it shows", || seen(host, "shop").first() == Some(&1));
    assert!(again.elapsed() < Duration::from_secs(1), "{:?}", again.elapsed());
    wait_until("it is told of", || has(host, "shop", "5002"));
    let leader = facts(host, "shop")["leader"]["host"].as_i64().unwrap();
    assert_eq!(leader, i64::from(init_of(host, "shop")));
    assert_eq!(host.pid("alpha/hids"), pid, "the portspace ran on");
    drop(holder);
}

#[test]
fn a_cgroup_s_processes_come_and_go() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let mut group = Group::new();
    let a = group.add(&["sleep", "5003"]);
    let others = Running::start(Command::new("sleep").arg("5004"));
    host.up(&spec(host, &mail(&group), "[\"mail\"]", ""));
    let pid = host.pid("alpha/hids");
    assert_eq!(seen(host, "mail"), [a]);
    assert_eq!(host.shell("alpha/hids", &format!("cat /.serverproc/mail/{a}/comm")), "sleep");
    assert!(host.shell("alpha/hids", "cat /.serverproc/mail/stat").contains("btime"));

    let start = Instant::now();
    let b = group.add(&["sleep", "5005"]);
    wait_until("another one shows", || seen(host, "mail").contains(&b));
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    wait_until("it is told of", || has(host, "mail", "5005"));
    assert_eq!(told(host, "mail").len(), 2);
    assert!(!has(host, "mail", "5004") && !seen(host, "mail").contains(&others.pid()));
    let network = |one: &Value| one["namespaces"]["net"].clone();
    let found = facts(host, "mail");
    assert_eq!(network(&found["processes"][0]), network(&found["processes"][1]));

    // All of them end: it is down. The directory of one is kept open meanwhile.
    let dir = format!(
        "cd /.serverproc/mail/{b}; echo in; while sleep 0.1; do cat stat && echo alive; done 2>&1"
    );
    let inside = host.start("alpha/hids", &["sh", "-c", &dir]);
    wait_until("it is in there", || inside.output().contains("alive"));
    group.clear();
    wait_until("nothing shows", || seen(host, "mail").is_empty());
    wait_until("it is told to be down", || facts(host, "mail")["present"] == false);
    assert_eq!(facts(host, "mail")["processes"], Value::Array(Vec::new()));
    let gone = |text: String| text.contains("No such process") || text.contains("No such file");
    wait_until("the old directory is dead", || gone(inside.output()));
    let status = host.hyperspector(&["status"]).stdout;
    assert!(status.contains("processes of mail (none: "), "{status}");

    let start = Instant::now();
    let c = group.add(&["sleep", "5006"]);
    wait_until("it is back", || seen(host, "mail") == [c]);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    wait_until("it is told of", || has(host, "mail", "5006"));
    assert_eq!(host.pid("alpha/hids"), pid, "the portspace ran on");
}

#[test]
fn the_base_system_s_processes_show() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let victim = Running::start(Command::new("sleep").arg("5007"));
    host.up(&spec(host, "", "[\"base\"]", ""));
    let all = seen(host, "base");
    assert!(all.contains(&victim.pid()) && all.contains(&1));
    let line = format!("tr '\\0' ' ' < /.serverproc/base/{}/cmdline", victim.pid());
    assert_eq!(host.shell("alpha/hids", &line), "sleep 5007");
    wait_until("it is told of", || has(host, "base", "5007"));
    for name in ["sys/kernel/hostname", "kallsyms", "interrupts", "timer_list"] {
        let output = host.exec("alpha/hids", &["cat", &format!("/.serverproc/base/{name}")]);
        assert_eq!(output.stdout, "", "{name}");
    }
}

#[test]
fn another_agent_takes_over_what_shows() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let mut group = Group::new();
    let a = group.add(&["sleep", "5008"]);
    let servers = format!("{SPACE}{}", mail(&group));
    let spec = spec(host, &servers, "[\"shop\", \"mail\", \"base\"]", "");
    host.up(&spec);
    let pid = host.pid("alpha/hids");
    let worker = |server: &str| {
        let text = host.hyperspector(&["status", "--json"]).stdout;
        let status: Value = serde_json::from_str(&text).unwrap();
        let servers = status["servers"].as_array().unwrap().clone();
        let server = servers.into_iter().find(|one| one["name"] == server).unwrap();
        server["facts_pid"].as_i64().map(|pid| i32::try_from(pid).unwrap())
    };
    let before: Vec<_> = ["shop", "mail", "base"].map(worker).into();
    assert!(before.iter().all(Option::is_some), "{before:?}");
    kill(host.agent());
    // Nobody keeps the views meanwhile; what is there stays, and facts are written.
    assert_eq!(seen(host, "mail"), [a]);
    let b = group.add(&["sleep", "5009"]);
    wait_until("it is told of", || has(host, "mail", "5009"));
    host.up(&spec);
    wait_until("it shows", || seen(host, "mail").contains(&b));
    assert_eq!(seen(host, "shop").first(), Some(&1));
    assert!(seen(host, "base").contains(&a));
    assert_eq!(["shop", "mail", "base"].map(worker).to_vec(), before, "the workers ran on");
    assert_eq!(host.pid("alpha/hids"), pid, "the portspace ran on");

    // A worker that dies is replaced.
    kill(before[0].unwrap());
    wait_until("there is another", || worker("shop").is_some_and(|pid| Some(pid) != before[0]));
    let written = facts(host, "shop")["written_ms"].as_u64().unwrap();
    wait_until("it writes", || facts(host, "shop")["written_ms"].as_u64().unwrap() >= written);
    let all: Vec<i32> = ["shop", "mail", "base"].iter().filter_map(|name| worker(name)).collect();
    host.down();
    for pid in all {
        let stat = format!("/proc/{pid}/stat");
        wait_until("the worker is gone", || !fs::exists(&stat).unwrap());
    }
    assert!(!host.run_dir().join("facts").exists());
    assert_eq!(leftovers::processes_with(&host.run_dir().display().to_string()), [0; 0]);
}

/// What the server's process has of its own: a secret in its memory and environment, and a file open
/// for writing.
struct Victim {
    _home: tempfile::TempDir,
    file: PathBuf,
}

impl Victim {
    fn add(group: &mut Group, user: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("data");
        fs::write(&file, "data").unwrap();
        run(Command::new("chmod").args(["-R", "a+rwX"]).arg(home.path()), b"", PATIENCE).expect(0);
        let line = format!("cd {}; exec 9<>data; exec sleep 5010", home.path().display());
        group.add(&[
            "setpriv",
            "--reuid",
            user,
            "--clear-groups",
            "env",
            "SECRET=hs-secret",
            "sh",
            "-c",
            &line,
        ]);
        Self { _home: home, file }
    }

    fn is_untouched(&self) -> bool {
        fs::read_to_string(&self.file).unwrap() == "data"
    }
}

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn nothing_in_the_window_leads_anywhere() {
    for ids in ["private", "host"] {
        let fleet = Fleet::new(&["web1"]);
        let host = fleet.host("web1");
        let mut group = Group::new();
        let victims = ["0", "33"].map(|user| Victim::add(&mut group, user));
        let servers = format!("{SPACE}{}", mail(&group));
        let more = format!("ids = \"{ids}\"");
        host.up(&spec(host, &servers, "[\"shop\", \"mail\", \"base\"]", &more));
        wait_until("they show", || seen(host, "mail").len() == 2);
        let lines = host.attack("alpha/hids", &["serverproc"]);
        // The kernel tells the numbers, and nothing but them, to the user that the process is: with
        // ids = "host" anybody can be become, else the users of a server space that is watched.
        expect_refused(&lines, &["window-descriptor-numbers"], &[]);
        assert!(victims.iter().all(Victim::is_untouched), "ids = {ids}");
        for server in ["shop", "mail", "base"] {
            let line = format!("cat /.serverproc/{server}.json /.serverproc/{server}/*/environ");
            let all = host.exec("alpha/hids", &["sh", "-c", &line]).stdout;
            assert!(!all.contains("hs-secret"), "{server}, ids = {ids}");
        }
        assert!(has(host, "mail", "5010"));
        assert_eq!(host.portspace("alpha/hids").state, "running");
    }
}

#[test]
fn real_programs_work_on_the_window() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let mut group = Group::new();
    let a = group.add(&["sleep", "5011"]);
    let servers = format!(
        "[server.shop]\non = [\"web1\"]\nports = [\"tcp/8085\"]\nstop-grace = \"1s\"\n\
         command = [\"sh\", \"-c\", \"sleep 5012 & exec busybox httpd -f -p 8085\"]\n\n{}",
        mail(&group)
    );
    host.up(&spec(host, &servers, "[\"shop\", \"mail\"]", ""));
    wait_until("it runs", || has(host, "shop", "8085") && has(host, "shop", "5012"));
    let inside = |line: &str| host.shell("alpha/hids", line);
    for (server, argument) in [("shop", "5012"), ("mail", "5011")] {
        let root = format!("chroot /.serverproc/{server}.root");
        let listed = inside(&format!("{root} busybox ps -o pid,args"));
        assert!(listed.contains(&format!("sleep {argument}")), "{listed}");
        assert!(!listed.contains("sleep 1000"), "{listed}");
        let listed = inside(&format!("{root} pgrep -a sleep"));
        assert!(listed.ends_with(&format!("sleep {argument}")), "{listed}");
        let listed = inside(&format!("{root} top -b -n 1 -w 200"));
        assert!(listed.contains("sleep"), "{listed}");
        let script = format!(
            "import psutil\npsutil.PROCFS_PATH = '/.serverproc/{server}'\n\
             for one in psutil.process_iter(): print(one.pid, *one.cmdline())"
        );
        let output = host.exec("alpha/hids", &["/usr/bin/python3", "-c", &script]).expect(0);
        assert!(output.stdout.contains(&format!("sleep {argument}")), "{}", output.stdout);
        assert!(!output.stdout.contains("sleep 1000"), "{}", output.stdout);
    }
    let tree = inside("chroot /.serverproc/shop.root pstree -p 1");
    assert!(tree.contains("sleep(") && tree.contains("busybox("), "{tree}");
    let listening = inside("PROC_ROOT=/.serverproc/shop ss -H -l -t -n");
    assert!(listening.contains(":8085"), "{listening}");
    assert_eq!(inside("readlink /.serverproc/mail/self"), a.to_string());
    let listening = inside("PROC_ROOT=/.serverproc/mail ss -H -l -t -n");
    // It was started in another network than the test host's.
    assert!(!listening.contains(":8085"), "{listening}");
    let listening = inside("chroot /.serverproc/shop.root busybox netstat -l -t -n");
    assert!(listening.contains(":8085"), "{listening}");
    let count = "jq '[.processes[] | select(.sockets[]? | .local == \"[::]:8085\")] | length'";
    assert_eq!(inside(&format!("{count} /.serverproc/shop.json")), "1");
}

fn follow_container(runtime: Runtime) {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let container = Container::prepare(runtime, fleet.dir());
    container.start(&host.net, "sleep 5013 &");
    let servers = format!("[server.shop]\non = [\"web1\"]\nadopt = {}\n\n", container.adopt());
    host.up(&spec(host, &servers, "[\"shop\"]", "ids = \"host\""));
    let portspace = host.pid("alpha/hids");
    assert_eq!(seen(host, "shop").len(), 2);
    let listed = host.shell("alpha/hids", "chroot /.serverproc/shop.root busybox ps -o pid,args");
    assert!(listed.contains("sleep 5013") && listed.contains("1 sleep 1000"), "{listed}");
    wait_until("it is told of", || has(host, "shop", "5013"));
    let found = facts(host, "shop");
    assert_eq!(
        (&found["leader"]["server"], &found["problems"]),
        (&1.into(), &Value::Array(vec![]))
    );
    let lines = host.attack("alpha/hids", &["serverproc"]);
    expect_refused(&lines, &["window-descriptor-numbers"], &[]);

    // A process that is put into its namespaces from outside.
    let exec = std::thread::scope(|scope| {
        let inside = scope.spawn(|| container.shell(&host.net, "sleep 6; true"));
        wait_until("it shows", || seen(host, "shop").len() > 2);
        wait_until("it is told of", || has(host, "shop", "6"));
        inside.join().unwrap()
    });
    exec.expect(0);

    container.stop(&host.net);
    let start = Instant::now();
    wait_until("nothing shows", || seen(host, "shop").is_empty());
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    wait_until("it is told to be down", || facts(host, "shop")["present"] == false);
    container.start(&host.net, "sleep 5015 &");
    let start = Instant::now();
    wait_until("it shows again", || seen(host, "shop").len() == 2);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    wait_until("it is told of", || has(host, "shop", "5015"));
    assert_eq!(host.pid("alpha/hids"), portspace, "the portspace ran on");
}

#[test]
fn a_container_of_runc_shows() {
    follow_container(Runtime::Runc);
}

#[test]
fn a_container_of_podman_shows() {
    follow_container(Runtime::Podman);
}

#[test]
fn a_process_and_its_descendants_show_by_a_pid_file() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let pid_file = fleet.dir().join("service.pid");
    let line = "sleep 5016 & (sleep 5017; true) & exec sleep 5018";
    let service = Running::start(Command::new("sh").args(["-c", line]));
    let other = Running::start(Command::new("sleep").arg("5019"));
    fs::write(&pid_file, service.pid().to_string()).unwrap();
    let servers =
        format!("[server.shop]\non = [\"web1\"]\nadopt = {{ pid_file = {pid_file:?} }}\n\n");
    host.up(&spec(host, &servers, "[\"shop\"]", ""));
    for argument in ["5016", "5017", "5018"] {
        wait_until("it is told of", || has(host, "shop", argument));
        let pid = find(service.pid(), &format!("sleep {argument}"));
        wait_until("it shows", || seen(host, "shop").contains(&pid));
    }
    assert!(!has(host, "shop", "5019") && !seen(host, "shop").contains(&other.pid()));
    assert_eq!(
        host.shell("alpha/hids", "readlink /.serverproc/shop/self"),
        seen(host, "shop")[0].to_string()
    );
    let left: Vec<i32> = ["sleep 5016", "sleep 5017"].map(|one| find(service.pid(), one)).into();
    drop(service);
    wait_until("nothing shows", || seen(host, "shop").is_empty());
    wait_until("it is told to be down", || facts(host, "shop")["present"] == false);
    left.into_iter().for_each(kill);
}
