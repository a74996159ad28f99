//! What a portspace is: its namespaces, ids, root, confinement and limits.

use std::fs;
use std::time::Duration;

use hyperspector_tests::{Fleet, Output, TestHost, namespace_of, run, status_field, wait_until};

const SLEEP: &str = "command = [\"sleep\", \"1000\"]\n";

fn sleeper(name: &str, host: &str, more: &str) -> String {
    format!("[hyperspector.alpha.portspace.{name}]\non = [\"{host}\"]\n{SLEEP}{more}\n")
}

/// A fleet of one host with one portspace, `alpha/ids`, that sleeps.
fn one(more: &str) -> Fleet {
    let fleet = Fleet::new(&["web1"]);
    fleet.host("web1").up_alpha(&sleeper("ids", "web1", more));
    fleet
}

#[test]
fn every_namespace_is_its_own() {
    let fleet = one("");
    let host = fleet.host("web1");
    let pid = host.pid("alpha/ids").to_string();
    for name in ["mnt", "pid", "net", "ipc", "uts", "cgroup", "user"] {
        assert_ne!(namespace_of(&pid, name), namespace_of("self", name), "{name}");
    }
    let of_host = host.net.within(|| fs::read_link("/proc/thread-self/ns/net").unwrap());
    assert_ne!(namespace_of(&pid, "net"), of_host.display().to_string());
}

#[test]
fn private_ids_are_a_range_of_their_own() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let spec = sleeper("one", "web1", "") + &sleeper("two", "web1", "");
    host.up_alpha(&spec);
    let range = |name: &str| {
        let map = fs::read_to_string(format!("/proc/{}/uid_map", host.pid(name))).unwrap();
        let words: Vec<u64> = map.split_whitespace().map(|word| word.parse().unwrap()).collect();
        assert_eq!(words.len(), 3, "{map}");
        assert_eq!(words[0], 0, "{map}");
        words[1]..words[1] + words[2]
    };
    let (one, two) = (range("alpha/one"), range("alpha/two"));
    assert!(one.start >= 65536 && two.start >= 65536, "{one:?} {two:?}");
    assert!(one.end <= two.start || two.end <= one.start, "{one:?} overlaps {two:?}");
    assert_eq!(host.shell("alpha/one", "id -u"), "0");
}

#[test]
fn host_ids_map_to_themselves_without_capabilities_outside() {
    let fleet = one("ids = \"host\"");
    let host = fleet.host("web1");
    let pid = host.pid("alpha/ids");
    let map = fs::read_to_string(format!("/proc/{pid}/uid_map")).unwrap();
    let words: Vec<u64> = map.split_whitespace().map(|word| word.parse().unwrap()).collect();
    assert_eq!(words[..2], [0, 0], "{map}");
    assert_ne!(namespace_of(&pid.to_string(), "user"), namespace_of("self", "user"));
}

#[test]
fn it_is_confined_and_so_is_what_exec_starts() {
    let fleet = one("");
    let host = fleet.host("web1");
    let pid = host.pid("alpha/ids");
    assert_eq!(status_field(pid, "NoNewPrivs"), "1");
    assert_eq!(status_field(pid, "Seccomp"), "2");
    let inside = host.shell("alpha/ids", "cat /proc/self/status");
    let bounding = status_field(pid, "CapBnd");
    for expected in ["NoNewPrivs:\t1", "Seccomp:\t2", &format!("CapBnd:\t{bounding}")] {
        assert!(inside.contains(expected), "{expected} is not in {inside}");
    }
    // No capability that belongs to a whole machine or network, not even over its own user namespace.
    let bounding = u64::from_str_radix(&bounding, 16).unwrap();
    for (number, name) in [
        (12, "NET_ADMIN"),
        (16, "SYS_MODULE"),
        (17, "SYS_RAWIO"),
        (19, "SYS_PTRACE"),
        (21, "SYS_ADMIN"),
        (22, "SYS_BOOT"),
        (25, "SYS_TIME"),
        (39, "BPF"),
    ] {
        assert_eq!(bounding >> number & 1, 0, "CAP_{name} is in {bounding:#x}");
    }
}

