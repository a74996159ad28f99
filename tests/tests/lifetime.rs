//! When a portspace's command runs: restarts, periods, and what survives.

use hyperspector_tests::{Fleet, TestHost, patience, wait_until};

fn up(host: &TestHost, more: &str, line: &str) {
    host.up_alpha(&format!(
        "[hyperspector.alpha.portspace.ids]\non = [\"web1\"]\n{more}\n\
         command = [\"sh\", \"-c\", \"\"\"{line}\"\"\"]\n"
    ));
}

fn count(host: &TestHost, text: &str) -> usize {
    host.logs("alpha/ids").matches(text).count()
}

#[test]
fn always_starts_again() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    // `up` looks at it for 0.3 s.
    up(host, "restart = \"always\"", "echo run; sleep 1");
    wait_until("it ran twice", || count(host, "run\n") >= 2);
    wait_until("status counts it", || host.portspace("alpha/ids").restarts >= 1);
}

#[test]
fn on_failure_starts_again_after_a_failure_only() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let line = "echo run; sleep 1; test -e /root/second && exit 0; touch /root/second; exit 3";
    up(host, "restart = \"on-failure\"", line);
    host.wait_state("alpha/ids", "stopped");
    assert_eq!(count(host, "run\n"), 2);
}

#[test]
fn never_stays_ended() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    up(host, "restart = \"never\"", "echo run; sleep 0.3");
    host.wait_state("alpha/ids", "stopped");
    assert_eq!(count(host, "run\n"), 1);
}

/// What a run finds of the runs before it.
const FINDINGS: &str = "mkdir -p /var/lib/kept; echo start; \
    test -e /root/written && echo written is there; \
    test -e /var/lib/kept/state && echo kept is there; \
    touch /root/written /var/lib/kept/state; sleep 1";

#[test]
fn what_was_written_survives_a_restart() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    up(host, "restart = \"always\"", FINDINGS);
    host.wait_log("alpha/ids", "written is there");
    host.wait_log("alpha/ids", "kept is there");
}

#[test]
fn a_clean_restart_keeps_only_what_it_is_told_to() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    up(host, "restart = \"clean\"\nkeep = [\"/var/lib/kept\"]", FINDINGS);
    wait_until("it ran three times", || count(host, "start\n") >= 3);
    let log = host.logs("alpha/ids");
    assert!(log.contains("kept is there"), "{log}");
    assert!(!log.contains("written is there"), "{log}");
}

#[test]
fn a_period_runs_it_again_and_again() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    up(host, "every = \"1s\"", "echo run");
    wait_until("it ran three times", || count(host, "run\n") >= 3);
    host.wait_state("alpha/ids", "waiting");
}

#[test]
fn it_is_asked_to_end_before_it_is_killed() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let line = "trap 'echo ending > /root/ended; exit 0' TERM; echo ready; \
                while true; do sleep 0.05; done";
    up(host, "", line);
    host.wait_log("alpha/ids", "ready");
    host.down();
    up(host, "", "cat /root/ended; echo ready again; sleep 1000");
    host.wait_log("alpha/ids", "ready again");
    assert!(host.logs("alpha/ids").contains("ending"));
}

#[test]
fn one_that_does_not_listen_is_killed_after_its_grace() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    up(host, "stop-grace = \"1s\"", "trap '' TERM; echo ready; while true; do sleep 0.2; done");
    host.wait_log("alpha/ids", "ready");
    let pid = host.pid("alpha/ids");
    let before = std::time::Instant::now();
    host.down();
    assert!(before.elapsed() < patience(std::time::Duration::from_secs(8)));
    assert!(!std::fs::exists(format!("/proc/{pid}")).unwrap());
}
