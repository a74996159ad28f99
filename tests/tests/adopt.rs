//! Servers that run already: found by pid file, cgroup and unit, and followed when they restart.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hyperspector_tests::watched::{
    expect_soon, notes, own_mount, seen, serve, spec, time_until, unique, up, view,
};
use hyperspector_tests::{
    ControlGroup, Fleet, Machine, Running, Service, Status, leftovers, wait_until,
};

#[test]
fn a_plain_service_is_found_by_its_pid_file_and_followed() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let (place, pid_file) = (fleet.dir().join("service"), fleet.dir().join("service.pid"));
    fs::create_dir(&place).unwrap();
    let start = |number| {
        let service = Service::start(&own_mount(&place, number));
        fs::write(&pid_file, format!("{}\n", service.pid())).unwrap();
        service
    };
    let first = start(1);
    up(host, &format!("{{ pid_file = {pid_file:?} }}"), "");
    let portspace = host.pid("alpha/fim");
    // Its own mounts show, which nobody else has.
    let file = seen(host, place.join("start"));
    assert_eq!(fs::read_to_string(&file).unwrap(), "1\n");
    assert!(!place.join("start").exists());

    drop(first);
    let start_time = Instant::now();
    wait_until("the view is empty", || !file.exists());
    expect_soon("a plain service's end", start_time.elapsed());
    let empty = view(host)["empty"].to_string();
    assert!(empty.contains("it is down"), "{empty}");
    assert!(host.hyperspector(&["status"]).all().contains("down: "));

    let second = start(2);
    expect_soon("a plain service by pid file", time_until(&file, "2"));
    assert_eq!(host.pid("alpha/fim"), portspace, "the portspace went on");
    drop(second);
}

#[test]
fn a_pid_file_that_means_another_process_is_not_followed() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let pid_file = fleet.dir().join("service.pid");
    let service = Service::start("true");
    fs::write(&pid_file, service.pid().to_string()).unwrap();
    // As it is after a crash, when the number is another process's.
    let old = std::time::SystemTime::now() - Duration::from_secs(60);
    fs::File::options().write(true).open(&pid_file).unwrap().set_modified(old).unwrap();
    up(host, &format!("{{ pid_file = {pid_file:?} }}"), "");
    let empty = view(host)["empty"].to_string();
    assert!(empty.contains("another one"), "{empty}");
    assert_eq!(host.shell("alpha/fim", "ls -A /.serverfs/shop | wc -l"), "0");
    fs::write(&pid_file, service.pid().to_string()).unwrap();
    wait_until("it is found", || view(host)["empty"].is_null());
}

#[test]
fn a_cgroup_is_a_server_and_its_oldest_process_leads_it() {
    let (fleet, place, group, first) = serve();
    let file = seen(fleet.host("web1"), place.join("start"));
    let helper = Service::start(&own_mount(&place, 9));
    group.add(helper.pid());
    assert_eq!(fs::read_to_string(&file).unwrap(), "1\n");
    // The first one ends: the server is what is left of it.
    drop(first);
    expect_soon("another process of the cgroup", time_until(&file, "9"));
    drop(helper);
    wait_until("the view is empty", || !file.exists());
    let third = Service::start(&own_mount(&place, 3));
    group.add(third.pid());
    expect_soon("a plain service by cgroup", time_until(&file, "3"));
}

/// What runc keeps of a container, written by hand. Dropping it removes it.
struct Forged(PathBuf);

impl Forged {
    fn make(id: &str, name: &str) -> Self {
        let directory = Path::new("/run/runc").join(id);
        fs::create_dir_all(&directory).unwrap();
        let state = format!(
            "{{\"id\": \"{id}\", \"init_process_pid\": 1, \"init_process_start\": 1, \
             \"config\": {{\"labels\": [\"nerdctl/name={name}\"]}}}}"
        );
        fs::write(directory.join("state.json"), state).unwrap();
        Self(directory)
    }
}

