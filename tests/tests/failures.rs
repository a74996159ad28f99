//! What happens when something breaks: the agent killed at any moment, a full disk.

use std::fs;
use std::time::Duration;

use hyperspector_tests::{Fleet, Frames, TestHost, run, wait_until};

/// What the attacker writes into its frames (`tests/src/attacker/packets.rs`).
const MAGIC: &[u8] = b"hyperspector-attack-frame";

fn sleeper(name: &str) -> String {
    format!(
        "[hyperspector.alpha.portspace.{name}]\non = [\"web1\"]\ncommand = [\"sleep\", \"1000\"]\n\
         watch.packets = [\"eth0\"]\n\n"
    )
}

/// Kills a process, which may be gone already, and waits for its end.
fn end(pid: i32) {
    let mut kill = std::process::Command::new("kill");
    run(kill.args(["-9", &pid.to_string()]), b"", Duration::from_secs(5));
    wait_until("the process is gone", || {
        fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
    });
}

/// Names of links, without the switch's end of them.
fn links(host: &TestHost) -> Vec<String> {
    let all = host.net.ip_json(&["link"]);
    all.as_array().unwrap().iter().map(|link| link["ifname"].to_string()).collect()
}

#[test]
fn the_ids_outlives_the_agent_and_the_next_up_adopts_it() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    host.up_alpha(&sleeper("ids"));
    let pid = host.pid("alpha/ids");
    let started = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    end(host.agent());
    assert!(fs::exists(format!("/proc/{pid}")).unwrap(), "the IDS goes on");
    host.up_alpha(&sleeper("ids"));
    assert_eq!(host.pid("alpha/ids"), pid, "the next agent adopts it");
    let now = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let start_time =
        |stat: &str| stat.rsplit(')').next().unwrap().split(' ').nth(20).map(str::to_owned);
    assert_eq!(start_time(&now), start_time(&started));
    assert_eq!(host.shell("alpha/ids", "echo inside"), "inside");
    host.attack("alpha/ids", &["packet-sendto"]);
}

#[test]
fn down_removes_all_after_the_agent_was_killed() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let before = links(host);
    host.up_alpha(&sleeper("ids"));
    let pid = host.pid("alpha/ids");
    end(host.agent());
    host.hyperspector(&["down", "--purge"]).expect(0);
    assert!(!fs::exists(format!("/proc/{pid}")).unwrap());
    assert_eq!(links(host), before);
    assert!(!host.run_dir().exists() || fs::read_dir(host.run_dir()).unwrap().next().is_none());
}

/// Where the kernel does not describe itself, no program that records system calls can be loaded.
#[test]
fn who_sees_no_system_calls_runs_and_that_is_told() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let spec = host.spec(
        "[host.web1]\n[server.shop]\non = [\"web1\"]\ncommand = [\"sleep\", \"1000\"]\n\
         [hyperspector.alpha]\nnetwork = \"10.66.0.0/16\"\n\
         [hyperspector.alpha.portspace.ids]\non = [\"web1\"]\ncommand = [\"sleep\", \"1000\"]\n\
         watch.syscalls = [\"shop\"]\n",
    );
    let product = host.command();
    let mut up = host.net.command("unshare");
    up.args(["--mount", "sh", "-c", "mount -t tmpfs none /sys/kernel/btf && exec \"$@\"", "sh"]);
    up.arg(product.get_program()).args(product.get_args()).arg("up").arg(spec).arg("-d");
    let told = run(&mut up, b"", Duration::from_secs(60)).expect(3).all();
    assert!(told.contains("it runs, but sees no system calls: "), "{told}");
    host.wait_state("alpha/ids", "running");
    let shown = host.hyperspector(&["status"]).all();
    assert!(shown.contains("system calls"), "{shown}");
}

