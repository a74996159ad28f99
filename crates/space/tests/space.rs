//! A space on a real kernel: what only its configuration can say. Needs root. Everything it makes is
//! in a temporary directory and in namespaces that end with it.

use std::fs::{self, File, Permissions};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use hyperspector_space::builder;
use hyperspector_space::config::{Bind, IdRange, Network, RootConfig, SpaceConfig};
use hyperspector_space::launch::{LaunchError, Launched, start};
use hyperspector_spec::plan::{Restart, Run};

/// The first id of the test's range, far from those that the product gives out.
const FIRST_ID: u32 = 0x6fff_0000;

/// A test, which gets a directory of its own.
type Test = fn(&Path);

const TESTS: &[(&str, Test)] = &[
    ("a_socket_that_is_offered_is_reached", offered_socket),
    ("a_file_that_is_no_socket_is_not_offered", no_socket),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|first| first == hyperspector_sys::worker::SUBCOMMAND) {
        return builder::worker_main();
    }
    assert!(rustix::process::geteuid().is_root(), "these tests need root");
    let words: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(*word));
    let mut failed = 0;
    for (name, test) in TESTS.iter().filter(|(name, _)| wanted(name)) {
        let dir = tempfile::tempdir().unwrap();
        let passed = std::panic::catch_unwind(|| test(dir.path())).is_ok();
        failed += u8::from(!passed);
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
    }
    ExitCode::from(failed)
}

/// A space that is ended when this is dropped.
struct Space(Launched);

impl Drop for Space {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// Builds a space over the base system that runs `command`, with `sockets`.
fn build(dir: &Path, command: &[&str], sockets: Vec<Bind>) -> Result<Space, LaunchError> {
    for name in ["staging", "layers", "layers/upper", "layers/work"] {
        fs::create_dir(dir.join(name)).unwrap();
    }
    fs::set_permissions(dir.join("layers/upper"), Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::chown(dir.join("layers/upper"), Some(FIRST_ID), Some(FIRST_ID)).unwrap();
    let config = SpaceConfig {
        name: "test".into(),
        hostname: "test".into(),
        network: Network::Host,
        ids: IdRange::Private { base: FIRST_ID },
        owner: FIRST_ID,
        root: RootConfig { lower: "/".into(), layers: dir.join("layers"), files: Vec::new() },
        staging: dir.join("staging"),
        hide: Vec::new(),
        mask: Vec::new(),
        keep: Vec::new(),
        mounts: Vec::new(),
        sockets,
        windows: None,
        others: Vec::new(),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        companions: Vec::new(),
        environment: Default::default(),
        user: "nobody".into(),
        directory: "/".into(),
        run: Run::Service { restart: Restart::Never },
        stop_grace: 1,
        rules: Vec::new(),
        landlock_optional: false,
        log_size: 1 << 20,
    };
    let control = UnixListener::bind(dir.join("control")).unwrap();
    let files = ["log.0", "log.1", "report"].map(|name| File::create_new(dir.join(name)).unwrap());
    let mut fds = vec![control.as_fd()];
    fds.extend(files.iter().map(AsFd::as_fd));
    let building = start(&config, &fds, |_| Ok(()))?;
    let space = Space(building.finish(Duration::from_secs(30))?);
    space.0.go()?;
    Ok(space)
}

fn offered_socket(dir: &Path) {
    let path = dir.join("log.sock");
    let socket = UnixDatagram::bind(&path).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let at = |to: &str| Bind::read_only(&path, to);
    let line = "logger one && logger -u /run/app/two.sock two";
    let _space =
        build(dir, &["sh", "-c", line], vec![at("/dev/log"), at("/run/app/two.sock")]).unwrap();
    for wanted in ["one", "two"] {
        let mut buffer = [0; 1024];
        let got = socket.recv(&mut buffer).unwrap();
        let text = String::from_utf8_lossy(&buffer[..got]);
        assert!(text.ends_with(wanted), "{text}");
    }
}

fn no_socket(dir: &Path) {
    let path = dir.join("file");
    fs::write(&path, "").unwrap();
    let refused = build(dir, &["true"], vec![Bind::read_only(&path, "/dev/log")]);
    let Err(LaunchError::Step { cause, .. }) = refused else { panic!("it was offered") };
    assert_eq!(cause, "it is no socket");
}