impl Drop for Forged {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_user_s_group_that_is_called_like_a_container_is_not_it() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let name = unique("shop");
    let id = format!("{:064x}", u64::from(std::process::id()) << 32 | 0xf0);
    // A container of root's runtime that does not run now.
    let _state = Forged::make(&id, &name);
    // A part of the hierarchy that belongs to a user, with a group of the container's name, and in
    // that a process with a root of its own.
    let users = ControlGroup::make(&unique("user"));
    let group = users.sub(&id);
    std::os::unix::fs::chown(users.directory(), Some(65534), Some(65534)).unwrap();
    std::os::unix::fs::chown(group.directory(), Some(65534), Some(65534)).unwrap();
    let root = fleet.root();
    let line = format!("mount --bind {0} {0}; exec chroot {0} sleep 1000", root.path().display());
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-ec", &line]);
    let forger = Running::start(&mut command);
    group.add(forger.pid());
    wait_until("the forger has its own root", || {
        fs::read_link(format!("/proc/{}/root", forger.pid())).is_ok_and(|to| to == root.path())
    });
    for wanted in [&name, &id] {
        up(host, &format!("{{ container = {wanted:?} }}"), "");
        let reason = host.hyperspector(&["status"]).text();
        assert!(reason.contains("it does not run"), "{wanted}: {reason}");
        assert!(!seen(host, "etc/test-root").exists(), "{wanted}: the forger's files show");
    }
    drop(forger);
}

/// A unit of systemd with these settings.
fn follow_unit(settings_of_unit: &str) {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let root = fleet.root();
    let settings = || host.net.within(leftovers::settings);
    let before = settings();
    let machine = Machine::start(host, host.dir().parent().unwrap());
    assert_eq!(settings(), before, "systemd has changed this machine");
    let unit = format!(
        "[Unit]\nDefaultDependencies=no\n[Service]\nPrivateTmp=yes\n{settings_of_unit}\
         ExecStart=/bin/sh -c \"date +%%s%%N > /tmp/start; exec sleep 1000\"\n"
    );
    let file = "/run/systemd/system/shop.service";
    machine
        .shell(host, &format!("printf '%s' '{unit}' > {file}; systemctl daemon-reload"))
        .expect(0);
    machine.shell(host, "systemctl start shop.service").expect(0);
    // There are no controllers for limits here; the machine's own root is an overlay.
    let more = format!("root = {:?}\nallow-missing = [\"limits\"]\n", root.path());
    let spec = host.spec(&spec("{ unit = \"shop.service\" }", &more));
    let hyperspector = |arguments: &[&str]| machine.hyperspector(host, arguments);
    hyperspector(&["up", spec.to_str().unwrap(), "-d"]).expect(0);
    let status = || -> Status {
        serde_json::from_str(&hyperspector(&["status", "--json"]).expect(0).stdout).unwrap()
    };
    let init = status().portspace("alpha/fim").unwrap().init_pid.unwrap();
    // The service's own /tmp shows. The portspace is looked at from inside the machine.
    let start = format!("cat /proc/{init}/root/.serverfs/shop/tmp/start");
    let users = "readlink /proc/$(systemctl show -p MainPID --value shop.service)/ns/user /proc/self/ns/user";
    let users = machine.shell(host, users).text();
    let (of_unit, of_shell) = users.split_once('\n').unwrap();
    assert_eq!(of_unit != of_shell, settings_of_unit.contains("PrivateUsers"), "{users}");
    let first = machine.shell(host, &start).text();
    assert!(!first.is_empty());
    assert_eq!(status().servers[0].distrust, None);

    machine.shell(host, "systemctl restart shop.service").expect(0);
    let restarted = Instant::now();
    wait_until("the restart is followed", || {
        let now = machine.shell(host, &start);
        now.code == Some(0) && !now.stdout.is_empty() && now.stdout.trim() != first
    });
    expect_soon("a unit of systemd", restarted.elapsed());
    machine.shell(host, "systemctl stop shop.service").expect(0);
    wait_until("the view is empty", || machine.shell(host, &start).code != Some(0));
    wait_until("status says so", || {
        let now = status();
        let views = &now.portspace("alpha/fim").unwrap().rest["windows"]["views"];
        views["shop"]["empty"].to_string().contains("it is down")
    });
    assert_eq!(status().portspace("alpha/fim").unwrap().init_pid, Some(init), "it went on");
    hyperspector(&["down", "--purge"]).expect(0);
}

