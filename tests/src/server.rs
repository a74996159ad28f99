//! A server's files, with everything in them that an attack could be aimed at.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::fleet::{TestHost, expect_refused, goes_without};
use crate::process::run;

/// A directory with the attacker's `hs-target`, its sockets and pipe held open by "the server".
#[derive(Debug)]
pub struct ServerFiles {
    path: PathBuf,
    stream: UnixListener,
    datagram: UnixDatagram,
    fifo: File,
}

/// What stays possible, as docs/threat-model.md says: each with its reason.
const RESIDUAL: &[&str] = &[
    // A named pipe cannot be told from a file by Landlock: reading it takes the server's data.
    "fifo-read",
    // Advisory locks need no more than a descriptor for reading.
    "flock-exclusive",
    "flock-shared",
    "fcntl-read-lock",
    "ofd-read-lock",
];

/// What is possible as well where the kernel has no Unix guard (before Linux 6.7): a datagram to a
/// path without connecting, which the broker is not asked about.
const WITHOUT_UNIX_GUARD: &[&str] = &[
    "socket-datagram-send",
    "socket-datagram-relative",
    "socket-datagram-symlink",
    "socket-datagram-descriptor",
    "socket-datagram-many",
    "socket-datagram-bound",
];

/// The owner of the files that do not belong to root.
pub const OWNER: u32 = 1234;

impl ServerFiles {
    /// Makes one in a directory, which must not be there yet.
    #[track_caller]
    pub fn make(path: &Path) -> Self {
        let target = path.join("hs-target");
        fs::create_dir_all(target.join("private")).unwrap();
        for (name, text) in [
            ("plain.txt", "plain\n"),
            ("disposable.txt", "disposable\n"),
            ("owned.txt", "owned\n"),
            ("root-only.txt", "root only\n"),
            ("private/key", "a private key\n"),
        ] {
            fs::write(target.join(name), text).unwrap();
        }
        chown(target.join("owned.txt"), Some(OWNER), Some(OWNER)).unwrap();
        mode(&target.join("root-only.txt"), 0o600);
        fs::copy("/bin/busybox", target.join("program")).expect("busybox-static is installed");
        mode(&target.join("program"), 0o4755);
        mknod(&target.join("device"), &["c", "1", "3"]);
        mknod(&target.join("fifo"), &["p"]);
        mode(&target.join("device"), 0o666);
        mode(&target.join("fifo"), 0o666);
        let stream = UnixListener::bind(target.join("stream.sock")).unwrap();
        let datagram = UnixDatagram::bind(target.join("datagram.sock")).unwrap();
        stream.set_nonblocking(true).unwrap();
        datagram.set_nonblocking(true).unwrap();
        mode(&target.join("stream.sock"), 0o777);
        mode(&target.join("datagram.sock"), 0o777);
        let mut options = OpenOptions::new();
        let fifo = options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
        let fifo = fifo.open(target.join("fifo")).unwrap();
        Self { path: path.to_owned(), stream, datagram, fifo }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory that attacks are aimed at.
    pub fn target(&self) -> PathBuf {
        self.path.join("hs-target")
    }

    /// Every entry with its mode, owner, times and a sum of its content, to compare.
    pub fn snapshot(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        let mut waiting = vec![self.path.clone()];
        while let Some(dir) = waiting.pop() {
            for entry in fs::read_dir(&dir).unwrap().flatten() {
                let path = entry.path();
                let m = fs::symlink_metadata(&path).unwrap();
                let content = if m.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
                let content = content
                    .iter()
                    .fold(0_u64, |sum, byte| sum.rotate_left(5).wrapping_add(u64::from(*byte)));
                let times = (m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec());
                let text = format!("{:o} {}:{} {content} {times:?}", m.mode(), m.uid(), m.gid());
                if m.is_dir() {
                    waiting.push(path.clone());
                }
                found.insert(path, text);
            }
        }
        found
    }

    /// Has the attacker in a portspace try all that `arguments` say, and looks at the files where they
    /// really are. Fails the test where something was possible that the kernel does not leave so, and
    /// that is not in `possible`; or where something could not be tried that is not in `untried`.
    #[track_caller]
    pub fn attack(
        &self,
        (host, portspace): (&TestHost, &str),
        arguments: &[&str],
        possible: &[&str],
        untried: &[&str],
    ) {
        let before = self.snapshot();
        let lines = host.attack(portspace, arguments);
        let has_guard = !goes_without("unix-guard");
        let more = if has_guard { &[] } else { WITHOUT_UNIX_GUARD };
        expect_refused(&lines, &[RESIDUAL, more, possible].concat(), untried);
        assert_eq!(self.snapshot(), before, "{arguments:?}: the server's files are as they were");
        let mut reached = self.reached();
        reached.retain(|what| has_guard || *what != "datagram socket");
        assert_eq!(reached, [""; 0], "{arguments:?}: nothing reached the server");
    }

    /// What reached the sockets and the pipe since the last call.
    pub fn reached(&self) -> Vec<&'static str> {
        use std::io::Read;
        let mut reached = Vec::new();
        if self.stream.accept().is_ok() {
            reached.push("stream socket");
        }
        if self.datagram.recv(&mut [0; 64]).is_ok() {
            reached.push("datagram socket");
        }
        if (&self.fifo).read(&mut [0; 64]).is_ok_and(|got| got > 0) {
            reached.push("pipe");
        }
        reached
    }
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[track_caller]
fn mknod(path: &Path, kind: &[&str]) {
    run(Command::new("mknod").arg(path).args(kind), b"", Duration::from_secs(5)).expect(0);
}