#[test]
fn an_up_killed_at_any_moment_is_repaired_by_the_next() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let before = links(host);
    let spec = host.alpha(&(sleeper("one") + &sleeper("two")));
    for after in [5, 20, 40, 60, 90, 130, 200] {
        let up = hyperspector_tests::Running::start(host.command().arg("up").arg(&spec).arg("-d"));
        std::thread::sleep(Duration::from_millis(after));
        drop(up);
        let run_dir = host.run_dir().display().to_string();
        for pid in hyperspector_tests::leftovers::processes_with(&run_dir) {
            let mut kill = std::process::Command::new("kill");
            run(kill.args(["-9", &pid.to_string()]), b"", Duration::from_secs(5));
        }
        if after % 20 == 0 {
            host.up(&spec);
            host.pid("alpha/one");
            host.pid("alpha/two");
        }
        host.hyperspector(&["down", "--purge"]).expect(0);
        assert_eq!(links(host), before, "killed after {after} ms");
    }
}

#[test]
fn a_down_killed_at_any_moment_is_repaired_by_the_next() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let before = links(host);
    let spec = host.alpha(&(sleeper("one") + &sleeper("two")));
    for after in [2, 10, 25, 50] {
        host.up(&spec);
        let agent = host.agent();
        let down = hyperspector_tests::Running::start(host.command().arg("down"));
        std::thread::sleep(Duration::from_millis(after));
        drop(down);
        end(agent);
        host.hyperspector(&["down", "--purge"]).expect(0);
        assert_eq!(links(host), before, "killed after {after} ms");
    }
}

#[test]
fn a_full_disk_is_enospc_inside_and_the_others_go_on() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let root = fleet.root();
    fs::create_dir_all(host.state_dir()).unwrap();
    let mut mount = std::process::Command::new("mount");
    let small = ["-t", "tmpfs", "-o", "size=24m,mode=700", "hs-small"];
    run(mount.args(small).arg(host.state_dir()), b"", Duration::from_secs(5)).expect(0);
    // Before Linux 6.3 no owner on a tmpfs can be shifted.
    let root = format!("ids = \"host\"\nroot = \"{}\"", root.path().display());
    let spec = format!("{}{root}\n{}{root}\n", sleeper("one"), sleeper("two"));
    host.up_alpha(&spec);
    let pid = host.pid("alpha/two");
    let fill =
        host.exec("alpha/one", &["sh", "-c", "dd if=/dev/zero of=/root/big bs=1M count=64 2>&1"]);
    assert!(fill.all().contains("No space left"), "{}", fill.all());
    assert_eq!(host.pid("alpha/two"), pid);
    assert_eq!(host.shell("alpha/two", "cat /etc/test-root"), "made of busybox");
    assert_eq!(host.status().host, "web1", "the agent answers");
    host.shell("alpha/one", "rm /root/big");
    assert_eq!(host.shell("alpha/one", "echo x > /root/small; cat /root/small"), "x");
}

#[test]
fn an_init_that_is_killed_is_started_again() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    host.up_alpha(&sleeper("ids"));
    let init = host.wait_state("alpha/ids", "running").init_pid.unwrap();
    end(init);
    wait_until("another init runs it", || {
        let portspace = host.portspace("alpha/ids");
        portspace.state == "running" && portspace.init_pid.is_some_and(|pid| pid != init)
    });
}

#[test]
fn a_broker_or_guard_that_is_killed_opens_nothing_and_is_replaced() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    host.up_alpha(&sleeper("ids"));
    let pid = host.pid("alpha/ids");
    for which in ["broker", "guard"] {
        let worker = || match which {
            "broker" => host.portspace("alpha/ids").broker(),
            _ => host.status().guard.map(|guard| guard.pid),
        };
        let before = worker().expect("a worker runs");
        let outside = Frames::everywhere(&host.net);
        end(before);
        host.attack("alpha/ids", &["packet-sendto", "packet-send-bound", "packet-qdisc-bypass"]);
        assert_eq!(outside.count(MAGIC, Duration::from_millis(50)), 0, "{which}");
        wait_until(&format!("another {which} runs"), || worker().is_some_and(|pid| pid != before));
        assert_eq!(host.pid("alpha/ids"), pid, "{which}: the IDS goes on");
        let capture = ["tcpdump", "-Z", "root", "-i", "eth0", "-c", "1", "-l", "-n", "-A"];
        let capture = host.start("alpha/ids", &capture);
        let sender = Frames::on(fleet.switch(), "web1");
        wait_until(&format!("capture works after the {which} was killed"), || {
            sender.send(b"captured-again");
            capture.output().contains("captured-again")
        });
    }
}
