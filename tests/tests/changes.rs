//! The changes window: what changed on a server since the last scan that was completed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyperspector_tests::{Fleet, TestHost, wait_for, wait_until};
use serde_json::Value;

const CHANGES: &str = "/.hyperspector/hyperspector-changes";

/// A server `site` that is a directory, and `alpha/fim`, which watches its files and changes.
fn up<'a>(fleet: &'a Fleet, more: &str) -> (&'a TestHost, PathBuf) {
    let site = fleet.dir().join("site");
    fs::create_dir_all(site.join("etc/keys")).unwrap();
    fs::write(site.join("etc/passwd"), "root\n").unwrap();
    fs::write(site.join("etc/keys/key"), "secret\n").unwrap();
    let host = fleet.host("web1");
    let spec = host.spec(&format!(
        "[host.web1]\n\n[server.site]\non = [\"web1\"]\nadopt = {{ directory = {site:?} }}\n\
         mask = [\"/etc/keys\"]\n\n{}",
        portspace("fim", "site", more)
    ));
    host.up(&spec);
    (host, site)
}

fn portspace(name: &str, server: &str, more: &str) -> String {
    format!(
        "[hyperspector.alpha]\nnetwork = \"10.66.0.0/16\"\n\n\
         [hyperspector.alpha.portspace.{name}]\non = [\"web1\"]\ncommand = [\"sleep\", \"1000\"]\n\
         watch.files = [\"{server}\"]\nwatch.changes = [\"{server}\"]\n{more}\n"
    )
}

/// What the program answers in `alpha/fim`.
fn list(host: &TestHost, server: &str) -> Value {
    let output = host.exec("alpha/fim", &[CHANGES, server, "--json"]);
    assert!(matches!(output.code, Some(0 | 3)), "{output:?}");
    let answer: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(answer["all"] == true, output.code == Some(3));
    answer
}

fn done(host: &TestHost, server: &str) {
    host.exec("alpha/fim", &[CHANGES, server, "--done"]).expect(0);
}

fn paths(answer: &Value) -> Vec<String> {
    let changes = answer["changes"].as_array().unwrap();
    changes.iter().map(|change| change["path"].as_str().unwrap().to_owned()).collect()
}

/// A scan that is complete, after which nothing of what came before is on any list.
fn scan(host: &TestHost, server: &str) {
    std::thread::sleep(Duration::from_millis(500));
    list(host, server);
    done(host, server);
}

/// Waits until a path is on the list, and gives all of it.
#[track_caller]
fn wait_listed(host: &TestHost, server: &str, path: &str) -> Vec<String> {
    wait_for(&format!("{path} is listed"), || {
        let answer = list(host, server);
        assert_eq!(answer["all"], false, "{answer}");
        Some(paths(&answer)).filter(|paths| paths.iter().any(|one| one == path))
    })
}

fn journal(host: &TestHost, server: &str) -> Value {
    let status = host.status();
    let found = status.servers.iter().find(|one| one.name == server).unwrap();
    found.changes.clone().unwrap()
}

fn kill(pid: i64) {
    // SAFETY: kill takes integers; the process is one of the test's own.
    unsafe { libc::kill(i32::try_from(pid).unwrap(), libc::SIGKILL) };
}

#[test]
fn only_what_changed_since_a_completed_scan_is_listed() {
    let fleet = Fleet::new(&["web1"]);
    let (host, site) = up(&fleet, "");
    let first = list(host, "site");
    assert_eq!(first["reason"], "no scan has been completed yet");
    scan(host, "site");
    assert_eq!(paths(&list(host, "site")), [""; 0]);

    fs::write(site.join("etc/passwd"), "root\ntoor\n").unwrap();
    fs::write(site.join("etc/keys/key"), "another\n").unwrap();
    fs::write(site.join("etc/a\nb"), "").unwrap();
    assert_eq!(wait_listed(host, "site", "/etc/a\nb"), ["/etc/a\nb", "/etc/passwd"]);
    // A scan that is killed after it has read the list sets nothing.
    assert_eq!(paths(&list(host, "site")).len(), 2);
    let raw = host.exec("alpha/fim", &[CHANGES, "site", "-0", "--view"]).expect(0).stdout;
    assert_eq!(raw, "/.serverfs/site/etc/a\nb\0/.serverfs/site/etc/passwd\0");
    // What changes while the scan goes on is on the next list.
    fs::write(site.join("etc/passwd"), "root\n").unwrap();
    std::thread::sleep(Duration::from_millis(500));
    done(host, "site");
    assert_eq!(wait_listed(host, "site", "/etc/passwd"), ["/etc/passwd"]);

    let changes = journal(host, "site");
    assert!(changes["entries"].as_u64().unwrap() >= 2, "{changes}");
    assert_eq!(changes["gaps"], 0, "{changes}");
    // Nobody inside can write any of it.
    let line = "touch /.dserverfs/x /.dserverfs/site.journal/x; echo >> /.dserverfs/site.journal/state; \
                rm -f /.dserverfs/site.journal/*; echo > /.hyperspector/hyperspector-changes; ls /.dserverfs";
    let shown = host.exec("alpha/fim", &["sh", "-c", line]).stdout;
    assert_eq!(shown, "site\nsite.deleted\nsite.journal\nsite.layers\n");
    assert_eq!(paths(&list(host, "site")), ["/etc/passwd"]);
}

