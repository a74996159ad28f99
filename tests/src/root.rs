//! Root file systems for portspaces: busybox, and the attacker with the libraries that it needs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::{program, run};

/// A directory that holds a root file system.
#[derive(Clone, Debug)]
pub struct Root {
    path: PathBuf,
}

impl Root {
    /// Makes one in a directory, which must not be there yet.
    #[track_caller]
    pub fn make(path: &Path) -> Self {
        for dir in ["bin", "etc", "tmp", "root", "proc", "sys", "dev", "run", "var/lib", "var/log"]
        {
            fs::create_dir_all(path.join(dir)).unwrap();
        }
        symlink("bin", path.join("sbin")).unwrap();
        fs::copy("/bin/busybox", path.join("bin/busybox")).expect("busybox-static is installed");
        let names = run(Command::new("/bin/busybox").arg("--list"), b"", Duration::from_secs(5));
        for name in names.text().lines().filter(|name| *name != "busybox") {
            symlink("busybox", path.join("bin").join(name)).unwrap();
        }
        fs::write(path.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/:\n")
            .unwrap();
        fs::write(path.join("etc/group"), "root:x:0:\nuser:x:1000:\n").unwrap();
        fs::write(path.join("etc/test-root"), "made of busybox\n").unwrap();
        Self { path: path.to_owned() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts the attacker into it, at `/bin/attacker`.
    #[track_caller]
    pub fn with_attacker(self) -> Self {
        self.add(&program("attacker"), "/bin/attacker");
        self
    }

    /// Puts a program into it, with the libraries that it needs.
    #[track_caller]
    pub fn add(&self, from: &Path, to: &str) {
        copy(from, &self.path.join(to.trim_start_matches('/')));
        let listed = run(Command::new("ldd").arg(from), b"", Duration::from_secs(5));
        let words = listed.stdout.split_ascii_whitespace();
        for library in words.filter(|word| word.starts_with('/')) {
            copy(Path::new(library), &self.path.join(library.trim_start_matches('/')));
        }
    }
}

#[track_caller]
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::copy(from, to)
        .unwrap_or_else(|error| panic!("{} to {}: {error}", from.display(), to.display()));
}