#[test]
fn a_unit_of_systemd_is_followed() {
    follow_unit("");
}

#[test]
fn a_unit_of_systemd_with_users_of_its_own_is_followed() {
    follow_unit("PrivateUsers=yes\n");
}

/// As systemd does for `PrivateUsers=`, by hand: the mounts first, as root, and then the users.
#[test]
fn a_service_with_users_of_its_own_is_followed() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let place = fleet.dir().join("service");
    fs::create_dir(&place).unwrap();
    let group = ControlGroup::make(&unique("group"));
    let users = "echo ready; exec unshare --user --map-root-user sleep 1000";
    let service = Service::start(&format!("{}\n{users}", own_mount(&place, 1)));
    let own = fs::read_link("/proc/self/ns/user").unwrap();
    wait_until("it has users of its own", || {
        fs::read_link(format!("/proc/{}/ns/user", service.pid())).is_ok_and(|users| users != own)
    });
    group.add(service.pid());
    let more = "watch.processes = [\"shop\"]";
    up(host, &format!("{{ cgroup = {:?} }}", group.name()), more);
    time_until(&seen(host, place.join("start")), "1");
    assert_eq!(host.status().servers[0].distrust, None);
    service.shell(&format!("mount -t tmpfs x {place:?}; echo 2 > {place:?}/start")).expect(0);
    expect_soon(
        "a service with users of its own",
        time_until(&seen(host, place.join("start")), "2"),
    );
    let line = format!("cat /.serverproc/shop/{}/comm", service.pid());
    wait_until("its process shows", || {
        host.exec("alpha/fim", &["sh", "-c", &line]).stdout == "sleep\n"
    });
}

#[test]
fn a_server_space_shows_all_of_its_own_and_is_followed() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let start = "umask 077; echo s > /srv/secret; date +%s%N > /run/start; sleep 1000";
    let spec = spec("\"base\"", "").replace(
        "adopt = \"base\"",
        &format!("command = [\"sh\", \"-c\", \"{start}\"]\nrestart = \"always\""),
    );
    host.up(&host.spec(&spec));
    wait_until("it shows", || seen(host, "srv/secret").exists());
    // Its files have ids of its own, which the portspace's root may read all the same.
    wait_until("it is read", || {
        !host.shell("alpha/fim", "cat /.serverfs/shop/srv/secret").is_empty()
    });
    assert!(!host.shell("alpha/fim", "cat /.serverfs/shop/run/start").is_empty());
    assert!(notes(host).contains("are the server's ids, from"), "{}", notes(host));
    assert_eq!(host.exec("alpha/fim", &["touch", "/.serverfs/shop/srv/new"]).code, Some(1));

    let portspace = host.pid("alpha/fim");
    let init = host.server_space("shop").init_pid.unwrap();
    let before = fs::read_to_string(seen(host, "run/start")).unwrap();
    // SAFETY: kill takes integers; the process is the test's own server space's.
    unsafe { libc::kill(init, libc::SIGKILL) };
    wait_until("it was made again", || {
        fs::read_to_string(seen(host, "run/start"))
            .is_ok_and(|now| now != before || !now.is_empty())
            && host.server_space("shop").init_pid.is_some_and(|now| now != init)
    });
    assert_eq!(host.pid("alpha/fim"), portspace, "the portspace went on");
}