#[test]
fn the_death_of_the_agent_loses_nothing_and_that_of_the_worker_is_told() {
    let fleet = Fleet::new(&["web1"]);
    let (host, site) = up(&fleet, "");
    scan(host, "site");
    let worker = journal(host, "site")["pid"].as_i64().unwrap();
    kill(host.agent().into());
    fs::write(site.join("etc/meanwhile"), "").unwrap();
    // No agent is needed to read it.
    assert_eq!(wait_listed(host, "site", "/etc/meanwhile"), ["/etc/meanwhile"]);
    let spec = host.dir().join("spec.toml");
    host.up(&spec);
    assert_eq!(journal(host, "site")["pid"].as_i64(), Some(worker), "it is the same");
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(paths(&list(host, "site")), ["/etc/meanwhile"], "nothing was watched anew");
    scan(host, "site");

    kill(worker);
    fs::write(site.join("etc/unseen"), "").unwrap();
    let reason = wait_for("everything is to be scanned", || {
        list(host, "site")["reason"].as_str().map(str::to_owned)
    });
    assert_eq!(reason, "the journal began anew: its worker had ended");
    wait_until("another worker watches", || {
        journal(host, "site")["pid"].as_i64().is_some_and(|pid| pid != worker)
    });
    scan(host, "site");
    fs::write(site.join("etc/later"), "").unwrap();
    assert_eq!(wait_listed(host, "site", "/etc/later"), ["/etc/later"]);
}

#[test]
fn a_server_space_s_upper_layer_is_just_what_changed() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let spec = host.spec(&format!(
        "[host.web1]\n\n[server.shop]\non = [\"web1\"]\ncommand = [\"sleep\", \"1000\"]\n\
         mask = [\"/srv/keys\"]\n\n{}",
        portspace("fim", "shop", "").replace("watch.files = [\"shop\"]\n", "")
    ));
    host.up(&spec);
    scan(host, "shop");
    let line = "echo toor >> /etc/passwd; mkdir /srv/new; echo x > /srv/new/x; rm /etc/motd; \
                rm -r /etc/cron.d; mkdir /etc/cron.d; chmod 600 /srv/new/x; \
                chown 33:33 /srv/new/x";
    host.shell("shop", line);
    let listed = wait_listed(host, "shop", "/etc/cron.d/e2scrub_all");
    for path in ["/etc/passwd", "/srv/new", "/srv/new/x", "/etc/motd", "/etc/cron.d"] {
        assert!(listed.iter().any(|one| one == path), "{path} is not in {listed:?}");
    }
    let inside = |line: &str| host.shell("alpha/fim", &format!("cd /.dserverfs/shop; {line}"));
    assert_eq!(inside("tail -n 1 etc/passwd; cat srv/new/x"), "toor\nx");
    assert_eq!(inside("stat -c '%u:%g %a' srv/new/x etc/passwd"), "33:33 600\n0:0 644");
    let deleted = inside("tr '\\0' '\\n' < ../shop.deleted");
    assert!(deleted.lines().any(|line| line == "/etc/motd"), "{deleted}");
    let refused = host.exec("alpha/fim", &["sh", "-c", "echo > /.dserverfs/shop/etc/passwd"]);
    assert_ne!(refused.code, Some(0), "{refused:?}");

    // A mask that the server has made something at only now.
    host.shell("shop", "mkdir -p /srv/keys; echo secret > /srv/keys/key");
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(inside("ls -A srv/keys; ls srv"), "keys\nnew");

    scan(host, "shop");
    assert_eq!(paths(&list(host, "shop")), [""; 0]);
    // Rewritten in the layer: nothing but the layer itself tells.
    host.shell("shop", "echo y > /srv/new/x");
    assert_eq!(wait_listed(host, "shop", "/srv/new/x"), ["/srv/new/x"]);
    scan(host, "shop");
    kill(host.server_space("shop").init_pid.unwrap().into());
    wait_until("the server runs again", || {
        host.status().server_space("shop").is_some_and(|space| space.state == "running")
    });
    std::thread::sleep(Duration::from_millis(1500));
    host.shell("shop", "echo z > /srv/new/x");
    let listed = wait_listed(host, "shop", "/srv/new/x");
    // What is in memory is new, and the files that every space gets; the layer is as it was.
    let new = ["/dev/shm", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/run", "/tmp"];
    let others: Vec<_> = listed.iter().filter(|one| !new.contains(&one.as_str())).collect();
    assert_eq!(others, ["/srv/new/x"]);
}