#[test]
fn its_host_name_is_what_status_says() {
    let fleet = one("");
    let host = fleet.host("web1");
    let portspace = host.portspace("alpha/ids");
    assert_eq!(portspace.hostname, "ids.web1");
    assert_eq!(host.shell("alpha/ids", "cat /proc/sys/kernel/hostname"), "ids.web1");
    let addresses =
        host.shell("alpha/ids", "ip -o -4 address show 2>/dev/null || cat /proc/net/fib_trie");
    assert!(addresses.contains(&portspace.address), "{addresses}");
}

#[test]
fn it_has_an_init_that_reaps() {
    let fleet = one("");
    let host = fleet.host("web1");
    assert_eq!(
        host.shell(
            "alpha/ids",
            "(sh -c 'true &' ) ; sleep 0.2; ps -eo stat 2>/dev/null | grep -c Z || true"
        ),
        "0"
    );
    let portspace = host.portspace("alpha/ids");
    assert_ne!(portspace.pid, portspace.init_pid);
    let inside = status_field(portspace.init_pid.unwrap(), "NSpid");
    assert_eq!(inside.split_whitespace().last(), Some("1"), "{inside}");
}

#[test]
fn a_union_over_the_base_system_is_written_to_its_own_layer() {
    let fleet = one("");
    let host = fleet.host("web1");
    let release = fs::read_to_string("/etc/os-release").unwrap();
    assert_eq!(host.shell("alpha/ids", "cat /etc/os-release"), release.trim_end());
    host.shell("alpha/ids", "echo mine > /etc/hs-test-written; rm /etc/os-release");
    assert!(!fs::exists("/etc/hs-test-written").unwrap());
    assert_eq!(fs::read_to_string("/etc/os-release").unwrap(), release);
    assert_eq!(host.shell("alpha/ids", "cat /etc/hs-test-written"), "mine");
    host.down();
    host.up_alpha(&sleeper("ids", "web1", ""));
    assert_eq!(host.shell("alpha/ids", "cat /etc/hs-test-written"), "mine", "after down and up");
}

#[test]
fn its_upper_layer_is_closed_to_others_on_the_host() {
    let fleet = one("");
    let host = fleet.host("web1");
    host.shell("alpha/ids", "echo secret > /etc/hs-test-secret; chmod 644 /etc/hs-test-secret");
    let find = |user: &str| {
        let line = format!("find {} -name hs-test-secret 2>/dev/null", host.dir().display());
        let command = &mut std::process::Command::new("setpriv");
        let ids = [format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".into()];
        run(command.args(ids).args(["sh", "-c", &line]), b"", Duration::from_secs(10)).stdout
    };
    assert_ne!(find("0"), "", "root finds it");
    assert_eq!(find("65534"), "", "nobody does not");
}

#[test]
fn a_root_can_be_a_directory() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let root = fleet.root();
    let root = root.path();
    host.up_alpha(&sleeper("ids", "web1", &format!("root = \"{}\"", root.display())));
    assert_eq!(host.shell("alpha/ids", "cat /etc/test-root"), "made of busybox");
    assert_eq!(host.shell("alpha/ids", "stat -c %u /etc/test-root"), "0");
    host.shell("alpha/ids", "echo changed > /etc/test-root");
    assert_eq!(fs::read_to_string(root.join("etc/test-root")).unwrap(), "made of busybox\n");
    assert_eq!(host.shell("alpha/ids", "cat /etc/test-root"), "changed");
}

#[test]
fn user_directory_environment_and_mounts_are_as_the_spec_says() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let root = fleet.root();
    let rules = fleet.dir().join("rules");
    fs::create_dir(&rules).unwrap();
    fs::write(rules.join("local.rules"), "alert\n").unwrap();
    host.up_alpha(&format!(
        r#"[hyperspector.alpha.portspace.ids]
on = ["web1"]
root = "{}"
user = "user"
directory = "/var/log"
environment = {{ GREETING = "hello" }}
mount = [{{ from = "{}", to = "/etc/rules" }}]
mask = ["/etc/group"]
command = ["sh", "-c", "id -u; pwd; echo $GREETING; cat /etc/rules/local.rules; touch /etc/rules/x || echo read-only; cat /etc/group | wc -c; echo done; sleep 1000"]
"#,
        root.path().display(),
        rules.display()
    ));
    host.wait_log("alpha/ids", "done");
    let log = host.logs("alpha/ids");
    for expected in ["1000", "/var/log", "hello", "alert", "read-only", " 0\n"] {
        assert!(log.contains(expected), "{expected:?} is not in {log}");
    }
    assert!(!rules.join("x").exists());
}

