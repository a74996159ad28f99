//! Servers that run already: found, seen as they see themselves, followed when they restart, and not
//! to be touched through their windows.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hyperspector_tests::{
    Container, ControlGroup, Fleet, Machine, Running, Runtime, ServerFiles, Service, Status,
    TestHost, expect_refused, goes_without, leftovers, patience, wait_until,
};

/// How soon a view has to follow a restart.
const SECOND: Duration = Duration::from_secs(1);

/// A spec with the server `shop`, watched by `alpha/fim`.
fn spec(adopt: &str, more: &str) -> String {
    format!(
        "[host.web1]\n\n[server.shop]\non = [\"web1\"]\nadopt = {adopt}\n\n\
         [hyperspector.alpha]\nnetwork = \"10.66.0.0/16\"\n\n\
         [hyperspector.alpha.portspace.fim]\non = [\"web1\"]\ncommand = [\"sleep\", \"1000\"]\n\
         watch.files = [\"shop\"]\n{more}\n"
    )
}

fn up(host: &TestHost, adopt: &str, more: &str) {
    host.up(&host.spec(&spec(adopt, more)));
}

/// A name that no other test has.
fn unique(what: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("hs-{what}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A path in the view of `shop`, as it can be read from the host.
fn seen(host: &TestHost, path: &str) -> PathBuf {
    let init = host.portspace("alpha/fim").init_pid.expect("a portspace that runs has an init");
    seen_by(init, path)
}

/// The same, of the portspace with this init.
fn seen_by(init: i32, path: &str) -> PathBuf {
    Path::new("/proc").join(init.to_string()).join("root/.serverfs/shop").join(path)
}

/// How long it takes until a file in the view has this content.
#[track_caller]
fn time_until(path: &Path, content: &str) -> Duration {
    let start = Instant::now();
    while fs::read_to_string(path).ok().as_deref().map(str::trim_end) != Some(content) {
        assert!(start.elapsed() < patience(Duration::from_secs(20)), "{content} never shows");
        std::thread::sleep(Duration::from_millis(5));
    }
    start.elapsed()
}

#[track_caller]
fn expect_soon(what: &str, took: Duration) {
    println!("{what}: followed after {} ms", took.as_millis());
    assert!(took < patience(SECOND), "{what}: {took:?}");
}

/// Prints the names of what is made or written in a directory, by inotify(7), in the portspace.
#[track_caller]
fn watch(host: &TestHost, directory: &str) -> Running {
    let (init, add) = (libc::SYS_inotify_init1, libc::SYS_inotify_add_watch);
    let events = libc::IN_CREATE | libc::IN_MODIFY;
    let program = format!(
        "$| = 1; my $fd = syscall({init}, 0); my $path = $ARGV[0];\
         syscall({add}, $fd, $path, {events}) >= 0 or die \"$path: $!\";\
         open(my $in, '<&=', $fd); print \"watching\\n\";\
         while (sysread($in, my $event, 4096)) {{ $event =~ tr/a-z//cd; print \"$event\\n\"; }}"
    );
    let watch = host.start("alpha/fim", &["perl", "-e", &program, directory]);
    wait_until("it watches", || watch.output().contains("watching"));
    watch
}

/// What `status` says of a view.
fn view(host: &TestHost) -> serde_json::Value {
    let portspace = host.portspace("alpha/fim");
    portspace.rest["windows"]["views"]["shop"].clone()
}

fn notes(host: &TestHost) -> String {
    view(host)["notes"].to_string()
}

/// A file system of the service's own, with a file that says which start of it this is.
fn own_mount(place: &Path, start: u32) -> String {
    format!("mount -t tmpfs own {0:?}\necho {start} > {0:?}/start", place)
}

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
    let inside = place.strip_prefix("/").unwrap().join("start");
    let file = seen(host, inside.to_str().unwrap());
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
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let place = fleet.dir().join("service");
    fs::create_dir(&place).unwrap();
    let group = ControlGroup::make(&unique("group"));
    let first = Service::start(&own_mount(&place, 1));
    group.add(first.pid());
    let helper = Service::start(&own_mount(&place, 9));
    group.add(helper.pid());
    up(host, &format!("{{ cgroup = {:?} }}", group.name()), "");
    let inside = place.strip_prefix("/").unwrap().join("start");
    let file = seen(host, inside.to_str().unwrap());
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

#[test]
fn what_a_service_mounts_and_unmounts_is_followed_and_inotify_fires() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let place = fleet.dir().join("service");
    fs::create_dir(&place).unwrap();
    let group = ControlGroup::make(&unique("group"));
    let service = Service::start(&own_mount(&place, 1));
    group.add(service.pid());
    up(host, &format!("{{ cgroup = {:?} }}", group.name()), "");
    let inside = place.strip_prefix("/").unwrap();
    let at = |name: &str| seen(host, inside.join(name).to_str().unwrap());
    let watched = format!("/.serverfs/shop/{}", inside.display());
    let watch = watch(host, &watched);
    service.shell(&format!("echo x > {place:?}/written")).expect(0);
    wait_until("inotify fires in the portspace", || watch.output().contains("written"));

    service.shell(&format!(
        "mkdir {place:?}/more; mount -t tmpfs more {place:?}/more; echo 7 > {place:?}/more/file"
    ));
    expect_soon("a mount", time_until(&at("more/file"), "7"));
    // Over it, and then without either.
    service.shell(&format!("mount -t tmpfs over {place:?}/more; echo 8 > {place:?}/more/file"));
    expect_soon("a mount over it", time_until(&at("more/file"), "8"));
    service.shell(&format!("umount {place:?}/more"));
    expect_soon("what was below", time_until(&at("more/file"), "7"));
    service.shell(&format!("umount {place:?}/more; echo 6 > {place:?}/more/file"));
    expect_soon("no mount", time_until(&at("more/file"), "6"));
    // What stayed was not disturbed: the same watch still fires.
    service.shell(&format!("echo x > {place:?}/later")).expect(0);
    wait_until("inotify still fires", || watch.output().contains("later"));
}

#[test]
fn a_service_that_mounts_strange_things_confuses_nobody() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let place = fleet.dir().join("service");
    fs::create_dir(&place).unwrap();
    let group = ControlGroup::make(&unique("group"));
    let service = Service::start(&own_mount(&place, 1));
    group.add(service.pid());
    up(host, &format!("{{ cgroup = {:?} }}", group.name()), "");
    let inside = place.strip_prefix("/").unwrap();
    let at = |name: &str| seen(host, inside.join(name).to_str().unwrap());
    let ask = |line: &str| service.shell(&format!("cd {place:?}; {line}")).expect(0);

    ask(
        "d=\"$(printf 'a\\nb c\\\\\\\\040 - x')\"; mkdir \"$d\"; mount -t tmpfs x \"$d\"; echo 5 > \"$d/f\"",
    );
    expect_soon("a mount with a newline", time_until(&at("a\nb c\\\\040 - x/f"), "5"));
    ask(
        "mkdir loop; mount --bind . loop; mount --bind . loop/loop; mount --rbind . loop; echo 4 > l",
    );
    expect_soon("mounts in a loop", time_until(&at("l"), "4"));
    ask("mkdir hidden; mount -t tmpfs x hidden; mount --make-unbindable hidden; echo 3 > hidden/f");
    expect_soon("a mount that must not be bound", time_until(&at("hidden/f"), "3"));
    ask("mkdir p; mount -t proc proc p");
    wait_until("the procfs is named", || view(host)["pseudo"].to_string().contains("/p (proc)"));
    assert_eq!(fs::read_dir(at("p")).unwrap().count(), 0);
    // A link in the place of a mount point's parent.
    ask(
        "mkdir -p dir/m; mount -t tmpfs x dir/m; mkdir elsewhere; mv dir was; ln -s /etc dir; echo 2 > was/m/f",
    );
    expect_soon("a mount that was moved", time_until(&at("was/m/f"), "2"));
    assert_eq!(host.shell("alpha/fim", "cat /etc/hostname"), "fim.web1", "the portspace's own");
}

