//! Containers that run already: found, seen as they see themselves, followed when they restart.

use std::fs;
use std::time::Instant;

use hyperspector_tests::watched::{
    contain, expect_soon, inotify, notes, of, seen, time_until, unique, up, view, with_users,
};
use hyperspector_tests::{ControlGroup, Fleet, Rootless, Runtime, wait_until};

/// A container of each runtime that runs here, with its own files and mounts.
fn follow_container(runtime: Runtime) {
    let line = |number: u32| format!("echo {number} > /srv/start; echo {number} > /run/start");
    let (fleet, container) = contain(of(runtime), &line(1), ("", ""));
    let host = fleet.host("web1");
    let portspace = host.pid("alpha/fim");
    let (file, own) = (seen(host, "srv/start"), seen(host, "run/start"));
    expect_soon("a container's file", time_until(&file, "1"));
    assert_eq!(fs::read_to_string(&own).unwrap().trim_end(), "1", "a file system of its own");
    assert_eq!(host.shell("alpha/fim", "ls -A /.serverfs/shop/proc | wc -l"), "0");

    let watch = inotify(host, "/.serverfs/shop/srv");
    container.shell(&host.net, "echo x > /srv/written").expect(0);
    wait_until("inotify fires in the portspace", || watch.output().contains("written"));
    assert_eq!(host.shell("alpha/fim", "cat /.serverfs/shop/srv/written"), "x");

    container.stop(&host.net);
    let start = Instant::now();
    wait_until("the view is empty", || !file.exists());
    expect_soon("a container's end", start.elapsed());
    assert!(view(host)["empty"].to_string().contains("it is down"));
    container.start(&host.net, &line(2));
    expect_soon(&format!("a container of {runtime:?}"), time_until(&file, "2"));
    assert_eq!(host.pid("alpha/fim"), portspace, "the portspace went on");
}

#[test]
fn a_container_of_runc_is_followed() {
    follow_container(Runtime::Runc);
}

#[test]
fn a_container_of_crun_is_followed() {
    follow_container(Runtime::Crun);
}

#[test]
fn a_container_of_podman_is_followed() {
    follow_container(Runtime::Podman);
}

#[test]
fn an_overlay_shows_unshifted_and_status_says_what_would_be_right() {
    for (ids, is_read) in [("private", false), ("host", true)] {
        let line = "echo s > /srv/secret; chmod 600 /srv/secret; echo p > /srv/plain";
        let more = format!("ids = \"{ids}\"");
        let (fleet, _container) = contain(of(Runtime::Podman), line, ("", &more));
        let host = fleet.host("web1");
        time_until(&seen(host, "srv/plain"), "p");
        assert_eq!(host.shell("alpha/fim", "cat /.serverfs/shop/srv/plain"), "p");
        let secret = host.exec("alpha/fim", &["cat", "/.serverfs/shop/srv/secret"]);
        assert_eq!(secret.code == Some(0), is_read, "{ids}: {secret:?}");
        assert_eq!(notes(host).contains("ids = \\\"host\\\""), !is_read, "{}", notes(host));
    }
}

#[test]
fn a_container_in_a_user_namespace_shows_without_what_is_the_kernel_s() {
    let (fleet, container) = contain(with_users, "echo 1 > /srv/start", ("", ""));
    let host = fleet.host("web1");
    for (path, content) in
        [("srv/start", "1"), ("volume/file", "outer"), ("volume/sub/file", "inner")]
    {
        time_until(&seen(host, path), content);
    }
    assert_eq!(view(host)["empty"], serde_json::Value::Null);
    for path in ["proc", "volume/kernel", "volume/own"] {
        let line =
            format!("test -d /.serverfs/shop/{path} && ls -A /.serverfs/shop/{path} | wc -l");
        assert_eq!(host.shell("alpha/fim", &line), "0", "{path}");
    }
    let table = host.shell("alpha/fim", "cat /proc/self/mountinfo");
    let views =
        table.lines().filter(|line| line.split(' ').nth(4).unwrap().starts_with("/.serverfs/shop"));
    for line in views {
        let flags: Vec<&str> = line.split(' ').nth(5).unwrap().split(',').collect();
        for flag in ["ro", "nosuid", "nodev", "noexec"] {
            assert!(flags.contains(&flag), "{flag} is missing: {line}");
        }
    }
    let status = host.status();
    assert_eq!(status.servers[0].distrust, None, "its runtime has made its namespaces");
    // What it mounts itself is followed, as with any other.
    container.shell(&host.net, "mount -t tmpfs x /volume/sub; echo 2 > /volume/sub/file").expect(0);
    time_until(&seen(host, "volume/sub/file"), "2");
}

