//! The changes window on containers: in user namespaces, with and without an overlay, and one that makes
//! its overlay itself to have files of the host shown.

use std::fs;
use std::path::Path;

use hyperspector_tests::watched::{self, contain, of, with_users};
use hyperspector_tests::{Fleet, Runtime, TestHost, wait_for, wait_until};
use serde_json::Value;

const CHANGES: &str = "/.hyperspector/hyperspector-changes";
const WATCH: &str = "watch.changes = [\"shop\"]";

/// What the program answers in `alpha/fim`.
fn list(host: &TestHost) -> Value {
    let output = host.exec("alpha/fim", &[CHANGES, "shop", "--json"]);
    assert!(matches!(output.code, Some(0 | 3)), "{output:?}");
    serde_json::from_str(&output.stdout).unwrap()
}

/// A scan that is complete.
fn scan(host: &TestHost) {
    std::thread::sleep(std::time::Duration::from_millis(500));
    list(host);
    host.exec("alpha/fim", &[CHANGES, "shop", "--done"]).expect(0);
}

/// Waits until a path is on the list.
#[track_caller]
fn wait_listed(host: &TestHost, path: &str) {
    wait_for(&format!("{path} is listed"), || {
        let answer = list(host);
        let changes = answer["changes"].as_array().cloned().unwrap_or_default();
        (answer["all"] == true || changes.iter().any(|change| change["path"] == path)).then_some(())
    });
    assert_eq!(list(host)["all"], false);
}

fn journal(host: &TestHost) -> Value {
    host.status().servers[0].changes.clone().unwrap()
}

#[test]
fn what_changes_in_a_user_namespace_is_journaled() {
    let (fleet, container) = contain(with_users, "mkdir /srv/before", ("", WATCH));
    let host = fleet.host("web1");
    scan(host);
    // In its root, in a volume that is locked to it, and in what it mounts itself.
    container.shell(&host.net, "echo 1 > /srv/before/new; echo 2 > /volume/sub/new").expect(0);
    wait_listed(host, "/srv/before/new");
    wait_listed(host, "/volume/sub/new");
    container
        .shell(&host.net, "mkdir /volume/own-mount; mount -t tmpfs x /volume/own-mount")
        .expect(0);
    wait_until("the new mount is told of", || list(host).to_string().contains("/volume/own-mount"));
    std::thread::sleep(std::time::Duration::from_secs(2));
    scan(host);
    container.shell(&host.net, "echo 3 > /volume/own-mount/new").expect(0);
    wait_listed(host, "/volume/own-mount/new");
    // What comes of the kernel's own and of the state of HyperSpector is none of it.
    let answer = list(host).to_string();
    assert!(!answer.contains("/volume/kernel/") && !answer.contains("/volume/own/"), "{answer}");
}

#[test]
fn a_container_s_own_overlay_is_its_upper_layer() {
    let line = "mkdir /srv/keys; echo k > /srv/keys/key; echo p > /srv/plain";
    let (fleet, container) = contain(of(Runtime::Podman), line, ("mask = [\"srv/keys\"]", WATCH));
    let host = fleet.host("web1");
    let at = "/.dserverfs/shop/srv";
    wait_until("the upper layer shows", || {
        host.exec("alpha/fim", &["cat", &format!("{at}/plain")]).stdout == "p\n"
    });
    assert_eq!(host.shell("alpha/fim", &format!("ls -A {at}/keys")), "");
    // Who is in there when it is exchanged sees nothing hidden either.
    let line = format!("cd {at} && echo inside; while :; do ls; cat keys/key; sleep 0.05; done");
    let stays = host.start("alpha/fim", &["sh", "-c", &line]);
    wait_until("it is inside", || stays.output().contains("inside"));
    container.set_aside(&host.net);
    container.start(&host.net, "echo q > /srv/plain");
    wait_until("the next one shows", || {
        host.exec("alpha/fim", &["cat", &format!("{at}/plain")]).stdout == "q\n"
    });
    std::thread::sleep(std::time::Duration::from_secs(1));
    let output = stays.output();
    assert!(!output.lines().any(|line| line == "k"), "{output}");
}

/// A directory of the host, and the lines by which root of a container has its root be an overlay whose
/// upper layer has the same name.
fn attack(directory: &Path) -> String {
    let secret = directory.join("secret");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("of-the-host"), "secret\n").unwrap();
    let above = directory.display();
    format!(
        "mkdir -p {above}; mount -t tmpfs t {above}; cd {above}; mkdir secret work merged\n\
         echo own > secret/of-the-container\n\
         mount -t overlay o -o lowerdir=/,upperdir={above}/secret,workdir={above}/work merged\n\
         mount --bind merged merged; cd merged; mkdir -p old; pivot_root . old; cd /; echo 1 > /srv/start"
    )
}

#[test]
fn a_container_s_root_has_no_directory_of_the_host_shown_as_its_upper_layer() {
    let with_capabilities = |host: &TestHost, path: &Path| of(Runtime::Runc)(host, path);
    for make in [with_capabilities, with_users] {
        let fleet = Fleet::new(&["web1"]);
        let line = attack(fleet.dir());
        let host = fleet.host("web1");
        let container = make(host, fleet.dir());
        container.start(&host.net, &line);
        let adopt = format!("{{ container = {:?} }}", container.name());
        watched::up(host, &adopt, WATCH);
        wait_until("its overlay is its root", || {
            host.exec("alpha/fim", &["cat", "/.serverfs/shop/srv/start"]).stdout == "1\n"
        });
        std::thread::sleep(std::time::Duration::from_secs(3));
        let shown = host.shell("alpha/fim", "ls -AR /.dserverfs");
        assert!(!shown.contains("of-the-host"), "{shown}");
        let unwatched = journal(host)["unwatched"].to_string();
        assert!(unwatched.contains("not mounted by the host"), "{unwatched}");
    }
}
