//! A procfs of a PID namespace, and where it is shown.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use hyperspector_window::processes::procfs::{SHOWN, Start, make};
use hyperspector_window::processes::view;

use crate::lab::{Portspace, Server, children, wait_for};

/// Both ways to a procfs of another namespace: the option, where the kernel has it, and entering.
const WAYS: [Start; 2] = [Start { enter: false }, Start { enter: true }];

fn tree(server: &Server, way: Start) -> OwnedFd {
    make(server.pid_namespace().as_fd(), way, |_| Ok(())).unwrap()
}

fn path(tree: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", tree.as_raw_fd()).into()
}

pub fn shows_the_namespace() {
    for way in WAYS {
        let server = Server::start();
        let tree = tree(&server, way);
        let names: Vec<String> = fs::read_dir(path(&tree))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let processes: Vec<&String> =
            names.iter().filter(|name| name.parse::<u32>().is_ok()).collect();
        assert_eq!(processes, ["1", "2"], "{way:?}");
        assert!(fs::read_to_string(path(&tree).join("2/cmdline")).unwrap().contains("7001"));
        for name in &names {
            let file = path(&tree).join(name);
            let found = fs::symlink_metadata(&file).unwrap();
            if found.is_symlink() || SHOWN.contains(&name.as_str()) || name.parse::<u32>().is_ok() {
                continue;
            }
            match found.is_dir() {
                true => assert_eq!(fs::read_dir(&file).unwrap().count(), 0, "{name}"),
                false => assert_eq!(fs::read(&file).unwrap(), b"", "{name}"),
            }
        }
        for name in ["sys", "kmsg", "kcore", "keys", "timer_list", "sysrq-trigger", "kallsyms"] {
            let inside = path(&tree).join(name);
            assert!(
                !inside.exists()
                    || fs::read(inside).is_ok_and(|text| text.is_empty())
                    || name == "sys"
            );
        }
        let shown = ["stat", "uptime", "meminfo", "loadavg", "cpuinfo", "version"];
        assert!(shown.iter().all(|name| fs::read(path(&tree).join(name)).unwrap().len() > 8));
    }
}

pub fn nothing_stays_in_the_namespace() {
    for way in WAYS {
        let server = Server::start();
        let before = children(server.leader);
        let tree = tree(&server, way);
        assert_eq!(children(server.leader), before);
        let last: u32 = fs::read_dir(path(&tree))
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().ok())
            .max()
            .unwrap();
        assert_eq!(last, 2);
        drop(server);
        // A procfs whose namespace is dead shows no process.
        wait_for(|| (!path(&tree).join("1/stat").exists()).then_some(()));
    }
}

pub fn what_is_covered_stays_covered() {
    let (server, portspace) = (Server::start(), Portspace::start());
    view::lay_out(portspace.mounts(), &["shop".into()]).unwrap();
    view::show(portspace.mounts(), "shop", tree(&server, Start::default()).as_fd()).unwrap();
    let table = portspace.shell("cat /proc/self/mountinfo");
    let below: Vec<&str> =
        table.lines().filter(|line| line.contains(" /.serverproc/shop.root/proc")).collect();
    assert!(below.len() > 20, "{table}");
    for line in below {
        let flags: Vec<&str> = line.split(' ').nth(5).unwrap().split(',').collect();
        for flag in ["ro", "nosuid", "nodev", "noexec"] {
            assert!(flags.contains(&flag), "{flag} is missing: {line}");
        }
    }
    for name in
        ["sys/kernel/hostname", "sysrq-trigger", "1/oom_score_adj", "1/comm", "1/clear_refs"]
    {
        let output = portspace.run(&format!("echo 1 > /.serverproc/shop/{name}"));
        assert!(!output.status.success(), "{name}");
    }
}

pub fn a_portspace_finds_and_loses_a_server() {
    let portspace = Portspace::start();
    let servers = ["shop".to_owned(), "mail".to_owned()];
    view::lay_out(portspace.mounts(), &servers).unwrap();
    assert_eq!(
        portspace.shell("cd /.serverproc; ls -d *; ls shop/ mail/"),
        "mail\nmail.json\nmail.root\nshop\nshop.json\nshop.root\nmail/:\n\nshop/:"
    );
    for _ in 0..3 {
        let server = Server::start();
        let tree = tree(&server, Start::default());
        view::show(portspace.mounts(), "shop", tree.as_fd()).unwrap();
        let line = "cat /.serverproc/shop/2/cmdline | tr '\\0' ' '; ls /.serverproc/mail/";
        assert_eq!(portspace.shell(line), "sleep 7001");
    }
    view::clear(portspace.mounts(), "shop").unwrap();
    assert_eq!(portspace.shell("ls /.serverproc/shop/"), "");
    let mounts = portspace.shell("grep -c serverproc/shop.root/proc /proc/self/mountinfo || true");
    assert_eq!(mounts, "0");

    let facts = tempfile::tempdir().unwrap();
    view::show_facts(portspace.mounts(), "shop", facts.path()).unwrap();
    fs::write(facts.path().join("processes.json"), "{}").unwrap();
    assert_eq!(portspace.shell("cat /.serverproc/shop.json"), "{}");
    assert!(!portspace.run("echo > /.serverproc/.facts/shop/x").status.success());
}

pub fn programs_find_a_server_in_proc() {
    let (server, portspace) = (Server::start(), Portspace::start());
    view::lay_out(portspace.mounts(), &["shop".into()]).unwrap();
    view::show(portspace.mounts(), "shop", tree(&server, Start::default()).as_fd()).unwrap();
    let listed = portspace.shell("chroot /.serverproc/shop.root busybox ps -o pid,args");
    let listed: Vec<&str> = listed.lines().skip(1).map(str::trim).collect();
    assert_eq!(listed.len(), 2, "{listed:?}");
    assert!(listed[0].starts_with("1 sh -c sleep 7001") && listed[1].ends_with("2 sleep 7001"));
    assert_eq!(portspace.shell("chroot /.serverproc/shop.root pstree -p 1"), "sh(1)---sleep(2)");
    assert!(!portspace.run("echo > /.serverproc/shop.root/etc/x").status.success());
    // Devices work there, and nothing else of the portspace's root is there.
    assert_eq!(
        portspace.shell("echo x > /.serverproc/shop.root/dev/null; ls /.serverproc/shop.root"),
        "bin\ndev\netc\nlib\nlib64\nproc\nsbin\nusr"
    );
}