#[test]
fn ten_thousand_mounts_are_bounded_and_hold_nobody_up() {
    let fleet = Fleet::new(&["web1", "web2"]);
    let host = fleet.host("web1");
    let place = fleet.dir().join("service");
    fs::create_dir(&place).unwrap();
    let group = ControlGroup::make(&unique("group"));
    let service = Service::start(&own_mount(&place, 1));
    group.add(service.pid());
    up(host, &format!("{{ cgroup = {:?} }}", group.name()), "");
    let inside = place.strip_prefix("/").unwrap();
    let file = seen(host, inside.join("start").to_str().unwrap());
    // Each of these has all that were before once more below it.
    let lines = format!(
        "cd {place:?}; mkdir many; mount -t tmpfs many many; cd many; i=0; \
         while [ $i -lt 14 ]; do mkdir d$i; mount --rbind . d$i; i=$((i+1)); done; \
         wc -l < /proc/self/mountinfo"
    );
    let count: usize = service.shell(&lines).text().parse().unwrap();
    assert!(count > 10_000, "{count} mounts");
    wait_until("status says what is too much", || notes(host).contains("more than are looked at"));
    let start = Instant::now();
    host.hyperspector(&["status"]).expect(0);
    assert!(start.elapsed() < patience(SECOND), "the agent answers: {:?}", start.elapsed());
    assert_eq!(fs::read_to_string(&file).unwrap(), "1\n", "the rest still shows");
    drop(service);
    wait_until("the view is empty", || !file.exists());
}