#[test]
fn a_container_in_a_user_namespace_blinds_nobody_by_mounting() {
    let (fleet, container) = contain(with_users, "echo 1 > /srv/start", ("", ""));
    let host = fleet.host("web1");
    time_until(&seen(host, "volume/file"), "outer");
    // Each of these has all that were before once more below it.
    let lines = "cd /volume; mkdir many; mount -t tmpfs many many; cd many; i=0; \
                 while [ $i -lt 14 ]; do mkdir d$i; mount --rbind . d$i; i=$((i+1)); done; \
                 wc -l < /proc/self/mountinfo";
    let count: usize = container.shell(&host.net, lines).text().parse().unwrap();
    assert!(count > 10_000, "{count} mounts");
    wait_until("status says what is too much", || notes(host).contains("more than are looked at"));
    for (path, content) in
        [("srv/start", "1"), ("volume/file", "outer"), ("volume/sub/file", "inner")]
    {
        time_until(&seen(host, path), content);
    }
    assert_eq!(fs::read_dir(seen(host, "volume/kernel")).unwrap().count(), 0);
    // And nobody by forbidding that its mounts be copied.
    container.shell(&host.net, "umount -l /volume/many").expect(0);
    wait_until("it shows all", || !notes(host).contains("more than are looked at"));
    let lines = "echo 0 > /proc/sys/user/max_mnt_namespaces; echo 3 > /volume/later; \
                 mount -t tmpfs x /volume/many; echo 4 > /volume/many/file";
    container.shell(&host.net, lines).expect(0);
    time_until(&seen(host, "volume/many/file"), "4");
    assert_eq!(fs::read_to_string(seen(host, "volume/sub/file")).unwrap(), "inner\n");
    assert_eq!(fs::read_dir(seen(host, "volume/kernel")).unwrap().count(), 0);
}

/// A user's manager has a part of the hierarchy, in which his runtimes make groups.
#[test]
fn a_rootless_container_of_podman_is_followed_by_its_id() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let container = Rootless::prepare(&unique("shop"), fleet.dir());
    let users = ControlGroup::make(&unique("user"));
    std::os::unix::fs::chown(users.directory(), Some(5), Some(60)).unwrap();
    let (id, pid) =
        container.start("echo 1 > /srv/start; echo s > /srv/secret; chmod 600 /srv/secret");
    let group = users.sub(&format!("libpod-{id}.scope"));
    group.add(pid);
    up(host, &format!("{{ container = {id:?} }}"), "watch.changes = [\"shop\"]");
    time_until(&seen(host, "srv/start"), "1");
    assert_eq!(host.status().servers[0].distrust, None, "its runtime has made its namespaces");
    assert_eq!(host.shell("alpha/fim", "cat /.serverfs/shop/srv/secret"), "s");
    container.shell("echo 2 > /srv/later").expect(0);
    time_until(&seen(host, "srv/later"), "2");
    let listed = ["/.hyperspector/hyperspector-changes", "shop", "--done"];
    host.exec("alpha/fim", &["/.hyperspector/hyperspector-changes", "shop"]);
    host.exec("alpha/fim", &listed).expect(0);
    container.shell("echo 3 > /srv/changed").expect(0);
    wait_until("the change is listed", || {
        let output = host.exec("alpha/fim", &listed[..2]);
        output.code == Some(0) && output.stdout.contains("/srv/changed")
    });
}
