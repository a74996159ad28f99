//! What is not to be seen of adopted servers, whatever they and those who watch do.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hyperspector_tests::watched::{
    contain, of, seen, seen_by, time_within, unique, up, with_users,
};
use hyperspector_tests::{ControlGroup, Fleet, Runtime, Service, wait_until};

#[test]
fn masks_hold_whatever_the_server_does() {
    let line = "mkdir /srv/keys; echo k > /srv/keys/key; echo s > /srv/secret";
    let masks = "mask = [\"srv/keys\", \"srv/secret\", \"srv/later\"]";
    let (fleet, container) = contain(of(Runtime::Runc), line, (masks, ""));
    let host = fleet.host("web1");
    let hidden = |path: &str| {
        let path = seen(host, path);
        fs::metadata(&path).map_or(true, |found| found.len() == 0 || found.is_dir())
            && fs::read_dir(&path).map_or(0, Iterator::count) == 0
    };
    for path in ["srv/keys", "srv/secret"] {
        assert!(seen(host, path).exists() && hidden(path), "{path}");
    }
    // A new one in its place, and one that was not there before.
    let lines = "echo new > /srv/n; mv /srv/n /srv/secret; echo l > /srv/later; \
                 mv /srv/keys /srv/moved; mkdir /srv/keys; echo k > /srv/keys/key";
    container.shell(&host.net, lines).expect(0);
    for path in ["srv/secret", "srv/later", "srv/keys"] {
        wait_until(&format!("{path} is hidden again"), || hidden(path));
    }
    container.stop(&host.net);
    container.start(&host.net, "true");
    wait_until("it is back", || seen(host, "srv/moved").exists());
    for path in ["srv/secret", "srv/later", "srv/keys"] {
        assert!(hidden(path), "{path} after a restart");
    }
}

#[test]
fn what_is_never_shown_does_not_come_along_by_chance() {
    // Also where its mounts cannot be copied first.
    let line = "echo 0 > /proc/sys/user/max_mnt_namespaces; mkdir /volume/p /volume/t; \
                (while ! test -e /stop; do mount -t proc proc /volume/p; umount /volume/p; done) & \
                while ! test -e /stop; do mount -t tmpfs t /volume/t; umount /volume/t; done";
    let (fleet, container) = contain(with_users, line, ("", ""));
    let host = fleet.host("web1");
    let init = host.portspace("alpha/fim").init_pid.unwrap();
    let end = Instant::now() + Duration::from_secs(8);
    let mut looked = 0;
    while Instant::now() < end {
        let stat = seen_by(init, "volume/p/1/stat");
        assert!(!stat.exists(), "a procfs shows in the view after {looked} looks");
        let kernel = seen_by(init, "volume/kernel/1/stat");
        assert!(!kernel.exists(), "the kernel's own shows after {looked} looks");
        looked += 1;
    }
    container.shell(&host.net, "echo > /stop; echo 2 > /volume/end").expect(0);
    // A view that could not be made in the storm is tried again after a minute at most.
    time_within(Duration::from_secs(90), &seen(host, "volume/end"), "2");
}

/// Whoever has a directory of a view open keeps what was mounted there when the view is exchanged.
#[test]
fn who_stays_in_a_view_that_is_gone_sees_nothing_hidden() {
    let line = "mkdir -p /srv/keys; echo k > /srv/keys/key; echo s > /srv/secret";
    let masks = "mask = [\"srv/keys\", \"srv/secret\"]";
    let (fleet, container) = contain(of(Runtime::Runc), line, (masks, ""));
    let host = fleet.host("web1");
    wait_until("it shows", || seen(host, "srv/secret").exists());
    let line = "cd /.serverfs/shop/srv && echo inside; \
                while :; do cat keys/key secret 2>/dev/null; ls . ; sleep 0.05; done";
    let stays = host.start("alpha/fim", &["sh", "-c", line]);
    wait_until("it is inside", || stays.output().contains("inside"));
    container.stop(&host.net);
    wait_until("the view is empty", || !seen(host, "srv/secret").exists());
    std::thread::sleep(Duration::from_secs(1));
    let lines: Vec<String> = stays.output().lines().map(str::to_owned).collect();
    assert!(!lines.iter().any(|line| line == "k" || line == "s"), "{lines:?}");
}

#[test]
fn who_stays_among_processes_that_are_gone_sees_nothing_covered() {
    let more = "watch.processes = [\"shop\"]";
    let (fleet, container) = contain(of(Runtime::Runc), "echo 1 > /srv/start", ("", more));
    let host = fleet.host("web1");
    let place = "/.serverproc/shop.root/proc";
    wait_until("it shows", || {
        host.exec("alpha/fim", &["test", "-d", &format!("{place}/1")]).code == Some(0)
    });
    let line = format!("cd {place} && echo inside; while :; do ls sys; sleep 0.05; done");
    let stays = host.start("alpha/fim", &["sh", "-c", &line]);
    wait_until("it is inside", || stays.output().contains("inside"));
    container.stop(&host.net);
    wait_until("it is gone", || {
        host.exec("alpha/fim", &["test", "-d", &format!("{place}/1")]).code != Some(0)
    });
    std::thread::sleep(Duration::from_secs(1));
    let output = stays.output();
    assert!(!output.contains("kernel"), "{output}");
}

#[test]
fn ourselves_show_in_nobody_s_view() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let place = fleet.dir().join("service");
    fs::create_dir(&place).unwrap();
    let group = ControlGroup::make(&unique("group"));
    // The whole host once more, elsewhere.
    let service = Service::start(&format!("mount --bind / {place:?}"));
    group.add(service.pid());
    up(host, &format!("{{ cgroup = {:?} }}", group.name()), "");
    for top in [PathBuf::new(), place.strip_prefix("/").unwrap().to_owned()] {
        for own in [host.state_dir(), host.run_dir()] {
            let path = Path::new("/.serverfs/shop").join(&top).join(own.strip_prefix("/").unwrap());
            let line = format!("test -d {path:?} && ls -A {path:?} | wc -l");
            assert_eq!(host.shell("alpha/fim", &line), "0", "{path:?}");
        }
    }
}