/// A container of each runtime that runs here, with its own files and mounts.
fn follow_container(runtime: Runtime) {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let name = unique("shop");
    let container = Container::prepare(runtime, &name, fleet.dir());
    let line = |number: u32| format!("echo {number} > /srv/start; echo {number} > /run/start");
    container.start(&host.net, &line(1));
    up(host, &format!("{{ container = {name:?} }}"), "");
    let portspace = host.pid("alpha/fim");
    let (file, own) = (seen(host, "srv/start"), seen(host, "run/start"));
    expect_soon("a container's file", time_until(&file, "1"));
    assert_eq!(fs::read_to_string(&own).unwrap().trim_end(), "1", "a file system of its own");
    assert_eq!(host.shell("alpha/fim", "ls -A /.serverfs/shop/proc | wc -l"), "0");

    let watch = watch(host, "/.serverfs/shop/srv");
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

#[test]
fn a_unit_of_systemd_is_followed() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let root = fleet.root();
    let settings = || host.net.within(leftovers::settings);
    let before = settings();
    let machine = Machine::start(host, host.dir().parent().unwrap());
    assert_eq!(settings(), before, "systemd has changed this machine");
    let unit = "[Unit]\nDefaultDependencies=no\n[Service]\nPrivateTmp=yes\n\
                ExecStart=/bin/sh -c \"date +%%s%%N > /tmp/start; exec sleep 1000\"\n";
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
    let first = machine.shell(host, &start).text();
    assert!(!first.is_empty());

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
fn an_overlay_shows_unshifted_and_status_says_what_would_be_right() {
    for (ids, is_read) in [("private", false), ("host", true)] {
        let fleet = Fleet::new(&["web1"]);
        let host = fleet.host("web1");
        let container = Container::prepare(Runtime::Podman, &unique("shop"), fleet.dir());
        container
            .start(&host.net, "echo s > /srv/secret; chmod 600 /srv/secret; echo p > /srv/plain");
        let (name, more) = (container.name(), format!("ids = \"{ids}\""));
        up(host, &format!("{{ container = {name:?} }}"), &more);
        time_until(&seen(host, "srv/plain"), "p");
        assert_eq!(host.shell("alpha/fim", "cat /.serverfs/shop/srv/plain"), "p");
        let secret = host.exec("alpha/fim", &["cat", "/.serverfs/shop/srv/secret"]);
        assert_eq!(secret.code == Some(0), is_read, "{ids}: {secret:?}");
        assert_eq!(notes(host).contains("ids = \\\"host\\\""), !is_read, "{}", notes(host));
    }
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

#[test]
fn views_outlive_the_agent_and_their_worker_and_are_followed_by_the_next() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let place = fleet.dir().join("service");
    fs::create_dir(&place).unwrap();
    let group = ControlGroup::make(&unique("group"));
    let service = Service::start(&own_mount(&place, 1));
    group.add(service.pid());
    let adopt = format!("{{ cgroup = {:?} }}", group.name());
    up(host, &adopt, "");
    let inside = place.strip_prefix("/").unwrap();
    let at = |name: &str| seen(host, inside.join(name).to_str().unwrap());
    let (init, start) = (host.portspace("alpha/fim").init_pid.unwrap(), at("start"));
    let worker = || {
        let workers = processes_of(host.agent());
        workers.into_iter().find(|(_, line)| line.contains("views")).map(|(pid, _)| pid)
    };
    let first = worker().expect("a worker makes views");
    end(first);
    service
        .shell(&format!("mkdir {place:?}/a; mount -t tmpfs a {place:?}/a; echo 2 > {place:?}/a/f"));
    time_until(&at("a/f"), "2");
    assert!(worker().is_some_and(|now| now != first), "another worker does it now");

    // The mount of what stays is the same one after the next agent has looked at all.
    let mounts = || -> Vec<String> {
        let table = fs::read_to_string(format!("/proc/{init}/mountinfo")).unwrap();
        let is_part = |line: &&str| {
            let place = Path::new(line.split(' ').nth(4).unwrap());
            place == Path::new("/.serverfs/shop") || place.ends_with(inside)
        };
        table.lines().filter(is_part).map(str::to_owned).collect()
    };
    let before = mounts();
    assert_eq!(before.len(), 2, "{before:?}");
    end(host.agent());
    assert_eq!(fs::read_to_string(&start).unwrap(), "1\n", "it shows without an agent");
    up(host, &adopt, "");
    assert_eq!(host.portspace("alpha/fim").init_pid, Some(init));
    wait_until("the next agent knows the view", || view(host)["empty"].is_null());
    assert_eq!(mounts(), before);
    service.shell(&format!("umount {place:?}/a"));
    wait_until("it follows", || !at("a/f").exists());
    drop(service);
    wait_until("the view is empty", || !start.exists());
}

/// The children of a process, each with its command line.
fn processes_of(parent: i32) -> Vec<(i32, String)> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let child = |pid: i32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let is_child = status.lines().any(|line| line == format!("PPid:\t{parent}"));
        is_child.then(|| (pid, String::from_utf8_lossy(&line).replace('\0', " ")))
    };
    pids.filter_map(child).collect()
}

