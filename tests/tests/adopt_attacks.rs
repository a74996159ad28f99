//! Nothing in the windows of adopted servers can be touched.

use std::fs;

use hyperspector_tests::watched::{spec, up};
use hyperspector_tests::{Container, Fleet, Runtime, ServerFiles, Service, TestHost};

/// Attacks the files of the server at `path` in its view, and looks at them where they really are.
#[track_caller]
fn attack(host: &TestHost, files: &ServerFiles, path: &str) {
    let window = format!("/.serverfs/shop/{path}");
    let arguments = ["files", "namespaces", "--files", &window];
    files.attack((host, "alpha/fim"), &arguments, &[], &["hidden-paths"]);
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
        let container = Container::prepare(runtime, fleet.dir());
        let files = ServerFiles::make(&container.root().join("site"));
        container.start(&host.net, "true");
        up(host, &container.adopt(), "");
        attack(host, &files, "site");
    }
}
