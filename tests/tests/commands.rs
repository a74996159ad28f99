//! The commands: what they print, what they touch, and their exit codes.

use std::fs;
use std::path::Path;
use std::time::Duration;

use hyperspector_tests::{Fleet, TestHost, goes_without, run, wait_until};

const SLEEP: &str = r#"command = ["sleep", "1000"]"#;

fn portspace(name: &str, more: &str) -> String {
    format!("[hyperspector.alpha.portspace.{name}]\non = [\"web1\"]\n{more}\n\n")
}

/// Whether the product has touched anything of this host.
fn touched(host: &TestHost) -> Vec<String> {
    let mut found = Vec::new();
    for dir in [host.state_dir(), host.run_dir()] {
        if dir.exists() && fs::read_dir(&dir).unwrap().next().is_some() {
            found.push(dir.display().to_string());
        }
    }
    found
}

#[test]
fn a_wrong_spec_is_2_and_touches_nothing() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let links = host.net.ip(&["link"]);
    // What is wrong in any place, and what is wrong on this host.
    for (pure, text, expected) in [
        (true, portspace("ids", "comand = [\"sleep\"]"), "command"),
        (true, portspace("ids", &format!("{SLEEP}\nrestart = \"sometimes\"")), "on-failure"),
        (true, "[hyperspector".to_owned(), "spec.toml"),
        (false, portspace("ids", &format!("{SLEEP}\nwatch.packets = [\"nosuch0\"]")), "nosuch0"),
        (false, portspace("ids", "command = [\"no-such-ids\"]"), "no-such-ids"),
        (false, portspace("ids", &format!("{SLEEP}\nroot = \"/no/such/root\"")), "/no/such/root"),
    ] {
        let spec = host.alpha(&text);
        let verbs = if pure { &["check", "plan", "up"][..] } else { &["plan", "up"] };
        for verb in verbs {
            let output = run(host.command().arg(verb).arg(&spec), b"", Duration::from_secs(20));
            assert_eq!(output.code, Some(2), "{verb}, {expected}: {}", output.all());
            assert!(output.all().contains(expected), "{verb}, {expected}: {}", output.all());
            assert!(output.all().contains("spec.toml:"), "{verb}: no place in {}", output.all());
            assert_eq!(touched(host), [""; 0], "{verb}, {expected}");
        }
    }
    assert_eq!(host.net.ip(&["link"]), links);
}

#[test]
fn a_host_that_is_not_in_the_spec_is_2() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let spec = host.alpha(&portspace("ids", SLEEP));
    let text = fs::read_to_string(&spec).unwrap().replace("web1", "elsewhere");
    let up = host.try_up(&host.spec(&text));
    assert_eq!(up.code, Some(2), "{}", up.all());
    assert!(up.all().contains("web1"), "{}", up.all());
    assert_eq!(touched(host), [""; 0]);
}

#[test]
fn bad_usage_is_2() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    host.hyperspector(&["no-such-command"]).expect(2);
    let missing = host.hyperspector(&["up", "/no/such/spec.toml"]);
    assert!(matches!(missing.code, Some(1 | 2)), "{missing:?}");
    assert!(missing.stderr.contains("/no/such/spec.toml"), "{missing:?}");
}

#[test]
fn check_and_plan_of_a_good_spec_change_nothing() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let spec = host.alpha(&portspace("ids", SLEEP));
    let links = host.net.ip(&["link"]);
    for verb in ["check", "plan"] {
        let output =
            run(host.command().arg(verb).arg(&spec), b"", Duration::from_secs(20)).expect(0);
        assert_eq!(touched(host), [""; 0], "{verb}: {}", output.all());
        if verb == "plan" {
            assert!(output.stdout.contains("alpha/ids"), "{}", output.stdout);
        }
    }
    assert_eq!(host.net.ip(&["link"]), links);
}

#[test]
fn doctor_says_what_there_is() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let json = host.hyperspector(&["doctor", "--json"]);
    assert!(matches!(json.code, Some(0 | 1)), "{}", json.all());
    let _: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert!(host.hyperspector(&["doctor"]).stdout.lines().count() > 3);
    assert_eq!(touched(host), [""; 0]);
}

#[test]
fn up_again_changes_only_what_differs() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let (one, two) = (portspace("one", SLEEP), portspace("two", SLEEP));
    host.up_alpha(&format!("{one}{two}"));
    let (pid_one, pid_two) = (host.pid("alpha/one"), host.pid("alpha/two"));
    let addresses = [host.portspace("alpha/one").address, host.portspace("alpha/two").address];

    host.up_alpha(&format!("{one}{two}"));
    assert_eq!((host.pid("alpha/one"), host.pid("alpha/two")), (pid_one, pid_two), "the same spec");

    let two_changed = portspace("two", r#"command = ["sleep", "2000"]"#);
    let three = portspace("three", SLEEP);
    host.up_alpha(&format!("{one}{two_changed}{three}"));
    assert_eq!(host.pid("alpha/one"), pid_one, "what did not change");
    assert_ne!(host.pid("alpha/two"), pid_two, "what changed");
    host.pid("alpha/three");
    let command = fs::read(format!("/proc/{}/cmdline", host.pid("alpha/two"))).unwrap();
    assert!(command.windows(4).any(|w| w == b"2000"), "{}", String::from_utf8_lossy(&command));
    let now = [host.portspace("alpha/one").address, host.portspace("alpha/two").address];
    assert_eq!(now, addresses, "addresses do not move");

    host.up_alpha(&one);
    assert_eq!(host.pid("alpha/one"), pid_one);
    let status = host.status();
    assert!(status.portspace("alpha/two").is_none() && status.portspace("alpha/three").is_none());
}