#[test]
fn secrets_of_the_base_system_do_not_show() {
    let fleet = one("");
    let host = fleet.host("web1");
    for path in ["/etc/shadow", "/etc/gshadow"] {
        let shown = host.exec("alpha/ids", &["cat", path]);
        assert_eq!(shown.stdout, "", "{path}");
    }
    for path in [host.state_dir(), host.run_dir()] {
        let line = format!("ls -A {} 2>/dev/null | wc -l", path.display());
        assert_eq!(host.shell("alpha/ids", &line), "0", "{}", path.display());
    }
}

/// Runs one attempt of the limits group.
fn attempt(host: &TestHost, arguments: &[&str]) -> String {
    let lines = host.attack("alpha/ids", arguments);
    let verdict = &lines[0].verdict;
    format!("{:?} {}", verdict.outcome, verdict.detail)
}

#[test]
fn the_limit_on_processes_holds() {
    let fleet = one("limits = { pids = 40 }");
    let host = fleet.host("web1");
    let said = attempt(host, &["limit-processes", "--processes", "200"]);
    assert!(said.starts_with("Refused"), "{said}");
    assert_eq!(host.portspace("alpha/ids").state, "running");
}

#[test]
fn the_limit_on_memory_holds() {
    let fleet = one("limits = { memory = \"96MiB\" }");
    let host = fleet.host("web1");
    let pid = host.pid("alpha/ids");
    let said = attempt(host, &["limit-memory", "--memory", "400"]);
    assert!(said.starts_with("Refused"), "{said}");
    assert_eq!(host.pid("alpha/ids"), pid, "the command itself was not killed for it");
}

#[test]
fn exec_gives_the_exit_code_and_the_streams() {
    let fleet = one("");
    let host = fleet.host("web1");
    let Output { code, stdout, stderr, .. } =
        host.exec_with("alpha/ids", &["sh", "-c", "cat; echo err >&2; exit 7"], b"input");
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (Some(7), "input", "err\n"));
    let missing = host.exec("alpha/ids", &["/no/such/program"]);
    assert!(matches!(missing.code, Some(1 | 127)), "{missing:?}");
    assert!(missing.stderr.contains("/no/such/program"), "{missing:?}");
    host.exec("alpha/no-such", &["true"]).expect(1);
}

#[test]
fn exec_gives_a_terminal() {
    let fleet = one("");
    let host = fleet.host("web1");
    let words = host.command();
    let mut line: Vec<String> = vec![words.get_program().display().to_string()];
    line.extend(words.get_args().map(|word| word.display().to_string()));
    line.push("exec -t alpha/ids -- sh -c 'tty; stty size'".into());
    let mut script = host.net.command("script");
    let (code, output) = {
        let got =
            run(script.args(["-qec", &line.join(" "), "/dev/null"]), b"", Duration::from_secs(20));
        (got.code, got.stdout)
    };
    assert_eq!(code, Some(0), "{output}");
    assert!(output.contains("/dev/"), "{output}");
    assert!(!output.contains("not a tty"), "{output}");
}

#[test]
fn logs_follow() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    host.up_alpha(
        "[hyperspector.alpha.portspace.ids]\non = [\"web1\"]\n\
         command = [\"sh\", \"-c\", \"i=0; while true; do i=$((i+1)); echo line $i; sleep 0.1; done\"]\n",
    );
    let follower =
        hyperspector_tests::Running::start(host.command().args(["logs", "alpha/ids", "-f"]));
    wait_until("two more lines are followed", || follower.output().contains("line 12\n"));
    assert!(follower.output().contains("line 1\n"));
}
