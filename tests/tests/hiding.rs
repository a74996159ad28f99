//! Adopted servers that make namespaces of their own to hide files from whoever watches them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use hyperspector_tests::watched::{self, unique};
use hyperspector_tests::{ControlGroup, Fleet, Running, Status, TestHost, wait_until};

/// Who serves: nobody on the host.
const USER: &str = "1000";

/// The portspace watches changes too.
fn up(host: &TestHost, adopt: &str) {
    watched::up(host, adopt, "watch.changes = [\"shop\"]");
}

/// A directory with a file of an attacker's, and what he would like to be seen there instead.
struct Site {
    place: PathBuf,
    group: ControlGroup,
}

impl Site {
    fn make(fleet: &Fleet) -> Self {
        let place = fleet.dir().join("site");
        fs::create_dir_all(place.join("harmless")).unwrap();
        fs::write(place.join("rootkit"), "evil").unwrap();
        // Where a user who is not root can do his part.
        for directory in [fleet.dir(), &place, &place.join("harmless")] {
            fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).unwrap();
        }
        Self { place, group: ControlGroup::make(&unique("hiding")) }
    }

    fn adopt(&self) -> String {
        format!("{{ cgroup = {:?} }}", self.group.name())
    }

    /// A process of a user who is not root, in the server's cgroup. It runs the line of shell
    /// once the file `go` is there.
    fn serve(&self, then: &str) -> Running {
        let go = self.place.join("go");
        let line = format!("echo ready; while [ ! -e {go:?} ]; do sleep 0.05; done; {then}");
        let mut command = Command::new("setpriv");
        command.args(["--reuid", USER, "--regid", USER, "--clear-groups", "sh", "-ec", &line]);
        let served = Running::start(&mut command);
        self.group.add(served.pid());
        wait_until("the service is up", || served.output().contains("ready"));
        served
    }

    fn go(&self) {
        fs::write(self.place.join("go"), "").unwrap();
    }

    /// How the leader hides the directory from itself, and from whoever sees what it sees.
    fn hide(&self) -> String {
        let (place, script) = (&self.place, self.place.join("harmless/script"));
        let line = format!("mount --bind {place:?}/harmless {place:?}; echo hidden; sleep 1000");
        fs::write(&script, line).unwrap();
        format!("exec unshare --user --map-root-user --mount sh -e {script:?}")
    }

    /// A path in the view, as it is read from the host.
    fn seen(&self, host: &TestHost, name: &str) -> PathBuf {
        let init = host.portspace("alpha/fim").init_pid.expect("a portspace has an init");
        let path = self.place.join(name);
        let root = Path::new("/proc").join(init.to_string()).join("root/.serverfs/shop");
        root.join(path.strip_prefix("/").unwrap())
    }
}

fn distrust(status: &Status) -> Option<String> {
    status.servers.iter().find(|one| one.name == "shop").unwrap().distrust.clone()
}

/// Waits until the leader has hidden itself, and until that would show in the view.
#[track_caller]
fn wait_hidden(leader: &Running) {
    wait_until("it is hidden", || leader.output().contains("hidden"));
    std::thread::sleep(std::time::Duration::from_millis(1500));
}

/// Fails unless status tells of it, in both ways, and the agent's log once.
#[track_caller]
fn expect_told(host: &TestHost, what: &str) {
    wait_until("status says so", || distrust(&host.status()).is_some());
    let why = distrust(&host.status()).unwrap();
    assert!(why.contains(what), "{why}");
    let text = host.hyperspector(&["status"]).all();
    assert!(text.contains("not to be trusted: ") && text.contains(what), "{text}");
    // It has been looked at some times more since.
    std::thread::sleep(std::time::Duration::from_millis(2500));
    let log = fs::read_to_string(host.state_dir().join("agent.log")).unwrap();
    assert_eq!(log.matches(&why).count(), 1, "{log}");
}

#[test]
fn a_leader_that_mounts_over_a_place_hides_nothing() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let site = Site::make(&fleet);
    let leader = site.serve(&site.hide());
    up(host, &site.adopt());
    let rootkit = site.seen(host, "rootkit");
    assert_eq!(fs::read_to_string(&rootkit).unwrap(), "evil");
    assert_eq!(distrust(&host.status()), None);
    site.go();
    wait_hidden(&leader);
    assert_eq!(fs::read_to_string(&rootkit).unwrap(), "evil", "the view still shows it");
    expect_told(host, "as the host has them");
    // What comes later shows as well, in the view and among the changes.
    fs::write(site.place.join("later"), "l").unwrap();
    assert_eq!(fs::read_to_string(site.seen(host, "later")).unwrap(), "l");
    let later = site.place.join("later").display().to_string();
    wait_until("the change is listed", || {
        let list = ["/.hyperspector/hyperspector-changes", "shop", "--json"];
        let output = host.exec("alpha/fim", &list);
        output.stdout.contains(&later) || output.stdout.contains("\"all\":true")
    });
}

#[test]
fn a_leader_that_was_hidden_before_it_was_found_is_not_followed() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let site = Site::make(&fleet);
    let leader = site.serve(&site.hide());
    site.go();
    wait_hidden(&leader);
    up(host, &site.adopt());
    assert_eq!(fs::read_to_string(site.seen(host, "rootkit")).unwrap(), "evil");
    expect_told(host, "as the host has them");
}

#[test]
fn a_leader_that_changes_its_root_hides_nothing() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let site = Site::make(&fleet);
    let program = format!(
        "import ctypes, os, time; assert ctypes.CDLL(None).unshare(0x10000000) == 0; \
         os.chroot({:?}); print(\"hidden\", flush=True); time.sleep(1000)",
        site.place.join("harmless")
    );
    let leader = site.serve(&format!("exec python3 -c '{program}'"));
    up(host, &site.adopt());
    site.go();
    wait_hidden(&leader);
    assert_eq!(fs::read_to_string(site.seen(host, "rootkit")).unwrap(), "evil");
    expect_told(host, "has changed its root");
}

#[test]
fn another_process_of_the_server_shows_what_the_leader_hides() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let site = Site::make(&fleet);
    // The service has mounts of its own, as a unit with a private /tmp has: made by root.
    let own = fleet.dir().join("own");
    fs::create_dir(&own).unwrap();
    let (go, hide, group) = (site.place.join("go"), site.hide(), site.group.name());
    let line = format!(
        "mount -t tmpfs own {own:?}; echo mine > {own:?}/file; \
         until grep -q {group} /proc/self/cgroup; do sleep 0.05; done; sleep 1000 & \
         exec setpriv --reuid {USER} --regid {USER} --clear-groups sh -ec \
         'echo ready; while [ ! -e {go:?} ]; do sleep 0.05; done; {hide}'"
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-ec", &line]);
    let leader = Running::start(&mut command);
    site.group.add(leader.pid());
    wait_until("the service is up", || leader.output().contains("ready"));
    up(host, &site.adopt());
    let init = host.portspace("alpha/fim").init_pid.unwrap();
    let view = Path::new("/proc").join(init.to_string()).join("root/.serverfs/shop");
    let file = view.join(own.strip_prefix("/").unwrap()).join("file");
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine\n");
    site.go();
    wait_hidden(&leader);
    assert_eq!(fs::read_to_string(site.seen(host, "rootkit")).unwrap(), "evil");
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine\n");
    expect_told(host, "as its process");
}
