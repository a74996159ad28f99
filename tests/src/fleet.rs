//! Test hosts, and the switch between them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::attacker::{Line, Outcome};
use crate::leftovers;
use crate::namespace::Namespace;
use crate::process::{Output, Running, program, run};
use crate::root::Root;
use crate::status::{Portspace, ServerSpace, Status};
use crate::wait::{wait_for, wait_until};

/// How long a command of the product may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Some test hosts on one switch. Dropping it removes everything.
#[derive(Debug)]
pub struct Fleet {
    // In the order in which they are to be dropped.
    hosts: Vec<TestHost>,
    switch: Namespace,
    dir: tempfile::TempDir,
}

/// One test host.
#[derive(Debug)]
pub struct TestHost {
    name: String,
    /// Its network namespace.
    pub net: Namespace,
    dir: PathBuf,
    address: String,
}

impl Fleet {
    /// Makes hosts of these names; the first has the address 192.0.2.11.
    #[track_caller]
    pub fn new(names: &[&str]) -> Self {
        // SAFETY: geteuid takes nothing and cannot fail.
        assert_eq!(unsafe { libc::geteuid() }, 0, "this test makes namespaces and needs root");
        let unique = unique();
        let dir = tempfile::Builder::new().prefix(&format!("{unique}-")).tempdir().unwrap();
        let switch = Namespace::new(&format!("{unique}.switch"));
        switch.ip(&["link", "add", "br0", "type", "bridge"]);
        switch.ip(&["link", "set", "br0", "up"]);
        let mut fleet = Self { hosts: Vec::new(), switch, dir };
        for (number, name) in (11..).zip(names) {
            let host = fleet.make_host(&unique, name, number);
            fleet.hosts.push(host);
        }
        fleet
    }

    #[track_caller]
    fn make_host(&self, unique: &str, name: &str, number: u8) -> TestHost {
        let net = Namespace::new(&format!("{unique}.{name}"));
        let peer = ["peer", "name", name, "netns", self.switch.name()];
        net.ip(&[&["link", "add", "eth0", "type", "veth"][..], &peer].concat());
        let address = format!("192.0.2.{number}");
        net.ip(&["address", "add", &format!("{address}/24"), "dev", "eth0"]);
        net.ip(&["link", "set", "eth0", "up"]);
        self.switch.ip(&["link", "set", name, "master", "br0", "up"]);
        let dir = self.dir.path().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        TestHost { name: name.into(), net, dir, address }
    }

    /// The host of this name.
    #[track_caller]
    pub fn host(&self, name: &str) -> &TestHost {
        self.hosts.iter().find(|host| host.name == name).unwrap()
    }

    /// The namespace with the switch; its ports are called as the hosts.
    pub fn switch(&self) -> &Namespace {
        &self.switch
    }

    /// A directory for the test's own files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A root file system of busybox and the attacker, in the test's own directory.
    #[track_caller]
    pub fn root(&self) -> Root {
        Root::make(&self.dir.path().join("root")).with_attacker()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for host in &self.hosts {
            host.clean();
        }
        leftovers::unmount_below(self.dir.path());
    }
}