#[test]
fn a_command_that_fails_is_3_and_the_others_run() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let broken = r#"command = ["sh", "-c", "echo cannot open my rules >&2; exit 9"]"#;
    let spec = host.alpha(&(portspace("good", SLEEP) + &portspace("bad", broken)));
    let up = host.try_up(&spec);
    assert_eq!(up.code, Some(3), "{}", up.all());
    assert!(up.all().contains("alpha/bad"), "{}", up.all());
    assert!(up.all().contains("cannot open my rules"), "{}", up.all());
    assert_eq!(host.portspace("alpha/good").state, "running");
    let bad = host.portspace("alpha/bad");
    assert_ne!(bad.state, "running");
    assert!(bad.reason.as_deref().unwrap_or_default().contains("9"), "{bad:?}");
    assert!(bad.last_lines.iter().any(|line| line == "cannot open my rules"), "{bad:?}");
    let shown = host.hyperspector(&["status"]).stdout;
    assert!(shown.contains("cannot open my rules"), "{shown}");
}

/// Everything that the product may make outside its own directories, as text.
fn machine(host: &TestHost) -> String {
    let links = host.net.ip(&["-d", "link"])
        + &host.net.ip(&["rule"])
        + &host.net.ip(&["route", "show", "table", "all"]);
    let mut nft = host.net.command("nft");
    let rules = run(nft.args(["list", "ruleset"]), b"", Duration::from_secs(10)).stdout;
    let unique = host.net.name().split('.').next().unwrap().to_owned();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounts: Vec<&str> = mounts
        .lines()
        .filter(|line| line.contains(&unique) && !line.contains(" /run/netns/"))
        .collect();
    let mut cgroups = Vec::new();
    find_cgroups(Path::new("/sys/fs/cgroup"), &host.run_dir(), &mut cgroups);
    format!("{links}\n{rules}\n{mounts:?}\n{cgroups:?}")
}

/// Cgroups that hold a process of this host: none, once it is down.
fn find_cgroups(_top: &Path, run_dir: &Path, found: &mut Vec<String>) {
    let pids = hyperspector_tests::leftovers::processes_with(&run_dir.to_string_lossy());
    found.extend(pids.into_iter().map(|pid| pid.to_string()));
}

#[test]
fn down_leaves_the_host_as_it_was() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let before = machine(host);
    let cgroups_before = hyperspector_tests::leftovers::all();
    let watching = format!("{SLEEP}\nwatch.packets = [\"eth0\"]\nwatch.files = [\"base\"]");
    host.up_alpha(&portspace("ids", &watching));
    let pid = host.pid("alpha/ids");
    host.hyperspector(&["down", "--purge"]).expect(0);
    assert!(!fs::exists(format!("/proc/{pid}")).unwrap());
    for (was, is) in before.lines().zip(machine(host).lines()) {
        assert_eq!(is, was);
    }
    assert_eq!(machine(host), before);
    assert_eq!(touched(host), [""; 0], "--purge removes what was kept");
    let own = |lines: Vec<String>| -> Vec<String> {
        lines.into_iter().filter(|l| l.contains(&host.dir().display().to_string())).collect()
    };
    assert_eq!(own(hyperspector_tests::leftovers::all()), own(cgroups_before));
    host.hyperspector(&["down"]).expect(0);
}

#[test]
fn up_in_the_foreground_follows_the_logs_and_ends_with_the_terminal() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let spec =
        host.alpha(&portspace("ids", r#"command = ["sh", "-c", "echo from inside; sleep 1000"]"#));
    let up = hyperspector_tests::Running::start(host.command().arg("up").arg(&spec));
    wait_until("the log is followed", || up.output().contains("from inside"));
    assert!(up.output().contains("alpha/ids"), "{}", up.output());
    let mut kill = std::process::Command::new("kill");
    run(kill.args(["-INT", &up.pid().to_string()]), b"", Duration::from_secs(5)).expect(0);
    let (code, output) = up.finish(Duration::from_secs(20));
    assert!(code.is_some(), "it did not end: {output}");
}

#[test]
fn run_makes_one_portspace_at_once() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let root = fleet.root();
    let root = root.path().display().to_string();
    let output = host.hyperspector(&["run", "--root", &root, "--", "cat", "/etc/test-root"]);
    let output = output.expect(0);
    assert!(output.stdout.contains("made of busybox"), "{}", output.all());
    let allow = ["--allow-missing", "unix-guard"];
    let missing = if goes_without("unix-guard") { &allow[..] } else { &[] };
    let windows = ["--packets", "eth0", "--files", "/etc"];
    let line = ["--", "sh", "-c", "ls /.serverfs/*/os-release; exit 4"];
    let with_windows = host.hyperspector(&[&["run"], missing, &windows, &line].concat());
    assert!(matches!(with_windows.code, Some(1 | 4)), "{}", with_windows.all());
    assert!(with_windows.stdout.contains("os-release"), "{}", with_windows.all());
    let status = host.hyperspector(&["status", "--json"]);
    assert!(!status.stdout.contains("\"pid\":"), "{}", status.stdout);
}