#[test]
fn a_path_that_is_too_long_costs_a_server_s_list_nothing() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let spec = host.spec(&format!(
        "[host.web1]\n\n[server.shop]\non = [\"web1\"]\ncommand = [\"sleep\", \"1000\"]\n\n{}",
        portspace("fim", "shop", "")
    ));
    host.up(&spec);
    scan(host, "shop");
    let line = "perl -e 'chdir \"/srv\"; for (1 .. 20) { mkdir \"d\" x 250; chdir \"d\" x 250 or die; } \
                open(F, q(>), q(deep)) or die' && echo x > /srv/file";
    host.shell("shop", line);
    wait_listed(host, "shop", "/srv/file");
    // What is below may change at any time.
    scan(host, "shop");
    let again = list(host, "shop");
    assert_eq!((&again["all"], &again["changes"][0]["tree"]), (&false.into(), &true.into()));
    let [path] = &paths(&again)[..] else { panic!("{again}") };
    assert!((3500..4096).contains(&path.len()), "{path}");
}

#[test]
fn mounts_of_the_server_are_followed() {
    let fleet = Fleet::new(&["web1"]);
    let (host, site) = up(&fleet, "");
    scan(host, "site");
    let mounted = Mounted::tmpfs(&site.join("etc/keys"));
    let data = Mounted::tmpfs(&site.join("etc"));
    let listed = wait_listed(host, "site", "/etc");
    assert_eq!(listed, ["/etc"]);
    scan(host, "site");
    fs::write(site.join("etc/x"), "").unwrap();
    assert_eq!(wait_listed(host, "site", "/etc/x"), ["/etc/x"]);
    scan(host, "site");
    drop(data);
    assert_eq!(wait_listed(host, "site", "/etc"), ["/etc"]);
    drop(mounted);
}

/// A file system that is mounted by the test.
struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(path: &Path) -> Self {
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
            .arg(path)
            .status();
        assert!(mounted.unwrap().success());
        Self(path.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_flood_on_one_server_leaves_the_journal_of_another_whole() {
    let fleet = Fleet::new(&["web1"]);
    let (host, site) = up(&fleet, "");
    let other = fleet.dir().join("other");
    fs::create_dir_all(&other).unwrap();
    let spec = fs::read_to_string(host.dir().join("spec.toml")).unwrap();
    let spec = spec.replace("watch.changes = [\"site\"]", "watch.changes = [\"site\", \"other\"]");
    let server = format!(
        "[server.other]\non = [\"web1\"]\nadopt = {{ directory = {other:?} }}\n\n[hyperspector.alpha]"
    );
    host.up(&host.spec(&spec.replace("[hyperspector.alpha]", &server)));
    scan(host, "site");
    list(host, "other");
    done(host, "other");
    // As fast as one process can make them; both are on one file system.
    for number in 0..60_000_u32 {
        fs::File::create(other.join(number.to_string())).unwrap();
        if number % 3_000 == 0 {
            fs::write(site.join(format!("etc/{number}")), "").unwrap();
        }
    }
    let listed = wait_listed(host, "site", "/etc/57000");
    assert_eq!(listed.len(), 20, "{listed:?}");
    let flooded = journal(host, "other");
    assert!(flooded["entries"].as_u64().unwrap() > 1_000, "{flooded}");
    assert!(flooded["bytes"].as_u64().unwrap() < 80 << 20, "{flooded}");
}

#[test]
fn a_journal_that_nobody_wants_is_gone() {
    let fleet = Fleet::new(&["web1"]);
    let (host, _site) = up(&fleet, "");
    let worker = journal(host, "site")["pid"].as_i64().unwrap();
    let spec = fs::read_to_string(host.dir().join("spec.toml")).unwrap();
    host.up(&host.spec(&spec.replace("watch.changes = [\"site\"]\n", "")));
    wait_until("its worker is gone", || !Path::new(&format!("/proc/{worker}")).exists());
    assert!(!host.state_dir().join("journals/site").exists());
    host.up(&host.spec(&spec));
    host.down();
    assert!(!host.run_dir().join("journals").exists());
}