/// A name that no other test has now: `hs-tPID-N`.
fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("hs-t{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

impl TestHost {
    /// Its name in specs.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address on the switch.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its own directory, which holds `state`, `run` and the specs.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where HyperSpector keeps what outlives a boot.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Where HyperSpector keeps what does not.
    pub fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// Writes a spec and gives its path.
    #[track_caller]
    pub fn spec(&self, text: &str) -> PathBuf {
        let path = self.dir.join("spec.toml");
        std::fs::write(&path, without_what_is_missing(text)).unwrap();
        path
    }

    /// Writes a spec in which this host has one HyperSpector, `alpha`, with these portspaces.
    #[track_caller]
    pub fn alpha(&self, portspaces: &str) -> PathBuf {
        let name = &self.name;
        let network = "10.66.0.0/16";
        self.spec(&format!(
            "[host.{name}]\n\n[hyperspector.alpha]\nnetwork = \"{network}\"\n\n{portspaces}\n"
        ))
    }

    /// The product with this host's options, in this host's network.
    #[track_caller]
    pub fn command(&self) -> Command {
        let mut command = self.net.command(program("hyperspector"));
        command.arg("--host").arg(&self.name);
        command.arg("--state-dir").arg(self.state_dir());
        command.arg("--run-dir").arg(self.run_dir());
        command
    }

    /// Runs a command of the product.
    #[track_caller]
    pub fn hyperspector(&self, arguments: &[&str]) -> Output {
        run(self.command().args(arguments), b"", LIMIT)
    }

    /// This host's public key in a HyperSpector, as `key` prints it.
    #[track_caller]
    pub fn key(&self, hyperspector: &str) -> String {
        let text = self.hyperspector(&["key", hyperspector]).text();
        let is_key = |word: &&str| word.len() == 44 && word.ends_with('=');
        let words = text.split(|c: char| c == '"' || c.is_whitespace());
        words.into_iter().find(is_key).unwrap_or_else(|| panic!("no key in {text:?}")).to_owned()
    }

    /// `up SPEC -d`, whatever comes of it.
    #[track_caller]
    pub fn try_up(&self, spec: &Path) -> Output {
        run(self.command().arg("up").arg(spec).arg("-d"), b"", LIMIT)
    }

    /// `up SPEC -d`, which must succeed.
    #[track_caller]
    pub fn up(&self, spec: &Path) -> Output {
        self.try_up(spec).expect(0)
    }

    /// `up -d` of one HyperSpector `alpha`; see [`Self::alpha`].
    #[track_caller]
    pub fn up_alpha(&self, portspaces: &str) -> Output {
        let spec = self.alpha(portspaces);
        self.up(&spec)
    }

    /// `status --json`, which ends with 3 where a portspace does not run.
    #[track_caller]
    pub fn status(&self) -> Status {
        let output = self.hyperspector(&["status", "--json"]);
        assert!(matches!(output.code, Some(0 | 3)), "{output:?}");
        let text = output.stdout;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
    }

    /// One portspace of the status.
    #[track_caller]
    pub fn portspace(&self, name: &str) -> Portspace {
        let status = self.status();
        status.portspace(name).unwrap_or_else(|| panic!("{name} is not in {status:?}")).clone()
    }

    /// Waits until a portspace is in a state.
    #[track_caller]
    pub fn wait_state(&self, name: &str, state: &str) -> Portspace {
        wait_for(&format!("{name} is {state}"), || {
            Some(self.portspace(name)).filter(|portspace| portspace.state == state)
        })
    }

    /// Writes a spec in which this host has one server space, `shop`, and gives its path.
    #[track_caller]
    pub fn shop(&self, more: &str) -> PathBuf {
        let name = &self.name;
        self.spec(&format!("[host.{name}]\n\n[server.shop]\non = [\"{name}\"]\n{more}\n"))
    }

    /// `up -d` of one server space; see [`Self::shop`].
    #[track_caller]
    pub fn up_shop(&self, more: &str) -> Output {
        let spec = self.shop(more);
        self.up(&spec)
    }

    /// One server space of the status.
    #[track_caller]
    pub fn server_space(&self, name: &str) -> ServerSpace {
        let status = self.status();
        status.server_space(name).unwrap_or_else(|| panic!("{name} is not in {status:?}")).clone()
    }

    /// Waits until a server space is in a state.
    #[track_caller]
    pub fn wait_server(&self, name: &str, state: &str) -> ServerSpace {
        wait_for(&format!("{name} is {state}"), || {
            Some(self.server_space(name)).filter(|space| space.state == state)
        })
    }

    /// The process id, on the host, of a server space's command.
    #[track_caller]
    pub fn server_pid(&self, name: &str) -> i32 {
        self.wait_server(name, "running").pid.expect("a running server space has a pid")
    }

    /// The process id, on the host, of a portspace's command.
    #[track_caller]
    pub fn pid(&self, name: &str) -> i32 {
        self.wait_state(name, "running").pid.expect("a running portspace has a pid")
    }

    /// Runs a command inside a portspace.
    #[track_caller]
    pub fn exec(&self, name: &str, command: &[&str]) -> Output {
        self.exec_with(name, command, b"")
    }

    /// Runs a command inside a portspace, with an input.
    #[track_caller]
    pub fn exec_with(&self, name: &str, command: &[&str], input: &[u8]) -> Output {
        run(self.command().args(["exec", name, "--"]).args(command), input, LIMIT)
    }

    /// Runs a line of shell inside a portspace; it must succeed.
    #[track_caller]
    pub fn shell(&self, name: &str, line: &str) -> String {
        self.exec(name, &["sh", "-c", line]).text()
    }

    /// Starts a command inside a portspace.
    #[track_caller]
    pub fn start(&self, name: &str, command: &[&str]) -> Running {
        Running::start(self.command().args(["exec", name, "--"]).args(command))
    }

    /// What a portspace wrote.
    #[track_caller]
    pub fn logs(&self, name: &str) -> String {
        self.hyperspector(&["logs", name]).expect(0).stdout
    }

    /// Waits until a portspace has written this.
    #[track_caller]
    pub fn wait_log(&self, name: &str, text: &str) {
        wait_until(&format!("{name} writes {text:?}"), || self.logs(name).contains(text));
    }

    /// `down`, which must succeed.
    #[track_caller]
    pub fn down(&self) {
        self.hyperspector(&["down"]).expect(0);
    }

    /// Copies the attacker into a portspace and runs it there.
    #[track_caller]
    pub fn attack(&self, name: &str, arguments: &[&str]) -> Vec<Line> {
        let attacker = std::fs::read(program("attacker")).unwrap();
        let place = "/tmp/hs-attacker";
        let line = format!("cat > {place} && chmod 755 {place}");
        self.exec_with(name, &["sh", "-c", &line], &attacker).expect(0);
        let output = self.exec(name, &[&[place, "run"], arguments].concat()).expect(0);
        lines(&output.stdout)
    }

    /// The agent's process id.
    #[track_caller]
    pub fn agent(&self) -> i32 {
        self.status().agent.expect("an agent runs").pid
    }

    /// Takes everything down, by the product and then by force.
    fn clean(&self) {
        if self.run_dir().exists() || self.state_dir().exists() {
            let down = run(self.command().args(["down", "--purge"]), b"", LIMIT);
            if down.code != Some(0) {
                eprintln!("down --purge failed: {}", down.all());
            }
        }
        let run_dir = self.run_dir().display().to_string();
        for _ in 0..100 {
            // An agent that has answered may still be on its way out.
            if leftovers::processes_with(&run_dir).is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        leftovers::end_all_of(&self.dir);
        for pid in self.net.processes() {
            leftovers::kill(pid);
        }
        leftovers::unmount_below(&self.dir);
    }
}

/// The protections that portspaces go without on this kernel: the variable
/// `HYPERSPECTOR_TEST_ALLOW_MISSING` lists them with commas.
fn missing() -> Vec<String> {
    let text = std::env::var("HYPERSPECTOR_TEST_ALLOW_MISSING").unwrap_or_default();
    text.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Whether portspaces go without a protection on this kernel.
pub fn goes_without(protection: &str) -> bool {
    missing().iter().any(|one| one == protection)
}

/// The spec with `allow-missing` in every portspace where something is missing.
fn without_what_is_missing(text: &str) -> String {
    let missing = missing();
    if missing.is_empty() {
        return text.to_owned();
    }
    let is_portspace =
        |line: &str| line.starts_with("[hyperspector.") && line.contains(".portspace.");
    // An adopted server is left as it is.
    let is_space = |lines: &[&str]| {
        let section = lines[1..].iter().take_while(|line| !line.starts_with('['));
        lines[0].starts_with("[server.") && section.clone().any(|l| l.starts_with("command"))
    };
    let more = format!("allow-missing = {missing:?}\n");
    let lines: Vec<&str> = text.lines().collect();
    let with = |at: usize| {
        let needs = is_portspace(lines[at]) || is_space(&lines[at..]);
        format!("{}\n{}", lines[at], if needs { &more } else { "" })
    };
    (0..lines.len()).map(with).collect()
}

/// Reads the attacker's report.
#[track_caller]
pub fn lines(report: &str) -> Vec<Line> {
    let read = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e} in {line:?}"));
    let lines: Vec<Line> = report.lines().map(read).collect();
    assert!(!lines.is_empty(), "the attacker tried nothing");
    lines
}

/// Fails the test where an attempt was possible, or could not be tried, that is not in the lists.
#[track_caller]
pub fn expect_refused(lines: &[Line], possible: &[&str], untried: &[&str]) {
    let wrong: Vec<String> = lines
        .iter()
        .filter(|line| match line.verdict.outcome {
            Outcome::Refused => false,
            Outcome::Possible => !possible.contains(&line.name.as_str()),
            Outcome::Error => !untried.contains(&line.name.as_str()),
        })
        .map(|line| {
            let Line { name, verdict, .. } = line;
            let errno = verdict.errno.as_deref().unwrap_or("");
            format!("  {:?} {name}: {errno} {}", verdict.outcome, verdict.detail)
        })
        .collect();
    assert!(wrong.is_empty(), "not refused:\n{}", wrong.join("\n"));
}
