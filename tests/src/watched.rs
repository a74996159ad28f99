//! The server `shop` of the host `web1`, however it runs, and the portspace `alpha/fim` that watches it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::adopted::{Container, ControlGroup, Runtime, Service};
use crate::fleet::{Fleet, TestHost};
use crate::process::Running;
use crate::wait::{patience, wait_until};

/// How soon a view has to follow a restart.
pub const SECOND: Duration = Duration::from_secs(1);

/// A spec in which `alpha/fim` watches the files of `shop`. `adopt` may go on with other keys of the server;
/// `more` are keys of the portspace.
pub fn spec(adopt: &str, more: &str) -> String {
    format!(
        "[host.web1]\n\n[server.shop]\non = [\"web1\"]\nadopt = {adopt}\n\n\
         [hyperspector.alpha]\nnetwork = \"10.66.0.0/16\"\n\n\
         [hyperspector.alpha.portspace.fim]\non = [\"web1\"]\ncommand = [\"sleep\", \"1000\"]\n\
         watch.files = [\"shop\"]\n{more}\n"
    )
}

/// Brings that up.
#[track_caller]
pub fn up(host: &TestHost, adopt: &str, more: &str) {
    host.up(&host.spec(&spec(adopt, more)));
}

/// A name that no other test has.
pub fn unique(what: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("hs-{what}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A shell's line that mounts a file system of the service's own at `place`, with a file that says which
/// start of it this is.
pub fn own_mount(place: &Path, start: u32) -> String {
    format!("mount -t tmpfs own {place:?}\necho {start} > {place:?}/start")
}

/// A service in a cgroup of its own with [`own_mount`] at a place of the fleet, watched.
#[track_caller]
pub fn serve() -> (Fleet, PathBuf, ControlGroup, Service) {
    let fleet = Fleet::new(&["web1"]);
    let place = fleet.dir().join("service");
    fs::create_dir(&place).unwrap();
    let group = ControlGroup::make(&unique("group"));
    let service = Service::start(&own_mount(&place, 1));
    group.add(service.pid());
    up(fleet.host("web1"), &format!("{{ cgroup = {:?} }}", group.name()), "");
    (fleet, place, group, service)
}

/// A container that `make` prepares and whose first line is `line`, watched. `keys` are further ones of
/// the server, `more` of the portspace.
#[track_caller]
pub fn contain(
    make: impl FnOnce(&TestHost, &Path) -> Container,
    line: &str,
    (keys, more): (&str, &str),
) -> (Fleet, Container) {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let container = make(host, fleet.dir());
    container.start(&host.net, line);
    up(host, &format!("{}\n{keys}", container.adopt()), more);
    (fleet, container)
}

/// Prepares a container of `runtime`, for [`contain`].
pub fn of(runtime: Runtime) -> impl FnOnce(&TestHost, &Path) -> Container {
    move |_, directory| Container::prepare(runtime, directory)
}

/// Prepares a container in a user namespace of its own, for [`contain`]. What it has below `/volume` from
/// the host is locked there, and cannot be taken apart: a file system, the kernel's own, and the state
/// of this test.
#[track_caller]
pub fn with_users(host: &TestHost, directory: &Path) -> Container {
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
    of(Runtime::Runc)(host, directory).with_users(&volume, &before)
}

/// A path in the view of `shop`, as it can be read from the host.
#[track_caller]
pub fn seen(host: &TestHost, path: impl AsRef<Path>) -> PathBuf {
    let init = host.portspace("alpha/fim").init_pid.expect("a portspace that runs has an init");
    seen_by(init, path)
}

/// The same, of the portspace with this init.
pub fn seen_by(init: i32, path: impl AsRef<Path>) -> PathBuf {
    let path = path.as_ref();
    let path = path.strip_prefix("/").unwrap_or(path);
    Path::new("/proc").join(init.to_string()).join("root/.serverfs/shop").join(path)
}

/// How long it takes until a file in the view has this content.
#[track_caller]
pub fn time_until(path: &Path, content: &str) -> Duration {
    time_within(Duration::from_secs(20), path, content)
}

/// The same, where it may take so long.
#[track_caller]
pub fn time_within(limit: Duration, path: &Path, content: &str) -> Duration {
    let start = Instant::now();
    while fs::read_to_string(path).ok().as_deref().map(str::trim_end) != Some(content) {
        assert!(start.elapsed() < patience(limit), "{content} never shows");
        std::thread::sleep(Duration::from_millis(5));
    }
    start.elapsed()
}

/// Fails where following `what` took too long.
#[track_caller]
pub fn expect_soon(what: &str, took: Duration) {
    println!("{what}: followed after {} ms", took.as_millis());
    assert!(took < patience(SECOND), "{what}: {took:?}");
}

/// What `status` says of the view.
#[track_caller]
pub fn view(host: &TestHost) -> Value {
    host.portspace("alpha/fim").rest["windows"]["views"]["shop"].clone()
}

/// What it notes of the view.
#[track_caller]
pub fn notes(host: &TestHost) -> String {
    view(host)["notes"].to_string()
}

/// Prints the names of what is made or written in a directory, by inotify(7), in the portspace.
#[track_caller]
pub fn inotify(host: &TestHost, directory: &str) -> Running {
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
