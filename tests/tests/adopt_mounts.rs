//! What adopted servers mount: it is followed, and confuses nobody.

use std::fs;
use std::path::Path;
use std::time::Instant;

use hyperspector_tests::watched::{
    SECOND, contain, expect_soon, inotify, notes, of, seen, serve, time_until, up, view,
};
use hyperspector_tests::{Runtime, patience, wait_until};

#[test]
fn what_a_service_mounts_and_unmounts_is_followed_and_inotify_fires() {
    let (fleet, place, _group, service) = serve();
    let host = fleet.host("web1");
    let at = |name: &str| seen(host, place.join(name));
    let watched = format!("/.serverfs/shop{}", place.display());
    let watch = inotify(host, &watched);
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
    let (fleet, place, _group, service) = serve();
    let host = fleet.host("web1");
    let at = |name: &str| seen(host, place.join(name));
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
    let (fleet, place, _group, service) = serve();
    let host = fleet.host("web1");
    let file = seen(host, place.join("start"));
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

#[test]
fn views_outlive_the_agent_and_their_worker_and_are_followed_by_the_next() {
    let (fleet, place, group, service) = serve();
    let host = fleet.host("web1");
    let adopt = format!("{{ cgroup = {:?} }}", group.name());
    let inside = place.strip_prefix("/").unwrap();
    let at = |name: &str| seen(host, place.join(name));
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

/// A mount of a file that was removed can be attached nowhere by itself, and two of them look alike in a
/// mount table.
#[test]
fn a_mount_of_a_file_without_a_name_shows_and_is_not_taken_for_another() {
    let bound = |text: &str, to: &str| {
        format!("umask 077; echo {text} > /srv/from; mount --bind /srv/from {to}; rm /srv/from")
    };
    let line = format!(
        "for name in a b c m; do echo covered > /srv/$name; done; mount --bind /srv/c /srv/b; {}; {}; {}; \
         mkdir /srv/d; mount -t tmpfs d /srv/d; echo x > /srv/d/e",
        bound("clean", "/srv/a"),
        bound("over", "/srv/b"),
        bound("secret", "/srv/m"),
    );
    let (fleet, container) = contain(of(Runtime::Runc), &line, ("mask = [\"srv/m\"]", ""));
    let host = fleet.host("web1");
    let read =
        |name: &str| host.shell("alpha/fim", &format!("cat /.serverfs/shop/srv/{name} || true"));
    let all = || ["a", "b", "d/e"].map(read);
    wait_until("they show", || all() == ["clean", "over", "x"]);
    container.shell(&host.net, &format!("umount /srv/a; {}", bound("other", "/srv/a"))).expect(0);
    wait_until("another one shows", || all() == ["other", "over", "x"]);
    container.shell(&host.net, &format!("umount /srv/b; {}", bound("e", "/srv/d/e"))).expect(0);
    wait_until("what it covered shows, and one elsewhere", || all() == ["other", "covered", "e"]);
    assert_eq!([read("m"), notes(host)], ["", "[]"]);
}
