//! Processes shown one by one.

use std::fs;

use hyperspector_sys::pidfd::start_time;
use hyperspector_window::processes::members::{MOST, Members, Processes, of_cgroup};
use hyperspector_window::processes::{members, view};

use crate::lab::{Portspace, Running};

fn processes(running: &[&Running]) -> Processes {
    running.iter().map(|one| (one.pid(), start_time(one.pid()).unwrap().unwrap())).collect()
}

fn portspace() -> (Portspace, Members) {
    let portspace = Portspace::start();
    view::lay_out(portspace.mounts(), &["shop".into()]).unwrap();
    let members = Members::show(portspace.mounts(), "shop").unwrap();
    (portspace, members)
}

fn listed(portspace: &Portspace) -> Vec<u32> {
    let text = portspace.shell("cd /.serverproc/shop; ls -d [0-9]* 2>/dev/null || true");
    let mut pids: Vec<u32> = text.lines().map(|pid| pid.parse().unwrap()).collect();
    pids.sort_unstable();
    pids
}

pub fn come_and_go() {
    let (portspace, mut members) = portspace();
    let sleep = |seconds| Running::start(&["sleep", seconds]);
    let (a, b) = (sleep("7003"), sleep("7004"));
    let mut follow = |running: &[&Running]| {
        members.follow(portspace.mounts(), "shop", &processes(running)).unwrap()
    };
    assert_eq!(follow(&[&a, &b]), 0);
    let mut both = [a.pid(), b.pid()];
    both.sort_unstable();
    assert_eq!(listed(&portspace), both);
    let line = format!("cat /.serverproc/shop/{}/cmdline | tr '\\0' ' '", a.pid());
    assert_eq!(portspace.shell(&line), "sleep 7003");
    assert!(portspace.shell("cat /.serverproc/shop/stat").contains("btime"));
    assert_eq!(portspace.shell("ls -d /.serverproc/shop/sys 2>&1 | grep -c 'No such'"), "1");

    // One that has ended and was not looked at since: nothing can be read there.
    let pid = a.pid();
    a.end();
    let output = portspace.run(&format!("cat /.serverproc/shop/{pid}/stat"));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("No such process") || error.contains("No such file"), "{error}");
    follow(&[&b]);
    assert_eq!(listed(&portspace), [b.pid()]);
    let c = sleep("7005");
    follow(&[&b, &c]);
    assert_eq!(listed(&portspace).len(), 2);
    follow(&[]);
    assert_eq!(listed(&portspace), [0; 0]);
    assert!(!portspace.run("mkdir /.serverproc/shop/7").status.success());
}

pub fn start_times_count() {
    let (portspace, mut members) = portspace();
    let one = Running::start(&["sleep", "7006"]);
    let right = processes(&[&one]);
    let wrong: Processes = right.iter().map(|(pid, start)| (*pid, start - 1)).collect();
    members.follow(portspace.mounts(), "shop", &wrong).unwrap();
    assert_eq!(listed(&portspace), [0; 0]);
    members.follow(portspace.mounts(), "shop", &right).unwrap();
    assert_eq!(listed(&portspace), [one.pid()]);
    // Its number comes to mean another one, which is gone before it can be shown.
    members.follow(portspace.mounts(), "shop", &wrong).unwrap();
    assert_eq!(listed(&portspace), [0; 0]);
}

pub fn a_crowd_is_bounded() {
    let (portspace, mut members) = portspace();
    let one = Running::start(&["sleep", "7007"]);
    let mut crowd: Processes = (1_u32..).take(MOST).map(|at| (at + 5_000_000, 1)).collect();
    crowd.extend(processes(&[&one]));
    crowd.insert(u32::MAX, 1);
    assert_eq!(members.follow(portspace.mounts(), "shop", &crowd).unwrap(), 2);
    assert_eq!(listed(&portspace), [one.pid()]);
}

pub fn of_a_cgroup() {
    let name = format!("hs-test-processes-{}", std::process::id());
    let directory = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
        .iter()
        .map(|root| std::path::Path::new(root).join(&name))
        .find(|path| fs::create_dir(path).is_ok())
        .expect("a cgroup v2 hierarchy");
    let below = directory.join("below");
    fs::create_dir(&below).unwrap();
    let (a, b) = (Running::start(&["sleep", "7008"]), Running::start(&["sleep", "7009"]));
    fs::write(directory.join("cgroup.procs"), a.pid().to_string()).unwrap();
    fs::write(below.join("cgroup.procs"), b.pid().to_string()).unwrap();
    let found = of_cgroup(&directory);
    let expected = processes(&[&a, &b]);
    a.end();
    b.end();
    fs::remove_dir(&below).unwrap();
    fs::remove_dir(&directory).unwrap();
    assert_eq!(found.unwrap(), expected);
    assert_eq!(members::of_cgroup(&directory).unwrap(), Processes::new());
}