fn end(pid: i32) {
    // SAFETY: kill takes integers; the process is one of the test's own.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    wait_until("it has ended", || {
        fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
    });
}

#[test]
fn masks_hold_whatever_the_server_does() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let container = Container::prepare(Runtime::Runc, &unique("shop"), fleet.dir());
    container.start(&host.net, "mkdir /srv/keys; echo k > /srv/keys/key; echo s > /srv/secret");
    let name = container.name();
    let spec = spec(
        &format!(
            "{{ container = {name:?} }}\nmask = [\"srv/keys\", \"srv/secret\", \"srv/later\"]"
        ),
        "",
    );
    host.up(&host.spec(&spec));
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

/// A container in a user namespace of its own. What it has below `/volume` from the host is locked
/// there, and cannot be taken apart: a file system, the kernel's own, and the state of this test.
fn container_with_users(host: &TestHost, directory: &Path) -> Container {
    let volume = directory.join("volume");
    for name in ["sub", "kernel", "own"] {
        fs::create_dir_all(volume.join(name)).unwrap();
    }
    fs::write(volume.join("file"), "outer\n").unwrap();
    fs::create_dir_all(host.state_dir()).unwrap();
    let before = format!(
        "(cd {volume:?}; mount -t tmpfs sub sub; echo inner > sub/file; mount -t proc proc kernel; \
         mount --bind {:?} own)",
        host.state_dir()
    );
    let container = Container::prepare(Runtime::Runc, &unique("shop"), directory);
    container.with_users(&volume, &before)
}

#[test]
fn a_container_in_a_user_namespace_shows_without_what_is_the_kernel_s() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let container = container_with_users(host, fleet.dir());
    container.start(&host.net, "echo 1 > /srv/start");
    up(host, &format!("{{ container = {:?} }}", container.name()), "");
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
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let container = container_with_users(host, fleet.dir());
    container.start(&host.net, "echo 1 > /srv/start");
    up(host, &format!("{{ container = {:?} }}", container.name()), "");
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

#[test]
fn what_is_never_shown_does_not_come_along_by_chance() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let container = container_with_users(host, fleet.dir());
    // Also where its mounts cannot be copied first.
    let line = "echo 0 > /proc/sys/user/max_mnt_namespaces; mkdir /volume/p /volume/t; \
                (while :; do mount -t proc proc /volume/p; umount /volume/p; done) & \
                while :; do mount -t tmpfs t /volume/t; umount /volume/t; done";
    container.start(&host.net, line);
    up(host, &format!("{{ container = {:?} }}", container.name()), "");
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
    container.shell(&host.net, "echo 2 > /volume/end").expect(0);
    time_until(&seen(host, "volume/end"), "2");
}

/// Whoever has a directory of a view open keeps what was mounted there when the view is exchanged.
#[test]
fn who_stays_in_a_view_that_is_gone_sees_nothing_hidden() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let container = Container::prepare(Runtime::Runc, &unique("shop"), fleet.dir());
    container.start(&host.net, "mkdir -p /srv/keys; echo k > /srv/keys/key; echo s > /srv/secret");
    let adopt =
        format!("{{ container = {:?} }}\nmask = [\"srv/keys\", \"srv/secret\"]", container.name());
    up(host, &adopt, "");
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

/// What stays possible, as docs/threat-model.md says; see files.rs.
const RESIDUAL: &[&str] =
    &["fifo-read", "flock-exclusive", "flock-shared", "fcntl-read-lock", "ofd-read-lock"];
const WITHOUT_UNIX_GUARD: &[&str] = &[
    "socket-datagram-send",
    "socket-datagram-relative",
    "socket-datagram-symlink",
    "socket-datagram-descriptor",
    "socket-datagram-many",
    "socket-datagram-bound",
];

/// Attacks the files of the server at `path` in its view, and looks at them where they really are.
#[track_caller]
fn attack(host: &TestHost, files: &ServerFiles, path: &str) {
    let before = files.snapshot();
    let window = format!("/.serverfs/shop/{path}");
    let lines = host.attack("alpha/fim", &["files", "namespaces", "--files", &window]);
    let more = if goes_without("unix-guard") { WITHOUT_UNIX_GUARD } else { &[] };
    expect_refused(&lines, &[RESIDUAL, more].concat(), &["hidden-paths"]);
    assert_eq!(files.snapshot(), before, "the server's files are as they were");
    let mut reached = files.reached();
    reached.retain(|what| *what != "datagram socket" || !goes_without("unix-guard"));
    assert_eq!(reached, [""; 0], "nothing reached the server");
}

#[test]
fn nothing_in_a_service_s_window_can_be_touched() {
    for ids in ["private", "host"] {
        let fleet = Fleet::new(&["web1"]);
        let host = fleet.host("web1");
        let files = ServerFiles::make(&fleet.dir().join("site"));
        let place = fleet.dir().join("service");
        fs::create_dir(&place).unwrap();
        // In a mount of its own too: what is seen there are the same files.
        let service = Service::start(&format!("mount --bind {:?} {place:?}", files.path()));
        let pid_file = fleet.dir().join("pid");
        fs::write(&pid_file, service.pid().to_string()).unwrap();
        up(host, &format!("{{ pid_file = {pid_file:?} }}"), &format!("ids = \"{ids}\""));
        for path in [files.path(), &place] {
            attack(host, &files, path.strip_prefix("/").unwrap().to_str().unwrap());
        }
    }
}

#[test]
fn nothing_in_a_server_space_s_window_can_be_touched() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let files = ServerFiles::make(&fleet.dir().join("site"));
    let spec = spec("\"base\"", "").replace(
        "adopt = \"base\"",
        &format!(
            "command = [\"sleep\", \"1000\"]\nmount = [{{ from = {:?}, to = \"/site\" }}]",
            files.path()
        ),
    );
    host.up(&host.spec(&spec));
    attack(host, &files, "site");
}

#[test]
fn nothing_in_a_container_s_window_can_be_touched() {
    for runtime in [Runtime::Runc, Runtime::Crun] {
        let fleet = Fleet::new(&["web1"]);
        let host = fleet.host("web1");
        let container = Container::prepare(runtime, &unique("shop"), fleet.dir());
        let files = ServerFiles::make(&container.root().join("site"));
        container.start(&host.net, "true");
        let name = container.name();
        up(host, &format!("{{ container = {name:?} }}"), "");
        attack(host, &files, "site");
    }
}
